"""``ganvas data``: the commands that prepare data sets and look at them. Thin, as ``ganvas.cli`` is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(
    help="Prepare data sets, and look at them.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.command("prepare")
def data_prepare(
    name: Annotated[
        str,
        typer.Argument(
            help="emoji, folder, cub, oxford102, coco, narratives, webdataset or huggingface.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None, typer.Argument(help="Where it lies: a folder, a file or an address. emoji has none.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the prepared images, pixels.")] = 64,
    out: Annotated[Path | None, typer.Option(help="The folder to make; by default data/NAME-SIZE.")] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="shorter: the middle square; square: squeezed; bbox: the square around the object's bounding"
            " box; whole: the longer side is kept, for random crops.",
            metavar="[shorter|square|bbox|whole]",
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="Prepare as a paper does.", metavar="[reed|stackgan|attngan|xmcgan]"),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of emoji captions, such as zh; English by default.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value for this data set, as often as needed.", metavar="KEY=VALUE"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Images done at once; by default one for each core.")
    ] = None,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Go on where most images cannot be used.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Prepare again, over another data set.")] = False,
) -> None:
    """Prepare a data set for training; what was interrupted goes on where it stopped."""
    from ganvas.data.prepare import prepare, read_options, read_resize

    options = read_options([*(option or []), *([f"language={language}"] if language else [])])
    parts = [name, str(size), *([like] if like else []), *([language] if language else [])]
    folder = out or Path("data") / "-".join(parts)
    if name == "webdataset" and options.get("stream", "no") != "no":
        from ganvas.data.indexing import index_as_asked

        index_as_asked(source, folder, options, size=size, fit=read_resize(resize), like=like, force=force)
        print(folder)
        return
    prepare(
        name,
        folder,
        place=source,
        size=size,
        fit=read_resize(resize),
        like=like,
        workers=workers,
        options=options,
        allow_rejects=allow_rejects,
        force=force,
    )
    print(folder)


@data_app.command("show")
def data_show(
    folder: Annotated[Path, typer.Argument(help="A prepared data set.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("contact-sheet.png"),
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    count: Annotated[int, typer.Option(help="Images on the sheet.")] = 40,
    seed: Annotated[int, typer.Option(help="Which images.", min=0)] = 0,
) -> None:
    """Write a contact sheet of a prepared data set, with captions."""
    from ganvas.data.show import look_into, show

    print(show(look_into(folder).store, out, split=split, count=count, seed=seed))


@data_app.command("inspect")
def data_inspect(
    folder: Annotated[Path, typer.Argument(help="A prepared data set.", metavar="DIR")],
) -> None:
    """Print counts, vocabulary, caption lengths and splits of a prepared data set."""
    from rich.console import Console

    from ganvas.data.show import inspect, look_into

    found = look_into(folder)
    Console().print(*found.remarks, inspect(found.store), sep="\n")
