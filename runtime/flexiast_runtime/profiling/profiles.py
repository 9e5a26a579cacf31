"""Profiles: what was measured of a bundle on a machine, and where it is stored.

A profile is valid for one machine with its settings, one bundle and one backend: its key. It is stored under the hash
of the whole key, so a profile of another power mode, ONNX Runtime or export is never used in its place.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from flexiast.errors import DataError
from flexiast.files import write_atomically
from flexiast.manifest import Precision, Sha256
from flexiast.paths import data_folder
from flexiast.spec import Patch, PatchSize, Value, describe
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.machine import Machine, MachineSettings
from flexiast_runtime.inference.engine import Stages
from flexiast_runtime.percentiles import interval, percentile
from flexiast_runtime.profiling.measure import Power, Runs
from flexiast_runtime.schema import rename_keys, upgrade_json

RENAMED_KEYS = {"made_at": "created_at"}
"""Keys of schema 1.0 and what they are called since 2.0"""
RENAMED_IN_MEASUREMENT = {
    "metric_is_own": "metric_measured_here",
    "mj": "energy_mj",
    "mj_above_idle": "energy_above_idle_mj",
    "per_s": "windows_per_s",
    "variation": "coefficient_of_variation",
}
MAX_PROFILE_BYTES = 10_000_000
MIN_CHANGE = 0.05
"""Relative change of a median below which it counts as noise: repeated runs on a quiet machine differ by less."""


class ProfileKey(Value):
    """Everything that the measurements depend on."""

    machine: Machine
    settings: MachineSettings
    bundle_sha256: Sha256
    """Of the manifest, which has the hash of every file"""
    backend: str
    threads: int = Field(ge=1)
    versions: dict[str, str]
    """Of what runs the engines"""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class GpuTimes(Value):
    """Medians of the stages of one window on a GPU, in milliseconds."""

    enqueue_ms: float
    """Time of the processor to enqueue the work"""
    h2d_ms: float
    """Features to the GPU"""
    compute_ms: float
    d2h_ms: float
    """Logits from it"""
    transfers: bool
    """Whether latencies include both copies"""
    cuda_graph: bool
    """Whether windows were launched as one CUDA graph"""


class Measurement(Value):
    """One variant: times of one window in milliseconds, percentiles by nearest rank."""

    patch_size: Patch
    precision: Precision
    tokens: int
    gmac: float
    metric: float | None = None
    """Accuracy or mean average precision, if measured"""
    metric_measured_here: bool = False
    """Whether `--accuracy` measured it with this engine; otherwise it is the bundle's"""
    cold_ms: float
    """The first inference after loading"""
    min_ms: float
    mean_ms: float
    p50_ms: float
    p50_bounds_ms: tuple[float, float]
    """95 % confidence"""
    p90_ms: float
    p95_ms: float
    p95_bounds_ms: tuple[float, float]
    """95 % confidence"""
    p99_ms: float
    max_ms: float
    coefficient_of_variation: float
    """Standard deviation ÷ mean"""
    runs: int
    stable: bool
    """Whether the 95th percentile is known to within 10 %"""
    windows_per_s: float
    """Windows per second, back to back"""
    rtf: float
    """Compute time ÷ audio time while listening: the mean over one step"""
    cpu_ms: float
    """CPU time of all threads per window"""
    paced_ms: float | None = None
    """Median with a pause before each run, as while listening; None in an older profile"""
    private_mb: float | None
    """Unshared memory of a process that runs only this variant"""
    peak_mb: float | None
    size_mb: float
    """Size of the graphs it runs"""
    energy_mj: float | None = None
    """Energy per window in millijoules, including the idle machine's; None: not measured"""
    energy_above_idle_mj: float | None = None
    gpu: GpuTimes | None = None
    """None: not run by TensorRT"""

    @property
    def name(self) -> str:
        return f"{self.patch_size} {self.precision}"


class Reading(Value):
    """Temperatures and clocks at one moment."""

    temperatures_c: dict[str, float]
    clocks_mhz: dict[str, float]
    throttled: bool | None
    gpu_limits: tuple[str, ...] = ()
    """Reasons for reduced clocks of a discrete GPU"""


class Profile(Value):
    """The result of `flexiast profile`."""

    schema_version: Literal["2.0"] = "2.0"
    created_at: str
    bundle: str
    """As the user named it"""
    source_sha256: Sha256
    """Of the weights it was exported from"""
    key: ProfileKey
    step_s: float
    """Seconds from one window to the next while listening"""
    meter: str | None
    """What measured the energy; None: it was not measured"""
    idle_w: float | None = None
    """Power of the idle machine; None: not measured"""
    before: Reading
    after: Reading
    measurements: tuple[Measurement, ...] = Field(min_length=1)
    warnings: tuple[str, ...] = ()

    def measurement(self, patch: PatchSize, precision: str) -> Measurement | None:
        """The measurement of a variant, or None."""
        found = (m for m in self.measurements if (m.patch_size, m.precision) == (patch, precision))
        return next(found, None)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that were measured."""
        return tuple(dict.fromkeys(m.precision for m in self.measurements))

    def latencies_s(self, precision: str) -> dict[PatchSize, float]:
        """Medians of one precision, for the governor: paced, as an engine runs while listening."""
        return {
            m.patch_size: (m.p50_ms if m.paced_ms is None else m.paced_ms) / 1000
            for m in self.measurements
            if m.precision == precision
        }

    def watts(self, precision: str) -> dict[PatchSize, float]:
        """Power of the machine while it listens with each size of one precision, where it was measured."""
        if self.idle_w is None:
            return {}
        return {
            m.patch_size: self.idle_w + m.energy_above_idle_mj / 1000 / self.step_s
            for m in self.measurements
            if m.precision == precision and m.energy_above_idle_mj is not None
        }

    def estimate_ms(self, gmac: float, precision: str) -> float | None:
        """Median latency of an unmeasured size, interpolated between its neighbours in cost on logarithmic axes.

        Sizes of equal cost, such as 16x32 and 32x16, count as one, with their geometric mean. None if fewer than two
        costs of that precision were measured.
        """
        logarithms: dict[float, list[float]] = defaultdict(list)
        for m in self.measurements:
            if m.precision == precision:
                logarithms[m.gmac].append(math.log(m.p50_ms))
        known = sorted((cost, math.exp(sum(times) / len(times))) for cost, times in logarithms.items())
        if len(known) < 2:
            return None
        pairs = list(itertools.pairwise(known))
        (below, fast), (above, slow) = next((pair for pair in pairs if gmac <= pair[1][0]), pairs[-1])
        return fast * (gmac / below) ** (math.log(slow / fast) / math.log(above / below))


def summarize_latencies(runs: Runs, step_s: float) -> dict[str, object]:
    """Fields of a measurement from its latencies."""
    ordered = sorted(runs.latencies_s)
    count = len(ordered)
    mean = sum(ordered) / count
    deviation = (sum((value - mean) ** 2 for value in ordered) / count) ** 0.5
    ranks = {f"p{rank}_ms": 1000 * percentile(ordered, rank) for rank in (50, 90, 95, 99)}
    bounds = {f"p{rank}_bounds_ms": tuple(1000 * bound for bound in interval(ordered, rank)) for rank in (50, 95)}
    return {
        "cold_ms": 1000 * runs.cold_s,
        "min_ms": 1000 * ordered[0],
        "mean_ms": 1000 * mean,
        "max_ms": 1000 * ordered[-1],
        **ranks,
        **bounds,
        "coefficient_of_variation": deviation / mean,
        "runs": count,
        "stable": runs.stable,
        "windows_per_s": count / runs.wall_s,
        "rtf": mean / step_s,
        "cpu_ms": 1000 * runs.cpu_s / count,
    }


def describe_battery_life(profile: Profile, precision: str, battery: Battery | None) -> str:
    """How long the charge lasts at each size of a precision; empty where its energy or the power is not known."""
    watts = profile.watts(precision)
    if battery is None or battery.energy_j is None or not watts:
        return ""
    watt_hours = battery.energy_j / 3600
    hours = ", ".join(f"{watt_hours / power:.1f} h at {patch}" for patch, power in watts.items())
    idle = f", up to {watt_hours / profile.idle_w:.1f} h" if profile.idle_w else ""
    return (
        f"The {watt_hours:.1f} Wh in the battery last {hours} in {precision}, if every window is run; listen skips "
        f"those in which nothing changes, which lasts longer{idle}."
    )


def describe_change(old: Measurement, new: Measurement) -> str:
    """Compare a variant's median with an older profile: faster, slower, or within noise.

    Consecutive runs are not independent, so disjoint bounds are not enough: the change must exceed MIN_CHANGE too.
    """
    (old_low, old_high), (new_low, new_high) = old.p50_bounds_ms, new.p50_bounds_ms
    if (new_low <= old_high and old_low <= new_high) or abs(new.p50_ms / old.p50_ms - 1) < MIN_CHANGE:
        return "within noise"
    return "slower" if new.p50_ms > old.p50_ms else "faster"


def summarize_energy(power: Power | None) -> dict[str, float]:
    """Fields of a measurement from a power meter; none without a reading."""
    if power is None:
        return {}
    return {"energy_mj": 1000 * power.joules, "energy_above_idle_mj": 1000 * power.joules_above_idle}


def summarize_gpu_times(stages: Sequence[Stages], *, cuda_graph: bool) -> GpuTimes | None:
    """Medians of the stages; None without any. An engine's latency always includes both copies."""
    if not stages:
        return None
    enqueue, h2d, compute, d2h = (1000 * percentile(sorted(values), 50) for values in zip(*stages, strict=True))
    return GpuTimes(
        enqueue_ms=enqueue, h2d_ms=h2d, compute_ms=compute, d2h_ms=d2h, transfers=True, cuda_graph=cuda_graph
    )


def profile_folder() -> Path:
    return data_folder() / "profiles"


def keep(profile: Profile, folder: Path | None = None) -> Path:
    """Store a profile under its key, merged with an older one of that key. Returns the path."""
    path = (folder or profile_folder()) / f"{profile.key.digest}.json"
    try:
        before = find(profile.key, folder)
    except DataError:  # replace a damaged one
        before = None
    merged = profile if before is None else _merge(profile, before)
    write_atomically(path, merged.model_dump_json(indent=1).encode())
    return path


def _merge(profile: Profile, before: Profile) -> Profile:
    """Add variants, and energy, that were measured before but not now."""
    now = {(m.patch_size, m.precision): m for m in profile.measurements}
    for old in before.measurements:
        new = now.setdefault((old.patch_size, old.precision), old)
        if new.energy_mj is None:
            energy = {"energy_mj": old.energy_mj, "energy_above_idle_mj": old.energy_above_idle_mj}
            now[old.patch_size, old.precision] = new.model_copy(update=energy)
    return profile.model_copy(update={"measurements": tuple(now.values())})


def has_any(folder: Path | None = None) -> bool:
    """Whether this user has profiled anything."""
    return any((folder or profile_folder()).glob("*.json"))


def find(key: ProfileKey, folder: Path | None = None) -> Profile | None:
    """The profile of exactly this key, or None; raises DataError for a damaged one."""
    path = (folder or profile_folder()) / f"{key.digest}.json"
    if not path.exists():
        return None
    profile = read_profile(path)
    if profile.key != key:
        raise DataError(f"{path} holds the profile of another machine or bundle; delete it and profile again")
    return profile


def find_other_settings(key: ProfileKey, folder: Path | None = None) -> MachineSettings | None:
    """The settings of a profile that matches but for them, such as one of another power mode; None where none does."""
    for path in sorted((folder or profile_folder()).glob("*.json")):
        try:
            other = read_profile(path).key
        except DataError:  # `find` reports the damaged one that would be used
            continue
        if other != key and other.model_copy(update={"settings": key.settings}) == key:
            return other.settings
    return None


def newest(
    source_sha256: str, machine: Machine, settings: MachineSettings, folder: Path | None = None
) -> Profile | None:
    """The latest profile of any bundle of these weights on this machine with these settings, or None."""
    wanted = (source_sha256, machine, settings)
    found = [
        profile
        for profile in map(read_profile, (folder or profile_folder()).glob("*.json"))
        if (profile.source_sha256, profile.key.machine, profile.key.settings) == wanted
    ]
    return max(found, key=lambda profile: profile.created_at, default=None)


def read_profile(path: Path) -> Profile:
    """Read a profile; raises DataError that says what is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PROFILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_PROFILE_BYTES:
        raise DataError(f"{path} is larger than {MAX_PROFILE_BYTES:,} bytes and cannot be a profile")
    try:
        return Profile.model_validate_json(upgrade_json(content, _upgrade))
    except ValidationError as error:
        raise DataError(f"{path} is not a profile of `flexiast profile`: {describe(error)}; profile again") from error


def _upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """A profile of schema 1.0 under the keys of today; any other as it is."""
    if document.get("schema_version") != "1.0":
        return document
    upgraded = rename_keys(document, RENAMED_KEYS) | {"schema_version": "2.0"}
    if isinstance(measurements := upgraded.get("measurements"), list):
        upgraded["measurements"] = [
            rename_keys(one, RENAMED_IN_MEASUREMENT) if isinstance(one, dict) else one for one in measurements
        ]
    return upgraded
