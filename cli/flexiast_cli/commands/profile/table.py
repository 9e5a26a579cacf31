"""A profile as tables: the figures of each variant, every latency as CSV, and a comparison with an older profile."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.table import Table

from flexiast_cli.terminal.console import log, stderr, stdout
from flexiast_runtime.hardware.platform import read_current_battery
from flexiast_runtime.profiling.measure import Runs
from flexiast_runtime.profiling.profiles import Profile, describe_battery_life, describe_change

GPU_STAGES = (("enqueue", "enqueue_ms"), ("H2D", "h2d_ms"), ("compute", "compute_ms"), ("D2H", "d2h_ms"))


def show_profile(profile: Profile, precision: str) -> None:
    """Print the profile: the machine, a row for each variant, what the columns mean, the hours of the battery.

    ``precision``: that in which `listen` would run here.
    """
    machine, settings = profile.key.machine, profile.key.settings
    facts = (
        machine.processor,
        f"{machine.cores} cores",
        machine.jetpack,
        settings.power_mode and f"power mode {settings.power_mode}",
        settings.governor and f"governor {settings.governor}",
        f"ONNX Runtime {profile.key.versions['onnxruntime']}",
    )
    console = stdout()
    console.print(
        f"{profile.bundle} on {machine.model}, {profile.key.backend}, {profile.key.threads} thread(s)", style="bold"
    )
    console.print(", ".join(filter(None, facts)), markup=False)
    console.print()
    console.print(_variant_table(profile))
    console.print()
    console.print(
        f"rtf: compute time ÷ audio time with a window every {profile.step_s:g} s. "
        "MB: memory that no other process shares."
    )
    console.print(f"Energy: {profile.meter or 'not available'}.")
    for note in (describe_battery_life(profile, precision, read_current_battery()), gpu_note(profile)):
        if note:
            console.print(note)


def _variant_table(profile: Profile) -> Table:
    energy = [("mJ", "energy_mj"), ("above idle", "energy_above_idle_mj")] if profile.meter else []
    gpu = GPU_STAGES if any(m.gpu for m in profile.measurements) else ()
    columns = ["patch", "precision", "p50 ms", "p95", "p99", "max", "cold", "CPU ms", "rtf"]
    columns += [*dict(gpu), "MB", *dict(energy), "metric"]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in {"patch", "precision"} else "right")
    for m in profile.measurements:
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
    return table


def gpu_note(profile: Profile) -> str:
    """What the stages on a GPU are, and what the latencies count; empty without a GPU."""
    times = next((m.gpu for m in profile.measurements if m.gpu), None)
    if times is None:
        return ""
    copies = "both copies" if times.transfers else "no copies"
    graph = "launched as one CUDA graph" if times.cuda_graph else "launched without a CUDA graph"
    return f"Stages: medians in ms. Latencies count {copies}; windows are {graph}."


def _or_dash(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def latencies_csv(runs: dict[str, Runs]) -> str:
    """Every latency in the order measured, as CSV; on a GPU preceded by the stages of the windows before them."""
    staged = any(of_variant.stages for of_variant in runs.values())
    stages = [field for _, field in GPU_STAGES] if staged else []
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(("patch_size", "precision", "run", "latency_ms", *stages))
    for name, of_variant in runs.items():
        variant = name.split()
        for run, seconds in enumerate(of_variant.stages):
            table.writerow((*variant, run, "", *(f"{1000 * s:.4f}" for s in seconds)))
        for run, s in enumerate(of_variant.latencies_s):
            table.writerow((*variant, run, f"{1000 * s:.4f}", *("" for _ in stages)))
    return stream.getvalue()


def show_comparison(old: Profile, new: Profile) -> None:
    """Print the medians next to the older ones, and what changed."""
    if old.key.machine != new.key.machine or old.key.settings != new.key.settings:
        log(f"the older profile is of another machine or power mode: {old.key.machine.model}, {old.key.settings}")
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
