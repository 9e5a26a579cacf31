"""The work of `flexiast mine`: detect events in background, and list them as clips without a label."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flexiast.data.background import Stretches, background_clips
from flexiast.errors import UsageError
from flexiast.files import check_new_output, write_atomically
from flexiast.spec import PatchSize, parse_patches
from flexiast_cli.dataset import load_background
from flexiast_cli.terminal.console import count_noun, log, stderr, track
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.scoring import detect, score_stream, smooth
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend, load_engines
from flexiast_runtime.inference.engine import Engines

COLUMNS = ("path", "start_s", "end_s", "label", "detected", "score", "patch_size")


@dataclass(frozen=True)
class Moment:
    """A stretch of background that was taken for a label, with what the windows around it held."""

    path: Path
    start_s: float
    end_s: float
    detected: str
    score: float
    patch: PatchSize


def run(
    model: str,
    recordings: Sequence[Path],
    output: Path,
    threshold: float | None,
    patch_sizes: str | None,
    most: int,
    precision: str | None,
    backend: Backend,
    *,
    force: bool,
) -> None:
    if output.suffix.lower() != ".csv":
        raise UsageError(f"{output} would be no CSV for `flexiast train`; let its name end with .csv")
    check_new_output(output, force=force)
    bundle = Bundle.open(find_bundle(model))
    manifest = bundle.manifest
    patches = parse_patches(patch_sizes) if patch_sizes else (manifest.best_patch,)
    engines = load_engines(bundle, patches, precision, backend, log)
    rules = EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)
    if threshold is not None:
        rules = EventRules(threshold)
    settings = DetectionSettings.from_frontend(manifest.spec.frontend, rules)
    clips = background_clips(recordings)
    background = load_background(clips, manifest.spec.frontend.sample_rate_hz, stderr())
    found = [
        moment
        for places in track(_group_by_recording(background), "Detecting")
        for moment in _find_moments(engines, settings, background, places)
    ]
    chosen = _drop_repeats(sorted(found, key=lambda one: (-one.score, str(one.path), one.start_s)))
    if not chosen:
        log(
            f"nothing is wrongly reported in {background.hours:.2f} h of background; {output} was not written: lower "
            "--threshold to see what comes near, or give other recordings"
        )
        return
    write_atomically(output, _render(chosen[:most], output).encode())
    log(
        f"{count_noun(len(found), 'false event')} in {background.hours:.2f} h, "
        f"{count_noun(len(chosen[:most]), 'moment')} in {output}; train with --background {output}"
    )


def _group_by_recording(background: Stretches) -> list[list[int]]:
    """Places of stretches that are one recording, or one span of it."""
    groups: list[list[int]] = []
    end: tuple[object, ...] | None = None
    for place, one in enumerate(background.stretches):
        if (one.path, one.start) != end:
            groups.append([])
        groups[-1].append(place)
        end = (one.path, one.start + one.samples)
    return groups


def _find_moments(
    engines: Engines, settings: DetectionSettings, background: Stretches, places: Sequence[int]
) -> Iterator[Moment]:
    """Events of one recording at each size. Those that overlap are one moment, which the surest names."""
    spec, rate_hz = engines.spec, engines.spec.frontend.sample_rate_hz
    first = background.stretches[places[0]]
    offset_s = first.start / first.rate_hz
    stream = score_stream(engines, settings, (background[place] for place in places))
    around = (spec.frontend.window_samples - round(settings.step_s * rate_hz)) // 2
    found = []
    for patch in engines.patches:
        smoothed = smooth(stream.scores(patch, spec, engines[patch].variant.temperature), stream.silent, settings)
        for one in detect(stream, smoothed, [patch] * len(smoothed), spec, settings):
            start, end = max(0, one.start - around), min(stream.samples, one.end + around)
            found.append(
                Moment(first.path, start / rate_hz, end / rate_hz, spec.labels[one.class_index], one.score, patch)
            )
    for moment in _merge_overlapping(sorted(found, key=lambda one: one.start_s)):
        yield replace(moment, start_s=offset_s + moment.start_s, end_s=offset_s + moment.end_s)


def _merge_overlapping(moments: Sequence[Moment]) -> Iterator[Moment]:
    last: Moment | None = None
    for one in moments:
        if last is None:
            last = one
        elif one.start_s < last.end_s:
            surest = max(last, one, key=lambda each: each.score)
            last = replace(surest, start_s=last.start_s, end_s=max(last.end_s, one.end_s))
        else:
            yield last
            last = one
    if last is not None:
        yield last


def _drop_repeats(moments: Sequence[Moment]) -> list[Moment]:
    """The first of those that are alike to the last digit of their score: copies of one recording."""
    seen: set[tuple[str, float, float]] = set()
    distinct = []
    for one in moments:
        key = one.detected, one.score, round(one.end_s - one.start_s, 3)
        if key not in seen:
            seen.add(key)
            distinct.append(one)
    return distinct


def _render(moments: Sequence[Moment], output: Path) -> str:
    """The CSV; paths are relative to its folder where they lie in it, and so may move with it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    folder = output.resolve().parent
    for one in moments:
        path = one.path.resolve()
        name = os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
        times = f"{one.start_s:.3f}", f"{one.end_s:.3f}"
        writer.writerow((name, *times, "", one.detected, f"{one.score:.4f}", str(one.patch)))
    return text.getvalue()
