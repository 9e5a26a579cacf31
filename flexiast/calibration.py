"""What a bundle's calibration measured: thresholds for several budgets of false alarms, and what they cost in recall.

It is a file of the bundle rather than a part of the manifest, so that programs older than it still read the bundle.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from flexiast.errors import ModelError, UsageError
from flexiast.manifest import Metric, Threshold
from flexiast.spec import PatchSize, Value, describe

CALIBRATION = "calibration.json"


class CalibratedSize(Value):
    """One patch size at one budget."""

    thresholds: dict[str, Threshold]
    """Of each label"""
    at_most_per_hour: float = Field(ge=0)
    """Upper bound of the rate of false alarms, with 90 % confidence"""
    recall_by_snr_db: dict[str, Metric] = Field(default_factory=dict)
    """Decibels of the clips above the background → share that was detected; empty where no clips were given"""


class CalibratedBudget(Value):
    """A budget of false alarms, and the sizes that keep it."""

    false_alarms_per_hour: float = Field(gt=0)
    sizes: dict[str, CalibratedSize] = Field(min_length=1)
    """By patch size, such as ``16x16``"""

    @property
    def size_thresholds(self) -> dict[PatchSize, dict[str, float]]:
        return {PatchSize.parse(patch): dict(size.thresholds) for patch, size in self.sizes.items()}


class Calibration(Value):
    """All budgets that were tried, and the one whose thresholds the manifest has."""

    schema_version: Literal["1.0"] = "1.0"
    false_alarms_per_hour: float
    """The budget that was asked for"""
    hours: float = Field(gt=0)
    """Of the background that the figures were measured on, which no threshold was chosen on"""
    clips: int = Field(ge=0)
    """That the recall was measured with, at each signal-to-noise ratio"""
    points: tuple[CalibratedBudget, ...] = Field(min_length=1)
    """The smallest budget first"""

    def point(self, most_per_hour: float | None = None) -> CalibratedBudget:
        """That of the largest budget within ``most_per_hour``, or of the one asked for; UsageError where none is."""
        if most_per_hour is None:
            return next(one for one in self.points if one.false_alarms_per_hour == self.false_alarms_per_hour)
        within = [one for one in self.points if one.false_alarms_per_hour <= most_per_hour * (1 + 1e-9)]
        if not within:
            least = self.points[0].false_alarms_per_hour
            raise UsageError(
                f"the bundle was calibrated down to {24 * least:g} false alarms a day ({least:g} an hour); calibrate "
                f"it with --false-alarms-per-hour {most_per_hour:.3g} for fewer"
            )
        return within[-1]

    def recall_by_snr_db(self, patch: PatchSize, most_per_hour: float | None = None) -> dict[float, float]:
        """What a size detects at each signal-to-noise ratio at a budget; empty where that was not measured."""
        size = self.point(most_per_hour).sizes.get(str(patch))
        return {} if size is None else {float(snr_db): recall for snr_db, recall in size.recall_by_snr_db.items()}


def parse_calibration(content: bytes, where: str) -> Calibration:
    """Raises ModelError."""
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(f"{where} is no valid calibration: {describe(error)}; calibrate the bundle again") from error
