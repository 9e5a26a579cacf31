"""Engines of ONNX Runtime, against the PyTorch model they were exported from."""

from __future__ import annotations

import hashlib
import re
import weakref
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, softmax

from flexiast.errors import ModelError, UsageError
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import MANIFEST, read_manifest
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.engine import label_scores, scores
from flexiast_runtime.inference.ort import load_engines

Float = NDArray[np.float32]


def noise(spec: Spec, batch: int) -> Float:
    shape = (batch, spec.frontend.window_frames, spec.frontend.mel_bins)
    return np.random.default_rng(batch).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_engines_answer_as_the_pytorch_model_does(tiny_bundle: Path, tiny_source: Classifier, batch: int) -> None:
    engines = load_engines(Bundle.open(tiny_bundle))
    features = noise(engines.spec, batch)
    answers = [engines.logits(features, patch) for patch in engines.patches]
    for patch, found in zip(engines.patches, answers, strict=True):
        # float32 sums in another order, on logits of size 4
        np.testing.assert_allclose(found, tiny_source.logits(features, patch), rtol=0, atol=1e-5)
    assert np.ptp(answers, axis=0).min() > 1e-3  # patch sizes are different networks: equality above says something


def test_each_window_of_a_batch_is_classified_by_itself(tiny_bundle: Path) -> None:
    engines = load_engines(Bundle.open(tiny_bundle))
    features = noise(engines.spec, 5)
    for patch in engines.patches:
        alone = np.concatenate([engines.logits(window[None], patch) for window in features])
        # kernels for other batch sizes add in another order
        np.testing.assert_allclose(engines.logits(features, patch), alone, rtol=0, atol=1e-5)


def test_all_engines_share_one_encoder(tiny_bundle: Path) -> None:
    engines = load_engines(Bundle.open(tiny_bundle))
    assert len({id(engines[patch].encoder) for patch in engines.patches}) == 1
    assert len({id(engines[patch].embedder) for patch in engines.patches}) == len(engines.patches)


def test_some_sizes_can_be_loaded_alone_and_in_any_order(tiny_bundle: Path) -> None:
    wanted = (PatchSize(20, 10), PatchSize(8, 8))
    engines = load_engines(Bundle.open(tiny_bundle), wanted)
    assert engines.patches == wanted
    assert [engines[patch].variant.patch_size for patch in wanted] == list(wanted)


def test_files_of_other_sizes_are_not_even_read(bundle_copy: Path) -> None:
    (bundle_copy / "embed-16x16.onnx").unlink()
    engines = load_engines(Bundle.open(bundle_copy), [PatchSize(8, 8)])
    assert np.isfinite(engines.logits(noise(engines.spec, 1), PatchSize(8, 8))).all()


def test_an_unknown_size_names_those_there_are(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="no patch size 24x24; it has 8x8, 12x12, 16x16, 20x10"):
        load_engines(Bundle.open(tiny_bundle), [PatchSize(24, 24)])


@pytest.mark.parametrize(("asked", "threads"), [({}, 1), ({"threads": 2}, 2)], ids=["by default", "when asked"])
def test_engines_run_on_so_many_threads(tiny_bundle: Path, asked: dict[str, int], threads: int) -> None:
    engine = load_engines(Bundle.open(tiny_bundle), **asked)[PatchSize(8, 8)]
    for session in (engine.encoder, engine.embedder):
        assert session.get_session_options().intra_op_num_threads == threads
        assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("opset", [17, 23])
def test_a_graph_that_onnx_runtime_refuses_is_a_model_error_with_its_name(bundle_copy: Path, opset: int) -> None:
    """The manifest vouches for it, so that it passes the checksum: an export of another time or another tool."""
    manifest, garbage = read_manifest(bundle_copy), b"no graph"
    entry = manifest.entry("embed-12x12.onnx")
    forged = entry.model_copy(update={"size": len(garbage), "sha256": hashlib.sha256(garbage).hexdigest()})
    files = tuple(forged if other is entry else other for other in manifest.files)
    changed = manifest.model_copy(update={"files": files, "opset": opset})
    (bundle_copy / entry.name).write_bytes(garbage)
    (bundle_copy / MANIFEST).write_text(changed.model_dump_json(exclude_none=True))
    message = rf"embed-12x12\.onnx cannot be loaded by ONNX Runtime {re.escape(onnxruntime.__version__)}"
    with pytest.raises(ModelError, match=message) as caught:
        load_engines(Bundle.open(bundle_copy))
    advice = "; it is written for opset 23: upgrade onnxruntime, or export it again with --opset 17"
    assert str(caught.value).endswith(advice) is (opset == 23)


LOGITS = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=5)


@given(LOGITS)
def test_scores_of_one_label_are_a_softmax(logits: list[float]) -> None:
    found = scores(np.array(logits, np.float32), "single")
    np.testing.assert_allclose(found, softmax(np.array(logits, np.float64)), rtol=0, atol=1e-6)  # float32
    assert found.sum() == pytest.approx(1, abs=1e-6)


@given(LOGITS)
def test_scores_of_several_labels_are_sigmoids(logits: list[float]) -> None:
    found = scores(np.array(logits, np.float32), "multi")
    np.testing.assert_allclose(found, expit(np.array(logits, np.float64)), rtol=0, atol=1e-6)  # float32
    assert ((found >= 0) & (found <= 1)).all()


def test_closed_engines_hold_nothing(tiny_bundle: Path) -> None:
    engines = load_engines(Bundle.open(tiny_bundle))
    held = [weakref.ref(engine) for engine in engines]
    engines.close()
    assert (engines.patches, [each() for each in held]) == ((), [None] * len(held))


def test_a_class_for_nothing_takes_its_share_and_is_no_score(tiny_spec: Spec) -> None:
    spec = tiny_spec.model_copy(update={"task": "single", "nothing_class": True})
    logits = np.random.default_rng(0).normal(scale=3, size=(5, 4)).astype(np.float32)
    found = label_scores(logits, spec)
    # float32
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64), axis=1)[:, :3], rtol=1e-5)
    assert (found.sum(axis=1) < 1).all()
