"""A recording in pieces gives what it gives in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import DataError
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.batch.runner import Job, classify_file
from flexiast_runtime.batch.splitting import Piece, classify_piece, join_pieces, plan_pieces, split_windows
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

RATE = 16_000
PATCH = PatchSize(16, 16)
STEP_S = 0.1
RULES = (
    EventRules(0.55),
    EventRules(0.4, confirm_s=0.3, merge_s=0.5, min_duration_s=0.4),
    EventRules(0.6, release=0.95, size_thresholds={PATCH: {}, PatchSize(8, 8): {}}),
)


@pytest.fixture(scope="module")
def engines(tiny_bundle: Path) -> Engines:
    return load_engines(Bundle.open(tiny_bundle))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, write_audio: Callable[..., Path]) -> list[Path]:
    """Noise that comes and goes at other levels, with silence in it; one that is resampled, one of two channels."""
    rng, folder = np.random.default_rng(5), tmp_path_factory.mktemp("long")

    def sound(rate_hz: int) -> NDArray[np.float32]:
        levels = np.repeat(rng.choice([0.0, 0.001, 0.05, 0.4], 60), rate_hz // 5)
        return (levels * rng.standard_normal(len(levels)).clip(-2, 2)).astype(np.float32)

    return [
        write_audio(folder / "same.wav", sound(RATE), RATE),
        write_audio(folder / "resampled.flac", sound(44_100), 44_100),
        write_audio(folder / "stereo.wav", np.stack((sound(RATE), sound(RATE)), axis=1), RATE),
        write_audio(folder / "lossy.ogg", sound(RATE), RATE),
    ]


def make_job(bundle: Path, rules: EventRules, smoothing_s: float = 0.15, channel: int | None = None) -> Job:
    return Job(bundle, PATCH, None, Backend.CPU, DetectionSettings(STEP_S, smoothing_s, rules), channel=channel)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(range(4)),
    st.sampled_from(RULES),
    st.sampled_from([0.0, 0.15, 0.6]),
    st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_pieces_give_the_events_of_the_whole(
    tiny_bundle: Path,
    engines: Engines,
    recordings: list[Path],
    number: int,
    rules: EventRules,
    smoothing_s: float,
    borders: list[int],
) -> None:
    path = recordings[number]
    job = make_job(tiny_bundle, rules, smoothing_s, channel=2 if path.name == "stereo.wav" else None)
    whole = classify_file(engines, job, path)
    pieces = [classify_piece(engines, job, path, piece) for piece in split_windows(borders)]
    joined = join_pieces(pieces, job, engines.spec, path)
    bounds = [[(e.label, e.start_sample, e.end_sample, e.patch) for e in each.events] for each in (joined, whole)]
    assert bounds[0] == bounds[1]
    assert bounds[0], "no event would make the comparison empty"
    # to five digits, as for blocks of other lengths: a matrix product and a resampler's blocks add in another order
    assert [e.score for e in joined.events] == pytest.approx([e.score for e in whole.events], abs=1e-5)
    assert (joined.audio_s, joined.rate_hz, joined.source) == (whole.audio_s, whole.rate_hz, whole.source)


def plan(path: Path, job: Job, spec: Spec, piece_s: float) -> tuple[Piece, ...]:
    with path.open("rb") as file:
        return plan_pieces(file, job, spec, piece_s)


def test_pieces_are_planned_by_length_and_stereo_stays_whole(
    tiny_bundle: Path, engines: Engines, recordings: list[Path]
) -> None:
    same, _, stereo, _ = recordings  # 12 s
    job = make_job(tiny_bundle, RULES[0])
    pieces = plan(same, job, engines.spec, 5.0)
    assert pieces == (Piece(0, 50), Piece(50, None)), "a short rest stays with the piece before it"
    assert plan(same, job, engines.spec, 3_600) == (Piece(0, None),)
    assert plan(stereo, job, engines.spec, 5.0) == (Piece(0, None),)
    assert len(plan(stereo, make_job(tiny_bundle, RULES[0], channel=1), engines.spec, 5.0)) == 2


def test_a_piece_of_a_recording_that_is_shorter_than_it_says_is_refused(
    tiny_bundle: Path, engines: Engines, recordings: list[Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(recordings[0].read_bytes()[:200_000])
    with pytest.raises(DataError, match=r"cut\.wav breaks off"):
        classify_piece(engines, make_job(tiny_bundle, RULES[0]), cut, Piece(0, 10))
