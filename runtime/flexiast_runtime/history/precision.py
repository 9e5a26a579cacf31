"""How often each label was right, by the verdicts."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from flexiast.evaluation.per_label import wilson_interval
from flexiast_runtime.history.verdicts import ReviewedEvent, Verdict


@dataclass(frozen=True)
class Precision:
    """Of events that were reviewed, those that were right."""

    right: int
    reviewed: int

    @property
    def share(self) -> float:
        return self.right / self.reviewed

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Wilson."""
        return wilson_interval(self.share, self.reviewed)

    def document(self) -> dict[str, Any]:
        low, high = self.interval
        counts = {"right": self.right, "reviewed": self.reviewed, "precision": round(self.share, 4)}
        return counts | {"interval": [round(low, 4), round(high, 4)]}


@dataclass(frozen=True)
class PrecisionReport:
    """By what was detected, when, and by which model."""

    total: Precision | None
    """None without a verdict"""
    by_label: dict[str, Precision]
    """The most reviewed first"""
    by_hour: dict[int, Precision]
    """Local hour of the day, 0 … 23, in order; recordings have none"""
    by_bundle: dict[tuple[str | None, str | None], Precision]
    """Name of the model and hash of its bundle, None where they were not stored; the latest last"""
    mistaken_for: dict[tuple[str, str], int]
    """Label that was reported and what it was → how often"""

    def document(self) -> dict[str, Any]:
        return {
            "total": None if self.total is None else self.total.document(),
            "labels": [{"label": label} | one.document() for label, one in self.by_label.items()],
            "hours": [{"hour": hour} | one.document() for hour, one in self.by_hour.items()],
            "bundles": [
                {"model": model, "bundle_sha256": sha256} | one.document()
                for (model, sha256), one in self.by_bundle.items()
            ],
            "mistaken_for": [
                {"label": label, "true_label": other, "events": count}
                for (label, other), count in self.mistaken_for.items()
            ],
        }


def measure_precision(reviewed: Iterable[ReviewedEvent]) -> PrecisionReport:
    """Count verdicts. Events without one are passed over."""
    labels, hours, bundles = _Tally(), _Tally(), _Tally()
    total = _Tally()
    mistaken: Counter[tuple[str, str]] = Counter()
    for one in reviewed:
        if one.judgement is None:
            continue
        right = one.judgement.verdict is Verdict.RIGHT
        total.add("all", right=right)
        labels.add(one.event["label"], right=right)
        bundles.add((one.model, one.bundle_sha256), right=right)
        if one.event["started_at"] is not None:
            hours.add(datetime.datetime.fromisoformat(one.event["started_at"]).astimezone().hour, right=right)
        if one.judgement.verdict is Verdict.OTHER:
            mistaken[one.event["label"], str(one.judgement.label)] += 1
    return PrecisionReport(
        total.results().get("all"),
        dict(sorted(labels.results().items(), key=lambda item: (-item[1].reviewed, item[0]))),
        dict(sorted(hours.results().items())),
        bundles.results(),
        dict(mistaken.most_common()),
    )


class _Tally:
    """Counts of right and of all, by a key."""

    def __init__(self) -> None:
        self._right: Counter[Any] = Counter()
        self._all: Counter[Any] = Counter()

    def add(self, key: Hashable, *, right: bool) -> None:
        self._all[key] += 1
        self._right[key] += right

    def results(self) -> dict[Any, Precision]:
        return {key: Precision(self._right[key], count) for key, count in self._all.items()}
