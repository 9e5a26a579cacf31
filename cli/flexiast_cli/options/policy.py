"""How the patch size is chosen: presets, a pinned size, what the user asks of the battery; recorded if so asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flexiast_cli.options.validators import named_sizes, percent, positive, share, time_to_last

if TYPE_CHECKING:
    from flexiast.manifest import Manifest, Variant
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
    from flexiast_runtime.governor.types import Decision, Observation, Option, Policy
    from flexiast_runtime.inference.backends import Backend
    from flexiast_runtime.inference.engine import Engines
    from flexiast_runtime.profiling.profiles import Profile

Preset = Literal["steady", "balanced", "greedy"]
"""Those of flexiast_runtime.governor.presets, which need numpy, and help does not."""

PolicyOption = Annotated[
    Preset | None,
    typer.Option(
        "--policy",
        help="steady switches seldom, greedy takes the best size as soon as it fits (default: balanced).",
    ),
]
CascadeOption = Annotated[
    bool,
    typer.Option(
        "--cascade",
        help="Run no engine while nothing stands out from the background; ask the chosen size only where the cheapest "
        "finds that something may be an event.",
    ),
]
PinOption = Annotated[
    str | None,
    typer.Option("--pin", metavar="SIZE", callback=named_sizes, help="Keep this patch size whatever happens."),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="TIME",
        callback=time_to_last,
        help="The battery must last until then: 18:00, or 2h from now.",
    ),
]
MinBatteryOption = Annotated[
    float | None,
    typer.Option("--min-battery", metavar="PERCENT", callback=percent, help="Charge to be kept (default: 20)."),
]
MaxWattsOption = Annotated[
    float | None,
    typer.Option(
        "--max-watts",
        metavar="W",
        callback=positive,
        help="What the machine may draw (needs `flexiast profile --power`).",
    ),
]
MinMetricOption = Annotated[
    float | None,
    typer.Option(
        "--min-metric", metavar="SHARE", callback=share, help="Use no patch size whose accuracy or mAP was lower."
    ),
]
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="FILE", help="Write what is seen and decided (JSON lines), for `flexiast simulate --trace`."
    ),
]


@dataclass(frozen=True)
class PolicyOptions:
    """What was asked for; figures are as they were given."""

    policy: Preset | None = None
    pin: str | None = None
    until: str | None = None
    min_battery: float | None = None
    max_watts: float | None = None
    min_metric: float | None = None

    def sizes(
        self, patch_sizes: str | None, manifest: Manifest, precision: str | None, profile: Profile | None
    ) -> tuple[PatchSize, ...] | None:
        """Those to load, None for all of them; raises UsageError for what excludes itself, or where none is left."""
        from flexiast.errors import UsageError
        from flexiast.spec import PatchSize, parse_patches

        if self.pin is not None:
            if refused := [
                *_list_given({"--patch-sizes": patch_sizes, "--min-metric": self.min_metric}),
                *self._choosing,
            ]:
                raise UsageError(f"--pin keeps one size whatever happens, {refused[0]} chooses; give one of them")
            return (PatchSize.parse(self.pin),)
        wanted = None if patch_sizes is None else parse_patches(patch_sizes)
        return wanted if self.min_metric is None else self._good_enough(wanted, manifest, precision, profile)

    def _good_enough(
        self,
        wanted: tuple[PatchSize, ...] | None,
        manifest: Manifest,
        precision: str | None,
        profile: Profile | None,
    ) -> tuple[PatchSize, ...]:
        from flexiast.errors import UsageError
        from flexiast_cli.terminal.console import say

        least = self.min_metric or 0.0
        variants = [manifest.variant(patch, precision) for patch in wanted or manifest.patches]
        own = {v.patch_size: own_metric(v, profile) for v in variants}
        metrics = {v.patch_size: v.metric if own[v.patch_size] is None else own[v.patch_size] for v in variants}
        precision = manifest.precision(precision)
        borrowed = [str(patch) for patch, metric in own.items() if metric is None and metrics[patch] is not None]
        if precision != "fp32" and borrowed:
            say(
                f"--min-metric goes by what float32 reached for {', '.join(borrowed)}: their {precision} engines were "
                "never measured (flexiast profile --accuracy DATA)"
            )
        good = tuple(patch for patch, metric in metrics.items() if metric is not None and metric >= least)
        if not good:
            there = ", ".join(f"{patch} {'–' if m is None else f'{m:.3f}'}" for patch, m in metrics.items())
            raise UsageError(f"no patch size is known to reach --min-metric {least:g}; there are {there}")
        return good

    @property
    def _choosing(self) -> list[str]:
        """Options given that need two sizes to choose between."""
        return _list_given(
            {
                "--policy": self.policy,
                "--until": self.until,
                "--min-battery": self.min_battery,
                "--max-watts": self.max_watts,
            }
        )

    def resolved(self, options: Sequence[Option], conditions: Conditions, now: datetime) -> Policy:
        """The preset with its goal, on a time line that begins now; what cannot be had as asked is said, or raised."""
        from flexiast.errors import UsageError
        from flexiast_cli.terminal.console import say
        from flexiast_runtime.governor.presets import POLICIES
        from flexiast_runtime.governor.types import Goal

        if len(options) == 1 and self._choosing:
            vain = ", ".join(self._choosing)
            say(f"{options[0].patch} is the only size and kept whatever happens: no effect of {vain}")
            return POLICIES["balanced"]
        until_s = None if self.until is None else seconds_until(self.until, now)
        watts = [option.watts for option in options if option.watts is not None]
        metered = len(watts) == len(options)
        if self.max_watts is not None:
            if not metered:
                raise UsageError("--max-watts cannot be kept: no energy is known; measure it, flexiast profile --power")
            if min(watts) > self.max_watts:
                say(f"--max-watts {self.max_watts:g} cannot be kept: the cheapest size draws {min(watts):.1f} W")
        if until_s is not None and conditions.battery is None:
            say("--until: no battery can be read here, so there is nothing to spare")
        elif until_s is not None and not metered:
            say("--until: no energy is known (flexiast profile --power), so charge alone is led along a line")
        elif self.min_battery is not None and conditions.battery is None:
            say("--min-battery: no battery can be read here, so there is no charge to be kept")
        kept = Goal.min_battery if self.min_battery is None else self.min_battery / 100
        return replace(POLICIES[self.policy or "balanced"], goal=Goal(until_s, kept, self.max_watts))


def _list_given(options: Mapping[str, object]) -> list[str]:
    return [name for name, value in options.items() if value is not None]


def seconds_until(text: str, now: datetime) -> float:
    """``2h`` → 7200; ``18:00`` → to the next time that the clock shows it. Raises UsageError."""
    from flexiast.errors import UsageError
    from flexiast_runtime.units import parse_duration

    clock = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text)
    if clock is None:
        try:
            return parse_duration(text)
        except ValueError:
            raise UsageError(f"--until {text!r} cannot be read; write a time of day as 18:00, or 90m, 2h, 1d") from None
    then = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
    return (then if then > now else then + timedelta(days=1)).timestamp() - now.timestamp()


def own_metric(variant: Variant, profile: Profile | None) -> float | None:
    """What this engine itself reached: on this machine, else on the exporter's clips; None where nobody measured."""
    measured = profile and profile.measurement(variant.patch_size, variant.precision)
    if measured and measured.metric_measured_here:
        return measured.metric
    return variant.labelled.metric if variant.labelled else None


def profile_of(bundle: Bundle, backend: Backend) -> Profile | None:
    """What was measured here; None where there is no profile that holds, or one that cannot be read, which is said."""
    from flexiast.errors import DataError
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.profiling.profiler import profile_key
    from flexiast_runtime.profiling.profiles import find

    try:
        return find(profile_key(bundle, backend))
    except DataError as error:
        say(f"{error}; until then engines are measured at the start")
        return None


def options_of(engines: Engines, profile: Profile | None, precision: str) -> tuple[Option, ...]:
    """Each engine's option, as profiled or else as quickly measured now; every engine is warmed up."""
    from flexiast_runtime.profiling.options import measure_options

    if profile is None:
        return measure_options(engines)
    watts = profile.watts(precision)
    found = measure_options(engines, profile.latencies_s(precision))
    return tuple(replace(option, watts=watts.get(option.patch)) for option in found)


def build_controller(
    options: Sequence[Option], policy: Policy, conditions: Conditions
) -> GovernedController | FixedSize:
    """The governor over the options that are worth their cost, or the only one there is."""
    from flexiast_runtime.governor.live import FixedSize, GovernedController
    from flexiast_runtime.governor.step import frontier

    return (
        FixedSize(options[0].patch) if len(options) == 1 else GovernedController(frontier(options), policy, conditions)
    )


@contextmanager
def record_trace(
    chosen: GovernedController | FixedSize, path: Path | None, bundle: Bundle, name: str, step_s: float, sources: int
) -> Iterator[None]:
    """Write what is seen and decided to the path, if there is one, as long as there is room.

    Raises UsageError where nothing is decided, DataError where nothing can be written.
    """
    from flexiast.errors import DataError, UsageError
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.governor.live import FixedSize
    from flexiast_runtime.governor.trace import Header, Recorder
    from flexiast_runtime.profiling.profiler import manifest_sha256, versions

    if path is None:
        yield
        return
    if isinstance(chosen, FixedSize):
        raise UsageError("--record writes down what the governor decides; with one patch size it decides nothing")
    header = Header(
        created_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        bundle=name,
        bundle_sha256=manifest_sha256(bundle),
        versions=versions(),
        step_s=step_s,
        options=chosen.options,
        policy=chosen.policy,
        first_observation=chosen.first,
        index=chosen.index,
        sources=sources,
    )
    recorder = Recorder(path, header)

    def write(seen: Observation, decision: Decision) -> None:
        try:
            recorder(seen, decision)
        except DataError as error:  # a full disk is no reason to stop listening
            say(f"{error}; the recording ends there, listening goes on")

    chosen.record = write
    try:
        yield
    finally:
        recorder.close()
        if recorder.full:
            say(f"{path} is full: it holds the beginning only")
