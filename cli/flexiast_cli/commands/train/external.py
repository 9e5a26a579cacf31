"""Teachers of other makers on the command line: which one was given, and what it and others say of the clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.data.clips import Dataset
from flexiast.errors import UsageError
from flexiast.evaluation.evaluate import Windows
from flexiast.frontend import Frontend
from flexiast.model import FlexiAST
from flexiast.networks import load_model
from flexiast.spec import PRESETS, PatchSize
from flexiast.storage import RemotePath
from flexiast.training.batches import LogMels
from flexiast.training.embedding_targets import EmbeddingTargets, embed_clips, vectors_to_learn
from flexiast.training.external_teacher import SUFFIXES, Answers, ExternalTeacher, read_labels
from flexiast.training.recipe import Recipe
from flexiast.training.trainer import make_spec
from flexiast.training.unlabelled import CONFIDENT, WINDOW_S, Pieces, read_recordings
from flexiast_cli.commands.train.options import Sources
from flexiast_cli.commands.train.prepare import SAMPLE_RATE_HZ, Prepared, fit_to_window, prepare
from flexiast_cli.commands.train.start import Start
from flexiast_cli.dataset import load_clips, print_left_out, track

if TYPE_CHECKING:
    from rich.console import Console

CACHE = "teacher-{part}.npz"
"""In the run's folder: a teacher's answers to each clip."""


def is_external(path: Path) -> bool:
    """Whether a teacher is of another maker, by the name of its file."""
    return path.suffix.lower() in SUFFIXES


def open_external(sources: Sources, recipe: Recipe) -> ExternalTeacher | None:
    """The teacher of another maker among those given, if there is one; raises UsageError for what does not fit it."""
    found = [path for path in sources.teachers if is_external(path)]
    if not found:
        if sources.teacher_labels is not None or sources.teacher_rate_hz is not None:
            raise UsageError("--teacher-labels and --teacher-rate are for a --teacher that is a .tflite or .onnx model")
        return None
    if len(found) > 1:
        raise UsageError(f"{len(found)} teachers are .tflite or .onnx models; give one, and checkpoints beside it")
    if recipe.model.size is not None and PRESETS[recipe.model.size].kind == "convolutional":
        raise UsageError(f"a .tflite or .onnx teacher teaches transformers, not {recipe.model.size}; leave --model out")
    labels = None if sources.teacher_labels is None else read_labels(sources.teacher_labels)
    if labels is not None and sources.val_fold is not None:
        raise UsageError("--val-fold is for a CSV with folds; --teacher-labels is for recordings without labels")
    return ExternalTeacher(found[0], labels, sources.teacher_rate_hz)


def prepare_with_teacher(
    sources: Sources,
    recipe: Recipe,
    candidates: Mapping[str, Checkpoint],
    teacher: ExternalTeacher,
    checkpoints: Sequence[Checkpoint],
    output: Path,
    console: Console,
    *,
    fill: bool,
    by_timbre: bool | None,
) -> Prepared:
    """Labelled clips with the teacher's embedding, or recordings without labels with its scores and embedding.

    With its labels the recordings need none, and ``checkpoints`` teach their embeddings too.
    """
    if teacher.labels:
        start = next((Start(name, candidate) for name, candidate in candidates.items()), None)
        return _prepare_unlabelled(sources, recipe, start, teacher, checkpoints, output, console)
    prepared = prepare(sources, recipe, candidates, console, fill=fill, by_timbre=by_timbre)
    answers = _ask(teacher, prepared.waveforms, output / CACHE.format(part="train"), console)
    return prepared.with_embeddings(EmbeddingTargets([vectors_to_learn(answers)]))


def _ask(teacher: ExternalTeacher, clips: Sequence[Float], cache: Path, console: Console) -> Answers:
    progress = partial(track, action="Asking the teacher", console=console)
    return teacher.answers(clips, SAMPLE_RATE_HZ, cache, progress=progress)


def _prepare_unlabelled(
    sources: Sources,
    recipe: Recipe,
    start: Start | None,
    teacher: ExternalTeacher,
    checkpoints: Sequence[Checkpoint],
    output: Path,
    console: Console,
) -> Prepared:
    if isinstance(sources.data, RemotePath):
        raise UsageError(
            f"{sources.data} holds shards, and a teacher's own labels are learnt from a folder of recordings"
        )
    dataset = read_recordings(sources.data, teacher.labels)
    print_left_out(sources.data, dataset.left_out[""], console)
    frontend = recipe.model.frontend(SAMPLE_RATE_HZ, WINDOW_S * SAMPLE_RATE_HZ)
    pieces = _read_pieces(dataset, frontend.window_samples, console)
    answers = {
        split: _ask(teacher, clips, output / CACHE.format(part=split), console) for split, clips in pieces.items()
    }
    confident = (answers["val"].scores >= CONFIDENT).astype("float32")
    if not confident.any():
        raise UsageError(
            f"the teacher gives no label {CONFIDENT:g} in the {len(confident)} windows that validate; "
            "give it more recordings"
        )
    log_mels = LogMels(pieces["train"], frontend, recipe.training.augment)
    spec = make_spec(
        frontend,
        log_mels,
        **recipe.model.fields(None if start is None else start.checkpoint.spec),
        trained_patches=recipe.training.patches,
        task="multi",
        labels=teacher.labels,
    )
    recipe, spec = fit_to_window(recipe, spec, console)
    embeddings = [answers["train"].embedding]
    for number, checkpoint in enumerate(checkpoints):
        cache = output / CACHE.format(part=f"train-{number}")
        embeddings.append(_embed(checkpoint, recipe.training.distill.teacher_patch, pieces["train"], cache, console))
    header = {
        "data": sources.data.name,
        "split": dataset.split_rule,
        "clips": {split: len(found) for split, found in pieces.items()},
    }
    return Prepared(
        recipe,
        spec,
        pieces["train"],
        log_mels,
        answers["train"].scores,
        Windows(pieces["val"], Frontend(spec.frontend)),
        confident,
        None,
        header,
        start=start,
        embeddings=EmbeddingTargets(embeddings),
    )


def _read_pieces(dataset: Dataset, window_samples: int, console: Console) -> dict[str, Pieces]:
    """The recordings of each split, in pieces as long as a window."""
    pieces = {}
    for split in ("train", "val"):
        action = f"Reading recordings ({split})"
        _, waveforms = load_clips(dataset.split(split), SAMPLE_RATE_HZ, console, action=action)
        pieces[split] = Pieces(waveforms, window_samples)
    return pieces


def _embed(
    checkpoint: Checkpoint, patch: PatchSize | None, clips: Sequence[Float], cache: Path, console: Console
) -> Float:
    model = load_model(checkpoint)
    if not isinstance(model, FlexiAST):
        raise UsageError("a convnet has no embedding to teach beside a .tflite or .onnx model; leave it out")
    patch = model.spec.check_patch(patch or model.spec.base_patch)
    progress = partial(track, action="Asking a checkpoint", console=console)
    return embed_clips(model, patch, clips, cache, progress=progress)
