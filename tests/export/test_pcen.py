"""PCEN: a plain loop, matrix products in PyTorch and the graph give the same, and levels hardly matter afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.model import PatchEmbedding
from flexiast.networks import load_model
from flexiast.pcen import normalize_energy, padding_value, smoothing_matrices
from flexiast.pcen_torch import PCEN
from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast_export.embedding import tokens
from flexiast_export.graph import Graph, embedder, write_pcen

MakeFrontend = Callable[..., FrontendSpec]

TOLERANCE = 2e-4
"""Energies reach over seven decades, and float32 sums a block of them in another order than the loop in float64."""


def random_features(frontend: FrontendSpec, seed: int, batch: int = 2) -> Float:
    """From silence to a shout, with onsets."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(-15.9, 6.0, size=(batch, frontend.window_frames // 7 + 1, frontend.mel_bins))
    log_mel = np.repeat(steps, 7, axis=1)[:, : frontend.window_frames] + rng.normal(size=(1, frontend.mel_bins))
    return ((log_mel - frontend.mean) / (2 * frontend.std)).astype(np.float32)


def run_graph(frontend: FrontendSpec, features: Float) -> Float:
    graph = Graph()
    result = write_pcen(graph, frontend, "features")
    model = graph.model(
        "pcen",
        ("features", ["batch", frontend.window_frames, frontend.mel_bins]),
        (result, ["batch", frontend.window_frames, frontend.mel_bins]),
        {},
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": features})
    return found


@pytest.mark.parametrize("frames", [1, 2, 3, 38, 98, 498])
def test_the_loop_pytorch_and_the_graph_are_equal(build_frontend_spec: MakeFrontend, frames: int) -> None:
    frontend = build_frontend_spec(frames, mel_bins=16)
    features = random_features(frontend, frames)
    expected = normalize_energy(features, frontend)
    np.testing.assert_allclose(PCEN(frontend)(torch.from_numpy(features)).numpy(), expected, atol=TOLERANCE)
    np.testing.assert_allclose(run_graph(frontend, features), expected, atol=TOLERANCE)


@given(frames=st.integers(1, 700), seed=st.integers(0, 2**32 - 1))
def test_blocks_give_the_running_mean(frames: int, seed: int) -> None:
    energy = np.random.default_rng(seed).exponential(size=frames)
    within, fading, carried = smoothing_matrices(frames)
    blocks = np.pad(energy, (0, len(within) * len(carried) - frames)).reshape(len(carried), -1)
    local = blocks @ within.T
    smooth = (local + (carried @ np.append(energy[0], local[:-1, -1]))[:, None] * fading.T).ravel()[:frames]
    past, expected = energy[0], []
    for value in energy:
        past = 0.975 * past + 0.025 * value
        expected.append(past)
    np.testing.assert_allclose(smooth, expected, rtol=1e-4)


def test_a_level_is_divided_out_and_an_onset_is_not(build_frontend_spec: MakeFrontend) -> None:
    frontend = build_frontend_spec(98, mel_bins=8)
    log_mel = np.full((1, 98, 8), -3.0, np.float32)
    log_mel[:, 60:64] += 3.0  # 13 dB

    def value(gain_db: float) -> Float:
        shifted = log_mel + np.float32(gain_db * np.log(10) / 10)
        return normalize_energy((shifted - frontend.mean) / (2 * frontend.std), frontend)

    loud, quiet = value(0.0), value(-20.0)
    assert np.abs(loud - quiet).max() < 0.1 * loud[0, 60].min(), "20 dB are less than a tenth of an onset of 13"
    assert loud[0, 60].min() > 5 * loud[0, 59].max()


@pytest.mark.parametrize("patch", ["8", "16", "5x7", "32x38"])
def test_a_model_that_begins_with_it_embeds_alike_everywhere(tiny_checkpoint: Checkpoint, patch: str) -> None:
    spec = tiny_checkpoint.spec.model_copy(update={"pcen": True})
    size, features = PatchSize.parse(patch), random_features(spec.frontend, 5)
    model = load_model(Checkpoint(spec, tiny_checkpoint.weights))
    embedding = model.embedding
    assert isinstance(embedding, PatchEmbedding)
    expected = embedding(torch.from_numpy(features).to(embedding.kernel.device), size).detach().cpu().numpy()
    ours = tokens(spec, tiny_checkpoint.weights, features, size)[:, spec.network.prefix_tokens :]
    np.testing.assert_allclose(ours, expected, atol=1e-3, rtol=1e-3)  # sums of hundreds of the above
    graph = embedder(spec, tiny_checkpoint.weights, size).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": features})
    np.testing.assert_allclose(found[:, spec.network.prefix_tokens :], expected, atol=1e-3, rtol=1e-3)


def test_patches_are_padded_with_what_silence_becomes(build_spec: Callable[..., Spec]) -> None:
    plain, spec = build_spec(), build_spec(pcen=True)
    silence = np.full((1, 98, 128), padding_value(plain), np.float32)
    assert np.ptp(normalize_energy(silence, spec.frontend)) < 1e-5
    assert padding_value(spec) == pytest.approx(float(normalize_energy(silence, spec.frontend)[0, -1, -1]), abs=1e-5)


def test_specs_without_it_stay_the_same_to_the_byte(build_spec: Callable[..., Spec]) -> None:
    document: dict[str, Any] = build_spec().model_dump()
    assert "pcen" not in document
    assert Spec.model_validate_json(build_spec(pcen=True).model_dump_json()).pcen


def test_levels_are_needed(build_spec: Callable[..., Spec], build_frontend_spec: MakeFrontend) -> None:
    with pytest.raises(ValidationError, match="choose one of them"):
        build_spec(pcen=True, frontend=build_frontend_spec(remove_bin_means=True))
