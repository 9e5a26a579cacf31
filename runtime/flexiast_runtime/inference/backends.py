"""What runs a bundle's engines: ONNX Runtime on the CPU or on CUDA, or TensorRT."""

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
    """Named as on the command line."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


def precisions_of(manifest: Manifest, backend: Backend) -> tuple[Precision, ...]:
    """Those of a bundle that the backend runs; all, where it runs none and loading says why."""
    from flexiast_runtime.inference.tensorrt.plans import readable

    return (readable(manifest) if backend is Backend.TENSORRT else ()) or manifest.precisions


def load_engines(
    bundle: Bundle,
    patches: Sequence[PatchSize] | None,
    precision: str | None,
    backend: Backend,
    say: Callable[[str], None],
    threads: int = 1,
) -> Engines:
    """Engines for some or all patch sizes of a bundle on this backend, or an error: none stands in for another.

    ``say`` is told of TensorRT plans that have to be built first, which takes minutes; ``threads`` are those of ONNX
    Runtime. Raises ModelError, VerificationError, UsageError for what the bundle lacks, GpuError, and for TensorRT
    PlanError and MissingExtraError.
    """
    if backend is Backend.TENSORRT:
        from flexiast_runtime.inference.tensorrt import engines as trt

        return trt.load_engines(bundle, patches, precision, say=say)

    from flexiast_runtime.inference import ort

    return ort.load_engines(bundle, patches, precision, threads, "cuda" if backend is Backend.CUDA else "cpu")
