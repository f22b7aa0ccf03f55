"""Captioned images: preparing a data set once, and reading the prepared store everywhere else."""

from __future__ import annotations

from ganvas.data.store import Record, Store, StoreInfo
from ganvas.data.store_writer import StoreWriter

__all__ = ["Record", "Store", "StoreInfo", "StoreWriter"]
