"""The work of `flexiast simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import typer
from rich.table import Table

from flexiast.errors import ExitCode, UsageError
from flexiast.extras import require
from flexiast.files import check_output
from flexiast_cli.commands.simulate.command import ALL, SimulationOptions
from flexiast_cli.governor import load_candidates
from flexiast_cli.options.policy import PolicyOptions, Preset
from flexiast_cli.terminal.console import count_noun, log, print_json, stdout, track
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import DEFAULT, find_bundle
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.trace import Replay, Trace, read_trace, replay
from flexiast_runtime.governor.types import Option
from flexiast_runtime.governor.worth import frontier
from flexiast_runtime.simulation.comparison import (
    Comparison,
    Means,
    compare,
    compare_to_baselines,
    rename_outcome,
    replay_trace,
)
from flexiast_runtime.simulation.scenarios import NAMES, scenarios
from flexiast_runtime.simulation.world import World

COLUMNS = (
    "",
    "missed %",
    "95 %",
    "longest",
    "age p50 ms",
    "p95",
    "p99",
    "switches/h",
    "kJ",
    "score",
    "oracle missed %",
    "regret %",
    "energy %",
    "best static",
)


def run(model: str | None, simulation: SimulationOptions, *, as_json: bool, plot: Path | None) -> None:
    """Simulate or replay, print the comparison, and draw it; exits with VERIFICATION where a replay differs."""
    _check_options(model, simulation)
    if plot is not None:
        require("matplotlib", "train")
        check_output(plot)
    replayed = None
    if simulation.trace is None:
        comparisons = _simulate(model, simulation)
    else:
        trace = read_trace(simulation.trace)
        comparisons, replayed = _replay_trace(trace, simulation.policy), replay(trace)
        _report_replay(trace, replayed)
    log(f"energy is modelled: {comparisons[0].governed.scenario.power}")
    means = Means.average(comparisons) if simulation.trace is None and len(comparisons) > 1 else None
    if as_json:
        print_json(
            {
                "results": [one.document() for one in comparisons],
                "mean": None if means is None else asdict(means),
                "replay": None
                if replayed is None
                else {"same_decisions": replayed.same, "same": replayed.difference is None},
            }
        )
    else:
        stdout().print(_table(comparisons, means))
    if plot is not None:
        from flexiast_cli.commands.simulate.plot import draw

        draw(comparisons, plot)
    if replayed is not None and replayed.difference is not None:
        raise typer.Exit(ExitCode.VERIFICATION)


def _check_options(model: str | None, given: SimulationOptions) -> None:
    chosen = model or given.patch_sizes or given.scenario != ALL or (given.hours, given.seed) != (None, None)
    if given.trace is not None and chosen:
        raise UsageError(
            "--trace brings its own options and what happened; "
            "give neither MODEL nor --patch-sizes, --scenario, --hours or --seed"
        )
    if given.scenario not in {ALL, *NAMES}:
        raise UsageError(f"there is no scenario {given.scenario!r}; there are {', '.join(NAMES)}, and {ALL}")


def _simulate(model: str | None, simulation: SimulationOptions) -> list[Comparison]:
    options, step_s = _options(model, simulation)
    known = scenarios(options, 2.0 if simulation.hours is None else simulation.hours, simulation.seed or 0, step_s)
    preset = POLICIES[simulation.policy or "balanced"]
    selected = known.values() if simulation.scenario == ALL else [known[simulation.scenario]]
    return [compare(preset, World(scenario, options)) for scenario in track(list(selected), "Simulating")]


def _options(model: str | None, simulation: SimulationOptions) -> tuple[tuple[Option, ...], float]:
    """The bundle's options with this machine's latencies, and the step in seconds; prints where latencies are from."""
    bundle = Bundle.open(find_bundle(model or DEFAULT))
    request = PolicyOptions(
        patch_sizes=simulation.patch_sizes, precision=simulation.precision, backend=simulation.backend
    )
    candidates = load_candidates(bundle, request)
    options, profile = frontier(candidates.options()), candidates.profile
    origin = "measured just now" if profile is None else f"of the profile of {profile.created_at}"
    log(f"latencies {origin}: {', '.join(f'{o.patch} {1000 * o.latency_s:.2f} ms' for o in options)}")
    return options, DetectionSettings.from_frontend(candidates.engines.spec.frontend).step_s


def _replay_trace(trace: Trace, policy: Preset | None) -> list[Comparison]:
    """The run as it was recorded, and with a preset if one is given."""
    world, outcome = replay_trace(trace)
    if policy is None:
        return [compare_to_baselines(outcome, world)]
    log(f"{policy} is simulated on the recorded slow-downs only, without battery and heat")
    again = compare(POLICIES[policy], world)
    return [replace(again, governed=outcome), replace(again, governed=rename_outcome(again.governed, policy))]


def _report_replay(trace: Trace, replayed: Replay) -> None:
    """Print whether the governor decides today what it decided then."""
    if trace.torn:
        log("the last line is torn, as a killed process leaves it; it is skipped")
    if replayed.difference is None:
        log(f"{count_noun(replayed.same, 'decision')} replayed: every one is the same")
        return
    then, now = replayed.difference
    options = trace.header.options
    log(
        f"{count_noun(replayed.same, 'decision')} are the same; at {then.observation.time_s:g} s it decided "
        f"{options[then.index].patch} ({then.reason or 'as before'}), "
        f"today {options[now.index].patch} ({now.reason or 'as before'})"
    )


def _table(comparisons: Sequence[Comparison], means: Means | None) -> Table:
    """A row for each comparison, and one for their mean."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in {"", "best static"} else "right")
    for one in comparisons:
        governed, static = one.governed, one.best_static
        low, high = governed.miss_interval
        table.add_row(
            one.name,
            f"{100 * governed.miss_rate:.2f}",
            f"{100 * low:.2f}–{100 * high:.2f}",
            f"{governed.longest_run_of_misses}",
            *(f"{1000 * governed.age_s(rank):.1f}" for rank in (50, 95, 99)),
            f"{governed.switches_per_hour:.1f}",
            f"{governed.joules / 1000:.1f}",
            f"{governed.score:.4f}",
            f"{100 * one.ideal.miss_rate:.2f}",
            f"{100 * one.score_regret:.2f}",
            f"{100 * one.energy_regret:+.1f}",
            f"{static.options[static.chosen[0]].patch} {static.score:.4f}",
        )
    if means is not None:
        table.add_section()
        table.add_row(
            "mean",
            f"{100 * means.miss_rate:.2f}",
            *[""] * 5,
            f"{means.switches_per_hour:.1f}",
            "",
            f"{means.score:.4f}",
            "",
            f"{100 * means.score_regret:.2f}",
            f"{100 * means.energy_regret:+.1f}",
            f"{means.best_static} {means.best_static_score:.4f}",
            style="bold",
        )
    return table
