"""The work of `flexiast profile`: load the engines, measure them, store the profile and show it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from flexiast.errors import UsageError
from flexiast.evaluation.evaluate import Windows, evaluate
from flexiast.extras import require
from flexiast.files import check_output, write_atomically
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, parse_patches
from flexiast_cli.commands.profile.table import latencies_csv, show_comparison, show_profile
from flexiast_cli.dataset import load_split
from flexiast_cli.options.common import power_source_of
from flexiast_cli.terminal.console import log, print_json, stderr
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import DEFAULT, find_bundle
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend, choose_precision, load_engines, precisions_of
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.profiling.profiler import profile_bundle, profile_key
from flexiast_runtime.profiling.profiles import Profile, keep, read_profile


def run(
    model: str,
    patch_sizes: str | None,
    precision: str | None,
    backend: Backend,
    threads: int,
    *,
    duration_s: float,
    warmup_s: float,
    power: bool,
    power_source: str | None,
    accuracy: Path | None,
    val_fold: str | None,
    as_json: bool,
    csv_path: Path | None,
    html: Path | None,
    compare: Path | None,
    budget_ms: float | None,
) -> bool:
    """Whether a variant takes longer than the budget."""
    if val_fold is not None and accuracy is None:
        raise UsageError("--val-fold chooses clips of --accuracy DATA; give both or neither")
    if html is not None:
        require("matplotlib", "train")
    for path in filter(None, (csv_path, html)):
        check_output(path)
    source = power_source_of(power_source)
    old = None if compare is None else read_profile(compare)
    patches = None if patch_sizes is None else parse_patches(patch_sizes)
    bundle = Bundle.open(find_bundle(model or DEFAULT))
    precisions = [bundle.manifest.precision(name.strip()) for name in (precision or "").split(",") if name.strip()]
    engines = _load_engines(bundle, patches, precisions or precisions_of(bundle.manifest, backend), backend, threads)
    metrics = {} if accuracy is None else _measure_accuracy(engines, accuracy, val_fold)
    with stderr().status("Measuring"):
        profile, runs = profile_bundle(
            model or DEFAULT,
            bundle,
            [engine for of_precision in engines.values() for engine in of_precision],
            profile_key(bundle, backend, threads),
            step_s=DetectionSettings.from_frontend(bundle.manifest.spec.frontend).step_s,
            duration_s=duration_s,
            warmup_s=warmup_s,
            metrics=metrics,
            power=power,
            source=source,
        )
    stored = keep(profile)
    if csv_path is not None:
        write_atomically(csv_path, latencies_csv(runs).encode())
    if html is not None:
        from flexiast_cli.commands.profile.report import render  # needs matplotlib

        write_atomically(html, render(profile, runs).encode())
    if as_json:
        print_json(json.loads(profile.model_dump_json()))
    else:
        show_profile(profile, choose_precision(bundle.manifest, None, backend, profile.precisions))
        log(f"kept for `flexiast listen`: {stored}")
    if old is not None:
        show_comparison(old, profile)
    for warning in profile.warnings:
        log(f"warning: {warning}")
    return _exceeds_budget(profile, budget_ms)


def _exceeds_budget(profile: Profile, budget_ms: float | None) -> bool:
    """Report each variant that takes longer than the budget; whether there is one."""
    if budget_ms is None:
        return False
    late = [one for one in profile.measurements if one.p95_ms > budget_ms]
    for one in late:
        log(f"over the budget of {budget_ms:g} ms: {one.name} takes {one.p95_ms:.2f} ms at the 95th percentile")
    return bool(late)


def _load_engines(
    bundle: Bundle, patches: tuple[PatchSize, ...] | None, precisions: Iterable[str], backend: Backend, threads: int
) -> dict[str, Engines]:
    """Engines by precision."""
    return {name: load_engines(bundle, patches, name, backend, log, threads) for name in dict.fromkeys(precisions)}


def _measure_accuracy(engines: dict[str, Engines], data: Path, val_fold: str | None) -> dict[str, float]:
    """The metric of each variant on the labelled clips of the val split."""
    spec = next(iter(engines.values())).spec
    waveforms, targets = load_split(data, "val", val_fold, spec, stderr())
    windows = Windows(waveforms, Frontend(spec.frontend))
    return {
        f"{result.patch_size} {precision}": result.metric
        for precision, of_precision in engines.items()
        for result in evaluate(of_precision, windows, targets, of_precision.patches)
    }
