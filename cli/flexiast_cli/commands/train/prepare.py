"""Data ready to train on: read, checked, decoded and transformed to log-mels, with warnings on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint
from flexiast.data.background import MOST_WINDOWS, Chain, Stretches, background_clips, split_stretches
from flexiast.data.checks import check_trainable, warn_lost_labels, warn_uneven, warnings_before_reading
from flexiast.data.clips import Clip, Dataset
from flexiast.data.remote_shards import ClipShards, shards_of
from flexiast.data.targets import LabelTargets, Targets
from flexiast.data.waveforms import Waveforms, memory_budget
from flexiast.evaluation.evaluate import Windows
from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec, Spec
from flexiast.training.batches import Backgrounds, LogMels
from flexiast.training.embedding_targets import EmbeddingTargets
from flexiast.training.recipe import Recipe
from flexiast.training.sampling import sample_evenly
from flexiast.training.trainer import make_spec
from flexiast_cli.commands.train.dataset_report import print_audio_warnings, print_counts, print_warnings
from flexiast_cli.commands.train.options import Sources
from flexiast_cli.commands.train.progress import print_baseline
from flexiast_cli.commands.train.start import Start, choose_start, is_timbre_task, measure_baseline, spec_from
from flexiast_cli.dataset import load_background, load_clips, load_split_background, read_data, track

if TYPE_CHECKING:
    from rich.console import Console

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Prepared:
    """A data set ready to train on and to validate with."""

    recipe: Recipe
    """With the patch sizes that fit the window."""
    spec: Spec
    waveforms: Sequence[NDArray[np.float32]]
    log_mels: LogMels
    targets: Targets
    validation: Windows
    validation_targets: NDArray[np.float32]
    backgrounds: Backgrounds | None
    header: dict[str, Any]
    """What run.json records about the data."""
    start: Start | None = None
    baseline: float | None = None
    """Metric of logistic regression on log-mel statistics."""
    validation_waveforms: Sequence[NDArray[np.float32]] = ()
    validation_names: Sequence[str] = ()
    """Paths of the validation clips, for a report; empty where they have no labels."""
    embeddings: EmbeddingTargets | None = None
    """Of a teacher of another maker, where there is one."""
    shards: ClipShards | None = None
    """Where the training clips lie, if that is an object store."""

    def with_embeddings(self, embeddings: EmbeddingTargets) -> Prepared:
        return replace(self, embeddings=embeddings)

    @property
    def validation_clips(self) -> int:
        """Clips that validate, background not counted."""
        return int(self.header["clips"]["val"])


def prepare(
    sources: Sources,
    recipe: Recipe,
    candidates: Mapping[str, Checkpoint],
    console: Console,
    *,
    fill: bool,
    by_timbre: bool | None,
) -> Prepared:
    """Choose among the candidates to start from, and with ``fill`` settings that suit one where none were told.

    ``by_timbre``: whether the labels differ in timbre, as a run to be resumed found; None: to be found out.
    Raises DataError for data that no model can be trained on.
    """
    dataset = read_data(sources.data, sources.val_fold, console)
    stretches, held_back = _read_background(dataset, sources, console)
    dataset = dataset.labelled
    check_trainable(dataset, sources.data, background=bool(stretches))
    print_warnings(warnings_before_reading(dataset), console)
    (training, waveforms), (validation, validation_waveforms) = _read_clips(dataset, sources, console)
    shards = shards_of(training)
    frontend = _choose_frontend(recipe, (training, waveforms), (validation, validation_waveforms), console)
    log_mels = _build_log_mels(waveforms, frontend, recipe, shards)
    spec = make_spec(
        frontend,
        log_mels,
        **recipe.model.fields(None),
        trained_patches=recipe.training.patches,
        task=training.task,
        labels=training.labels,
        nothing_class=bool(stretches) and training.task == "single",
    )
    recipe, spec = fit_to_window(recipe, spec, console)
    targets, validation_targets = training.label_targets(spec.labels), validation.targets(spec.labels)
    baseline = measure_baseline(spec, log_mels, targets, validation_waveforms, validation_targets)
    print_baseline(baseline, spec, len(validation.clips), console)
    start = choose_start(candidates, recipe, spec, waveforms, targets, console)
    if start is None:
        fill = False
    else:
        spec = spec_from(recipe, spec, start.checkpoint)
        if by_timbre is None:
            by_timbre = fill and is_timbre_task(start, spec, waveforms, log_mels, targets, console)
    recipe = _settle(
        recipe, spec, targets, console, fill=fill, by_timbre=bool(by_timbre), configured=sources.configured
    )
    if by_timbre:  # the log-mels so far are of several speeds
        log_mels = _build_log_mels(waveforms, frontend, recipe, shards)
    quiet = held_back.windows(frontend.window_samples, MOST_WINDOWS)
    header = _describe_data(sources, dataset, (training, validation), stretches, quiet)
    if by_timbre:
        header["by_timbre"] = True
    return Prepared(
        recipe,
        spec,
        waveforms,
        log_mels,
        targets.with_nothing() if spec.nothing_class else targets,
        Windows(Chain((validation_waveforms, quiet)), Frontend(spec.frontend)),
        np.pad(validation_targets, ((0, len(quiet)), (0, 0))),  # background has no label
        _transform_background(stretches, frontend, recipe, console) if stretches else None,
        header,
        start=start,
        baseline=baseline,
        validation_waveforms=validation_waveforms,
        validation_names=[str(clip.path) for clip in validation.clips],
        shards=shards,
    )


def _build_log_mels(waveforms: Waveforms, frontend: FrontendSpec, recipe: Recipe, shards: ClipShards | None) -> LogMels:
    # Of clips in an object store none are kept: every process would read all of them before its first step.
    return LogMels(waveforms, frontend, recipe.training.augment, memory_bytes=None if shards is None else 0)


def _read_clips(
    dataset: Dataset, sources: Sources, console: Console
) -> tuple[tuple[Dataset, Waveforms], tuple[Dataset, Waveforms]]:
    """The clips that train and those that validate, decoded; prints what of them is lost and what is odd."""
    training, validation = (
        load_clips(dataset.split(split), SAMPLE_RATE_HZ, console, action=action)
        for split, action in (("train", "Reading training clips"), ("val", "Reading validation clips"))
    )
    _copy_shards(validation[0], console)
    print_counts(dataset, training[0], validation[0], console)
    print_warnings(warn_lost_labels(dataset, training[0], validation[0]), console)
    return training, validation


def _describe_data(
    sources: Sources,
    dataset: Dataset,
    splits: tuple[Dataset, Dataset],
    stretches: Sequence[Stretches],
    quiet: Stretches,
) -> dict[str, Any]:
    """What run.json says of the data."""
    clips = {name: len(split.clips) for name, split in zip(("train", "val"), splits, strict=True)}
    header: dict[str, Any] = {"data": sources.data.name, "split": dataset.split_rule, "clips": clips}
    if stretches:
        header["background"] = {
            "sources": len(stretches),
            "train_hours": round(sum(source.hours for source in stretches), 3),
            "val_windows": len(quiet),
        }
    return header


def _copy_shards(validation: Dataset, console: Console) -> None:
    """Validation reads all its clips again and again; raises RemoteError."""
    if (found := shards_of(validation)) is not None:
        for shard in track(found.shards, "Copying validation shards", console):
            shard.fetch()


def _settle(
    recipe: Recipe,
    spec: Spec,
    targets: LabelTargets,
    console: Console,
    *,
    fill: bool,
    by_timbre: bool,
    configured: bool,
) -> Recipe:
    """The recipe with all labels drawn equally often where they are uneven; and, with ``fill``, as suits a start.

    ``by_timbre``: the labels differ in timbre. Unless a recipe file ``configured`` it, a convnet's mixing is
    filled in too.
    """
    training = recipe.training
    if "balanced" not in training.model_fields_set and (notes := warn_uneven(targets.count_clips(), spec.labels)):
        print_warnings(notes, console)
        training = training.model_copy(update={"balanced": True})
    if spec.network.kind == "transformer":
        training = training.fill_for_start(spec, len(targets), by_timbre=by_timbre) if fill else training
    elif not configured:
        training = training.fill_for_convnet()
    return recipe.model_copy(update={"training": training})


def _choose_frontend(
    recipe: Recipe, training: tuple[Dataset, Waveforms], validation: tuple[Dataset, Waveforms], console: Console
) -> FrontendSpec:
    """The recipe's front end; its window is the median training clip unless the recipe gives one."""
    _, waveforms = training
    lengths = [len(waveforms[clip]) for clip in sample_evenly(len(waveforms))]
    frontend = recipe.model.frontend(SAMPLE_RATE_HZ, float(np.median(lengths)))
    chosen_by = [length / SAMPLE_RATE_HZ for length in lengths] if recipe.model.window_s is None else []
    print_audio_warnings(training, validation, frontend, chosen_by, console)
    return frontend


def _read_background(dataset: Dataset, sources: Sources, console: Console) -> tuple[list[Stretches], Stretches]:
    """Each source's stretches that train, and all that validate: the data's own, split as its clips are, and others."""

    def read(clips: Sequence[Clip]) -> Stretches:
        return load_background(clips, SAMPLE_RATE_HZ, console)

    pairs = [load_split_background(dataset, SAMPLE_RATE_HZ, console)]
    pairs += [split_stretches(read(background_clips([path]))) for path in sources.background]
    training, held_back = zip(*pairs, strict=True)
    return [source for source in training if len(source)], sum(held_back[1:], held_back[0])


def _transform_background(
    sources: Sequence[Stretches], frontend: FrontendSpec, recipe: Recipe, console: Console
) -> Backgrounds:
    augment = recipe.training.augment.model_copy(update={"speed": 0.0})
    room = memory_budget() // len(sources)
    log_mels = [LogMels(source, frontend, augment, memory_bytes=room) for source in sources]
    for each in log_mels:
        each.fill(lambda stretches: track(stretches, "Transforming background", console))
    return Backgrounds(log_mels, [source.seconds for source in sources])


def fit_to_window(recipe: Recipe, spec: Spec, console: Console) -> tuple[Recipe, Spec]:
    """The recipe and the spec without the default sizes that do not fit a window."""
    training = recipe.training.fit_to_window(spec)
    if left_out := [patch.short for patch in recipe.training.patches if patch not in training.patches]:
        console.print(
            f"Patch sizes {', '.join(left_out)} do not fit a window of {spec.frontend.window_s:g} s and are left out",
            style="yellow",
            soft_wrap=True,
        )
    fitting = {"trained_patches": training.patches}
    return recipe.model_copy(update={"training": training}), spec.model_copy(update=fitting)
