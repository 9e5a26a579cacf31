"""The work of `flexiast evaluate`: run a model over a data set, and print its metric at each patch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flexiast.checkpoint import load_checkpoint
from flexiast.data.background import MOST_WINDOWS, Chain
from flexiast.errors import UsageError
from flexiast.evaluation.evaluate import Classifier, Windows, predict, summarize
from flexiast.extras import require
from flexiast.files import check_output
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, parse_patches
from flexiast_cli.commands.evaluate import label_report
from flexiast_cli.commands.evaluate.table import show_results
from flexiast_cli.dataset import load_background, load_clips, load_split_background, read_data, take_split
from flexiast_cli.terminal.console import count_noun, log, print_json, stderr, track
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_any, find_checkpoint, list_shipped
from flexiast_runtime.inference.backends import Backend, load_engines


def run(
    model: str,
    data: Path,
    patch_sizes: str | None,
    precision: str | None,
    backend: Backend,
    split: str | None,
    val_fold: str | None,
    *,
    as_json: bool,
    per_label: bool,
    plot: Path | None,
    confusion: Path | None,
) -> None:
    for picture in (plot, confusion):
        if picture is not None:
            require("matplotlib", "train")
            check_output(picture)
    chosen = None if patch_sizes is None else parse_patches(patch_sizes)
    classifier, patches = _load_classifier(model, chosen, precision, backend)
    spec, console = classifier.spec, stderr()
    label_report.check_confusion(spec, confusion)
    dataset = read_data(data, val_fold, console)
    chosen_clips = take_split(dataset, split, console)
    rate_hz = spec.frontend.sample_rate_hz
    readable, waveforms = load_clips(chosen_clips.labelled, rate_hz, console)
    if split in {"train", "val"} and not any(clip.split == "val" for clip in dataset.background):
        training, validation = load_split_background(dataset, rate_hz, console)
        stretches = validation if split == "val" else training
    else:
        stretches = load_background(chosen_clips.background, rate_hz, console)
    background = stretches.windows(spec.frontend.window_samples, MOST_WINDOWS)
    windows = Windows(Chain((waveforms, background)), Frontend(spec.frontend))
    targets = np.pad(readable.targets(spec.labels), ((0, len(background)), (0, 0)))  # background has no label
    logits = dict(predict(classifier, windows, targets, patches, progress=lambda items: track(items, "Measuring")))
    results = [summarize(spec, patch, found, targets) for patch, found in logits.items()]
    clips = len(readable.clips)
    logits, targets = {patch: found[:clips] for patch, found in logits.items()}, targets[:clips]
    counted = count_noun(clips, "clip")
    if background:
        counted += f", {count_noun(len(background), 'window')} of background"
    title = f"{model} on {data.name}, {split or 'every clip'} ({counted})"
    if as_json:
        documents = [
            result.document() | (label_report.describe_labels(spec, found, targets) if per_label else {})
            for result, found in zip(results, logits.values(), strict=True)
        ]
        counts = {"clips": clips, "background_windows": len(background)}
        print_json({"model": model, "data": str(data), "split": split} | counts | {"results": documents})
    else:
        show_results(results, title)
        if per_label:
            label_report.show_labels(spec, logits, targets)
    label_report.warn_repeated_answers(results)
    if plot is not None or confusion is not None:
        from flexiast_cli.commands.evaluate.plot import draw_confusion, draw_results  # needs matplotlib

        if plot is not None:
            draw_results(results, title, plot)
        if confusion is not None:
            best = max(results, key=lambda result: (result.merit, -result.gmac)).patch_size
            draw_confusion(spec, logits[best], targets, f"{title}, {best.short}", confusion)


def _load_classifier(
    model: str, patches: tuple[PatchSize, ...] | None, precision: str | None, backend: Backend
) -> tuple[Classifier, tuple[PatchSize, ...]]:
    """A bundle's engines, or a checkpoint in PyTorch. PyTorch also runs the sizes that a shipped bundle lacks."""
    path = find_any(model)
    if path.is_dir():
        bundle = Bundle.open(path)
        missing = [str(patch) for patch in patches or () if patch not in bundle.manifest.patches]
        if not missing or model not in list_shipped():
            engines = load_engines(bundle, patches, precision, backend, log)
            return engines, engines.patches
        path = find_checkpoint(model)
        stderr().print(
            f"{model} ships no engine for {', '.join(missing)}: its checkpoint runs in PyTorch", style="yellow"
        )
    if precision is not None or backend is not Backend.CPU:
        raise UsageError(
            f"{path} runs in PyTorch, in float32; leave --precision and --backend out, or measure a bundle"
        )
    require("torch", "train")
    checkpoint = load_checkpoint(path)
    patches = tuple(checkpoint.spec.check_patch(patch) for patch in patches or checkpoint.spec.trained_patches)

    from flexiast.networks import TorchClassifier, load_model

    return TorchClassifier(load_model(checkpoint)), patches
