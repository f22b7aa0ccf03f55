"""``ganvas compare``: models on one page, with scores, curves, and images of the same captions and noise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.gallery import MAX_IMAGES
from ganvas.models import place_of
from ganvas.pipeline import Model, load
from ganvas.scores.learning_curves import curves, read_log
from ganvas.scores.model_facts import model_facts
from ganvas.scores.page.content import Between, Captioned, Comparison, ScoreRow, Variation
from ganvas.scores.page.layout import write_page
from ganvas.scores.score_table import Given, Scored, own_files, read_scored, score_rows
from ganvas.scores.word_swaps import Swap, find_swaps
from ganvas.sheets import Picture, cannot_write
from ganvas.text.tokenizer import check_caption

MAX_MODELS = 16
_log = logging.getLogger(__name__)
_SHOWN_SPLITS = ("test", "val", "train")  # captions that no model was trained on come first


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How much the page shows.

    Attributes:
        num_captions: taken from the data where the user gives none.
        num_noises: images of every caption.
        num_variations: captions of which one word is changed, where the user names none.
        num_others: words in its place.
        num_betweens: pairs of captions that are blended.
        num_steps: images from one caption to the other.
        num_noises_in_rows: rows of images of a variation, and of a pair.
    """

    num_captions: int = 8
    num_noises: int = 4
    num_variations: int = 4
    num_others: int = 3
    num_betweens: int = 4
    num_steps: int = 6
    num_noises_in_rows: int = 2


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Which images every model generates."""

    captions: Sequence[str]
    reals: Sequence[Picture | None]
    swaps: Sequence[Swap]
    pairs: Sequence[tuple[str, str]]
    layout: Layout
    seed: int

    @property
    def num_images(self) -> int:
        """Of one model."""
        rows = sum(1 + len(swap.others) for swap in self.swaps) + len(self.pairs) * self.layout.num_steps
        return len(self.captions) * self.layout.num_noises + rows * self.layout.num_noises_in_rows


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What one model generated."""

    captioned: Sequence[Sequence[Image.Image]]
    variations: Sequence[Sequence[Sequence[Image.Image]]]
    betweens: Sequence[Sequence[Sequence[Image.Image]]]


def compare(
    models: Sequence[Path],
    out: Path,
    *,
    data: Path | None = None,
    captions: Sequence[str] | None = None,
    scores: Sequence[Path] = (),
    vary: Sequence[Swap] = (),
    seed: int = 0,
    layout: Layout | None = None,
    device: str = "auto",
) -> Path:
    """Write one HTML page, which needs no other file, on which models are compared.

    The same models, data and files give the same page.

    Args:
        models: run or model folders, or models that ship; one is enough.
        out: the page, ending in ``.html``; its folder is made.
        data: a prepared data set, from whose test split captions and real images are taken.
        captions: shown instead of those of the data.
        scores: files written by ``ganvas score``, besides those that lie in the runs (``scores.json``,
            ``scores-*.json``, ``scores/*.json``). The name in a file says whose scores they are; those of
            real images stand in a column of their own.
        vary: captions with a word and others for its place; by default found in the data.
        seed: of the noise.
        layout: how much is shown.
        device: where images are generated.

    Returns:
        ``out``.

    Raises:
        GanvasError: a model or a file of scores cannot be opened or belongs to no model shown, there is no
            caption, or the page would be too large.
        RunStopped: the disk is full.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise GanvasError(f"{out}: the page is written as HTML; end the name in .html")
    models = [place_of(path) for path in models]
    names = model_names(models)
    plan = _plan(data, captions, vary, seed, layout or Layout())
    if plan.num_images * len(models) > MAX_IMAGES:
        raise GanvasError(
            f"compare: {plan.num_images * len(models):,} images are more than the {MAX_IMAGES:,} that a page"
            " takes; give fewer models, captions or noises"
        )
    logs = [read_log(_run(path)) for path in models]
    opened = [_open(path, device) for path in models]
    rows, with_real = _scores(models, names, opened, scores)
    drawn = [_draw(model, plan) for model in opened]
    shown = Comparison(
        models=names,
        about=_about(data, plan),
        facts=model_facts(opened),
        scores=rows,
        real_scores=with_real,
        captioned=[
            Captioned(caption=caption, real=real, images=[each.captioned[index] for each in drawn])
            for index, (caption, real) in enumerate(zip(plan.captions, plan.reals, strict=True))
        ],
        variations=[
            Variation(
                columns=(swap.word, *swap.others),
                images=[each.variations[index] for each in drawn],
                before=swap.before,
                after=swap.after,
            )
            for index, swap in enumerate(plan.swaps)
        ],
        betweens=[
            Between(
                columns=_shares(plan.layout.num_steps),
                images=[each.betweens[index] for each in drawn],
                first=first,
                second=second,
            )
            for index, (first, second) in enumerate(plan.pairs)
        ],
        curves=curves(logs),
        without_log=[name for name, log in zip(names, logs, strict=True) if not log],
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out.parent, error) from None
    title, lead = _title(names)
    return write_page(out, shown, title=title, lead=lead)


def model_names(models: Sequence[Path]) -> list[str]:
    """A short name for each model: the end of its folder's path, as far as it takes to tell them apart.

    Raises:
        GanvasError: there is none, one is given twice, or there are too many.
    """
    if not models:
        raise GanvasError("compare: give at least one run or model folder")
    if len(models) > MAX_MODELS:
        raise GanvasError(f"compare: {len(models)} models; a page takes at most {MAX_MODELS}")
    parts = [_run(path).resolve().parts for path in models]
    for index, path in enumerate(models):
        if parts[index] in parts[:index]:
            raise GanvasError(f"{path}: this model is given twice")
    names = []
    for own in parts:
        length = 1
        while sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _run(path: Path) -> Path:
    """The run that a model folder lies in, or the folder itself."""
    inside = path.name == "model" and not (path / "model").exists() and (path.parent / "run.json").is_file()
    return path.parent if inside else path


def _open(path: Path, device: str) -> Model:
    model = load(path, device=device)
    if not model.system.generates:
        raise GanvasError(f"{path}: is a model of system {model.recipe.system}, which generates no images")
    return model


def _plan(
    data: Path | None, captions: Sequence[str] | None, vary: Sequence[Swap], seed: int, layout: Layout
) -> _Plan:
    store = None if data is None else Store(data)
    reals: list[Picture | None]
    if captions:
        shown = list(dict.fromkeys(captions))
        reals = [None] * len(shown)
    elif store is not None:
        own = dict(_from_store(store, layout.num_captions))
        shown, reals = list(own), [store.images.square(row) for row in own.values()]
    elif vary:
        shown = list(dict.fromkeys(swap.caption for swap in vary))
        reals = [None] * len(shown)
    else:
        raise GanvasError("compare: no captions; give some, or a prepared data set with --data")
    among = shown if store is None else (caption for row in store.captions for caption in row)
    swaps = vary or find_swaps(shown, among, num=layout.num_variations, others=layout.num_others)
    for caption in (*shown, *(text for swap in swaps for text in swap.captions())):
        check_caption(caption)
    pairs = list(zip(shown[::2], shown[1::2], strict=False))[: layout.num_betweens]
    if not pairs and swaps:
        first, second, *_ = swaps[0].captions()
        pairs = [(first, second)]
    return _Plan(captions=shown, reals=reals, swaps=list(swaps), pairs=pairs, layout=layout, seed=seed)


def _from_store(store: Store, num: int) -> Iterator[tuple[str, int]]:
    """Captions of a split and their rows, evenly spread over it."""
    split = next(name for name in _SHOWN_SPLITS if store.info.splits.get(name))
    rows = store.rows(split)
    num = min(num, len(rows))
    for row in rows[((np.arange(num) + 0.5) * len(rows) / num).astype(int)].tolist():
        yield store.captions[row][0], row


def _draw(model: Model, plan: _Plan) -> _Drawn:
    layout, rows = plan.layout, plan.layout.num_noises_in_rows
    shown = model.generate(plan.captions, n=layout.num_noises, seed=plan.seed)
    variations = []
    for swap in plan.swaps:
        images = model.generate(swap.captions(), n=rows, seed=plan.seed)
        variations.append([images[noise::rows] for noise in range(rows)])
    betweens = []
    for first, second in plan.pairs:
        images = model.interpolate(first, second, layout.num_steps, rows, plan.seed)
        betweens.append(_chunks(images, layout.num_steps))
    return _Drawn(captioned=_chunks(shown, layout.num_noises), variations=variations, betweens=betweens)


def _chunks(images: Sequence[Image.Image], size: int) -> list[Sequence[Image.Image]]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def _scores(
    models: Sequence[Path], names: Sequence[str], opened: Sequence[Model], files: Sequence[Path]
) -> tuple[list[ScoreRow], bool]:
    """The table of scores, and whether it has a column of real images."""
    columns: list[list[Given]] = [[] for _ in models]
    reals: list[Given] = []
    given: list[tuple[int | None, Scored]] = [
        (number, file) for number, path in enumerate(models) for file in _own_scores(_run(path))
    ]
    given += [(None, read_scored(path)) for path in files]
    seen: set[Path] = set()
    for owner, file in given:
        if (place := file.path.resolve()) in seen:
            continue
        seen.add(place)
        if file.images == "real":
            reals += [Given(score) for score in file.scores]
        elif file.images == "generated":
            number = _owner(file, models, names) if owner is None else owner
            stale = _stale(file, opened[number])
            columns[number] += [Given(score, stale) for score in file.scores]
        elif owner is None:
            raise GanvasError(
                f"{file.path}: holds scores of '{file.images}' images, which no model here made"
            )
    return score_rows(columns, reals), bool(reals)


def _own_scores(run: Path) -> list[Scored]:
    """The scores that lie in a run; other files there are none of the user's business."""
    return [file for path in own_files(run) if (file := _read_or_warn(path)) is not None]


def _read_or_warn(path: Path) -> Scored | None:
    try:
        return read_scored(path)
    except GanvasError as error:
        _log.warning("left out: %s", error)
        return None


def _owner(file: Scored, models: Sequence[Path], names: Sequence[str]) -> int:
    """The number of the model that a file of scores belongs to."""
    place = _run(Path(file.model)).resolve()
    tests = (
        [name == file.model for name in names],
        [place == _run(path).resolve() for path in models],
        [place.name == _run(path).resolve().name for path in models],
    )
    for fits in tests:
        if sum(fits) == 1:
            return fits.index(True)
    raise GanvasError(
        f"{file.path}: its scores belong to '{file.model}', which is not one of the models shown"
        f" ({', '.join(names)}); put the file into the run's folder scores/"
    )


def _stale(file: Scored, model: Model) -> str | None:
    seen = sum(model.trained.values())
    if file.num_trained in (None, seen):
        return None
    return f"trained on {file.num_trained:,} images when it was scored, {seen:,} now"


def _about(data: Path | None, plan: _Plan) -> dict[str, str]:
    facts = {}
    if data is not None:
        info = Store(data).info
        facts["data"] = f"{info.name}, {info.size} px, {info.fingerprint[:8]}"
    return facts | {"captions": f"{len(plan.captions)}", "seed of the noise": f"{plan.seed}"}


def _shares(steps: int) -> list[str]:
    return [f"{100 * step / (steps - 1):.0f} %" for step in range(steps)]


def _title(names: Sequence[str]) -> tuple[str, str]:
    if len(names) == 1:
        return f"{names[0]} at a glance", "What one model scores, how it learned, and what its captions do."
    return (
        f"{len(names)} models, side by side"
        if len(names) > 2
        else f"{names[0]} and {names[1]}, side by side",
        "Every model was given the same captions and the same noise.",
    )
