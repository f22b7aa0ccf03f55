"""Tar shards read from front to back, within bounds and without unpacking anything.

Members are grouped into samples by the rule of WebDataset: what comes before the first dot of the base name
is the key, what comes after it names the part, and the parts of a sample lie side by side. Headers are
parsed by Python's ``tarfile``; the walk from one to the next is done here, because ``tarfile`` takes a
damaged header for the end of the archive and reads extended headers of any size.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from ganvas.errors import GanvasError

MAX_MEMBER_BYTES = 256 << 20
"""A larger member is refused."""
MAX_SAMPLE_PARTS = 64
"""A sample of more members is refused."""
MAX_GROWTH = 100
"""A compressed shard that unpacks to more than so many times its bytes is refused."""

_BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENDED_BYTES = 1 << 20  # of a long name or of extended attributes
_FREE_BYTES = 64 << 20  # a compressed shard may always unpack to so many
_CHUNK = 1 << 20
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_REFUSED = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device file",
    tarfile.BLKTYPE: "a device file",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Reader(Protocol):
    """What a shard is read from."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, or fewer at the end."""


@dataclass(frozen=True)
class Member:
    """A plain file in a tar."""

    name: str
    size: int
    """Bytes."""


@dataclass
class Sample:
    """The parts of one sample that were asked for."""

    key: str
    names: list[str] = field(default_factory=list)
    """The extensions of all its parts, lower case, without the first dot."""
    parts: dict[str, bytes] = field(default_factory=dict)
    """By extension."""


class Tar:
    """The plain files of a tar, each once, in order. Bytes that nobody reads are skipped.

    Args:
        file: the shard; skipping seeks where it can be sought in.
        shard: its name, for errors. One that ends in ``.gz`` or ``.tgz`` is compressed.

    Raises:
        GanvasError: while iterating or reading: the shard is damaged or cut short, or a member is refused.
    """

    def __init__(self, file: BinaryIO, shard: str) -> None:
        self._shard = shard
        self._file: Reader = file
        self._seek: Callable[[int, int], int] | None = file.seek if file.seekable() else None
        if shard.endswith((".gz", ".tgz")):
            self._file, self._seek = _Unzipped(file, shard), None
        self._left = self._padding = 0  # of the member at hand

    def __iter__(self) -> Iterator[Member]:
        """Every plain file; directories are left out."""
        long_name: str | None = None
        attributes: dict[str, str] = {}
        while (header := self._header()) is not None:
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                text = self._extended(header).split(b"\0", 1)[0].decode("utf-8", "replace")
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = text
                continue
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                attributes = self._attributes(self._extended(header))
                continue
            if header.type == tarfile.XGLTYPE:
                if self._attributes(self._extended(header)).keys() & {"path", "size"}:
                    raise self._damaged("a global header that names a path or a size")
                continue
            name = attributes.get("path", long_name if long_name is not None else header.name)
            self._check_name(name)
            if header.type != tarfile.DIRTYPE:
                size = self._size(header, name, attributes)
                self._left, self._padding = size, -size % _BLOCK
                yield Member(name.removeprefix("./"), size)
                self._skip(self._left + self._padding)
            long_name, attributes = None, {}

    def read(self) -> bytes:
        """The bytes of the member that the iteration stands at; once."""
        data = self._exactly(self._left)
        self._left = 0
        return data

    def _header(self) -> tarfile.TarInfo | None:
        block = self._file.read(_BLOCK)
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError as error:
            if len(block) == _BLOCK and not any(block):
                return None
            if len(block) < _BLOCK:
                raise self._damaged("it ends before its end mark") from None
            raise self._damaged(str(error)) from None

    def _size(self, header: tarfile.TarInfo, name: str, attributes: dict[str, str]) -> int:
        """Of the bytes of a plain file; anything else is refused."""
        sparse = any(key.startswith("GNU.sparse") for key in attributes)
        what = "a sparse file" if sparse else _REFUSED.get(header.type)
        if what is None and header.type not in _PLAIN:
            what = f"of the unknown type {header.type!r}"
        if what is not None:
            raise self._refused(name, f"is {what}")
        text = attributes.get("size", str(header.size))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise self._damaged(f"member {_shown(name)} has the size '{_shown(text[:30])}'")
        if int(text) > MAX_MEMBER_BYTES:
            raise self._refused(name, f"has {int(text):,} bytes, more than {MAX_MEMBER_BYTES:,}")
        return int(text)

    def _check_name(self, name: str) -> None:
        path = name.replace("\\", "/")
        if path.startswith("/") or path[1:3] == ":/":
            raise self._refused(name, "has an absolute path")
        if ".." in path.split("/"):
            raise self._refused(name, "has '..' in its path")

    def _extended(self, header: tarfile.TarInfo) -> bytes:
        """The body of a header that says more about the next member."""
        if not 0 <= header.size <= _MAX_EXTENDED_BYTES:
            raise self._damaged(f"an extended header of {header.size:,} bytes")
        data = self._exactly(header.size)
        self._skip(-header.size % _BLOCK)
        return data

    def _attributes(self, data: bytes) -> dict[str, str]:
        """The records of a pax header: ``LENGTH KEY=VALUE`` and a line feed each."""
        found = {}
        here, end = 0, len(data.rstrip(b"\0"))
        while here < end:
            digits = data[here : here + 20].partition(b" ")[0]
            after = here + int(digits) if digits.isdigit() else 0
            key, equals, value = data[here + len(digits) + 1 : max(after - 1, 0)].partition(b"=")
            if not equals or data[after - 1 : after] != b"\n":
                raise self._damaged("an extended header that makes no sense")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
            here = after
        return found

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise self._damaged("it ends in the middle of a member")
        return data

    def _skip(self, size: int) -> None:
        """Past so many bytes; where the file is sought in, an end that comes too early shows at the next."""
        if self._seek is not None:
            self._seek(size, 1)
            return
        while size > 0:
            size -= len(self._exactly(min(size, _CHUNK)))

    def _refused(self, name: str, why: str) -> GanvasError:
        return GanvasError(
            f"{self._shard}: member {_shown(name)} {why}; such shards are refused, make it anew without it"
        )

    def _damaged(self, why: str) -> GanvasError:
        return GanvasError(
            f"{self._shard}: this tar is damaged or cut short ({why}); fetch or write it again"
        )


def samples(
    tar: Tar, wanted: Callable[[str], bool], counts: Callable[[Sample], bool], skip: int = 0
) -> Iterator[Sample]:
    """The samples of a shard, in order.

    Args:
        tar: the shard.
        wanted: whether the part with this extension is to be read.
        counts: whether a sample is one, judged by its names alone; others are left out.
        skip: leave out so many samples at the beginning, without reading them.

    Raises:
        GanvasError: a member is refused, a sample has too many parts, or the shard is damaged.
    """
    sample: Sample | None = None
    for member in tar:
        folder, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not (stem and dot):
            continue  # a hidden file, or one without an extension
        key, extension = f"{folder}{slash}{stem}", extension.lower()
        if sample is None or sample.key != key or extension in sample.names:
            if sample is not None and counts(sample):
                if skip <= 0:
                    yield sample
                skip -= 1
            sample = Sample(key)
        sample.names.append(extension)
        if len(sample.names) > MAX_SAMPLE_PARTS:
            raise tar._refused(member.name, f"is one of more than {MAX_SAMPLE_PARTS} parts of its sample")
        if skip <= 0 and wanted(extension):
            sample.parts[extension] = tar.read()
    if sample is not None and counts(sample) and skip <= 0:
        yield sample


class _Unzipped:
    """A gzip file unpacked on the way, as long as it does not grow beyond all measure."""

    def __init__(self, file: BinaryIO, shard: str) -> None:
        self._packed = _Counted(file)
        self._file = gzip.GzipFile(fileobj=self._packed)  # type: ignore[call-overload]
        self._shard, self._unpacked = shard, 0

    def read(self, size: int, /) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise GanvasError(f"{self._shard}: damaged or cut short ({error}); fetch it again") from None
        self._unpacked += len(data)
        if self._unpacked > _FREE_BYTES + MAX_GROWTH * self._packed.count:
            raise GanvasError(
                f"{self._shard}: unpacks to more than {MAX_GROWTH} times its size; such shards are refused"
            )
        return data


class _Counted:
    """A file that is only read from, and how many bytes were."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.count = file, 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data


def _shown(name: str) -> str:
    """A name from a file, fit for one line of an error."""
    return name[:200] if name.isprintable() else ascii(name[:200])[1:-1]
