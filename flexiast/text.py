"""Text for messages: control characters are escaped, long lists are shortened."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that control a terminal or a reader, or that cannot be displayed."""
JOINERS = frozenset("\u200c\u200d")
"""ZWNJ and ZWJ: between two characters they are part of the spelling, in Persian, Hindi and emoji."""


def has_controls(text: str) -> bool:
    """Whether the text contains characters that `printable` would escape, or line ends."""
    return "\n" in text or printable(text) != text


def printable(text: str) -> str:
    """The text with control characters escaped, so that a path or label cannot control a terminal; line ends stay.

    A joiner inside a word stays too. Alone, doubled, at an end or in plain ASCII it only makes two texts look the same.
    """
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in CONTROLS or _joins(text, index)
        else repr(character)[1:-1]
        for index, character in enumerate(text)
    )


def _joins(text: str, index: int) -> bool:
    """Whether a joiner stands between two visible characters that are not both ASCII."""
    neighbours = text[index - 1 : index] + text[index + 1 : index + 2]  # empty before the first
    inside = len(neighbours) == 2 and all(map(_is_visible, neighbours))
    return text[index] in JOINERS and inside and not neighbours.isascii()


def _is_visible(character: str) -> bool:
    """A letter, mark, digit or symbol."""
    return unicodedata.category(character)[0] in "LMNS"


def printable_line(text: str) -> str:
    """Printable text whose line ends are escaped too."""
    return printable(text).replace("\n", "\\n")


def preview(items: Iterable[str], limit: int = 8) -> str:
    """The first few items, for messages."""
    items = list(items)
    return ", ".join(items[:limit]) + (f" … ({len(items)} in all)" if len(items) > limit else "")
