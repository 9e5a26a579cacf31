"""The page's governor decides as the runtime's does, with the same reasons: on recorded, simulated and random traces.

The runtime's sees nothing here that a page cannot: no heat, no watts, no failing engine, no time to last until.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic_core import to_json

from flexiast.spec import PatchSize
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.trace import read_trace
from flexiast_runtime.governor.types import Goal, Observation, Option, Policy
from flexiast_runtime.governor.worth import frontier
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.simulation.scenarios import scenarios
from flexiast_runtime.simulation.simulator import Run, SimulatedSensors
from flexiast_runtime.simulation.world import World

HERE = Path(__file__).parent
GOVERNOR = HERE.parents[2] / "cli/flexiast_cli/browser/governor.js"
ARTEFACTS = HERE.parents[1] / "runtime/artefacts"
MAX_LINES = 150
OPTIONS = tuple(
    Option(PatchSize(size, size), latency_s, metric)
    for size, latency_s, metric in (
        (48, 0.023, 0.67),
        (32, 0.045, None),
        (24, 0.06, 0.77),
        (16, 0.095, 0.80),
        (8, 0.33, 0.83),
    )
)
STEP_S = 0.5
TICKS, RANDOM_TICKS = 3_600, 1_000
WORLDS = {
    "bursts": "balanced",
    "flurry": "balanced",
    "near": "balanced",
    "spikes": "greedy",
    "stalls": "steady",
    "battery in percent": "balanced",
    "broken sensor": "balanced",
}
"""Worlds of the simulator and three more, see `simulate`, each with the preset under which most rules are needed"""


class Trace(NamedTuple):
    """What the runtime's governor saw, the first before any window, and what it decided on each."""

    policy: Policy
    options: Sequence[Option]
    observations: list[Observation]
    decisions: list[list[Any]]
    """Index and reason"""
    overloaded: bool
    """In the end"""


def drive(
    policy: Policy, options: Sequence[Option], first: Observation, look: Callable[[int], Observation], ticks: int
) -> Trace:
    """The runtime's governor at the wheel: ``look`` gives the next observation of the option that it chose."""
    observations, state = [first], init_state(policy, options, first)
    decisions: list[list[Any]] = [[state.index, None]]
    for _ in range(ticks):
        observations.append(look(state.index))
        state, decision = step(policy, options, state, observations[-1])
        decisions.append([decision.index, decision.reason])
    return Trace(policy, options, observations, decisions, state.overloaded)


def read_recorded(path: Path) -> Trace:
    """What a run recorded, without what a page cannot see: heat and noise."""
    trace = read_trace(path)
    seen = [trace.header.first_observation, *(each.observation for each in trace.steps)]
    first, *others = (
        replace(each, thermal_headroom_c=None, throttled=None, power_saver=None, snr_db=None)
        for each in seen
        if not each.failed
    )
    queue = iter(others)
    return drive(trace.header.policy, trace.header.options, first, lambda index: next(queue), len(others))


def simulate(name: str, policy: Policy) -> Trace:
    """Half an hour in a world of the simulator, or in one of three more."""
    found = scenarios(OPTIONS, TICKS * STEP_S / 3_600, seed=3)
    # The costliest option just fits, on average, after a minute of load.
    load = found["quiet"].slowdown * np.where(
        np.arange(TICKS) * STEP_S < 60, 4.0, 0.86 * STEP_S / OPTIONS[-1].latency_s
    )
    found["near"] = replace(found["quiet"], slowdown=load)
    # Lone slow windows, at first so seldom that it pays to wait, then most of the time.
    spikes = np.where(np.arange(TICKS) < TICKS / 2, np.arange(TICKS) % 60 == 0, np.arange(TICKS) % 4 > 0)
    found["spikes"] = replace(found["quiet"], slowdown=np.where(spikes, 2.0, 1.0))
    # Every ten seconds what is not the engine's takes so long that only the cheapest option would have been in time.
    found["stalls"] = replace(found["quiet"], slowdown=np.ones(TICKS))
    sensors = SimulatedSensors(Run(World(replace(found[name], goal_s=None), OPTIONS)))

    def look(index: int) -> Observation:
        seen = sensors.observe_window(index)
        stalls = name == "stalls" and seen.time_s % 10 == 0
        return replace(seen, overhead_s=STEP_S - 1.01 * OPTIONS[0].latency_s if stalls else 0.0)

    return drive(policy, OPTIONS, sensors.observe_start(), look, TICKS)


def invent(seed: int) -> Trace:
    """Load that comes and goes, backlogs, a moving deadline, a battery that drains, charges, vanishes and jumps."""
    rng = np.random.default_rng(seed)
    policy = list(POLICIES.values())[seed % len(POLICIES)]
    costs = np.cumprod(rng.uniform(1.2, 2.5, rng.integers(2, 7))) * 1e-3
    metrics = np.sort(rng.uniform(0.5, 0.95, len(costs)))
    options = [
        Option(PatchSize(48 - 4 * place, 48 - 4 * place), float(cost), float(metric))
        for place, (cost, metric) in enumerate(zip(costs, metrics, strict=True))
    ]
    slowdown, charge, discharging, deadline_s = 1.0, float(rng.uniform(0.2, 1)), True, float(costs[-1] * 2)
    time_s = 0.0
    option: int | None = None

    def look(index: int) -> Observation:
        nonlocal slowdown, charge, discharging, deadline_s, time_s, option
        time_s += float(rng.choice([0.25, 0.5, 3.0, 30.0], p=[0.6, 0.34, 0.05, 0.01]))
        if rng.random() < 0.01:
            slowdown = float(rng.choice([1.0, 1.0, 1.5, 3.0, 10.0]))
        if rng.random() < 0.005:
            deadline_s = float(rng.uniform(costs[0], costs[-1] * 4))
        if rng.random() < 0.01:
            discharging = not discharging
        charge = min(max(charge - (0.0005 if discharging else -0.001), 0.0), 1.0)
        reading = charge if rng.random() > 0.02 else float(rng.choice([0.0, 1.0, 0.5]))
        if rng.random() < 0.3:  # another option than the governor's, for some windows
            option = int(rng.integers(len(costs))) if rng.random() < 0.1 else None
        pause = 8.0 if rng.random() < 0.01 else 1.0
        latency_s = float(costs[index if option is None else option] * slowdown * rng.lognormal(0, 0.1)) * pause
        return Observation(
            time_s,
            deadline_s,
            latency_s=latency_s if rng.random() > 0.05 else None,
            overhead_s=float(rng.uniform(0, 5e-4)) + (deadline_s if rng.random() < 0.01 else 0.0),
            backlog_steps=float(rng.choice([0.0, 0.5, 1.5, 3.0], p=[0.97, 0.02, 0.005, 0.005])),
            battery=Battery(round(reading, 2), discharging) if rng.random() > 0.1 else None,
            option=option,
        )

    return drive(policy, options, look(0), look, RANDOM_TICKS)


def replay(node: str, traces: Sequence[Trace]) -> list[dict[str, Any]]:
    documents = (
        {
            "policy": trace.policy,
            "options": [asdict(option) | {"patch": str(option.patch)} for option in trace.options],
            "observations": trace.observations,
        }
        for trace in traces
    )
    lines = b"".join(to_json(document) + b"\n" for document in documents)
    done = subprocess.run([node, HERE / "replay.mjs"], check=True, input=lines, capture_output=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same(node: str, traces: Sequence[Trace], rules: Sequence[str]) -> None:
    """Compare all decisions and reasons; each rule must be the reason of some."""
    found = replay(node, traces)
    assert len(found) == len(traces)
    for trace, each in zip(traces, found, strict=True):
        assert each["decisions"] == trace.decisions
        assert each["overloaded"] == trace.overloaded
        assert_plain(trace, each["said"])
    reasons = [reason for trace in traces for _, reason in trace.decisions if reason]
    for rule in rules:
        assert any(rule in reason for reason in reasons), f"no trace exercises: {rule}"


def assert_plain(trace: Trace, explanations: Sequence[dict[str, str] | None]) -> None:
    """The page explains every reason, with all its numbers, and no word of the governor's own."""
    for (_, reason), said in zip(trace.decisions, explanations, strict=True):
        if reason is None:
            assert said is None
            continue
        assert said is not None
        assert said["word"] in {"too slow", "behind", "time to spare", "better on average", "battery"}
        for jargon in ("p95", "deadline", "discharging", "worth", "+", " -"):
            assert jargon not in said["sentence"], f"{reason}: {said['sentence']}"
        numbers = re.findall(r"\b\d+(?:\.\d+)?\b", said["sentence"])
        for number in re.findall(r"(?<=of |at |ds )\d+(?:\.\d+)?(?=%| ms)", reason):
            shown = [n for n in numbers if abs(float(n) - float(number)) <= max(0.05, 0.5 * (float(number) >= 10))]
            assert shown, f"{reason}: {said['sentence']}"


def test_decisions_on_recorded_traces_are_those_of_the_runtime(node: str) -> None:
    traces = [read_recorded(path) for path in sorted(ARTEFACTS.glob("trace-*.jsonl"))]
    assert_same(node, traces, ("does not fit", "has fit", "and discharging"))


def test_decisions_in_simulated_and_random_worlds_are_those_of_the_runtime(node: str) -> None:
    traces = [simulate(name, POLICIES[policy]) for name, policy in WORLDS.items()]
    rules = (
        "does not fit",
        "has fit the deadline of 500.0 ms for",
        "has been worth more on average",
        "is missed so seldom that",
        "missed repeatedly",
        "are waiting",
        "and discharging",
        "the sensor reads",
    )
    assert_same(node, [*traces, *map(invent, range(20))], rules)


@pytest.mark.parametrize("missing", [(), (0,), (1, 2), (4,), (0, 1, 2, 3, 4)])
def test_the_options_worth_their_cost_are_those_of_python(node: str, missing: tuple[int, ...]) -> None:
    metrics = [0.5, 0.8, 0.7, 0.85, 0.84]
    options = [
        Option(PatchSize(8 + place, 8), 1e-3 * (place + 1) ** 2, None if place in missing else metric)
        for place, metric in enumerate(metrics)
    ]
    ((found,)) = replay(
        node, [drive(Policy(), options[::-1], Observation(0.0, 1.0), lambda index: Observation(0.0, 1.0), 0)]
    )
    assert found["frontier"] == [str(option.patch) for option in frontier(options)]


def test_the_policy_of_the_page_is_balanced(node: str) -> None:
    presets = GOVERNOR.with_name("presets.js").as_uri()
    script = f"import {{ BALANCED }} from '{presets}'; console.log(JSON.stringify(BALANCED))"
    done = subprocess.run([node, "--input-type=module", "--eval", script], check=True, capture_output=True)
    policy = json.loads(done.stdout)
    goal = policy.pop("goal")
    assert replace(Policy(**policy), goal=Goal(**goal)) == POLICIES["balanced"]


def test_the_rules_of_the_page_stay_small() -> None:
    assert len(GOVERNOR.read_text("utf-8").splitlines()) <= MAX_LINES
