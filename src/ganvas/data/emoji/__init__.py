"""The emoji set: 10,000 drawings in three styles with captions in many languages, embedded in the package."""

from __future__ import annotations

from ganvas.data.emoji.source import EmojiSource

__all__ = ["EmojiSource"]
