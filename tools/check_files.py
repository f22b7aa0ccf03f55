"""Checks on the repository's files that no other tool makes. Prints every problem; fails if there is one.

Text files end in one newline and have no trailing white space; YAML, TOML and JSON can be read; no file is
large; links between Markdown files lead somewhere; nothing names a path of one person's machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import yaml

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 2_000_000
MAY_BE_LARGE = (".npz", ".npy", ".parquet", ".safetensors", ".zip", ".xz")

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_PRIVATE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/\w")
_CONFLICT = re.compile(r"^(?:<{7}|>{7})(?: |$)", re.MULTILINE)


def tracked_files() -> list[Path]:
    """What Git tracks or would track; without Git, every file that is not hidden or built."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = [ROOT / name for name in ("src", "tests", "tools", "docs", "benchmarks", "examples")]
        paths = [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
        paths += ROOT.glob("*.*")
    return sorted(path for path in set(paths) if path.is_file())


def problems(path: Path) -> Iterator[str]:
    """What is wrong with one file."""
    if path.stat().st_size > MAX_BYTES and path.suffix not in MAY_BE_LARGE:
        yield f"larger than {MAX_BYTES:,} bytes"
    data = path.read_bytes()
    if b"\0" in data[:8192]:
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        yield "is not UTF-8"
        return
    yield from _shape(text, is_data=path.suffix == ".json")
    if (reader := _READERS.get(path.suffix)) is not None:
        try:
            reader(text)
        except ValueError as error:
            yield f"cannot be read: {' '.join(str(error).split())}"
    if path.suffix == ".md":
        yield from _dead_links(path, text)


def _shape(text: str, *, is_data: bool) -> Iterator[str]:
    if text and not is_data and (not text.endswith("\n") or text.endswith("\n\n")):
        yield "does not end in exactly one newline"
    if "\r" in text:
        yield "has carriage returns"
    if _CONFLICT.search(text):
        yield "has a merge conflict"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"line {number}: trailing white space"
        if _PRIVATE_PATH.search(line):
            yield f"line {number}: names a path of one machine"


def _dead_links(path: Path, text: str) -> Iterator[str]:
    for target in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:|#", target):
            continue
        if not (path.parent / unquote(target.split("#")[0])).exists():
            yield f"link to {target}, which is not there"


def _read_yaml(text: str) -> None:
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _read_toml(text: str) -> None:
    if sys.version_info >= (3, 11):
        import tomllib

        tomllib.loads(text)


_READERS: dict[str, Callable[[str], object]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".cff": _read_yaml,
    ".toml": _read_toml,
    ".json": json.loads,
}


def main() -> int:
    """Check every file; the exit status."""
    found = [f"{path.relative_to(ROOT)}: {problem}" for path in tracked_files() for problem in problems(path)]
    print("\n".join(found) if found else "every file is in order")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
