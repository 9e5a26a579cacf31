"""The work of `flexiast export`: check the options, prepare the job, then estimate it (dry run) or publish it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from flexiast.errors import UsageError
from flexiast.manifest import MANIFEST, OPSET, PRECISIONS, Precision
from flexiast.spec import parse_patches
from flexiast_cli.commands.export.clips import Clips, clips_to_calibrate, clips_to_compare, has_folds
from flexiast_cli.commands.export.dry_run import show_plan
from flexiast_cli.commands.export.job import Job, job_from_bundle, job_from_checkpoint
from flexiast_cli.model_card import show_bundle
from flexiast_cli.terminal.console import log, print_json, track
from flexiast_export.verify import MAX_DROP, VerificationData
from flexiast_runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options that decide what is exported, as given."""

    model: str
    patches: str | None
    output: Path | None
    precision: str | None
    verify_data: Path | None
    val_fold: str | None
    max_drop: float | None
    calibration_data: Path | None
    opset: int | None
    force: bool

    @property
    def adds_sizes(self) -> bool:
        """The model is a bundle, to which sizes are added."""
        return (Path(self.model) / MANIFEST).is_file()

    @property
    def bundle_folder(self) -> Path:
        return Path(self.model) if self.output is None else self.output


@dataclass(frozen=True)
class Prepared:
    """An export that was checked, and the sounds for it; nothing was decoded yet."""

    job: Job
    clips: Clips | None
    calibration: Clips | None


def run(options: Options, *, dry_run: bool, as_json: bool) -> None:
    """Raises UsageError for options that do not fit together, before any work begins."""
    prepared = prepare(options)
    if dry_run:
        show_plan(prepared.job, as_json=as_json)
        return
    bundle = publish(options, prepared)
    if as_json:
        print_json(json.loads(bundle.manifest.model_dump_json(exclude_none=True)))
    else:
        show_bundle(bundle)


def prepare(options: Options) -> Prepared:
    """Check everything that can be checked without work; raises UsageError and DataError."""
    patches = None if options.patches is None else parse_patches(options.patches)
    precisions = parse_precisions("fp32" if options.precision is None else options.precision)
    _check(options, precisions)
    output, force = options.bundle_folder, options.force
    if options.adds_sizes:
        job = job_from_bundle(options.model, patches or (), output, force=force)  # an older one gets the front end
    else:
        calibrated = options.calibration_data is not None
        opset = OPSET if options.opset is None else options.opset
        job = job_from_checkpoint(options.model, patches, output, precisions, opset, calibrated=calibrated, force=force)
    clips = calibration = None
    if options.verify_data is not None:
        clips = clips_to_compare(options.verify_data, job.spec, options.val_fold)
    if options.calibration_data is not None:
        calibration = clips_to_calibrate(options.calibration_data, job.spec, options.val_fold)
    _check_max_drop(options, job, clips)
    return Prepared(job, clips, calibration)


def publish(options: Options, prepared: Prepared) -> Bundle:
    """Write and verify the bundle."""
    job, clips, calibration = prepared.job, prepared.clips, prepared.calibration
    _report_what_is_not_compared(options.model, job, clips)
    manifest = job.publish(
        sounds=VerificationData(job.spec) if clips is None else clips.sounds(job.spec),
        max_drop=MAX_DROP if options.max_drop is None else options.max_drop,
        force=options.force,
        progress=lambda variants: track(list(variants), "Verifying"),
        **({} if calibration is None else {"calibration": calibration.first_windows(job.spec)}),
    )
    return Bundle(options.bundle_folder, manifest)


def parse_precisions(text: str) -> tuple[Precision, ...]:
    names: dict[str, Precision] = {name: name for name in PRECISIONS}
    given = [part.strip() for part in text.split(",")]
    if unknown := [name for name in given if name not in names]:
        raise UsageError(f"unknown precision {unknown[0]!r}; there are {', '.join(PRECISIONS)}")
    return tuple(names[name] for name in dict.fromkeys(given))


def _check(options: Options, precisions: tuple[Precision, ...]) -> None:
    """Raise UsageError for options without effect, or that contradict one another."""
    data = [path for path in (options.verify_data, options.calibration_data) if path is not None]
    if options.adds_sizes and (options.precision, options.opset, options.calibration_data) != (None, None, None):
        raise UsageError(
            "a bundle's precisions and opset stay as they are when sizes are added to it; leave --precision, --opset "
            "and --calibration-data out, or export from the checkpoint"
        )
    if not options.adds_sizes and options.output is None:
        raise UsageError("export needs a place for the bundle; name one with --output")
    if options.calibration_data is not None and "int8-static" not in precisions:
        raise UsageError(
            "--calibration-data chooses the ranges of int8-static, which is not asked for; leave it out, or add "
            "int8-static to --precision"
        )
    if options.val_fold is not None and not any(map(has_folds, data)):
        raise UsageError(
            "--val-fold chooses a fold of a CSV, and neither --verify-data nor --calibration-data names one; "
            "leave it out"
        )
    if options.max_drop is not None and options.verify_data is None:
        raise UsageError(
            "--max-drop limits what an engine loses on clips with labels; give some with --verify-data, or leave it out"
        )


def _check_max_drop(options: Options, job: Job, clips: Clips | None) -> None:
    """Raise UsageError where no loss can be measured that --max-drop could limit."""
    if options.max_drop is None:
        return
    if clips is not None and not clips.labelled:
        raise UsageError(
            f"{options.verify_data} has no labels that the model knows, on which an engine could lose more than "
            "--max-drop; leave it out"
        )
    if job.reference != "fp32":
        raise UsageError(
            f"{options.model} has no fp32 engines, against which an added size could lose more than --max-drop; "
            "leave it out, or export from the checkpoint"
        )


def _report_what_is_not_compared(model: str, job: Job, clips: Clips | None) -> None:
    if not job.patches:
        return
    if clips is None:
        log("Compared on noise, silence and a sweep; --verify-data SOUNDS adds real sound")
    if job.reference != "fp32":
        log(
            f"{model} has no fp32 engines: the added sizes are compared under its own {job.reference} encoder, which "
            f"shows that their embedders are right, and not what {job.reference} loses at them; "
            "export from the checkpoint to measure that"
        )
