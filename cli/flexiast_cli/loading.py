"""Keeps the loading of modules cheap."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def leave_out_plugins() -> None:
    """Pydantic looks through every package that is installed for plugins of its own; nothing here has a use for one."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


@contextmanager
def pause_collection() -> Iterator[None]:
    """Look for no garbage meanwhile, and never again among what exists in the end: modules stay.

    Else the collector goes through all of them again and again, a tenth of the start-up.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
