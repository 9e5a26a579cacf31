"""Mixed streams hold what they say: each clip once, at its SNR over the background, at the same places at every SNR."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.evaluation.mixing import (
    LEVEL_DBFS,
    QUIET,
    QUIET_KIND,
    QUIET_SNR_DB,
    MixedStream,
    choose_clips,
    mix_streams,
    trim_to_audible,
)

Float = NDArray[np.float32]

RATE = 8_000
GAP_S = 1.0


def make_noise(seconds: float, seed: int, rms: float = 0.1) -> Float:
    return np.random.default_rng(seed).normal(0, rms, round(seconds * RATE)).astype(np.float32)


def measure_dbfs(samples: Float) -> float:
    return float(10 * np.log10((samples.astype(np.float64) ** 2).mean()))


def mix(snr_db: float, seed: int = 0) -> list[MixedStream]:
    clips = [(label, make_noise(0.5, number)) for number, label in enumerate(["dog", "cat", ""] * 25)]
    beds = {"street": [make_noise(25, 100), make_noise(3, 101, 0.001)], "room": [make_noise(31, 102)]}
    return list(mix_streams(clips, beds, snr_db, rate_hz=RATE, gap_s=GAP_S, seed=seed))


@pytest.mark.parametrize("snr_db", [20.0, 0.0, -5.0, QUIET])
def test_clips_stand_at_their_snr_and_apart(snr_db: float) -> None:
    streams = mix(snr_db)
    assert {stream.kind for stream in streams} == ({QUIET_KIND} if snr_db == QUIET else {"street", "room"})
    assert sum(len(stream.events) for stream in streams) == 50
    assert sum(len(stream.others) for stream in streams) == 25
    for stream in streams:
        spans = sorted((*stream.events, *stream.others), key=lambda one: one.start_s)
        assert all(later.start_s - earlier.end_s >= GAP_S for earlier, later in pairwise(spans))
        sounding = np.zeros(len(stream.waveform), bool)
        for span in spans:
            sounding[round(span.start_s * RATE) : round(span.end_s * RATE)] = True
        expected = LEVEL_DBFS - (QUIET_SNR_DB if snr_db == QUIET else snr_db)
        assert measure_dbfs(stream.waveform[~sounding]) == pytest.approx(expected, abs=0.3)
        both = 10 * np.log10(10 ** (LEVEL_DBFS / 10) + 10 ** (expected / 10))
        assert measure_dbfs(stream.waveform[sounding]) == pytest.approx(both, abs=0.3)


def test_a_seed_gives_the_same_places_at_every_snr() -> None:
    loud, again, quiet, other = mix(20), mix(20), mix(QUIET), mix(20, seed=1)
    assert all(np.array_equal(one.waveform, same.waveform) for one, same in zip(loud, again, strict=True))
    assert [one.events for one in loud] == [one.events for one in quiet]
    assert [one.events for one in loud] != [one.events for one in other]


def test_only_what_can_be_heard_of_a_clip_is_its_event() -> None:
    clip = np.zeros(2 * RATE, np.float32)
    clip[4_000:6_000] = 0.5
    clip[9_000] = 1e-4
    assert len(trim_to_audible(clip, RATE)) == 2_000
    assert not len(trim_to_audible(np.zeros(RATE, np.float32), RATE))
    (stream,) = mix_streams([("dog", clip), ("cat", clip * 0)], {}, QUIET, rate_hz=RATE, gap_s=GAP_S, seed=0)
    (event,) = stream.events
    assert (event.label, event.end_s - event.start_s) == ("dog", pytest.approx(0.25))


def test_labels_are_chosen_evenly() -> None:
    labels = ["dog"] * 50 + ["cat"] * 3 + [""] * 20
    chosen = [labels[place] for place in choose_clips(labels, 23, 0)]
    assert {label: chosen.count(label) for label in ("dog", "cat", "")} == {"dog": 10, "cat": 3, "": 10}
    assert sorted(choose_clips(labels, 1_000, 0)) == list(range(73))
