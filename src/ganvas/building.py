"""From a recipe to its networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ganvas.errors import GanvasError
from ganvas.recipe import Recipe
from ganvas.systems import find
from ganvas.systems.base import System
from ganvas.text import build
from ganvas.text.encoder import NoText, TextEncoder

_DRAWS = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"})


def build_system(
    recipe: Recipe, *, captions: Sequence[str] | None = None, files: Mapping[str, str] | None = None
) -> System:
    """Make a recipe's system with fresh weights.

    Args:
        recipe: which system, text encoder and size.
        captions: training captions, for a text encoder that needs a vocabulary;
        files: or the files of a saved text encoder.

    Raises:
        GanvasError: no network can have such settings.
    """
    with _only_possible(recipe):
        encoder = NoText() if recipe.text is None else build(recipe.text, captions, files)
        return find(recipe.system).build(recipe.settings, encoder, recipe.data.image_size)


def bare_system(recipe: Recipe, text_encoder: TextEncoder) -> System:
    """A system that waits for its weights, on the meta device, and without what only training needs.

    Drawing fresh weights may take longer than everything else.

    Args:
        recipe: which system and size.
        text_encoder: with its weights, or to be given them too.

    Raises:
        GanvasError: no network can have such settings.
    """
    with _only_possible(recipe), torch.device("meta"), _Undrawn():
        system = find(recipe.system).build(recipe.settings, text_encoder, recipe.data.image_size)
    for name in system.training_only:
        if isinstance(getattr(system, name, None), nn.Module):
            setattr(system, name, None)
    return system


class _Undrawn(TorchFunctionMode):
    """Weights are left as they are. On the meta device drawing them would change nothing, but PyTorch imports
    its compiler for it, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def text_encoder_of(recipe: Recipe, files: Mapping[str, str]) -> TextEncoder:
    """The text encoder of a saved model, with weights still to come.

    Raises:
        GanvasError: none can have such settings.
    """
    with _only_possible(recipe):
        return NoText() if recipe.text is None else build(recipe.text, None, files)


@contextmanager
def _only_possible(recipe: Recipe) -> Iterator[None]:
    """What building says of impossible settings, as one line."""
    try:
        yield
    except GanvasError:
        raise
    except (RuntimeError, ArithmeticError, ValueError, AssertionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GanvasError(
            f"recipe {recipe.name}: its networks cannot be built with these settings and"
            f" {recipe.data.image_size} px images ({reason})"
        ) from None
