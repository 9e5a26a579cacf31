"""Keeps the loading of modules cheap, and their end."""

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
    """Disable the garbage collector, and freeze what was loaded: modules live until the process ends.

    Otherwise the collector would scan all of it over and over, which takes a tenth of the start-up.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def collect_last_garbage() -> None:
    """Collect what is garbage, once: the interpreter's end looks through all that is left several times.

    With torch loaded that takes 0.3 s, which a user who pressed Ctrl-C waits for.
    """
    gc.collect()
    gc.freeze()
