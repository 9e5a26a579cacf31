"""A calibrated bundle: the same engines to the byte, other scores; or nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.errors import UsageError, VerificationError
from flexiast.evaluation.evaluate import Windows
from flexiast.frontend import Frontend
from flexiast.manifest import MANIFEST, read_manifest
from flexiast.spec import PatchSize, Spec
from flexiast_export.add import add_sizes
from flexiast_export.calibrate import Fit, fit_temperatures, peak_scores, publish
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.engine import scores
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import verify_bundle

Float = NDArray[np.float32]


@pytest.fixture
def fits(tiny_bundle: Path, tiny_spec: Spec, make_tone: Callable[..., Float]) -> list[Fit]:
    """Tones with labels that have little to do with them."""
    rng = np.random.default_rng(0)
    waveforms = [
        make_tone(hz, seconds) for hz, seconds in zip(rng.uniform(100, 6_000, 12), 6 * [0.4, 0.7], strict=True)
    ]
    targets = (rng.random((12, 3)) < 0.5).astype(np.float32)
    return fit_temperatures(Bundle.open(tiny_bundle), Windows(waveforms, Frontend(tiny_spec.frontend)), targets)


def test_engines_stay_as_they_are_and_scores_are_scaled(tiny_bundle: Path, fits: list[Fit], tmp_path: Path) -> None:
    variants = [fit.variant.model_copy(update={"temperature": 2.0 + index}) for index, fit in enumerate(fits)]
    manifest = publish(Bundle.open(tiny_bundle), variants, {"bark": 0.7}, tmp_path / "new")
    assert read_manifest(tmp_path / "new") == manifest
    assert manifest.thresholds == {"bark": 0.7}
    for entry in manifest.files:
        assert (tmp_path / "new" / entry.name).read_bytes() == (tiny_bundle / entry.name).read_bytes()
    new = Bundle.open(tmp_path / "new")
    assert len(verify_bundle(new)) == len(variants)  # golden answers are logits, which no temperature touches
    engines = load_engines(new)
    features = new.arrays("golden.npz")["features"]
    for index, patch in enumerate(engines.patches):
        expected = scores(engines.logits(features, patch) / np.float32(2 + index), "multi")
        np.testing.assert_array_equal(engines.scores(features, patch), expected)


def test_a_fit_makes_no_variant_less_likely(fits: list[Fit]) -> None:
    assert any(fit.fitted for fit in fits)
    for fit in fits:
        before, after = fit.nll
        assert after <= before
        assert (after < before) == (fit.fitted and fit.variant.temperature != 1)


def test_peaks_are_the_scores_of_the_events_that_listening_reports(
    tiny_bundle: Path, fits: list[Fit], make_tone: Callable[..., Float]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    own = [replace(fit, variant=variant) for fit, variant in zip(fits, bundle.manifest.variants, strict=True)]
    waveforms = [make_tone(440, 0.3), make_tone(3_000, 1.1)]
    peaks = peak_scores(bundle, [fit.variant for fit in own], waveforms)
    engines, labels = load_engines(bundle), bundle.manifest.spec.labels
    assert peaks.shape == (len(own), 2, len(labels))
    settings = DetectionSettings.from_frontend(bundle.manifest.spec.frontend, EventRules(1e-6), gate_dbfs=-np.inf)
    silence = np.zeros(6_400 - round(settings.step_s * 16_000), np.float32)
    for patch, of_patch in zip(engines.patches, peaks, strict=True):
        for waveform, peak in zip(waveforms, of_patch, strict=True):
            listener = StreamClassifier(
                engines, FixedSize(patch), settings, source="", conditions=lambda _: Conditions(1.0)
            )
            stream = np.concatenate((silence, waveform, silence))
            events = [record for record in listener.run([Chunk(0, stream)]) if isinstance(record, Event)]
            best = [max(event.score for event in events if event.label == label) for label in labels]
            np.testing.assert_allclose(peak, best, rtol=0, atol=1e-5)  # windows in batches round otherwise


def test_a_bundle_may_be_calibrated_in_its_place_and_take_more_sizes(bundle_copy: Path, fits: list[Fit]) -> None:
    publish(Bundle.open(bundle_copy), [fit.variant for fit in fits], {"clap": 0.3}, bundle_copy)
    added = add_sizes(Bundle.open(bundle_copy), [PatchSize(10, 10)], bundle_copy)
    assert added.thresholds == {"clap": 0.3}
    assert [variant.temperature for variant in added.variants] == [*(fit.variant.temperature for fit in fits), 1.0]


def test_an_existing_place_is_kept(tiny_bundle: Path, fits: list[Fit], bundle_copy: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        publish(Bundle.open(tiny_bundle), [fit.variant for fit in fits], {}, bundle_copy)


def test_a_damaged_bundle_is_not_published(bundle_copy: Path, fits: list[Fit], tmp_path: Path) -> None:
    content = bytearray((bundle_copy / "encoder.onnx").read_bytes())
    content[100] ^= 1
    (bundle_copy / "encoder.onnx").write_bytes(content)
    with pytest.raises(VerificationError, match=r"encoder\.onnx"):
        publish(Bundle.open(bundle_copy), [fit.variant for fit in fits], {}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_thresholds_of_labels_that_are_not_there_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(ValueError, match="labels that the spec lacks: dog"):
        publish(bundle, bundle.manifest.variants, {"dog": 0.5}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_manifests_from_before_have_a_temperature_of_one(bundle_copy: Path) -> None:
    document = json.loads((bundle_copy / MANIFEST).read_text())
    del document["thresholds"]
    for variant in document["variants"]:
        del variant["temperature"]
    (bundle_copy / MANIFEST).write_text(json.dumps(document))
    manifest = read_manifest(bundle_copy)
    assert manifest.thresholds == {}
    assert {variant.temperature for variant in manifest.variants} == {1.0}
