"""Oxford-102: 8,189 photos of 102 kinds of flowers, each with ten captions by Reed et al. (CVPR 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ganvas.data.caption_vectors import write_sentences
from ganvas.data.listing import walk
from ganvas.data.matlab import read_whole_numbers
from ganvas.data.pixels import Fit
from ganvas.data.reed import (
    CaptionFiles,
    below,
    find_captions,
    read_class_lists,
    read_names,
    split_digests,
    write_vocabulary,
)
from ganvas.data.source import (
    LeftOut,
    PhotoSource,
    Rejected,
    Request,
    chosen_options,
    listing_digest,
    source_folder,
)
from ganvas.data.store import Record
from ganvas.errors import GanvasError, did_you_mean

CLASS_NAMES = tuple(
    """
pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; tiger lily; moon
orchid; bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king protea; spear thistle;
yellow iris; globe-flower; purple coneflower; peruvian lily; balloon flower; giant white arum lily; fire
lily; pincushion flower; fritillary; red ginger; grape hyacinth; corn poppy; prince of wales feathers;
stemless gentian; artichoke; sweet william; carnation; garden phlox; love in the mist; mexican aster;
alpine sea holly; ruby-lipped cattleya; cape flower; great masterwort; siam tulip; lenten rose; barbeton
daisy; daffodil; sword lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; oxeye daisy;
common dandelion; petunia; wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura;
geranium; orange dahlia; pink-yellow dahlia; cautleya spicata; japanese anemone; black-eyed susan;
silverbush; californian poppy; osteospermum; spring crocus; bearded iris; windflower; tree poppy; gazania;
azalea; water lily; rose; thorn apple; morning glory; passion flower; lotus lotus; toad lily; anthurium;
frangipani; clematis; hibiscus; columbine; desert-rose; tree mallow; magnolia; cyclamen; watercress; canna
lily; hippeastrum; bee balm; ball moss; foxglove; bougainvillea; camellia; mallow; mexican petunia;
bromelia; blanket flower; trumpet creeper; blackberry lily
""".strip()
    .replace("\n", " ")
    .split("; ")
)
"""What the classes 1 to 102 are called."""

_CLASS_FOLDER = r"class_[0-9]{5}"
_SPLITS = ("classes", "official")
_OFFICIAL = {"trnid": "train", "valid": "val", "tstid": "test"}
_NEEDED = ("jpg", "imagelabels.mat")


class Oxford102Source(PhotoSource):
    """Oxford-102 with Reed's captions.

    The place is a folder with the official ``jpg/image_00001.jpg``, ``imagelabels.mat`` and ``setid.mat``.
    The captions are ``text_c10/class_00001/image_00001.txt`` in it or beside it (or ``text``, or the folders
    of the classes themselves). StackGAN's folder ``flowers`` may have pickles like those of CUB, which are
    used in the same way, see ``ganvas.data.cub``.

    A record's id is ``image_00001``, its label the name of its class, and its attribute ``class_number`` a
    number from 1 to 102.

    Its options:

    - ``split``: ``classes`` (82 classes to train on, 20 others to test on, as in all papers of the field) as
      ``train/filenames.pickle`` and ``test/filenames.pickle`` say, else ``trainvalclasses.txt`` (or
      ``trainclasses.txt`` and ``valclasses.txt``) and ``testclasses.txt`` beside the captions. Or
      ``official``: ``setid.mat``, with 1,020 images to train on, 1,020 to validate on and 6,149 to test on,
      where every class is in all three, so that scores are not those of the papers.
    - ``captions``: the folder of the caption files, or a ``captions.pickle``.

    Raises:
        GanvasError: no such folder, no captions, no lists of classes, or a wrong option.
    """

    name = "oxford102"
    licence = "images of their photographers, for research"

    def __init__(self, request: Request) -> None:
        options = chosen_options(self.name, request.options, {"split": "classes", "captions": ""})
        split = options["split"]
        if split not in _SPLITS:
            raise GanvasError(f"data set 'oxford102': no split '{split}'; {did_you_mean(split, _SPLITS)}")
        self.options = {"split": split}  # where the captions lie does not change them
        self.fit = request.fit or Fit()
        self.root = source_folder(request, self.name, "jpg and imagelabels.mat")
        self._check()
        folders = (self.root, self.root.parent)
        pickles = [folder for folder in folders if (folder / "train" / "filenames.pickle").is_file()]
        self._pickles = pickles[0] if pickles else None
        self._names = read_names(self._pickles, _bare) if self._pickles else None
        captions = find_captions(options["captions"], folders, _CLASS_FOLDER, _bare)
        if captions is None:
            raise GanvasError(
                f"{self.root}: no captions; looked for captions.pickle, and for text_c10 and text with"
                " class_00001 and so on, here and one above; the option captions=FOLDER says where they are"
            )
        self._captions = captions
        self._classes = read_class_lists([*self._captions.beside(), *folders])
        if not (self._official or self._names or self._classes):
            raise GanvasError(
                f"{self.root}: which 20 classes are for testing is not said; put trainvalclasses.txt and"
                f" testclasses.txt, which come with the captions, into {captions.beside()[-1]}, or take the"
                " photos' own split with the option split=official"
            )
        self._listing = walk(self.root / "jpg")
        self.about = self._about()

    def __getstate__(self) -> dict[str, object]:
        # a worker is told which images to load
        return {**self.__dict__, "_names": None, "_captions": None, "_listing": None}

    def _check(self) -> None:
        needed = [*_NEEDED, *(["setid.mat"] if self._official else [])]
        if missing := [name for name in needed if not (self.root / name).exists()]:
            raise GanvasError(
                f"{self.root}: no Oxford-102; looked for {', '.join(needed)}; missing: {', '.join(missing)}"
            )

    def _about(self) -> str:
        lists = ["imagelabels.mat", *(["setid.mat"] if self._official else [])]
        images = [f"jpg/{path}" for path in self._listing.images]
        parts = [f"lists {listing_digest(self.root, images, [self.root / name for name in lists])}"]
        parts.append(f"captions of {self._captions.about} {self._captions.digest()}")
        if not self._official:
            parts += split_digests(self._pickles, self._classes)
        return f"Oxford-102 ({', '.join(parts)})"

    def records(self) -> list[Record | LeftOut]:
        """Every image of ``imagelabels.mat``, in its order; then what lies there without being in it."""
        labels = self._labels()
        splits, found = self._splits(labels)
        found += below("jpg", self._listing)
        for number, label in enumerate(labels, 1):
            identity = _identity(number)
            try:
                found.append(self._record(identity, label, splits))
            except Rejected as reason:
                found.append(LeftOut(identity, str(reason)))
        pictures = {f"{_identity(number)}.jpg" for number in range(1, len(labels) + 1)}
        found += [
            LeftOut(f"jpg/{path}", "is not in imagelabels.mat")
            for path in self._listing.images
            if path not in pictures
        ]
        return [*found, *self._captions.unused(self._caption_keys(labels).values())]

    def _record(self, identity: str, label: int, splits: Mapping[str, str]) -> Record:
        if not 1 <= label <= len(CLASS_NAMES):
            raise Rejected(f"its class is not one of 1 to {len(CLASS_NAMES)}")
        name = f"{identity}.jpg"
        if self._listing.behind_link(name):
            raise Rejected("is a link that is not followed")
        if not splits and self._classes:
            split = self._classes.split(_class_folder(label))
        elif identity in splits:
            split = splits[identity]
        else:
            raise Rejected(f"is in no split of {'setid.mat' if self._official else 'filenames.pickle'}")
        return Record(
            id=identity,
            split=split,
            captions=self._captions.of(self._caption_key(identity, label)),
            label=CLASS_NAMES[label - 1],
            attributes={"class_number": str(label)},
            image=f"jpg/{name}",
        )

    @property
    def _official(self) -> bool:
        return self.options["split"] == "official"

    def _labels(self) -> list[int]:
        return read_whole_numbers(self.root / "imagelabels.mat", ["labels"])["labels"]

    def _splits(self, labels: Sequence[int]) -> tuple[dict[str, str], list[Record | LeftOut]]:
        """The split of each image where a file says it by image, and what of that file is of no use."""
        if not self._official:
            return {name: split for split, names in (self._names or {}).items() for name in names}, []
        splits: dict[str, str] = {}
        left_out: list[Record | LeftOut] = []
        for part, numbers in read_whole_numbers(self.root / "setid.mat", list(_OFFICIAL)).items():
            for number in numbers:
                identity = _identity(number)
                if not 1 <= number <= len(labels):
                    left_out.append(LeftOut(f"setid.mat, image {number}", "is not in imagelabels.mat"))
                elif identity in splits:
                    left_out.append(LeftOut(f"setid.mat, image {number}", "is listed twice"))
                else:
                    splits[identity] = _OFFICIAL[part]
        return splits, left_out

    def _caption_key(self, identity: str, label: int) -> str:
        return f"{_class_folder(label)}/{identity}" if isinstance(self._captions, CaptionFiles) else identity

    def _caption_keys(self, labels: Sequence[int]) -> dict[str, str]:
        return {_identity(i): self._caption_key(_identity(i), label) for i, label in enumerate(labels, 1)}

    def write_extras(self, folder: Path, ids: Sequence[str]) -> None:
        """Write ``vocabulary.json`` and ``sentences.npy``, where the pickles have them."""
        write_vocabulary(self._captions, folder)
        if self._pickles:
            keys = self._caption_keys(self._labels())
            write_sentences(self._pickles, self._names, lambda name: self._captions.of(keys[name]), folder)


def _identity(number: int) -> str:
    return f"image_{number:05d}"


def _class_folder(label: int) -> str:
    return f"class_{label:05d}"


def _bare(name: str) -> str:
    """``image_00001`` of ``jpg/image_00001``, as StackGAN writes it."""
    return name.rpartition("/")[2]
