"""A bundle's weights, read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexiast.checkpoint import Checkpoint
from flexiast.errors import ModelError
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import Encoder
from flexiast_export.restore import restore_checkpoint
from flexiast_export.to_onnx import export_onnx
from flexiast_export.verify import synthetic_inputs
from flexiast_runtime.bundle import Bundle

torch = pytest.importorskip("torch", reason="what is restored is compared with the PyTorch model")


def test_a_restored_model_answers_as_the_one_that_was_exported(
    tiny_bundle: Path, tiny_checkpoint: Checkpoint, tiny_source: Classifier
) -> None:
    from flexiast.networks import TorchClassifier, load_model

    restored = restore_checkpoint(Bundle.open(tiny_bundle))
    assert restored.spec == tiny_checkpoint.spec
    assert restored.info["validation"] == tiny_checkpoint.info["validation"]
    features, model = synthetic_inputs(restored.spec), TorchClassifier(load_model(restored))
    for patch in restored.spec.trained_patches:
        # 1e-4, as between engine and model: v's bias is added behind the projection, so float32 rounds otherwise
        np.testing.assert_allclose(model.logits(features, patch), tiny_source.logits(features, patch), atol=1e-4)
    for name, value in restored.weights.items():
        if not name.endswith((".qkv.bias", ".projection.bias")):  # k's and v's are folded
            np.testing.assert_allclose(value, tiny_checkpoint.weights[name], atol=1e-6, err_msg=name)


def test_rows_that_were_learnt_from_verdicts_come_back(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The bundle's spec names none, and its graph joins them."""
    from flexiast.networks import TorchClassifier, load_model

    rng, width = np.random.default_rng(3), tiny_checkpoint.spec.network.width
    spec = tiny_checkpoint.spec.model_copy(update={"extra_rows": (2, 0, 2)})
    head = {
        name: np.concatenate((tiny_checkpoint.weights[name], rng.normal(size=shape).astype(np.float32)))
        for name, shape in (("head.weight", (3, width)), ("head.bias", (3,)))
    }
    taught = Checkpoint(spec, tiny_checkpoint.weights | head)
    source = TorchClassifier(load_model(taught))
    export_onnx(taught, source, spec.trained_patches[:1], tmp_path / "taught.bundle")
    restored = restore_checkpoint(Bundle.open(tmp_path / "taught.bundle"))
    assert restored.spec == spec
    features, patch = synthetic_inputs(spec), spec.trained_patches[0]
    answers = TorchClassifier(load_model(restored)).logits(features, patch)
    np.testing.assert_allclose(answers, source.logits(features, patch), atol=1e-4)


def test_a_bundle_without_float32_weights_is_refused(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    manifest = bundle.manifest.model_copy(update={"encoders": {"int8": Encoder(file="encoder.int8.onnx")}})
    with pytest.raises(ModelError, match=r"holds int8 only, from which nothing can be learnt; give its checkpoint"):
        restore_checkpoint(replace(bundle, manifest=manifest))
