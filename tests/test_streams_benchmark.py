"""What benchmarks of events are made of: halves that share nothing, and streams that hold what they say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.streams import NOISE_RMS, SHARE, halves, mix
from flexiast.data.clips import Clip, Dataset

Float = NDArray[np.float32]
RATE = 16_000


def test_halves_share_no_source() -> None:
    clips = tuple(
        Clip(Path(f"{source}-{take}"), (label,), "val") for label in "ab" for source in "vwxyz" for take in "12"
    )
    first, second = halves(Dataset(clips, ("a", "b"), "single", ""), lambda clip: clip.path.name[0])
    for label in "ab":
        sources = [{clip.path.name[0] for clip in half.clips if clip.labels == (label,)} for half in (first, second)]
        assert not sources[0] & sources[1]
        assert sources[0] | sources[1] == set("vwxyz")
    assert {*first.clips, *second.clips} == set(clips)


def test_streams_are_the_same_for_a_seed_and_their_events_stand_at_the_snr() -> None:
    sound = np.random.default_rng(0).normal(size=8_000).astype(np.float32)
    one, other = (mix([("dog", sound)] * 100, 60 * RATE, 20.0, np.random.default_rng(1), RATE) for _ in range(2))
    assert one.truth == other.truth
    np.testing.assert_array_equal(one.samples, other.samples)
    assert all(earlier.end_s <= later.start_s for earlier, later in pairwise(one.truth))
    inside = np.zeros(len(one.samples), bool)
    for event in one.truth:
        inside[round(event.start_s * RATE) : round(event.end_s * RATE)] = True
    noise, events = (float(np.sqrt(np.mean(one.samples[where] ** 2))) for where in (~inside, inside))
    assert noise == pytest.approx(NOISE_RMS, rel=0.05)  # pink noise wanders
    assert 20 * np.log10(events / noise) == pytest.approx(20, abs=0.5)
    assert inside.mean() == pytest.approx(SHARE, rel=0.5)  # some 18 events with random gaps
