"""The plan of a run: pure, complete, and in the shares that were asked for."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flexiast.data.dataset import compute_balanced_weights
from flexiast.spec import ALL_PATCHES, PatchSize, Spec, parse_patches
from flexiast.training.recipe import Training
from flexiast.training.sampling import Order, PatchDraw, Plan, Step, active_patches, draw, step_clips

LEAST_P = 1e-3
"""Seeds are fixed, so a test of frequencies passes or fails for ever; a right one fails once in a thousand seeds."""

SEEDS = st.integers(0, 2**32 - 1)
PATCH_SETS = st.lists(
    st.builds(PatchSize, st.integers(4, 128), st.integers(4, 98)), min_size=1, max_size=6, unique=True
).map(tuple)
TRAININGS = st.builds(
    Training,
    seed=SEEDS,
    patches=PATCH_SETS,
    batch_size=st.integers(1, 40),
    batch_growth=st.floats(0, 1),
    base_first=st.floats(0, 1),
    max_tokens=st.none() | st.integers(1, 300),
)

# ----- draws


@given(SEEDS, st.integers(0, 10**6))
def test_a_draw_depends_on_its_arguments_alone(seed: int, step: int) -> None:
    first = draw(seed, "patch", step).integers(2**62)
    np.random.default_rng(0).random()
    assert draw(seed, "patch", step).integers(2**62) == first
    others = [
        draw(seed, "order", step),
        draw(seed, "augment", step),
        draw(seed, "mix", step),
        draw(seed ^ 1, "patch", step),
        draw(seed, "patch", step + 1),
    ]
    drawn = [first, *(other.integers(2**62) for other in others)]
    assert len(set(drawn)) == len(drawn)


# ----- the plan


@given(TRAININGS, st.integers(1, 200), st.integers(1, 5))
def test_a_plan_is_pure_and_sees_every_example(
    build_spec: Callable[..., Spec], training: Training, clips: int, epochs: int
) -> None:
    spec = build_spec()
    steps = list(Plan(spec, training, clips, epochs))
    np.random.default_rng(1).random()
    assert list(Plan(spec, training, clips, epochs)) == steps
    assert steps[0].first == 0
    assert all(after.first == before.first + before.clips for before, after in pairwise(steps))
    assert steps[-1].first + steps[-1].clips == epochs * clips
    assert all(1 <= step.clips <= clips for step in steps)
    assert all(step.progress == step.first / (epochs * clips) for step in steps)


def list_steps(spec: Spec, training: Training, clips: int, epochs: int, *, started: bool) -> list[Step]:
    """The plan as it was made in order: each step after the one before it."""
    steps: list[Step] = []
    first, examples = 0, clips * epochs
    weights = dict(zip(training.patches, training.patch_weights or [1.0] * len(training.patches), strict=True))
    while first < examples:
        progress = first / examples
        active = active_patches(spec, training, progress, started=started)
        shares = np.cumsum([weights[patch] for patch in active])
        value = np.random.default_rng((training.seed, 0, len(steps))).random() * shares[-1]
        patch = active[int(np.searchsorted(shares, value, side="right"))]
        count = min(step_clips(spec, training, patch), examples - first, clips)
        steps.append(Step(patch, first, count, progress))
        first += count
    return steps


@given(TRAININGS, st.sampled_from([0.0, 0.0, None]), st.integers(1, 150), st.integers(1, 4), st.booleans(), st.data())
def test_any_step_is_that_of_a_plan_made_in_order(
    build_spec: Callable[..., Spec],
    training: Training,
    growth: float | None,
    clips: int,
    epochs: int,
    started: bool,
    data: st.DataObject,
) -> None:
    weights = data.draw(st.none() | st.tuples(*[st.floats(0.1, 9)] * len(training.patches)))
    growth = training.batch_growth if growth is None else growth
    training = training.model_copy(update={"batch_growth": growth, "patch_weights": weights})
    expected = list_steps(build_spec(), training, clips, epochs, started=started)
    steps = Plan(build_spec(), training, clips, epochs, started=started)
    number = data.draw(st.integers(-len(expected), len(expected) - 1))
    assert steps[number] == expected[number]
    assert (len(steps), list(steps), steps[3:-2]) == (len(expected), expected, tuple(expected[3:-2]))
    with pytest.raises(IndexError):
        steps[len(expected)]


@given(TRAININGS, TRAININGS, st.integers(1, 40))
def test_plans_have_equal_identities_only_with_equal_steps(
    build_spec: Callable[..., Spec], one: Training, other: Training, clips: int
) -> None:
    for training in (other, one.model_copy(update={"base_first": other.base_first}), one):
        plans = [Plan(build_spec(), each, clips, 2) for each in (one, training)]
        assert plans[0].identity != plans[1].identity or list(plans[0]) == list(plans[1])


def test_a_plan_of_equal_batches_takes_no_memory(build_spec: Callable[..., Spec]) -> None:
    tracemalloc.start()
    try:
        steps = Plan(build_spec(), Training(batch_size=32), 2_000_000, 90)
        assert steps[5_000_000].first == 32 * 5_000_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000  # made whole, its steps would be a thousand times that
    finally:
        tracemalloc.stop()


@given(TRAININGS, st.integers(1, 100), st.integers(1, 4))
def test_each_clip_is_seen_once_an_epoch(
    build_spec: Callable[..., Spec], training: Training, clips: int, epochs: int
) -> None:
    order = Order(training.seed, clips)
    places = [place for step in Plan(build_spec(), training, clips, epochs) for place in range(*ends(step))]
    seen = [order[place] for place in places]
    for epoch in range(epochs):
        assert sorted(seen[epoch * clips : (epoch + 1) * clips]) == list(range(clips))


def ends(step: tuple[PatchSize, int, int, float]) -> tuple[int, int]:
    return step[1], step[1] + step[2]


@given(PATCH_SETS, st.integers(1, 40))
def test_without_growth_all_steps_but_the_last_have_equally_many_clips(
    build_spec: Callable[..., Spec], patches: tuple[PatchSize, ...], batch_size: int
) -> None:
    *whole, last = Plan(build_spec(), Training(patches=patches, batch_size=batch_size), 40, 3)
    assert {step.clips for step in whole} <= {batch_size}
    assert last.clips == (3 * 40 - 1) % batch_size + 1


@given(PATCH_SETS, st.integers(1, 64), st.none() | st.integers(1, 300))
def test_with_growth_all_steps_have_equally_many_tokens(
    build_spec: Callable[..., Spec], patches: tuple[PatchSize, ...], batch_size: int, max_tokens: int | None
) -> None:
    spec = build_spec()
    training = Training(patches=patches, batch_size=batch_size, batch_growth=1.0, max_tokens=max_tokens)

    def heard(patch: PatchSize) -> int:
        return min(spec.tokens(patch), max_tokens or spec.tokens(patch))

    for patch in patches:
        clips = step_clips(spec, training, patch)
        # clips are rounded to whole ones: half a clip's tokens; one clip is the least there is
        assert clips == 1 or abs(clips * heard(patch) - batch_size * heard(spec.base_patch)) <= heard(patch) / 2


@given(PATCH_SETS, st.floats(0, 1), st.floats(0, 1))
def test_more_growth_means_more_clips_of_coarse_sizes_and_fewer_of_fine_ones(
    build_spec: Callable[..., Spec], patches: tuple[PatchSize, ...], one: float, other: float
) -> None:
    spec = build_spec()
    for patch in patches:
        less, more = (
            step_clips(spec, Training(batch_growth=growth, batch_size=16), patch) for growth in sorted((one, other))
        )
        assert less <= more if spec.tokens(patch) <= spec.tokens(spec.base_patch) else less >= more


def test_a_data_set_smaller_than_a_batch_is_one_step_an_epoch(build_spec: Callable[..., Spec]) -> None:
    steps = Plan(build_spec(), Training(batch_size=1_000), 7, 3)
    assert [step.clips for step in steps] == [7, 7, 7]


# ----- patch sizes

SIZES = (PatchSize(8, 8), PatchSize(16, 16), PatchSize(16, 32), PatchSize(48, 48))


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 4.0, 0.5), (1e-6, 1.0, 1.0, 1.0)])
def test_sizes_are_drawn_in_the_shares_of_their_weights(
    build_spec: Callable[..., Spec], weights: tuple[float, ...] | None
) -> None:
    training = Training(patches=SIZES, patch_weights=weights, base_first=0.0, batch_size=1)
    drawn = Counter(step.patch for step in Plan(build_spec(), training, 4_000, 1))
    shares = np.array(weights or [1.0] * 4)
    found, expected = np.array([drawn[patch] for patch in SIZES]), 4_000 * shares / shares.sum()
    likely = expected > 5  # where the chi-square distribution holds; of the others three would be a wonder
    assert found[~likely].sum() < 3
    total = expected[likely] * found[likely].sum() / expected[likely].sum()
    assert stats.chisquare(found[likely], total).pvalue > LEAST_P


def test_the_patch_size_of_a_step_is_the_same_whatever_was_drawn_before(build_spec: Callable[..., Spec]) -> None:
    drawn, other = (PatchDraw(build_spec(), Training(seed=seed)) for seed in (7, 8))
    forwards = [drawn(step, 0.9) for step in range(300)]
    assert [drawn(step, 0.9) for step in reversed(range(300))] == forwards[::-1]
    assert [other(step, 0.9) for step in range(300)] != forwards


def test_the_base_size_comes_first_and_then_all(build_spec: Callable[..., Spec]) -> None:
    steps = Plan(build_spec(498), Training(batch_size=1, base_first=0.3), 1_000, 1)
    assert {step.patch for step in steps[:300]} == {PatchSize(16, 16)}
    assert {step.patch for step in steps[300:]} == set(ALL_PATCHES)


def test_a_run_that_starts_from_another_begins_with_all_sizes_unless_told(build_spec: Callable[..., Spec]) -> None:
    for told, first in ((None, set(ALL_PATCHES)), (0.4, {PatchSize(16, 16)})):
        training = Training(batch_size=1, base_first=told)
        steps = Plan(build_spec(498), training, 1_000, 1, started=True)
        assert {step.patch for step in steps[:400]} == first


def test_without_the_base_size_the_one_with_most_nearly_as_many_tokens_comes_first(
    build_spec: Callable[..., Spec],
) -> None:
    spec = build_spec(498)  # base: 256 tokens
    for sizes, first in (("8,20,48", "20"), ("8,16x32,48", "16x32"), ("4,8", "8"), ("8x40,8", "8x40")):
        training = Training(patches=parse_patches(sizes))
        assert active_patches(spec, training, 0.0) == parse_patches(first)


@given(PATCH_SETS, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_sizes_only_join_while_a_run_goes_on(
    build_spec: Callable[..., Spec], patches: tuple[PatchSize, ...], share: float, one: float, other: float
) -> None:
    spec, training = build_spec(), Training(patches=patches, base_first=share)
    early, late = (active_patches(spec, training, progress) for progress in sorted((one, other)))
    assert early
    assert set(early) <= set(late)
    assert active_patches(spec, training, share) == patches


# ----- the order of clips


@given(SEEDS, st.integers(1, 200))
def test_the_clip_at_a_place_does_not_depend_on_what_was_asked_before(seed: int, clips: int) -> None:
    order, places = Order(seed, clips), range(4 * clips)
    forwards = [order[place] for place in places]
    again = Order(seed, clips)
    assert [again[place] for place in reversed(places)] == forwards[::-1]


def test_epochs_have_orders_of_their_own_and_so_have_seeds() -> None:
    orders = [Order(0, 50), Order(1, 50)]
    epochs = {tuple(order[epoch * 50 + index] for index in range(50)) for order in orders for epoch in range(10)}
    assert len(epochs) == 20


def test_clips_are_drawn_by_their_probabilities() -> None:
    probabilities = np.array([0.5, 0.3, 0.2, 0.0] * 5) / 5
    order = Order(3, 20, probabilities)
    drawn = np.bincount([order[place] for place in range(10_000)], minlength=20)
    likely = probabilities > 0
    assert not drawn[~likely].any()
    assert stats.chisquare(drawn[likely], 10_000 * probabilities[likely]).pvalue > LEAST_P
    again = Order(3, 20, probabilities)
    assert [again[place] for place in (9_999, 0, 77)] == [order[place] for place in (9_999, 0, 77)]


def test_a_balanced_order_sees_rare_labels_as_often_as_common_ones() -> None:
    targets = np.repeat(np.eye(3, dtype=np.float32), (1, 9, 90), axis=0)
    order = Order(0, 100, compute_balanced_weights(targets))
    seen = targets[[order[place] for place in range(6_000)]].sum(axis=0)
    assert stats.chisquare(seen, [2_000] * 3).pvalue > LEAST_P
    assert math.isclose(compute_balanced_weights(targets).sum(), 1.0)
