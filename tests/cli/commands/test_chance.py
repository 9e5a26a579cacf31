"""When a run is at chance: judged by figures alone, without training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flexiast.evaluation.evaluate import PatchResult
from flexiast.spec import PatchSize, Spec
from flexiast_cli.commands.train.progress import describe_chance


def measure(*accuracies: float) -> list[PatchResult]:
    return [
        PatchResult(patch_size=PatchSize(8 * size, 8 * size), tokens=1, gmac=1.0, accuracy=accuracy)
        for size, accuracy in enumerate(accuracies, 1)
    ]


def count_targets(spec: Spec, *clips: int) -> np.ndarray:
    """Targets [clips, labels] with that many clips of each label."""
    return np.repeat(np.eye(len(spec.labels), dtype=np.float32)[: len(clips)], clips, axis=0)


@pytest.fixture
def two_labels(build_spec: Callable[..., Spec]) -> Spec:
    return build_spec(task="single", labels=("bark", "clap"))


@pytest.mark.parametrize(
    ("clips", "accuracies", "at_chance"),
    [
        ((50, 50), (0.54,), True),  # half the clips have either label; a standard error is 0.05
        ((50, 50), (0.56,), False),
        ((90, 10), (0.92,), True),  # always answering the first is right for 0.9; a standard error is 0.03
        ((90, 10), (0.94,), False),
        ((50, 50), (0.40, 0.70), True),  # the mean over sizes counts
        ((50, 50), (0.44, 0.70), False),
        ((1, 1), (1.0,), False),  # a perfect run is never at chance
    ],
)
def test_a_run_within_a_standard_error_of_the_commonest_label_is_at_chance(
    two_labels: Spec, clips: tuple[int, ...], accuracies: tuple[float, ...], at_chance: bool
) -> None:
    found = describe_chance(measure(*accuracies), two_labels, count_targets(two_labels, *clips))
    assert (found is not None) == at_chance
    if found is not None:
        assert repr(two_labels.labels[0]) in found


def test_without_a_measurement_or_with_several_labels_a_clip_nothing_is_judged(two_labels: Spec) -> None:
    targets = count_targets(two_labels, 50, 50)
    assert describe_chance([], two_labels, targets) is None
    several = two_labels.model_copy(update={"task": "multi"})
    assert describe_chance(measure(0.5), several, targets) is None
