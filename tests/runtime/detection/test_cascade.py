"""The cascade: steady noise is background whatever its colour, a new sound is not, and no event is lost or made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.frontend import Frontend
from flexiast.manifest import Manifest, Variant
from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.cascade import (
    CANDIDATE_SHARE,
    PAUSE_S,
    RECENT_S,
    RECHECK_S,
    RETRY_S,
    REVIEW_S,
    STANDS_OUT,
    Background,
    Bands,
    Cascade,
    candidate_threshold,
)
from flexiast_runtime.detection.framer import Framer, Window
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import EngineFailure, Event, Record, Status, Summary
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.governor.types import Observation, Option, Policy
from flexiast_runtime.inference.engine import Engines

Float = NDArray[np.float32]

RATE, STEP_S = 16_000, 0.25
SHARP, CHEAP = PatchSize(8, 8), PatchSize(16, 16)


def coloured(seconds: float, tilt_db: float, level: float, seed: int = 0) -> Float:
    """Steady noise that changes by so many dB in each octave."""
    samples = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    spectrum *= (np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20) / 1_000) ** (tilt_db / (20 * math.log10(2)))
    noise = np.fft.irfft(spectrum, samples)
    return (level * noise / noise.std()).astype(np.float32)


def heard(spec: FrontendSpec, waveform: Float) -> NDArray[np.float64]:
    """How far each step of a waveform stands out."""
    background, bands = Background(spec, STEP_S), Bands(spec)
    frames = round(STEP_S * RATE / spec.hop_samples)
    features = Frontend(spec)(waveform)
    starts = range(0, len(features) - frames, frames)
    return np.array([background.update(bands(features[at : at + frames]), learn=True) for at in starts])


# ----- the background


@settings(deadline=None, max_examples=15)
@given(st.floats(-9, 3), st.floats(-60, -10), st.integers(0, 1_000))
def test_steady_noise_of_any_colour_and_level_is_background(
    build_frontend_spec: Callable[..., FrontendSpec], tilt_db: float, dbfs: float, seed: int
) -> None:
    found = heard(build_frontend_spec(), coloured(15, tilt_db, 10 ** (dbfs / 20), seed))
    # the highest of 80 numbers in each step, which are nearly Gaussian: 4 sigma in 80 * 3e-5 = 0.3 % of them
    assert (found[20:] >= STANDS_OUT).mean() < 0.05


@settings(deadline=None, max_examples=15)
@given(st.floats(-6, 0), st.floats(300, 6_000))
def test_a_tone_that_is_as_strong_as_the_noise_stands_out_at_once(
    build_frontend_spec: Callable[..., FrontendSpec], tilt_db: float, hz: float
) -> None:
    noise = coloured(10, tilt_db, 0.01)
    at = 8 * RATE
    noise[at:] += 0.02 * np.sin(2 * np.pi * hz / RATE * np.arange(len(noise) - at)).astype(np.float32)
    assert heard(build_frontend_spec(), noise)[round(8 / STEP_S)] >= STANDS_OUT


def test_what_goes_on_becomes_background(build_frontend_spec: Callable[..., FrontendSpec]) -> None:
    quiet, loud = coloured(20, -3, 0.001), coloured(50, -3, 0.03)
    found = heard(build_frontend_spec(), np.concatenate((quiet, loud)))
    assert found[80:84].max() >= STANDS_OUT
    assert (found[-80:] < STANDS_OUT).mean() > 0.95


@settings(deadline=None, max_examples=10)
@given(st.floats(-10, 0), st.floats(0.5, 8))
def test_how_features_are_normalised_changes_nothing(
    build_frontend_spec: Callable[..., FrontendSpec], mean: float, std: float
) -> None:
    noise = coloured(5, -3, 0.01)
    one, other = build_frontend_spec(mean=-4.0, std=4.0), build_frontend_spec(mean=mean, std=std)
    np.testing.assert_allclose(heard(one, noise), heard(other, noise), rtol=1e-3, atol=1e-3)  # float32 features


@pytest.mark.parametrize("frames", [1, 4, 5, 9, 25])
def test_a_step_of_any_length_is_compared(build_frontend_spec: Callable[..., FrontendSpec], frames: int) -> None:
    spec = build_frontend_spec(mel_bins=20)  # bands of 8, 8 and 4 bins
    background, bands, features = Background(spec, STEP_S), Bands(spec), np.zeros((frames, 20), np.float32)
    assert background.update(bands(features), learn=True) == 0.0
    features[:, 16:] = 1.0
    assert background.update(bands(features), learn=True) == pytest.approx(2 * spec.std / math.sqrt(0.01), rel=1e-6)


# ----- levels


def windows(spec: Spec, waveform: Float) -> list[Window]:
    return list(Framer(Frontend(spec.frontend), round(STEP_S * RATE)).push(waveform))


@pytest.fixture(params=["single", "multi"])
def spec(tiny_manifest: Manifest, request: pytest.FixtureRequest) -> Spec:
    return tiny_manifest.spec.model_copy(update={"task": request.param})


def nothing(spec: Spec) -> float:
    """A score that says nothing."""
    return 1 / len(spec.labels) if spec.task == "single" else 0.0


def test_it_listens_then_rests_and_listens_again(spec: Spec) -> None:
    thresholds = np.full(len(spec.labels), 0.5, np.float32)
    cascade = Cascade(CHEAP, thresholds, spec, STEP_S)
    quiet = np.full(len(spec.labels), nothing(spec), np.float32)
    levels = []
    for window in windows(spec, coloured(60, -3, 0.01)):
        levels.append(cascade.level(window))
        if levels[-1] == "cheap":
            assert not cascade.update(quiet, CHEAP)
    assert levels[0] == "cheap"
    assert "sharp" not in levels
    rests = [len(run) for run in "".join(level[0] for level in levels).split("c") if run]
    assert max(rests) == round(RECHECK_S / STEP_S)
    assert levels.count("skip") > 0.8 * len(levels)


def test_what_may_be_an_event_is_looked_at_closely_until_it_is_none(spec: Spec) -> None:
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    least = nothing(spec) + CANDIDATE_SHARE * (0.5 - nothing(spec))
    first, second, third, *_ = windows(spec, coloured(5, -3, 0.01))
    score = np.full(len(spec.labels), nothing(spec), np.float32)
    score[1] = least + 1e-4
    assert cascade.level(first) == "cheap"
    assert cascade.update(score, SHARP)
    assert cascade.level(second) == "sharp"
    score[1] = least - 1e-4
    assert not cascade.update(score, SHARP)
    assert cascade.level(third) == "cheap"


def test_a_label_that_is_not_wanted_makes_no_candidate(spec: Spec) -> None:
    thresholds = EventRules(deny=(spec.labels[0],)).thresholds(spec.labels)
    cascade = Cascade(CHEAP, thresholds, spec, STEP_S)
    score = np.zeros(len(spec.labels), np.float32)
    score[0] = 1.0
    assert not cascade.update(score, SHARP)


def possible(spec: Spec) -> Float:
    """Scores of a window that may be an event."""
    scores = np.full(len(spec.labels), nothing(spec), np.float32)
    scores[0] = 0.9
    return scores


def levels_of(cascade: Cascade, found: list[Window], scores: Float) -> list[str]:
    """What each window needs, where every engine gives these scores."""
    levels = []
    for window in found:
        levels.append(cascade.level(window))
        if levels[-1] == "skip":
            cascade.skipped += 1
        else:
            cascade.update(scores, SHARP)
    return levels


def test_steady_sound_that_may_be_an_event_is_looked_at_once_in_a_while(spec: Spec) -> None:
    """Rain for an hour: nothing changes, so the scores do not, and they are never older than RECHECK_S."""
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    levels = levels_of(cascade, windows(spec, coloured(60, -3, 0.05)), possible(spec))
    assert levels[0] == "cheap"
    assert "cheap" not in levels[1:]
    held = [len(run) for run in "".join(level[1] for level in levels).split("h") if run]  # skip, sharp
    assert max(held) == round(RECHECK_S / STEP_S)
    assert levels.count("skip") > 0.6 * len(levels)
    assert cascade.last is not None
    np.testing.assert_array_equal(cascade.last[1], possible(spec))


@pytest.mark.parametrize("gain", [4.0, 0.25], ids=["louder", "quieter"])
def test_a_change_of_steady_sound_is_looked_at_at_once(spec: Spec, gain: float) -> None:
    waveform = coloured(60, -3, 0.03)
    waveform[40 * RATE :] *= gain
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    found = windows(spec, waveform)
    levels = levels_of(cascade, found, possible(spec))
    change = next(place for place, window in enumerate(found) if window.end >= 40 * RATE + RATE * STEP_S)
    after = round(spec.frontend.window_s / STEP_S)
    assert set(levels[change : change + after]) == {"sharp"}


@pytest.mark.parametrize("gain", [8.0, 100.0], ids=["loud", "very loud"])
def test_a_sound_that_is_over_is_forgotten_in_ten_seconds(spec: Spec, gain: float) -> None:
    """Whatever it was, a window later the sound before it is known again to be steady; a spread fades for minutes."""
    waveform = coloured(60, -3, 0.003)
    waveform[30 * RATE : 32 * RATE] *= gain
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    found = windows(spec, waveform)
    levels = levels_of(cascade, found, possible(spec))
    after = [level for window, level in zip(found, levels, strict=True) if window.end / RATE > 32.5 + RECENT_S]
    during = [level for window, level in zip(found, levels, strict=True) if 31 < window.end / RATE < 41.5]
    assert set(during) == {"sharp"}
    assert after.count("skip") >= 0.9 * len(after)


@pytest.mark.parametrize("seconds", [60, 240])
def test_a_slow_siren_is_not_learnt_away(spec: Spec, seconds: int) -> None:
    """A tone that glides through five octaves: wherever it is, somebody has listened in the last RECHECK_S."""
    noise = coloured(seconds, -3, 0.003)
    hz = 200 * 2 ** (5 * np.arange(len(noise)) / len(noise))
    siren = noise + 0.03 * np.sin(2 * np.pi * np.cumsum(hz) / RATE).astype(np.float32)
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    levels = levels_of(cascade, windows(spec, siren), possible(spec))
    unheard = [len(run) for run in "".join(level[1] for level in levels).split("h") if run]
    assert max(unheard, default=0) <= RECHECK_S / STEP_S
    assert cascade.last is not None and cascade.last[1][0] == np.float32(0.9)  # it goes on to the end


# ----- when it pays


def changing(seconds: float) -> Float:
    """Noise whose level jumps every half second."""
    waveform = coloured(seconds, -3, 0.003)
    for start in range(0, len(waveform), RATE):
        waveform[start : start + RATE // 2] *= 10
    return waveform


def test_a_cascade_that_saves_nothing_pauses_and_tries_again(spec: Spec) -> None:
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    part = windows(spec, changing(60))
    for _ in range(3):
        levels_of(cascade, part, possible(spec))
    assert cascade.is_paused
    steady, seen = windows(spec, coloured(60, -3, 0.03)), []
    for _ in range(math.ceil((PAUSE_S + REVIEW_S) / 60)):
        seen += levels_of(cascade, steady, possible(spec))
    assert seen.index("skip") >= (PAUSE_S - 60) / STEP_S  # not before the pause is over
    assert not cascade.is_paused


def test_a_cascade_that_saves_goes_on(spec: Spec) -> None:
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    quiet = np.full(len(spec.labels), nothing(spec), np.float32)
    steady = windows(spec, coloured(60, -3, 0.01))
    for _ in range(5):
        assert "sharp" not in levels_of(cascade, steady, quiet)
        assert not cascade.is_paused


# ----- in the listener


class Clock:
    """Time that passes when an engine runs."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Loudness:
    """The first label is on while the middle of the window is loud."""

    variant: Variant
    clock: Clock
    takes_s: float
    runs: int = 0
    fails: bool = False

    def run(self, features: Float) -> Float:
        if self.fails:
            raise RuntimeError("broken")
        self.runs += 1
        self.clock.now_s += self.takes_s
        loud = features[:, features.shape[1] // 2].mean(axis=1) > -0.5  # silence is -1.36, noise of 0.1 about 0.4
        on = np.where(loud, 10.0, -10.0)
        return np.stack((on, np.full_like(on, -10), np.full_like(on, -10)), axis=1).astype(np.float32)


def station(
    manifest: Manifest, *, cascade: bool, fails: bool = False
) -> tuple[StreamClassifier, dict[PatchSize, Loudness], list[Observation]]:
    clock = Clock()
    engines = {
        CHEAP: Loudness(manifest.variant(CHEAP), clock, 0.001, fails=fails),
        SHARP: Loudness(manifest.variant(SHARP), clock, 0.004),
    }
    conditions, seen = Conditions(1.0), []
    controller = GovernedController((Option(CHEAP, 0.001, 0.5), Option(SHARP, 0.004, 0.9)), Policy(), conditions)
    controller.record = lambda observation, _: seen.append(observation)
    thresholds = EventRules().thresholds(manifest.spec.labels)
    listener = StreamClassifier(
        Engines(manifest, dict(engines)),
        controller if cascade else FixedSize(SHARP),
        DetectionSettings(STEP_S, 0.0),
        source="",
        conditions=lambda _: conditions,
        clock=clock,
        cascade=Cascade(CHEAP, thresholds, manifest.spec, STEP_S) if cascade else None,
    )
    return listener, engines, seen


def listen(
    manifest: Manifest, waveform: Float, *, cascade: bool, fails: bool = False
) -> tuple[list[Record], dict[PatchSize, Loudness], list[Observation]]:
    listener, engines, seen = station(manifest, cascade=cascade, fails=fails)
    return list(listener.run([Chunk(0, waveform)])), engines, seen


def scene(stretches: Sequence[tuple[int, int]], seconds: int = 45) -> Float:
    """Steady noise, loud from one second to another."""
    waveform = coloured(seconds, 0, 0.0003)
    for begin, end in stretches:
        waveform[begin * RATE : end * RATE] *= 300
    return waveform


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(5, 42), max_size=6, unique=True).map(sorted))
def test_where_both_sizes_agree_the_events_are_those_of_the_better_one(
    tiny_manifest: Manifest, edges: list[int]
) -> None:
    waveform = scene([(begin, end) for begin, end in list(pairwise(edges))[::2]])
    (plain, _, _), (cascaded, engines, _) = (listen(tiny_manifest, waveform, cascade=on) for on in (False, True))
    events, found = ([r for r in records if isinstance(r, Event)] for records in (plain, cascaded))
    assert [(e.label, e.start_sample, e.end_sample) for e in found] == [
        (e.label, e.start_sample, e.end_sample) for e in events
    ]
    assert all(event.patch == SHARP for event in found)
    loud = sum(end - begin for begin, end in list(pairwise(edges))[::2])
    assert engines[SHARP].runs <= (loud + len(edges) * 2) / STEP_S


def test_quiet_hours_run_next_to_nothing_and_are_counted(tiny_manifest: Manifest) -> None:
    records, engines, seen = listen(tiny_manifest, scene([(30, 31)]), cascade=True)
    summary = next(record for record in records if isinstance(record, Summary))
    ran = sum(use.windows for use in summary.variants)
    assert summary.skipped == summary.windows - ran > 0.7 * summary.windows
    statuses = [record for record in records if isinstance(record, Status)]
    assert {status.patch for status in statuses} == {CHEAP, SHARP}
    # The governor learns from every run, of whichever size it was.
    assert sum(one.latency_s is not None for one in seen) == ran
    assert sum(one.option == 0 for one in seen) == ran - engines[SHARP].runs


def test_the_first_glance_at_an_event_is_no_reason_for_a_smaller_size(tiny_manifest: Manifest) -> None:
    """The deadline holds the better size, but not both: both run once for an event, not for each of its windows."""
    _, _, seen = listen(tiny_manifest, scene([(20, 25)], 30), cascade=True)
    sharp = [one for one in seen if one.latency_s is not None and one.option is None]
    assert len(sharp) > 10
    assert {round(one.latency_s or 0.0, 6) for one in sharp} == {0.004}
    assert {round(one.overhead_s, 6) for one in sharp} == {0.0}


def test_a_cheap_engine_that_fails_is_said_and_done_without(tiny_manifest: Manifest) -> None:
    waveform = scene([(20, 25)], 30)
    plain, _, _ = listen(tiny_manifest, waveform, cascade=False)
    records, engines, _ = listen(tiny_manifest, waveform, cascade=True, fails=True)
    (failure,) = (record for record in records if isinstance(record, EngineFailure))
    assert failure.patch == CHEAP
    assert [r.start_sample for r in records if isinstance(r, Event)] == [
        r.start_sample for r in plain if isinstance(r, Event)
    ]
    assert engines[SHARP].runs == sum(isinstance(record, Status) for record in records)


def test_a_cheap_engine_that_failed_is_asked_again_after_a_while(tiny_manifest: Manifest) -> None:
    spec = tiny_manifest.spec
    cascade = Cascade(CHEAP, np.full(len(spec.labels), 0.5, np.float32), spec, STEP_S)
    levels = []
    for number, window in enumerate(windows(spec, coloured(RETRY_S + 5, -3, 0.01))):
        levels.append(cascade.level(window))
        if number == 0:
            cascade.record_failure()
    assert levels.index("cheap", 1) == round(RETRY_S / STEP_S)
    assert set(levels[1 : round(RETRY_S / STEP_S)]) == {"sharp"}


def test_a_cascade_that_spared_nothing_names_what_kept_it_busy(tiny_manifest: Manifest) -> None:
    for waveform, expected in (
        (300 * changing(130), tiny_manifest.spec.labels[0]),
        (scene([(0, 5)], 130), None),
        (300 * changing(20), None),  # too short to say so
    ):
        listener, _, _ = station(tiny_manifest, cascade=True)
        for _ in listener.run([Chunk(0, waveform)]):
            pass
        assert listener.busiest_label == expected


def test_where_nothing_has_a_class_a_score_that_says_nothing_is_zero(tiny_spec: Spec) -> None:
    spec = tiny_spec.model_copy(update={"task": "single", "nothing_class": True})
    thresholds = np.array([0.3, 0.3, 0.3], np.float32)
    np.testing.assert_allclose(candidate_threshold(thresholds, spec), CANDIDATE_SHARE * thresholds)
