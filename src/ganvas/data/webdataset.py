"""Tar shards of images and captions, as ``img2dataset`` writes them, to records.

A sample is an image (``.jpg``, ``.png``, ``.webp``, ...) with its caption in ``.txt`` or in ``.json``. Shards
are read where they lie, here or behind an ``http(s)://`` or ``s3://`` address, and never unpacked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from ganvas.data.archives import Sample, Tar, samples
from ganvas.data.pictures import EXTENSIONS
from ganvas.data.pixels import Fit
from ganvas.data.shards import is_address, list_shards, open_shard, relative_names
from ganvas.data.source import LeftOut, PhotoSource, Request, chosen_options, listing_digest
from ganvas.data.splits import SHARES, hash_rule, with_training
from ganvas.data.store import Record
from ganvas.errors import GanvasError

MAX_TEXT_BYTES = 1_000_000
"""A caption file with more is not read."""


class Unusable(Exception):
    """A sample that nothing can be made of; its text is the reason."""


class Parts:
    """Which parts of a sample are its image and its captions.

    Args:
        text: the key of ``.json`` that holds the caption or a list of them; empty: the whole of ``.txt``, and
            where there is none, ``caption`` in ``.json``.
    """

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._texts = ("json",) if text else ("txt", "json")

    def wanted(self, extension: str) -> bool:
        """Whether such a part is of use."""
        return extension in self._texts or f".{extension}" in EXTENSIONS

    def complete(self, sample: Sample) -> bool:
        """Whether a sample has an image and a file that may hold its caption, by the names of its parts."""
        return any(name in self._texts for name in sample.names) and self._image_name(sample) is not None

    def image(self, sample: Sample) -> bytes:
        """The encoded image.

        Raises:
            Unusable: there is none.
        """
        name = self._image_name(sample)
        if name is None:
            held = ", ".join(f".{name}" for name in sample.names[:8])
            raise Unusable(f"no image among its parts ({held})")
        return sample.parts[name]

    def captions(self, sample: Sample) -> tuple[str, ...]:
        """The captions as they are.

        Raises:
            Unusable: there is none, or its file cannot be read.
        """
        name = next((name for name in self._texts if name in sample.parts), None)
        if name is None:
            raise Unusable(f"no caption (neither {' nor '.join(f'.{text}' for text in self._texts)})")
        data = sample.parts[name]
        if len(data) > MAX_TEXT_BYTES:
            raise Unusable(f".{name} has more than {MAX_TEXT_BYTES:,} bytes")
        try:
            text = data.decode("utf-8-sig")
            return (text,) if name == "txt" else self._from_json(json.loads(text))
        except UnicodeDecodeError:
            raise Unusable(f".{name} is no UTF-8 text") from None
        except (ValueError, RecursionError):
            raise Unusable(f".{name} is no JSON") from None

    def _from_json(self, tree: object) -> tuple[str, ...]:
        key = self.text or "caption"
        value = tree.get(key) if isinstance(tree, dict) else None
        values = value if isinstance(value, list) else [value]
        captions = [caption for caption in values if isinstance(caption, str)]
        if not captions:
            raise Unusable(f".json has no text at '{key}'")
        # an escaped half of a character is text in JSON, and nowhere else
        return tuple(caption.encode("utf-8", "replace").decode() for caption in captions)

    @staticmethod
    def _image_name(sample: Sample) -> str | None:
        return next((name for name in sample.names if f".{name}" in EXTENSIONS), None)


class WebDatasetSource(PhotoSource):
    """Shards that lie in a folder, behind an address, or in a list of either (see ``list_shards``).

    Its options are ``text``, the key of the captions in ``.json`` (see ``Parts``), and ``val`` and ``test``,
    the percentages of the images for these splits, chosen by a hash of their ids.

    Raises:
        GanvasError: there is no shard, or no such option.
    """

    name = "webdataset"
    licence = "that of its images"

    def __init__(self, request: Request) -> None:
        if request.place is None:
            raise GanvasError(
                "data set 'webdataset': say where its shards lie: ganvas data prepare webdataset PLACE"
            )
        self.options = chosen_options(self.name, request.options, {"text": "", **SHARES})
        self.fit = request.fit or Fit()
        self._parts = Parts(self.options["text"])
        hash_rule(self.options, self.name)  # wrong shares are an error at once
        self._shards = list_shards(request.place)
        root, self._names = relative_names(self._shards)
        self.root = Path(root)
        if is_address(self._shards[0]):
            digest = hashlib.sha256("\0".join(self._names).encode()).hexdigest()[:12]
        else:
            digest = listing_digest(self.root, self._names)
        self.about = f"{len(self._shards):,} shards of images with captions ({digest})"

    def records(self) -> Iterator[Record | LeftOut]:
        """Every sample, in the order of the shards; its image travels with it.

        Raises:
            GanvasError: a shard is damaged, or a member of it is refused.
            RunStopped: the network failed.
        """
        split = with_training(hash_rule(self.options, self.name), self._ids())
        for identity, sample in self._samples(read=True):
            yield self._record(identity, sample, split)

    def _record(self, identity: str, sample: Sample, split: Callable[[str], str]) -> Record | LeftOut:
        try:
            image, captions = self._parts.image(sample), self._parts.captions(sample)
        except Unusable as reason:
            return LeftOut(identity, str(reason))
        return Record(id=identity, split=split(identity), captions=captions, image=image)

    def _ids(self) -> Iterator[str]:
        return (identity for identity, sample in self._samples(read=False) if self._parts.complete(sample))

    def _samples(self, *, read: bool) -> Iterator[tuple[str, Sample]]:
        """Every sample with its id, whole or not."""
        for address, name in zip(self._shards, self._names, strict=True):
            with closing(open_shard(address)) as file:
                wanted = self._parts.wanted if read else lambda _: False
                for sample in samples(Tar(file, address), wanted, lambda _: True):
                    yield f"{name.split('.tar')[0]}/{sample.key}", sample
