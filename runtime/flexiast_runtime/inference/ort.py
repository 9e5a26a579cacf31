"""ONNX Runtime engines: one encoder session, and one small embedder session for each patch size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from flexiast.errors import GpuError, ModelError, VerificationError
from flexiast.manifest import OPSET, Variant
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.engine import Engine, Engines

if TYPE_CHECKING:
    import onnxruntime

Float = NDArray[np.float32]

Provider = Literal["cpu", "cuda"]
PROVIDERS: dict[Provider, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider"],
}


@dataclass(frozen=True)
class OrtEngine:
    """Features → tokens by the variant's embedder → logits by the shared encoder."""

    variant: Variant
    embedder: onnxruntime.InferenceSession
    encoder: onnxruntime.InferenceSession

    def run(self, features: Float) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        (tokens,) = self.embedder.run(None, {"features": features})
        (logits,) = self.encoder.run(None, {"tokens": tokens})
        return logits


def load_engines(
    bundle: Bundle,
    patches: Sequence[PatchSize] | None = None,
    precision: str | None = None,
    threads: int = 1,
    provider: Provider = "cpu",
) -> Engines:
    """Load engines for some or all patch sizes of a bundle. All are loaded now, so that a switch is a look-up.

    ``precision``: default the bundle's. One thread by default: for models of this size a second one costs more CPU
    time than it saves latency. ``provider`` runs every operator, or GpuError is raised; nothing falls back to the CPU.
    Raises ModelError, VerificationError, and UsageError for what the bundle lacks.
    """
    manifest = bundle.manifest
    precision = manifest.precision(precision)
    variants = [manifest.variant(patch, precision) for patch in (manifest.patches if patches is None else patches)]
    encoder = load_session(bundle, manifest.encoders[precision].file, threads, provider, precision=precision)
    engines: dict[PatchSize, Engine] = {}
    for variant in variants:
        embedder = load_session(bundle, variant.embedder, threads, provider, patch_size=str(variant.patch_size))
        engines[variant.patch_size] = OrtEngine(variant, embedder, encoder)
    return Engines(manifest, engines)


def load_session(
    bundle: Bundle, name: str, threads: int = 1, provider: Provider = "cpu", **expected: str
) -> onnxruntime.InferenceSession:
    """A session of a verified graph whose metadata agree with the manifest."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning costs a battery more than it saves: 196 instead of 83 ms of CPU per window at one window a second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    _check_provider(provider, onnxruntime.get_available_providers(), "this ONNX Runtime has")
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(
            bundle.read(name), options, providers=PROVIDERS[provider], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        from_ort = type(error).__module__.startswith("onnxruntime")
        if provider != "cpu" and (from_ort or isinstance(error, (RuntimeError, ValueError))):
            raise GpuError(
                f"{PROVIDERS[provider][0]} was asked for and cannot run all of {bundle.folder / name}: {error}"
            ) from error
        if from_ort:
            raise ModelError(
                f"{bundle.folder / name} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: "
                f"{str(error).strip()}{_suggest_upgrade(bundle.manifest.opset)}"
            ) from error
        raise
    _check_provider(provider, session.get_providers(), "ONNX Runtime took")
    found = session.get_modelmeta().custom_metadata_map
    for what, agrees in (
        ("spec", _is_spec(found.get("flexiast.spec", ""), bundle.manifest.spec)),
        *((field, found.get(f"flexiast.{field}") == value) for field, value in expected.items()),
    ):
        if not agrees:
            raise VerificationError(
                f"{bundle.folder / name} was exported with another {what} than the manifest says; "
                "copy or export the bundle again"
            )
    return session


def _suggest_upgrade(opset: int) -> str:
    """The remedy if a graph is newer than the runtime."""
    if opset == OPSET:
        return ""
    return f"; it is written for opset {opset}: upgrade onnxruntime, or export it again with --opset {OPSET}"


def _check_provider(provider: Provider, found: Sequence[str], whose: str) -> None:
    """Raise GpuError if another provider would run than requested: ONNX Runtime silently takes the next."""
    wanted = PROVIDERS[provider][0]
    if wanted not in found:
        raise GpuError(
            f"{wanted} was asked for, {whose} {', '.join(found)}; install onnxruntime-gpu in place of onnxruntime on "
            "a machine with a GPU, CUDA and cuDNN, or use the CPU"
        )


def _is_spec(text: str, spec: Spec) -> bool:
    """Whether a graph's metadata contain this spec; fields newer than the graph have their defaults."""
    return _parse_spec(text) == spec


@functools.lru_cache(maxsize=8)  # all graphs of a bundle hold the same text
def _parse_spec(text: str) -> Spec | None:
    try:
        return Spec.model_validate_json(text)
    except ValidationError:
        return None
