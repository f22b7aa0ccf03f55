"""Data sets of the ``datasets`` library with an image and a text column, from disk or from the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ganvas.data.huggingface_places import Opened, library, open_place
from ganvas.data.pixels import Fit
from ganvas.data.rows import python_values
from ganvas.data.source import LeftOut, PhotoSource, Rejected, Request, chosen_options
from ganvas.data.splits import SHARES, SPLIT_NAMES, hash_rule, with_training
from ganvas.data.store import Record
from ganvas.errors import GanvasError

if TYPE_CHECKING:
    from datasets import Dataset, Features

TEXT_COLUMNS = ("text", "caption", "captions")
LABEL_COLUMNS = ("label", "class")
_BATCH = 1000
_CHOICES = ("config", "revision", "split", "image", "text", "label")


@dataclass(frozen=True)
class _Columns:
    image: str
    text: str
    label: str | None
    class_names: tuple[str, ...] | None
    """What the numbers of the label mean, where the data set says."""


class HuggingFaceSource(PhotoSource):
    """A data set of the ``datasets`` library: a folder that ``save_to_disk`` wrote, Parquet files, or a name.

    What lies on disk goes before the hub. The image column is the only one of type ``Image``; the text column
    is called ``text``, ``caption`` or ``captions``, or is the only one that holds strings, or lists of them.

    Splits are the data set's own; where it has only one, ``hash_rule`` splits it by the number of the row.

    Its options are ``image``, ``text`` and ``label``, columns; ``split``, to read this one alone; ``config``
    and ``revision``, of data sets on the hub; ``val`` and ``test``, percent.

    No code of a data set is run. Rows stay on disk, memory-mapped, until they are asked for.

    Raises:
        GanvasError: the library is missing, the data set cannot be had, or has no such columns.
    """

    name = "huggingface"

    def __init__(self, request: Request) -> None:
        self.options = chosen_options(self.name, request.options, {**dict.fromkeys(_CHOICES, ""), **SHARES})
        hash_rule(self.options, self.name)
        self.fit = request.fit or Fit()
        if request.place is None:
            raise GanvasError(
                "data set 'huggingface': say which: ganvas data prepare huggingface FOLDER (or USER/NAME)"
            )
        opened = open_place(request.place, self.options["config"], self.options["revision"])
        self._splits, self._left_out = _chosen_splits(opened, self.options["split"], request.place)
        self._columns = _columns(self._splits, self.options, request.place)
        self._images = {
            split: rows.select_columns(self._columns.image).with_format("arrow")
            for split, rows in self._splits.items()
        }
        self._inside = opened.inside
        self.root = opened.inside[0]
        self.about, self.licence = opened.about, opened.licence

    def records(self) -> Iterable[Record | LeftOut]:
        """Every row, in the order of the data set."""
        return _Records(self._splits, self._columns, self._left_out, self._split_rule())

    def encoded(self, record: Record) -> bytes:
        """The bytes of the image, from its row or from the file that the row names."""
        assert isinstance(record.image, str)
        split, _, index = record.image.rpartition(":")
        (value,) = python_values(self._images[split][int(index)][self._columns.image])
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(content, bytes):
            return content
        if isinstance(path, str):
            return self._file(path)
        raise Rejected("has no image in its row")

    def _file(self, name: str) -> bytes:
        """The bytes of a file of the data set.

        Raises:
            Rejected: it lies elsewhere, or cannot be read.
        """
        try:
            path = (self.root / name).resolve()
            if not any(path.is_relative_to(folder) for folder in self._inside):
                raise Rejected("its row names an image file outside of the data set")
            return path.read_bytes()
        except (OSError, ValueError):
            raise Rejected("its row names an image file that cannot be read") from None

    def _split_rule(self) -> Callable[[str, int], str]:
        """The split of a row of a data set's split."""
        if len(self._splits) > 1:
            return lambda split, _: SPLIT_NAMES[split.lower()]
        (rows,) = map(len, self._splits.values())
        rule = with_training(hash_rule(self.options, self.name), map(_key, range(rows)))
        return lambda _, index: rule(_key(index))


@dataclass(frozen=True)
class _Records(Iterable[Record | LeftOut]):
    """Made one after the other, and their number is known."""

    splits: Mapping[str, Dataset]
    columns: _Columns
    left_out: tuple[LeftOut, ...]
    split_of: Callable[[str, int], str]

    def __len__(self) -> int:
        return len(self.left_out) + sum(map(len, self.splits.values()))

    def __iter__(self) -> Iterator[Record | LeftOut]:
        yield from self.left_out
        for split, dataset in self.splits.items():
            wanted = [column for column in (self.columns.text, self.columns.label) if column]
            index = 0
            for batch in dataset.select_columns(wanted).with_format("arrow").iter(_BATCH):
                texts, *labels = (python_values(batch[column]) for column in wanted)
                for text, label in zip(texts, labels[0] if labels else repeat(None), strict=False):
                    yield self._record(split, index, text, label)
                    index += 1

    def _record(self, split: str, index: int, text: object, label: object) -> Record | LeftOut:
        identity = _key(index) if len(self.splits) == 1 else f"{split}/{_key(index)}"
        values = text if isinstance(text, list) else [text]
        captions = tuple(caption for caption in values if isinstance(caption, str))
        if any(not isinstance(caption, str | None) for caption in values):
            return LeftOut(identity, "its text is not UTF-8")
        return Record(
            id=identity,
            split=self.split_of(split, index),
            captions=captions,
            label=_label(label, self.columns.class_names),
            image=f"{split}:{index}",
        )


def _key(index: int) -> str:
    return f"{index:08d}"


def _label(value: object, names: tuple[str, ...] | None) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    if names is None or isinstance(value, str):
        return str(value)
    return names[value] if 0 <= value < len(names) else None  # -1 is what it has where nothing is known


def _chosen_splits(opened: Opened, chosen: str, place: str) -> tuple[dict[str, Dataset], tuple[LeftOut, ...]]:
    """The splits that are read; several have names that a store knows."""
    splits = opened.splits
    if chosen:
        if chosen not in splits:
            raise GanvasError(f"{place}: no split '{chosen}'; it has: {', '.join(splits)}")
        return {chosen: splits[chosen]}, opened.left_out
    known = {name: rows for name, rows in splits.items() if name.lower() in SPLIT_NAMES}
    if len(splits) == 1 or not known:
        if len(splits) > 1:
            raise GanvasError(
                f"{place}: none of its splits is train, validation or test; choose one with the option"
                f" split=NAME: {', '.join(splits)}"
            )
        return dict(splits), opened.left_out
    others = tuple(
        LeftOut(name, f"a split of {len(rows):,} images that is not train, validation or test")
        for name, rows in splits.items()
        if name not in known
    )
    return known, (*opened.left_out, *others)


def _columns(splits: Mapping[str, Dataset], options: Mapping[str, str], place: str) -> _Columns:
    """The columns to read, by what the data set says of their types."""
    datasets = library()
    features = next(iter(splits.values())).features
    image = _image_column(features, options["image"], place)
    text = _text_column(features, options["text"], place)
    label = options["label"]
    if not label:
        classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        named = [name for name in LABEL_COLUMNS if name in features and name != text]
        label = next(iter([*named, *(classes if len(classes) == 1 else [])]), "")
    elif label not in features:
        raise GanvasError(f"{place}: no column '{label}'; {_described(features)}")
    for split, rows in splits.items():
        for column in filter(None, (image, text, label)):
            if column not in rows.features:
                raise GanvasError(f"{place}: split '{split}' has no column '{column}'")
    kind = features.get(label)
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) and kind.names else None
    return _Columns(image, text, label or None, names)


def _image_column(features: Features, chosen: str, place: str) -> str:
    """The column chosen, or the only one of images; of bytes, where none has that type."""
    if chosen and chosen not in features:
        raise GanvasError(f"{place}: no column '{chosen}'; {_described(features)}")
    images = [name for name, kind in features.items() if isinstance(kind, library().Image)]
    encoded = [name for name, kind in features.items() if _is_encoded(kind)]
    if chosen:
        if chosen not in [*images, *encoded]:
            raise GanvasError(f"{place}: column '{chosen}' holds no images; {_described(features)}")
        return chosen
    found: list[str] = images or encoded
    if len(found) != 1:
        what = f"several columns of images ({', '.join(found)})" if found else "no column of images"
        raise GanvasError(f"{place}: {what}; choose one with the option image=COLUMN; {_described(features)}")
    return found[0]


def _text_column(features: Features, chosen: str, place: str) -> str:
    """The column chosen, or the one with a known name, or the only one of strings."""
    if chosen and chosen not in features:
        raise GanvasError(f"{place}: no column '{chosen}'; {_described(features)}")
    texts = [name for name, kind in features.items() if _is_text(kind)]
    if chosen:
        if chosen not in texts:
            raise GanvasError(f"{place}: column '{chosen}' holds no text; {_described(features)}")
        return chosen
    found: list[str] = [name for name in TEXT_COLUMNS if name in texts][:1] or texts
    if len(found) != 1:
        what = "several columns of text" if found else "no column of text"
        raise GanvasError(f"{place}: {what}; choose one with the option text=COLUMN; {_described(features)}")
    return found[0]


def _is_text(kind: Any) -> bool:
    """Whether a feature is a string, or a list of strings in one of the ways that the library writes it."""
    inner = kind[0] if isinstance(kind, list) and kind else getattr(kind, "feature", kind)
    return isinstance(inner, library().Value) and inner.dtype in ("string", "large_string", "string_view")


def _is_encoded(kind: Any) -> bool:
    """Whether a feature is bytes, or a structure with bytes, as image columns look that nobody declared."""
    inner = kind.get("bytes") if isinstance(kind, dict) else kind
    return isinstance(inner, library().Value) and inner.dtype in ("binary", "large_binary", "binary_view")


def _described(features: Features) -> str:
    columns = [f"{name} ({getattr(kind, 'dtype', type(kind).__name__)})" for name, kind in features.items()]
    return f"its columns are: {', '.join(columns[:20])}{', ...' if len(columns) > 20 else ''}"
