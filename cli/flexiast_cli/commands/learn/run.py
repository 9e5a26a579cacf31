"""The work of `flexiast learn`: read, check, adapt, export, compare, and publish what is no worse."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flexiast.checkpoint import Checkpoint
from flexiast.errors import UsageError, WorseModelError
from flexiast.files import check_new_output
from flexiast.text import preview
from flexiast.training.adaptation import WITH_DATA, WITHOUT_DATA, adapt_head
from flexiast_cli.commands.learn.comparison import Validation, Validator, compare, is_worse
from flexiast_cli.commands.learn.model import Origin, calibrate, export_models, open_origin
from flexiast_cli.commands.learn.options import Options
from flexiast_cli.commands.learn.report import is_report, write_report
from flexiast_cli.commands.learn.sources import Sources, build_lesson, read_sources
from flexiast_cli.commands.learn.tables import describe, show_comparison
from flexiast_cli.commands.learn.verdicts import Lessons, read_lessons
from flexiast_cli.terminal.console import count_noun, log, print_json
from flexiast_export.calibrate import publish
from flexiast_export.publish import check_place
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.history.database import default_database


@dataclass(frozen=True)
class Prepared:
    """Everything that is learnt from, read and checked."""

    origin: Origin
    lessons: Lessons
    sources: Sources


def run(options: Options, *, force: bool, as_json: bool) -> None:
    """Raises WorseModelError for a model that is worse than before, after its report is written."""
    check_place(options.output, force=force)
    report = _check_report(options, force=force)
    prepared = prepare(options)
    learnt, validation = _learn(prepared)
    with tempfile.TemporaryDirectory(prefix="flexiast-learn-") as place:
        folder = Path(place)
        old, new = export_models(prepared.origin, learnt, prepared.lessons, folder)
        new = calibrate(new, prepared.sources, prepared.lessons, folder / "calibrated")
        comparison = compare((old, new), prepared.lessons.held_out, validation)
        if not comparison.refusal:
            _publish(new, options.output, force=force)
        write_report(report, comparison, prepared.lessons, options)
    if as_json:
        print_json(describe(comparison, prepared.lessons, options, report))
    else:
        show_comparison(comparison)
    if comparison.refusal:
        raise WorseModelError(
            f"the new model is worse, so {options.output} was not written: {comparison.refusal}. {report} shows both; "
            "give more verdicts" + ("" if prepared.sources.original else ", or the original data by --data")
        )
    log(f"{report} shows what changed; `flexiast swap {options.output}` hands the new model to a listener that runs")


def _check_report(options: Options, *, force: bool) -> Path:
    """Where the report is written; raises UsageError for a place that is taken.

    That of an earlier try, whose model was refused, is replaced.
    """
    output = options.output
    report = options.report or output.with_name(f"{output.name.removesuffix('.bundle')}.html")
    check_new_output(report, force=force or is_report(report))
    if output.absolute() in (report.absolute(), *report.absolute().parents):
        raise UsageError(f"--report {report} lies in the bundle {output}; give another place")
    return report


def prepare(options: Options) -> Prepared:
    """Read and check everything before any training; raises UsageError, ModelError and DataError."""
    origin = open_origin(options.model)
    spec, database = origin.checkpoint.spec, options.history or default_database()
    lessons = read_lessons(database, options.clips, spec, options.model, with_data=options.data is not None)
    for note in lessons.notes:
        log(note)
    sources = read_sources(options, spec, origin.per_hour)
    labelled = sum(one.label is not None for one in lessons.taught)
    log(
        f"{count_noun(len(lessons.taught), 'verdict teaches', 'verdicts teach')} ({labelled} sounds, "
        f"{len(lessons.taught) - labelled} times nothing), {len(lessons.held_out)} measure"
    )
    if sources.original is None:
        log("Without the original data (--data) the model is held near the old one, and compared on verdicts alone")
    elif lacking := [spec.labels[column] for column in np.flatnonzero(~sources.original.targets.any(axis=0))]:
        log(
            f"--data has no training clips of {count_noun(len(lacking), 'label')}: {preview(lacking)}. The old model's "
            "answers stand for them, and nothing measures them but verdicts"
        )
    if origin.per_hour is not None and sources.per_hour is None:
        log(
            f"{options.model} keeps a budget of {origin.per_hour:g} false alarms an hour; its thresholds stay as they "
            "are, for only --background could show others"
        )
    return Prepared(origin, lessons, sources)


def _learn(prepared: Prepared) -> tuple[Checkpoint, tuple[Validation, Validation] | None]:
    """The weights that learnt, and what old and new make of the original validation set."""
    origin, original = prepared.origin, prepared.sources.original
    lesson = build_lesson(prepared.lessons, prepared.sources, origin.checkpoint.spec)
    log(f"Learning at {count_noun(len(origin.patches), 'patch size')}; this takes minutes")
    info = origin.checkpoint.info
    if original is None:
        adapted = adapt_head(origin.checkpoint, origin.patches, lesson, WITHOUT_DATA)
        return replace(adapted, info=info), None
    validator = Validator(origin.checkpoint, original, origin.patches)
    old = new = validator.measure(origin.checkpoint)

    def accepts(adapted: Checkpoint) -> bool:
        nonlocal new
        new = validator.measure(adapted)
        log(f"On the original validation set: {new.metric:.1%}, the old model {old.metric:.1%}")
        return not is_worse(old, new)

    adapted = adapt_head(origin.checkpoint, origin.patches, lesson, WITH_DATA, accepts=accepts)
    return replace(adapted, info=info | {"validation": [one.document() for one in new.results]}), (old, new)


def _publish(bundle: Bundle, output: Path, *, force: bool) -> None:
    manifest = bundle.manifest
    calibration = bundle.read_calibration()
    publish(bundle, manifest.variants, manifest.thresholds, output, calibration=calibration, force=force)
