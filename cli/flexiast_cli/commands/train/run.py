"""The work of `flexiast train`: prepare the data, build the trainer, follow it to the end. Needs torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexiast.checkpoint import Checkpoint, load_checkpoint, weights_sha256
from flexiast.data.dataset import compute_balanced_weights
from flexiast.errors import ExitCode, UsageError
from flexiast.evaluation.evaluate import PatchResult
from flexiast.files import check_output
from flexiast.networks import load_model
from flexiast.processor import has_bfloat16_dot_product
from flexiast.spec import Spec
from flexiast.text import preview
from flexiast.training.distributed import World, init_process_group, is_restarted, launcher
from flexiast.training.external_teacher import ExternalTeacher
from flexiast.training.journal import Journal
from flexiast.training.recipe import Distill, Recipe
from flexiast.training.trainer import Trainer
from flexiast.training.transfer import changes
from flexiast.training.warm_start import fit_start
from flexiast_cli.commands.train.external import is_external, open_external, prepare_with_teacher
from flexiast_cli.commands.train.options import Execution, Sources
from flexiast_cli.commands.train.prepare import Prepared, prepare
from flexiast_cli.commands.train.progress import describe_chance, describe_duration, follow, format_mean
from flexiast_cli.commands.train.report import write_report
from flexiast_cli.commands.train.start import list_candidates
from flexiast_cli.commands.train.summary import advise, compare_ways, summarize_run
from flexiast_cli.terminal.console import count_noun, stderr, track
from flexiast_cli.terminal.interrupts import graceful_shutdown
from flexiast_runtime.catalog import DEFAULT, find_checkpoint, list_shipped

if TYPE_CHECKING:
    from rich.console import Console

NO_BACKGROUND = (
    "There is no background: in a real room the model will find one of its labels in every voice, song and noise. "
    "Record an hour there in which none of them sounds, by `flexiast record --hours 1 -o place`, and give it by "
    "--background place"
)

FEW_CLIPS = 100
"""A label: with 24, convnets reach 79 to 85 % on ESC-50, and a transformer that they teach 74 (docs/results.md)."""


def run(sources: Sources, output: Path, recipe: Recipe, execution: Execution) -> None:
    """Raises UsageError where the output folder holds a run that is not to be resumed."""
    # torchrun starts dead ranks again with the same command line
    restarted = is_restarted(output / "run.json") and (output / "last.safetensors").exists()
    resume = execution.resume or restarted
    existing = [name for name in ("last.safetensors", "checkpoint.safetensors") if (output / name).exists()]
    if existing and not resume:
        remedy = "continue it with --resume, or " if "last.safetensors" in existing else ""
        raise UsageError(f"{output} already holds a run; {remedy}choose another folder")
    check_output(output / "checkpoint.safetensors")
    with init_process_group() as world:
        console = stderr()
        console.quiet = not world.is_main
        teachers = [load_checkpoint(find_checkpoint(str(path))) for path in sources.teachers if not is_external(path)]
        external = open_external(sources, recipe)
        earlier = _read_header(output) if resume else {}
        first = earlier.get("start")
        by_default = first is None and not sources.configured and (external is None or not external.labels)
        requested = None if world.device.type == "cuda" else execution.bf16  # a GPU computes in bfloat16 in any case
        execution = replace(execution, bf16=choose_bf16(requested, earlier, output))
        candidates = list_candidates(sources.init or first, recipe, by_default=by_default and not resume)
        fill = not sources.configured and (not resume or first is not None)
        by_timbre = earlier.get("by_timbre", False) if resume else None
        if external is None:
            prepared = prepare(sources, recipe, candidates, console, fill=fill, by_timbre=by_timbre)
        else:
            prepared = prepare_with_teacher(
                sources, recipe, candidates, external, teachers, output, console, fill=fill, by_timbre=by_timbre
            )
        trainer = _build_trainer(world, output, prepared, teachers, execution, external, fresh=not resume)
        if resume and (new_settings := trainer.resume()):
            one = len(new_settings) == 1
            console.print(
                f"The run was saved before there {'was' if one else 'were'} {preview(new_settings)}; "
                f"it goes on with {'its default' if one else 'their defaults'}, not as it began",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        _print_plan(trainer, prepared, sources, console)
        header = _describe_run(trainer, prepared, teachers)
        if external is not None:
            header["external_teacher"] = external.sha256
        _train(trainer, prepared, header, sources, execution, console)


def _read_header(output: Path) -> dict[str, Any]:
    """What a run to be resumed decided, as far as run.json has it: start, precision, labels that differ in timbre."""
    try:
        header = json.loads((output / "run.json").read_text("utf-8"))
        found = {name: header[name] for name in ("start", "precision") if isinstance(header.get(name), str)}
        return found | {"by_timbre": header.get("by_timbre") is True}
    except (OSError, ValueError, AttributeError):
        return {}


def choose_bf16(requested: bool | None, earlier: Mapping[str, Any], output: Path) -> bool:
    """As a run to be resumed began, else as requested, else as the processor is faster.

    Raises UsageError where a run to be resumed is asked for the other precision.
    """
    if "precision" not in earlier:
        return has_bfloat16_dot_product() if requested is None else requested
    began = earlier["precision"] == "bfloat16"
    if requested not in {None, began}:
        raise UsageError(
            f"{output} began in {earlier['precision']}, which a run keeps: resume it without "
            f"{'--bf16' if requested else '--no-bf16'}, or train into another folder"
        )
    return began


def _build_trainer(
    world: World,
    output: Path,
    prepared: Prepared,
    teachers: list[Checkpoint],
    execution: Execution,
    external: ExternalTeacher | None,
    *,
    fresh: bool,
) -> Trainer:
    probabilities = compute_balanced_weights(prepared.targets) if prepared.recipe.training.balanced else None
    unlabelled = external is not None and bool(external.labels)
    start = None if prepared.start is None else prepared.start.checkpoint
    has_head = start is not None and prepared.spec.network.kind == "transformer" and not unlabelled
    if has_head and fresh and start is not None and not _has_head_of(start.spec, prepared.spec):
        training, log_mels = prepared.recipe.training, prepared.log_mels
        start = fit_start(
            start,
            prepared.spec,
            training,
            log_mels,
            prepared.targets,
            probabilities=probabilities,
            backgrounds=prepared.backgrounds,
        )
    return Trainer(
        output,
        prepared.spec,
        prepared.recipe,
        prepared.log_mels,
        prepared.targets,
        world=world,
        start=start,
        measure_start=has_head,
        teachers=[] if unlabelled else [load_model(teacher) for teacher in teachers],
        embeddings=prepared.embeddings,
        learn_scores=unlabelled,
        probabilities=probabilities,
        backgrounds=prepared.backgrounds,
        shards=prepared.shards,
        compiled=execution.compiled,
        bf16=bool(execution.bf16),
    )


def _has_head_of(start: Spec, spec: Spec) -> bool:
    """Whether a start names the run's labels already, from the same input."""
    return all(getattr(start, field) == getattr(spec, field) for field in ("labels", "task", "nothing_class", "pcen"))


def _print_plan(trainer: Trainer, prepared: Prepared, sources: Sources, console: Console) -> None:
    """Print what is trained on what, and warn about what is missing."""
    spec, clips = prepared.spec, prepared.header["clips"]
    console.print(
        f"{clips['train']} clips train, {clips['val']} validate ({prepared.header['split']}); "
        f"{count_noun(len(spec.labels), 'label')}, window {spec.frontend.window_s:g} s, "
        f"{sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6:.2f} M parameters",
        markup=False,
        soft_wrap=True,
    )
    if duration := describe_duration(trainer):
        console.print(duration)
    if prepared.backgrounds is None:
        console.print(NO_BACKGROUND, style="yellow", markup=False, soft_wrap=True)
    else:
        background = prepared.header["background"]
        console.print(
            f"Background: {background['train_hours']:.2f} h train in {count_noun(background['sources'], 'source')}, "
            f"{count_noun(background['val_windows'], 'window')} validate",
            markup=False,
            soft_wrap=True,
        )
    if prepared.start is not None and (changed := changes(prepared.start.checkpoint.spec, spec)):
        console.print(f"From the start: {', '.join(changed)}", soft_wrap=True)
    few = clips["train"] < FEW_CLIPS * len(spec.labels)
    if few and spec.network.kind == "transformer" and prepared.start is None and not sources.teachers:
        console.print(
            f"Fewer than {FEW_CLIPS} clips a label: start from a shipped model ({_list_starts()}). A teacher "
            "(--model convnet, then --teacher) helps too, but takes a second run; a convnet itself cannot be exported",
            style="yellow",
            soft_wrap=True,
        )
    if unused := explain_unused_weight(prepared.recipe.training.distill, sources.teachers):
        console.print(unused, style="yellow", markup=False, soft_wrap=True)


def explain_unused_weight(distill: Distill, teachers: Sequence[Path]) -> str | None:
    """Why a recipe's share for a teacher has no effect, if it has none."""
    if "teacher_weight" not in distill.model_fields_set or not all(is_external(path) for path in teachers):
        return None
    given = f"The recipe gives a teacher {distill.teacher_weight:g} of the loss"
    if not teachers:
        return f"{given}, but there is no --teacher"
    return f"{given}, but that is for a --teacher that is a checkpoint; {teachers[0]} teaches by its embeddings"


def _list_starts() -> str:
    return " or ".join(f"--init {name}" for name in list_shipped())


def _describe_run(trainer: Trainer, prepared: Prepared, teachers: list[Checkpoint]) -> dict[str, object]:
    """The header of run.json."""
    return prepared.header | {
        "recipe": json.loads(prepared.recipe.model_dump_json()),
        "start": None if prepared.start is None else prepared.start.name,
        "licence": None if prepared.start is None else prepared.start.licence,
        "init": None if prepared.start is None else weights_sha256(prepared.start.checkpoint),
        "baseline": prepared.baseline,
        "teachers": [weights_sha256(teacher) for teacher in teachers],
        "precision": str(trainer.precision).removeprefix("torch."),
        "ranks": trainer.world.ranks,
        "launcher": launcher(),
    }


def _train(
    trainer: Trainer,
    prepared: Prepared,
    header: dict[str, object],
    sources: Sources,
    execution: Execution,
    console: Console,
) -> None:
    """Train to the end or until Ctrl-C, and report what came of it."""
    journal = None
    if trainer.world.is_main:
        resumed_at = None if trainer.best < 0 and trainer.step == 0 else trainer.step
        journal = Journal(trainer.run, header, step=resumed_at, tensorboard=execution.tensorboard)
        if journal.torn:
            console.print("The last line of metrics.jsonl was cut off and is dropped", style="yellow")
    steps = trainer.steps(
        prepared.validation,
        prepared.validation_targets,
        journal,
        workers=execution.workers,
        track=lambda clips: track(clips, "Transforming clips"),
    )
    clips = prepared.validation_clips
    with graceful_shutdown(trainer.stop, terminated=ExitCode.TERMINATED):
        results = follow(trainer, steps, clips, console, started=prepared.start is not None)
        if not trainer.is_complete:
            note = "" if trainer.best >= 0 else "; its weights so far, not measured yet, can be exported"
            console.print(
                f"Stopped at step {trainer.step} of {trainer.total}; --resume continues to the same weights{note}",
                soft_wrap=True,
            )
    if trainer.ended_early:
        reason = "nothing can be measured as better" if trainer.best == 1 else "measurements no longer rise"
        console.print(f"Ended after step {trainer.step} of {trainer.total}: {reason}")
    measured = "all sizes" if prepared.backgrounds is None else "all sizes and background"
    console.print(
        f"Best mean over {measured} {format_mean(trainer.best, prepared.spec, clips)}; "
        f"kept in {trainer.run / 'checkpoint.safetensors'}",
        markup=False,
        soft_wrap=True,
    )
    if trainer.world.is_main and prepared.validation_names and trainer.best >= 0:
        _summarize(trainer, prepared, console)
    if trainer.step == trainer.total or trainer.ended_early:
        _suggest_next(results, prepared, sources, trainer.run, console)


def _summarize(trainer: Trainer, prepared: Prepared, console: Console) -> None:
    """Print what the run buys and what would help, and write its report."""
    summary = summarize_run(trainer.run, prepared)
    for way, value in compare_ways(summary):
        console.print(f"  {value:6.1%}  {way}", markup=False, soft_wrap=True)
    for note in advise(summary, background=prepared.backgrounds is not None):
        console.print(note, markup=False, soft_wrap=True)
    report = trainer.run / "report.html"
    write_report(report, summary, prepared)
    console.print(f"Report: {report}", markup=False, soft_wrap=True)


def _suggest_next(
    results: list[PatchResult], prepared: Prepared, sources: Sources, run_folder: Path, console: Console
) -> None:
    """Where a run ended at chance, print the command to try next."""
    labels = prepared.validation_targets[: prepared.validation_clips]
    at_chance = describe_chance(results, prepared.spec, labels)
    if at_chance is None:
        return
    data = shlex.quote(str(sources.data))
    if prepared.start is None:
        other = shlex.quote(str(run_folder.with_name(f"{run_folder.name}-{DEFAULT}")))
        command = f"flexiast train {data} -o {other} --init {DEFAULT}"
    else:
        command = f"flexiast evaluate {shlex.quote(str(run_folder))} {data} --split val --per-label"
    console.print(f"{at_chance}. Try next: {command}", style="yellow", markup=False, soft_wrap=True)
