"""A database with events and their clips, as a listener leaves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.records import Event
from flexiast_runtime.sinks.audio_history import AudioHistory
from flexiast_runtime.sinks.clips import Clips
from flexiast_runtime.sinks.sink import Model, RunContext
from flexiast_runtime.sinks.sqlite import SqliteHistory
from tests.runtime.sinks.conftest import RATE_HZ

BUNDLE, NEWER = "b" * 64, "c" * 64
LABELS = ("cat", "dog", "rain")
Fill = Callable[..., Path]


def fill_history(folder: Path, events: Sequence[Event], clipped: Sequence[Event] = ()) -> Path:
    """Store events in ``history.db`` and cut the clips of some into ``clips``.

    The audio rises from silence in each second, so that a clip tells where it was cut.
    """
    database, clips = folder / "history.db", Clips(folder / "clips")
    audio = AudioHistory(120.0, RATE_HZ)
    audio.push(Chunk(0, np.tile(np.linspace(0, 0.9, RATE_HZ, dtype=np.float32), 60)))
    models = {BUNDLE: Model("home", LABELS), NEWER: Model("newer", (*LABELS, "owl"))}
    context = RunContext(histories={"kitchen": audio}, models=models, clip_folders=(clips.folder,))
    sink = SqliteHistory(database)
    for each in (sink, clips):
        each.open(context)
    for one in events:
        sink.deliver(one)
    for one in clipped:
        clips.deliver(one)
    sink.close()
    clips.close()
    return database


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """``fill_history`` in a folder of the test's own."""
    return partial(fill_history, tmp_path)
