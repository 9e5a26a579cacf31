"""``flexiast simulate``: the governor through loads, batteries and heat, made up or recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexiast_cli.options.common import BackendOption, PrecisionOption
from flexiast_cli.options.policy import Preset
from flexiast_cli.options.validators import named_sizes
from flexiast_runtime.inference.backends import Backend

if TYPE_CHECKING:
    from rich.table import Table

    from flexiast_runtime.governor.trace import Replay, Trace
    from flexiast_runtime.governor.types import Option
    from flexiast_runtime.simulation.comparison import Comparison, Means
    from flexiast_runtime.simulation.simulator import Scenario

ALL = "all"


def simulate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.", show_default=False),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="What `flexiast listen --record` wrote.")
    ] = None,
    scenario: Annotated[str, typer.Option("--scenario", metavar="NAME", help="What happens, by name.")] = ALL,
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.01, max=168, help="How long each scenario goes on. (2)")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of what is random in them. (0)")] = None,
    policy: Annotated[
        Preset | None,
        typer.Option(
            "--policy", help="The preset to try (default: balanced); with --trace beside the run as it was recorded."
        ),
    ] = None,
    patch_sizes: Annotated[
        str | None, typer.Option("--patch-sizes", callback=named_sizes, help="Choose among these only.")
    ] = None,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw what happened, on one time axis.")
    ] = None,
) -> None:
    """Play what may happen to a machine, and compare the governor with an oracle and with each size kept for ever.

    Scenarios: quiet, step, ramp, square, limit, bursts, drift, flurry, battery, battery in percent, broken sensor,
    heat, failing engine. A trace is first played again: exit code 5 if a decision is another one today.
    """
    from flexiast.errors import ExitCode, UsageError
    from flexiast.extras import require
    from flexiast.files import check_output
    from flexiast_cli.terminal.console import print_json, say, stdout, track
    from flexiast_runtime.governor.presets import POLICIES
    from flexiast_runtime.governor.trace import read_trace, replay
    from flexiast_runtime.simulation.comparison import Means, compare
    from flexiast_runtime.simulation.scenarios import scenarios
    from flexiast_runtime.simulation.simulator import World

    if trace is not None and (model or patch_sizes or scenario != ALL or (hours, seed) != (None, None)):
        raise UsageError(
            "--trace brings its own options and what happened; "
            "give neither MODEL nor --patch-sizes, --scenario, --hours or --seed"
        )
    if plot is not None:
        require("matplotlib", "train")
        check_output(plot)
    if trace is None:
        options, step_s = _options(model, patch_sizes, precision, backend)
        made = _select_scenarios(scenarios(options, 2.0 if hours is None else hours, seed or 0, step_s), scenario)
        preset = POLICIES[policy or "balanced"]
        found, played = [compare(preset, World(one, options)) for one in track(made, "Simulating")], None
    else:
        recording = read_trace(trace)
        found, played = _replay_trace(recording, policy), replay(recording)
        _say_replay(recording, played)
    say(f"energy is modelled: {found[0].governed.scenario.power}")
    means = Means.average(found) if trace is None and len(found) > 1 else None
    if as_json:
        print_json(
            {
                "results": [one.document() for one in found],
                "mean": None if means is None else asdict(means),
                "replay": None if played is None else {"agreed": played.same, "same": played.difference is None},
            }
        )
    else:
        stdout().print(_table(found, means))
    if plot is not None:
        from flexiast_cli.commands.simulate.plot import draw

        draw(found, plot)
    if played is not None and played.difference is not None:
        raise typer.Exit(ExitCode.VERIFICATION)


def _options(
    model: str | None, patch_sizes: str | None, precision: str | None, backend: Backend
) -> tuple[tuple[Option, ...], float]:
    """The bundle's, with this machine's latencies, whose origin is said, and the step."""
    from flexiast.spec import parse_patches
    from flexiast_cli.options.policy import options_of, profile_of
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import DEFAULT, find_bundle
    from flexiast_runtime.detection.settings import DetectionSettings
    from flexiast_runtime.governor.step import frontier
    from flexiast_runtime.inference.backends import load_engines

    bundle = Bundle.open(find_bundle(model or DEFAULT))
    wanted = None if patch_sizes is None else parse_patches(patch_sizes)
    precision = bundle.manifest.precision(precision)
    profile = profile_of(bundle, backend)
    engines = load_engines(bundle, wanted, precision, backend, say)
    options = frontier(options_of(engines, profile, precision))
    origin = "measured just now" if profile is None else f"of the profile of {profile.created_at}"
    say(f"latencies {origin}: {', '.join(f'{o.patch} {1000 * o.latency_s:.2f} ms' for o in options)}")
    return options, DetectionSettings.from_frontend(engines.spec.frontend).step_s


def _select_scenarios(made: dict[str, Scenario], wanted: str) -> list[Scenario]:
    from flexiast.errors import UsageError

    if wanted not in {ALL, *made}:
        raise UsageError(f"there is no scenario {wanted!r}; there are {', '.join(made)}, and {ALL}")
    return list(made.values()) if wanted == ALL else [made[wanted]]


def _replay_trace(trace: Trace, policy: Preset | None) -> list[Comparison]:
    """The run as it was, and with a preset if there is one."""
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.governor.presets import POLICIES
    from flexiast_runtime.simulation.comparison import compare, compare_to_baselines, rename_outcome, replay_trace

    world, outcome = replay_trace(trace)
    if policy is None:
        return [compare_to_baselines(outcome, world)]
    say(f"{policy} is simulated on the recorded slow-downs alone, with no battery and no heat")
    again = compare(POLICIES[policy], world)
    return [replace(again, governed=outcome), replace(again, governed=rename_outcome(again.governed, policy))]


def _say_replay(trace: Trace, played: Replay) -> None:
    """Whether the governor decides today what it decided then."""
    from flexiast_cli.terminal.console import count_noun, say

    if trace.torn:
        say("the last line is torn, as a killed process leaves it; it is left out")
    if played.difference is None:
        say(f"{count_noun(played.same, 'decision')} played again: every one is the same")
        return
    then, now = played.difference
    options = trace.header.options
    say(
        f"{count_noun(played.same, 'decision')} are the same; at {then.observation.time_s:g} s it decided "
        f"{options[then.index].patch} ({then.reason or 'as before'}), "
        f"today {options[now.index].patch} ({now.reason or 'as before'})"
    )


def _table(found: Sequence[Comparison], means: Means | None) -> Table:
    """A row for each, and one for their mean."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (
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
    ):
        table.add_column(column, justify="left" if column in {"", "best static"} else "right")
    for one in found:
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
