"""Ganvas: the home of text-to-image GANs.

>>> import ganvas
>>> model = ganvas.load("runs/my-run")                                     # doctest: +SKIP
>>> model.generate(["a red apple"], n=4, seed=0)[0].save("apple.png")      # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganvas.pipeline import load as load
    from ganvas.recipe import list_recipes as list_recipes
    from ganvas.systems import list_systems as list_systems

__version__ = "0.1.0"
__all__ = ["__version__", "list_recipes", "list_systems", "load"]

_HOMES = {"load": "ganvas.pipeline", "list_recipes": "ganvas.recipe", "list_systems": "ganvas.systems"}


def __getattr__(name: str) -> Any:
    """Import torch-heavy modules when they are first asked for, so that ``import ganvas`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ganvas' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
