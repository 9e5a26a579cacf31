"""What a governor saw and did, written and read: exact to the last bit, strict, torn at most at the end."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DataError
from flexiast.spec import PatchSize
from flexiast_runtime.governor import trace as traces
from flexiast_runtime.governor.live import Conditions, GovernedController
from flexiast_runtime.governor.trace import Header, Recorder, read_trace, replay
from flexiast_runtime.governor.types import Goal, Observation, Option, Policy
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.simulation.comparison import replay_trace

OPTIONS = (
    Option(PatchSize(32, 32), 0.01, 0.7, 4.0),
    Option(PatchSize(16, 20), 0.09),
    Option(PatchSize(8, 8), 0.1 + 0.2, 0.8),
)
SQUEEZED = Path(__file__).parents[1] / "artefacts" / "trace-squeezed.jsonl"
JOULES = st.one_of(st.none(), st.floats(0, 1e9))
SEEN = st.builds(
    Observation,
    time_s=st.floats(0, 1e6),
    deadline_s=st.floats(1e-3, 10),
    latency_s=st.one_of(st.none(), st.floats(0, 1e3)),
    overhead_s=st.floats(0, 1),
    backlog_steps=st.floats(0, 100),
    battery=st.one_of(st.none(), st.builds(Battery, st.floats(0, 1), st.booleans(), JOULES)),
    thermal_headroom_c=st.one_of(st.none(), st.floats(-100, 100)),
    throttled=st.sampled_from([None, True, False]),
    power_saver=st.sampled_from([None, True, False]),
    failed=st.booleans(),
)
POLICY = st.builds(
    Policy,
    dwell_s=st.floats(0, 100),
    headroom=st.floats(0.1, 1),
    max_charge_per_min=st.sampled_from([0.05, math.inf]),
    goal=st.builds(Goal, st.one_of(st.none(), st.floats(0, 1e6)), st.floats(0, 1), st.one_of(st.none(), st.floats())),
)


def header(chosen: GovernedController) -> Header:
    return Header(
        created_at="2026-01-01T00:00:00+00:00",
        bundle="tiny",
        bundle_sha256="0" * 64,
        versions={"flexiast": "0.1.0"},
        step_s=0.25,
        options=chosen.options,
        policy=chosen.policy,
        first_observation=chosen.first,
        index=chosen.index,
    )


def start_recording(path: Path, policy: Policy) -> tuple[GovernedController, Recorder]:
    chosen = GovernedController(OPTIONS, policy, Conditions(0.25))
    chosen.record = recorder = Recorder(path, header(chosen))
    return chosen, recorder


def record(path: Path, policy: Policy, seen: Sequence[Observation]) -> GovernedController:
    chosen, recorder = start_recording(path, policy)
    for each in seen:
        chosen.observe(each)
    recorder.close()
    return chosen


def same(one: object, other: object) -> bool:
    """Equal, and NaN is NaN."""
    return repr(one) == repr(other)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces") / "trace.jsonl"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Four minutes with a load each hundred seconds, on a battery."""
    rng = np.random.default_rng(0)
    chosen, recorder = start_recording(tmp_path / "written.jsonl", Policy())
    for tick in range(1, 1_001):
        latency_s = OPTIONS[chosen.index].latency_s * rng.lognormal(0, 0.1) * (4 if tick % 400 > 300 else 1)
        battery = Battery(0.9 - tick / 20_000, discharging=True)
        chosen.observe(Observation(0.25 * tick, 0.25, float(latency_s), 0.003, battery=battery))
    recorder.close()
    return tmp_path / "written.jsonl"


# ----- exact


@given(POLICY, st.lists(SEEN, max_size=20).map(lambda seen: sorted(seen, key=lambda each: each.time_s)))
def test_what_is_read_is_what_was_written_and_decides_the_same(
    path: Path, policy: Policy, seen: list[Observation]
) -> None:
    chosen = record(path, policy, seen)
    found = read_trace(path)
    assert same(found.header, header(GovernedController(OPTIONS, policy, Conditions(0.25))))
    assert same([step.observation for step in found.steps], seen)
    assert replay(found) == (len(seen), None)
    assert not found.torn
    assert len(found.executed_options) == len(seen)
    assert chosen.index == (found.steps[-1].index if seen else found.header.index)


def test_another_governor_is_noticed_where_it_decides_otherwise(written: Path) -> None:
    found = read_trace(written)
    assert replay(found).difference is None
    other = found._replace(header=found.header.model_copy(update={"policy": replace(found.header.policy, dwell_s=5.0)}))
    agreed, differs = replay(other)
    assert 0 < agreed < len(found.steps)
    assert differs is not None
    then, now = differs
    assert then is found.steps[agreed]
    assert (now.index, now.reason) != (then.index, then.reason)


def test_another_beginning_is_another_decision(written: Path) -> None:
    found = read_trace(written)
    other = found._replace(header=found.header.model_copy(update={"index": found.header.index - 1}))
    agreed, differs = replay(other)
    assert agreed == 0
    assert differs is not None
    assert (differs[0].index, differs[1].index) == (found.header.index - 1, found.header.index)


def test_a_recorded_run_is_the_run(written: Path) -> None:
    found = read_trace(written)
    world, outcome = replay_trace(found)
    np.testing.assert_allclose(outcome.latencies_s, [step.observation.latency_s for step in found.steps], rtol=1e-12)
    assert outcome.chosen.tolist() == list(found.executed_options)
    late = [
        step.observation.latency_s
        for step in found.steps
        if (step.observation.latency_s or 0) > step.observation.budget_s
    ]
    assert outcome.misses == len(late) > 0
    assert world.options[0].patch == OPTIONS[0].patch


def test_windows_that_no_engine_ran_are_no_part_of_it(path: Path) -> None:
    record(path, Policy(), [Observation(1.0, 0.25), Observation(2.0, 0.25, failed=True)])
    with pytest.raises(DataError, match="no window"):
        replay_trace(read_trace(path))


def test_a_run_under_a_real_squeeze_is_replayed_decision_by_decision() -> None:
    """`listen --record` with a real engine, clock and file, while busy loops took the core; made by this governor."""
    found = read_trace(SQUEEZED)
    assert not found.torn
    assert replay(found) == (len(found.steps), None)
    reasons = [step.reason for step in found.steps if step.reason]
    assert "points on clean sounds" in reasons[0]
    assert len(reasons) == 3  # down twice, up once
    late = [step for step in found.steps if (step.observation.latency_s or 0) > step.observation.budget_s]
    assert 0 < len(late) <= 3


# ----- strict, but for the end


def test_a_torn_last_line_is_left_out_and_said(written: Path) -> None:
    whole = written.read_bytes()
    steps = read_trace(written).steps
    last = len(whole.splitlines()[-1])
    for cut in (1, 2, last // 2, last):
        written.write_bytes(whole[:-cut])
        found = read_trace(written)
        assert (found.torn, found.steps) == (True, steps[:-1])
    written.write_bytes(whole[: -last - 1])
    assert not read_trace(written).torn


def seen(field: bytes) -> bytes:
    """A step with this field."""
    return b'{"observation":{"time_s":9,"deadline_s":1,' + field + b'},"index":0}'


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [], "not a trace"),
        (lambda lines: [b"{}", *lines[1:]], "not a trace"),
        (lambda lines: [lines[0].replace(b'"2.0"', b'"3.0"'), *lines[1:]], "schema_version"),
        (lambda lines: [lines[0].replace(b'"16x20"', b'"16x"'), *lines[1:]], "16x"),
        (lambda lines: [lines[0].replace(b'"latency_s":0.01', b'"latency_s":0.0'), *lines[1:]], "above 0"),
        (lambda lines: [lines[0].replace(b'"latency_s":0.01', b'"latency_s":0.2'), *lines[1:]], "ascending order"),
        (lambda lines: [lines[0].replace(b'"latency_s":0.01', b'"latency_s":NaN'), *lines[1:]], "above 0"),
        (lambda lines: [lines[0].replace(b'"index":1', b'"index":3'), *lines[1:]], "first option is 3"),
        (lambda lines: [lines[0].replace(b'"step_s":0.25', b'"step_s":Infinity'), *lines[1:]], "step_s"),
        (lambda lines: [*lines[:3], b"", *lines[3:]], "line 4"),
        (lambda lines: [*lines[:3], lines[3][:-9], *lines[4:]], "line 4"),
        (lambda lines: [*lines[:3], b'{"observation":{"time_s":1,"deadline_s":"1"},"index":0}'], "line 4.*deadline_s"),
        (lambda lines: [*lines[:3], b'{"observation":{"time_s":1,"deadline_s":1},"index":0,"x":1}'], "line 4.*x"),
        (lambda lines: [*lines[:3], b'{"observation":{"time_s":1,"deadline_s":1},"index":3}'], "line 4 names option 3"),
        (lambda lines: [*lines[:3], b"\xff"], "line 4"),
        (lambda lines: [lines[0].replace(b'"deadline_s":0.25', b'"deadline_s":NaN'), *lines[1:]], "line 1: deadline_s"),
        (lambda lines: [*lines[:3], seen(b'"latency_s":-0.1')], "line 4: latency_s is -0.1"),
        (lambda lines: [*lines[:3], seen(b'"latency_s":NaN')], "line 4: latency_s is nan"),
        (lambda lines: [*lines[:3], seen(b'"overhead_s":Infinity')], "line 4: overhead_s is inf"),
        (lambda lines: [*lines[:3], seen(b'"thermal_headroom_c":NaN')], "line 4: thermal_headroom_c"),
        (lambda lines: [*lines[:3], seen(b'"battery":{"fraction":7,"discharging":true}')], "line 4: battery.fraction"),
        (lambda lines: [*lines[:3], lines[4], lines[3]], "line 5: time goes back, from 1 s to 0.75 s"),
    ],
)
def test_what_is_damaged_elsewhere_is_named(written: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    written.write_bytes(b"".join(line + b"\n" for line in damage(written.read_bytes().splitlines())))
    with pytest.raises(DataError, match=message):
        read_trace(written)


def test_a_trace_of_version_1_is_read_with_its_old_names(written: Path) -> None:
    today = read_trace(written)
    old_names = {b"observation": b"seen", b"thermal_headroom_c": b"heat_room_k"}
    old_names |= {b"hot_headroom_c": b"hot_k", b"cool_headroom_c": b"cool_k"}
    old_names |= {b"created_at": b"made_at", b"first_observation": b"first"}
    old_names |= {b"max_charge_per_min": b"fastest_change", b"battery_timeout_s": b"remembered_s"}
    old = written.read_bytes().replace(b'"schema_version":"2.0"', b'"schema_version":"1.0"')
    for new_name, old_name in old_names.items():
        old = old.replace(b'"' + new_name + b'"', b'"' + old_name + b'"')
    assert old.count(b'"seen"') == len(today.steps)
    written.write_bytes(old)
    found = read_trace(written)
    assert found == today
    assert replay(found).difference is None
    written.write_bytes(old.replace(b'"seen":{', b'"seen":{"x":1,', 1))
    with pytest.raises(DataError, match=r"line 2.*\bx\b"):
        read_trace(written)


def test_each_of_several_sources_has_its_own_time(written: Path) -> None:
    first, second, third, *_ = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(first.replace(b'"sources":1', b'"sources":2') + third + second)
    assert [step.observation.time_s for step in read_trace(written).steps] == [0.5, 0.25]


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        read_trace(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="name another file"):
        record(tmp_path, Policy(), [])


# ----- bounded


def test_a_file_that_is_no_trace_is_left_alone(written: Path, tmp_path: Path) -> None:
    header = read_trace(written).header
    (recording := tmp_path / "a.wav").write_bytes(b"RIFF and much more")
    with pytest.raises(DataError, match="not a trace of flexiast"):
        Recorder(recording, header)
    assert recording.read_bytes() == b"RIFF and much more"
    Recorder(written, header).close()  # an older trace is replaced
    assert not read_trace(written).steps


def test_a_trace_that_is_full_holds_its_beginning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_TRACE_BYTES", 2_000)
    seen = [Observation(float(tick), 0.25, 0.05) for tick in range(100)]
    record(path, Policy(), seen)
    assert path.stat().st_size <= 2_000
    found = read_trace(path)
    assert not found.torn
    assert 0 < len(found.steps) < 100
    assert replay(found).difference is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_said_once_and_nothing_stays_open() -> None:
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a count)

    before = handles()
    with pytest.raises(DataError, match="No space"):
        record(Path("/dev/full"), Policy(), [])
    assert handles() == before
