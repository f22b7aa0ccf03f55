"""Build the emoji pack that ships with Ganvas: drawings as SVG, names and tags in many languages.

    python tools/build_emoji.py                      fetch the pinned packages with npm, then build
    python tools/build_emoji.py --packages FOLDER    use packages that are already unpacked below FOLDER

The same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "src" / "ganvas" / "data" / "emoji" / "emoji.jsonl.xz"
MAX_BYTES = 8 * 2**20
FORBIDDEN = ("<text", "<image", "<style", "<script", "<foreignObject", 'href="http', "url(http")
"""What would make a drawing depend on fonts or files of the machine that renders it."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One source: an npm package at a pinned version."""

    style: str | None
    """The drawing style's name; None for the names and tags."""
    title: str
    package: str
    version: str
    sha256: str
    """Of the package's archive."""
    licence: str
    credit: str
    url: str


PACKAGES = (
    Package(
        style="noto",
        title="Noto Emoji",
        package="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        credit="Copyright Google Inc",
        url="https://github.com/googlefonts/noto-emoji",
    ),
    Package(
        style="twemoji",
        title="Twemoji",
        package="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        licence="CC-BY-4.0",
        credit="Copyright Twitter, Inc and other contributors",
        url="https://github.com/jdecked/twemoji",
    ),
    Package(
        style="fluent",
        title="Fluent Emoji",
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        credit="Copyright Microsoft Corporation",
        url="https://github.com/microsoft/fluentui-emoji",
    ),
    Package(
        style=None,
        title="emojibase",
        package="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        licence="MIT",
        credit="Copyright Miles Johnson; names and tags from Unicode CLDR, Copyright Unicode, Inc.",
        url="https://github.com/milesj/emojibase",
    ),
)


def fetch(package: Package, folder: Path) -> None:
    """Fetch and unpack one package below ``folder``."""
    command = [
        "npm",
        "pack",
        "--silent",
        f"{package.package}@{package.version}",
        "--pack-destination",
        str(folder),
    ]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    archive = folder / name
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        sys.exit(
            f"{package.package} {package.version}: the archive's checksum is {found}, not {package.sha256}"
        )
    with tarfile.open(archive) as tar:
        tar.extractall(folder / package.package.replace("/", "-"), filter="data")


def find(package: Package, folder: Path) -> Path:
    """The folder below ``folder`` that holds ``package`` at its pinned version."""
    for file in sorted(folder.glob("*/package/package.json")):
        about = json.loads(file.read_text(encoding="utf-8"))
        if (about["name"], about["version"]) == (package.package, package.version):
            return file.parent
    sys.exit(f"{folder}: holds no {package.package} {package.version}")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def flat(emojis: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Every emoji with the base it is a skin tone of (None where it is a base itself)."""
    for emoji in emojis:
        yield emoji, None
        for skin in emoji.get("skins", ()):
            yield skin, emoji


def names(folder: Path, language: str) -> dict[str, list[Any]]:
    """Hexcode to ``[label, tags]`` in one language; a skin tone has no tags of its own."""
    return {
        emoji["hexcode"]: [emoji["label"], sorted(emoji.get("tags", ()))]
        for emoji, _ in flat(read(folder / language / "data.json"))
    }


def emoji_lines(folder: Path, languages: list[str]) -> Iterator[dict[str, Any]]:
    """One line an emoji: where it belongs, and its names and tags in every language."""
    meta = read(folder / "meta" / "groups.json")
    words = {language: names(folder, language) for language in languages}
    for emoji, base in flat(read(folder / "en" / "data.json")):
        group = meta["groups"].get(str(emoji.get("group")), "symbols")
        if group == "component":
            continue
        line = {
            "hexcode": emoji["hexcode"],
            "group": group,
            "subgroup": meta["subgroups"].get(str(emoji.get("subgroup")), "regional-indicator"),
            "names": {language: words[language][emoji["hexcode"]] for language in languages},
        }
        if base is not None:
            tone = emoji["tone"]
            line |= {"base": base["hexcode"], "tones": tone if isinstance(tone, list) else [tone]}
        yield line


def drawing(icons: dict[str, Any], name: str) -> tuple[str, list[float]]:
    """The SVG body of an icon, and its box ``[left, top, width, height]``; aliases followed."""
    if name in icons["icons"]:
        icon = icons["icons"][name]
        body = icon["body"]
    else:
        icon = icons["aliases"][name]
        body, _ = drawing(icons, icon["parent"])
    get = lambda key, default: icon.get(key, icons.get(key, default))  # noqa: E731
    box = [get("left", 0), get("top", 0), get("width", 16), get("height", 16)]
    turned = any(icon.get(how) for how in ("hFlip", "vFlip", "rotate"))
    if turned or any(mark in body for mark in FORBIDDEN):
        sys.exit(f"{icons['prefix']}/{name}: this drawing uses something that the pack does not carry")
    return body, box


def key(hexcode: str) -> str:
    """A hexcode without variation selectors, by which the sources agree."""
    return hexcode.upper().replace("-FE0F", "")


def drawing_lines(package: Package, folder: Path, hexcodes: list[str]) -> Iterator[dict[str, Any]]:
    """One line a drawing of one style, in the order of ``hexcodes``, so that skin tones lie side by side."""
    icons = read(folder / "icons.json")
    chars = {key(hexcode): name for hexcode, name in read(folder / "chars.json").items()}
    for hexcode in hexcodes:
        if key(hexcode) in chars:
            body, box = drawing(icons, chars[key(hexcode)])
            yield {"style": package.style, "hexcode": hexcode, "box": box, "body": body}


def lines(folders: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """The whole pack: a header, the emojis, the drawings."""
    emojibase = folders["emojibase-data"]
    languages = sorted(path.parent.name for path in emojibase.glob("*/data.json"))
    sources = [
        {
            name: getattr(p, name)
            for name in ("style", "title", "package", "version", "licence", "credit", "url")
        }
        for p in PACKAGES
    ]
    emojis = list(emoji_lines(emojibase, languages))
    hexcodes = [emoji["hexcode"] for emoji in emojis]
    drawings = [
        line
        for package in PACKAGES
        if package.style
        for line in drawing_lines(package, folders[package.package], hexcodes)
    ]
    yield {
        "format": 1,
        "sources": sources,
        "languages": languages,
        "emojis": len(emojis),
        "drawings": len(drawings),
    }
    yield from emojis
    yield from drawings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, help="a folder with the packages, unpacked: */package/package.json"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the pack to write (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.packages is None:
            for package in PACKAGES:
                fetch(package, Path(folder))
        below = arguments.packages or Path(folder)
        folders = {package.package: find(package, below) for package in PACKAGES}
        text = "".join(
            json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines(folders)
        )
    packed = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
    if len(packed) > MAX_BYTES:
        sys.exit(f"the pack takes {len(packed):,} bytes; {MAX_BYTES:,} are allowed")
    arguments.out.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    arguments.out.with_name(arguments.out.name + ".sha256").write_text(f"{digest}  {arguments.out.name}\n")
    print(f"{arguments.out}: {len(packed):,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
