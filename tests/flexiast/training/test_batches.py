"""Batches: pure, the same for any number of ranks and any memory, and without augmentation what the front end says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.frontend import Frontend
from flexiast.spec import LOG_FLOOR, FrontendSpec, PatchSize, Spec
from flexiast.training.augment import Loudness
from flexiast.training.batches import SPEEDS, Backgrounds, Batches, LogMels
from flexiast.training.recipe import Augment, Training
from flexiast.training.sampling import Plan

Float = NDArray[np.float32]
MakeSpec = Callable[..., Spec]

PLAIN = Augment(speed=0.0, shift=0.0, gain_db=0.0, filter_db=0.0, masks=0, mix_share=0.0)
FRAMES, MELS = 20, 32
WINDOW = 400 + (FRAMES - 1) * 160
CLIPS = 11

FLOAT16 = 2.0**-8
"""Half a unit in the last place of float16 between 8 and 16, where log-mels end; smaller ones are rounded to less."""


@pytest.fixture(scope="session")
def make(build_spec: MakeSpec) -> MakeSpec:
    """A spec of a small window; further fields of its front end by name."""

    def make(**frontend: Any) -> Spec:
        spec = build_spec(FRAMES, MELS)
        return spec.model_copy(update={"frontend": spec.frontend.model_copy(update=frontend)})

    return make


@pytest.fixture(scope="session")
def waveforms() -> list[Float]:
    """Noises of many lengths, the first ones shorter and the last ones longer than a window; the third as long."""
    lengths = [700, 2_000, WINDOW, *range(WINDOW, 2 * WINDOW, WINDOW // 7)]
    rng = np.random.default_rng(0)
    return [rng.normal(scale=0.1, size=length).astype(np.float32) for length in lengths[:CLIPS]]


def batches_of(
    waveforms: Sequence[Float],
    spec: Spec,
    *,
    rank: int = 0,
    ranks: int = 1,
    memory_bytes: int | None = None,
    probabilities: NDArray[np.float64] | None = None,
    epochs: int = 3,
    **training: Any,
) -> Batches:
    """Batches whose targets name the clips."""
    settings = Training(**{"batch_size": 4, "patches": (PatchSize(16, 16), PatchSize(8, 8))} | training)
    log_mels = LogMels(waveforms, spec.frontend, settings.augment, memory_bytes=memory_bytes)
    steps = Plan(spec, settings, len(waveforms), epochs)
    targets = np.eye(len(waveforms), dtype=np.float32)
    return Batches(log_mels, targets, spec, settings, steps, probabilities=probabilities, rank=rank, ranks=ranks)


def same(one: Iterable[tuple[Float, Float]], other: Iterable[tuple[Float, Float]]) -> bool:
    pairs = zip(chain.from_iterable(one), chain.from_iterable(other), strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


# ----- log-mels


@pytest.mark.parametrize("amplitude", [1e-4, 0.1, 1.0])
def test_log_mels_are_those_of_the_front_end_to_float16(make: MakeSpec, amplitude: float) -> None:
    frontend = Frontend(make().frontend)
    waveform = (amplitude * np.random.default_rng(0).uniform(-1, 1, 30_000)).astype(np.float32)
    kept = LogMels([waveform], frontend.spec, Augment(speed=0.0))(0, 0)
    expected = frontend.log_mel(waveform)
    assert np.abs(expected).max() < 16
    error = np.abs(kept - expected)
    assert 0 < error.max() <= FLOAT16


@pytest.mark.parametrize("room", [0, 20_000, 10**9])
def test_log_mels_do_not_depend_on_memory(make: MakeSpec, waveforms: list[Float], room: int) -> None:
    spec = make()
    everything = LogMels(waveforms, spec.frontend, Augment())
    some = LogMels(waveforms, spec.frontend, Augment(), memory_bytes=room)
    assert len(some) == CLIPS
    for clip in range(CLIPS):
        for speed in range(SPEEDS):
            assert np.array_equal(some(clip, speed), everything(clip, speed))


class CountReads(list[Float]):
    """Waveforms that count how often one is read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("fills", [False, True])
def test_no_more_is_kept_than_memory_allows(make: MakeSpec, waveforms: list[Float], fills: bool) -> None:
    reads = []
    for room in (0, 5_000, 10**9):
        counting = CountReads(waveforms)
        log_mels = LogMels(counting, make().frontend, Augment(), memory_bytes=room)
        if fills:
            log_mels.fill()
        else:
            for clip in range(CLIPS):
                log_mels(clip, 0)
        counting.reads = 0
        for clip in range(CLIPS):
            log_mels(clip, 0)
        reads.append(counting.reads)
    assert reads[0] == CLIPS
    assert 0 < reads[1] < CLIPS
    assert reads[2] == 0


def test_only_what_is_used_is_computed(make: MakeSpec, waveforms: list[Float]) -> None:
    counting = CountReads(waveforms)
    log_mels = LogMels(counting, make().frontend, Augment())
    assert counting.reads == 0
    for _ in range(2):
        log_mels(1, SPEEDS // 2)
    assert counting.reads == 1
    log_mels.fill()
    assert counting.reads == CLIPS * SPEEDS


@given(st.floats(0.001, 0.499))
def test_speeds_lie_evenly_around_the_clips_own(build_frontend_spec: Callable[..., FrontendSpec], speed: float) -> None:
    speeds = LogMels([], build_frontend_spec(), Augment(speed=speed)).speeds
    assert speeds[SPEEDS // 2] == 1.0  # to the last digit: this one is not resampled
    np.testing.assert_allclose(speeds, 1 + speed * np.linspace(-1, 1, SPEEDS), rtol=1e-12)  # float64


def test_a_faster_clip_is_shorter_and_higher(
    build_frontend_spec: Callable[..., FrontendSpec], make_tone: Callable[..., Float]
) -> None:
    spec = build_frontend_spec()
    log_mels = LogMels([make_tone(1_000, seconds=1.0)], spec, Augment(speed=0.12))
    for index, speed in enumerate(log_mels.speeds):
        found = log_mels(0, index)
        expected = Frontend(spec).log_mel(make_tone(1_000 * speed, seconds=1.0 / speed))
        assert len(found) == len(expected)
        assert (found[5:-5].argmax(axis=1) == expected[5:-5].argmax(axis=1)).all()  # ends ring in the resampler


@pytest.mark.parametrize("samples", [1, 10, 399])
def test_a_clip_shorter_than_a_frame_is_one_frame(make: MakeSpec, samples: int) -> None:
    spec = make().frontend
    waveform = np.full(samples, 0.1, np.float32) * (-1) ** np.arange(samples, dtype=np.float32)
    found = LogMels([waveform], spec, Augment(speed=0.0))(0, 0)
    padded = np.concatenate((waveform, np.zeros(400 - samples, np.float32)))
    np.testing.assert_allclose(found, Frontend(spec).log_mel(padded), rtol=0, atol=FLOAT16)


# ----- purity


def test_a_batch_is_a_pure_function_of_its_step(make: MakeSpec, waveforms: list[Float]) -> None:
    batches = batches_of(waveforms, make())
    forwards = [batches[step] for step in range(len(batches))]
    np.random.default_rng(1).random()
    again = batches_of(waveforms, make())
    backwards = [again[step] for step in reversed(range(len(again)))]
    assert same(forwards, backwards[::-1])
    assert len({features.tobytes() for features, _ in forwards}) == len(forwards)
    assert not same([forwards[0]], [batches_of(waveforms, make(), seed=1)[0]])


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_shares_of_all_ranks_are_the_whole_batch_row_by_row(
    make: MakeSpec, waveforms: list[Float], ranks: int
) -> None:
    spec, whole = make(), batches_of(waveforms, make())
    shares = [batches_of(waveforms, spec, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step, (features, targets) in enumerate(whole):
        for rank, share in enumerate(shares):
            own_features, own_targets = share[step]
            assert np.array_equal(own_features, features[rank::ranks])
            assert np.array_equal(own_targets, targets[rank::ranks])
            assert own_features.shape[1:] == (FRAMES, MELS)  # also of a share that is empty


def test_a_batch_does_not_depend_on_memory(make: MakeSpec, waveforms: list[Float]) -> None:
    kept, computed = (batches_of(waveforms, make(), memory_bytes=room) for room in (10**9, 0))
    assert same(kept, computed)


# ----- what is in a batch


def test_an_epoch_holds_each_clip_once(make: MakeSpec, waveforms: list[Float]) -> None:
    batches = batches_of(waveforms, make(), augment=PLAIN)
    seen = list(chain.from_iterable(targets.argmax(axis=1).tolist() for _, targets in batches))
    epochs = [seen[start : start + CLIPS] for start in range(0, 3 * CLIPS, CLIPS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(CLIPS))] * 3
    assert epochs[0] != epochs[1]


def test_clips_are_drawn_by_their_probabilities(make: MakeSpec, waveforms: list[Float]) -> None:
    only = np.zeros(CLIPS)
    only[3] = 1.0
    batches = batches_of(waveforms, make(), probabilities=only, augment=PLAIN)
    assert all((targets.argmax(axis=1) == 3).all() for _, targets in batches)


@pytest.mark.parametrize("remove_bin_means", [False, True])
def test_without_augmentation_a_clip_is_what_the_front_end_makes_of_it(
    make: MakeSpec, waveforms: list[Float], remove_bin_means: bool
) -> None:
    spec = make(remove_bin_means=remove_bin_means)
    frontend = Frontend(spec.frontend)
    for features, targets in batches_of(waveforms, spec, augment=PLAIN, epochs=1):
        for row, clip in zip(features, targets.argmax(axis=1), strict=True):
            waveform, frames = waveforms[clip], spec.frontend.frames_in(len(waveforms[clip]))
            starts = range(max(0, FRAMES - frames) + 1)  # a short clip stands anywhere in the window
            parts = range(max(0, frames - FRAMES) + 1)  # of a long one any part is heard
            expected = [
                np.roll(frontend.window(waveform[part * 160 :]), start, axis=0) for start in starts for part in parts
            ]
            # Rounded to float16 before; features are log-mels over 2 std. A bin's mean moves by as much again.
            tolerance = 2 * FLOAT16 / (2 * spec.frontend.std) + 1e-5
            assert min(np.abs(row - window).max() for window in expected) < tolerance


def test_bin_means_are_removed_from_what_sounds_alone(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = make(remove_bin_means=True)
    floor = np.float32(Frontend(spec.frontend).floor)
    augment = Augment(masks=0)
    partial = 0
    for features, _ in batches_of(waveforms, spec, augment=augment):
        for row in features:
            real = (row != floor).any(axis=1)
            partial += not real.all()
            assert (np.diff(np.flatnonzero(real)) == 1).all()  # one unbroken part, the rest is floor
            # a sum of 20 float32 values under 2
            np.testing.assert_allclose(row[real].mean(axis=0), 0, atol=1e-6)
    assert partial > 3


def test_masks_are_laid_over_the_features_in_the_end(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = make(remove_bin_means=True)
    floor = np.float32(Frontend(spec.frontend).floor)
    plain, masked = (
        batches_of(waveforms, spec, augment=PLAIN.model_copy(update={"masks": masks, "mask_share": 0.5}))
        for masks in (0, 2)
    )
    changed = 0.0
    for (before, _), (after, _) in zip(plain, masked, strict=True):
        assert ((after == before) | (after == floor)).all()
        changed += float((after != before).mean())
    # each of two masks along two axes hides a quarter on average: 1 - 0.75 ** 4 = 0.68 of what sounds
    assert 0.3 < changed / len(plain) < 0.8


def test_clips_mix_in_their_share_and_not_before_their_time(make: MakeSpec, waveforms: list[Float]) -> None:
    augment = PLAIN.model_copy(update={"mix_share": 0.5, "mix_from": 0.4})
    batches = batches_of(waveforms, make(), augment=augment, epochs=60)
    progress = [step.progress for step in Plan(make(), Training(batch_size=4), CLIPS, 60)]
    early = np.concatenate([targets for share, (_, targets) in zip(progress, batches, strict=True) if share < 0.4])
    late = np.concatenate([targets for share, (_, targets) in zip(progress, batches, strict=True) if share >= 0.4])
    assert set(np.unique(early)) == {0.0, 1.0}
    np.testing.assert_allclose(late.sum(axis=1), 1, atol=1e-6)  # float32
    assert (late.max(axis=1) >= 0.5).all()
    mixed = float((late.max(axis=1) < 1).mean())
    # half are mixed, a quarter of them with themselves; with 396 clips five deviations are 0.12
    assert 0.375 - 0.12 < mixed < 0.375 + 0.12


def test_mixing_is_of_waveforms_and_targets_alike(make: MakeSpec, make_tone: Callable[..., Float]) -> None:
    spec = make()
    tones = [make_tone(hz, seconds=WINDOW / 16_000) for hz in (500, 4_000)]
    augment = PLAIN.model_copy(update={"mix_share": 1.0, "mix_from": 0.0})
    frontend = Frontend(spec.frontend)
    shares = set()
    for features, targets in batches_of(tones, spec, augment=augment, epochs=10):
        for row, target in zip(features, targets, strict=True):
            if target.max() == 1:
                continue  # mixed with itself, to which it is not unrelated
            mixed = frontend.window(target[0] * tones[0] + target[1] * tones[1])
            # Two tones share no bin where either is strong; in the valley between them they are not unrelated, and
            # bins at the floor know nothing of what lies under it. float16 as above.
            strong = mixed > mixed.max() - 4 / (2 * spec.frontend.std)
            assert strong.any(axis=1).all()
            np.testing.assert_allclose(row[strong], mixed[strong], rtol=0, atol=0.05 / (2 * spec.frontend.std))
            shares.add(float(target.max()))
    assert len(shares) > 5


def test_padding_is_the_floor_of_the_front_end(make: MakeSpec) -> None:
    spec = make()
    silence = [np.zeros(WINDOW, np.float32)] * CLIPS
    (features, _), *_ = batches_of(silence, spec, augment=PLAIN)
    expected = (math.log(LOG_FLOOR) - spec.frontend.mean) / (2 * spec.frontend.std)
    # -15.942 in float16 is -15.945
    np.testing.assert_allclose(features, expected, rtol=0, atol=FLOAT16 / (2 * spec.frontend.std))


def test_clips_sound_in_noise_in_their_share_and_some_noises_are_of_nothing(
    make: MakeSpec, waveforms: list[Float]
) -> None:
    spec = make()
    augment = PLAIN.model_copy(update={"noise_share": 0.5, "nothing_share": 0.3, "noise_snr_db": (10.0, 10.0)})
    plain, noisy = (batches_of(waveforms, spec, augment=each, epochs=60) for each in (PLAIN, augment))
    kept, nothing, rows = 0, 0, 0
    for (before, clips), (after, targets) in zip(plain, noisy, strict=True):
        for row, clip, found, target in zip(before, clips, after, targets, strict=True):
            rows += 1
            kept += np.array_equal(row, found)
            if np.array_equal(target, clip):
                assert (found >= row).all()  # noise adds energy
            else:
                nothing += 1
                np.testing.assert_allclose(target, 1 / CLIPS)
                assert found.mean() < row.mean() or (row == row.min()).any()
    # of 660 clips; five deviations of a share of a half are 0.1, of 0.15 are 0.07
    assert 0.4 < kept / rows < 0.6
    assert 0.08 < nothing / rows < 0.22


def test_nothing_is_no_label_where_there_may_be_several(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = make().model_copy(update={"task": "multi"})
    augment = PLAIN.model_copy(update={"noise_share": 1.0, "nothing_share": 1.0})
    assert all((targets == 0).all() for _, targets in batches_of(waveforms, spec, augment=augment))


def test_noise_changes_nothing_else_about_a_clip(make: MakeSpec, waveforms: list[Float]) -> None:
    """Its draws are its own: far below the clips it leaves the batches as they were."""
    faint = Augment(noise_share=1.0, noise_snr_db=(100.0, 100.0))
    for (before, clips), (after, targets) in zip(
        batches_of(waveforms, make(), augment=Augment()), batches_of(waveforms, make(), augment=faint), strict=True
    ):
        assert np.array_equal(clips, targets)
        loud = before > 0
        np.testing.assert_allclose(after[loud], before[loud], atol=1e-3)


# ----- background


def backgrounds_of(waveforms: Sequence[Float], spec: Spec) -> Backgrounds:
    """One source of these."""
    log_mels = LogMels(waveforms, spec.frontend, Augment(speed=0.0))
    return Backgrounds([log_mels], [[len(waveform) / 16_000 for waveform in waveforms]])


def over(waveforms: list[Float], spec: Spec, backgrounds: Backgrounds, **augment: Any) -> Batches:
    """Batches over backgrounds, in nothing else varied unless told; targets name the clips, the last one nothing."""
    plain = {"echo_share": 0.0, "level_dbfs": (-30.0, -30.0), "mix_from": 0.0}
    settings = Training(batch_size=4, patches=(PatchSize(16, 16),), augment=PLAIN.model_copy(update=plain | augment))
    log_mels = LogMels(waveforms, spec.frontend, settings.augment)
    targets = np.eye(len(waveforms) + spec.nothing_class, dtype=np.float32)[: len(waveforms)]
    steps = Plan(spec, settings, len(waveforms), 60)
    return Batches(log_mels, targets, spec, settings, steps, backgrounds=backgrounds)


def nothing_spec(spec: Spec) -> Spec:
    return spec.model_copy(update={"labels": tuple(map(str, range(CLIPS))), "nothing_class": True})


def test_backgrounds_alone_are_nothing_in_their_share(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = nothing_spec(make())
    backgrounds = backgrounds_of([waveforms[-1]], spec)
    batches = over(waveforms, spec, backgrounds, background_alone_share=0.3, background_share=0.0)
    targets = np.concatenate([targets for _, targets in batches])
    assert (targets.sum(axis=1) == 1).all()
    # of 660 examples; five deviations of a share of 0.3 are 0.09
    assert 0.21 < targets[:, -1].mean() < 0.39


@pytest.mark.parametrize("task", ["single", "multi"])
def test_without_a_class_for_it_nothing_is_no_label(make: MakeSpec, waveforms: list[Float], task: str) -> None:
    spec = make().model_copy(update={"task": task})
    batches = over(waveforms, spec, backgrounds_of(waveforms, spec), background_alone_share=1.0)
    for _, targets in batches:
        np.testing.assert_allclose(targets, 1 / CLIPS if task == "single" else 0)


def test_a_clip_over_a_background_is_louder_than_it_by_the_ratio(
    make: MakeSpec, make_tone: Callable[..., Float]
) -> None:
    spec = nothing_spec(make())
    frontend = Frontend(spec.frontend)
    tone, hum = (make_tone(hz, seconds=WINDOW / 16_000) for hz in (4_000, 500))
    settings = {"background_alone_share": 0.0, "background_share": 1.0, "background_snr_db": (10.0, 10.0)}
    for features, targets in over([tone] * CLIPS, spec, backgrounds_of([hum], spec), **settings):
        assert (targets[:, -1] == 0).all()
        log_mel = features * 2 * spec.frontend.std + spec.frontend.mean
        bins = [int(frontend.log_mel(wave).mean(axis=0).argmax()) for wave in (tone, hum)]
        high, low = (np.exp(log_mel[..., max(0, b - 2) : b + 3]).sum(axis=2).mean(axis=1) for b in bins)
        # a filter of 0 dB; the energies lie in the bins around the tones' but for the taper's side lobes
        np.testing.assert_allclose(10 * np.log10(high / low), 10, atol=0.3)


def test_levels_are_spread_evenly_whatever_the_clips_own(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = nothing_spec(make())
    loudness = Loudness(Frontend(spec.frontend))
    quiet = [waveform / 100 for waveform in waveforms]
    for clips in (waveforms, quiet):
        found = []
        for features, targets in over(clips, spec, backgrounds_of(waveforms, spec), level_dbfs=(-40.0, -20.0)):
            rows = features[targets[:, -1] == 0] * 2 * spec.frontend.std + spec.frontend.mean
            found += [loudness.dbfs(row) for row in rows]
        assert -40.2 < min(found) < -39  # float16
        assert -21 < max(found) < -19.8
        assert abs(np.mean(found) + 30) < 2  # of 500; five deviations are 1.3


def test_some_silence_is_nothing_too(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = nothing_spec(make())
    floor = np.float32(Frontend(spec.frontend).floor)
    rows = [
        (row == floor).all()
        for features, _ in over(waveforms, spec, backgrounds_of(waveforms, spec), background_alone_share=1.0)
        for row in features
    ]
    assert 0 < np.mean(rows) < 0.06


def test_halves_are_nothing(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = nothing_spec(make())
    settings = {"background_alone_share": 0.0, "half_share": 1.0}
    assert all(
        (targets[:, -1] == 1).all() for _, targets in over(waveforms, spec, backgrounds_of(waveforms, spec), **settings)
    )


def test_a_source_of_background_is_drawn_as_often_as_the_root_of_its_length_says(make: MakeSpec) -> None:
    """Within a source, each second as often."""
    spec = make().frontend
    loud, faint = np.full(100 * WINDOW, 0.5, np.float32), np.full(WINDOW, 0.01, np.float32)
    rng = np.random.default_rng(0)
    loud, faint = (wave * rng.standard_normal(len(wave)).astype(np.float32) for wave in (loud, faint))
    sources = [
        LogMels(waves, spec, Augment(speed=0.0)) for waves in ([loud], [faint, np.zeros(3 * WINDOW, np.float32)])
    ]
    backgrounds = Backgrounds(sources, [[36.0], [1.0, 3.0]])
    means = np.array([backgrounds(FRAMES, np.random.default_rng(seed)).mean() for seed in range(800)])
    silent, soft = (means < -15).mean(), ((means >= -15) & (means < 0)).mean()
    # of √36 : √4 the second source has a quarter; five deviations of 3/16 and 1/16 among 800 are 0.069 and 0.043
    assert abs(silent - 3 / 16) < 0.069
    assert abs(soft - 1 / 16) < 0.043


def test_a_batch_over_backgrounds_is_a_pure_function_of_its_step(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = nothing_spec(make())
    one, other = (over(waveforms, spec, backgrounds_of(waveforms, spec), echo_share=0.5) for _ in range(2))
    assert same([one[step] for step in range(20)], [other[step] for step in reversed(range(20))][::-1])


def test_before_mixing_begins_clips_are_heard_as_without_a_background(make: MakeSpec, waveforms: list[Float]) -> None:
    spec = nothing_spec(make())
    settings = {"background_alone_share": 0.5, "background_share": 1.0, "mix_from": 1.0, "shift": 0.3, "gain_db": 6.0}
    found = over(waveforms, spec, backgrounds_of(waveforms, spec), **settings)
    plain = over(waveforms, spec, backgrounds_of(waveforms, spec), **settings | {"background_alone_share": 0.0})
    kept = 0
    for step in range(60):
        (features, targets), (expected, _) = found[step], plain[step]
        labelled = targets[:, -1] == 0
        assert np.array_equal(features[labelled], expected[labelled])
        kept += int(labelled.sum())
    assert 80 < kept < 160  # of 240, half are a background alone
