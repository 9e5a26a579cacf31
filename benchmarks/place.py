"""What verdicts on one day are worth on the next, in a house in simulation with real sounds.

python -m benchmarks.place DATA -o place.png [--seeds 1 2 3]

DATA holds esc50 and background. `benchmarks.house` says what sounds in the house.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.house import RATE_HZ, Day, EmbeddingEngines, House, build_day, build_house, hear
from benchmarks.measure import heading
from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.evaluation.evaluate import Windows, classify, score
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize
from flexiast.training.adaptation import (
    AUGMENT,
    WITH_DATA,
    WITHOUT_DATA,
    Examples,
    Lesson,
    classify_embeddings,
    embed_data,
    embed_verdicts,
    fit_rows,
)
from flexiast.training.batches import Backgrounds, LogMels
from flexiast.training.judged_sounds import JudgedSound
from flexiast_runtime.detection.scoring import StreamLogits, detect, smooth
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.engine import label_scores

SIZE = PatchSize(16, 16)
"""At which both days are heard"""
PATCHES = (SIZE, PatchSize(24, 24), PatchSize(32, 32))
"""At which the head learns, and which validate"""
CLIP_S = 1.0
"""Before and after an event in its clip, as the sink `clips` cuts it"""
COUNTS = (6, 12, 18, 25, 37, 50, 75, 100)
GAIN = 0.75
"""Share of the false events whose going tells orders of verdicts apart"""
ORDERS = {
    "least sure first": "least sure",
    "at random": "random",
    "least sure first, without the original data": "least sure",
}


class Found(NamedTuple):
    """An event of a day, and what a person who listens to it says."""

    label: str
    truth: str | None
    start: int
    end: int
    score: float


class Measured(NamedTuple):
    """Of a model on the second day, and on the validation set."""

    false: int
    recall: float
    accuracy: float
    """Mean over the sizes"""


class Prepared(NamedTuple):
    """Everything that takes time, done once for all counts of verdicts."""

    house: House
    second: Day
    heard: StreamLogits
    """Of the second day"""
    events: list[Found]
    """Of the first day"""
    verdicts: Examples
    """Of each of them"""
    data: Examples
    validation: Mapping[PatchSize, Float]
    """Embeddings [clips, width] at each size"""
    truths: Float
    """[clips, labels]"""


def find_events(day: Day, heard: StreamLogits, model: Checkpoint) -> list[Found]:
    """What a model reports of a day, and the truth of each."""
    spec, settings = model.spec, DetectionSettings.from_frontend(model.spec.frontend)
    scores = label_scores(classify_embeddings(model, heard.logits[SIZE]), spec)
    smoothed = smooth(scores, heard.silent, settings)
    found = []
    for one in detect(heard, smoothed, [SIZE] * len(smoothed), spec, settings):
        label = spec.labels[one.class_index]
        truths = [each.label for each in day.occurrences if each.start < one.end and one.start < each.end]
        labels = [each for each in truths if each is not None]
        truth = label if label in labels else next(iter(labels), None)
        found.append(Found(label, truth, one.start, one.end, one.score))
    return found


def measure(prepared: Prepared, model: Checkpoint) -> Measured:
    """False events of the second day, the share of its true sounds that were found, and the validation accuracy."""
    events = find_events(prepared.second, prepared.heard, model)
    true = [one for one in prepared.second.occurrences if one.label is not None]
    hit = [
        any(each.label == one.label and each.start < one.end and one.start < each.end for each in events)
        for one in true
    ]
    labels = prepared.truths.shape[1]
    accuracies = [
        score(classify_embeddings(model, each)[:, :labels], prepared.truths, "single")
        for each in prepared.validation.values()
    ]
    false = sum(one.truth != one.label for one in events)
    return Measured(false, float(np.mean(hit)), float(np.mean(accuracies)))


def order_verdicts(events: Sequence[Found], order: str, seed: int) -> list[int]:
    """As `flexiast review` shows them: the least sure of each label, then its surest, and so on. Or at random."""
    if order == "random":
        return [int(number) for number in np.random.default_rng((seed, 9)).permutation(len(events))]
    waiting: dict[str, list[int]] = {}
    for number in sorted(range(len(events)), key=lambda number: events[number].score):
        waiting.setdefault(events[number].label, []).append(number)
    ranks: dict[int, int] = {}
    for numbers in waiting.values():
        for rank in range(len(numbers)):
            ranks[numbers.pop(-1 if rank % 2 else 0)] = rank
    return sorted(ranks, key=lambda number: (ranks[number], events[number].score))


def take(verdicts: Examples, chosen: Sequence[int]) -> Examples:
    """The examples of these events, which are numbered anew."""
    numbers = {number: place for place, number in enumerate(chosen)}
    kept = np.isin(verdicts.sounds, list(chosen))
    sounds = np.array([numbers[number] for number in verdicts.sounds[kept]], np.int64)
    return Examples(verdicts.embeddings[kept], verdicts.targets[kept], sounds)


def cut_clips(day: Day, events: Sequence[Found]) -> list[JudgedSound]:
    """What the sink keeps of each event, with its verdict."""
    margin, clips = round(CLIP_S * RATE_HZ), []
    for one in events:
        first = max(0, one.start - margin)
        span = slice(one.start - first, one.end - first)
        clips.append(JudgedSound(day.samples[first : one.end + margin], span, one.truth))
    return clips


def gather_data(house: House) -> Lesson:
    """A third of what the model was trained on: clips of its labels, and other speech than the TV's."""
    spec = house.spec
    pairs = [(clip, label) for label in spec.labels for clip in house.waveforms[label, "train"][::3]]
    targets = np.zeros((len(pairs), spec.classes), np.float32)
    targets[np.arange(len(pairs)), [spec.labels.index(label) for _, label in pairs]] = 1
    log_mels = LogMels([clip for clip, _ in pairs], spec.frontend, AUGMENT)
    speech = LogMels(house.background, spec.frontend, AUGMENT)
    seconds = [len(clip) / RATE_HZ for clip in house.background]
    return Lesson(log_mels, targets, np.full(len(pairs), 1 / len(pairs)), Backgrounds([speech], [seconds]))


def prepare(house: House, days: Sequence[Day], heard: Sequence[StreamLogits], ears: EmbeddingEngines) -> Prepared:
    """``heard`` are both days' embeddings."""
    spec, frontend = house.spec, Frontend(house.spec.frontend)
    events = find_events(days[0], heard[0], house.start)
    clips = cut_clips(days[0], events)
    pairs = [(clip, label) for label in spec.labels for clip in house.waveforms[label, "validation"]]
    windows = Windows([clip for clip, _ in pairs], frontend)
    return Prepared(
        house,
        days[1],
        heard[1],
        events,
        embed_verdicts(ears, spec, PATCHES, clips),
        embed_data(ears, spec, PATCHES, gather_data(house)),
        {patch: windows.clip_mean(classify(ears, windows, patch)) for patch in PATCHES},
        np.array([[label == each for each in spec.labels] for _, label in pairs], np.float32),
    )


def learn(prepared: Prepared, curve: str, count: int, seed: int) -> Measured:
    """What so many verdicts are worth."""
    chosen = order_verdicts(prepared.events, ORDERS[curve], seed)[:count]
    verdicts = take(prepared.verdicts, chosen)
    if "without" in curve:
        data = prepared.data
        nothing = Examples(data.embeddings[:0], data.targets[:0], data.sounds[:0])
        return measure(prepared, fit_rows(prepared.house.start, verdicts, nothing, WITHOUT_DATA, seed=seed))
    return measure(prepared, fit_rows(prepared.house.start, verdicts, prepared.data, WITH_DATA, seed=seed))


def count_needed(gains: Sequence[float], counts: Sequence[int]) -> float:
    """Verdicts after which the share ``GAIN`` of the false events is gone, between two counts along a line."""
    points = zip((0, *counts), (0.0, *gains), strict=True)
    before = next(points)
    for after in points:
        if after[1] >= GAIN:
            return before[0] + (after[0] - before[0]) * (GAIN - before[1]) / (after[1] - before[1])
        before = after
    return float("inf")


def run_seed(prepared: Prepared, seed: int) -> dict[str, list[Measured]]:
    """Each curve's points, of no verdicts first; printed as they come."""
    old = measure(prepared, prepared.house.start)
    true = sum(one.label is not None for one in prepared.second.occurrences)
    print(f"\nseed {seed}: {len(prepared.events)} events on the first day, {true} true sounds on the second")
    print("| verdicts | | false events | recall | validation accuracy |\n|---|---|---|---|---|")
    print(f"| 0 | | {old.false} | {old.recall:.3f} | {old.accuracy:.3f} |")
    curves = {}
    for curve in ORDERS:
        points = [old]
        for count in COUNTS:
            points.append(found := learn(prepared, curve, count, seed))
            print(f"| {count} | {curve} | {found.false} | {found.recall:.3f} | {found.accuracy:.3f} |", flush=True)
        curves[curve] = points
        gains = [1 - one.false / old.false for one in points[1:]]
        print(f"| {count_needed(gains, COUNTS):.0f} | {curve}: {100 * GAIN:.0f} % of the false events gone | | | |")
    return curves


def plot(path: Path, found: Sequence[Mapping[str, Sequence[Measured]]]) -> None:
    """False events, recall and accuracy against verdicts; lines are means, bands reach over all seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colours = dict(zip(ORDERS, ("#2a7f62", "#b3541e", "#7a4fa3"), strict=True))
    places = (0, *COUNTS)
    for curve, colour in colours.items():
        false = np.array([[100 * one.false / each[curve][0].false for one in each[curve]] for each in found])
        panels[0].fill_between(places, false.min(axis=0), false.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        panels[0].plot(places, false.mean(axis=0), marker="o", markersize=4, color=colour, label=curve)
        for name, style in (("recall", "-"), ("accuracy", ":")):
            change = np.mean(
                [[100 * (getattr(one, name) - getattr(each[curve][0], name)) for one in each[curve]] for each in found],
                axis=0,
            )
            label = (
                f"{'recall' if name == 'recall' else 'validation accuracy'}" if curve == next(iter(ORDERS)) else None
            )
            panels[1].plot(places, change, style, color=colour, label=label)
    panels[0].axhline(20, color="#1f2937", linewidth=0.8, linestyle="--")
    panels[0].set(xlabel="verdicts", ylabel="false events of the second day, %", ylim=(0, None))
    panels[1].axhline(0, color="#1f2937", linewidth=0.8)
    panels[1].set(xlabel="verdicts", ylabel="change, points")
    for axes in panels:
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.place")
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="Picture")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    given = parser.parse_args()
    heading("A house in simulation")
    found = []
    for seed in given.seeds:
        begun = time.process_time()
        house = build_house(given.data, seed)
        ears = EmbeddingEngines(house.start)
        days = [build_day(house, number, seed) for number in (0, 1)]
        prepared = prepare(house, days, [hear(day.samples, ears, SIZE) for day in days], ears)
        found.append(run_seed(prepared, seed))
        print(f"{time.process_time() - begun:.0f} s of one core")
    plot(given.output, found)


if __name__ == "__main__":
    main()
