"""From a bundle and the user's options to the controller that chooses the patch size.

candidates = load_candidates(bundle, options)               # engines, and what was measured of them here
controller = prepare(candidates, options, conditions)       # the governor, or the only size there is
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from flexiast.errors import DataError, UsageError
from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize, parse_patches
from flexiast_cli.options.policy import PolicyOptions, list_given
from flexiast_cli.options.validators import seconds_until
from flexiast_cli.terminal.console import log
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.trace import Header, Recorder
from flexiast_runtime.governor.types import Decision, Goal, Observation, Option, Policy
from flexiast_runtime.governor.worth import frontier
from flexiast_runtime.hardware.machine import MachineSettings
from flexiast_runtime.inference.backends import Backend, choose_precision, load_engines
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.profiling.options import measure_options
from flexiast_runtime.profiling.profiler import profile_key, versions
from flexiast_runtime.profiling.profiles import Profile, find, find_other_settings, has_any

Controller = GovernedController | FixedSize


@dataclass(frozen=True)
class Candidates:
    """The engines to choose among, and what was measured of them."""

    bundle: Bundle
    engines: Engines
    precision: str
    profile: Profile | None
    """None where this machine has none: then latencies are measured when they are needed"""

    def options(self) -> tuple[Option, ...]:
        """Each engine's option, as profiled or else as quickly measured now; warms up every engine."""
        profile, recalls = self.profile, read_recalls(self.bundle)
        watts = {} if profile is None else profile.watts(self.precision)
        options = measure_options(self.engines, None if profile is None else profile.latencies_s(self.precision))
        return tuple(
            replace(option, watts=watts.get(option.patch), recall_by_snr_db=recalls.get(option.patch, ()))
            for option in options
        )


def read_recalls(bundle: Bundle) -> dict[PatchSize, tuple[tuple[float, float], ...]]:
    """Patch size → (ratio in dB, recall there at the bundle's rate of false alarms), lowest ratio first.

    Empty for a bundle whose calibration, if it has one, measured no recall.
    """
    calibration = bundle.read_calibration()
    if calibration is None:
        return {}
    return {patch: tuple(sorted(calibration.recall_by_snr_db(patch).items())) for patch in bundle.manifest.patches}


def load_candidates(bundle: Bundle, request: PolicyOptions) -> Candidates:
    """Load the engines of the sizes that the options allow.

    Raises UsageError for options that exclude each other, and all that ``load_engines`` raises.
    """
    profile = find_profile(bundle, request.backend)
    measured = () if profile is None else profile.precisions
    precision = choose_precision(bundle.manifest, request.precision, request.backend, measured)
    patches = select_sizes(request, bundle.manifest, profile, precision)
    return Candidates(bundle, load_engines(bundle, patches, precision, request.backend, log), precision, profile)


def prepare(
    candidates: Candidates,
    request: PolicyOptions,
    conditions: Conditions,
    policy: Policy | None = None,
    *,
    time_s: float = 0.0,
) -> Controller:
    """The governor over the options that are worth their cost, or the only size there is.

    ``policy`` replaces the preset that the options name; ``time_s`` is the time of the stream at which it begins.
    Raises UsageError for a limit that cannot be kept.
    """
    options = candidates.options()
    policy = build_policy(request, options, conditions, datetime.now(), policy)
    if len(options) == 1:
        return FixedSize(options[0].patch)
    if policy.goal.until_s is not None:
        policy = replace(policy, goal=replace(policy.goal, until_s=policy.goal.until_s + time_s))
    controller = GovernedController(frontier(options), policy, conditions, time_s)
    controller.note = log
    return controller


def find_profile(bundle: Bundle, backend: Backend) -> Profile | None:
    """The bundle's profile on this machine; None where there is none, or, with a note, one that cannot be read."""
    if not has_any():
        return None
    key = profile_key(bundle, backend)
    try:
        profile = find(key)
    except DataError as error:
        log(f"{error}; until then engines are measured at the start")
        return None
    if profile is None and (other := find_other_settings(key)) is not None:
        log(
            f"the profile made with {describe_settings(other)} is ignored: this machine now has "
            f"{describe_settings(key.settings)}; engines are measured at the start (flexiast profile)"
        )
    return profile


def describe_settings(settings: MachineSettings) -> str:
    """Power mode and frequency governor, as a note names them."""
    known = {"power mode": settings.power_mode, "frequency governor": settings.governor}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value) or "no power mode"


def select_sizes(
    request: PolicyOptions, manifest: Manifest, profile: Profile | None, precision: str
) -> tuple[PatchSize, ...] | None:
    """The sizes to load, None for all; raises UsageError for options that exclude each other or leave no size."""
    if request.pin is not None:
        choosing = list_given({"--patch-sizes": request.patch_sizes, "--min-metric": request.min_metric})
        if refused := [*choosing, *request.two_sizes_needed]:
            raise UsageError(f"--pin keeps one size, {refused[0]} chooses among sizes; give one of them")
        return (PatchSize.parse(request.pin),)
    patches = None if request.patch_sizes is None else parse_patches(request.patch_sizes)
    if request.min_metric is None:
        return patches
    variants = [manifest.variant(patch, precision) for patch in patches or manifest.patches]
    return _select_by_metric(request.min_metric, variants, precision, profile)


def _select_by_metric(
    least: float, variants: Sequence[Variant], precision: str, profile: Profile | None
) -> tuple[PatchSize, ...]:
    own = {variant.patch_size: own_metric(variant, profile) for variant in variants}
    metrics = {v.patch_size: v.metric if own[v.patch_size] is None else own[v.patch_size] for v in variants}
    borrowed = [str(patch) for patch, metric in own.items() if metric is None and metrics[patch] is not None]
    if precision != "fp32" and borrowed:
        log(
            f"--min-metric uses the metric of float32 for {', '.join(borrowed)}: their {precision} engines were "
            "never measured (flexiast profile --accuracy DATA)"
        )
    reaching = tuple(patch for patch, metric in metrics.items() if metric is not None and metric >= least)
    if not reaching:
        known = ", ".join(f"{patch} {'–' if m is None else f'{m:.3f}'}" for patch, m in metrics.items())
        raise UsageError(f"no patch size is known to reach --min-metric {least:g}; there are {known}")
    return reaching


def own_metric(variant: Variant, profile: Profile | None) -> float | None:
    """The metric of this very engine: measured on this machine, else by the exporter, else None."""
    measured = profile and profile.measurement(variant.patch_size, variant.precision)
    if measured and measured.metric_measured_here:
        return measured.metric
    return variant.labelled.metric if variant.labelled else None


def build_policy(
    request: PolicyOptions,
    options: Sequence[Option],
    conditions: Conditions,
    now: datetime,
    policy: Policy | None = None,
) -> Policy:
    """The preset, or ``policy``, with the user's goal on a time line that begins now.

    Prints a note about an option that has no effect here; raises UsageError for a limit that nothing can keep.
    """
    policy = policy or POLICIES[request.policy or "balanced"]
    if len(options) == 1:
        if ineffective := request.two_sizes_needed:
            log(f"{options[0].patch} is the only size and is never left: no effect of {', '.join(ineffective)}")
        return policy
    _check_limits(request, options, conditions)
    return replace(
        policy,
        goal=Goal(
            until_s=None if request.until is None else seconds_until(request.until, now),
            min_battery=Goal.min_battery if request.min_battery is None else request.min_battery / 100,
            max_watts=request.max_watts,
        ),
    )


def _check_limits(request: PolicyOptions, options: Sequence[Option], conditions: Conditions) -> None:
    watts = [option.watts for option in options if option.watts is not None]
    metered = len(watts) == len(options)
    if request.max_watts is not None:
        if not metered:
            raise UsageError("--max-watts cannot be kept: no energy is known; measure it, flexiast profile --power")
        if min(watts) > request.max_watts:
            log(f"--max-watts {request.max_watts:g} cannot be kept: the cheapest size draws {min(watts):.1f} W")
    if request.until is not None and conditions.battery is None:
        log("--until has no effect: no battery can be read here")
    elif request.until is not None and not metered:
        log("--until: without power measurements (flexiast profile --power) it follows a straight discharge line")
    elif request.min_battery is not None and conditions.battery is None:
        log("--min-battery has no effect: no battery can be read here")


@contextmanager
def record_trace(
    controller: Controller, path: Path | None, bundle: Bundle, name: str, step_s: float, sources: int
) -> Iterator[None]:
    """Write observations and decisions to the path, if there is one, until the block ends or the disk is full.

    Raises UsageError for a fixed size, DataError where the file cannot be written.
    """
    if path is None:
        yield
        return
    if isinstance(controller, FixedSize):
        raise UsageError("--record writes what the governor decides; with one patch size it decides nothing")
    header = Header(
        created_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        bundle=name,
        bundle_sha256=bundle.sha256,
        versions=versions(),
        step_s=step_s,
        options=controller.options,
        policy=controller.policy,
        first_observation=controller.first,
        index=controller.index,
        sources=sources,
    )
    recorder = Recorder(path, header)

    def write(observation: Observation, decision: Decision) -> None:
        try:
            recorder(observation, decision)
        except DataError as error:  # a full disk is no reason to stop listening
            log(f"{error}; the recording ends there, listening goes on")

    controller.record = write
    try:
        yield
    finally:
        recorder.close()
        if recorder.full:
            log(f"{path} is full: it holds the beginning only")
