"""What the figures of events are made of: the matching against scipy's, streams that hold what they say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks.events import NOISE_RMS, SHARE, Counts, Sound, audible, count, fit, halves, mix, pairs
from flexiast.data.clips import Clip, Dataset

Float = NDArray[np.float32]
SOUNDS = st.lists(
    st.builds(
        lambda label, start, length: Sound(label, start, start + length),
        st.sampled_from(["dog", "rain"]),
        st.integers(0, 60),
        st.integers(1, 25),
    ),
    max_size=8,
)
RATE = 16_000


@given(SOUNDS, SOUNDS, st.sampled_from([3.0, 10.0, np.inf]))
def test_as_many_events_are_paired_as_can_be(found: list[Sound], truth: list[Sound], onset: float) -> None:
    paired = list(pairs(found, truth, onset))
    assert all(fit(found[one], truth[there], onset) for one, there in paired)
    assert len({one for one, _ in paired}) == len({there for _, there in paired}) == len(paired)
    fits = np.array([[fit(one, there, onset) for there in truth] for one in found]).reshape(len(found), len(truth))
    rows, columns = linear_sum_assignment(fits, maximize=True)
    assert len(paired) == fits[rows, columns].sum()


@pytest.mark.parametrize(
    ("found", "hit"),
    [
        (Sound("dog", 10, 20), True),
        (Sound("cat", 10, 20), False),
        (Sound("dog", 15, 16), True),
        (Sound("dog", 16, 20), False),  # begins too late
        (Sound("dog", 5, 10), False),  # ends before it begins
        (Sound("dog", 5, 11), True),
    ],
)
def test_a_hit_has_the_label_overlaps_and_begins_in_time(found: Sound, hit: bool) -> None:
    assert count([found], [Sound("dog", 10, 20)], 5) == Counts(int(hit), 1, 1)


def test_counts_add_up_to_precision_recall_and_f1() -> None:
    total = Counts(1, 2, 4) + Counts(2, 2, 2)
    assert (total.precision, total.recall, total.f1) == (0.75, 0.5, pytest.approx(0.6))


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


def test_only_what_can_be_heard_of_a_clip_is_its_event() -> None:
    clip = np.zeros(RATE, np.float32)
    clip[4_000:6_000] = 0.5
    clip[9_000] = 1e-4
    assert len(audible(clip, RATE)) == 2_080  # to 10 ms on both sides


def test_streams_are_the_same_for_a_seed_and_their_events_stand_at_the_snr() -> None:
    sound = np.random.default_rng(0).normal(size=8_000).astype(np.float32)
    one, other = (mix([("dog", sound)] * 100, 60 * RATE, 20.0, np.random.default_rng(1)) for _ in range(2))
    assert one.truth == other.truth
    np.testing.assert_array_equal(one.samples, other.samples)
    assert all(earlier.end <= later.start for earlier, later in pairwise(one.truth))
    inside = np.zeros(len(one.samples), bool)
    for event in one.truth:
        inside[event.start : event.end] = True
    noise, events = (float(np.sqrt(np.mean(one.samples[where] ** 2))) for where in (~inside, inside))
    assert noise == pytest.approx(NOISE_RMS, rel=0.05)  # pink noise wanders
    assert 20 * np.log10(events / noise) == pytest.approx(20, abs=0.5)
    assert inside.mean() == pytest.approx(SHARE, rel=0.5)  # some 18 events with random gaps
