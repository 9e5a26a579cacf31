"""What a model learns from, read and decoded: verdicts, the data that it was trained on, background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexiast.arrays import Float
from flexiast.data.background import MOST_WINDOWS, Chain, Stretches, background_clips
from flexiast.data.clips import Dataset
from flexiast.errors import DataError, UsageError
from flexiast.evaluation.budget import check_budget
from flexiast.evaluation.evaluate import Windows
from flexiast.frontend import Frontend
from flexiast.spec import Spec
from flexiast.training.adaptation import AUGMENT, Lesson
from flexiast.training.batches import Backgrounds, LogMels
from flexiast.training.judged_sounds import JudgedSound
from flexiast.training.sampling import sample_evenly
from flexiast_cli.commands.learn.options import Options
from flexiast_cli.commands.learn.verdicts import Lessons
from flexiast_cli.dataset import load_background, load_clips, load_split_background, read_data
from flexiast_cli.terminal.console import stderr
from flexiast_export.false_alarms import halves

MOST_CLIPS = 2_000
"""Of the original data that teach again, evenly spread: their log-mels and embeddings take minutes beyond"""
MOST_VALIDATION = 1_000
"""That are compared on; a point is ten of them"""


@dataclass(frozen=True)
class Original:
    """The data that a model was trained on."""

    waveforms: Sequence[Float]
    targets: Float
    """[clips, labels]"""
    validation: Windows
    """Clips with labels, then windows of background"""
    validation_targets: Float
    """[clips, labels]; background has none"""
    validation_waveforms: Sequence[Float]
    """Of those with labels"""
    background: Stretches


@dataclass(frozen=True)
class Sources:
    """Everything that is learnt from but verdicts."""

    original: Original | None
    background: tuple[Stretches, ...]
    """That teaches"""
    hours: tuple[Stretches, ...]
    """By which the budget is kept: the other half"""
    per_hour: float | None
    """The budget; None where there is none to keep"""


def read_sources(options: Options, spec: Spec, per_hour: float | None) -> Sources:
    """``per_hour`` is the budget that the model is known to keep.

    Raises UsageError and DataError for what cannot be used.
    """
    if options.false_alarms is not None:
        check_budget(options.false_alarms)
        if not options.background:
            raise UsageError("--false-alarms-per-hour is kept in hours of background; give some with --background")
        per_hour = options.false_alarms
    if options.val_fold is not None and options.data is None:
        raise UsageError("--val-fold chooses a fold of --data, which is not given; leave it out")
    original = None if options.data is None else _read_original(options, spec)
    rate_hz = spec.frontend.sample_rate_hz
    if options.background and original is None and per_hour is None:
        raise UsageError(
            "--background teaches beside --data, and keeps a budget of false alarms; give --data, or "
            "--false-alarms-per-hour, or leave it out"
        )
    given = [load_background(background_clips([path]), rate_hz, stderr()) for path in options.background]
    hours: list[Stretches] = []
    if original is None:
        given, hours = [], given  # without clips beside it, a background would outweigh the verdicts
    elif per_hour is not None and given:
        pairs = [halves([one]) for one in given]
        given, hours = [first for first, _ in pairs], [second for _, second in pairs]
    if hours and not all(map(len, halves(hours))):
        raise DataError(
            "the background is too short for a budget of false alarms: beside --data a half of it teaches, and what is "
            "left is halved to choose thresholds and to measure them; give several recordings, or some of minutes"
        )
    if original is not None and len(original.background):
        given.append(original.background)
    return Sources(original, tuple(one for one in given if len(one)), tuple(hours), per_hour if hours else None)


def _read_original(options: Options, spec: Spec) -> Original:
    assert options.data is not None
    rate_hz, console = spec.frontend.sample_rate_hz, stderr()
    dataset = read_data(options.data, options.val_fold, console)
    background, quiet = load_split_background(dataset, rate_hz, console)
    dataset.labelled.label_targets(spec.labels)  # a label that the model does not know is refused before the work

    def load(split: str, most: int) -> tuple[Dataset, Sequence[Float]]:
        whole = dataset.labelled.split(split)
        chosen = whole.take(np.array(sample_evenly(len(whole.clips), most), np.intp))
        return load_clips(chosen, rate_hz, console)

    (training, waveforms), (validation, validation_waveforms) = load("train", MOST_CLIPS), load("val", MOST_VALIDATION)
    quiet = quiet.windows(spec.frontend.window_samples, MOST_WINDOWS)
    targets = validation.targets(spec.labels)
    return Original(
        waveforms,
        training.targets(spec.labels),
        Windows(Chain((validation_waveforms, quiet)), Frontend(spec.frontend)),
        np.pad(targets, ((0, len(quiet)), (0, 0))),
        validation_waveforms,
        background,
    )


def build_lesson(lessons: Lessons, sources: Sources, spec: Spec) -> Lesson:
    """What ``adapt_head`` learns: verdicts, and beside them the original data with background, where they are given."""
    verdicts = tuple(JudgedSound(one.waveform, one.sound, one.label) for one in lessons.taught)
    original = sources.original
    waveforms = [] if original is None else original.waveforms
    targets = np.zeros((0, len(spec.labels)), np.float32) if original is None else original.targets
    nothing = spec.classes - len(spec.labels)
    return Lesson(
        LogMels(waveforms, spec.frontend, AUGMENT),
        np.pad(targets, ((0, 0), (0, nothing))),
        np.full(len(targets), 1 / max(1, len(targets))),
        _gather_background(sources.background, spec),
        verdicts,
    )


def _gather_background(stretches: Sequence[Stretches], spec: Spec) -> Backgrounds | None:
    sources = [LogMels(one, spec.frontend, AUGMENT) for one in stretches]
    for each in sources:
        each.fill()
    return Backgrounds(sources, [one.seconds for one in stretches]) if sources else None
