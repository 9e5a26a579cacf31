"""Streams of clips over faint pink noise, whose events are known, for benchmarks of what does not depend on the place.

Clips of the validation side only, in halves that share no speaker and no recording. No audio is written. Streams over
real backgrounds are `flexiast.evaluation.mixing`'s.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexiast.data.clips import Clip, Dataset
from flexiast.data.dataset import load_waveforms
from flexiast.evaluation.events import Sound
from flexiast.evaluation.mixing import make_pink_noise, trim_to_audible
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.engine import Engines

Float = NDArray[np.float32]

SNRS_DB = (40, 20, 10)
SHARE = 0.2
"""Of a stream's time in which something sounds"""
NOISE_RMS = 0.001
"""That of a quiet room, 60 dB below full scale"""


class Task(NamedTuple):
    """Which clips a model was validated on, and what halves of them share nothing."""

    metadata: str
    val_fold: str | None
    source: Callable[[Clip], str]


TASKS = {
    "commands": Task("english/metadata.csv", None, lambda clip: clip.path.name.split("_")[0]),  # speaker
    "sounds": Task("esc50/metadata.csv", "4", lambda clip: clip.path.name.split("-")[1]),  # fold-recording-take-class
    "commands-ar": Task("commands/metadata.csv", None, lambda clip: clip.path.name.split("_")[0]),  # speaker
}


class Stream(NamedTuple):
    samples: Float
    truth: tuple[Sound, ...]


# ----- streams


def halves(dataset: Dataset, source: Callable[[Clip], str]) -> tuple[Dataset, Dataset]:
    """The clips by turns of their source within a label: no source is in both."""
    turn: defaultdict[str, dict[str, int]] = defaultdict(dict)
    sides: tuple[list[Clip], list[Clip]] = ([], [])
    for clip in sorted(dataset.clips, key=lambda clip: clip.path):
        seen = turn[clip.labels[0]]
        sides[seen.setdefault(source(clip), len(seen)) % 2].append(clip)
    first, second = (replace(dataset, clips=tuple(side)) for side in sides)
    return first, second


def pink(samples: int, rng: np.random.Generator) -> Float:
    """Pink noise at ``NOISE_RMS``."""
    return make_pink_noise(samples, rng) * np.float32(NOISE_RMS)


def mix(
    sounds: Iterable[tuple[str, Float]],
    samples: int,
    snr_db: float,
    rng: np.random.Generator,
    rate_hz: int,
    share: float = SHARE,
) -> Stream:
    """Sounds one after another at an SNR, with gaps such that they take a share of the time."""
    mixed, truth, place = pink(samples, rng), [], 0
    for label, sound in sounds:
        start = place + round(rng.exponential(len(sound) * (1 - share) / share))
        place = start + len(sound)
        if place > samples:
            break
        mixed[start:place] += louder(sound, snr_db)
        truth.append(Sound(label, start / rate_hz, place / rate_hz))
    return Stream(np.clip(mixed, -1, 1), tuple(truth))


# ----- listening


def listen(engines: Engines, chooser: FixedSize, rules: EventRules, stream: Stream) -> list[Sound]:
    settings = DetectionSettings.from_frontend(engines.spec.frontend, rules)
    listener = StreamClassifier(
        engines,
        chooser,
        settings,
        source="stream",
        conditions=lambda _: Conditions(settings.step_s),
    )
    records = listener.run(
        Chunk(start, stream.samples[start : start + 16_000]) for start in range(0, len(stream.samples), 16_000)
    )
    return [Sound(e.label, e.start_s, e.end_s) for e in records if isinstance(e, Event)]


def louder(sound: Float, snr_db: float) -> Float:
    """At so many dB above the noise."""
    rms = np.sqrt((sound.astype(np.float64) ** 2).mean())
    return sound * np.float32(NOISE_RMS * 10 ** (snr_db / 20) / rms)


def make_streams(
    sounding: Dataset,
    rate_hz: int,
    samples: int,
    seed: int,
    snrs_db: Sequence[float] = SNRS_DB,
    share: float = SHARE,
) -> list[Stream]:
    """One for each SNR; each clip sounds once before any sounds again."""
    rng = np.random.default_rng(seed)
    clips, waveforms, _ = load_waveforms(sounding, rate_hz)

    def sounds() -> Iterator[tuple[str, Float]]:
        while True:
            for index in rng.permutation(len(waveforms)):
                yield clips.clips[index].labels[0], trim_to_audible(waveforms[index], rate_hz)

    endless = sounds()
    return [mix(endless, samples, snr_db, rng, rate_hz, share) for snr_db in snrs_db]


def run(
    experiment: Callable[[str, Path, float, int], None],
    prog: str,
    minutes: float,
    seed: int,
    seed_help: str | None = None,
) -> None:
    """An experiment on the streams of each model that the command line names."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--data", type=Path, required=True, help="folder of esc50/, commands/ and english/")
    parser.add_argument("--model", choices=sorted(TASKS), action="append", help="default: all")
    parser.add_argument("--minutes", type=float, default=minutes, help="of each stream, one for each SNR")
    parser.add_argument("--seed", type=int, default=seed, help=seed_help)
    given = parser.parse_args()
    begun_s = time.process_time()
    for name in given.model or sorted(TASKS):
        experiment(name, given.data, given.minutes, given.seed)
    print(f"\n{time.process_time() - begun_s:.0f} s of CPU")
