"""A stream of spoken words that are detected at any offset within a step, for measuring faults."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.streams import TASKS, Stream, listen, louder, pink
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.events import Sound
from flexiast.evaluation.mixing import trim_to_audible
from flexiast.spec import FrontendSpec
from flexiast_runtime.audio.alignment import WindowTiming
from flexiast_runtime.audio.source import measure_held_s
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import FixedSize
from flexiast_runtime.inference.engine import Engines

Word = tuple[str, NDArray[np.float32]]

SLOT_S = 1.5
"""From the beginning of one word's slot to that of the next"""
PAUSE_S = 0.4
"""Before a word in its slot"""
SNR_DB = 40
STEP_S, PHASES = 0.25, 4
"""Places within a step at which a word must be found"""
CANDIDATES = 160


def spoken(data: Path, engines: Engines, words: int) -> Stream:
    """Words of the validation speakers in faint noise, one to each slot."""
    candidates = list(islice(_words(data, engines), CANDIDATES))
    good = _clear(candidates, engines)
    if len(good) < words:
        raise ValueError(f"only {len(good)} of {len(candidates)} words are found at every phase; {words} are wanted")
    return _stream(good[:words], _rate_hz(engines))


def find_start_s(frontend: FrontendSpec, device_hz: int) -> float:
    """Seconds of a microphone that `listen` leaves out at the beginning, so that windows end where blocks do."""
    step_s = DetectionSettings.from_frontend(frontend).step_s
    windows = WindowTiming(frontend.sample_rate_hz, frontend.window_s, step_s)
    return windows.find_start_s(device_hz, measure_held_s(device_hz, frontend.sample_rate_hz))


def _words(data: Path, engines: Engines) -> Iterator[Word]:
    task, rate_hz = TASKS["commands-ar"], _rate_hz(engines)
    dataset = read_dataset(data / task.metadata, task.val_fold).split("val")
    clips, waveforms, _ = load_waveforms(dataset, rate_hz)
    for index in np.random.default_rng(0).permutation(len(waveforms)):
        yield clips.clips[index].labels[0], trim_to_audible(waveforms[index], rate_hz)


def _clear(words: list[Word], engines: Engines) -> list[Word]:
    """Those that make one event of their label, and nothing else, at every phase."""
    rate_hz = _rate_hz(engines)
    samples = _stream(words, rate_hz).samples
    good = set(range(len(words)))
    for phase in range(PHASES):
        shift = round(STEP_S * rate_hz) * phase // PHASES
        shifted = Stream(np.concatenate([pink(shift, np.random.default_rng(1)), samples]) if shift else samples, ())
        heard: list[list[str]] = [[] for _ in words]
        for event in listen(engines, FixedSize(engines.patches[0]), EventRules(), shifted):
            middle_s = (event.start_s + event.end_s) / 2 - shift / rate_hz
            heard[min(int(max(middle_s, 0) / SLOT_S), len(words) - 1)].append(event.label)
        good &= {place for place, (label, _) in enumerate(words) if heard[place] == [label]}
    return [words[place] for place in sorted(good)]


def _stream(words: list[Word], rate_hz: int) -> Stream:
    slot, pause = round(SLOT_S * rate_hz), round(PAUSE_S * rate_hz)
    samples, truth = pink(slot * len(words), np.random.default_rng(0)), []
    for place, (label, word) in enumerate(words):
        start, heard = place * slot + pause, word[: slot - pause]
        samples[start : start + len(heard)] += louder(heard, SNR_DB)
        truth.append(Sound(label, start / rate_hz, (start + len(heard)) / rate_hz))
    return Stream(np.clip(samples, -1, 1), tuple(truth))


def _rate_hz(engines: Engines) -> int:
    return engines.spec.frontend.sample_rate_hz
