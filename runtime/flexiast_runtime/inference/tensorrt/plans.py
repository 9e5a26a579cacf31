"""The plans that a bundle needs on a machine, from the cache or newly built."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from flexiast.errors import GpuError, MissingExtraError, UsageError
from flexiast.log import Log, log_nothing
from flexiast.manifest import Manifest, Precision
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.tensorrt.build import (
    CURRENT,
    OptimizationProfile,
    TensorRt,
    build_plan,
    check_target,
    find_tensorrt,
)
from flexiast_runtime.inference.tensorrt.cuda import Cuda, Device
from flexiast_runtime.inference.tensorrt.plan_store import PlanEntry, PlanKey, PlanStore

"""Reports one line to the user."""

NO_DEVICE = Device("", "", "")

KEY_DIGITS = 16
"""Hexadecimal digits of a key in a message"""


@dataclass(frozen=True)
class Target:
    """What plans are built with and for: the GPU of this machine, or another kind of GPU by its name."""

    tensorrt: TensorRt
    target: str = CURRENT
    device: Device = NO_DEVICE
    """Empty for another kind: such a plan only proves that it can be built, and no machine's key matches it."""
    memory_limit_mb: int | None = None

    @classmethod
    def resolve(cls, tensorrt: TensorRt, target: str = CURRENT, memory_limit_mb: int | None = None) -> Target:
        """Find this machine's GPU or a named target; raises UsageError for an unknown one, GpuError without a GPU."""
        target = check_target(tensorrt, target)
        try:
            device = Cuda.open().device() if target == CURRENT else NO_DEVICE
        except GpuError as error:
            without = (
                f"; without one, use --target with one of {', '.join(tensorrt.targets)}" if tensorrt.targets else ""
            )
            raise GpuError(f"{error}; plans are built on the GPU that runs them{without}") from error
        return cls(tensorrt, target, device, memory_limit_mb)

    def key(self, onnx_sha256: str, precision: Precision, profiles: Sequence[OptimizationProfile]) -> PlanKey:
        return PlanKey(
            onnx_sha256=onnx_sha256,
            precision=precision,
            profiles=tuple(map(str, profiles)),
            flavour=self.tensorrt.flavour,
            version=self.tensorrt.version,
            target=self.target,
            compute_capability=self.device.compute_capability,
            gpu=self.device.name,
            driver=self.device.driver,
            memory_limit_mb=self.memory_limit_mb,
        )

    def __str__(self) -> str:
        return f"{self.device.name} by {self.tensorrt}" if self.device.name else f"{self.target} by {self.tensorrt}"


@dataclass(frozen=True)
class PlanRequest:
    """One plan that a bundle needs."""

    bundle: Bundle
    file: str
    profiles: tuple[OptimizationProfile, ...]
    key: PlanKey


def list_readable_precisions(manifest: Manifest) -> tuple[Precision, ...]:
    """Precisions that TensorRT can read: int8 quantises each window by its own range, with operators it lacks."""
    return tuple(precision for precision in manifest.precisions if precision != "int8")


def plan_precision(manifest: Manifest, precision: str | None = None) -> Precision:
    """The named precision; by default fp16 if the bundle has it, else its first. Raises UsageError for int8."""
    found = list_readable_precisions(manifest)
    if precision is None and found:
        return "fp16" if "fp16" in found else found[0]
    chosen = manifest.precision(precision)
    if chosen == "int8":
        raise UsageError(
            "int8 is for CPUs: its graph quantises at run time, which TensorRT cannot read; "
            "export the bundle with --precision fp16 or int8-static"
        )
    return chosen


def encoder_profiles(manifest: Manifest, patches: Sequence[PatchSize]) -> tuple[OptimizationProfile, ...]:
    """One for each number of tokens, largest first; patch sizes with equally many tokens share one."""
    counts = sorted({manifest.spec.tokens(patch) for patch in patches}, reverse=True)
    return tuple(encoder_profile(manifest, tokens) for tokens in counts)


def encoder_profile(manifest: Manifest, tokens: int) -> OptimizationProfile:
    """Batch size 1: a device that listens has one window at a time."""
    return OptimizationProfile("tokens", (1, tokens, manifest.spec.network.width))


def embedder_profile(manifest: Manifest) -> OptimizationProfile:
    frontend = manifest.spec.frontend
    return OptimizationProfile("features", (1, frontend.window_frames, frontend.mel_bins))


def list_plan_requests(
    bundle: Bundle, patches: Sequence[PatchSize], precision: Precision, target: Target
) -> Iterator[PlanRequest]:
    """The encoder's plan, with a profile for each number of tokens, then each size's embedder; raises UsageError."""
    manifest = bundle.manifest
    embedders = [manifest.variant(patch, precision).embedder for patch in dict.fromkeys(patches)]

    def request(file: str, precision: Precision, profiles: tuple[OptimizationProfile, ...]) -> PlanRequest:
        return PlanRequest(bundle, file, profiles, target.key(manifest.entry(file).sha256, precision, profiles))

    yield request(manifest.encoders[precision].file, precision, encoder_profiles(manifest, patches))
    for file in embedders:
        yield request(file, "fp32", (embedder_profile(manifest),))  # embedders are float32 in all precisions


@dataclass(frozen=True)
class PlanResult:
    """A verified or new plan."""

    entry: PlanEntry
    plan: bytes
    fresh: bool


def get_or_build(
    store: PlanStore, request: PlanRequest, target: Target, *, rebuild: bool = False, log: Log = log_nothing
) -> PlanResult:
    """The plan of exactly this key, built if necessary. ``log`` reports which other plans are not used, and why.

    Raises VerificationError for a damaged plan, and what ``build_plan`` raises.
    """
    with store.lock():
        if not rebuild and (entry := store.find(request.key)):
            return PlanResult(entry, store.load(request.key), fresh=False)
        needed = request.key.digest[:KEY_DIGITS]
        for other in store.others(request.key):
            unused, why = other.key.digest[:KEY_DIGITS], request.key.differences(other.key)
            log(f"{request.file}: the plan {unused}… is not used, {needed}… is needed: {why}")
        log(f"{request.file}: building for {target}, tuned for {', '.join(map(str, request.profiles))}")
        started_s = time.perf_counter()
        built = build_plan(
            target.tensorrt,
            request.bundle.read(request.file),
            request.profiles,
            target=target.target,
            memory_limit_mb=target.memory_limit_mb,
            timing=store.read_timing_cache(request.key),
        )
        if built.timing:
            store.save_timing(request.key, built.timing)
        entry = store.save(request.file, request.key, built.plan, time.perf_counter() - started_s)
        return PlanResult(entry, built.plan, fresh=True)


@dataclass(frozen=True)
class CachedPlan:
    """Engines that ``load_engines`` can load without a build."""

    precision: Precision
    patches: tuple[PatchSize, ...]
    memory_limit_mb: int | None


def list_cached_plans(bundle: Bundle, store: PlanStore, target: Target) -> list[CachedPlan]:
    """All sets of engines with cached plans for this target, of any memory limit."""
    digests, blank = set(store.digests()), target.key("0" * 64, "fp32", ())
    local_keys = [entry.key for entry in store.entries() if entry.key.place == blank.place]
    found = [
        (key, CachedPlan(precision, _with_plans(bundle, key, target, digests), key.memory_limit_mb))
        for precision, encoder in bundle.manifest.encoders.items()
        for key in local_keys
        if (key.onnx_sha256, key.precision) == (bundle.manifest.entry(encoder.file).sha256, precision)
    ]
    return [ready for key, ready in found if _encoder_key(bundle, ready, target) == key]


def _with_plans(bundle: Bundle, key: PlanKey, target: Target, digests: Collection[str]) -> tuple[PatchSize, ...]:
    """Patch sizes with a profile in the encoder's plan and a plan of their embedder."""
    manifest, target = bundle.manifest, replace(target, memory_limit_mb=key.memory_limit_mb)
    profiled = [
        patch
        for patch in manifest.patches
        if str(encoder_profile(manifest, manifest.spec.tokens(patch))) in key.profiles
    ]
    embedders = {patch: list(list_plan_requests(bundle, [patch], key.precision, target))[-1] for patch in profiled}
    return tuple(patch for patch, request in embedders.items() if request.key.digest in digests)


def _encoder_key(bundle: Bundle, ready: CachedPlan, target: Target) -> PlanKey:
    """The key that ``load_engines`` will use: of sizes that share a profile, one is enough."""
    target = replace(target, memory_limit_mb=ready.memory_limit_mb)
    return next(list_plan_requests(bundle, ready.patches, ready.precision, target)).key


def check_usable(key: PlanKey) -> str | None:
    """Why this machine cannot use a plan; None if it can, or if TensorRT or the GPU is missing and it is unknown."""
    try:
        tensorrt = find_tensorrt(key.flavour)
    except MissingExtraError:
        return None
    if key.version != tensorrt.version:
        return f"built by {key.flavour} {key.version}, installed is {tensorrt.version}"
    if key.target != CURRENT:
        return None
    try:
        here = Cuda.open().device()
    except GpuError:
        return None
    there = Device(key.gpu, key.compute_capability, key.driver)
    return (
        None if there == here else f"built for {there.name} with {there.driver}, here is {here.name} with {here.driver}"
    )
