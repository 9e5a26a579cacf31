"""Another model takes over in the middle of a stream: no window is missing, and each event is of one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.frontend import Frontend
from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.framer import Framer
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event, Record, Status, Summary
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.takeover import check_takes_over
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.engine import Engines

Float = NDArray[np.float32]

PATCH = PatchSize(8, 8)
STEP = 1_600
SAMPLES = 40_000
SETTINGS = DetectionSettings(0.1, 0.0, EventRules(0.5, release=1.0))  # no memory of scores: windows alone decide


class LoudnessEngine:
    """The first label is on while the middle of the window is loud."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant

    def run(self, features: Float) -> Float:
        on = np.where(features[:, features.shape[1] // 2].mean(axis=1) > -0.5, 10.0, -10.0)
        return np.stack((on, np.full_like(on, -10), np.full_like(on, -10)), axis=1).astype(np.float32)


def build_engines(manifest: Manifest) -> Engines:
    return Engines(manifest, {PATCH: LoudnessEngine(manifest.variant(PATCH))})


def bursts() -> Float:
    """Noise that comes and goes twice a second."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=SAMPLES)
    return (noise * (np.arange(SAMPLES) // 4_000 % 2)).astype(np.float32)


@pytest.fixture(scope="module")
def hear(tiny_manifest: Manifest) -> Callable[..., list[Record]]:
    """The bursts in blocks of 700 samples, the model swapped after some of them."""

    def run(*swapped_after: int) -> list[Record]:
        classifier = StreamClassifier(
            build_engines(tiny_manifest),
            FixedSize(PATCH),
            SETTINGS,
            source="test",
            conditions=lambda _: Conditions(deadline_s=1e9),
        )
        samples, records = bursts(), []
        for number, start in enumerate(range(0, SAMPLES, 700)):
            records += classifier.push(Chunk(start, samples[start : start + 700]))
            if number in swapped_after:
                classifier.swap_model(build_engines(tiny_manifest), FixedSize(PATCH), SETTINGS, None)
        return records + list(classifier.finish())

    return run


def of(kind: type, records: list[Record]) -> list[Any]:
    return [record for record in records if isinstance(record, kind)]


def covered(records: list[Record]) -> NDArray[np.int64]:
    """How often each sample is part of an event."""
    times = np.zeros(SAMPLES, np.int64)
    for event in of(Event, records):
        times[event.start_sample : event.end_sample] += 1
    return times


@given(st.sets(st.integers(0, 56), max_size=4))
def test_the_same_model_again_changes_no_window_and_covers_the_same_sound(
    hear: Callable[..., list[Record]], swapped_after: set[int]
) -> None:
    """An event that was open is two, which meet at a sample."""
    found, expected = hear(*swapped_after), hear()
    assert [one.time_s for one in of(Status, found)] == [one.time_s for one in of(Status, expected)]
    for one, other in zip(of(Status, found), of(Status, expected), strict=True):
        assert dict(one.top) == pytest.approx(dict(other.top), abs=1e-6)  # the smoothing rounds what it forgets
    np.testing.assert_array_equal(covered(found), covered(expected))
    assert covered(expected).any()
    (summary,) = of(Summary, found)
    assert (summary.audio_s, summary.dropped_s, summary.discontinuities) == (SAMPLES / 16_000, 0.0, 0)
    assert summary.events == len(of(Event, found))


def test_an_open_event_ends_with_its_model(hear: Callable[..., list[Record]]) -> None:
    """The swap falls into the third burst as the window sees it: half a window after its middle sounded."""
    assert len(of(Event, hear(36))) == len(of(Event, hear())) + 1


@given(st.integers(0, 12_000), st.floats(-8, 0), st.floats(1, 8))
def test_frames_held_become_those_of_the_new_normalisation(
    tiny_spec: Spec, before: int, mean: float, std: float
) -> None:
    """The windows after it are those that the new front end would have cut itself."""
    old, samples = Frontend(tiny_spec.frontend), bursts()[:20_000]
    new = Frontend(tiny_spec.frontend.model_copy(update={"mean": mean, "std": std}))
    framer, whole = Framer(old, STEP), Framer(new, STEP)
    early = list(framer.push(samples[:before]))
    framer.renormalise(new)
    late = [*framer.push(samples[before:]), *framer.flush()]
    expected = [*whole.push(samples), *whole.flush()]
    assert [one.start for one in (*early, *late)] == [one.start for one in expected]
    for window, other in zip(late, expected[len(early) :], strict=True):
        # float32 there and back: 1e-7 of values up to 16 times the spread of the new normalisation
        np.testing.assert_allclose(window.features, other.features, rtol=0, atol=1e-4)


def test_what_audio_and_sinks_are_counted_by_must_be_the_same(tiny_spec: Spec) -> None:
    check_takes_over(tiny_spec, tiny_spec.model_copy(update={"base_patch": PatchSize(8, 8)}), "new")
    frontend = tiny_spec.frontend.model_copy(update={"window_samples": 8_000, "mean": -1.0})
    for changed, said in (
        ({"frontend": frontend}, r"window_samples is 8000, not 6400\. "),
        ({"labels": ("alarm", "bark", "cough")}, r"its labels differ \(clap, cough\)"),
        ({"labels": ("bark", "alarm", "clap")}, r"its labels differ \(their order\)"),
        ({"task": "single"}, "its task is single, not multi"),
    ):
        with pytest.raises(UsageError, match=f"new cannot take over: {said}"):
            check_takes_over(tiny_spec, tiny_spec.model_copy(update=changed), "new")
