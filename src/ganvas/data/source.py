"""What a data set offers to be prepared: its records, and the pixels of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from ganvas.data.store import Record
from ganvas.errors import GanvasError, did_you_mean


class Rejected(Exception):
    """An image or caption that cannot be used; its text is the reason, as ``rejected.csv`` shows it."""


class Source(ABC):
    """A data set before it is prepared.

    It travels to worker processes by pickle, once for each.

    Attributes:
        name: the data set's name.
        about: where the data come from, with versions: a store with another text is prepared anew.
        licence: SPDX name, or words.
        options: every option with its value, defaults included.
        sizes: the smallest and the largest side that makes sense, pixels.
    """

    name: str
    about: str
    licence: str
    options: dict[str, str]
    sizes: tuple[int, int]

    @abstractmethod
    def records(self) -> Iterable[Record]:
        """Every captioned image, in an order that is the same on every machine."""

    @abstractmethod
    def load(self, record: Record, size: int) -> npt.NDArray[np.uint8]:
        """The pixels of one image, uint8 ``(size, size, 3)``.

        Raises:
            Rejected: this image cannot be used; the others can.
        """


def chosen_options(name: str, given: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The options of a data set: its defaults, and what the user gave instead.

    Raises:
        GanvasError: an option that the data set does not have.
    """
    for option in given:
        if option not in defaults:
            raise GanvasError(
                f"data set '{name}': no option '{option}'; "
                + (did_you_mean(option, defaults) if defaults else "it has none")
            )
    return {**defaults, **given}


def _emoji(options: Mapping[str, str]) -> Source:
    from ganvas.data.emoji import EmojiSource

    return EmojiSource(options)


SOURCES: dict[str, Callable[[Mapping[str, str]], Source]] = {"emoji": _emoji}
"""Every data set that can be prepared, by name."""


def open_source(name: str, options: Mapping[str, str]) -> Source:
    """The data set called ``name``.

    Raises:
        GanvasError: no such data set, or no such option.
    """
    if name not in SOURCES:
        raise GanvasError(f"no data set '{name}'; {did_you_mean(name, SOURCES)}")
    return SOURCES[name](options)
