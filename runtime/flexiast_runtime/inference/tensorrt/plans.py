"""Which plans a bundle needs on a machine, and getting each: from the cache, or by building it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from flexiast.errors import GpuError, MissingExtraError, UsageError
from flexiast.manifest import Manifest, Precision
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.tensorrt.build import (
    CURRENT,
    Profile,
    TensorRt,
    build_plan,
    check_target,
    find_tensorrt,
)
from flexiast_runtime.inference.tensorrt.cuda import Cuda, Device
from flexiast_runtime.inference.tensorrt.plan_store import PlanEntry, PlanKey, PlanStore

Log = Callable[[str], object]
"""Takes a line for people."""

NO_DEVICE = Device("", "", "")

SHOWN = 16
"""Hexadecimal digits of a key in a message."""


def say_nothing(_: str) -> None: ...


@dataclass(frozen=True)
class Target:
    """What plans are built by and for: the GPU of this machine, or a target where there is none."""

    tensorrt: TensorRt
    target: str = CURRENT
    device: Device = NO_DEVICE
    """Empty fields for a target: such a plan shows that a bundle can be built, and no machine's key matches it."""
    memory_limit_mb: int | None = None

    @classmethod
    def for_target(cls, tensorrt: TensorRt, target: str = CURRENT, memory_limit_mb: int | None = None) -> Target:
        """For this machine, or for a target; raises UsageError for an unknown one, GpuError where no GPU is."""
        target = check_target(tensorrt, target)
        try:
            device = Cuda.open().device() if target == CURRENT else NO_DEVICE
        except GpuError as error:
            without = f"; without one there are the targets {', '.join(tensorrt.targets)}" if tensorrt.targets else ""
            raise GpuError(f"{error}; plans are built on the GPU that runs them{without}") from error
        return cls(tensorrt, target, device, memory_limit_mb)

    def key(self, onnx_sha256: str, precision: Precision, profiles: Sequence[Profile]) -> PlanKey:
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
    profiles: tuple[Profile, ...]
    key: PlanKey


def readable(manifest: Manifest) -> tuple[Precision, ...]:
    """The precisions that TensorRT reads: int8 is quantised by each window's own range, in operators that it lacks."""
    return tuple(precision for precision in manifest.precisions if precision != "int8")


def plan_precision(manifest: Manifest, wanted: str | None = None) -> Precision:
    """The precision of that name, or fp16 if the bundle has it, else its first; raises UsageError for int8."""
    found = readable(manifest)
    if wanted is None and found:
        return "fp16" if "fp16" in found else found[0]
    precision = manifest.precision(wanted)
    if precision == "int8":
        raise UsageError(
            "int8 is for CPUs: its graph is quantised as it runs, which TensorRT cannot read; "
            "export the bundle with --precision fp16 or int8-static"
        )
    return precision


def encoder_profiles(manifest: Manifest, patches: Sequence[PatchSize]) -> tuple[Profile, ...]:
    """One for each number of tokens, largest first: sizes that cut a window into equally many share one."""
    counts = sorted({manifest.spec.tokens(patch) for patch in patches}, reverse=True)
    return tuple(encoder_profile(manifest, tokens) for tokens in counts)


def encoder_profile(manifest: Manifest, tokens: int) -> Profile:
    """One window at a time: a device that listens has no second one."""
    return Profile("tokens", (1, tokens, manifest.spec.network.width))


def embedder_profile(manifest: Manifest) -> Profile:
    frontend = manifest.spec.frontend
    return Profile("features", (1, frontend.window_frames, frontend.mel_bins))


def list_plan_requests(
    bundle: Bundle, patches: Sequence[PatchSize], precision: Precision, place: Target
) -> Iterator[PlanRequest]:
    """The encoder's plan with a profile for each size, then an embedder's for each; raises UsageError."""
    manifest = bundle.manifest
    embedders = [manifest.variant(patch, precision).embedder for patch in dict.fromkeys(patches)]

    def wanted(file: str, precision: Precision, profiles: tuple[Profile, ...]) -> PlanRequest:
        return PlanRequest(bundle, file, profiles, place.key(manifest.entry(file).sha256, precision, profiles))

    yield wanted(manifest.encoders[precision].file, precision, encoder_profiles(manifest, patches))
    for file in embedders:
        yield wanted(file, "fp32", (embedder_profile(manifest),))  # embedders are float32 in all precisions


@dataclass(frozen=True)
class PlanResult:
    """A plan that was checked or built just now."""

    entry: PlanEntry
    plan: bytes
    fresh: bool


def get_or_build(
    store: PlanStore, wanted: PlanRequest, place: Target, *, rebuild: bool = False, say: Log = say_nothing
) -> PlanResult:
    """The plan of exactly this key, built if need be. One of any other key is left alone, and ``say`` is told why.

    Raises VerificationError for a damaged plan, and what ``build_plan`` raises.
    """
    with store.alone():
        if not rebuild and (entry := store.find(wanted.key)):
            return PlanResult(entry, store.load(wanted.key), fresh=False)
        for other in store.others(wanted.key):
            say(
                f"{wanted.file}: the plan {other.key.digest[:SHOWN]}… is not used, {wanted.key.digest[:SHOWN]}… is "
                f"wanted: {wanted.key.differences(other.key)}"
            )
        say(f"{wanted.file}: building for {place}, tuned for {', '.join(map(str, wanted.profiles))}")
        begun = time.perf_counter()
        built = build_plan(
            place.tensorrt,
            wanted.bundle.read(wanted.file),
            wanted.profiles,
            target=place.target,
            memory_limit_mb=place.memory_limit_mb,
            timing=store.read_timing_cache(wanted.key),
        )
        if built.timing:
            store.save_timing(wanted.key, built.timing)
        entry = store.save(wanted.file, wanted.key, built.plan, time.perf_counter() - begun)
        return PlanResult(entry, built.plan, fresh=True)


@dataclass(frozen=True)
class CachedPlan:
    """What ``load_engines`` needs no build for."""

    precision: Precision
    patches: tuple[PatchSize, ...]
    memory_limit_mb: int | None


def list_cached_plans(bundle: Bundle, store: PlanStore, place: Target) -> list[CachedPlan]:
    """The sets of engines that lie ready for this place, whatever its memory limit."""
    digests, blank = set(store.digests()), place.key("0" * 64, "fp32", ())
    here = [entry.key for entry in store.entries() if entry.key.place == blank.place]
    found = [
        (key, CachedPlan(precision, _with_plans(bundle, key, place, digests), key.memory_limit_mb))
        for precision, encoder in bundle.manifest.encoders.items()
        for key in here
        if (key.onnx_sha256, key.precision) == (bundle.manifest.entry(encoder.file).sha256, precision)
    ]
    return [ready for key, ready in found if _encoder_key(bundle, ready, place) == key]


def _with_plans(bundle: Bundle, key: PlanKey, place: Target, digests: Collection[str]) -> tuple[PatchSize, ...]:
    """Sizes that an encoder's plan has a profile for and whose embedder's plan is there."""
    manifest, place = bundle.manifest, replace(place, memory_limit_mb=key.memory_limit_mb)
    profiled = [
        patch
        for patch in manifest.patches
        if str(encoder_profile(manifest, manifest.spec.tokens(patch))) in key.profiles
    ]
    embedders = {patch: list(list_plan_requests(bundle, [patch], key.precision, place))[-1] for patch in profiled}
    return tuple(patch for patch, wanted in embedders.items() if wanted.key.digest in digests)


def _encoder_key(bundle: Bundle, ready: CachedPlan, place: Target) -> PlanKey:
    """What ``load_engines`` will look for: sizes that share a profile need not all be there, but one of each."""
    place = replace(place, memory_limit_mb=ready.memory_limit_mb)
    return next(list_plan_requests(bundle, ready.patches, ready.precision, place)).key


def check_usable(key: PlanKey) -> str | None:
    """Why nothing on this machine can use a plan, if so; what is not installed, or has no GPU here, is not judged."""
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
