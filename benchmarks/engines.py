"""Engines against PyTorch, memory of four sizes against one, cost of a switch.

`python -m benchmarks.engines [MODEL]`
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import cpu_ms, heading
from flexiast.checkpoint import Checkpoint, load_checkpoint
from flexiast.evaluation.evaluate import Classifier
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize, parse_patches
from flexiast_export.to_onnx import export_onnx
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_checkpoint
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

PATCHES = parse_patches("8,16,32,48")

# Runs in a process of its own: prints the private memory in MB with the engines loaded, and after three windows each.
MEMORY = """
import sys
from pathlib import Path
import numpy as np, psutil
from flexiast.spec import parse_patches
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines
engines = load_engines(Bundle.open(Path(sys.argv[1])), parse_patches(sys.argv[2]))
frontend = engines.spec.frontend
features = np.zeros((1, frontend.window_frames, frontend.mel_bins), np.float32)
print(psutil.Process().memory_full_info().uss / 1e6)
for _ in range(3):
    for patch in engines.patches:
        engines.logits(features, patch)
print(psutil.Process().memory_full_info().uss / 1e6)
"""


def main() -> None:
    torch.set_num_threads(1)
    model = sys.argv[1] if len(sys.argv) > 1 else "sounds"
    checkpoint = load_checkpoint(find_checkpoint(model))
    source = TorchClassifier(load_model(checkpoint))
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_onnx(checkpoint, source, PATCHES, bundle)
        engines = load_engines(Bundle.open(bundle))
        speed(checkpoint, source, engines)
        switching(engines)
        memory(bundle)


def speed(checkpoint: Checkpoint, source: Classifier, engines: Engines) -> None:
    frontend = checkpoint.spec.frontend
    features = (
        np.random.default_rng(0).standard_normal((1, frontend.window_frames, frontend.mel_bins)).astype(np.float32)
    )
    network = checkpoint.spec.network
    heading(f"One window of {frontend.window_s:g} s, {network.width} × {network.depth}, CPU ms: plain PyTorch, engine")
    for patch in PATCHES:
        figures = cpu_ms({"torch": run(source, features, patch), "engine": run(engines, features, patch)})
        ratio = figures["torch"] / figures["engine"]
        print(f"{patch!s:>6}  {figures['torch']:8.2f}  {figures['engine']:8.2f}  ({ratio:.2f} ×)")


def run(classifier: Classifier, features: np.ndarray, patch: PatchSize):  # type: ignore[no-untyped-def]
    return lambda: classifier.logits(features, patch)


def switching(engines: Engines) -> None:
    begun = time.perf_counter()
    for turn in range(10_000):
        engines[PATCHES[turn % len(PATCHES)]]
    print(f"a switch takes {(time.perf_counter() - begun) * 100:.3f} µs")


def memory(bundle: Path) -> None:
    loaded, used = private_mb(bundle, PATCHES)
    print(f"private memory of the process, all four sizes: {loaded:.1f} MB loaded, {used:.1f} MB after use")
    for patch in PATCHES:
        one_loaded, one_used = private_mb(bundle, (patch,))
        print(
            f"  {patch!s:>6} alone: {one_loaded:6.1f} MB, four are {loaded / one_loaded:.2f} ×;"
            f"  after use {one_used:6.1f} MB, four are {used / one_used:.2f} ×"
        )


def private_mb(bundle: Path, patches: tuple[PatchSize, ...]) -> tuple[float, float]:
    arguments = [sys.executable, "-c", MEMORY, str(bundle), ",".join(map(str, patches))]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()
    return float(printed[0]), float(printed[1])


if __name__ == "__main__":
    main()
