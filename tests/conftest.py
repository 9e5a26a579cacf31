"""What the suites share. Torch stays out of this file: the runtime's tests also run where it is not installed."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import settings
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, weight_shapes
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import Encoder, FileEntry, Manifest, Parity, Variant
from flexiast.spec import FrontendSpec, NetworkSpec, PatchSize, Spec

Float = NDArray[np.float32]

# Derandomised: a run on a busy device must not fail on an example that no other run sees, and none is timed.
settings.register_profile("flexiast", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("flexiast")

# ---------------------------------------------------------------------------------------------------------------- core
# Session-scoped and immutable, so that Hypothesis may share them between examples.

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def build_frontend_spec() -> Callable[..., FrontendSpec]:
    """AST's front end with a window of so many frames; other fields by name."""

    def build(frames: int = 98, **fields: Any) -> FrontendSpec:
        taper, hop = fields.get("taper_samples", 400), fields.get("hop_samples", 160)
        defaults = {"window_samples": taper + (frames - 1) * hop, "mean": -4.5, "std": 4.2}
        return FrontendSpec(**defaults | fields)

    return build


@pytest.fixture(scope="session")
def build_spec(build_frontend_spec: Callable[..., FrontendSpec]) -> Callable[..., Spec]:
    """The smallest model that has everything: width 16, one block, two heads; other fields by name."""

    def build(frames: int = 98, mel_bins: int = 128, **fields: Any) -> Spec:
        defaults = {
            "frontend": build_frontend_spec(frames, mel_bins=mel_bins),
            "trained_patches": (PatchSize(8, 8), PatchSize(16, 16)),
            "network": NetworkSpec(width=16, depth=1, heads=2),
            "task": "single",
            "labels": ("high", "low"),
        }
        return Spec(**defaults | fields)

    return build


@pytest.fixture(scope="session")
def make_tone() -> Callable[..., Float]:
    """A sine in float32."""

    def make(
        hz: float, seconds: float = 0.5, rate_hz: int = 16_000, amplitude: float = 0.5, phase: float = 0.0
    ) -> Float:
        times = np.arange(round(seconds * rate_hz)) / rate_hz
        return (amplitude * np.sin(2 * np.pi * hz * times + phase)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def write_audio() -> Callable[..., Path]:
    """Samples → a small audio file, its folder made on the way."""

    def write(path: Path, samples: NDArray[Any], rate_hz: int = 16_000, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate_hz, **options)
        return path

    return write


# ------------------------------------------------------------------------------------------------------ real audio data


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets: ``FLEXIAST_DATA``, or ``../shared/data`` beside the checkout."""
    return Path(os.environ.get("FLEXIAST_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="session")
def real_metadata(data_root: Path) -> Callable[[str], Path]:
    """The ``metadata.csv`` of a real data set; the test skips where it is absent."""

    def find(name: str) -> Path:
        path = data_root / name / "metadata.csv"
        if not path.is_file():
            pytest.skip(f"{path} is absent; set FLEXIAST_DATA to the folder that holds {name}/metadata.csv")
        return path

    return find


@pytest.fixture(scope="session")
def real_waveforms(real_metadata: Callable[[str], Path]) -> Callable[[str, int], list[Float]]:
    """So many clips of a real data set, evenly spaced in its CSV: the same ones in every run."""

    def read(name: str, count: int) -> list[Float]:
        metadata = real_metadata(name)
        with metadata.open(newline="", encoding="utf-8") as file:
            paths = [row["path"] for row in csv.DictReader(file)]
        chosen = np.linspace(0, len(paths) - 1, count).astype(int)
        return [soundfile.read(metadata.parent / paths[index], dtype="float32")[0] for index in chosen]

    return read


# ------------------------------------------------------------------------------------------------------------- runtime
# One tiny model and its bundle serve the runtime's and the exporter's tests.

TINY_PATCHES = tuple(map(PatchSize.parse, ("8", "12", "16", "20x10")))


@pytest.fixture(scope="session")
def tiny_spec(build_spec: Callable[..., Spec], build_frontend_spec: Callable[..., FrontendSpec]) -> Spec:
    """A window of 0.4 s that is longer than its 38 frames by 80 samples, as AST's second is."""
    return build_spec(
        frontend=build_frontend_spec(window_samples=6_400, mel_bins=32),
        network=NetworkSpec(width=16, depth=2, heads=2),
        trained_patches=TINY_PATCHES,
        task="multi",
        labels=("alarm", "bark", "clap"),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_spec: Spec) -> Checkpoint:
    """Random weights whose scores differ from sound to sound, so that equality means something."""
    rng = np.random.default_rng(2)
    weights = {
        name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in weight_shapes(tiny_spec).items()
    }
    for name in weights:
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1  # else every norm would take most of the signal
    measured = zip(TINY_PATCHES[:3], (0.9, 0.8, 0.7), strict=True)  # the last size was never measured
    validation = [{"patch_size": str(patch), "mean_average_precision": metric} for patch, metric in measured]
    return Checkpoint(tiny_spec, weights, {"validation": validation})


@pytest.fixture(scope="session")
def tiny_source(tiny_checkpoint: Checkpoint) -> Classifier:
    """The PyTorch model of the tiny checkpoint: the second implementation of every engine."""
    torch = pytest.importorskip("torch", reason="engines are compared with the PyTorch model")
    from flexiast.networks import TorchClassifier, load_model

    torch.set_num_threads(1)
    return TorchClassifier(load_model(tiny_checkpoint))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint's exported bundle; nobody writes here, see ``bundle_copy``."""
    pytest.importorskip("onnx", reason="the bundle is exported on the spot")
    from flexiast_export.to_onnx import export_onnx

    folder = tmp_path_factory.mktemp("exported") / "bundle"
    export_onnx(tiny_checkpoint, tiny_source, TINY_PATCHES, folder)
    return folder


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    folder = tmp_path / "copied-bundle"
    shutil.copytree(tiny_bundle, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.fixture(scope="session")
def tiny_manifest(tiny_spec: Spec) -> Manifest:
    """A manifest that needs no export: engines of any kind can be put under it."""
    parity = Parity(inputs=3, real_inputs=0, max_abs_error=1e-6, tolerance=1e-4, top1_agreement=1.0)
    variants = tuple(
        Variant(
            patch_size=patch,
            precision="fp32",
            embedder=f"embed-{patch}.onnx",
            tokens=tiny_spec.tokens(patch),
            gmac=tiny_spec.gmac(patch),
            parity=parity,
        )
        for patch in TINY_PATCHES
    )
    names = ("encoder.onnx", "golden.npz", *(variant.embedder for variant in variants))
    return Manifest(
        spec=tiny_spec,
        encoders={"fp32": Encoder(file="encoder.onnx")},
        golden="golden.npz",
        variants=variants,
        files=tuple(FileEntry(name=name, size=1, sha256="0" * 64) for name in names),
        source_sha256="0" * 64,
        versions={"flexiast": "0.1.0"},
    )
