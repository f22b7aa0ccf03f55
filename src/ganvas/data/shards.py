"""Where shards lie, here or behind an address, and their bytes from front to back."""

from __future__ import annotations

import io
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from ganvas.errors import GanvasError, RunStopped

SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""What the name of a shard ends in."""
SCHEMES = ("http", "https", "s3", "gs", "memory")
"""Addresses that are read; ``memory`` is for tests."""
MAX_SHARDS = 1_000_000
"""A list of more is refused."""
ATTEMPTS = 5
"""How often a request is made before a network error stops the work."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt; each further wait is twice as long."""

_LOCAL_BUFFER = 32 << 10
_REMOTE_BUFFER = 1 << 20
_REQUEST_BYTES = 8 << 20  # of a store of objects, in one request
_MAX_LIST_BYTES = 256 << 20
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")

Result = TypeVar("Result")


def is_address(place: str) -> bool:
    """Whether ``place`` is an address and no path here.

    Raises:
        GanvasError: an address of a kind that is not read.
    """
    scheme, mark, _ = place.partition("://")
    if not mark:
        return False
    if scheme not in SCHEMES or "::" in place:
        raise GanvasError(f"{place}: this kind of address is not read; give one of {', '.join(SCHEMES[:-1])}")
    return True


def list_shards(place: str) -> list[str]:
    """The shards at ``place``, in order.

    Args:
        place: a folder, a tar, a pattern (``shards/0*.tar``), a range
            (``https://host/{00000..00099}.tar``), or a text file with one of these a line (paths in it are
            relative to it). Folders, tars, patterns and ranges may be addresses.

    Raises:
        GanvasError: there is no shard, or the place cannot be read.
    """
    if place.endswith(".txt") and not is_address(place) and Path(place).expanduser().is_file():
        found = _listed(Path(place).expanduser())
    else:
        found = [shard for one in _expanded(place) for shard in _found(one)]
    if not found:
        raise GanvasError(f"{place}: no shards here; looked for files that end in {', '.join(SUFFIXES)}")
    return found


def _expanded(place: str) -> Iterator[str]:
    """A place with every range and choice in braces spelt out."""
    parts = _BRACES.split(place)
    choices = [[part] if i % 2 == 0 else _choices(part, place) for i, part in enumerate(parts)]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > MAX_SHARDS:
        raise GanvasError(f"{place}: means {total:,} shards; at most {MAX_SHARDS:,} are read")
    return map("".join, itertools.product(*choices))


def _choices(inside: str, place: str) -> list[str]:
    """``00..12`` or ``a,b``."""
    if span := _RANGE.fullmatch(inside):
        first, last = span.groups()
        if int(first) > int(last) or int(last) - int(first) >= MAX_SHARDS:
            raise GanvasError(f"{place}: {{{inside}}} should go up, over at most {MAX_SHARDS:,} shards")
        width = len(first) if first.startswith("0") else 0
        return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",")


def _found(place: str) -> list[str]:
    """The shards at a place without braces."""
    named = place.endswith(SUFFIXES)
    pattern = any(mark in place for mark in "*?[")
    if is_address(place):
        if named and not pattern:
            return [place]
        return _found_remotely(place if pattern else f"{place.rstrip('/')}/*")
    path = Path(place).expanduser()
    if path.is_dir():
        entries = list(path.iterdir())
    elif path.is_file():
        if not named:
            raise GanvasError(f"{place}: is no shard; the name of one ends in {', '.join(SUFFIXES)}")
        entries = [path]
    elif pattern:
        head = Path(path.anchor) if path.is_absolute() else Path()
        entries = list(head.glob(str(path.relative_to(head))))
    else:
        raise GanvasError(f"{place}: no such file or folder")
    return sorted(str(entry) for entry in entries if entry.name.endswith(SUFFIXES) and entry.is_file())


def _found_remotely(pattern: str) -> list[str]:
    files, path = filesystem(pattern)
    names = with_retries(pattern, lambda: files.glob(path))
    return sorted(str(files.unstrip_protocol(name)) for name in names if str(name).endswith(SUFFIXES))


def _listed(path: Path) -> list[str]:
    """The shards that a text file names; nothing in it leads out of its folder."""
    if path.stat().st_size > _MAX_LIST_BYTES:
        raise GanvasError(f"{path}: larger than {_MAX_LIST_BYTES:,} bytes, so it is no list of shards")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise GanvasError(f"{path}: is no list of shards (no UTF-8 text)") from None
    found: list[str] = []
    for line in filter(None, lines):
        if not is_address(line):
            check_inside(line, str(path))
            line = str(path.parent / line)
        found += [shard for one in _expanded(line) for shard in _found(one)]
    return found


def check_inside(name: str, where: str) -> None:
    """Refuse a path that leads out of its folder.

    Raises:
        GanvasError: naming ``where`` it was read.
    """
    path = name.replace("\\", "/")
    if path.startswith(("/", "~")) or path[1:3] == ":/" or ".." in path.split("/"):
        raise GanvasError(f"{where}: '{ascii(name[:200])[1:-1]}' leads out of its folder; give a path within")


def relative_names(shards: Sequence[str]) -> tuple[str, list[str]]:
    """The folder or address that all shards share, and the name of each below it."""
    heads = [shard.replace("\\", "/").split("/")[:-1] for shard in (min(shards), max(shards))]
    pairs = zip(heads[0], heads[1], strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    root = "/".join(heads[0][:shared])
    return root, [shard[len(root) + 1 if shared else 0 :] for shard in shards]


def open_shard(address: str) -> BinaryIO:
    """The bytes of a shard, from front to back; network errors are tried again, from where they struck.

    Raises:
        GanvasError: there is no such shard, or a library for such addresses is missing. While reading: as
            ``with_retries``.
    """
    if is_address(address):
        return cast(BinaryIO, io.BufferedReader(_Remote(address), _REMOTE_BUFFER))
    try:
        return Path(address).open("rb", buffering=_LOCAL_BUFFER)
    except OSError as error:
        raise GanvasError(f"{address}: cannot be read ({error.strerror})") from None


def shard_bytes(address: str) -> int:
    """The size of a shard; 0 where a server does not tell."""
    if not is_address(address):
        return Path(address).stat().st_size
    files, path = filesystem(address)
    return int(with_retries(address, lambda: files.info(path)).get("size") or 0)


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path within it.

    Raises:
        GanvasError: its library is missing.
    """
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        settings: dict[str, Any] = {}
        if address.startswith("http"):
            from aiohttp import ClientTimeout

            # no bound on the whole: a shard is read as slowly as training goes
            patience = ClientTimeout(total=None, sock_connect=30, sock_read=60)
            settings["client_kwargs"] = {"timeout": patience, "trust_env": True}
        files, path = url_to_fs(address, **settings)
    except ImportError as error:
        raise GanvasError(
            f"{address}: a library for such addresses is missing ({error}); pip install 'ganvas[remote]'"
        ) from None
    return files, str(path)


def with_retries(address: str, work: Callable[[], Result]) -> Result:
    """What ``work`` gives, tried several times with growing waits between.

    Raises:
        GanvasError: there is nothing at the address, or it is refused to us.
        RunStopped: the network failed at every attempt.
    """
    wait = FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except GanvasError:  # noqa: PERF203  # the loop is over attempts
            raise
        except (FileNotFoundError, PermissionError) as error:
            raise GanvasError(f"{address}: cannot be read ({_in_words(error)})") from None
        except Exception as error:  # each library below fsspec has its own kinds
            status = getattr(error, "status", None)
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
                raise GanvasError(f"{address}: cannot be read ({_in_words(error)})") from None
            if attempt == ATTEMPTS:
                raise RunStopped(
                    f"{address}: cannot be read after {ATTEMPTS} attempts ({_in_words(error)});"
                    " the same command goes on from here"
                ) from None
            time.sleep(wait)
            wait *= 2
    raise AssertionError("not reached")


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class _Remote(io.RawIOBase):
    """The bytes behind an address; opened at the first read, and again where a connection breaks."""

    def __init__(self, address: str) -> None:
        self._address, self._position = address, 0
        self._files, self._path = filesystem(address)
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        data: bytes = with_retries(self._address, lambda: self._attempt(len(into)))
        into[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _attempt(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._open()
            return bytes(self._file.read(size))
        except Exception:
            self._drop()
            raise

    def _open(self) -> Any:
        """The file at the present position."""
        if not self._address.startswith("http"):
            file = self._files.open(self._path, "rb", block_size=_REQUEST_BYTES)
            file.seek(self._position)
            return file
        # one response, read as it comes; a size is given only to save the question for it
        headers = {"Range": f"bytes={self._position}-"} if self._position else {}
        file = self._files.open(self._path, "rb", block_size=0, size=1, headers=headers)
        here = self._position if file.r.status == 206 else 0
        while here < self._position:
            part = len(file.read(min(self._position - here, _REMOTE_BUFFER)))
            if not part:
                raise OSError("it is shorter than it was")
            here += part
        return file

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception:  # it is broken already
                return

    def close(self) -> None:
        """Let the connection go."""
        self._drop()
        super().close()
