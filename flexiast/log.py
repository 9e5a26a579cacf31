"""Messages for a person: whoever calls gives the function that shows them."""

from __future__ import annotations

from collections.abc import Callable

Log = Callable[[str], None]
"""Shows one line of text."""


def log_nothing(text: str) -> None:
    """For callers that show no messages."""
