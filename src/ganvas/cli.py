"""The command line. Thin: every command calls one function elsewhere, and imports it when it is called."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ganvas import __version__
from ganvas.cli_data import data_app
from ganvas.errors import GanvasError
from ganvas.memory import keep_freed_memory

app = typer.Typer(
    name="ganvas",
    help="Text-to-image GANs: train them on captioned pictures, generate with them in one forward pass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

# What typer raises for a wrong command line; older versions have it from click.
_CommandLineError: Any = typer.BadParameter.__mro__[2]
_MAX_CAPTION_BYTES = 10_000_000
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    warnings.filterwarnings("ignore", module=r"(torch|lightning_fabric)\..*")
    keep_freed_memory()
    try:
        status = app(standalone_mode=False) or 0
        if status == _INTERRUPTED:  # newer typer gives back what older typer raises
            raise KeyboardInterrupt
        sys.stdout.flush()
    except GanvasError as error:
        status = _complain(str(error), error.exit_status) if _is_first_process() else 0
    except _CommandLineError as error:
        text = error.format_message()
        if text.startswith("Usage:"):  # no command at all: show what there is
            print(text)
            status = 2
        else:
            status = _complain(f"{text} Try 'ganvas --help'.", 2)
    except typer.Exit as stop:
        status = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = _complain("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # whoever read the output has gone; without this, Python complains of it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        status = _complain(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    sys.exit(status)


def _is_first_process() -> bool:
    """Of several that train together, the first one speaks for all of them."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def _complain(text: str, status: int) -> int:
    print(f"ganvas: {' '.join(text.split())}", file=sys.stderr)
    return status


def _version(asked: bool) -> None:
    if asked:
        print(f"ganvas {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Text-to-image GANs: train them on captioned pictures, generate with them in one forward pass."""


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe whole, with every default.")] = None,
) -> None:
    """List the recipes that ship, or print one."""
    from ganvas.recipe import list_recipes, load_recipe

    if name is not None:
        print(load_recipe(name).to_yaml(), end="")
        return
    found = list_recipes()
    width = max(map(len, found))
    for recipe, about in found.items():
        print(f"{recipe:<{width}}  {about}")


@app.command()
def models(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("runs"),
) -> None:
    """List the models that are here: those that ship, and those of your runs."""
    from ganvas.models.listing import list_models, table

    print(*table(list_models(runs)), sep="\n")


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe that ships (see 'ganvas recipes'), or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as training.batch_size=32.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A prepared data set; made from the recipe if it is embedded.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/RECIPE.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Train a recipe, or go on with its run; Ctrl-C stops cleanly."""
    from ganvas.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    if dry_run:
        print(chosen.to_yaml(), end="")
        return
    from ganvas.systems import find
    from ganvas.training.device import choose_device
    from ganvas.training.loop import train as run_training
    from ganvas.training.run import recipe_store

    choose_device(chosen.training.device)
    run = run_training(chosen, recipe_store(chosen, data), out or Path("runs") / chosen.name)
    if _is_first_process():
        print(f"trained: {run.folder}")
        if find(chosen.system).system.generates:
            caption = ' "a caption"' if chosen.text else ""
            print(f"generate with: ganvas generate {run.folder}{caption}")


@app.command()
def generate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] CAPTION",
            help="What to generate; before it, where it is not the default model, a run, a model folder, or"
            " a name of 'ganvas models'.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model, by its name; then all arguments are captions.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Images for each caption.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the noise: the same seed gives the same images.")] = 0,
    out: Annotated[
        Path, typer.Option(help="A PNG file (several images make one sheet), or a folder for one file each.")
    ] = Path("generated.png"),
    captions_from: Annotated[
        str | None,
        typer.Option(
            "--captions", metavar="FILE", help="Captions from a file, one a line; - is standard input."
        ),
    ] = None,
    style_from: Annotated[Path | None, typer.Option(help="Take the style over from this picture.")] = None,
    show_attention: Annotated[
        bool, typer.Option("--show-attention", help="Show which word drew which region, on one sheet.")
    ] = False,
    show_layout: Annotated[
        bool, typer.Option("--show-layout", help="Show where each word lies (ALR-GAN), on one sheet.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="With --show-layout: where the words lie in this picture as well.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16 (faster, a little different), or auto.")
    ] = "float32",
) -> None:
    """Generate images for captions: ganvas generate "a smiling cat"."""
    from ganvas.models import part_words

    if model is None:
        model, captions = part_words(words or [], more_captions=captions_from is not None)
    else:
        captions = words or []
    texts = [*captions, *(_read_captions(captions_from) if captions_from else [])]
    if not texts and captions_from is None and sys.stdin is not None and not sys.stdin.isatty():
        texts = _read_captions("-")
    if show_attention or show_layout or picture:
        _check_shown(show_attention, show_layout, picture, style_from)
        from ganvas.word_sheets import attention_file, layout_file

        write = attention_file if show_attention else partial(layout_file, picture=picture)
        print(write(model, texts, out, n=n, seed=seed, device=device, precision=precision))
        return
    from ganvas.generate import generate_files

    for path in generate_files(
        model, texts, out, n=n, seed=seed, style_from=style_from, device=device, precision=precision
    ):
        print(path)


def _check_shown(attention: bool, layout: bool, picture: Path | None, style_from: Path | None) -> None:
    """Which options of a sheet of words go together."""
    if attention and layout:
        raise GanvasError("--show-attention, --show-layout: each writes a sheet of its own; give one of them")
    if picture and not layout:
        raise GanvasError("--picture: shows where words lie in a picture; give --show-layout as well")
    if style_from:
        name = "--show-layout" if layout else "--show-attention"
        raise GanvasError(f"{name}: shows images by their noise; leave --style-from out")


def _read_captions(source: str) -> list[str]:
    """One caption a line; empty lines are left out."""
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(_MAX_CAPTION_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                raw = file.read(_MAX_CAPTION_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise GanvasError(f"{source}: captions cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise GanvasError(f"{source}: captions must be UTF-8 text, one a line") from None
    if len(raw) > _MAX_CAPTION_BYTES:
        raise GanvasError(f"{source}: more than {_MAX_CAPTION_BYTES:,} bytes of captions; split the file")
    return [line.strip() for line in text.splitlines() if line.strip()]


@app.command()
def convert(
    release: Annotated[
        str, typer.Argument(help="An official release: attngan, damsm, stackgan, stackgan-v2 or xmcgan.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(help="Its checkpoints, in any order; and captions.pickle for attngan, damsm."),
    ],
    out: Annotated[Path, typer.Option(help="The model folder to make.")],
    text_from: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="MODEL",
            help="Read captions with this model's text encoder (stackgan, stackgan-v2, xmcgan).",
        ),
    ] = None,
) -> None:
    """Turn released weights into a model folder; nothing in the files is run."""
    from ganvas.convert.official import convert_files

    converted = convert_files(release, files, out, text_from)
    if converted.warning:
        print(f"ganvas: {converted.warning}", file=sys.stderr)
    print(out)


@app.command()
def score(
    target: Annotated[
        str,
        typer.Argument(
            help="A run, a model, one that ships, a folder of images with captions, 'real' or 'shuffled'."
        ),
    ],
    data: Annotated[Path, typer.Option(help="The prepared data set.")],
    protocol: Annotated[
        str | None, typer.Option(help="What is measured and how; by default what fits the data.")
    ] = None,
    num: Annotated[
        int | None, typer.Option(help="Images, where they are to be fewer or more than the protocol has.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise and choices.", min=0)] = 0,
    use: Annotated[
        list[str] | None,
        typer.Option(help="Networks that do not ship, such as retriever=runs/retriever.", metavar="KEY=PATH"),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="This score alone, as often as needed.")] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file; by default scores.json in a run.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="A file of earlier scores; refused where protocols differ.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Score a model, a folder of images or the real ones; every number carries its protocol."""
    from ganvas.data.prepare import read_options
    from ganvas.scores.scoring import report
    from ganvas.scores.scoring import score as make_scores

    tools = read_options(use or [], "--use")
    result = make_scores(
        target, data, protocol=protocol, num=num, seed=seed, tools=tools, only=only or (), device=device
    )
    report(result, target, out, against)


@app.command()
def compare(
    models: Annotated[list[Path], typer.Argument(help="Runs, model folders, or models that ship.")],
    data: Annotated[Path | None, typer.Option(help="A prepared data set, for captions.")] = None,
    caption: Annotated[
        list[str] | None, typer.Option(help="To generate, as often as needed; by default from the data.")
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="A file of scores besides those in the runs, as often as needed."),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="A caption, then = and what stands for one word: 'a red apple=red=green,blue'.",
            metavar="CAPTION=WORD=OTHERS",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("comparison.html"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Write one web page: scores, learning curves, and what each model generates for the same captions."""
    from ganvas.scores.compare import compare as make_page
    from ganvas.scores.word_swaps import read_swap

    swaps = [read_swap(*text.partition("=")[::2]) for text in vary or []]
    print(
        make_page(
            models,
            out,
            data=data,
            captions=caption,
            scores=scores or (),
            vary=swaps,
            seed=seed,
            device=device,
        )
    )


@app.command()
def ablate(
    recipes: Annotated[list[str], typer.Argument(help="Recipes, and key=value for all of their variants.")],
    data: Annotated[Path | None, typer.Option(help="The prepared data set.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="This variant alone, as often as needed.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Of the scores.")] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(help="Networks that do not ship, such as retriever=runs/retriever.", metavar="KEY=PATH"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder; by default runs/ablation-RECIPE.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="The recipes without their variants.")] = False,
    images: Annotated[
        int | None, typer.Option(help="To generate in training, the same for all; by default each recipe's.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Of training, the same for all, instead of --images.")
    ] = None,
    points: Annotated[int, typer.Option(help="With a budget: times a run is scored on its way.")] = 1,
    encoders: Annotated[
        list[Path] | None,
        typer.Option(help="With a budget: a run whose trained encoders are taken over, as often as needed."),
    ] = None,
) -> None:
    """Train and score the variants that recipes list, and write a table; goes on where it stopped."""
    from ganvas.data.prepare import read_options
    from ganvas.scores.ablation import ablate as make_table
    from ganvas.scores.budget import Budget

    sources = [word for word in recipes if "=" not in word]
    overrides = [word for word in recipes if "=" in word]
    if not sources:
        raise GanvasError("no recipe given; 'ganvas recipes' lists them")
    folder = out or Path("runs") / f"ablation-{'-'.join(Path(source).stem for source in sources)}"
    tools = read_options(use or [], "--use")
    if images is None and seconds is None:
        if points != 1 or encoders:
            raise GanvasError("--points, --encoders: belong to a budget; give it with --images or --seconds")
        budget = None
    else:
        budget = Budget(
            images=images or 0, seconds=seconds or 0, points=points, encoders=tuple(encoders or ())
        )
    table = make_table(
        sources,
        folder,
        data=data,
        overrides=overrides,
        only=only or (),
        protocol=protocol,
        tools=tools,
        whole=whole,
        budget=budget,
    )
    print(table.read_text(encoding="utf-8"))
    print(table)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run and gallery.")] = Path("demo"),
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for the recipe.")] = None,
) -> None:
    """Prepare the emoji set, train a small model on it, and show what it generates for unseen captions."""
    from ganvas.demo import run_demo

    run_demo(out, overrides or [])


if __name__ == "__main__":
    main()
