"""Build, load, run and time a bundle's plans with TensorRT-RTX on an x86-64 PC without access to a package registry.

    python scripts/gpu_plans.py pack rtx.tar.xz WHEEL ...        where there is a registry: wheels → one small archive
    python scripts/gpu_plans.py run BUNDLE rtx.tar.xz WHEEL ...  on the PC with the GPU

What it prints is TensorRT-RTX on the card of that PC. It says nothing about the speed of a Jetson, whose GPU, memory
and TensorRT are others; it says that the plans load, run, switch and answer rightly. See scripts/README.md.
"""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flexiast.manifest import Manifest, Variant
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.tensorrt.build import TensorRt
    from flexiast_runtime.inference.tensorrt.cuda import Cuda
    from flexiast_runtime.inference.tensorrt.engines import TrtEngines

ROOT = Path(__file__).resolve().parents[1]

TARGETS = ("current", "any", "sm80", "sm89", "sm120")
"""In the order tried: the card may be one that TensorRT-RTX does not list."""

FILTERS = [
    {"id": lzma.FILTER_X86},
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 256 << 20},
]
"""220 MB of library become 57: machine code first, and a dictionary that spans it."""

WARM_UP_RUNS, RUNS = 200, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="wheels → one archive; about 12 minutes and 3 GB of memory")
    packing.add_argument("archive", type=Path)
    packing.add_argument("wheels", type=Path, nargs="+")
    running = commands.add_parser("run", help="build, load, run, compare and time")
    running.add_argument("bundle", type=Path)
    running.add_argument(
        "packages", type=Path, nargs="*", help="archives of `pack`, and wheels of what else is missing"
    )
    running.add_argument("--patch-sizes", default="8,16,32,48")
    running.add_argument("--precision", default="fp16")
    running.add_argument("--runs", type=int, default=RUNS)
    running.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    if given.command == "pack":
        pack(given.archive, given.wheels)
        return
    with tempfile.TemporaryDirectory(prefix="gpu-plans-") as folder:
        unpacked_s = unpack(given.packages, Path(folder))
        sys.path[:0] = [folder, *(str(ROOT / source) for source in (".", "runtime"))]
        from flexiast.errors import FlexiastError

        try:
            report = measure(given.bundle, given.patch_sizes, given.precision, given.runs)
        except FlexiastError as error:
            sys.exit(f"gpu_plans: {error}")
    report["unpacked_s"] = round(unpacked_s, 2)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    show(report)


def pack(archive: Path, wheels: list[Path]) -> None:
    with (
        lzma.open(archive, "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for wheel in wheels:
            add_wheel(tar, wheel)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


def add_wheel(tar: tarfile.TarFile, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        for info in files.infolist():
            member = tarfile.TarInfo(info.filename)
            member.size, member.mode = info.file_size, 0o644
            with files.open(info) as content:
                tar.addfile(member, content)


def unpack(packages: list[Path], folder: Path) -> float:
    """Seconds that it took."""
    begun = time.perf_counter()
    for package in packages:
        if package.suffix == ".whl":
            with zipfile.ZipFile(package) as files:
                files.extractall(folder)
        else:
            with tarfile.open(package, "r:xz") as tar:
                tar.extractall(folder, filter="data")
    return time.perf_counter() - begun


def measure(folder: Path, patch_sizes: str, precision: str, runs: int) -> dict[str, Any]:
    """Everything that is known afterwards, in plain JSON."""
    from flexiast.spec import parse_patches
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.tensorrt.build import find_tensorrt
    from flexiast_runtime.inference.tensorrt.cuda import Cuda
    from flexiast_runtime.inference.tensorrt.plans import plan_precision

    bundle, cuda, tensorrt = Bundle.open(folder), Cuda.open(), find_tensorrt("tensorrt-rtx")
    chosen, device = plan_precision(bundle.manifest, precision), cuda.device()
    variants = [bundle.manifest.variant(patch, chosen) for patch in parse_patches(patch_sizes)]
    report: dict[str, Any] = {
        "what": "TensorRT-RTX on the card named; not a Jetson, and not the TensorRT that a Jetson runs",
        "date": time.strftime("%Y-%m-%d"),
        "gpu": device.name,
        "compute_capability": device.compute_capability,
        "driver": device.driver,
        "tensorrt": str(tensorrt),
        "python": platform.python_version(),
        "bundle": folder.name,
        "source_sha256": bundle.manifest.source_sha256,
        "precision": chosen,
        "targets": [],
    }
    for trial in trials(bundle, cuda, tensorrt, variants):
        report["targets"].append(trial.report)
        if trial.plans:
            report["target"] = trial.report["target"]
            report |= figures(bundle, cuda, tensorrt, variants, trial.plans, runs)
            break
    return report


@dataclass(frozen=True)
class Trial:
    """One target: its plans, if they ran, and what happened."""

    plans: list[bytes]
    report: dict[str, Any]


def trials(bundle: Bundle, cuda: Cuda, tensorrt: TensorRt, variants: list[Variant]) -> Iterator[Trial]:
    """Build, load and run for each target, until the caller has one that it likes."""
    from flexiast.errors import FlexiastError
    from flexiast_runtime.inference.tensorrt.build import build_plan
    from flexiast_runtime.inference.tensorrt.engines import build_engines
    from flexiast_runtime.inference.tensorrt.plans import NO_DEVICE, Target, list_plan_requests

    patches = [variant.patch_size for variant in variants]
    for target in TARGETS:
        report: dict[str, Any] = {"target": target}
        plans: list[bytes] = []
        place = Target(tensorrt, target, NO_DEVICE)
        try:
            begun = time.perf_counter()
            for wanted in list_plan_requests(bundle, patches, variants[0].precision, place):
                plan = build_plan(tensorrt, bundle.read(wanted.file), wanted.profiles, target=target).plan
                plans.append(plan)
            report |= {"build_s": round(time.perf_counter() - begun, 2), "plan_bytes": [len(plan) for plan in plans]}
            begun = time.perf_counter()
            engines = build_engines(tensorrt, cuda, bundle.manifest, variants, plans)
            report["load_s"] = round(time.perf_counter() - begun, 2)
            engines.logits(np.zeros((1, *frames_and_mels(bundle.manifest)), np.float32), patches[0])
            engines.close()
        except FlexiastError as error:
            yield Trial([], report | {"error": str(error)})
        else:
            yield Trial(plans, report)


def frames_and_mels(manifest: Manifest) -> tuple[int, int]:
    return manifest.spec.frontend.window_frames, manifest.spec.frontend.mel_bins


def figures(
    bundle: Bundle, cuda: Cuda, tensorrt: TensorRt, variants: list[Variant], plans: list[bytes], runs: int
) -> dict[str, Any]:
    """Errors and times of each size, launched kernel by kernel and as one CUDA graph."""
    from flexiast.errors import FlexiastError
    from flexiast_runtime.inference.tensorrt.engines import build_engines

    results: dict[str, Any] = {"runs": runs, "warm_up_runs": WARM_UP_RUNS}
    for name, graphs in (("launched", False), ("graphs", True)):
        try:
            engines = build_engines(tensorrt, cuda, bundle.manifest, variants, plans, graphs=graphs)
            results[name] = [timed(bundle, engines, variant, runs) for variant in variants]
            engines.close()
        except FlexiastError as error:  # the other way's figures stand
            results[name] = str(error)
            break
    return results


def timed(bundle: Bundle, engines: TrtEngines, variant: Variant, runs: int) -> dict[str, Any]:
    patch = variant.patch_size
    features = bundle.arrays(bundle.manifest.golden)["features"]
    switch_ms = milliseconds(lambda: engines.prepare(patch))
    first_ms = milliseconds(lambda: engines.logits(features[:1], patch))
    errors = compared(bundle, engines, patch, features)
    for _ in range(WARM_UP_RUNS):
        engines.logits(features[:1], patch)
    times = sorted(milliseconds(lambda: engines.logits(features[:1], patch)) for _ in range(runs))
    return {
        "patch_size": str(patch),
        "tokens": variant.tokens,
        "switch_ms": round(switch_ms, 3),
        "first_ms": round(first_ms, 3),
        **{f"p{p}_ms": round(nearest_rank(times, p), 4) for p in (50, 95, 99)},
        "max_ms": round(times[-1], 4),
        **errors,
    }


def milliseconds(call: Callable[[], object]) -> float:
    """From features in host memory to logits in host memory, where the call is a run."""
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def nearest_rank(ordered: list[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed, as trtexec counts; nothing is interpolated."""
    return ordered[max(len(ordered) - 1 - int((1 - percent / 100) * len(ordered)), 0)]


def compared(bundle: Bundle, engines: TrtEngines, patch: PatchSize, features: Any) -> dict[str, Any]:
    """Largest logit error against the source model, and against ONNX Runtime where that is installed."""
    from flexiast_runtime.inference.selfcheck import golden_key

    found = engines.logits(features, patch)
    golden = bundle.arrays(bundle.manifest.golden)[golden_key(patch)]
    variant = engines[patch].variant
    result: dict[str, Any] = {
        "max_abs_error": float(np.abs(found - golden).max()),
        "tolerance": variant.parity.tolerance,
        "against_onnxruntime": None,
    }
    try:
        from flexiast_runtime.inference.ort import load_engines

        reference = load_engines(bundle, [patch], variant.precision)
    except ModuleNotFoundError:
        return result
    result["against_onnxruntime"] = float(np.abs(found - reference.logits(features, patch)).max())
    return result


def show(report: dict[str, Any]) -> None:
    """The same for people."""
    print(f"\n{report['tensorrt']} on {report['gpu']} ({report['compute_capability']}), {report['driver']}")
    print(f"{report['precision']}, one window at a time, host to host; {report['what']}")
    for trial in report["targets"]:
        outcome = trial.get("error") or f"built in {trial['build_s']} s, loaded in {trial['load_s']} s, ran"
        print(f"target {trial['target']}: {outcome}")
    columns = ["patch_size", "tokens", "switch_ms", "first_ms", "p50_ms", "p95_ms", "p99_ms", "max_abs_error"]
    columns.append("against_onnxruntime")
    for way in ("launched", "graphs"):
        rows = report.get(way)
        if isinstance(rows, list):
            print(f"\n{way}\n" + "  ".join(f"{column:>13}" for column in columns))
            for row in rows:
                print("  ".join(f"{cell(row[column]):>13}" for column in columns))
        elif rows:
            print(f"\n{way}: {rows}")


def cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "not measured" if value is None else str(value)


if __name__ == "__main__":
    main()
