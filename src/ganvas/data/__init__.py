"""Captioned images: preparing a data set once, and reading the prepared store everywhere else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganvas.data.store import Record as Record
    from ganvas.data.store import Store as Store
    from ganvas.data.store import StoreInfo as StoreInfo
    from ganvas.data.store_writer import StoreWriter as StoreWriter

__all__ = ["Record", "Store", "StoreInfo", "StoreWriter"]


def __getattr__(name: str) -> Any:
    """Import what reads tables when it is first asked for: generating needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'ganvas.data' has no attribute '{name}'")
    home = "store_writer" if name == "StoreWriter" else "store"
    return getattr(import_module(f"ganvas.data.{home}"), name)
