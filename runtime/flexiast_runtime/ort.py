"""ONNX Runtime engines: one encoder session, and one small embedder session for each patch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from flexiast.errors import ModelError, VerificationError
from flexiast.manifest import Variant
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.engine import Engine, Engines

if TYPE_CHECKING:
    import onnxruntime

Float = NDArray[np.float32]

PROVIDERS = ["CPUExecutionProvider"]


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
) -> Engines:
    """Engines for some or all patch sizes of a bundle, all loaded now so that a switch is a look-up.

    ``precision`` is the bundle's default unless named. One thread by default: at these sizes a second one burns more
    CPU than it saves time. Raises ModelError, VerificationError, and UsageError for what the bundle lacks.
    """
    manifest = bundle.manifest
    precision = manifest.precision(precision)
    variants = [manifest.variant(patch, precision) for patch in (manifest.patches if patches is None else patches)]
    encoder = _session(bundle, manifest.encoders[precision].file, threads, precision=precision)
    engines: dict[PatchSize, Engine] = {}
    for variant in variants:
        embedder = _session(bundle, variant.embedder, threads, patch_size=str(variant.patch_size))
        engines[variant.patch_size] = OrtEngine(variant, embedder, encoder)
    return Engines(manifest, engines)


def _session(bundle: Bundle, name: str, threads: int, **expected: str) -> onnxruntime.InferenceSession:
    """A session of a verified graph that says of itself what the manifest says of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads that spin cost a battery more than they save: 196 against 83 ms CPU a tick at one tick a second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(bundle.read(name), options, providers=PROVIDERS)
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        if type(error).__module__.startswith("onnxruntime"):
            raise ModelError(
                f"{bundle.folder / name} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}"
            ) from error
        raise
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


def _is_spec(text: str, spec: Spec) -> bool:
    """Whether a graph's metadata says this spec; a field that is newer than the graph has its default."""
    try:
        return Spec.model_validate_json(text) == spec
    except ValidationError:
        return False
