"""The front end as a graph: the features of numpy's, block by block as at once, for any number of samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import UsageError, VerificationError
from flexiast.frontend import Frontend
from flexiast.manifest import MANIFEST, Manifest, read_manifest
from flexiast.spec import FrontendSpec, Spec
from flexiast_export.add import add_sizes
from flexiast_export.frontend import FRONTEND, frontend
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines, load_session
from flexiast_runtime.inference.selfcheck import FRONTEND_TOLERANCE_NAT, frontend_error, verify_bundle
from tests.runtime.inference.test_selfcheck import put

pytest.importorskip("onnx", reason="the graph is written on the spot")
onnxruntime = pytest.importorskip("onnxruntime")

Float = NDArray[np.float32]

EQUAL_NAT = 2e-5
"""float32 sums of a product of matrices may be taken in another order for another number of rows."""


def load(spec: Spec) -> Callable[[Float], Float]:
    """Samples [batch, samples] → features, by the graph."""
    session = onnxruntime.InferenceSession(frontend(spec).SerializeToString(), providers=["CPUExecutionProvider"])

    def run(samples: Float) -> Float:
        features: Float = session.run(None, {"samples": samples})[0]
        return features

    return run


@pytest.fixture(scope="session")
def graph(build_spec: Callable[..., Spec]) -> Callable[[Float], Float]:
    return load(build_spec())


@pytest.fixture(scope="session")
def compute(build_frontend_spec: Callable[..., FrontendSpec]) -> Frontend:
    return Frontend(build_frontend_spec())


def difference_nat(found: Float, expected: Float, spec: FrontendSpec) -> float:
    assert found.shape == expected.shape
    return 2 * spec.std * float(np.abs(found - expected).max(initial=0.0))


@pytest.mark.parametrize("data_set", ["esc50", "commands", "speakers"])
def test_features_of_real_audio_are_numpys(
    data_set: str,
    real_waveforms: Callable[[str, int], list[Float]],
    graph: Callable[[Float], Float],
    compute: Frontend,
) -> None:
    for waveform in real_waveforms(data_set, 20):
        (found,) = graph(waveform[None])
        assert difference_nat(found, compute(waveform), compute.spec) <= FRONTEND_TOLERANCE_NAT


def test_features_of_extremes_are_numpys(graph: Callable[[Float], Float], compute: Frontend) -> None:
    """Silence, full scale, a constant, one impulse, a faint sound beside a loud one."""
    count, rng = 4_000, np.random.default_rng(0)
    time = np.arange(count)
    square = np.sign(np.sin(time / 30))
    impulse = np.zeros(count)
    impulse[777] = 1
    faint = 0.99 * np.sin(time / 50) + 1e-6 * rng.standard_normal(count)
    waveforms = np.stack([np.zeros(count), square, np.ones(count), impulse, faint]).astype(np.float32)
    for found, waveform in zip(graph(waveforms), waveforms, strict=True):
        assert difference_nat(found, compute(waveform), compute.spec) <= FRONTEND_TOLERANCE_NAT


@given(st.integers(0, 1_400))
def test_the_number_of_frames_is_numpys(graph: Callable[[Float], Float], compute: Frontend, samples: int) -> None:
    """None from less than one taper; five samples short of a frame give no part of it."""
    waveform = np.random.default_rng(samples).normal(scale=0.1, size=samples).astype(np.float32)
    (found,) = graph(waveform[None])
    assert difference_nat(found, compute(waveform), compute.spec) <= EQUAL_NAT


@given(st.integers(0, 2**32 - 1))
def test_blocks_give_the_frames_of_the_whole(graph: Callable[[Float], Float], compute: Frontend, seed: int) -> None:
    """Who keeps the samples of the frames that are not whole yet gets every frame once, whatever the blocks."""
    rng = np.random.default_rng(seed)
    waveform = rng.normal(scale=0.1, size=6_000).astype(np.float32)
    frames, pending, start = [], np.empty(0, np.float32), 0
    while start < len(waveform):
        block = waveform[start : start + int(rng.integers(1, 1_500))]
        start += len(block)
        pending = np.concatenate((pending, block))
        (found,) = graph(pending[None])
        frames.append(found)
        pending = pending[len(found) * compute.spec.hop_samples :]
    (whole,) = graph(waveform[None])
    assert difference_nat(np.concatenate(frames), whole, compute.spec) <= EQUAL_NAT
    assert len(pending) < compute.spec.taper_samples


@pytest.mark.parametrize(
    "fields",
    [
        {"taper_samples": 512, "hop_samples": 160, "window_samples": 8_000},
        {"taper_samples": 100, "hop_samples": 100, "window_samples": 4_000, "mel_bins": 20},
        {"taper_samples": 1_200, "hop_samples": 480, "window_samples": 24_000, "sample_rate_hz": 48_000},
        {"taper_samples": 64, "hop_samples": 17, "window_samples": 800, "mel_bins": 8},
    ],
    ids=["no padding", "no overlap", "48 kHz", "hop that divides nothing"],
)
def test_any_front_end_can_be_written(
    fields: dict[str, int], build_spec: Callable[..., Spec], build_frontend_spec: Callable[..., FrontendSpec]
) -> None:
    spec = build_frontend_spec(**fields)
    waveform = np.random.default_rng(1).normal(scale=0.1, size=spec.window_samples).astype(np.float32)
    (found,) = load(build_spec(frontend=spec))(waveform[None])
    assert difference_nat(found, Frontend(spec)(waveform), spec) <= FRONTEND_TOLERANCE_NAT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_spoils_its_own_frames_only(
    graph: Callable[[Float], Float], compute: Frontend, bad: float
) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=(3, 4_000)).astype(np.float32)
    clean = graph(samples)
    samples[1, 2_000] = bad
    found, spec = graph(samples), compute.spec
    starts = np.arange(found.shape[1]) * spec.hop_samples
    touched = (starts <= 2_000) & (starts + spec.taper_samples > 2_000)
    assert np.isnan(found[1, touched]).all()
    assert difference_nat(found[[0, 2]], clean[[0, 2]], spec) <= EQUAL_NAT
    assert difference_nat(found[1, ~touched], clean[1, ~touched], spec) <= EQUAL_NAT


# ----- in a bundle


def strip_frontend(folder: Path) -> Bundle:
    """Make the bundle one from before it had a front end."""
    manifest = read_manifest(folder)
    files = tuple(entry for entry in manifest.files if entry.name != FRONTEND)
    old = manifest.model_copy(update={"files": files, "frontend": None})
    (folder / MANIFEST).write_text(old.model_dump_json(exclude_none=True))
    (folder / FRONTEND).unlink()
    return Bundle.open(folder)


def test_a_bundle_verifies_its_front_end(tiny_bundle: Path) -> None:
    error = frontend_error(Bundle.open(tiny_bundle))
    assert error is not None
    assert error < EQUAL_NAT


def test_a_front_end_of_another_spec_is_refused(bundle_copy: Path, tiny_spec: Spec) -> None:
    """Right by its checksum and by its metadata; only its answers tell."""
    import onnx

    changed = tiny_spec.frontend.model_copy(update={"preemphasis": 0.96})
    graph = frontend(tiny_spec.model_copy(update={"frontend": changed}))
    onnx.helper.set_model_props(graph, {"flexiast.spec": tiny_spec.model_dump_json()})
    bundle = put(bundle_copy, FRONTEND, graph.SerializeToString())
    with pytest.raises(VerificationError, match=r"frontend\.onnx answers the golden samples with an error"):
        verify_bundle(bundle)


def test_an_older_bundle_loads_and_can_be_given_one(bundle_copy: Path, tiny_bundle: Path) -> None:
    """Without torch and without a new size; the graph is that of a fresh export, to the byte."""
    old = strip_frontend(bundle_copy)
    assert frontend_error(old) is None
    assert verify_bundle(old)
    manifest: Manifest = add_sizes(old, (), bundle_copy)
    assert manifest.frontend == FRONTEND
    assert (bundle_copy / FRONTEND).read_bytes() == (tiny_bundle / FRONTEND).read_bytes()
    assert load_session(Bundle.open(bundle_copy), FRONTEND)
    with pytest.raises(UsageError, match="name others with --patch-sizes"):
        add_sizes(Bundle.open(bundle_copy), (), bundle_copy)


def test_a_window_that_is_no_number_spoils_its_own_row(tiny_bundle: Path) -> None:
    """Of the embedder and the encoder, in float32, as the reference page says."""
    engines = load_engines(Bundle.open(tiny_bundle))
    spec = engines.spec.frontend
    features = np.random.default_rng(0).normal(size=(3, spec.window_frames, spec.mel_bins)).astype(np.float32)
    for patch in engines.patches:
        clean = engines.logits(features, patch)
        spoilt = features.copy()
        spoilt[1, 5, 5] = np.nan
        found = engines.logits(spoilt, patch)
        assert np.isnan(found[1]).all()
        np.testing.assert_allclose(found[[0, 2]], clean[[0, 2]], atol=1e-5)
