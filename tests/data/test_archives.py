"""Tar shards: every attack is refused by name, every damage is one line, samples are WebDataset's."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganvas.data import archives, shards
from ganvas.data.archives import Sample, Tar, samples
from ganvas.data.shards import list_shards, open_shard, with_retries
from ganvas.errors import GanvasError, RunStopped

Entry = tuple[str, bytes]


def tar_of(entries: Sequence[Entry | tarfile.TarInfo], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of files, or of what a header alone says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class Pipe(io.BytesIO):
    """Bytes that can only be read from front to back."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise AssertionError("a pipe was sought in")


KINDS = pytest.mark.parametrize("file", [io.BytesIO, Pipe], ids=["file", "pipe"])


def contents(data: bytes, file: Callable[[bytes], io.BytesIO] = io.BytesIO) -> list[Entry]:
    tar = Tar(file(data), "one.tar")
    return [(member.name, tar.read()) for member in tar]


def keys(data: bytes, *, skip: int = 0) -> list[tuple[str, dict[str, bytes]]]:
    found = samples(
        Tar(io.BytesIO(data), "one.tar"), lambda part: part != "json", lambda s: "jpg" in s.names, skip
    )
    return [(sample.key, sample.parts) for sample in found]


@KINDS
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_file_is_read_whatever_the_dialect(kind: int, file: Callable[[bytes], io.BytesIO]) -> None:
    entries = [("a.jpg", b"x" * 1000), ("deep/er/b.txt", b""), ("c", b"y" * 512), ("d" * 90 + ".txt", b"z")]
    if kind != tarfile.USTAR_FORMAT:
        entries += [("long/" * 60 + "e.jpg", b"long"), ("größe-漢字.txt", b"words")]
    assert contents(tar_of(entries, kind), file) == entries


@KINDS
def test_bytes_that_nobody_reads_are_skipped(file: Callable[[bytes], io.BytesIO]) -> None:
    tar = Tar(file(tar_of([("a", b"x" * 70_000), ("b", b"y"), ("c", b"z" * 3)])), "one.tar")
    assert [tar.read() for member in tar if member.name == "c"] == [b"zzz"]


def test_directories_are_left_out_and_a_leading_dot_is_no_folder() -> None:
    data = tar_of([special("./", tarfile.DIRTYPE), special("./sub", tarfile.DIRTYPE), ("./sub/a.jpg", b"x")])
    assert contents(data) == [("sub/a.jpg", b"x")]


ATTACKS = {
    "absolute": (("/etc/passwd.jpg", b"x"), "absolute path"),
    "windows": (("C:\\evil.jpg", b"x"), "absolute path"),
    "up": (("a/../../evil.jpg", b"x"), "'..' in its path"),
    "up with a backslash": (("a\\..\\evil.jpg", b"x"), "'..' in its path"),
    "folder": (special("../evil", tarfile.DIRTYPE), "'..' in its path"),
    "symbolic link": (special("evil.jpg", tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
    "hard link": (special("evil.jpg", tarfile.LNKTYPE, "a.jpg"), "a hard link"),
    "character device": (special("evil.jpg", tarfile.CHRTYPE), "a device file"),
    "block device": (special("evil.jpg", tarfile.BLKTYPE), "a device file"),
    "pipe": (special("evil.jpg", tarfile.FIFOTYPE), "a named pipe"),
    "sparse": (special("evil.jpg", tarfile.GNUTYPE_SPARSE), "a sparse file"),
    "unknown": (special("evil.jpg", b"V"), "the unknown type"),
}


@pytest.mark.parametrize(("entry", "why"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_refused_with_the_name_of_its_member(entry: Entry | tarfile.TarInfo, why: str) -> None:
    name = entry.name if isinstance(entry, tarfile.TarInfo) else entry[0]
    with pytest.raises(GanvasError) as error:
        contents(tar_of([("a.jpg", b"x"), entry], tarfile.GNU_FORMAT))
    assert str(error.value).startswith("one.tar: member ") and why in str(error.value)
    assert ascii(name)[1:-1] in str(error.value).replace("\\\\", "\\") or name in str(error.value)


@pytest.mark.parametrize("records", [{"path": "../evil.jpg"}, {"GNU.sparse.major": "1"}, {"size": "-1"}])
def test_what_a_pax_header_says_is_checked_too(records: dict[str, str]) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = records
    with pytest.raises(GanvasError, match=r"'\.\.'|sparse|has the size '-1'"):
        contents(tar_of([info]))


def test_a_member_larger_than_the_bound_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("huge.jpg")
    info.size = archives.MAX_MEMBER_BYTES + 1
    with pytest.raises(GanvasError, match=r"member huge\.jpg has 268,435,457 bytes"):
        contents(info.tobuf())


def test_an_extended_header_larger_than_the_bound_is_refused_before_it_is_read() -> None:
    header = special("long", tarfile.GNUTYPE_LONGNAME)
    header.size = 1 << 30
    with pytest.raises(GanvasError, match="an extended header of"):
        contents(header.tobuf())


def test_a_sample_of_too_many_parts_is_refused() -> None:
    with pytest.raises(GanvasError, match=r"member a\.64 is one of more than 64 parts"):
        keys(tar_of([(f"a.{i}", b"") for i in range(100)]))


@KINDS
@pytest.mark.parametrize("cut", [100, 512, 700, 1024 + 600, -1024, -10240])
def test_a_shard_cut_short_is_one_line_that_names_it(cut: int, file: Callable[[bytes], io.BytesIO]) -> None:
    data = tar_of([("a.jpg", b"x" * 600), ("b.jpg", b"x" * 600)]).rstrip(b"\0") + bytes(1024)
    with pytest.raises(GanvasError, match=r"one\.tar: .*damaged or cut short"):
        contents(data[: cut if cut > 0 else len(data) + max(cut, 1 - len(data))], file)


def test_a_damaged_header_is_not_taken_for_the_end() -> None:
    data = bytearray(tar_of([("a.jpg", b"x"), ("b.jpg", b"y"), ("c.jpg", b"z")]))
    data[1024 + 150] ^= 0xFF  # in the checksum of b's header
    with pytest.raises(GanvasError, match="damaged or cut short"):
        contents(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_the_damage_there_is_an_answer_or_one_line(data: st.DataObject) -> None:
    whole = bytearray(tar_of([("a.jpg", b"x" * 700), ("long/" * 60 + "b.txt", b"y"), ("ü.jpg", b"z" * 3)]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        contents(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except GanvasError as error:
        assert "\n" not in str(error) and str(error).startswith("one.tar: ")


def test_a_gzipped_shard_is_read_and_a_bomb_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [("a.jpg", b"x" * 100_000), ("a.txt", b"words")]
    tar = Tar(io.BytesIO(gzip.compress(tar_of(entries))), "one.tar.gz")
    assert [(member.name, tar.read()) for member in tar] == entries
    monkeypatch.setattr(archives, "_FREE_BYTES", 10_000)
    with pytest.raises(GanvasError, match=r"one\.tar\.gz: unpacks to more than 100 times its size"):
        for _ in Tar(io.BytesIO(gzip.compress(tar_of([("a.jpg", bytes(3_000_000))]))), "one.tar.gz"):
            pass


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b[:40] + b"oops" + b[44:], lambda b: b"no"])
def test_a_damaged_gzip_is_one_line(damage: Callable[[bytes], bytes]) -> None:
    packed = gzip.compress(tar_of([("a.jpg", bytes(range(256)) * 99)]))
    with pytest.raises(GanvasError, match=r"^one\.tar\.gz: damaged or cut short"):
        for _ in Tar(io.BytesIO(damage(packed)), "one.tar.gz"):
            pass


def test_neighbours_with_the_same_key_are_a_sample_and_the_first_dot_ends_the_key() -> None:
    data = tar_of(
        [
            ("x/01.jpg", b"1"),
            ("x/01.seg.png", b"s"),
            ("x/01.json", b"{}"),
            ("x.y/01.JPG", b"2"),
            ("x/02.txt", b"no picture"),
            ("x/01.jpg", b"again"),
            (".hidden.jpg", b""),
            ("README", b""),
        ]
    )
    assert keys(data) == [
        ("x/01", {"jpg": b"1", "seg.png": b"s"}),
        ("x.y/01", {"jpg": b"2"}),
        ("x/01", {"jpg": b"again"}),
    ]


def test_a_part_given_twice_begins_another_sample() -> None:
    assert keys(tar_of([("1.jpg", b"a"), ("1.jpg", b"b"), ("1.txt", b"c")])) == [
        ("1", {"jpg": b"a"}),
        ("1", {"jpg": b"b", "txt": b"c"}),
    ]


@given(st.lists(st.sampled_from([("jpg", "txt"), ("txt",), ("jpg", "json")]), max_size=8), st.integers(0, 9))
def test_skipping_gives_what_remains(groups: list[tuple[str, ...]], skip: int) -> None:
    data = tar_of(
        [(f"{i}.{part}", f"{i}{part}".encode()) for i, group in enumerate(groups) for part in group]
    )
    assert keys(data, skip=skip) == keys(data)[skip:]


def test_a_sample_that_does_not_count_is_no_sample_and_unwanted_parts_are_not_read() -> None:
    sample = Sample("a", ["jpg", "json"], {"jpg": b"x"})
    found = samples(
        Tar(io.BytesIO(tar_of([("a.jpg", b"x"), ("a.json", b"{}")])), "one.tar"),
        lambda part: part == "jpg",
        lambda s: "json" in s.names,
    )
    assert list(found) == [sample]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("00001.tar", "00000.tar", "00002.tar.gz", "00000_stats.json", "x.tgz"):
        (tmp_path / name).write_bytes(tar_of([("a.jpg", b"x")]))
    return tmp_path


def test_shards_are_listed_from_folders_files_patterns_ranges_and_lists(folder: Path) -> None:
    def names(place: str) -> list[str]:
        return [Path(shard).name for shard in list_shards(place)]

    assert names(str(folder)) == ["00000.tar", "00001.tar", "00002.tar.gz", "x.tgz"]
    assert names(f"{folder}/00001.tar") == ["00001.tar"]
    assert names(f"{folder}/0000[01]*") == ["00000.tar", "00001.tar"]
    assert names(f"{folder}/{{00000..00001}}.tar") == ["00000.tar", "00001.tar"]
    assert names(f"{folder}/{{00001.tar,x.tgz}}") == ["00001.tar", "x.tgz"]
    (folder / "list.txt").write_text("x.tgz\n\n{00000..00001}.tar\nhttps://host/{8..10}.tar\n")
    assert names(f"{folder}/list.txt") == ["x.tgz", "00000.tar", "00001.tar", "8.tar", "9.tar", "10.tar"]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("{folder}/nothing", "no such file or folder"),
        ("{folder}/00000_stats.json", "is no shard"),
        ("{folder}/empty", "no shards here; looked for files that end in .tar"),
        ("ftp://host/a.tar", "this kind of address is not read"),
        ("s3://simplecache::/a.tar", "this kind of address is not read"),
        ("http://host/{9..1}.tar", "should go up"),
        ("http://host/{0..9999999999}.tar", "at most 1,000,000"),
        ("http://host/{0..99999}{0..99}.tar", "means 10,000,000 shards"),
        ("{folder}/00003.tar", "no such file or folder"),
    ],
)
def test_a_wrong_place_is_one_line(folder: Path, place: str, why: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(GanvasError, match=why):
        list_shards(place.replace("{folder}", str(folder)))


@pytest.mark.parametrize("line", ["../other.tar", "/etc/other.tar", "~/other.tar"])
def test_a_list_does_not_lead_out_of_its_folder(folder: Path, line: str) -> None:
    (folder / "list.txt").write_text(line)
    with pytest.raises(GanvasError, match="leads out of its folder"):
        list_shards(f"{folder}/list.txt")


def test_a_network_error_is_tried_again_and_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(shards.time, "sleep", waits.append)
    answers: list[Exception | bytes] = [OSError("reset"), TimeoutError(), b"here"]

    def work() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert with_retries("s3://x", work) == b"here" and waits == [0.5, 1.0]
    answers = [OSError("reset\nby peer")] * 9
    with pytest.raises(
        RunStopped, match=r"s3://x: cannot be read after 5 attempts \(OSError: reset by peer\)"
    ):
        with_retries("s3://x", work)
    answers = [FileNotFoundError("gone"), b"never asked for"]
    with pytest.raises(GanvasError, match="s3://x: cannot be read"):
        with_retries("s3://x", work)
    assert answers == [b"never asked for"]


def test_a_connection_that_breaks_goes_on_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setattr(shards, "FIRST_WAIT", 0.0)
    data = tar_of([(f"{i}.jpg", bytes([i]) * 99_000) for i in range(30)])
    with fsspec.open("memory://archives/a.tar", "wb") as file:
        file.write(data)
    real, calls = shards._Remote._open, 0

    def open_and_break(self: shards._Remote) -> io.BytesIO:
        nonlocal calls
        calls += 1
        file = real(self)
        part = io.BytesIO(file.read(1_300_000))
        after = part.getvalue()

        def read(size: int) -> bytes:
            got = io.BytesIO.read(part, size)
            if not got and len(after) == 1_300_000:
                raise ConnectionResetError("broken")
            return got

        part.read = read  # type: ignore[method-assign]
        return part

    monkeypatch.setattr(shards._Remote, "_open", open_and_break)
    with open_shard("memory://archives/a.tar") as file:
        assert file.read() == data
    assert calls == 3


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "aiohttp", None)
    with pytest.raises(GanvasError, match=r"pip install 'ganvas\[remote\]'"):
        open_shard("https://host/a.tar")
