"""The page's governor decides by the core rules of Python's, with the same reasons, on recorded and random traces."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexiast.spec import PatchSize
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.trace import read_trace
from flexiast_runtime.governor.types import Observation, Option, Policy
from flexiast_runtime.governor.worth import frontier
from flexiast_runtime.hardware.battery import Battery
from tests.cli.browser.core_rules import init_core, step_core

HERE = Path(__file__).parent
GOVERNOR = HERE.parents[2] / "cli/flexiast_cli/browser/governor.js"
RECORDED = HERE.parents[1] / "runtime/artefacts/trace-1.0.jsonl"
MAX_LINES = 150

Trace = tuple[Policy, Sequence[Option], list[Observation]]


def simulate(seed: int) -> Trace:
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
    observations, time_s, index = [], 0.0, len(costs) - 1
    for _ in range(400):
        time_s += float(rng.choice([0.25, 0.5, 3.0], p=[0.6, 0.35, 0.05]))
        if rng.random() < 0.03:
            slowdown = float(rng.choice([1.0, 1.0, 2.0, 5.0, 20.0]))
        if rng.random() < 0.01:
            deadline_s = float(rng.uniform(costs[0] / 2, costs[-1] * 4))
        if rng.random() < 0.01:
            discharging = not discharging
        charge = min(max(charge - (0.002 if discharging else -0.004), 0.0), 1.0)
        reading = charge if rng.random() > 0.02 else float(rng.choice([0.0, 1.0, 0.5]))
        latency_s = float(costs[index] * slowdown * rng.lognormal(0, 0.1)) * (8.0 if rng.random() < 0.02 else 1.0)
        observations.append(
            Observation(
                time_s,
                deadline_s,
                latency_s=latency_s if rng.random() > 0.05 else None,
                overhead_s=float(rng.uniform(0, 5e-4)),
                backlog_steps=float(rng.choice([0.0, 0.5, 1.5, 3.0], p=[0.9, 0.06, 0.03, 0.01])),
                battery=Battery(round(reading, 2), discharging) if rng.random() > 0.1 else None,
                option=int(rng.integers(len(costs))) if rng.random() < 0.02 else None,
            )
        )
        index = int(rng.integers(len(costs))) if rng.random() < 0.05 else index
    return policy, options, observations


def read_recorded() -> Trace:
    """What a run recorded, without the heat that a page cannot see."""
    trace = read_trace(RECORDED)
    seen = [trace.header.first_observation, *(each.observation for each in trace.steps)]
    plain = [replace(each, thermal_headroom_c=None, throttled=None, power_saver=None) for each in seen]
    return trace.header.policy, trace.header.options, [each for each in plain if not each.failed]


def to_line(trace: Trace) -> str:
    policy, options, (first, *others) = trace
    fields = {name: value for name, value in asdict(policy).items() if name != "goal"}
    document: dict[str, Any] = {
        "policy": fields | {"min_battery": policy.goal.min_battery},
        "options": [{"patch": str(each.patch), "latency_s": each.latency_s, "metric": each.metric} for each in options],
        "first": asdict(first),
        "observations": [asdict(each) for each in others],
    }
    return json.dumps(document)


def decide(trace: Trace) -> tuple[list[list[Any]], bool]:
    """Python's decisions, and whether it is overloaded in the end."""
    policy, options, (first, *others) = trace
    state = init_core(policy, options, first)
    decisions: list[list[Any]] = [[state.index, None]]
    for observation in others:
        state, decision = step_core(policy, options, state, observation)
        decisions.append([decision.index, decision.reason])
    return decisions, state.overloaded


def replay(node: str, traces: Sequence[Trace]) -> list[dict[str, Any]]:
    lines = "\n".join(map(to_line, traces)) + "\n"
    done = subprocess.run([node, HERE / "replay.mjs"], check=True, input=lines, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_decisions_and_reasons_are_those_of_the_core_rules(node: str) -> None:
    traces = [read_recorded(), *map(simulate, range(60))]
    found = replay(node, traces)
    assert len(found) == len(traces)
    reasons = []
    for trace, each in zip(traces, found, strict=True):
        decisions, overloaded = decide(trace)
        assert each["decisions"] == decisions
        assert each["overloaded"] == overloaded
        reasons += [reason for _, reason in decisions if reason]
    for rule in ("does not fit", "has fit", "missed repeatedly", "are waiting", "and discharging", "the sensor reads"):
        assert any(rule in reason for reason in reasons), f"no trace exercises: {rule}"


@pytest.mark.parametrize("missing", [(), (0,), (1, 2), (4,), (0, 1, 2, 3, 4)])
def test_the_options_worth_their_cost_are_those_of_python(node: str, missing: tuple[int, ...]) -> None:
    metrics = [0.5, 0.8, 0.7, 0.85, 0.84]
    options = [
        Option(PatchSize(8 + place, 8), 1e-3 * (place + 1) ** 2, None if place in missing else metric)
        for place, metric in enumerate(metrics)
    ]
    ((found,)) = replay(node, [(Policy(), options[::-1], [Observation(0.0, 1.0)])])
    assert found["frontier"] == [str(option.patch) for option in frontier(options)]


def test_the_governor_of_the_page_stays_small() -> None:
    assert len(GOVERNOR.read_text("utf-8").splitlines()) <= MAX_LINES
