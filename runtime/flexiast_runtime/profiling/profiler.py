"""Profiles a bundle's engines on this machine."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone

from flexiast import __version__
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.hardware.machine import read_settings
from flexiast_runtime.hardware.meters import Meter, find_meter
from flexiast_runtime.hardware.nvml import Gpu
from flexiast_runtime.hardware.platform import describe_machine, read_current_climate
from flexiast_runtime.hardware.poller import Poller
from flexiast_runtime.hardware.power_source import ReportedOnce, SourceMeter
from flexiast_runtime.inference.backends import Backend
from flexiast_runtime.inference.engine import Engine, StagedEngine
from flexiast_runtime.profiling.footprint import measure_footprint
from flexiast_runtime.profiling.measure import Power, Runs, measure, measure_paced, measure_power
from flexiast_runtime.profiling.profiles import (
    Measurement,
    Profile,
    ProfileKey,
    Reading,
    summarize_energy,
    summarize_gpu_times,
    summarize_latencies,
)

SOURCE_EVERY_S = 1.0
"""A user's power source may be a program, so it is not polled more often."""
ENQUEUE_SHARE = 0.8
"""Of the GPU's compute time. Above it trtexec warns too: the GPU waits for the processor."""
NOISY = 0.25
"""Standard deviation ÷ mean above which a variant's times are called noisy."""


def profile_key(bundle: Bundle, backend: Backend, threads: int = 1) -> ProfileKey:
    """The key of a profile of this bundle on this machine, as it is configured now."""
    return ProfileKey(
        machine=describe_machine(),
        settings=read_settings(),
        bundle_sha256=bundle.sha256,
        backend=backend.value,
        threads=threads,
        versions=versions(backend),
    )


def versions(backend: Backend = Backend.CPU) -> dict[str, str]:
    """Versions of what runs the engines; for TensorRT also the GPU and the driver's CUDA."""
    import onnxruntime

    found = {
        "flexiast": __version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    if backend is Backend.TENSORRT:
        from flexiast_runtime.inference.tensorrt.build import find_tensorrt  # what no other backend needs
        from flexiast_runtime.inference.tensorrt.cuda import Cuda

        tensorrt, device = find_tensorrt(), Cuda.open().device()
        found[tensorrt.flavour] = tensorrt.version
        found["GPU"] = f"{device.name} ({device.compute_capability}), {device.driver}"
    return found


def profile_bundle(
    name: str,
    bundle: Bundle,
    engines: Sequence[Engine],
    key: ProfileKey,
    *,
    step_s: float,
    duration_s: float,
    warmup_s: float,
    metrics: Mapping[str, float],
    power: bool,
    source: ReportedOnce | None = None,
) -> tuple[Profile, dict[str, Runs]]:
    """Measure every engine: the profile, and each latency by the variant's name.

    ``step_s`` is the audio from one window to the next. ``metrics`` are new measurements by variant; others are the
    bundle's. ``source`` measures power in place of the machine's own meters.
    """
    features = bundle.arrays(bundle.manifest.golden)["features"][:1]
    named = {f"{engine.variant.patch_size} {engine.variant.precision}": engine for engine in engines}
    gpu = None if key.backend == Backend.CPU.value else Gpu.open()
    before = _read_machine_state(gpu)
    runs = measure(named, features, duration_s, warmup_s)
    paced = measure_paced(named, features)
    with _meter(source, gpu) if power else nullcontext() as meter:
        powers = {} if meter is None else measure_power(named, features, meter)
    after = _read_machine_state(gpu)
    found = Profile(
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=name,
        source_sha256=bundle.manifest.source_sha256,
        key=key,
        step_s=step_s,
        meter=None if meter is None else meter.name,
        idle_w=next((power.idle_watts for power in powers.values() if power), None),
        before=before,
        after=after,
        measurements=tuple(
            _measurement(bundle, engine, key, runs[each], paced[each], powers.get(each), metrics.get(each), step_s)
            for each, engine in named.items()
        ),
    )
    return found.model_copy(update={"warnings": tuple(warnings(found, asked_for_power=power))}), runs


def _measurement(
    bundle: Bundle,
    engine: Engine,
    key: ProfileKey,
    runs: Runs,
    paced_s: float,
    power: Power | None,
    metric: float | None,
    step_s: float,
) -> Measurement:
    variant = engine.variant
    memory = measure_footprint(bundle.folder, str(variant.patch_size), variant.precision, key.backend, key.threads)
    files = (variant.embedder, bundle.manifest.encoders[variant.precision].file)
    known = variant.labelled.metric if variant.labelled else variant.metric
    return Measurement.model_validate(
        {
            "patch_size": variant.patch_size,
            "precision": variant.precision,
            "tokens": variant.tokens,
            "gmac": variant.gmac,
            "metric": known if metric is None else metric,
            "metric_measured_here": metric is not None,
            "private_mb": memory.private_mb,
            "peak_mb": memory.peak_mb,
            "size_mb": sum(bundle.manifest.entry(file).size for file in files) / 1e6,
            "paced_ms": 1000 * paced_s,
            **summarize_latencies(runs, step_s),
            **summarize_energy(power),
            "gpu": summarize_gpu_times(runs.stages, cuda_graph=isinstance(engine, StagedEngine) and engine.cuda_graph),
        }
    )


@contextmanager
def _meter(source: ReportedOnce | None, gpu: Gpu | None) -> Iterator[Meter | None]:
    """The user's power source, polled once a second, or the machine's meter."""
    if source is None:
        yield find_meter(gpu=gpu)
        return
    with Poller(source.read, unknown=None, every_s=SOURCE_EVERY_S) as poller:
        yield SourceMeter(source.name, poller)


def _read_machine_state(gpu: Gpu | None) -> Reading:
    now, limits = read_current_climate(gpu), None if gpu is None else gpu.read().limits
    return Reading(
        temperatures_c=now.temperatures_c,
        clocks_mhz=now.clocks_mhz,
        throttled=now.throttled,
        gpu_limits=limits or (),
    )


def warnings(found: Profile, *, asked_for_power: bool) -> Iterable[str]:
    """Reasons to doubt the figures."""
    unstable = [m.name for m in found.measurements if not m.stable]
    if unstable:
        names = ", ".join(unstable)
        yield f"the 95th percentile of {names} is not known to within 10 %; close other programs, or measure longer"
    noisy = [m.name for m in found.measurements if m.coefficient_of_variation > NOISY]
    if noisy:
        yield f"the times of {', '.join(noisy)} vary by more than {NOISY:.0%}; another program was running"
    if found.before.throttled or found.after.throttled:
        yield "the kernel throttled the processor for heat; let it cool down and profile again"
    limits = dict.fromkeys((*found.before.gpu_limits, *found.after.gpu_limits))
    if limits:
        yield f"the GPU's clocks were reduced ({', '.join(limits)}); lock them lower and profile again"
    late = [m.name for m in found.measurements if m.gpu and m.gpu.enqueue_ms > ENQUEUE_SHARE * m.gpu.compute_ms]
    if late:
        yield f"the processor takes about as long to enqueue {', '.join(late)} as the GPU takes to compute them"
    copied = [m.name for m in found.measurements if m.gpu and max(m.gpu.h2d_ms, m.gpu.d2h_ms) >= m.gpu.compute_ms]
    if copied:
        yield f"copies to or from the GPU take at least as long as computing {', '.join(copied)}"
    if found.key.settings.governor not in {"", "performance"}:
        yield f"the processor's clock is not fixed (governor {found.key.settings.governor}); times depend on the load"
    for figure in ("private_mb", "peak_mb"):
        if any(getattr(m, figure) is None for m in found.measurements):
            yield f"{figure}: not available; this system does not report it, or the process that measures it failed"
    if asked_for_power and found.meter is None:
        yield "energy: not available; this machine has no power meter"
    elif asked_for_power and any(m.energy_mj is None for m in found.measurements):
        yield f"energy: not available for some variants; {found.meter} returned no reading"
