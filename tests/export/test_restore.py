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


def test_what_was_learnt_one_evening_is_there_the_next(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    from flexiast.networks import TorchClassifier, load_model

    extra, rng = (1, 0, 1), np.random.default_rng(0)
    head = {
        name: np.concatenate(
            (tiny_checkpoint.weights[name], rng.normal(size=(3, *tiny_checkpoint.weights[name].shape[1:])))
        )
        for name in ("head.weight", "head.bias")
    }
    learnt = replace(
        tiny_checkpoint,
        spec=tiny_checkpoint.spec.model_copy(update={"extra_rows": extra}),
        weights=tiny_checkpoint.weights | {name: value.astype(np.float32) for name, value in head.items()},
    )
    export_onnx(
        learnt, TorchClassifier(load_model(learnt)), learnt.spec.trained_patches[:1], tmp_path / "evening.bundle"
    )
    bundle = Bundle.open(tmp_path / "evening.bundle")
    assert not bundle.manifest.spec.extra_rows
    restored = restore_checkpoint(bundle)
    assert restored.spec.extra_rows == extra
    for name, value in head.items():
        np.testing.assert_array_equal(restored.weights[name], value.astype(np.float32))


def test_a_bundle_without_float32_weights_is_refused(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    manifest = bundle.manifest.model_copy(update={"encoders": {"int8": Encoder(file="encoder.int8.onnx")}})
    with pytest.raises(ModelError, match=r"holds int8 only, from which nothing can be learnt; give its checkpoint"):
        restore_checkpoint(replace(bundle, manifest=manifest))
