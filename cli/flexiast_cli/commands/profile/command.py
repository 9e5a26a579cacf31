"""``flexiast profile``: what every engine of a bundle takes on this machine."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiast_cli.options.common import BackendOption, PowerSourceOption, power_source_of
from flexiast_cli.options.validators import positive
from flexiast_runtime.inference.backends import Backend, precisions_of

if TYPE_CHECKING:
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.engine import Engines
    from flexiast_runtime.profiling.measure import Runs
    from flexiast_runtime.profiling.profiles import Profile

GPU_STAGES = (("enqueue", "enqueue_ms"), ("H2D", "h2d_ms"), ("compute", "compute_ms"), ("D2H", "d2h_ms"))


def profile(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.")] = "",
    patch_sizes: Annotated[
        str | None, typer.Option("--patch-sizes", help="Sizes to measure (default: all of the bundle).")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Precisions to measure, such as fp32,int8 (default: all that the backend runs)."
        ),
    ] = None,
    backend: BackendOption = Backend.CPU,
    threads: Annotated[int, typer.Option("--threads", min=1, max=64, help="Of ONNX Runtime on the CPU.")] = 1,
    duration: Annotated[
        float, typer.Option("--duration", callback=positive, help="Seconds each variant runs, at least.")
    ] = 3.0,
    warmup: Annotated[
        float, typer.Option("--warmup", callback=positive, help="Seconds each variant runs before it counts.")
    ] = 0.2,
    power: Annotated[
        bool, typer.Option("--power", help="Measure energy too, where the machine has a meter (6 s for each variant).")
    ] = False,
    power_source: PowerSourceOption = None,
    accuracy: Annotated[
        Path | None,
        typer.Option(
            "--accuracy", metavar="DATA", help="Labelled sounds to measure each variant on (their val split)."
        ),
    ] = None,
    val_fold: Annotated[
        str | None, typer.Option("--val-fold", help="With --accuracy: the fold that is called val.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write every single latency to this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a report with pictures.")] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OLD.json", help="Say what changed since an older profile.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option("--budget-ms", callback=positive, help="Exit with 6 if a variant's 95th percentile is longer."),
    ] = None,
) -> None:
    """Measure latency, memory and, where there is a meter, energy of each engine.

    The profile is kept for this machine as it is set now; `flexiast listen` decides by it.
    """
    from flexiast.errors import ExitCode, UsageError
    from flexiast.extras import require
    from flexiast.files import check_output, write_atomically
    from flexiast.spec import parse_patches
    from flexiast_cli.terminal.console import print_json, say, stderr
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import DEFAULT, find_bundle
    from flexiast_runtime.detection.settings import DetectionSettings
    from flexiast_runtime.profiling.profiler import profile_bundle, profile_key
    from flexiast_runtime.profiling.profiles import keep, read_profile

    if val_fold is not None and accuracy is None:
        raise UsageError("--val-fold chooses clips of --accuracy DATA; give both or neither")
    if html is not None:
        require("matplotlib", "train")
    for path in filter(None, (csv_path, html)):
        check_output(path)
    source = power_source_of(power_source)
    old = None if compare is None else read_profile(compare)
    wanted = None if patch_sizes is None else parse_patches(patch_sizes)
    bundle = Bundle.open(find_bundle(model or DEFAULT))
    precisions = [bundle.manifest.precision(name.strip()) for name in (precision or "").split(",") if name.strip()]
    engines = _loaded(bundle, wanted, precisions or precisions_of(bundle.manifest, backend), backend, threads)
    measured = {} if accuracy is None else _accuracies(engines, accuracy, val_fold)
    with stderr().status("Measuring"):
        found, runs = profile_bundle(
            model or DEFAULT,
            bundle,
            [engine for theirs in engines.values() for engine in theirs],
            profile_key(bundle, backend, threads),
            step_s=DetectionSettings.from_frontend(bundle.manifest.spec.frontend).step_s,
            duration_s=duration,
            warmup_s=warmup,
            metrics=measured,
            power=power,
            source=source,
        )
    kept = keep(found)
    if csv_path is not None:
        write_atomically(csv_path, raw(runs).encode())
    if html is not None:
        from flexiast_cli.commands.profile.report import render

        write_atomically(html, render(found, runs).encode())
    if as_json:
        print_json(json.loads(found.model_dump_json()))
    else:
        show(found)
        say(f"kept for `flexiast listen`: {kept}")
    if old is not None:
        _compare(old, found)
    for warning in found.warnings:
        say(f"warning: {warning}")
    late = [m for m in found.measurements if budget_ms is not None and m.p95_ms > budget_ms]
    for m in late:
        say(f"over the budget of {budget_ms:g} ms: {m.name} takes {m.p95_ms:.2f} ms at the 95th percentile")
    if late:
        raise typer.Exit(ExitCode.BUDGET)


def _loaded(
    bundle: Bundle, wanted: tuple[PatchSize, ...] | None, precisions: Iterable[str], backend: Backend, threads: int
) -> dict[str, Engines]:
    """Engines by precision."""
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.inference.backends import load_engines

    return {name: load_engines(bundle, wanted, name, backend, say, threads) for name in dict.fromkeys(precisions)}


def _accuracies(engines: dict[str, Engines], data: Path, val_fold: str | None) -> dict[str, float]:
    """Metric of each variant on the labelled clips."""
    from flexiast.evaluation.evaluate import Windows, evaluate
    from flexiast.frontend import Frontend
    from flexiast_cli.dataset import load_clips, read_data
    from flexiast_cli.terminal.console import stderr

    spec = next(iter(engines.values())).spec
    dataset = read_data(data, val_fold, stderr(), skip_bad=None).labelled.split("val")
    readable, waveforms = load_clips(dataset, spec.frontend.sample_rate_hz, stderr(), skip_bad=None)
    windows, targets = Windows(waveforms, Frontend(spec.frontend)), readable.targets(spec.labels)
    return {
        f"{result.patch_size} {precision}": result.metric
        for precision, theirs in engines.items()
        for result in evaluate(theirs, windows, targets, theirs.patches)
    }


def show(found: Profile) -> None:
    """The profile as a table on stdout."""
    from rich.table import Table

    from flexiast_cli.terminal.console import stdout

    table = Table(box=None, header_style="bold", pad_edge=False)
    energy = [("mJ", "energy_mj"), ("above idle", "energy_above_idle_mj")] if found.meter else []
    gpu = GPU_STAGES if any(m.gpu for m in found.measurements) else ()
    for column in (
        "patch",
        "precision",
        "p50 ms",
        "p95",
        "p99",
        "max",
        "cold",
        "CPU ms",
        "rtf",
        *dict(gpu),
        "MB",
        *dict(energy),
        "metric",
    ):
        table.add_column(column, justify="left" if column in {"patch", "precision"} else "right")
    for m in found.measurements:
        table.add_row(
            str(m.patch_size),
            m.precision,
            *(f"{value:.2f}" for value in (m.p50_ms, m.p95_ms, m.p99_ms, m.max_ms, m.cold_ms, m.cpu_ms)),
            f"{m.rtf:.4f}",
            *(_or_dash(m.gpu and getattr(m.gpu, field), ".3f") for _, field in gpu),
            _or_dash(m.private_mb, ".0f"),
            *(_or_dash(getattr(m, field), ".1f") for _, field in energy),
            _or_dash(m.metric, ".3f"),
        )
    machine, settings = found.key.machine, found.key.settings
    console = stdout()
    console.print(
        f"{found.bundle} on {machine.model}, {found.key.backend}, {found.key.threads} thread(s)", style="bold"
    )
    console.print(
        ", ".join(
            filter(
                None,
                (
                    machine.processor,
                    f"{machine.cores} cores",
                    machine.jetpack,
                    settings.power_mode and f"power mode {settings.power_mode}",
                    settings.governor and f"governor {settings.governor}",
                    f"ONNX Runtime {found.key.versions['onnxruntime']}",
                ),
            )
        ),
        markup=False,
    )
    console.print()
    console.print(table)
    console.print()
    console.print(
        f"rtf: compute time ÷ audio time with a window every {found.step_s:g} s. "
        "MB: memory that no other process shares."
    )
    console.print(f"Energy: {found.meter or 'not available'}.")
    if note := gpu_note(found):
        console.print(note)


def gpu_note(found: Profile) -> str:
    """What the stages on a GPU are, and what the latencies count; empty without a GPU."""
    times = next((m.gpu for m in found.measurements if m.gpu), None)
    if times is None:
        return ""
    copies = "both copies" if times.transfers else "no copies"
    graph = "launched as one CUDA graph" if times.cuda_graph else "launched without a CUDA graph"
    return f"Stages: medians in ms. Latencies count {copies}; windows are {graph}."


def _or_dash(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def raw(runs: dict[str, Runs]) -> str:
    """Every latency in the order in which it was measured, and on a GPU the stages of the windows before them."""
    staged = any(theirs.stages for theirs in runs.values())
    stages = [field for _, field in GPU_STAGES] if staged else []
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(("patch_size", "precision", "run", "latency_ms", *stages))
    for name, theirs in runs.items():
        variant = name.split()
        for run, seconds in enumerate(theirs.stages):
            table.writerow((*variant, run, "", *(f"{1000 * s:.4f}" for s in seconds)))
        for run, s in enumerate(theirs.latencies_s):
            table.writerow((*variant, run, f"{1000 * s:.4f}", *("" for _ in stages)))
    return stream.getvalue()


def _compare(old: Profile, new: Profile) -> None:
    """Medians beside the older ones."""
    from rich.table import Table

    from flexiast_cli.terminal.console import say, stderr
    from flexiast_runtime.profiling.profiles import describe_change

    if old.key.machine != new.key.machine or old.key.settings != new.key.settings:
        say(f"the older profile is of another machine or power mode: {old.key.machine.model}, {old.key.settings}")
    table = Table(box=None, header_style="bold", pad_edge=False, title=f"since {old.created_at}", title_justify="left")
    for column in ("variant", "p50 ms", "was", "×", ""):
        table.add_column(column, justify="left" if column in {"variant", ""} else "right")
    for m in new.measurements:
        was = old.measurement(m.patch_size, m.precision)
        if was is None:
            continue
        table.add_row(
            m.name, f"{m.p50_ms:.2f}", f"{was.p50_ms:.2f}", f"{m.p50_ms / was.p50_ms:.2f}", describe_change(was, m)
        )
    stderr().print(table)
