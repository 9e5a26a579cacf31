"""How a stream is turned into events: the step, the smoothing, the rules and the gate."""

from __future__ import annotations

from dataclasses import dataclass

from flexiast.spec import FrontendSpec
from flexiast_runtime.detection.gate import DIGITAL_SILENCE_DBFS
from flexiast_runtime.detection.rules import EventRules

WINDOWS_PER_SOUND = 4
"""Steps in one window: a sound as long as the window is classified this often."""
MAX_STEP_S = 0.5
"""Two windows a second at least: an event is reported half a second late at most, however long the window is."""
SMOOTHING_STEPS = 1.5
"""Time constant of the smoothing, in steps: one odd window fades within two steps."""


@dataclass(frozen=True)
class DetectionSettings:
    """What stays the same for every window of a stream."""

    step_s: float
    smoothing_s: float
    rules: EventRules = EventRules()
    gate_dbfs: float = DIGITAL_SILENCE_DBFS
    """A window whose samples are all below this peak is not run; −inf runs all but digital silence."""

    @classmethod
    def from_frontend(
        cls,
        frontend: FrontendSpec,
        rules: EventRules = EventRules(),
        *,
        smoothing_s: float | None = None,
        gate_dbfs: float = DIGITAL_SILENCE_DBFS,
    ) -> DetectionSettings:
        """The defaults for a window length. The step is a whole number of hops."""
        hop_s = frontend.hop_samples / frontend.sample_rate_hz
        step_s = max(1, round(min(frontend.window_s / WINDOWS_PER_SOUND, MAX_STEP_S) / hop_s)) * hop_s
        return cls(step_s, SMOOTHING_STEPS * step_s if smoothing_s is None else smoothing_s, rules, gate_dbfs)
