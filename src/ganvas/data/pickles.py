"""Pickles of other people, read without running anything that they ask for.

A pickle is a program. This module reads the few steps that make lists, dicts, text, numbers and NumPy
arrays, and makes those values itself: what the file names is looked up in a short table and never imported.
Python 2 and Python 3 files are both read (protocols 0 to 5); the strings of Python 2 become text as Latin-1.
"""

from __future__ import annotations

import codecs
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ganvas.data.pickled_arrays import NAMES, Damaged, Dtype, Name, Pending, made, shown
from ganvas.errors import GanvasError

MAX_BYTES = 1 << 26
"""A larger file is refused, unless the caller expects one."""
MAX_OBJECTS = 4_000_000
"""Containers and remembered values that one file may ask for: a byte of it may cost a hundred in memory."""

_MAX_LINE = 1 << 12  # of a number, a name or a position; text may be longer
_KEYS = frozenset({str, bytes, int, float, bool, type(None)})  # hashing nested tuples may take for ever


class _Arguments(tuple[Any, ...]):
    """A tuple that holds something of which only an array can be made."""


_UNFINISHED = frozenset({Name, Dtype, Pending, _Arguments})
"""Types that stay inside: none comes out, not even within a list."""


def load_pickle(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> object:
    """What a pickle holds: lists, dicts, tuples, text, bytes, numbers, NumPy arrays, nested in any way.

    NumPy scalars come as Python's numbers. Nested values may share parts, so that walking through all of it
    can take for ever: look no deeper than the file is meant to be. Arrays cannot be written to.

    Args:
        path: the file.
        max_bytes: a larger one is refused.

    Raises:
        GanvasError: no such file, too large, damaged, or it asks for something else, which is named.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise GanvasError(f"{path}: more than {max_bytes:,} bytes; a pickle of this size is refused")
            content = file.read(size)
    except OSError as error:
        raise GanvasError(f"{path}: cannot be read ({error.strerror})") from None
    machine = _Machine(content)
    try:
        with warnings.catch_warnings():  # escapes that Python does not know
            warnings.simplefilter("ignore")
            return machine.run()
    except _Asked as asked:
        raise GanvasError(
            f"{path}: asks for {asked}, which data do not need; it is refused, and nothing of it was run"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        reason = str(error) if isinstance(error, Damaged) else "cut short, or not a pickle"
        raise GanvasError(f"{path}: cannot be read as a pickle, at byte {machine.at:,} ({reason})") from None


class _Asked(Exception):
    """The file asks for something that is not in the table; the text names it."""


class _Machine:
    """The steps of a pickle, one method for each kind.

    Attributes:
        at: the position of the next byte.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0
        self.objects = self.bytes = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        content, steps = self.content, _STEPS
        while (code := content[self.at]) != _STOP:
            self.at += 1
            step = steps.get(code)
            if step is None:
                self.refuse(code)
            else:
                step(self)
        result = self.stack.pop()
        if type(result) in _UNFINISHED or self.stack or self.below:
            raise Damaged("it ends before its value is complete")
        return result

    def refuse(self, code: int) -> None:
        if code in _FOREIGN:
            raise _Asked(
                shown(self.global_name()) if code == ord("i") else f"{_FOREIGN[code]} (opcode {code:#04x})"
            )
        raise Damaged(f"unknown opcode {code:#04x}")

    # reading

    def take(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        if count < 0 or self.at > len(self.content):
            self.at = start
            raise IndexError
        return self.content[start : self.at]

    def take_sized(self, layout: struct.Struct) -> bytes:
        return self.take(self.number(layout))

    def number(self, layout: struct.Struct) -> int:
        return int(layout.unpack(self.take(layout.size))[0])

    def line(self, longest: int = _MAX_LINE) -> bytes:
        end = self.content.find(b"\n", self.at, self.at + longest + 1)
        if end < 0:
            raise Damaged("a line without an end, or that is too long")
        return self.take(end + 1 - self.at)[:-1]

    def global_name(self) -> str:
        module, name = self.line(), self.line()
        return b".".join((module, name)).decode("utf-8", "replace")

    # the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_new(self, value: Any) -> None:
        """Push a value that costs more memory than the bytes that ask for it."""
        self.count()
        self.stack.append(value)

    def count(self) -> None:
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise Damaged(f"more than {MAX_OBJECTS:,} values")

    def weigh(self, value: object) -> None:
        """Count the bytes of what is made of others: one text, used again and again, fills any memory."""
        if isinstance(value, np.ndarray):
            self.bytes += value.nbytes
        elif isinstance(value, bytes):
            self.bytes += len(value)
        if self.bytes > 4 * len(self.content) + _MAX_LINE:
            raise Damaged("arrays that are larger than the file")

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        self.count()
        self.below.append(self.stack)
        self.stack = []

    def remember(self, position: int) -> None:
        self.count()
        if position < 0:
            raise Damaged("a negative position")
        self.memo[position] = self.stack[-1]

    def recall(self, position: int) -> None:
        value = self.memo[position]
        if type(value) is Pending and value.array is not None:
            value = value.array
        self.stack.append(value)

    # containers

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list or not _UNFINISHED.isdisjoint(map(type, items)):
            raise Damaged("a list that holds no data")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target, keys, values = self.stack[-1], items[::2], items[1::2]
        if type(target) is not dict or len(keys) != len(values):
            raise Damaged("a dict that is incomplete")
        if not (_KEYS.issuperset(map(type, keys)) and _UNFINISHED.isdisjoint(map(type, values))):
            raise Damaged("a dict that holds no data")
        target.update(zip(keys, values, strict=True))

    def make_list(self) -> None:
        items = self.pop_to_mark()
        self.push_new([])
        self.append(items)

    def make_dict(self) -> None:
        items = self.pop_to_mark()
        self.push_new({})
        self.set_items(items)

    def make_tuple(self, items: list[Any]) -> None:
        self.push_new(tuple(items) if _UNFINISHED.isdisjoint(map(type, items)) else _Arguments(items))

    def pop_several(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    # names, and what is made of them

    def push_name(self, name: str) -> None:
        if name not in NAMES:
            raise _Asked(shown(name))
        self.stack.append(NAMES[name])

    def stack_name(self) -> None:
        module, name = self.pop_several(2)
        if not (type(module) is str and type(name) is str):
            raise Damaged("a name that is no text")
        self.push_name(f"{module}.{name}")

    def call(self) -> None:
        name, arguments = self.pop_several(2)
        if type(name) is not Name or not isinstance(arguments, tuple):
            raise Damaged("a call of something that is no name")
        value = made(name, tuple(arguments))
        self.weigh(value)
        self.push_new(value)

    def build(self) -> None:
        target, state = self.pop_several(2)
        if type(target) is Dtype:
            target.build(state)
            self.stack.append(target)
        elif type(target) is Pending:
            target.build(state)
            self.weigh(target.array)
            self.stack.append(target.array)
        else:
            raise _Asked(f"a state of '{type(target).__name__}' (opcode 0x62)")


def _python2_string(machine: _Machine) -> None:
    quoted = machine.line(len(machine.content)).strip()
    if len(quoted) < 2 or quoted[0] != quoted[-1] or quoted[:1] not in (b"'", b'"'):
        raise Damaged("a string without quotes")
    machine.push(codecs.escape_decode(quoted[1:-1])[0].decode("latin-1"))


def _escaped_unicode(machine: _Machine) -> None:
    text = machine.line(len(machine.content)).decode("raw-unicode-escape")
    text.encode()  # half of a surrogate pair is no text
    machine.push(text)


def _integer(machine: _Machine) -> None:
    line = machine.line(longest=300)
    truth = {b"00": False, b"01": True}
    machine.push(truth[line] if line in truth else int(line))


def _long(machine: _Machine, layout: struct.Struct) -> None:
    size = machine.number(layout)
    if size > 128:
        raise Damaged("a number that is too long")
    machine.push(int.from_bytes(machine.take(size), "little", signed=True))


_U1, _U2, _U4, _U8 = (struct.Struct(f"<{code}") for code in "BHIQ")
_I4, _DOUBLE = struct.Struct("<i"), struct.Struct(">d")
_STOP = ord(".")

_STEPS: dict[int, Callable[[_Machine], object]] = {
    # frame and version: nothing to do
    0x80: lambda m: m.take(1),
    0x95: lambda m: m.take(8),
    # numbers
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): _integer,
    ord("J"): lambda m: m.push(m.number(_I4)),
    ord("K"): lambda m: m.push(m.number(_U1)),
    ord("M"): lambda m: m.push(m.number(_U2)),
    ord("L"): lambda m: m.push(int(m.line(longest=300).rstrip(b"L"))),
    0x8A: lambda m: _long(m, _U1),
    0x8B: lambda m: _long(m, _U4),
    ord("F"): lambda m: m.push(float(m.line(longest=300))),
    ord("G"): lambda m: m.push(_DOUBLE.unpack(m.take(8))[0]),
    # text and bytes
    ord("S"): _python2_string,
    ord("T"): lambda m: m.push(m.take_sized(_I4).decode("latin-1")),
    ord("U"): lambda m: m.push(m.take_sized(_U1).decode("latin-1")),
    ord("V"): _escaped_unicode,
    ord("X"): lambda m: m.push(m.take_sized(_U4).decode()),
    0x8C: lambda m: m.push(m.take_sized(_U1).decode()),
    0x8D: lambda m: m.push(m.take_sized(_U8).decode()),
    ord("B"): lambda m: m.push(m.take_sized(_U4)),
    ord("C"): lambda m: m.push(m.take_sized(_U1)),
    0x8E: lambda m: m.push(m.take_sized(_U8)),
    0x96: lambda m: m.push(m.take_sized(_U8)),
    # containers
    ord("("): _Machine.mark,
    ord("]"): lambda m: m.push_new([]),
    ord("l"): _Machine.make_list,
    ord("a"): lambda m: m.append([m.stack.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.make_tuple(m.pop_to_mark()),
    0x85: lambda m: m.make_tuple(m.pop_several(1)),
    0x86: lambda m: m.make_tuple(m.pop_several(2)),
    0x87: lambda m: m.make_tuple(m.pop_several(3)),
    ord("}"): lambda m: m.push_new({}),
    ord("d"): _Machine.make_dict,
    ord("s"): lambda m: m.set_items(m.pop_several(2)),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    # what is used again
    ord("p"): lambda m: m.remember(int(m.line())),
    ord("q"): lambda m: m.remember(m.number(_U1)),
    ord("r"): lambda m: m.remember(m.number(_U4)),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("g"): lambda m: m.recall(int(m.line())),
    ord("h"): lambda m: m.recall(m.number(_U1)),
    ord("j"): lambda m: m.recall(m.number(_U4)),
    # names
    ord("c"): lambda m: m.push_name(m.global_name()),
    0x93: _Machine.stack_name,
    ord("R"): _Machine.call,
    ord("b"): _Machine.build,
}

_FOREIGN = {
    ord("i"): "an instance",
    ord("o"): "an instance",
    0x81: "an instance",
    0x92: "an instance",
    ord("P"): "a persistent id",
    ord("Q"): "a persistent id",
    0x82: "the extension registry",
    0x83: "the extension registry",
    0x84: "the extension registry",
    0x97: "a buffer outside of the file",
    0x98: "a buffer outside of the file",
}
"""Steps that data do not need, by what they ask for."""
