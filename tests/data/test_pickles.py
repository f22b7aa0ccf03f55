"""Pickles of other people: what is read, and that nothing else ever happens."""

from __future__ import annotations

import os
import pickle
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganvas.data import pickles
from ganvas.data.pickles import load_pickle
from ganvas.errors import GanvasError

CUB = Path(__file__).parents[3] / "shared" / "data" / "cub_metadata" / "attngan"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


class Reduced:
    """Pickles as a call."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def load(content: bytes, folder: Path) -> object:
    path = folder / "some.pickle"
    path.write_bytes(content)
    return load_pickle(path)


def refusal(content: bytes, folder: Path) -> str:
    with pytest.raises(GanvasError) as error:
        load(content, folder)
    text = str(error.value)
    assert "\n" not in text and "some.pickle" in text and len(text) < 400
    return text


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=20,
)


@quick
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_what_python_writes_of_plain_values_comes_back(value: object, protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps(value, protocol)
    loaded = load(content, tmp_path)
    assert loaded == value and repr(loaded) == repr(value)  # 1 is not True


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype="<f4").reshape(3, 4),
        np.arange(12, dtype=">i8").reshape(3, 2, 2),
        np.array([[True], [False]]),
        np.array(["wren", "a gull"]),
        np.array([b"wren", b"a gull"]),
        np.array(7, dtype=np.float16),
        np.zeros((0, 4), np.uint8),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_numpy_arrays_come_back_bit_by_bit(
    array: np.ndarray, order: str, protocol: int, tmp_path: Path
) -> None:
    array = np.asarray(array, order=order)
    loaded = load(pickle.dumps([array, array], protocol), tmp_path)
    assert isinstance(loaded, list) and loaded[0] is loaded[1]
    assert loaded[0].dtype == array.dtype and loaded[0].shape == array.shape
    assert loaded[0].tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [np.int64(-7), np.float32(0.5), np.bool_(True), np.str_("wren")])
def test_numpy_scalars_come_as_numbers_of_python(value: np.generic, protocol: int, tmp_path: Path) -> None:
    loaded = load(pickle.dumps({"is": value}, protocol), tmp_path)
    assert loaded == {"is": value.item()} and type(loaded["is"]) is type(value.item())


# by hand, as the pickle and cPickle of Python 2 write: their strings are bytes, and a long has an L
PYTHON_2 = {
    b"(lp0\nS'caf\\xe9'\np1\naVcaf\\u00e9\np2\naL5L\naI01\naF0.5\na.": ["caf\xe9", "caf\xe9", 5, True, 0.5],
    b"(dp0\nI3\nS'it\\'s'\np1\nsS\"two\"\nNs.": {3: "it's", "two": None},
    b"\x80\x02]q\x01(U\x04caf\xe9q\x02X\x05\x00\x00\x00caf\xc3\xa9q\x03h\x02\x8a\x01\xffe.": [
        "caf\xe9",
        "caf\xe9",
        "caf\xe9",
        -1,
    ],
    b"(I1\n(I2\nI3\ntp1\ng1\nt.": (1, (2, 3), (2, 3)),
}


@pytest.mark.parametrize("content", PYTHON_2)
def test_python_2_strings_numbers_and_shared_values_are_read(content: bytes, tmp_path: Path) -> None:
    assert load(content, tmp_path) == PYTHON_2[content]


DTYPE_0 = b"cnumpy\ndtype\np2\n(S'%s'\np3\nI0\nI1\ntp4\nRp5\n(I3\nS'<'\np6\nNNNI-1\nI-1\nI0\ntp7\nb"


def array_0(code: bytes = b"f4", shape: bytes = b"I2\nI2\n", elements: bytes | None = None) -> bytes:
    """An array of protocol 0, as Python 2 with NumPy 1 wrote it: its elements are a string with escapes."""
    if elements is None:
        elements = np.array([[0.5, 1.5], [-2, 1e9]], "<f4").tobytes()
    quoted = "".join(f"\\x{byte:02x}" if byte < 32 or byte > 126 else chr(byte) for byte in elements)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntS'b'\ntR(I1\n(%st" % shape
        + DTYPE_0 % code
        + b"I00\nS'%s'\np8\ntb" % quoted.encode()
    )


def test_an_array_of_python_2_is_read_though_its_elements_are_text(tmp_path: Path) -> None:
    loaded = load(b"(lp9\n" + array_0() + b"a.", tmp_path)
    assert isinstance(loaded, list) and loaded[0].dtype == np.float32
    assert loaded[0].tolist() == [[0.5, 1.5], [-2.0, 1e9]]
    scalar = (
        b"cnumpy.core.multiarray\nscalar\np1\n("
        + DTYPE_0 % b"i8"
        + b"S'\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\ntR."
    )
    assert load(scalar, tmp_path) == 2


def test_an_array_that_cpickle_wrote_is_read_from_its_raw_bytes(tmp_path: Path) -> None:
    # protocol 2 of Python 2: elements are a string with its length, not escaped, whatever bytes they are
    elements = bytes(range(256)) * 4
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x02K\x80\x86cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87Rq\x05"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(elements)) + elements + b"tb."
    )
    loaded = load(content, tmp_path)
    assert isinstance(loaded, np.ndarray) and loaded.dtype == np.float32 and loaded.shape == (2, 128)
    assert loaded.tobytes() == elements


@pytest.mark.skipif(not CUB.is_dir(), reason="needs shared/data/cub_metadata")
@pytest.mark.parametrize(("split", "images", "classes"), [("train", 8855, 150), ("test", 2933, 50)])
def test_the_official_lists_of_cub_are_read(split: str, images: int, classes: int) -> None:
    names = load_pickle(CUB / split / "filenames.pickle")
    numbers = load_pickle(CUB / split / "class_info.pickle")
    assert isinstance(names, list) and isinstance(numbers, list)
    assert len(names) == len(numbers) == images and len(set(numbers)) == classes
    assert [int(name.split(".")[0]) for name in names] == numbers


CALLS = {
    "posix.system": b"cposix\nsystem\n(S'touch {witness}'\ntR.",
    "os.system": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.",
    "nt.system": b"(S'touch {witness}'\nint\nsystem\n.",
    "__builtin__.eval": b'c__builtin__\neval\n(S\'open("{witness}", "w")\'\ntR.',
    "builtins.eval": b"\x80\x03cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    "builtins.getattr": b"cbuiltins\ngetattr\n.",
    "builtins.bytearray": b"cbuiltins\nbytearray\n(I999999999999\ntR.",
    "functools.partial": b"cfunctools\npartial\n(tR.",
    "numpy.load": b"cnumpy\nload\n(S'{witness}'\ntR.",
    "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n.",
    "numpy.core.multiarray._reconstruct.__globals__": b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
    "numpy.void": b"cnumpy\nvoid\n.",
    "copy_reg._reconstructor": b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\ntR.",
    "collections.defaultdict": b"ccollections\ndefaultdict\n(tR.",
    "_codecs.lookup": b"c_codecs\nlookup\n.",
    "ganvas.data.pickles.load_pickle": b"cganvas.data.pickles\nload_pickle\n(S'{witness}'\ntR.",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_pickle_that_asks_for_more_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content = CALLS[name].replace(b"{witness}", str(tmp_path / "witness").encode())
    text = refusal(content, tmp_path)
    assert f"'{name}'" in text and "refused" in text
    assert not (tmp_path / "witness").exists()


def test_a_module_that_a_pickle_names_is_not_imported(tmp_path: Path) -> None:
    assert "'this.s'" in refusal(b"cthis\ns\n.", tmp_path)
    assert "this" not in sys.modules


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("call", [(os.system, ("true",)), (eval, ("1",)), (np.load, ("x",)), (Reduced, ())])
def test_what_python_itself_writes_of_a_call_is_refused_by_name(
    call: tuple[object, ...], protocol: int, tmp_path: Path
) -> None:
    name = getattr(call[0], "__name__", "")
    assert f".{name}'" in refusal(pickle.dumps([1, Reduced(*call)], protocol), tmp_path)


FOREIGN = {
    b"Pwho\n.": "persistent id",
    b"\x80\x02]Q.": "persistent id",
    b"\x80\x02\x82\x01.": "extension registry",
    b"\x80\x02\x83\x01\x00.": "extension registry",
    b"\x80\x02\x84\x01\x00\x00\x00.": "extension registry",
    b"\x80\x05\x97.": "buffer outside",
    b"(cnumpy\nndarray\nI3\no.": "an instance",
    b"\x80\x02cnumpy\nndarray\nI999999999\n\x85\x81.": "an instance",
    b"\x80\x04cnumpy\nndarray\n)}\x92.": "an instance",
    b"\x80\x02]}(X\x01\x00\x00\x00aK\x01ub.": "a state of 'list'",
    b"\x80\x02cnumpy\nndarray\n}b.": "a state of 'Name'",
    b"\x80\x02\x8fK\x01.": "unknown opcode 0x8f",
    b"\x80\x02]2.": "unknown opcode 0x32",
}


@pytest.mark.parametrize("content", FOREIGN)
def test_steps_that_data_do_not_need_are_refused(content: bytes, tmp_path: Path) -> None:
    assert FOREIGN[content] in refusal(content, tmp_path)


OBJECT_STATE = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
ARRAYS = {
    "an object dtype": (OBJECT_STATE + DTYPE_0 % b"O8" + b"I00\n(lI1\natb.", "dtype 'O8'"),
    "raw records": (OBJECT_STATE + DTYPE_0 % b"V8" + b"I00\nS'12345678'\ntb.", "dtype 'V8'"),
    "a dtype by name": (DTYPE_0 % b"object" + b".", "dtype 'object'"),
    "a dtype with fields": (b"cnumpy\ndtype\n(S'f4,O'\nI0\nI1\ntR.", "dtype 'f4,O'"),
    "fields in the state": (
        b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nN(S'a'\nt}I4\nI4\nI0\ntb.",
        "with fields",
    ),
    "elements that are a list": (OBJECT_STATE + DTYPE_0 % b"f4" + b"I00\n(lI1\natb.", "unknown state"),
    "a gigantic shape": (array_0(shape=b"I4611686018427387904\nI4\n") + b".", "impossible shape"),
    "a negative shape": (array_0(shape=b"I-2\nI-2\n") + b".", "impossible shape"),
    "a gigantic empty shape": (array_0(shape=b"I0\nI99999999999\n", elements=b"") + b".", "impossible shape"),
    "too few elements": (array_0(shape=b"I2\nI3\n") + b".", "too few"),
    "text without length": (array_0(code=b"S0", shape=b"I4\n", elements=b"") + b".", "dtype 'S0'"),
    "truth values of 7": (array_0(code=b"b1", shape=b"I1\n", elements=b"\7") + b".", "truth values"),
    "characters there are not": (
        array_0(code=b"U1", shape=b"I1\n", elements=b"\xff" * 4) + b".",
        "characters",
    ),
    "an array never filled": (
        b"(l" + array_0()[: array_0().index(b"(I1\n(")] + b"a.",
        "list that holds no data",
    ),
    "an array filled twice": (array_0() + b"(I1\n(I2\ntNI00\nS''\ntb.", "a state of"),
    "a name as a value": (b"(lcnumpy\nndarray\na.", "list that holds no data"),
    "a name as the result": (b"cnumpy\nndarray\n.", "before its value is complete"),
    "a dtype within tuples": (b"((" + DTYPE_0 % b"f4" + b"tt.", "before its value is complete"),
    "a class other than ndarray": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        "unexpected arguments of reconstruct",
    ),
    "a gigantic reconstruction": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I99999999999\ntS'b'\ntR.",
        "unexpected arguments",
    ),
    "another codec": (b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.", "unexpected arguments of encode"),
    "bytes of a size": (b"c__builtin__\nbytes\n(I999999999999\ntR.", "unexpected arguments of bytes"),
}


@pytest.mark.parametrize("attack", ARRAYS)
def test_arrays_that_are_no_plain_numbers_or_text_are_refused(attack: str, tmp_path: Path) -> None:
    content, reason = ARRAYS[attack]
    assert reason in refusal(content, tmp_path)


def _nested_tuples(depth: int) -> bytes:
    """The empty tuple, then each time a pair of the last one with itself: 2 to the power of depth leaves."""
    return b")q\x00" + b"h\x00\x86q\x00h\x00" * depth


BOMBS = {
    "a string longer than the file": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a.",
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", (1 << 64) - 1) + b"a.",
    "a string of negative length": b"T" + struct.pack("<i", -5) + b"aaaaaaaaa.",
    "a number of a gigabyte": b"\x80\x02\x8b" + struct.pack("<I", 1 << 30) + b"1.",
    "a number of a megabyte": b"\x80\x02\x8b" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b".",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a name of a megabyte": b"c" + b"a" * 1_000_000 + b"\nb\n.",
    "a dict whose key takes for ever": b"}" + _nested_tuples(60) + b"Ns.",
    "many lists": b"(" + b"]" * 1_000_000 + b"l.",
    "many marks": b"(" * 1_000_000 + b".",
    "many remembered values": b"]" + b"\x94" * 1_000_000 + b".",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_takes_neither_much_memory_nor_time(
    bomb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "MAX_OBJECTS", 100_000)
    begin = time.monotonic()
    tracemalloc.start()
    refusal(BOMBS[bomb], tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20 and time.monotonic() - begin < 20


AGAIN = {
    "as bytes": (
        b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02",
        b"h\x01h\x00h\x02\x86R",
    ),
    "as an array": (
        b"cnumpy.core.numeric\n_frombuffer\nq\x01cnumpy\ndtype\nX\x02\x00\x00\x00u1K\x00K\x01\x87Rq\x02",
        b"h\x01(h\x00h\x02J\x00\x00\x10\x00\x85X\x01\x00\x00\x00CtR",
    ),
}


@pytest.mark.parametrize("way", AGAIN)
def test_one_text_does_not_become_many_arrays(way: str, tmp_path: Path) -> None:
    megabyte = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00"
    names, again = AGAIN[way]
    assert "larger than the file" in refusal(b"\x80\x02(" + megabyte + names + again * 1000 + b"t.", tmp_path)


def test_lists_that_share_their_parts_cost_nothing(tmp_path: Path) -> None:
    content = b"\x80\x02(" + b"]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b"t."
    loaded = load(content, tmp_path)
    assert isinstance(loaded, tuple) and loaded[-1][0] is loaded[-1][1]


def test_a_deep_list_is_read_without_recursion(tmp_path: Path) -> None:
    loaded = load(b"]" * 100_000 + b"a" * 99_999 + b".", tmp_path)
    depth = 1
    while loaded:
        (loaded,) = loaded  # type: ignore[misc]
        depth += 1
    assert depth == 100_000


def test_a_file_larger_than_asked_for_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "some.pickle"
    path.write_bytes(pickle.dumps("a" * 1000))
    assert load_pickle(path) == "a" * 1000
    with pytest.raises(GanvasError, match="more than 999 bytes"):
        load_pickle(path, max_bytes=999)


@pytest.mark.parametrize(
    "content", [b"", b".", b"\x80\x02", b"PK\x03\x04zip", b"not a pickle\n", b"]].", b"(].", b"\x80\x04\x95"]
)
def test_what_is_no_whole_pickle_is_one_line(content: bytes, tmp_path: Path) -> None:
    assert refusal(content, tmp_path)


def test_no_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(GanvasError, match="cannot be read"):
            load_pickle(path)


SAMPLE = {
    "words": ["wren", "caf\xe9"],
    3: (1.5, None, True, 10**20),
    "rows": np.arange(6, dtype="f4").reshape(2, 3),
}
VALID = [pickle.dumps([SAMPLE, SAMPLE, np.int64(2)], protocol) for protocol in PROTOCOLS]
VALID += [*PYTHON_2, array_0() + b"."]


@pytest.mark.parametrize("content", VALID)
def test_a_pickle_cut_short_anywhere_is_refused(content: bytes, tmp_path: Path) -> None:
    for length in range(len(content)):
        assert refusal(content[:length], tmp_path)


DATA = (list, dict, tuple, str, bytes, int, float, bool, type(None))


def _parts(value: object) -> Iterator[object]:
    """Some parts of a value; those that are shared, once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting and len(seen) < 10_000:
        part = waiting.pop()
        yield part
        if type(part) in (list, tuple, dict) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part)  # type: ignore[call-overload]
            waiting.extend(part.values() if isinstance(part, dict) else ())


def only_data_or_one_line(content: bytes, folder: Path) -> None:
    try:
        loaded = load(content, folder)
    except GanvasError as error:
        assert "\n" not in str(error)
        return
    for part in _parts(loaded):
        assert type(part) in DATA or (isinstance(part, np.ndarray) and part.dtype.kind in "biufSU"), type(
            part
        )


@settings(quick, max_examples=300)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_data_or_an_error_of_one_line(content: bytes, tmp_path: Path) -> None:
    only_data_or_one_line(content, tmp_path)


@settings(quick, max_examples=400)
@given(
    content=st.sampled_from(VALID),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4), st.integers(0, 4)), max_size=4),
)
def test_damaged_pickles_are_data_or_an_error_of_one_line(
    content: bytes, changes: list[tuple[int, bytes, int]], tmp_path: Path
) -> None:
    for place, new, removed in changes:
        place %= len(content) + 1
        content = content[:place] + new + content[place + removed :]
    only_data_or_one_line(content, tmp_path)


def test_damaged_pickles_in_great_number_are_data_or_an_error(tmp_path: Path) -> None:
    chance = random.Random(1)
    codes = bytes(pickles._STEPS) + bytes(pickles._FOREIGN)
    for _ in range(3000):
        content = bytearray(chance.choice(VALID))
        for _ in range(chance.randrange(1, 6)):
            content[chance.randrange(len(content))] = chance.choice(codes)
        only_data_or_one_line(bytes(content), tmp_path)


def test_a_large_array_is_read_without_a_second_copy(tmp_path: Path) -> None:
    path = tmp_path / "some.pickle"
    path.write_bytes(pickle.dumps([np.ones((16, 1 << 20), np.uint8)], 4))
    tracemalloc.start()
    loaded = load_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(loaded, list) and loaded[0].sum() == 16 << 20
    assert peak < 2.1 * (16 << 20)  # the file, and the array
