"""Writing a prepared store: aside, image by image, in a way that a killed process can be taken up again."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ganvas.data.store import SCHEMA, SPLITS, WHOLE_SCHEMA, Record, StoreInfo, count_splits, holds_store
from ganvas.errors import GanvasError

_HEADER_BYTES = 128  # what a .npy header of this kind takes, whatever the number of rows
_FLUSH_EVERY = 64  # images

Extras = Callable[[Path, Sequence[str]], None]
"""Writes further files into the folder, for the images with these ids."""


class Busy(GanvasError):
    """Another process is writing this store."""


class StoreWriter:
    """Writes a prepared store; nothing appears at ``path`` before ``finish``.

    Use it as a context manager. Leaving it through an exception removes what was written, unless the user
    interrupted: what an interrupted or killed process wrote waits in a hidden folder beside ``path``, and the
    next writer of the same store finds it in ``earlier``.

    Attributes:
        earlier: ids that an earlier writer was done with, with the reason where the image was left out. Hand
            their records to ``take_over``, before any to ``add``.

    Args:
        path: the folder to make. It may exist only as a prepared store (which is then replaced) or empty.
        name: the set's name.
        size: side of the images, pixels.
        source: what the data are, for people.
        licence: SPDX name, or words.
        options: the options the store is prepared with.
        whole: the images keep their longer side.
        resume: go on with what an earlier writer of the same store left; otherwise it is removed.

    Raises:
        GanvasError: ``path`` holds something else, or cannot be written.
        Busy: another process is writing it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        size: int,
        source: str,
        licence: str,
        options: Mapping[str, str] | None = None,
        whole: bool = False,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        self._about: dict[str, Any] = {
            "name": name, "size": size, "source": source, "licence": licence,
            "options": dict(options or {}), "whole": whole,
        }  # fmt: skip
        self._size, self._whole = size, whole
        self._records: list[Record] = []
        self._shapes: list[tuple[int, int]] = []
        self._rejected: list[tuple[str, str]] = []
        self._digest = hashlib.sha256()
        _refuse_other_things(self.path)
        # the whole path: "." cannot be renamed (and unlike resolve, this follows no link)
        self._place = Path(os.path.abspath(self.path))  # noqa: PTH100
        self._part = self._place.with_name(f".{self._place.name}.partial")
        try:
            self._lock = _locked(self._part)
            left = _what_is_left(self._part, self._about) if resume else []
            self._pixels = self._open_pixels(left)
        except OSError as error:
            raise GanvasError(f"{self.path}: cannot write here ({error.strerror})") from None
        self.earlier: dict[str, str | None] = {entry["id"]: entry.get("reason") for entry in left}
        self._left = iter([entry for entry in left if "shape" in entry])

    def _open_pixels(self, left: Sequence[Mapping[str, Any]]) -> IO[bytes]:
        """The file of pixels and the journal, cut to what is left of earlier work; all else is removed."""
        images, journal, plan = (self._part / name for name in ("images.npy", "done.jsonl", "plan.json"))
        for entry in self._part.iterdir():
            if entry.name not in ("lock", *((images.name, journal.name) if left else ())):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in left), encoding="utf-8")
        plan.write_text(json.dumps(self._about), encoding="utf-8")
        self._journal = journal.open("a", encoding="utf-8")
        pixels = images.open("r+b" if left else "w+b")
        pixels.truncate(_HEADER_BYTES + sum(_num_bytes(entry["shape"]) for entry in left if "shape" in entry))
        pixels.seek(_HEADER_BYTES)
        return pixels

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._pixels, self._journal):
            with contextlib.suppress(OSError):  # what could not be written is thrown away below
                file.close()
        if not (kind and issubclass(kind, KeyboardInterrupt)):
            shutil.rmtree(self._part, ignore_errors=True)
        os.close(self._lock)

    def take_over(self, record: Record) -> None:
        """Add a record that is among ``earlier``: with the pixels that are there, or as left out."""
        reason = self.earlier[record.id]
        if reason is not None:
            self.reject(record.id, reason)
            return
        shape = tuple(next(self._left)["shape"])
        self._note(record, shape, self._pixels.read(_num_bytes(shape)))

    def add(self, record: Record, image: npt.NDArray[np.uint8]) -> None:
        """Append one image with its captions.

        Args:
            record: with an id that no other record has.
            image: uint8 ``(S, S, 3)``; where images are stored whole, the shorter side is S.
        """
        height, width, _ = image.shape
        fits = min(height, width) == self._size if self._whole else (height, width) == (self._size,) * 2
        assert fits and image.dtype == np.uint8, f"{record.id}: {image.dtype} {image.shape}"
        assert record.split in SPLITS and record.captions, record
        pixels = np.ascontiguousarray(image).data
        self._pixels.write(pixels)
        self._note(record, (height, width), pixels)
        entry = {"id": record.id, "shape": [height, width], "crc": zlib.crc32(pixels)}
        self._journal.write(json.dumps(entry) + "\n")
        if not len(self._records) % _FLUSH_EVERY:
            self._pixels.flush()
            self._journal.flush()

    def _note(self, record: Record, shape: tuple[int, ...], pixels: bytes | memoryview) -> None:
        self._records.append(record)
        self._shapes.append((shape[0], shape[1]))
        facts: tuple[object, ...] = (
            record.id, record.split, record.label, record.captions, sorted(record.attributes.items())
        )  # fmt: skip
        self._digest.update(repr((*facts, shape) if self._whole else facts).encode(errors="surrogatepass"))
        self._digest.update(pixels)

    def reject(self, identity: str, reason: str) -> None:
        """Note an image or caption that is left out."""
        self._rejected.append((identity, reason))

    def reject_image(self, identity: str, reason: str) -> None:
        """Note an image that was looked at and cannot be used, so that it need not be looked at again."""
        self.reject(identity, reason)
        self._journal.write(json.dumps({"id": identity, "reason": reason}) + "\n")

    def __len__(self) -> int:
        return len(self._records)

    @property
    def num_rejected(self) -> int:
        """How many were left out so far."""
        return len(self._rejected)

    def finish(self, extras: Extras | None = None) -> StoreInfo:
        """Write the tables, move the store into place, and return what it holds.

        Args:
            extras: writes further files.

        Raises:
            GanvasError: no image was added.
        """
        if not self._records:
            raise GanvasError(f"{self.path}: nothing to prepare: no image with a caption was found")
        self._write_header()
        pq.write_table(self._table(), self._part / "captions.parquet")
        with (self._part / "rejected.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
            csv.writer(file).writerows([("id", "reason"), *self._rejected])
        if extras:
            extras(self._part, [record.id for record in self._records])
        info = StoreInfo(
            splits=count_splits([r.split for r in self._records]),
            num_captions=sum(len(r.captions) for r in self._records),
            num_classes=len({r.label for r in self._records if r.label is not None}),
            fingerprint=self._digest.hexdigest(),
            **self._about,
        )
        text = json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n"
        (self._part / "dataset.json").write_text(text, encoding="utf-8")
        self._journal.close()
        for name in ("done.jsonl", "plan.json", "lock"):
            (self._part / name).unlink()
        self._move()
        return info

    def _table(self) -> pa.Table:
        records = self._records
        columns: dict[str, list[Any]] = {
            "id": [r.id for r in records],
            "split": [r.split for r in records],
            "class": [r.label for r in records],
            "captions": [list(r.captions) for r in records],
            "attributes": [list(r.attributes.items()) for r in records],
        }
        if self._whole:
            columns["height"], columns["width"] = map(list, zip(*self._shapes, strict=True))
        return pa.table(columns, schema=WHOLE_SCHEMA if self._whole else SCHEMA)

    def _write_header(self) -> None:
        """Fill the room kept at the front of ``images.npy``, now that the number of images is known."""
        header = io.BytesIO()
        num_bytes = sum(_num_bytes(shape) for shape in self._shapes)
        shape = (num_bytes,) if self._whole else (len(self._records), self._size, self._size, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        text = header.getvalue()
        if len(text) < _HEADER_BYTES:  # a short shape: the format lets a header be padded
            body = text[10:-1].ljust(_HEADER_BYTES - 11) + b"\n"
            text = text[:8] + len(body).to_bytes(2, "little") + body
        assert len(text) == _HEADER_BYTES
        self._pixels.seek(0)
        self._pixels.write(text)
        self._pixels.flush()
        os.fsync(self._pixels.fileno())
        self._pixels.close()

    def _move(self) -> None:
        """Put the finished folder where the store belongs."""
        old = self._part.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        if self._place.exists():
            self._place.rename(old)
        try:
            self._part.rename(self._place)
        except OSError:
            if old.exists():
                old.rename(self._place)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _num_bytes(shape: Sequence[int]) -> int:
    return 3 * shape[0] * shape[1]


def _refuse_other_things(path: Path) -> None:
    if not path.exists() or holds_store(path):
        return
    if not path.is_dir():
        raise GanvasError(f"{path}: is a file; give a folder for the prepared data set")
    if any(path.iterdir()):
        raise GanvasError(f"{path}: is not empty and holds no prepared data set; choose another folder")


def _locked(part: Path) -> int:
    """Make the folder of unfinished work, and hold it against other processes: the lock's file descriptor."""
    part.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(part / "lock", os.O_RDWR | os.O_CREAT)
    try:
        import fcntl
    except ImportError:  # not on Windows, where two at once are the user's to avoid
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == (part / "lock").stat().st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    raise Busy(f"{part.parent}: another process is preparing this data set; wait for it")


def _what_is_left(part: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The journal of an earlier writer of the same store, up to the last image that is whole."""
    try:
        if json.loads((part / "plan.json").read_bytes()) != about:
            return []
        with (part / "images.npy").open("rb") as pixels:
            pixels.seek(_HEADER_BYTES)
            return list(_sound(part / "done.jsonl", pixels))
    except (OSError, ValueError):
        return []


def _sound(journal: Path, pixels: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            return  # cut off in the middle of a line
        if "shape" in entry and zlib.crc32(pixels.read(_num_bytes(entry["shape"]))) != entry["crc"]:
            return
        yield entry
