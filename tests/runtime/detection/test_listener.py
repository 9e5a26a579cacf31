"""The streaming path as a whole: real audio through real engines, and engines of known answers for the rest."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.frontend import Frontend
from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize
from flexiast_runtime.audio.capture import Capture
from flexiast_runtime.audio.ring import Ring
from flexiast_runtime.audio.source import Block, Chunk, FileSource, Notice, chunks
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.framer import Framer
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import (
    EngineFailure,
    Event,
    Overload,
    Record,
    SourceNotice,
    Status,
    Summary,
    Switch,
)
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.governor.types import Observation, Option, Policy
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.profiling.options import measure_options

Float = NDArray[np.float32]

RATE = 16_000
SETTINGS = DetectionSettings(step_s=0.1, smoothing_s=0.0)
PATCH, COARSE = PatchSize(8, 8), PatchSize(16, 16)


class Clock:
    """Time that passes when an engine runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class LoudnessEngine:
    """Answers that can be told beforehand: the first label is on while the middle of the window is loud.

    A run takes ``latency_s`` of the clock's time; a list of them is used up one by one, its last one kept.
    """

    variant: Variant
    clock: Clock = field(default_factory=Clock)
    latencies_s: list[float] = field(default_factory=lambda: [0.001])

    def run(self, features: Float) -> Float:
        self.clock.now += self.latencies_s.pop(0) if len(self.latencies_s) > 1 else self.latencies_s[0]
        middle = features[:, features.shape[1] // 2].mean(axis=1)
        on = np.where(middle > -0.5, 10.0, -10.0)  # silence is -1.36, noise of 0.1 about 0.4
        return np.stack((on, np.full_like(on, -10), np.full_like(on, -10)), axis=1).astype(np.float32)


def fake_engines(manifest: Manifest, clock: Clock, **latencies_s: float) -> Engines:
    """Engines for some sizes, written as p8=…, p16=…, with their latency."""
    patches = {PatchSize.parse(name[1:]): latency for name, latency in latencies_s.items()}
    return Engines(manifest, {p: LoudnessEngine(manifest.variant(p), clock, [s]) for p, s in patches.items()})


@pytest.fixture
def listen(tiny_manifest: Manifest) -> Callable[..., list[Record]]:
    """Chunks → records, by one engine of known answers."""

    def run(stream: Iterable[Chunk], settings: DetectionSettings = SETTINGS, **options: Any) -> list[Record]:
        clock = Clock()
        engines = fake_engines(tiny_manifest, clock, p8=0.001)
        conditions = options.pop("conditions", lambda time_s: Conditions(deadline_s=0.1))
        listener = StreamClassifier(
            engines, FixedSize(PATCH), settings, source="test", conditions=conditions, clock=clock, **options
        )
        return list(listener.run(stream))

    return run


def of(kind: type, records: Iterable[Record]) -> list[Any]:
    return [record for record in records if isinstance(record, kind)]


def noise(seconds: float, seed: int = 0) -> Float:
    return np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * RATE)).astype(np.float32)


def silence(seconds: float) -> Float:
    return np.zeros(round(seconds * RATE), np.float32)


def stream(*samples: Float) -> list[Chunk]:
    whole = np.concatenate(samples)
    return [Chunk(start, whole[start : start + 700]) for start in range(0, len(whole), 700)]


# ----- real engines


@pytest.fixture
def sounds(tmp_path: Path, write_audio: Callable[..., Path], make_tone: Callable[..., Float]) -> Path:
    """Stereo at another rate: noise, tones and silence in turn."""
    rate = 44_100
    parts = [
        0.1 * np.random.default_rng(0).standard_normal(rate),
        np.zeros(rate // 2),
        make_tone(440, 0.7, rate),
        make_tone(3_000, 0.8, rate),
        np.zeros(rate),
        0.3 * np.random.default_rng(1).standard_normal(rate // 3),
    ]
    mono = np.concatenate(parts).astype(np.float32)
    return write_audio(tmp_path / "sounds.wav", np.stack((mono, 0.5 * mono), axis=1), rate)


def heard(bundle: Path, stream: Iterable[Chunk], patch: PatchSize = PATCH, **options: Any) -> list[Record]:
    settings = DetectionSettings(0.1, 0.15, EventRules(0.6, release=0.8), **options)
    conditions = Conditions(deadline_s=1e9)  # nothing is missed, however busy the machine that tests
    engines = load_engines(Bundle.open(bundle))
    return list(
        StreamClassifier(engines, FixedSize(patch), settings, source="sounds", conditions=lambda _: conditions).run(
            stream
        )
    )


def without_measurements(record: Record) -> Any:
    """What depends on the audio alone; scores to five digits, for features in other blocks add in another order."""
    if isinstance(record, Event):
        score = pytest.approx(record.score, abs=1e-5)
        return (record.label, record.start_sample, record.end_sample, record.patch, score)
    if isinstance(record, Summary):
        uses = [(use.patch, use.windows, use.misses) for use in record.variants]
        return (record.audio_s, record.windows, record.events, record.switches, record.discontinuities, uses)
    return (record.time_s, record.patch, record.active)


@pytest.mark.parametrize("patch", [PatchSize(8, 8), PatchSize(20, 10)], ids=str)
def test_a_file_and_a_capture_of_it_give_the_same_records(tiny_bundle: Path, sounds: Path, patch: PatchSize) -> None:
    direct = heard(tiny_bundle, chunks(FileSource(sounds), RATE), patch)
    captured = heard(tiny_bundle, Capture(FileSource(sounds), RATE, 1_600, live=False), patch)
    assert [without_measurements(record) for record in captured] == [without_measurements(record) for record in direct]
    events = of(Event, direct)
    assert len(events) >= 4, "a quiet model would make the comparison empty"
    assert len({event.label for event in events}) >= 2


def test_every_window_is_accounted_for(tiny_bundle: Path, sounds: Path) -> None:
    records = heard(tiny_bundle, chunks(FileSource(sounds), RATE))
    samples = sum(len(chunk.samples) for chunk in chunks(FileSource(sounds), RATE))
    expected = 1 + -(-(samples - 6_400) // 1_600)  # whole windows, and one for the rest
    summary = records[-1]
    assert isinstance(summary, Summary)
    assert summary.windows == len(of(Status, records)) == expected
    assert sum(use.windows for use in summary.variants) == expected - summary.skipped
    assert summary.events == len(of(Event, records))
    assert summary.audio_s == pytest.approx(samples / RATE)


def test_patch_sizes_hear_differently_but_see_the_same_windows(tiny_bundle: Path, sounds: Path) -> None:
    fine, coarse = (heard(tiny_bundle, chunks(FileSource(sounds), RATE), patch) for patch in (PATCH, COARSE))
    assert [status.time_s for status in of(Status, fine)] == [status.time_s for status in of(Status, coarse)]
    assert [status.top for status in of(Status, fine)] != [status.top for status in of(Status, coarse)]


@pytest.mark.parametrize(
    "runs", [(90.0, 5.0, 4.0, 6.0), (1.0, 5.0, 70.0, 4.0), (1.0, 0.1, 5.0, 6.0)], ids=["first", "held-up", "lucky"]
)
def test_a_quick_latency_is_the_median_of_three_runs_after_the_first(
    runs: tuple[float, ...], tiny_manifest: Manifest
) -> None:
    clock = Clock()
    engines = fake_engines(tiny_manifest, clock, p8=0.5, p16=0.25)
    engines[PATCH].latencies_s = list(runs)
    found = measure_options(engines, clock=clock)
    assert [(option.patch, option.latency_s) for option in found] == [(PATCH, 5.0), (COARSE, 0.25)]


def test_a_profiled_engine_is_warmed_up_and_not_measured_again(tiny_manifest: Manifest) -> None:
    clock = Clock()
    engines = fake_engines(tiny_manifest, clock, p8=0.5, p16=0.25)
    found = measure_options(engines, {PATCH: 0.125}, clock=clock)
    assert [(option.patch, option.latency_s) for option in found] == [(PATCH, 0.125), (COARSE, 0.25)]
    assert clock.now == 0.5 + 4 * 0.25  # one run to warm up, and three that are timed


def test_profile_takes_the_metric_from_the_bundle(tiny_bundle: Path) -> None:
    found = measure_options(load_engines(Bundle.open(tiny_bundle)))
    assert [option.metric for option in found] == [0.9, 0.8, 0.7, None]


# ----- events


def test_an_event_is_where_the_sound_is(listen: Callable[..., list[Record]]) -> None:
    (event,) = of(Event, listen(stream(silence(1), noise(0.8), silence(1))))
    # windows look every 1,600 samples: half a step, and the frame that straddles the edge
    assert event.start_sample == pytest.approx(1.0 * RATE, abs=800 + 400)
    assert event.end_sample == pytest.approx(1.8 * RATE, abs=800 + 400)
    assert (event.source, event.label, event.patch) == ("test", "alarm", PATCH)
    assert event.score == pytest.approx(1, abs=1e-4)  # sigmoid(10)


def test_smoothing_does_not_move_an_event(listen: Callable[..., list[Record]]) -> None:
    sounds = stream(silence(1), noise(1.5), silence(1))
    (plain,), (smooth,) = (of(Event, listen(sounds, DetectionSettings(0.1, seconds))) for seconds in (0.0, 0.15))
    # at one and a half steps, as by default, each threshold is crossed a step late: that is what is taken off
    assert smooth.start_sample == pytest.approx(plain.start_sample, abs=800)
    assert smooth.end_sample == pytest.approx(plain.end_sample, abs=800)


def test_a_sound_that_goes_on_is_active_and_ends_with_the_audio(listen: Callable[..., list[Record]]) -> None:
    *statuses, event, summary = listen(stream(noise(1.03)))
    assert {status.active for status in statuses} == {("alarm",)}
    assert (event.start_sample, event.end_sample) == (0, round(1.03 * RATE))
    assert summary.events == 1


@pytest.mark.parametrize("seconds", [0.025, 0.1, 0.395, 0.4])
def test_a_clip_shorter_than_a_window_is_one_window(listen: Callable[..., list[Record]], seconds: float) -> None:
    (status, summary) = listen(stream(silence(seconds)))
    assert status.time_s == pytest.approx(seconds)
    assert summary.windows == 1


@pytest.mark.parametrize("samples", [0, 399])
def test_audio_without_a_frame_is_no_window(listen: Callable[..., list[Record]], samples: int) -> None:
    (summary,) = listen([Chunk(0, np.zeros(samples, np.float32))] if samples else [])
    assert (summary.windows, summary.events, summary.variants, summary.miss_rate) == (0, 0, (), 0.0)


def test_the_summary_comes_last_and_once(listen: Callable[..., list[Record]]) -> None:
    records = listen(stream(noise(2)))
    assert [index for index, record in enumerate(records) if isinstance(record, Summary)] == [len(records) - 1]


@pytest.mark.parametrize("step_s", [0.02, 0.05, 0.1])
def test_rules_in_seconds_do_not_depend_on_the_step(listen: Callable[..., list[Record]], step_s: float) -> None:
    """A beep too short to confirm, two bursts with a short gap, and one that stands alone."""
    rules = EventRules(confirm_s=0.25, merge_s=0.45, min_duration_s=0.5)
    sounds = [silence(0.5), noise(0.12), silence(1), noise(0.6), silence(0.3), noise(0.6), silence(1), noise(0.9)]
    found = of(Event, listen(stream(*sounds, silence(1)), DetectionSettings(step_s, 0.1, rules)))
    # to a step, the frame that straddles an edge, and what rounding to slots makes of the smoothing's lag
    assert [(event.start_s, event.end_s) for event in found] == [
        (pytest.approx(start, abs=0.1 + 0.025), pytest.approx(end, abs=0.1 + 0.025))
        for start, end in ((1.62, 3.12), (4.12, 5.02))
    ]


# ----- the gate


@dataclass
class CertainEngine(LoudnessEngine):
    """Is always sure of its first label, whatever it hears: as a model that never learned of silence may be."""

    def run(self, features: Float) -> Float:
        return np.tile(np.float32([10, -10, -10]), (len(features), 1))


def certain(manifest: Manifest, sound: Iterable[Chunk], settings: DetectionSettings = SETTINGS) -> list[Record]:
    engines = Engines(manifest, {PATCH: CertainEngine(manifest.variant(PATCH))})
    conditions = Conditions(deadline_s=0.1)
    return list(
        StreamClassifier(engines, FixedSize(PATCH), settings, source="", conditions=lambda _: conditions).run(sound)
    )


@pytest.mark.parametrize("gate_dbfs", [-80.0, -math.inf])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_where_nothing_sounds_nothing_begins_whatever_the_model_says(
    tiny_manifest: Manifest, gate_dbfs: float, offset: float
) -> None:
    still = stream(silence(60) + np.float32(offset))
    records = certain(tiny_manifest, still, DetectionSettings(0.1, 5.0, EventRules(0.01), gate_dbfs=gate_dbfs))
    assert of(Event, records) == []
    assert {status.active for status in of(Status, records)} == {()}
    assert records[-1].skipped == records[-1].windows


@given(st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(1.0, 3.0)), min_size=1, max_size=3), st.floats(0.0, 2.0))
def test_what_is_on_ends_where_nothing_sounds(
    tiny_manifest: Manifest, parts: list[tuple[float, float]], smoothing_s: float
) -> None:
    """One event for each sound between silences, none longer than the windows that hold a part of the sound."""
    pieces = [piece for still_s, sound_s in parts for piece in (silence(still_s), noise(sound_s))]
    events = of(Event, certain(tiny_manifest, stream(*pieces, silence(2)), DetectionSettings(0.1, smoothing_s)))
    at_s, window_s = 0.0, 0.4
    assert len(events) == len(parts)
    for event, (still_s, sound_s) in zip(events, parts, strict=True):
        at_s += still_s
        assert at_s - window_s - 0.1 <= event.start_s <= at_s + window_s + 2 * smoothing_s
        at_s += sound_s
        assert event.end_s <= at_s + window_s


def test_a_skipped_window_teaches_the_governor_nothing(tiny_manifest: Manifest) -> None:
    """No engine is asked; the battery is still looked at."""
    clock = Clock()
    engines = fake_engines(tiny_manifest, clock, p8=9.0)
    seen: list[Observation] = []
    controller = FixedSize(PATCH)
    controller.observe = seen.append  # type: ignore[method-assign, assignment]
    conditions = Conditions(0.1, Battery(0.5, discharging=True))
    listener = StreamClassifier(engines, controller, SETTINGS, source="", conditions=lambda _: conditions, clock=clock)
    summary = list(listener.run(stream(silence(2))))[-1]
    assert {(observation.latency_s, observation.overhead_s) for observation in seen} == {(None, 0.0)}
    assert {observation.battery for observation in seen} == {conditions.battery}
    assert (summary.skipped, summary.windows, summary.misses, summary.variants) == (17, 17, 0, ())
    assert clock.now == 0.0


# ----- discontinuities


def test_a_discontinuity_ends_events_and_is_counted(listen: Callable[..., list[Record]]) -> None:
    gap = 30_000
    records = listen([Chunk(0, noise(1)), Chunk(RATE + gap, noise(1, seed=1))])
    before, after = of(Event, records)
    assert (before.start_sample, before.end_sample) == (0, RATE)
    assert (after.start_sample, after.end_sample) == (RATE + gap, 2 * RATE + gap)
    summary = records[-1]
    assert (summary.discontinuities, summary.dropped_s, summary.audio_s) == (1, gap / RATE, 2.0)


def test_no_window_spans_a_discontinuity(listen: Callable[..., list[Record]]) -> None:
    """Each side gives what it gives alone."""
    records = listen([Chunk(0, noise(1.03)), Chunk(50_000, noise(0.7, seed=1))])
    alone = [listen([Chunk(0, noise(1.03))]), listen([Chunk(0, noise(0.7, seed=1))])]
    shift = 50_000 / RATE
    expected = [s.time_s for s in of(Status, alone[0])] + [s.time_s + shift for s in of(Status, alone[1])]
    assert [status.time_s for status in of(Status, records)] == pytest.approx(expected)


def test_scores_are_not_smoothed_across_a_discontinuity(listen: Callable[..., list[Record]]) -> None:
    records = listen([Chunk(0, silence(1)), Chunk(50_000, noise(1))], DetectionSettings(0.1, 5.0))
    first = next(status for status in of(Status, records) if status.time_s > 3)
    assert first.top[0] == ("alarm", pytest.approx(1, abs=1e-4))  # sigmoid(10)


@given(st.lists(st.tuples(st.integers(1, 9_000), st.sampled_from([0, 0, 1, 5_000])), max_size=12))
def test_time_is_kept_whatever_is_lost(tiny_manifest: Manifest, pieces: list[tuple[int, int]]) -> None:
    clock, start, parts = Clock(), 0, []
    for length, gap in pieces:
        parts.append(Chunk(start + gap, np.zeros(length, np.float32)))
        start += gap + length
    engines = fake_engines(tiny_manifest, clock, p8=0.001)
    listener = StreamClassifier(
        engines, FixedSize(PATCH), SETTINGS, source="", conditions=lambda _: Conditions(0.1), clock=clock
    )
    summary = list(listener.run(parts))[-1]
    assert summary.dropped_s * RATE == pytest.approx(sum(gap for _, gap in pieces))
    assert summary.audio_s * RATE == pytest.approx(sum(length for length, _ in pieces))
    assert summary.discontinuities == sum(gap > 0 for _, gap in pieces)


def test_what_a_full_ring_drops_is_what_the_summary_says_was_dropped(listen: Callable[..., list[Record]]) -> None:
    ring = Ring(4, 1_600)

    def late_reader() -> Iterator[Chunk]:
        for turn in range(10):
            for start in range(turn * 16_000, (turn + 1) * 16_000, 800):
                ring.write(Chunk(start, np.zeros(800, np.float32)))
            yield ring.take()

    summary = listen(late_reader(), backlog=ring.backlog)[-1]
    dropped = 10 * 16_000 - 10 * 4 * 1_600  # of each second all but what the ring holds
    assert summary.dropped_s * RATE == pytest.approx(dropped)


def test_a_loss_in_the_device_is_a_discontinuity_too(listen: Callable[..., list[Record]]) -> None:
    class Overflowing:
        name, rate_hz = "overflowing", RATE

        def blocks(self) -> Iterator[Block]:
            for index in range(20):
                yield Block(noise(0.1)[:, None], lost=500 if index == 10 else 0)

    summary = listen(chunks(Overflowing(), RATE))[-1]
    assert (summary.discontinuities, summary.dropped_s) == (1, 500 / RATE)


# ----- choosing


def governed(
    manifest: Manifest,
    conditions: Callable[[float], Conditions],
    latencies_s: Sequence[float] = (0.02,),
    seconds: float = 8,
) -> list[Record]:
    """A governor over two sizes of 20 and 5 ms, the dearer one with these latencies in turn."""
    clock = Clock()
    engines = fake_engines(manifest, clock, p8=0.02, p16=0.005)
    controller = GovernedController(
        (Option(COARSE, 0.005), Option(PATCH, 0.02)), Policy(dwell_s=2.0, max_charge_per_min=math.inf), conditions(0.0)
    )
    engines[PATCH].latencies_s = list(latencies_s)
    listener = StreamClassifier(engines, controller, SETTINGS, source="test", conditions=conditions, clock=clock)
    return list(listener.run(stream(noise(seconds))))


def patches_around(records: Sequence[Record], switch: Switch) -> tuple[PatchSize, PatchSize]:
    place = records.index(switch)
    before = [record.patch for record in records[:place] if isinstance(record, Status)]
    after = [record.patch for record in records[place:] if isinstance(record, Status)]
    return before[-1], after[0]


def test_a_deadline_that_shrinks_switches_between_windows_and_back(
    tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conditions(time_s: float) -> Conditions:
        return Conditions(deadline_s=0.01 if 2 <= time_s < 4 else 0.1)

    prepared: list[PatchSize] = []
    monkeypatch.setattr(Engines, "prepare", lambda _, patch: prepared.append(patch))
    records = governed(tiny_manifest, conditions)
    down, up = of(Switch, records)
    assert prepared == [down.after, up.after]
    assert (down.before, down.after, up.before, up.after) == (PATCH, COARSE, COARSE, PATCH)
    assert 2 <= down.time_s < 2 + 2 * SETTINGS.step_s  # at once: with the first window that sees it
    assert up.time_s >= 4 + 2 - SETTINGS.step_s  # after a dwell
    for switch in (down, up):
        assert patches_around(records, switch) == (switch.before, switch.after)
    assert re.fullmatch(r"predicted p95 of [\d.]+ ms does not fit the deadline of 10\.0 ms", down.reason)
    assert re.fullmatch(r"predicted p95 of [\d.]+ ms has fit the deadline of 100\.0 ms for 2 s", up.reason)
    assert records[-1].switches == 2


def test_windows_that_become_slow_switch_down_and_are_counted_as_misses(tiny_manifest: Manifest) -> None:
    records = governed(tiny_manifest, lambda _: Conditions(0.1), [0.02] * 10 + [0.5] * 3 + [0.02])
    down = of(Switch, records)[0]
    assert down.after == COARSE
    assert "p95" in down.reason
    missed = [status for status in of(Status, records) if status.latency_s > 0.1]
    summary = records[-1]
    assert summary.misses == len(missed) >= 1
    assert {use.patch: use.misses for use in summary.variants}[COARSE] == 0
    assert summary.miss_rate == len(missed) / summary.windows


def test_a_battery_that_runs_low_switches_down(tiny_manifest: Manifest) -> None:
    records = governed(
        tiny_manifest, lambda time_s: Conditions(0.1, Battery(0.9 if time_s < 3 else 0.1, discharging=True))
    )
    (switch,) = of(Switch, records)
    assert switch.reason == "battery at 10% and discharging"
    assert switch.time_s >= 3


def test_audio_that_waits_switches_down(tiny_manifest: Manifest) -> None:
    clock = Clock()
    engines = fake_engines(tiny_manifest, clock, p8=0.02, p16=0.005)
    conditions = Conditions(0.1)
    controller = GovernedController((Option(COARSE, 0.005), Option(PATCH, 0.02)), Policy(), conditions)
    listener = StreamClassifier(
        engines, controller, SETTINGS, source="", conditions=lambda _: conditions, backlog=lambda: 4_000, clock=clock
    )
    records = list(listener.run(stream(noise(1))))
    assert of(Switch, records)[0].reason == "2.5 steps of audio are waiting"
    assert of(Status, records)[0].backlog_s == 0.25


def test_that_even_the_cheapest_size_is_too_slow_is_said_once_each_time(tiny_manifest: Manifest) -> None:
    def conditions(time_s: float) -> Conditions:
        return Conditions(deadline_s=0.004 if 2 <= time_s < 6 or 12 <= time_s < 14 else 0.1)

    records = governed(tiny_manifest, conditions, seconds=20)
    first, second = of(Overload, records)
    assert 2 < first.time_s < 3
    assert 12 < second.time_s < 13
    assert (first.patch, first.deadline_s) == (COARSE, 0.004)
    assert first.latency_s == pytest.approx(0.005)
    assert records[-1].document()["overloads"] == 2


def test_a_pinned_size_stays_whatever_happens(tiny_manifest: Manifest) -> None:
    clock = Clock()
    engines = fake_engines(tiny_manifest, clock, p8=5.0, p16=0.005)
    conditions = Conditions(0.001, Battery(0.0, discharging=True))
    listener = StreamClassifier(
        engines,
        FixedSize(PATCH),
        SETTINGS,
        source="",
        conditions=lambda _: conditions,
        backlog=lambda: 10**6,
        clock=clock,
    )
    records = list(listener.run(stream(noise(3))))
    assert not of(Switch, records)
    assert {status.patch for status in of(Status, records)} == {PATCH}
    assert records[-1].misses == records[-1].windows > 0


def test_each_patch_size_is_summed_up_by_itself(tiny_manifest: Manifest) -> None:
    records = governed(tiny_manifest, lambda time_s: Conditions(0.01 if 2 <= time_s < 4 else 0.1))
    windows = Counter(status.patch for status in of(Status, records))
    fine, coarse = records[-1].variants  # most tokens first
    assert (fine.patch, fine.windows) == (PATCH, windows[PATCH])
    assert (coarse.patch, coarse.windows) == (COARSE, windows[COARSE])
    assert (fine.latency_p50_s, coarse.latency_p95_s) == (pytest.approx(0.02), pytest.approx(0.005))


def test_each_window_is_timed_by_itself_and_without_its_reader(tiny_manifest: Manifest) -> None:
    clock = Clock()
    engines = fake_engines(tiny_manifest, clock, p8=0.02)
    conditions = Conditions(0.1)
    listener = StreamClassifier(
        engines, FixedSize(PATCH), SETTINGS, source="", conditions=lambda _: conditions, clock=clock
    )
    latencies = []
    for record in listener.run([Chunk(0, noise(2))]):  # seventeen windows at once
        clock.now += 100
        latencies += [record.latency_s] if isinstance(record, Status) else []
    assert latencies == pytest.approx([0.02] * 17)


# ----- settings


@given(st.integers(10, 3_000), st.sampled_from([100, 160, 256]))
def test_default_settings_suit_every_window_and_hop(tiny_manifest: Manifest, hundredths: int, hop: int) -> None:
    window = round(hundredths / 100 * RATE)
    frontend = tiny_manifest.spec.frontend.model_copy(update={"window_samples": window, "hop_samples": hop})
    settings = DetectionSettings.from_frontend(frontend)
    Framer(Frontend(frontend), round(settings.step_s * RATE))  # refuses a step that is no hop or too long
    assert settings.step_s <= 0.5 + hop / RATE / 2  # half a second, to the nearest hop
    assert settings.smoothing_s == pytest.approx(1.5 * settings.step_s)


# ----- documents

KEYS = {
    "source": {"source", "time_s", "state", "reason"},
    "event": {
        *(
            "id",
            "source",
            "channel",
            "label",
            "started_at",
            "start_s",
            "end_s",
            "start_sample",
            "end_sample",
            "score",
            "patch_size",
            "threshold",
            "bundle_sha256",
        ),
    },
    "switch": {"source", "time_s", "from", "to", "reason"},
    "failure": {"source", "time_s", "patch_size", "reason"},
    "overload": {"source", "time_s", "patch_size", "latency_ms", "deadline_ms"},
    "status": {
        *("source", "time_s", "patch_size", "top", "active", "latency_ms", "deadline_ms"),
        *("backlog_s", "dropped_s", "skipped", "battery", "discharging", "signal", "thermal_headroom_c"),
    },
    "summary": {
        *("source", "audio_s", "windows", "skipped", "events", "switches", "overloads", "misses", "miss_rate"),
        *("discontinuities", "dropped_s", "variants"),
        "cpu_s",
    },
}
VARIANT_KEYS = {"patch_size", "windows", "misses", "cpu_s", "latency_p50_ms", "latency_p95_ms"}


@pytest.mark.parametrize("battery", [None, Battery(0.123456, discharging=True)], ids=["mains", "battery"])
def test_documents_are_json_with_exactly_these_keys(tiny_manifest: Manifest, battery: Battery | None) -> None:
    """Scripts rely on them: a key that goes or comes is a new schema version."""
    records = governed(tiny_manifest, lambda time_s: Conditions(0.01 if time_s > 2 else 0.1, battery))
    seen = set()
    for record in records:
        document = record.document()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert document.pop("schema_version") == "2.0"
        kind = document.pop("type")
        assert set(document) == KEYS[kind]
        seen.add(kind)
    assert seen == (
        {"event", "status", "summary"} if battery else set(KEYS) - {"source", "failure", "overload"}
    )  # at 12 % it starts at the cheapest
    assert all(set(use) == VARIANT_KEYS for use in document["variants"])


def test_documents_say_in_milliseconds_and_seconds_what_the_records_hold(tiny_manifest: Manifest) -> None:
    records = governed(tiny_manifest, lambda _: Conditions(0.1, Battery(0.75, discharging=False)), seconds=1)
    status, event = of(Status, records)[0].document(), of(Event, records)[0].document()
    assert (status["latency_ms"], status["deadline_ms"], status["time_s"]) == (20.0, 100.0, 0.4)
    assert (status["battery"], status["discharging"]) == (0.75, False)
    assert status["top"][0] == {"label": "alarm", "score": 1.0}
    assert (event["start_s"], event["end_s"], event["start_sample"], event["end_sample"]) == (0.0, 1.0, 0, 16_000)
    assert event["patch_size"] == "8x8"


def test_what_became_of_the_source_is_reported_in_its_place() -> None:
    assert SourceNotice("mic", 1.23456, "lost", "unplugged").document() == {
        "schema_version": "2.0",
        "type": "source",
        "source": "mic",
        "time_s": 1.235,
        "state": "lost",
        "reason": "unplugged",
    }


def test_a_notice_without_samples_says_when_and_breaks_nothing(listen: Callable[..., list[Record]]) -> None:
    quiet = np.zeros(RATE, np.float32)
    records = listen([Chunk(0, quiet), Chunk(RATE, quiet[:0], (Notice("lost", "unplugged"),)), Chunk(RATE, quiet)])
    assert [notice.time_s for notice in of(SourceNotice, records)] == [1.0]
    assert of(Summary, records)[0].discontinuities == 0


def test_an_event_knows_when_it_began_where_audio_comes_as_it_sounds(listen: Callable[..., list[Record]]) -> None:
    loud = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    stream = [Chunk(0, loud), Chunk(RATE, 0 * loud)]
    live = of(Event, listen(stream, unix_s=lambda sample: 1_700_000_000.0 + sample / RATE))[0]
    recorded = of(Event, listen(stream))[0]
    assert recorded.started_at_s is None
    assert live.started_at_s == 1_700_000_000.0
    assert live.document()["started_at"] == "2023-11-14T22:13:20.000+00:00"


def test_no_two_runs_give_an_event_the_same_id(listen: Callable[..., list[Record]]) -> None:
    """They may hear the same file from its start, or another one of that name."""
    loud = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    stream = [Chunk(0, loud), Chunk(RATE, 0 * loud)]
    first, again, second = (of(Event, listen(stream, run=run))[0] for run in ("one", "one", "two"))
    assert first.id == again.id != second.id
    assert first.start_sample == second.start_sample


# ----- engines that fail


@dataclass
class FailingEngine(LoudnessEngine):
    """Gives errors between two moments of the clock."""

    from_run: int = 0
    to_run: int = 10**9
    runs: int = 0

    def run(self, features: Float) -> Float:
        self.runs += 1
        if self.from_run <= self.runs - 1 < self.to_run:
            raise RuntimeError("out of memory")
        return super().run(features)


def failing(manifest: Manifest, **to_run: int) -> tuple[list[Record], list[Event]]:
    """A burst in the middle of 100 s, heard by engines that fail up to a run; and as it is without."""
    clock = Clock()
    quiet = np.float32(3e-3)  # in silence no engine is asked
    sound = stream(quiet * noise(60), noise(10), quiet * noise(30))

    def heard(engines: Engines) -> list[Record]:
        controller = GovernedController((Option(COARSE, 0.001), Option(PATCH, 0.001)), Policy(), Conditions(0.1))
        listener = StreamClassifier(
            engines, controller, SETTINGS, source="test", conditions=lambda _: Conditions(0.1), clock=clock
        )
        return list(listener.run(sound))

    sizes = {PATCH: to_run.get("fine", 0), COARSE: to_run.get("coarse", 0)}
    broken = {p: FailingEngine(manifest.variant(p), clock, to_run=n) for p, n in sizes.items()}
    whole = fake_engines(manifest, clock, p8=0.001, p16=0.001)
    return heard(Engines(manifest, broken)), of(Event, heard(whole))


def test_an_engine_that_fails_costs_no_window(tiny_manifest: Manifest) -> None:
    records, events = failing(tiny_manifest, fine=1)
    assert [(found.start_sample, found.end_sample) for found in of(Event, records)] == [
        (event.start_sample, event.end_sample) for event in events
    ]
    failures = of(EngineFailure, records)
    assert [failure.patch for failure in failures] == [PATCH]
    assert failures[0].document()["reason"] == "out of memory"
    assert of(Switch, records)[0].reason == "the engine of 8x8 failed"
    assert of(Status, records)[-1].patch == PATCH  # it came back


def test_when_all_engines_fail_audio_goes_on_and_so_does_the_first_that_has_rested(tiny_manifest: Manifest) -> None:
    records, events = failing(tiny_manifest, fine=1, coarse=1)
    summary = of(Summary, records)[0]
    assert summary.audio_s == 100.0
    assert 0 < len(of(Status, records)) < 900  # none while nothing answers
    assert [event.label for event in of(Event, records)] == [event.label for event in events]


def test_the_only_engine_that_fails_ends_the_stream(tiny_manifest: Manifest) -> None:
    engines = Engines(tiny_manifest, {PATCH: FailingEngine(tiny_manifest.variant(PATCH), Clock())})
    listener = StreamClassifier(engines, FixedSize(PATCH), SETTINGS, source="", conditions=lambda _: Conditions(0.1))
    with pytest.raises(RuntimeError, match="out of memory"):
        list(listener.run(stream(noise(2))))
