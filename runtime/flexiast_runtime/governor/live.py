"""The controllers that a stream asks which patch size to run: the governor with its state, or one fixed size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flexiast.spec import PatchSize
from flexiast_runtime.governor.battery_filter import describe_distrust
from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.types import Decision, Observation, Option, Policy
from flexiast_runtime.hardware.battery import Battery


@dataclass(frozen=True)
class Conditions:
    """What the machine and the user allow right now."""

    deadline_s: float
    battery: Battery | None = None
    thermal_headroom_c: float | None = None
    """Degrees to the temperature at which the kernel throttles the processor"""
    throttled: bool | None = None
    power_saver: bool | None = None
    snr_db: float | None = None
    """Signal-to-noise ratio of the sounds at this place"""

    def to_observation(self, time_s: float) -> Observation:
        """The governor's view of them, without a window."""
        return Observation(
            time_s,
            self.deadline_s,
            battery=self.battery,
            thermal_headroom_c=self.thermal_headroom_c,
            throttled=self.throttled,
            power_saver=self.power_saver,
            snr_db=self.snr_db,
        )


class GovernedController:
    """The governor with its state. It decides before the first window and after each one."""

    def __init__(
        self, options: tuple[Option, ...], policy: Policy, conditions: Conditions, time_s: float = 0.0
    ) -> None:
        """``time_s``: time of the stream at which it begins."""
        self.options, self.policy, self.first = options, policy, conditions.to_observation(time_s)
        self.record: Callable[[Observation, Decision], None] = lambda observation, decision: None
        """Called with each observation and its decision"""
        self.note: Callable[[str], None] = lambda text: None
        """Called when a charge that was read is not believed, once in a run"""
        self._noted = False
        self._state = init_state(policy, options, self.first)

    @property
    def index(self) -> int:
        return self._state.index

    @property
    def patch(self) -> PatchSize:
        return self.options[self._state.index].patch

    def observe(self, observation: Observation) -> str | None:
        """Update the state with one window; returns the reason if another patch size runs from now on."""
        self._state, decision = step(self.policy, self.options, self._state, observation)
        self.record(observation, decision)
        if not self._noted and (distrust := describe_distrust(self._state.battery)):
            self._noted = True
            self.note(distrust)
        return decision.reason

    @property
    def degraded(self) -> bool:
        """Every engine has failed and is in its cooldown."""
        return self._state.degraded

    @property
    def overloaded(self) -> bool:
        """Even the cheapest size misses the deadline again and again."""
        return self._state.overloaded


class FixedSize:
    """One patch size that never changes."""

    degraded = overloaded = False

    def __init__(self, patch: PatchSize) -> None:
        self.patch = patch

    def observe(self, observation: Observation) -> str | None:
        return None
