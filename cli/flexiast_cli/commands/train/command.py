"""``flexiast train``: a flexible checkpoint from sounds in folders, a CSV or shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiast_cli.options.validators import positive, worker_count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from flexiast.checkpoint import Checkpoint
    from flexiast.data.background import Stretches
    from flexiast.data.clips import Clip, Dataset
    from flexiast.evaluation.evaluate import Windows
    from flexiast.spec import FrontendSpec, Spec
    from flexiast.training.batches import Backgrounds, LogMels
    from flexiast.training.distributed import World
    from flexiast.training.recipe import Recipe
    from flexiast.training.trainer import Progress, Trainer

SAMPLE_RATE_HZ = 16_000

NO_BACKGROUND = (
    "There is no background: in a real room the model will hear one of its labels in every voice, song and noise. "
    "Record an hour there in which none of them sounds, such as by `arecord -f S16_LE -r 16000 -d 3600 room.wav`, "
    "and give it by --background room.wav"
)

FEW_CLIPS = 100
"""A label: with 24, convnets reach 79 to 85 % on ESC-50, a transformer that they teach 74 (docs/benchmarks)."""


def train(
    data: Annotated[
        Path, typer.Argument(help="Folder of folders named by label, a CSV (path,label,split|fold), or shards.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run: best checkpoint, metrics, state to resume.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", help="Recipe (TOML) with everything below and more; options override it.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="pico, nano, tiny, small, base; or a teacher: convnet, convnet-wide. (nano)"),
    ] = None,
    patch_sizes: Annotated[
        str | None,
        typer.Option(
            "--patch-sizes", help="Sizes to train, e.g. 8,16,16x32; 16:2 is drawn twice as often. (8 … 48, as fit)"
        ),
    ] = None,
    base_patch: Annotated[
        str | None, typer.Option("--base-patch", help="Size at which kernel and positions are stored. (16)")
    ] = None,
    window: Annotated[
        float | None,
        typer.Option("--window", callback=positive, help="Seconds of audio classified at once. (the median clip)"),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="(100, or as many as make 3,000 steps)")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="(32)")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="(0.001)")] = None,
    init: Annotated[
        Path | None, typer.Option("--init", help="Checkpoint to start from; labels, window and base size may differ.")
    ] = None,
    teachers: Annotated[
        list[Path] | None,
        typer.Option(
            "--teacher", help="Checkpoint on the same labels whose answers are learnt too; of several, their mean."
        ),
    ] = None,
    background: Annotated[
        list[Path] | None,
        typer.Option(
            "--background",
            help="Recordings of any length in which none of the labels sounds, a file or a folder; may be repeated.",
        ),
    ] = None,
    val_fold: Annotated[
        str | None, typer.Option("--val-fold", help="Fold that validates, for a CSV with folds. (the last)")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="(0)")] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, callback=worker_count, help="Processes that prepare batches ahead, if cores are free."
        ),
    ] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the blocks first, a minute or two; worth it on a GPU only.")
    ] = False,
    bf16: Annotated[
        bool,
        typer.Option("--bf16", help="Compute in bfloat16 on a CPU too; sooner only where it has AVX-512 BF16 or AMX."),
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard too.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder, to the same weights.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without files that cannot be read.")] = False,
) -> None:
    """Train a flexible checkpoint on your own sounds.

    One patch size first, then each step draws one of all. The validation split is measured at all sizes; the best
    mean is kept in OUTPUT/checkpoint.safetensors. Under torchrun, every process takes its share of each step.
    """
    from flexiast.errors import UsageError
    from flexiast.extras import require
    from flexiast.files import check_output
    from flexiast.spec import PRESETS, PatchSize
    from flexiast.training.recipe import Recipe, parse_weighted_patches

    recipe = Recipe.read(config) if config else Recipe()
    convolutional = model in PRESETS and PRESETS[model].kind == "convolutional"
    if config is None and patch_sizes is None and convolutional:  # it has none: any one will do
        patch_sizes = base_patch or "16"
    patches, weights = parse_weighted_patches(patch_sizes) if patch_sizes else (None, None)
    if patches is not None:  # the weights of a recipe belong to its own sizes
        recipe = Recipe(model=recipe.model, training=recipe.training.model_copy(update={"patch_weights": None}))
    recipe = recipe.replace_fields(
        model={
            "size": model,
            "base_patch": None if base_patch is None else PatchSize.parse(base_patch),
            "window_s": window,
        },
        training={
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "patches": patches,
            "patch_weights": weights,
        },
    )
    require("torch", "train")
    if tensorboard:
        require("tensorboard", "tensorboard")

    from flexiast.training.distributed import init_process_group, is_restarted

    again = is_restarted(output / "run.json") and (output / "last.safetensors").exists()  # torchrun replaces dead ranks
    held = [name for name in ("last.safetensors", "checkpoint.safetensors") if (output / name).exists()]
    if held and not (resume or again):
        remedy = "continue it with --resume, or " if "last.safetensors" in held else ""
        raise UsageError(f"{output} already holds a run; {remedy}choose another folder")
    check_output(output / "checkpoint.safetensors")
    sources = _Sources(data, val_fold, init, tuple(teachers or ()), tuple(background or ()), skip_bad)
    with init_process_group() as world:
        _run(world, sources, output, recipe, _How(workers, compiled, bf16, resume or again, tensorboard))


@dataclass(frozen=True)
class _Sources:
    """What a run reads."""

    data: Path
    val_fold: str | None
    init: Path | None
    teachers: tuple[Path, ...]
    background: tuple[Path, ...]
    skip_bad: bool


@dataclass(frozen=True)
class _How:
    """What changes how a run goes, not what it learns."""

    workers: int
    compiled: bool
    bf16: bool
    resume: bool
    tensorboard: bool


@dataclass(frozen=True)
class _Prepared:
    """A data set ready to train on and to validate with."""

    recipe: Recipe
    """With the patch sizes that fit."""
    spec: Spec
    log_mels: LogMels
    targets: NDArray[np.float32]
    validation: Windows
    validation_targets: NDArray[np.float32]
    backgrounds: Backgrounds | None
    header: dict[str, Any]
    """What run.json says of the data."""


def _run(
    world: World,
    sources: _Sources,
    output: Path,
    recipe: Recipe,
    how: _How,
) -> None:
    from flexiast.checkpoint import weights_sha256
    from flexiast.data.dataset import compute_balanced_weights
    from flexiast.errors import ExitCode
    from flexiast.networks import load_model
    from flexiast.training.distributed import launcher
    from flexiast.training.journal import Journal
    from flexiast.training.recipe import Distill
    from flexiast.training.trainer import Trainer
    from flexiast.training.transfer import changes
    from flexiast_cli.terminal.console import count_noun, stderr
    from flexiast_cli.terminal.interrupts import graceful_shutdown

    console = stderr()
    console.quiet = not world.is_main
    start = None if sources.init is None else _checkpoint(sources.init, start=True)
    teachers = [_checkpoint(path) for path in sources.teachers]
    ready = _prepare(sources, recipe, start, console)
    recipe = ready.recipe
    trainer = Trainer(
        output,
        ready.spec,
        recipe,
        ready.log_mels,
        ready.targets,
        world=world,
        start=start,
        teachers=[load_model(teacher) for teacher in teachers],
        probabilities=compute_balanced_weights(ready.targets) if recipe.training.balanced else None,
        backgrounds=ready.backgrounds,
        compiled=how.compiled,
        bf16=how.bf16,
    )
    if how.resume:
        trainer.resume()
    clips = ready.header["clips"]
    console.print(
        f"{clips['train']} clips train, {clips['val']} validate ({ready.header['split']}); "
        f"{count_noun(len(ready.spec.labels), 'label')}, window {ready.spec.frontend.window_s:g} s, "
        f"{sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6:.2f} M parameters",
        markup=False,
        soft_wrap=True,
    )
    if ready.backgrounds is None:
        console.print(NO_BACKGROUND, style="yellow", markup=False, soft_wrap=True)
    else:
        heard = ready.header["background"]
        console.print(
            f"Background: {heard['train_hours']:.2f} h train in {count_noun(heard['sources'], 'source')}, "
            f"{count_noun(heard['val_windows'], 'window')} validate",
            markup=False,
            soft_wrap=True,
        )
    if start is not None and (changed := changes(start.spec, ready.spec)):
        console.print(f"From the start: {', '.join(changed)}", soft_wrap=True)
    if (
        ready.spec.network.kind == "transformer"
        and start is None
        and not teachers
        and clips["train"] < FEW_CLIPS * len(ready.spec.labels)
    ):
        console.print(
            f"Fewer than {FEW_CLIPS} clips a label: a teacher (--model convnet, then --teacher) would help much",
            style="yellow",
        )
    header = ready.header | {
        "recipe": json.loads(recipe.model_dump_json()),
        "init": None if start is None else weights_sha256(start),
        "teachers": [weights_sha256(teacher) for teacher in teachers],
        "precision": str(trainer.precision).removeprefix("torch."),
        "ranks": world.ranks,
        "launcher": launcher(),
    }
    told, usual = recipe.training.distill.teacher_weight, Distill().teacher_weight
    if told != usual and not teachers:
        console.print(f"The recipe gives a teacher {told:g} of the loss, but there is no --teacher", style="yellow")
    journal = Journal(output, header, step=trainer.step, tensorboard=how.tensorboard) if world.is_main else None
    if journal is not None and journal.torn:
        console.print("The last line of metrics.jsonl was cut off and is dropped", style="yellow")
    steps = trainer.steps(ready.validation, ready.validation_targets, journal, workers=how.workers)
    with graceful_shutdown(trainer.stop, terminated=ExitCode.TERMINATED):
        _follow(trainer, steps, clips["val"], console)
        if trainer.step < trainer.total:
            console.print(f"Stopped at step {trainer.step} of {trainer.total}; --resume continues to the same weights")
    console.print(
        f"Best mean over all sizes{' and background' * (ready.backgrounds is not None)} "
        f"{_mean(trainer.best, ready.spec, clips['val'])}; "
        f"kept in {output / 'checkpoint.safetensors'}",
        markup=False,
        soft_wrap=True,
    )


def _checkpoint(path: Path, *, start: bool = False) -> Checkpoint:
    """Of a file or of a run's folder; of a start, one without labels will do."""
    from flexiast.checkpoint import load_checkpoint
    from flexiast_runtime.catalog import find_checkpoint

    return load_checkpoint(find_checkpoint(str(path)), start=start)


def _prepare(sources: _Sources, recipe: Recipe, start: Checkpoint | None, console: Console) -> _Prepared:
    import numpy as np

    from flexiast.data.background import MOST_WINDOWS, Chain
    from flexiast.data.checks import check_trainable, warn_lost_labels, warn_uneven, warnings_before_reading
    from flexiast.data.clips import with_nothing
    from flexiast.evaluation.evaluate import Windows
    from flexiast.frontend import Frontend
    from flexiast.training.batches import LogMels
    from flexiast.training.sampling import sample_evenly
    from flexiast.training.trainer import make_spec
    from flexiast_cli.commands.train.dataset_report import print_audio_warnings, print_counts, print_warnings
    from flexiast_cli.dataset import load_clips, read_data, track

    dataset = read_data(sources.data, sources.val_fold, console, skip_bad=sources.skip_bad)
    stretches, held_back = _background(dataset, sources, console)
    dataset = dataset.labelled
    check_trainable(dataset, sources.data, background=bool(stretches))
    print_warnings(warnings_before_reading(dataset), console)
    (training, waveforms), (validation, validation_waveforms) = (
        load_clips(dataset.split(split), SAMPLE_RATE_HZ, console, skip_bad=sources.skip_bad, action=action)
        for split, action in (("train", "Reading training clips"), ("val", "Reading validation clips"))
    )
    print_counts(dataset, training, validation, console)
    print_warnings(warn_lost_labels(dataset, training, validation), console)
    lengths = [len(waveforms[clip]) for clip in sample_evenly(len(waveforms))]
    frontend = recipe.model.frontend(SAMPLE_RATE_HZ, float(np.median(lengths)))
    print_audio_warnings(
        (training, waveforms),
        (validation, validation_waveforms),
        frontend,
        [length / SAMPLE_RATE_HZ for length in lengths] if recipe.model.window_s is None else [],
        console,
    )
    log_mels = LogMels(
        waveforms, frontend, recipe.training.augment, progress=lambda clips: track(clips, "Transforming", console)
    )
    spec = make_spec(
        frontend,
        log_mels,
        **recipe.model.fields(None if start is None else start.spec),
        trained_patches=recipe.training.patches,
        task=training.task,
        labels=training.labels,
        nothing_class=bool(stretches) and training.task == "single",
    )
    recipe, spec = _fit_to_window(recipe, spec, console)
    header = {
        "data": sources.data.name,
        "split": dataset.split_rule,
        "clips": {"train": len(training.clips), "val": len(validation.clips)},
    }
    quiet = held_back.windows(frontend.window_samples, MOST_WINDOWS)
    windows = Windows(Chain((validation_waveforms, quiet)), Frontend(spec.frontend))
    targets, validation_targets = training.targets(spec.labels), validation.targets(spec.labels)
    validation_targets = np.pad(validation_targets, ((0, len(quiet)), (0, 0)))
    if not recipe.training.balanced:
        print_warnings(warn_uneven(targets, spec.labels), console)
    backgrounds = None
    if stretches:
        backgrounds = _transformed(stretches, frontend, recipe, console)
        header["background"] = {
            "sources": len(stretches),
            "train_hours": round(sum(source.hours for source in stretches), 3),
            "val_windows": len(quiet),
        }
    targets = with_nothing(targets) if spec.nothing_class else targets
    return _Prepared(recipe, spec, log_mels, targets, windows, validation_targets, backgrounds, header)


def _background(dataset: Dataset, sources: _Sources, console: Console) -> tuple[list[Stretches], Stretches]:
    """Stretches of each source that train, and all that validate: the data's own, split with its clips, and others."""
    from flexiast.data.background import background_clips, split_stretches, stretches_of
    from flexiast_cli.dataset import print_skipped

    def read(clips: Sequence[Clip]) -> Stretches:
        stretches, errors = stretches_of(clips, SAMPLE_RATE_HZ, skip_bad=sources.skip_bad)
        print_skipped(errors, console)
        return stretches

    own = [read([clip for clip in dataset.background if clip.split == split]) for split in ("train", "val")]
    pairs = [(own[0], own[1]) if len(own[1]) else split_stretches(own[0])]
    pairs += [split_stretches(read(background_clips([path]))) for path in sources.background]
    training, held_back = zip(*pairs, strict=True)
    return [source for source in training if len(source)], sum(held_back[1:], held_back[0])


def _transformed(sources: Sequence[Stretches], frontend: FrontendSpec, recipe: Recipe, console: Console) -> Backgrounds:
    from flexiast.data.waveforms import memory_budget
    from flexiast.training.batches import Backgrounds, LogMels
    from flexiast_cli.dataset import track

    augment = recipe.training.augment.model_copy(update={"speed": 0.0})
    log_mels = [
        LogMels(
            source,
            frontend,
            augment,
            memory_bytes=memory_budget() // len(sources),
            progress=lambda stretches: track(stretches, "Transforming background", console),
        )
        for source in sources
    ]
    return Backgrounds(log_mels, [source.seconds for source in sources])


def _fit_to_window(recipe: Recipe, spec: Spec, console: Console) -> tuple[Recipe, Spec]:
    """Both without the default sizes that do not fit a window."""
    training = recipe.training.fit_to_window(spec)
    if left_out := [patch.short for patch in recipe.training.patches if patch not in training.patches]:
        console.print(
            f"Patch sizes {', '.join(left_out)} do not fit a window of {spec.frontend.window_s:g} s and are left out",
            style="yellow",
            soft_wrap=True,
        )
    fitting = {"trained_patches": training.patches}
    return recipe.model_copy(update={"training": training}), spec.model_copy(update=fitting)


def _follow(trainer: Trainer, steps: Iterable[Progress], clips: int, console: Console) -> None:
    """Progress on a terminal: loss per patch size and time left; elsewhere a line for each measurement on the clips."""
    from rich import progress as rich

    losses: dict[str, float] = {}
    columns = (
        rich.BarColumn(bar_width=24),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}"),
    )
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=trainer.total, completed=trainer.step)
        for step in steps:
            name = str(step.patch)
            losses[name] = 0.95 * losses.get(name, step.loss) + 0.05 * step.loss
            listed = "  ".join(
                f"{patch} {losses[patch]:.2f}" for patch in sorted(losses, key=lambda p: int(p.split("x")[0]))
            )
            bar.update(task, completed=step.number, description=f"[dim]loss[/] {listed}")
            if step.results:
                _report(console, step, listed, trainer.spec, clips)


def _report(console: Console, step: Progress, losses: str, spec: Spec, clips: int) -> None:
    assert step.results is not None
    measured = "  ".join(f"{result.patch_size} {result.metric:.3f}" for result in step.results)
    mean = sum(result.metric for result in step.results) / len(step.results)
    quiet = [result.specificity for result in step.results if result.specificity is not None]
    silent = f"  background right {sum(quiet) / len(quiet):.4f}" if quiet else ""
    console.print(
        f"step {step.number}/{step.total}  mean {_mean(mean, spec, clips)}{silent}  {measured}\n  [dim]loss {losses}[/]"
    )
    always = {result.repeated_answer for result in step.results}
    if len(always) == 1 and (label := always.pop()) is not None and step.number == step.total:
        console.print(
            f"Every size answers {label!r} to nearly every validation clip: nothing else was learnt. Record more of "
            "the others, train longer, start from a model (--init), or set balanced = true in a recipe",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _mean(value: float, spec: Spec, clips: int) -> str:
    """A mean over sizes, with what so few clips leave open: ``0.93 (8 clips: 0.57 to 0.99)``."""
    from flexiast.evaluation.per_label import wilson_interval
    from flexiast_cli.terminal.console import count_noun

    of = count_noun(clips, "clip")
    if spec.task == "multi":
        return f"{value:.4f} ({of})"
    low, high = wilson_interval(value, clips)
    digits = 2 if clips < 200 else 4
    return f"{value:.{digits}f} ({of}: {low:.2f} to {high:.2f})"
