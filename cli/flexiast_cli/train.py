"""``flexiast train``: sounds in folders → a flexible checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexiast.data import Dataset
    from flexiast.spec import Spec
    from flexiast.train import Settings, Step, Trainer

SAMPLE_RATE_HZ = 16_000
LEAST_STEPS = 3_000
"""Fewer steps do not train a network from scratch, however few the clips are."""


def train(
    data: Annotated[Path, typer.Argument(help="Folder of folders named by label, or a CSV (path,label,split|fold).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run: best checkpoint, state to resume.")
    ],
    model: Annotated[str, typer.Option("--model", help="Size: nano, tiny, small or base.")] = "nano",
    patch_sizes: Annotated[
        str | None, typer.Option("--patch-sizes", help="Sizes to train, e.g. 8,16,16x32 (default: ten from 8 to 48).")
    ] = None,
    base_patch: Annotated[
        str, typer.Option("--base-patch", help="Size at which kernel and positions are stored.")
    ] = "16",
    window: Annotated[
        float | None, typer.Option("--window", help="Seconds of audio classified at once. (default: the median clip)")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Default: 100, or as many as make 3,000 steps.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate")] = 1e-3,
    val_fold: Annotated[
        str | None, typer.Option("--val-fold", help="Fold that validates, for a CSV with folds. (default: the last)")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder, to the same weights.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without files that cannot be read.")] = False,
) -> None:
    """Train a flexible checkpoint on your own sounds.

    Each step draws one patch size, coarse ones first. The validation split is measured at all sizes; the best mean is
    kept in OUTPUT/checkpoint.safetensors.
    """
    from flexiast.errors import UsageError
    from flexiast.extras import require
    from flexiast.files import check_output
    from flexiast.spec import PRESETS, PatchSize, parse_patches
    from flexiast_cli.console import positive

    if model not in PRESETS:
        raise UsageError(f"--model {model!r} is not a size; choose one of {', '.join(PRESETS)}")
    positive(window, "--window")
    require("torch", "train")
    require("torchaudio", "train")
    if not resume and (output / "last.safetensors").exists():
        raise UsageError(f"{output} already holds a run; continue it with --resume, or choose another folder")
    check_output(output / "checkpoint.safetensors")

    from flexiast.train import Settings

    fields: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    if patch_sizes is not None:
        fields["patches"] = parse_patches(patch_sizes)
    settings = Settings.checked(**fields)
    shape = {"model": model, "base_patch": PatchSize.parse(base_patch), "window": window}
    _run(data, output, settings, shape, epochs, val_fold, resume=resume, skip_bad=skip_bad)


def _run(
    data: Path,
    output: Path,
    settings: Settings,
    shape: dict[str, Any],
    epochs: int | None,
    val_fold: str | None,
    *,
    resume: bool,
    skip_bad: bool,
) -> None:
    from flexiast.data import read_dataset
    from flexiast.errors import DataError, ExitCode
    from flexiast.evaluate import Windows
    from flexiast.frontend import Frontend
    from flexiast.train import Trainer
    from flexiast_cli.console import stderr
    from flexiast_cli.interrupts import ending_gently

    console = stderr()
    dataset = read_dataset(data, val_fold)
    if len(dataset.labels) < 2 and dataset.task == "single":
        raise DataError(f"{data} has one label only, {dataset.labels[0]!r}; add sounds that are something else")
    training, waveforms = _load(dataset.split("train"), "Reading training clips", skip_bad)
    validation, validation_waveforms = _load(dataset.split("val"), "Reading validation clips", skip_bad)
    if epochs is None:
        epochs = max(settings.epochs, -(-LEAST_STEPS // max(1, len(training.clips) // settings.batch_size)))
    settings = settings.model_copy(update={"epochs": epochs})
    spec = _spec(training, waveforms, settings, shape)
    trainer = Trainer(output, spec, settings, training, waveforms)
    if resume:
        trainer.resume()
    console.print(
        f"{len(training.clips)} clips train, {len(validation.clips)} validate ({dataset.split_rule}); "
        f"{spec.classes} labels, window {spec.frontend.window_s:g} s, "
        f"{sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6:.2f} M parameters",
        markup=False,
    )
    windows = Windows(validation_waveforms, Frontend(spec.frontend))
    info = {
        "data": data.name,
        "split": dataset.split_rule,
        "clips": {"train": len(training.clips), "val": len(validation.clips)},
    }
    with ending_gently(trainer.stop, terminated=ExitCode.TERMINATED):
        _follow(trainer, trainer.steps(windows, validation.targets(spec.labels), info))
        if trainer.step < trainer.total:
            console.print(f"Stopped at step {trainer.step} of {trainer.total}; --resume continues to the same weights")
    console.print(
        f"Best mean over all sizes {trainer.best:.4f}; kept in {output / 'checkpoint.safetensors'}",
        markup=False,
        soft_wrap=True,
    )


def _load(dataset: Dataset, description: str, skip_bad: bool) -> tuple[Dataset, list[Any]]:
    from flexiast.data import load_waveforms
    from flexiast_cli.console import stderr, tracked

    readable, waveforms, errors = load_waveforms(
        dataset, SAMPLE_RATE_HZ, skip_bad=skip_bad, progress=lambda clips: tracked(clips, description)
    )
    for error in errors:
        stderr().print(f"skipped: {error}", markup=False)
    return readable, waveforms


def _spec(training: Dataset, waveforms: Sequence[Any], settings: Settings, shape: dict[str, Any]) -> Spec:
    import numpy as np

    from flexiast.spec import PRESETS, FrontendSpec
    from flexiast.train import make_spec

    seconds = shape["window"]
    if seconds is None:
        seconds = float(np.median([len(waveform) for waveform in waveforms])) / SAMPLE_RATE_HZ
    samples = round(seconds * SAMPLE_RATE_HZ)
    frontend = FrontendSpec.checked(sample_rate_hz=SAMPLE_RATE_HZ, window_samples=samples, mean=0.0, std=1.0)
    return make_spec(
        frontend,
        waveforms,
        base_patch=shape["base_patch"],
        trained_patches=settings.patches,
        network=PRESETS[shape["model"]],
        task=training.task,
        labels=training.labels,
    )


def _follow(trainer: Trainer, steps: Any) -> None:
    """Progress on a terminal: loss per patch size and time left; elsewhere a line for each measurement."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from flexiast_cli.console import stderr

    console = stderr()
    losses: dict[str, float] = {}
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=trainer.total, completed=trainer.step)
        for step in steps:
            name = str(step.patch)
            losses[name] = 0.95 * losses.get(name, step.loss) + 0.05 * step.loss
            listed = "  ".join(
                f"{patch} {losses[patch]:.2f}" for patch in sorted(losses, key=lambda p: int(p.split("x")[0]))
            )
            progress.update(task, completed=step.number, description=f"[dim]loss[/] {listed}")
            if step.results:
                _report(console, step, listed)


def _report(console: Any, step: Step, losses: str) -> None:
    assert step.results is not None
    measured = "  ".join(f"{result.patch_size} {result.metric:.3f}" for result in step.results)
    mean = sum(result.metric for result in step.results) / len(step.results)
    console.print(f"step {step.number}/{step.total}  mean {mean:.4f}  {measured}\n  [dim]loss {losses}[/]")
