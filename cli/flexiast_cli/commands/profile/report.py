"""The HTML report of a profile: one file with its pictures inside. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

from flexiast_cli.commands.profile.table import GPU_STAGES, gpu_note
from flexiast_cli.plot_axes import logarithmic, new_figure, plain, viridis
from flexiast_runtime.profiling.measure import Runs
from flexiast_runtime.profiling.profiles import Measurement, Profile

GREY = "#8a938f"
COLOURS = {"fp32": "#2a7f62", "fp16": "#6a4c93", "int8": "#c8641e", "int8-static": "#8a6d1e"}
DASHES = {"fp32": "-", "fp16": "-.", "int8": "--", "int8-static": ":"}

STYLE = """
:root { color-scheme: light dark; --ink: #1c2321; --paper: #fbfbf9; --line: #d8dcd8; --dim: #5d6864 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebe8; --paper: #151a18; --line: #37403c; --dim: #9aa5a0 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
p.dim, td.dim { color: var(--dim) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .5rem }
figure svg { width: 100%; height: auto; display: block }
.warning { border-left: 4px solid #c8641e; padding: .2rem .8rem }
.scroll { overflow-x: auto }
"""


def render(profile: Profile, runs: dict[str, Runs]) -> str:
    """The whole page."""
    machine, settings = profile.key.machine, profile.key.settings
    facts = [machine.processor, f"{machine.cores} cores", f"{machine.memory_mb:,} MB", machine.system, machine.jetpack]
    facts += [settings.power_mode and f"power mode {settings.power_mode}"]
    facts += [settings.governor and f"governor {settings.governor}"]
    facts += [f"{name} {version}" for name, version in profile.key.versions.items()]
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in profile.warnings)
    pictures = [_front(profile.measurements), _distributions(profile.measurements, runs), _memory(profile.measurements)]
    if profile.meter:
        pictures.append(_energy(profile.measurements))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<title>flexiast profile: {escape(profile.bundle)} on {escape(machine.model)}</title>
<style>{STYLE}</style>
<h1>{escape(profile.bundle)} on {escape(machine.model)}</h1>
<p class="dim">{escape(", ".join(filter(None, facts)))}<br>
{escape(profile.key.backend)}, {profile.key.threads} thread(s), measured {escape(profile.created_at)}</p>
{warnings}
<h2>Latency of one window</h2>
<div class="scroll">{_table(profile)}</div>
<p class="dim">Percentiles by nearest rank. rtf: compute time ÷ audio time with a window every {profile.step_s:g} s.
Energy: {escape(profile.meter or "not available")}. {_climate(profile)} {gpu_note(profile)}</p>
{"".join(f"<figure>{picture}</figure>" for picture in pictures)}
</html>
"""


def _table(profile: Profile) -> str:
    columns: list[tuple[str, str, str]] = [
        ("p50 ms", "p50_ms", ".2f"),
        ("p90", "p90_ms", ".2f"),
        ("p95", "p95_ms", ".2f"),
        ("p99", "p99_ms", ".2f"),
        ("max", "max_ms", ".2f"),
        ("first", "cold_ms", ".2f"),
        ("± %", "coefficient_of_variation", ".1%"),
        ("runs", "runs", ",d"),
        ("windows/s", "windows_per_s", ".1f"),
        ("rtf", "rtf", ".4f"),
        ("CPU ms", "cpu_ms", ".2f"),
    ]
    if any(m.gpu for m in profile.measurements):
        columns += [(title, f"gpu.{field}", ".3f") for title, field in GPU_STAGES]
    columns += [("MB", "private_mb", ".0f")]
    if profile.meter:
        columns += [("mJ", "energy_mj", ".1f"), ("above idle", "energy_above_idle_mj", ".1f")]
    columns += [("metric", "metric", ".3f")]
    head = "".join(f"<th>{title}</th>" for title in ("patch", "precision", *(title for title, _, _ in columns)))
    rows = "".join(
        f"<tr><td>{m.patch_size}</td><td>{m.precision}</td>"
        + "".join(f"<td>{_cell(_field(m, field), form)}</td>" for _, field, form in columns)
        + "</tr>"
        for m in profile.measurements
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _field(measurement: Measurement, field: str) -> Any:
    """A field by its name; those of the GPU have a dot, and are None without one."""
    part, dot, rest = field.partition(".")
    value = getattr(measurement, part)
    return getattr(value, rest) if dot and value is not None else value


def _cell(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def _climate(profile: Profile) -> str:
    before, after = profile.before, profile.after
    zones = [
        f"{zone} {before.temperatures_c.get(zone, celsius):.0f} → {celsius:.0f} °C"
        for zone, celsius in after.temperatures_c.items()
    ]
    return escape("; ".join(zones)) if zones else "Temperatures: not available."


def _front(measurements: Sequence[Measurement]) -> str:
    """Metric against latency, with a line through the variants that no other beats in both."""
    measured = sorted((m for m in measurements if m.metric is not None), key=lambda m: m.p50_ms)
    if not measured:
        return "<p>No metric is known of these variants: measure it with --accuracy DATA.</p>"
    figure, axes = _axes("median latency, ms", "accuracy or mAP", "What a millisecond buys")
    for precision in dict.fromkeys(m.precision for m in measured):
        theirs = [m for m in measured if m.precision == precision]
        axes.scatter(
            [m.p50_ms for m in theirs], [m.metric for m in theirs], color=COLOURS[precision], label=precision, zorder=3
        )
        for m in theirs:
            axes.annotate(
                m.patch_size.short,
                (m.p50_ms, m.metric),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    best, front = -1.0, []
    for m in measured:
        if (m.metric or 0.0) > best:
            best = m.metric or 0.0
            front.append(m)
    axes.plot([m.p50_ms for m in front], [m.metric for m in front], color=GREY, linewidth=1, linestyle="--", zorder=1)
    logarithmic(axes)
    axes.margins(x=0.08, y=0.15)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return _svg(figure)


def _distributions(measurements: Sequence[Measurement], runs: dict[str, Runs]) -> str:
    """The share of windows that take at most a given time."""
    figure, axes = _axes("latency, ms", "share of windows", "How latencies are spread")
    sizes = list(dict.fromkeys(m.patch_size for m in measurements))
    for m in measurements:
        values = sorted(1000 * seconds for seconds in runs[m.name].latencies_s)
        shares = [(index + 1) / len(values) for index in range(len(values))]
        shade = viridis(0.9 * sizes.index(m.patch_size) / len(sizes))
        axes.plot(values, shares, color=shade, linewidth=1.3, label=m.name, linestyle=DASHES[m.precision])
    logarithmic(axes)
    axes.axhline(0.95, color=GREY, linewidth=0.8, linestyle=":")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _memory(measurements: Sequence[Measurement]) -> str:
    known = [m for m in measurements if m.private_mb is not None]
    if not known:
        return "<p>Memory: not available on this system.</p>"
    return _bars(known, [m.private_mb or 0.0 for m in known], "MB", "Memory of a process that runs one variant")


def _energy(measurements: Sequence[Measurement]) -> str:
    known = [m for m in measurements if m.energy_mj is not None]
    if not known:
        return "<p>Energy: the meter did not answer.</p>"
    return _bars(
        known, [m.energy_mj or 0.0 for m in known], "mJ for each window", "Energy, with what the idle machine draws"
    )


def _bars(measurements: Sequence[Measurement], values: Sequence[float], unit: str, title: str) -> str:
    figure, axes = _axes(unit, "", title, height=0.8 + 0.28 * len(values))
    names = [m.name for m in measurements]
    bars = axes.barh(names, values, color=[COLOURS[m.precision] for m in measurements], height=0.6)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    return _svg(figure)


def _axes(x: str, y: str, title: str, height: float = 3.4) -> tuple[Any, Any]:
    figure, axes = new_figure(7.2, height)
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=10, loc="left")
    plain(axes)
    return figure, axes


def _svg(figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    content = stream.getvalue()
    return content[content.index("<svg") :]
