"""Loads engines on a backend: ONNX Runtime on the CPU or CUDA, or TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiast.manifest import Manifest, Precision
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.engine import Engines


class Backend(str, Enum):
    """Values of ``--backend``."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


def precisions_of(manifest: Manifest, backend: Backend) -> tuple[Precision, ...]:
    """The bundle's precisions that the backend can run. If there are none, all, so that loading reports why."""
    from flexiast_runtime.inference.tensorrt.plans import list_readable_precisions

    return (list_readable_precisions(manifest) if backend is Backend.TENSORRT else ()) or manifest.precisions


def load_engines(
    bundle: Bundle,
    patches: Sequence[PatchSize] | None,
    precision: str | None,
    backend: Backend,
    say: Callable[[str], None],
    threads: int = 1,
) -> Engines:
    """Load engines for some or all patch sizes of a bundle. No backend or precision replaces another: it is an error.

    ``say`` reports TensorRT plans that must be built first, which takes minutes; ``threads`` are those of ONNX
    Runtime. Raises ModelError, VerificationError, UsageError for what the bundle lacks, GpuError, and for TensorRT
    PlanError and MissingExtraError.
    """
    if backend is Backend.TENSORRT:
        from flexiast_runtime.inference.tensorrt import engines

        return engines.load_engines(bundle, patches, precision, say=say)

    from flexiast_runtime.inference import ort

    return ort.load_engines(bundle, patches, precision, threads, "cuda" if backend is Backend.CUDA else "cpu")
