"""Loads engines on a backend: ONNX Runtime on the CPU or CUDA, or TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from flexiast.log import Log
from flexiast.processor import has_int8_dot_product

if TYPE_CHECKING:
    from flexiast.manifest import Manifest, Precision
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.engine import Engines


INT8_LOSS = 0.5
"""Points of accuracy or mAP, measured on labelled clips, that int8 may lose at any size and still be the default"""


class Backend(str, Enum):
    """Values of ``--backend``."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


def precisions_of(manifest: Manifest, backend: Backend) -> tuple[Precision, ...]:
    """The bundle's precisions that the backend can run. If there are none, all, so that loading reports why."""
    from flexiast_runtime.inference.tensorrt.plans import list_readable_precisions

    return (list_readable_precisions(manifest) if backend is Backend.TENSORRT else ()) or manifest.precisions


def choose_precision(
    manifest: Manifest, wanted: str | None, backend: Backend, measured: Sequence[str] = (), root: Path = Path("/")
) -> Precision:
    """The precision that is wanted; else int8 where it is faster and as good, else the bundle's first.

    It is faster on a processor that multiplies bytes, and as good where the exporter measured each size and none lost
    more than half a point. ``measured`` are the precisions of a profile, if there is one: it must know int8. Raises
    UsageError for what the bundle lacks.
    """
    if wanted is not None or backend is not Backend.CPU or "int8" not in manifest.precisions:
        return manifest.precision(wanted)
    losses = [
        variant.labelled.drop if variant.labelled else None
        for variant in manifest.variants
        if variant.precision == "int8"
    ]
    is_good = all(loss is not None and loss <= INT8_LOSS for loss in losses) and (not measured or "int8" in measured)
    return "int8" if is_good and has_int8_dot_product(root) else manifest.precision(None)


def load_engines(
    bundle: Bundle,
    patches: Sequence[PatchSize] | None,
    precision: str | None,
    backend: Backend,
    log: Log,
    threads: int = 1,
) -> Engines:
    """Load engines for some or all patch sizes of a bundle. No backend or precision replaces another: it is an error.

    ``log`` reports TensorRT plans that must be built first, which takes minutes; ``threads`` are those of ONNX
    Runtime. Raises ModelError, VerificationError, UsageError for what the bundle lacks, GpuError, and for TensorRT
    PlanError and MissingExtraError.
    """
    if backend is Backend.TENSORRT:
        from flexiast_runtime.inference.tensorrt import engines

        loaded: Engines = engines.load_engines(bundle, patches, precision, log=log)
    else:
        from flexiast_runtime.inference import ort

        loaded = ort.load_engines(bundle, patches, precision, threads, "cuda" if backend is Backend.CUDA else "cpu")
    loaded.bundle_sha256 = bundle.sha256
    return loaded
