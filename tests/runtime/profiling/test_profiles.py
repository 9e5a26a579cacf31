"""Profiling with engines of known latency; profiles found again by everything they depend on."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import DataError
from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.checks import model as checks
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.inference.backends import Backend
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.profiling import footprint
from flexiast_runtime.profiling.measure import PATIENCE, POWER_S, measure, measure_paced, measure_power
from flexiast_runtime.profiling.profiler import profile_bundle, profile_key, warnings
from flexiast_runtime.profiling.profiles import (
    Measurement,
    Profile,
    describe_battery_life,
    describe_change,
    find,
    keep,
    newest,
    read_profile,
)

Float = NDArray[np.float32]
FEATURES = np.zeros((1, 98, 128), np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Steady:
    """An engine that takes as long as it is told, its first time ten times that."""

    variant: Variant
    clock: Clock
    seconds: float
    jitter: float = 0.0
    runs: int = 0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def run(self, features: Float) -> Float:
        self.clock.now += self.seconds * (1 if self.runs else 10) * (1 + self.jitter * self.random.exponential())
        self.runs += 1
        return np.zeros((1, 2), np.float32)


@pytest.fixture
def variant(tiny_manifest: Manifest) -> Variant:
    return tiny_manifest.variant(PatchSize(8, 8))


def test_each_variant_runs_its_time_in_turns(variant: Variant) -> None:
    clock = Clock()
    engines = {"slow": Steady(variant, clock, 0.03), "fast": Steady(variant, clock, 0.01)}
    runs = measure(engines, FEATURES, duration_s=2.0, warmup_s=0.5, clock=clock)
    for name, engine in engines.items():
        assert runs[name].cold_s == pytest.approx(10 * engine.seconds)
        assert runs[name].latencies_s == pytest.approx([engine.seconds] * len(runs[name].latencies_s))
        assert 2.0 <= runs[name].wall_s <= 2.0 + 0.1 + engine.seconds
        assert runs[name].stable
        assert engine.runs - len(runs[name].latencies_s) >= 0.5 / engine.seconds  # the warm-up does not count


def test_a_noisy_variant_is_measured_longer_but_not_for_ever(variant: Variant) -> None:
    clock = Clock()
    engines = {"steady": Steady(variant, clock, 0.01), "noisy": Steady(variant, clock, 0.05, jitter=5)}
    runs = measure(engines, FEATURES, duration_s=1.0, warmup_s=0.1, clock=clock)
    assert runs["steady"].wall_s < 1.2
    assert not runs["noisy"].stable
    assert PATIENCE <= runs["noisy"].wall_s < PATIENCE + 3


@dataclass
class Rested(Steady):
    """An engine that is slower by a millisecond after a pause."""

    last_s: float = 0.0

    def run(self, features: Float) -> Float:
        self.clock.now += 0.001 if self.clock.now > self.last_s else 0.0
        result = super().run(features)
        self.last_s = self.clock.now
        return result


def test_an_engine_that_rests_is_measured_as_it_will_run(variant: Variant) -> None:
    clock = Clock()
    engine = Rested(variant, clock, 0.004, runs=1)
    measured = measure({"it": engine}, FEATURES, duration_s=1.0, warmup_s=0.1, clock=clock)["it"]
    assert np.median(measured.latencies_s) == pytest.approx(0.004)
    assert measure_paced({"it": engine}, FEATURES, clock, clock.sleep)["it"] == pytest.approx(0.005)


@dataclass
class Meter:
    """Draws 2 W idle and 7 W once an engine has run."""

    engine: Steady
    name: str = "a meter"

    def watts(self) -> float | None:
        return 7.0 if self.engine.runs else 2.0


@dataclass
class Waiting(Steady):
    """An engine that really takes its time, for the thread that looks at the meter."""

    def run(self, features: Float) -> Float:
        import time

        time.sleep(0.005)
        return super().run(features)


def test_energy_is_power_over_the_windows_in_that_time(variant: Variant) -> None:
    import time

    clock = Clock()
    engine = Waiting(variant, clock, POWER_S / 60)

    def sleep(seconds: float) -> None:
        time.sleep(0.25)
        clock.sleep(seconds)

    power = measure_power({"it": engine}, FEATURES, Meter(engine), clock=clock, sleep=sleep)["it"]
    assert power is not None
    assert (power.watts, power.idle_watts) == (pytest.approx(7.0, abs=1), pytest.approx(2.0))
    assert power.joules == pytest.approx(power.watts / power.inferences_per_s)
    assert power.joules_above_idle == pytest.approx((power.watts - 2.0) / power.inferences_per_s)


def test_a_meter_that_does_not_answer_gives_no_energy_rather_than_none_used(variant: Variant) -> None:
    class Silent:
        name = "silent"

        def watts(self) -> float | None:
            return None

    clock = Clock()
    engine = Steady(variant, clock, POWER_S / 10)
    assert measure_power({"it": engine}, FEATURES, Silent(), clock=clock, sleep=clock.sleep) == {"it": None}


# ----- of a real bundle


@pytest.fixture(scope="module")
def profile(tiny_bundle: Path) -> Profile:
    bundle = Bundle.open(tiny_bundle)
    engines = load_engines(bundle)
    key = profile_key(bundle, Backend.CPU)
    return profile_bundle(
        "tiny",
        bundle,
        list(engines),
        key,
        step_s=0.1,
        duration_s=0.1,
        warmup_s=0.01,
        metrics={"8x8 fp32": 0.75},
        power=True,
    )[0]


def test_a_profile_has_every_variant_with_times_in_order(profile: Profile, tiny_manifest: Manifest) -> None:
    assert [m.patch_size for m in profile.measurements] == list(tiny_manifest.patches)
    for m in profile.measurements:
        assert 0 < m.min_ms <= m.p50_ms <= m.p90_ms <= m.p95_ms <= m.p99_ms <= m.max_ms
        assert m.p95_bounds_ms[0] <= m.p95_ms <= m.p95_bounds_ms[1]
        assert m.min_ms <= m.mean_ms <= m.max_ms
        assert m.private_mb is None or 5 < m.private_mb < m.peak_mb < 2_000  # an interpreter with ONNX Runtime
    assert profile.measurements[0].metric == 0.75
    assert [m.metric_measured_here for m in profile.measurements] == [True] + [False] * (len(profile.measurements) - 1)


def test_energy_is_said_to_be_missing_where_nothing_measures_it(profile: Profile) -> None:
    if profile.meter is None:
        assert all(m.energy_mj is None for m in profile.measurements)
        assert any("not available" in warning for warning in profile.warnings)


def test_the_peak_is_not_that_of_the_process_that_measures() -> None:
    """The child's own memory is some 30 MB; what starts it holds 500 MB."""
    ask = "from flexiast_runtime.profiling.footprint import peak_mb; print(peak_mb())"
    program = (
        "import subprocess, sys\n"
        "held = b'1' * 500_000_000\n"
        f"subprocess.run([sys.executable, '-c', {ask!r}], check=True)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert 5 < float(shown) < 400


def test_a_system_that_does_not_tell_memory_is_said(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: its Python has no module ``resource``, and its kernel no ``/proc``."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    importlib.reload(footprint)
    assert footprint.peak_mb() is None
    unknown = profile.measurements[0].model_copy(update={"private_mb": None, "peak_mb": None})
    found = profile.model_copy(update={"measurements": (unknown, *profile.measurements[1:])})
    said = [warning for warning in warnings(found, asked_for_power=False) if "not available" in warning]
    assert [warning.split(":")[0] for warning in said] == ["private_mb", "peak_mb"]


def test_a_profile_is_found_by_its_whole_key_and_by_no_other(profile: Profile, tmp_path: Path) -> None:
    keep(profile, tmp_path)
    assert find(profile.key, tmp_path) == profile
    settings = profile.key.settings.model_copy(update={"power_mode": "15W"})
    for other in ({"settings": settings}, {"bundle_sha256": "0" * 64}, {"threads": 2}, {"versions": {"python": "4"}}):
        assert find(profile.key.model_copy(update=other), tmp_path) is None


def test_a_profile_of_some_sizes_keeps_what_is_known_of_the_others_and_energy(profile: Profile, tmp_path: Path) -> None:
    powered = tuple(m.model_copy(update={"energy_mj": 5.0, "energy_above_idle_mj": 2.0}) for m in profile.measurements)
    keep(profile.model_copy(update={"measurements": powered}), tmp_path)
    again = powered[-1].model_copy(update={"p50_ms": 99.0, "energy_mj": None, "energy_above_idle_mj": None})
    keep(profile.model_copy(update={"measurements": (again,)}), tmp_path)
    found = find(profile.key, tmp_path)
    assert found is not None
    assert {(m.patch_size, m.precision) for m in found.measurements} == {(m.patch_size, m.precision) for m in powered}
    newest = found.measurement(again.patch_size, again.precision)
    assert newest is not None
    assert (newest.p50_ms, newest.energy_mj, newest.energy_above_idle_mj) == (99.0, 5.0, 2.0)


def test_a_damaged_profile_is_replaced(profile: Profile, tmp_path: Path) -> None:
    keep(profile, tmp_path).write_bytes(b"{")
    keep(profile, tmp_path)
    assert find(profile.key, tmp_path) == profile


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_profile_is_named(profile: Profile, tmp_path: Path, content: bytes) -> None:
    path = keep(profile, tmp_path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        find(profile.key, tmp_path)


def test_a_profile_under_the_name_of_another_is_refused(profile: Profile, tmp_path: Path) -> None:
    other = profile.key.model_copy(update={"threads": 2})
    keep(profile, tmp_path).rename(tmp_path / f"{other.digest}.json")
    with pytest.raises(DataError, match="another machine"):
        find(other, tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"old\.json"):
        read_profile(tmp_path / "old.json")


def test_a_change_is_one_beyond_noise(profile: Profile) -> None:
    now = profile.measurements[0].model_copy(update={"p50_ms": 10.0, "p50_bounds_ms": (9.9, 10.1)})

    def was(p50: float, low: float, high: float) -> str:
        return describe_change(now.model_copy(update={"p50_ms": p50, "p50_bounds_ms": (low, high)}), now)

    assert was(8.0, 7.9, 8.1) == "slower"
    assert was(12.0, 11.9, 12.1) == "faster"
    assert was(12.0, 10.0, 14.0) == "within noise"
    assert was(9.7, 9.69, 9.71) == "within noise"  # apart, but not worth a word


# ----- what others make of it


def priced(profile: Profile, *pairs: tuple[float, float]) -> Profile:
    one = profile.measurements[0]
    measurements = tuple(one.model_copy(update={"gmac": gmac, "p50_ms": ms}) for gmac, ms in pairs)
    return profile.model_copy(update={"measurements": measurements})


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.3])
def test_a_size_between_two_is_expected_between_them(profile: Profile, exponent: float) -> None:
    """A power law is met exactly, inside and outside of what was measured."""
    known = priced(profile, *((cost, 3 * cost**exponent) for cost in (0.1, 8.0, 1.0)))
    for cost in (0.01, 0.1, 0.5, 1.0, 5.0, 8.0, 20.0):
        assert known.estimate_ms(cost, "fp32") == pytest.approx(3 * cost**exponent)


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 1.0, 8.0]), st.floats(0.1, 100)), min_size=2, max_size=8),
    st.floats(0.01, 20),
)
def test_sizes_of_equal_cost_are_one(profile: Profile, pairs: list[tuple[float, float]], cost: float) -> None:
    """As 16x32 and 32x16 are: between them there is no slope. Whatever their order, and what is known is kept."""
    expected = priced(profile, *pairs).estimate_ms(cost, "fp32")
    costs = {gmac for gmac, _ in pairs}
    if len(costs) == 1:
        assert expected is None
        return
    assert expected is not None and 0 < expected < math.inf
    assert priced(profile, *reversed(pairs)).estimate_ms(cost, "fp32") == pytest.approx(expected)
    for known in costs:
        times = [ms for gmac, ms in pairs if gmac == known]
        assert min(times) * 0.999 <= (priced(profile, *pairs).estimate_ms(known, "fp32") or 0) <= max(times) * 1.001


def test_nothing_is_expected_from_one_size_or_another_precision(profile: Profile) -> None:
    assert priced(profile, (1.0, 2.0)).estimate_ms(1.0, "fp32") is None
    assert priced(profile, (1.0, 2.0), (2.0, 3.0)).estimate_ms(1.0, "int8") is None


def test_the_newest_profile_of_these_weights_on_this_machine_counts(profile: Profile, tmp_path: Path) -> None:
    key = profile.key

    def add(created_at: str, **fields: object) -> Profile:
        threads = int(created_at[:4])  # so that each has a key of its own
        theirs = key.model_copy(update={"threads": threads, **fields})
        added = profile.model_copy(update={"created_at": created_at, "key": theirs})
        keep(added, tmp_path)
        return added

    assert newest(profile.source_sha256, key.machine, key.settings, tmp_path) is None
    add("2026-01-01T00:00:00+00:00")
    latest = add("2026-03-01T00:00:00+00:00", bundle_sha256="1" * 64)
    add("2027-01-01T00:00:00+00:00", settings=key.settings.model_copy(update={"power_mode": "MAXN"}))
    assert newest(profile.source_sha256, key.machine, key.settings, tmp_path) == latest
    assert newest("0" * 64, key.machine, key.settings, tmp_path) is None


def test_the_governor_gets_seconds(profile: Profile) -> None:
    assert profile.latencies_s("int8") == {}
    assert profile.latencies_s("fp32") == {m.patch_size: (m.paced_ms or 0) / 1000 for m in profile.measurements}
    older = profile.measurements[0].model_copy(update={"paced_ms": None})
    found = profile.model_copy(update={"measurements": (older,)})
    assert found.latencies_s("fp32") == {older.patch_size: older.p50_ms / 1000}


def test_watts_while_listening_are_idle_ones_and_what_a_window_takes_each_step(profile: Profile) -> None:
    assert profile.model_copy(update={"idle_w": None}).watts("fp32") == {}
    first, *rest = profile.measurements
    metered = (first.model_copy(update={"energy_above_idle_mj": 500.0}), *rest)
    found = profile.model_copy(update={"idle_w": 3.0, "step_s": 0.25, "measurements": metered})
    assert found.watts("fp32") == {first.patch_size: 5.0}  # half a joule, four times a second


def test_the_hours_on_a_battery_follow_from_its_energy_and_what_a_size_draws() -> None:
    fields = [
        {"patch_size": PatchSize(size, size), "precision": precision, "energy_above_idle_mj": mj}
        for precision, size, mj in (("fp32", 16, 2_000.0), ("int8", 16, 1_000.0), ("int8", 48, 250.0))
    ]
    measured = tuple(Measurement.model_construct(**one) for one in fields)
    profile = Profile.model_construct(measurements=measured, idle_w=3.0, step_s=0.5)  # 5 and 3.5 W
    note = describe_battery_life(profile, "int8", Battery(0.5, discharging=True, energy_j=35 * 3_600))
    assert note.startswith("The 35.0 Wh in the battery last 7.0 h at 16x16, 10.0 h at 48x48 in int8,")
    assert note.endswith("lasts longer, up to 11.7 h.")  # the idle machine's
    assert describe_battery_life(profile, "int8", Battery(0.5, discharging=True)) == ""
    assert describe_battery_life(profile, "int8", None) == ""
    unmetered, charged = profile.model_copy(update={"idle_w": None}), Battery(0.5, discharging=True, energy_j=1e5)
    assert describe_battery_life(unmetered, "int8", charged) == ""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_doctor_tells_how_long_the_battery_lasts_as_listen_would_run(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(checks, "choose_precision", lambda *_: precision)
    measured = Measurement.model_construct(
        patch_size=PatchSize(16, 16), precision=precision, energy_above_idle_mj=1_000.0, p50_ms=1.0
    )
    other = measured.model_copy(
        update={"precision": {"fp32": "int8", "int8": "fp32"}[precision], "energy_above_idle_mj": 9e3}
    )
    profile = Profile.model_construct(
        measurements=(other, measured), idle_w=3.0, step_s=0.5, created_at="2026-11-30T12:00:00"
    )
    monkeypatch.setattr(checks, "find", lambda key: profile)
    found = checks.check_profile("commands", Battery(0.5, discharging=True, energy_j=35 * 3_600))
    assert (found.state, "35.0 Wh in the battery last 7.0 h at 16x16" in found.text) == ("ok", True)
    assert "battery" not in checks.check_profile("commands", None).text
