"""The work of `flexiast evaluate --streams`, `--mix` and `--background`: events in streams, at each patch size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from flexiast.data.annotations import check_annotations, read_annotated
from flexiast.data.background import Stretches, background_clips
from flexiast.data.clips import Clip
from flexiast.errors import DataError, UsageError
from flexiast.evaluation.events import Sound
from flexiast.evaluation.mixing import LEVEL_DBFS, QUIET, choose_clips, mix_streams
from flexiast.extras import require
from flexiast.files import check_output
from flexiast.spec import Spec, parse_patches
from flexiast_cli.commands.evaluate.stream_options import StreamOptions
from flexiast_cli.commands.evaluate.stream_table import show_streams
from flexiast_cli.dataset import load_background, load_clips, read_data, take_split
from flexiast_cli.terminal.console import count_noun, log, print_json, stderr, track
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_any
from flexiast_runtime.detection.rules import THRESHOLD, EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.stream_evaluation import (
    AnnotatedStream,
    StreamEvaluation,
    StreamResult,
    score_streams,
)
from flexiast_runtime.governor.live import Conditions, GovernedController
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.worth import frontier
from flexiast_runtime.inference.backends import Backend, load_engines
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.profiling.options import measure_options


def run_on_streams(
    model: str,
    options: StreamOptions,
    patch_sizes: str | None,
    precision: str | None,
    backend: Backend,
    split: str | None,
    val_fold: str | None,
    *,
    as_json: bool,
    det: Path | None,
) -> None:
    if det is not None:
        require("matplotlib", "train")
        check_output(det)
    path = find_any(model)
    if not path.is_dir():
        raise UsageError(
            f"{path} is a checkpoint, and events are detected by a bundle's engines; export it first: "
            f"flexiast export {model} -o new.bundle"
        )
    chosen = None if patch_sizes is None else parse_patches(patch_sizes)
    engines = load_engines(Bundle.open(path), chosen, precision, backend, log)
    settings = _make_settings(engines, options.threshold)
    streams = _load_streams(engines.spec, options, split, val_fold)
    scored = list(score_streams(engines, settings, track(streams, "Detecting")))
    evaluation = StreamEvaluation(engines, settings, scored)
    results = [evaluation.evaluate(patch) for patch in engines.patches]
    if len(engines.patches) > 1:
        results.append(_evaluate_governed(evaluation, engines, settings, options.deadline_s))
    hours = sum(one.logits.samples for one in scored) / engines.spec.frontend.sample_rate_hz / 3600
    title = f"{model}: {count_noun(len(scored), 'stream')}, {hours:.2f} h"
    if as_json:
        named = {name: str(given) for name, given in (("streams", options.streams), ("mix", options.mix)) if given}
        settings_document = {"level_dbfs": _level(options), "seed": options.seed} if options.mix else {}
        document = {"model": model} | named | {"background": list(map(str, options.backgrounds))} | settings_document
        print_json(document | {"hours": hours, "results": [json.loads(one.model_dump_json()) for one in results]})
    else:
        show_streams(results, title)
    if det is not None:
        from flexiast_cli.commands.evaluate.plot import draw_trade_off  # needs matplotlib

        draw_trade_off(results, title, det)


def _level(options: StreamOptions) -> float:
    return LEVEL_DBFS if options.level_dbfs is None else options.level_dbfs


def _make_settings(engines: Engines, threshold: float | None) -> DetectionSettings:
    """As `flexiast listen` has them."""
    manifest = engines.manifest
    rules = (
        EventRules(THRESHOLD, manifest.thresholds, manifest.size_thresholds)
        if threshold is None
        else EventRules(threshold)
    )
    return DetectionSettings.from_frontend(manifest.spec.frontend, rules)


def _evaluate_governed(
    evaluation: StreamEvaluation, engines: Engines, settings: DetectionSettings, deadline_s: float | None
) -> StreamResult:
    conditions = Conditions(settings.step_s if deadline_s is None else deadline_s)
    controller = GovernedController(frontier(measure_options(engines)), POLICIES["balanced"], conditions)
    return evaluation.evaluate_switching(controller, conditions, "governed")


def _load_streams(
    spec: Spec, options: StreamOptions, split: str | None, val_fold: str | None
) -> Iterator[AnnotatedStream]:
    """All streams, read as they are needed; raises DataError before the first."""
    if options.streams is not None:
        return iter(_load_annotated(spec, options.streams))
    rate_hz, console = spec.frontend.sample_rate_hz, stderr()
    kinds = {kind: load_background(clips, rate_hz, console) for kind, clips in _kinds(options.backgrounds).items()}
    mixes = _mix(spec, options, kinds, split, val_fold) if options.mix is not None else iter(())
    alone = (one for kind, stretches in kinds.items() for one in split_recordings(kind, stretches))
    return (one for streams in (alone, mixes) for one in streams)


def _load_annotated(spec: Spec, folder: Path) -> list[AnnotatedStream]:
    """Recordings with their annotations, all of which are checked; those without are left out, with a note."""
    annotated, bare = read_annotated(folder)
    if bare:
        log(
            f"Left out of {folder}: {count_noun(len(bare), 'recording')} without annotations, such as {bare[0].name}; "
            "an empty annotation file says that nothing sounds"
        )
    streams, merged = [], 0
    stretches_by_path = _load_each([one.path for one in annotated], spec.frontend.sample_rate_hz)
    for one in annotated:
        if (stretches := stretches_by_path.get(one.path)) is None:
            continue
        annotations, fewer = check_annotations(one, spec.labels, sum(stretches.seconds))
        merged += fewer
        events = tuple(Sound(found.label, found.start_s, found.end_s) for found in annotations)
        streams.append(AnnotatedStream(_name_kind(folder, one.path), stretches, events))
    if merged:
        log(f"{count_noun(merged, 'annotation')} overlapped another of the same label and became one with it")
    return streams


def _load_each(paths: Sequence[Path], rate_hz: int) -> dict[Path, Stretches]:
    """Each recording that can be read; raises DataError where most cannot."""
    clips = [Clip(path, (), "") for path in paths]
    every = load_background(clips, rate_hz, stderr())
    found: dict[Path, Stretches] = {}
    for stretch in every.stretches:
        own = found.get(stretch.path, Stretches((), rate_hz))
        found[stretch.path] = own + Stretches((stretch,), rate_hz)
    return found


def _name_kind(folder: Path, path: Path) -> str:
    """The folder right under the one given, or else that itself."""
    inner = path.relative_to(folder).parts
    return inner[0] if len(inner) > 1 else folder.resolve().stem


def _kinds(folders: Sequence[Path]) -> dict[str, list[Clip]]:
    """Recordings by kind."""
    kinds: dict[str, list[Clip]] = {}
    for folder in folders:
        for clip in background_clips([folder]):
            kinds.setdefault(_name_kind(folder, clip.path), []).append(clip)
    return kinds


def split_recordings(kind: str, stretches: Stretches) -> Iterator[AnnotatedStream]:
    """Each recording as a stream in which nothing sounds."""
    for _, group in groupby(range(len(stretches)), lambda place: _source(stretches, place)):
        places = list(group)
        yield AnnotatedStream(kind, (stretches[place] for place in places))


def _source(stretches: Stretches, place: int) -> object:
    return stretches.stretches[place].path, stretches.stretches[place].part


def _mix(
    spec: Spec,
    options: StreamOptions,
    kinds: dict[str, Stretches],
    split: str | None,
    val_fold: str | None,
) -> Iterator[AnnotatedStream]:
    """Clips with labels, and short ones without, mixed into the background at each SNR."""
    assert options.mix is not None
    console, frontend = stderr(), spec.frontend
    dataset = take_split(read_data(options.mix, val_fold, console), split, console)
    dataset.labelled.targets(spec.labels)  # raises DataError for a label that the model lacks
    names = [clip.labels[0] if clip.labels else "" for clip in dataset.clips]
    if any(len(clip.labels) > 1 for clip in dataset.clips):
        raise DataError("clips with several labels cannot be mixed in: which of them sounds when is not known")
    chosen = choose_clips(names, options.clips, options.seed)
    readable, waveforms = load_clips(
        dataset.with_clips(dataset.clips[place] for place in chosen),
        frontend.sample_rate_hz,
        console,
    )
    labels = [clip.labels[0] if clip.labels else "" for clip in readable.clips]
    clips = list(zip(labels, waveforms, strict=True))
    sounding = {kind: own for kind, own in kinds.items() if sum(own.seconds) > 0}

    def mix(snr_db: float) -> Iterator[AnnotatedStream]:
        mixed = mix_streams(
            clips,
            sounding if snr_db != QUIET else {},
            snr_db,
            rate_hz=frontend.sample_rate_hz,
            gap_s=frontend.window_s,
            seed=options.seed,
            level_dbfs=_level(options),
        )
        return map(AnnotatedStream.from_mix, mixed)

    return (one for snr_db in options.snrs_db for one in mix(snr_db))
