"""What CUB and Oxford-102 share: Reed's captions and class lists, and the pickles of AttnGAN.

Reed et al. (CVPR 2016) collected ten captions of each image, ``text_c10/CLASS/IMAGE.txt`` with one a line,
and split the classes (``trainvalclasses.txt``, ``testclasses.txt``). StackGAN and AttnGAN keep the order of
the images of each split in ``train/filenames.pickle`` and ``test/filenames.pickle``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ganvas.data.caption_vectors import VECTORS
from ganvas.data.listing import Listing, printable, walk
from ganvas.data.pickles import load_pickle
from ganvas.data.source import LeftOut, Rejected, listing_digest
from ganvas.errors import GanvasError
from ganvas.text.settings import MAX_CAPTION_CHARACTERS

TEXT_FOLDERS = ("text_c10", "text")
"""What the folder of the caption files is called, by Reed and by AttnGAN."""
CAPTION_PICKLES = ("captions.pickle", "captions_DAMSM.pickle")
"""What AttnGAN and DF-GAN call the pickle of the captions as word indices."""
MAX_LIST_BYTES = 1 << 25
"""A text file of names or numbers with more is refused."""

_MAX_CAPTION_FILE_BYTES = 1 << 20
_MAX_CAPTIONS_PICKLE_BYTES = 1 << 28


class Captions(Protocol):
    """Where the captions of a data set come from."""

    about: str
    """In words, for ``Source.about``."""

    def of(self, image: str) -> tuple[str, ...]:
        """The captions of an image; none if it has none.

        Raises:
            Rejected: they cannot be read.
        """

    def unused(self, images: Iterable[str]) -> Iterator[LeftOut]:
        """Captions of none of these images."""

    def digest(self) -> str:
        """Characters that change with the captions."""

    def beside(self) -> tuple[Path, ...]:
        """Folders in which lists of classes may lie."""


class CaptionFiles:
    """A text file for each image, with a caption in each line.

    Args:
        folder: that of the folders of the classes.
        class_folder: a regular expression of what these are called; the others are of no interest.
    """

    about = "text files"

    def __init__(self, folder: Path, class_folder: str) -> None:
        self.folder = folder
        within = re.compile(f"{class_folder}/")
        listing = walk(folder)
        self._left_out = below(folder.name, listing, class_folder)
        self._texts = {image: path for image, path in listing.texts.items() if within.match(image)}

    def of(self, image: str) -> tuple[str, ...]:
        """The lines of its file; what is no UTF-8 in them is a space, as in AttnGAN."""
        if image not in self._texts:
            return ()
        text = read_text(self.folder / self._texts[image], _MAX_CAPTION_FILE_BYTES)
        text = re.sub("\ufffd+", " ", text).rstrip()
        # an empty line counts: the vectors of the captions are numbered by lines
        return tuple(line.strip() for line in text.split("\n")) if text else ()

    def unused(self, images: Iterable[str]) -> Iterator[LeftOut]:
        """Caption files without an image, and what of the folder cannot be read."""
        yield from self._left_out
        known = set(images)
        for image, path in self._texts.items():
            if image not in known:
                yield LeftOut(f"{self.folder.name}/{path}", "is a caption file without an image")

    def digest(self) -> str:
        """Of every file's name and content."""
        paths = self._texts.values()
        return listing_digest(self.folder, paths, [self.folder / path for path in paths])

    def beside(self) -> tuple[Path, ...]:
        """The folder of the files, and the one above."""
        return self.folder, self.folder.parent


class PickledCaptions:
    """AttnGAN's captions: word indices, in a pickle of both splits and the vocabulary.

    Args:
        path: of ``[train captions, test captions, index to word, word to index]``. Caption k of the i-th
            image of a split is number i * n + k, where n is the number of captions of each image.
        names: the images of each split, in order.

    Raises:
        GanvasError: it is something else.
    """

    def __init__(self, path: Path, names: Mapping[str, Sequence[str]]) -> None:
        self.path = path
        self.about = path.name
        train, test, self._words, indices = _caption_pickle(path)
        self.vocabulary = _checked_vocabulary(path, self._words, indices)
        self._captions: dict[str, list[Any]] = {}
        for split, captions in (("train", train), ("test", test)):
            images = names[split]
            each, rest = divmod(len(captions), max(len(images), 1))
            if rest:
                raise GanvasError(
                    f"{path}: {len(captions):,} captions for the {len(images):,} images of"
                    f" {split}/filenames.pickle; every image must have as many as the others"
                )
            self._captions |= {image: captions[i * each : (i + 1) * each] for i, image in enumerate(images)}

    def of(self, image: str) -> tuple[str, ...]:
        """The words of its captions, joined by spaces."""
        return tuple(map(self._text, self._captions.get(image, ())))

    def _text(self, caption: object) -> str:
        if not isinstance(caption, list) or not all(type(i) is int and i in self._words for i in caption):
            raise Rejected(f"its captions in {self.path.name} are no indices of words")
        if sum(1 + len(self._words[i]) for i in caption) > MAX_CAPTION_CHARACTERS:
            raise Rejected(f"its captions in {self.path.name} are too long")
        return " ".join(self._words[i] for i in caption if i)  # 0 fills short captions

    def unused(self, images: Iterable[str]) -> Iterator[LeftOut]:
        """Images that only the pickles know."""
        known = set(images)
        for image in self._captions:
            if image not in known:
                yield LeftOut(
                    printable(image), f"has captions in {self.path.name}, but is not in the data set"
                )

    def digest(self) -> str:
        """Of the pickle."""
        return listing_digest(self.path.parent, [self.path.name], [self.path])

    def beside(self) -> tuple[Path, ...]:
        """The folder of the pickle."""
        return (self.path.parent,)


def released_vocabulary(path: Path) -> dict[str, int]:
    """Word to index, of AttnGAN's ``captions.pickle``.

    Raises:
        GanvasError: it is something else.
    """
    _, _, words, indices = _caption_pickle(path)
    return _checked_vocabulary(path, words, indices)


def _caption_pickle(path: Path) -> list[Any]:
    """Its four parts."""
    content = load_pickle(path, _MAX_CAPTIONS_PICKLE_BYTES)
    if isinstance(content, list | tuple) and [type(part) for part in content] == [list, list, dict, dict]:
        return list(content)
    raise GanvasError(f"{path}: is not [train captions, test captions, index to word, word to index]")


def _checked_vocabulary(path: Path, words: dict[Any, Any], indices: dict[Any, Any]) -> dict[str, int]:
    """Word to index, in the order of the indices."""
    if not all(type(index) is int and type(word) is str for index, word in words.items()):
        raise GanvasError(f"{path}: its vocabulary is not from indices to words")
    vocabulary = {word: index for index, word in sorted(words.items())}
    if vocabulary != indices or sorted(words) != list(range(len(words))):
        raise GanvasError(f"{path}: its two vocabularies, index to word and word to index, do not agree")
    return vocabulary


def below(folder: str, listing: Listing, within: str = "") -> list[LeftOut]:
    """What of a folder cannot be read, by its path from the folder above.

    Args:
        folder: its name.
        listing: what is in it.
        within: a regular expression of the sub-folders that are of interest.
    """
    return [
        LeftOut(f"{folder}/{each.id}", each.reason) for each in listing.left_out if re.match(within, each.id)
    ]


def read_text(path: Path, max_bytes: int = MAX_LIST_BYTES) -> str:
    """A text file; what is no UTF-8 in it becomes U+FFFD.

    Raises:
        Rejected: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise Rejected(f"{path.name} cannot be read ({error.strerror})") from None
    if len(content) > max_bytes:
        raise Rejected(f"{path.name} has more than {max_bytes:,} bytes")
    return content.decode("utf-8-sig", "replace").replace("\r\n", "\n")


def read_list(path: Path) -> list[str]:
    """The lines of a file that the whole data set needs.

    Raises:
        GanvasError: it cannot be read, or is too large.
    """
    try:
        return read_text(path).split("\n")
    except Rejected as reason:
        raise GanvasError(f"{path.parent}: {reason}") from None


def find_captions(
    option: str, folders: Sequence[Path], class_folder: str, key: Callable[[str], str] = str
) -> Captions | None:
    """The captions of a data set; a pickle comes before text files, since it alone has the word indices.

    Args:
        option: where the user says that they are; empty to look for them.
        folders: where to look.
        class_folder: a regular expression of what the folders of classes are called.
        key: see ``read_names``.

    Raises:
        GanvasError: the place that the user gave has none, or a pickle is not what it should be.
    """
    places = [Path(option).expanduser()] if option else folders
    for place in places:
        pickles = [place, *(place / name for name in CAPTION_PICKLES)]
        if path := next((path for path in pickles if path.suffix == ".pickle" and path.is_file()), None):
            if (names := read_names(path.parent, key)) is None:
                raise GanvasError(
                    f"{path}: its captions are numbered as train/filenames.pickle and test/filenames.pickle"
                    " beside it say, and these are missing"
                )
            return PickledCaptions(path, names)
    for place in places:
        for folder in (*(place / name for name in TEXT_FOLDERS), place):
            if _has_folder(folder, class_folder):
                return CaptionFiles(folder, class_folder)
    if option:
        raise GanvasError(
            f"option captions={option}: no captions.pickle and no folder of caption files there"
        )
    return None


def _has_folder(folder: Path, name: str) -> bool:
    try:
        return any(re.fullmatch(name, entry.name) and entry.is_dir() for entry in folder.iterdir())
    except OSError:
        return False


def read_names(folder: Path, key: Callable[[str], str] = str) -> dict[str, list[str]] | None:
    """The images of ``train/`` and ``test/filenames.pickle``, in order; None if these are missing.

    Args:
        folder: that of ``train`` and ``test``.
        key: makes the id of an image of its name.

    Raises:
        GanvasError: they are no lists of names.
    """
    paths = {split: folder / split / "filenames.pickle" for split in ("train", "test")}
    if not all(path.is_file() for path in paths.values()):
        return None
    names: dict[str, list[str]] = {}
    for split, path in paths.items():
        content = load_pickle(path)
        if not (isinstance(content, list) and all(type(name) is str for name in content)):
            raise GanvasError(f"{path}: is not a list of names")
        names[split] = [key(name) for name in content]
    if len({*names["train"], *names["test"]}) < len(names["train"]) + len(names["test"]):
        raise GanvasError(
            f"{folder}: an image is named twice in train/filenames.pickle and test/filenames.pickle"
        )
    return names


@dataclass(frozen=True)
class ClassLists:
    """Which classes are for training and which for testing."""

    train: frozenset[str] | None
    """None where all that are not for testing are for training."""
    test: frozenset[str]
    about: str
    """Which lists these are, in words."""

    def split(self, name: str) -> str:
        """The split of a class.

        Raises:
            Rejected: it is in neither list.
        """
        if name in self.test:
            return "test"
        if self.train is None or name in self.train:
            return "train"
        raise Rejected("its class is in neither list of classes")


def read_class_lists(folders: Iterable[Path]) -> ClassLists | None:
    """The classes of ``trainvalclasses.txt`` and ``testclasses.txt``; None if no folder has them.

    Raises:
        GanvasError: a class is in both.
    """
    for folder in folders:
        test, whole = folder / "testclasses.txt", folder / "trainvalclasses.txt"
        train = [whole] if whole.is_file() else [folder / "trainclasses.txt", folder / "valclasses.txt"]
        if not all(path.is_file() for path in (test, *train)):
            continue
        lists = [frozenset(filter(None, map(str.strip, read_list(path)))) for path in (test, *train)]
        for_test, for_training = lists[0], frozenset().union(*lists[1:])
        if both := sorted(for_test & for_training):
            raise GanvasError(f"{folder}: class {printable(both[0])} is for training and for testing")
        digest = hashlib.sha256("\n".join([*sorted(for_training), "", *sorted(for_test)]).encode())
        return ClassLists(for_training, for_test, f"lists of classes {digest.hexdigest()[:12]}")
    return None


def split_digests(pickles: Path | None, classes: ClassLists | None) -> list[str]:
    """What the split by classes is made of, for ``Source.about``.

    Args:
        pickles: where ``train`` and ``test`` with their pickles lie, if there are any: these come first.
        classes: the lists of classes, if there are any.
    """
    if pickles:
        names = [f"{split}/{name}" for split in ("train", "test") for name in ("filenames.pickle", VECTORS)]
        files = [pickles / name for name in names if not name.endswith(VECTORS)]
        return [f"pickles {listing_digest(pickles, names, files)}"]
    return [classes.about] if classes else []


def write_vocabulary(captions: Captions, folder: Path) -> None:
    """Write ``vocabulary.json``: each word's index, as the text encoders that were trained on it need it.

    Index 0 is ``<end>``, which fills what is left of a short caption.
    """
    if isinstance(captions, PickledCaptions):
        text = json.dumps(captions.vocabulary, ensure_ascii=False, indent=0)
        (folder / "vocabulary.json").write_text(text + "\n", encoding="utf-8")
