"""Files by the dozen: the same events as one by one, to the last sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.spec import PatchSize
from flexiast_runtime.audio.source import FileSource, chunks
from flexiast_runtime.batch.formats import Result
from flexiast_runtime.batch.runner import Job, classify_files
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event, Summary
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.backends import Backend
from flexiast_runtime.inference.ort import load_engines

RATE = 16_000
PATCH = PatchSize(8, 8)
SETTINGS = DetectionSettings(0.1, 0.15, EventRules(0.6))


@pytest.fixture
def job(tiny_bundle: Path) -> Job:
    return Job(tiny_bundle, PATCH, None, Backend.CPU, SETTINGS)


@pytest.fixture
def recordings(
    tmp_path: Path, write_audio: Callable[..., Path], make_tone: Callable[..., NDArray[np.float32]]
) -> list[Path]:
    """Of several lengths and rates, one of them stereo, one of them none."""
    rng = np.random.default_rng(0)
    stereo = np.stack((make_tone(3_000, 2.35, 44_100), make_tone(440, 2.35, 44_100)), axis=1)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    return [
        write_audio(tmp_path / "noise.wav", (0.1 * rng.standard_normal(RATE * 3 // 2)).astype(np.float32), RATE),
        tmp_path / "bad.wav",
        write_audio(tmp_path / "stereo.wav", stereo, 44_100),
        write_audio(tmp_path / "short.wav", make_tone(440, 0.03, RATE), RATE),
    ]


def classify(job: Job, paths: list[Path], workers: int = 1) -> dict[int, Result]:
    return dict(classify_files(job, paths, workers, print, stopped=lambda: False))


def test_a_file_gives_what_a_listener_hears_of_it(job: Job, recordings: list[Path]) -> None:
    """Though that reads tenths of a second: features do not depend on the blocks."""
    engines = load_engines(Bundle.open(job.bundle))
    found = classify(job, recordings)
    assert list(found) == [0, 1, 2, 3]
    for number in (0, 2, 3):
        source = FileSource(recordings[number])
        listener = StreamClassifier(
            engines, FixedSize(PATCH), SETTINGS, source=source.name, conditions=lambda _: Conditions(deadline_s=1e9)
        )
        *records, summary = listener.run(chunks(source, RATE))
        events = [record for record in records if isinstance(record, Event)]
        assert isinstance(summary, Summary)
        assert (found[number].audio_s, found[number].rate_hz) == (summary.audio_s, source.rate_hz)
        assert [(event.label, event.start_sample, event.end_sample) for event in found[number].events] == [
            (event.label, event.start_sample, event.end_sample) for event in events
        ]
        # to five digits, for a matrix product of more rows may add in another order
        assert [event.score for event in found[number].events] == pytest.approx([e.score for e in events], abs=1e-5)
    assert found[0].events, "a quiet model would make the comparison empty"


def test_the_last_partial_window_is_heard(job: Job, recordings: list[Path]) -> None:
    """It pads the sound's end with silence; without it an event could not last to the last sample."""
    found = classify(job, recordings)
    window_s = Bundle.open(job.bundle).manifest.spec.frontend.window_s
    for number in (0, 2, 3):
        assert found[number].audio_s % SETTINGS.step_s or found[number].audio_s < window_s
        assert any(event.end_s == found[number].audio_s for event in found[number].events)


def test_a_bad_file_is_a_result_too(job: Job, recordings: list[Path]) -> None:
    bad = classify(job, recordings)[1]
    assert (bad.path, bad.events) == (recordings[1], ())
    assert "bad.wav cannot be read as audio" in str(bad.error)


def test_workers_give_the_same_results_as_one(job: Job, recordings: list[Path]) -> None:
    assert classify(job, recordings, workers=2) == classify(job, recordings)


def test_a_file_that_is_cut_off_has_no_result(job: Job, recordings: list[Path]) -> None:
    asked = iter(range(100))
    results = list(classify_files(job, recordings[::2], 1, print, stopped=lambda: next(asked) >= 4))
    assert [number for number, _ in results] == [0]  # asked twice for its two blocks and once at its end


@pytest.mark.parametrize(
    "other",
    [
        {"patch": PatchSize(16, 16)},
        {"precision": "fp32"},
        {"backend": Backend.CUDA},
        {"settings": DetectionSettings(0.1, 0.15, EventRules(0.7))},
    ],
)
def test_whatever_changes_results_changes_the_jobs_identity(job: Job, other: dict[str, object]) -> None:
    fields = {name: getattr(job, name) for name in ("bundle", "patch", "precision", "backend", "settings")}
    assert Job(**fields | other).identity() != job.identity() == Job(**fields).identity()
