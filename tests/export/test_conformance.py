"""A conformance folder agrees with itself and with the bundle; the second implementation is the page's JavaScript."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from flexiast.errors import UsageError, VerificationError
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize
from flexiast_export.conformance import DOCUMENT, SOUND, build_conformance
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.engine import label_scores
from tests.runtime.inference.test_selfcheck import put

pytest.importorskip("onnx", reason="the bundle is exported on the spot")

PATCHES = (PatchSize(8, 8), PatchSize(16, 16))


@pytest.fixture(scope="module")
def files(tiny_bundle: Path) -> dict[str, bytes]:
    return build_conformance(Bundle.open(tiny_bundle), PATCHES)


@pytest.fixture(scope="module")
def document(files: dict[str, bytes]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(files[DOCUMENT])
    return parsed


def read(files: dict[str, bytes], name: str) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.load(io.BytesIO(files[f"{name}.npy"]))
    return array


def test_features_are_those_of_the_sound_in_the_file(files: dict[str, bytes], tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    samples, rate_hz = soundfile.read(io.BytesIO(files[SOUND]), dtype="float32")
    assert rate_hz == manifest.spec.frontend.sample_rate_hz
    assert len(samples) >= 6 * rate_hz
    np.testing.assert_array_equal(read(files, "features"), Frontend(manifest.spec.frontend)(samples))


def test_scores_follow_from_logits_and_silence_has_none(
    files: dict[str, bytes], document: dict[str, Any], tiny_bundle: Path
) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    silent = np.array([window["silent"] for window in document["windows"]])
    assert 0 < silent.sum() < len(silent) / 2
    for patch in PATCHES:
        logits, scores = read(files, f"logits-{patch}"), read(files, f"scores-{patch}")
        np.testing.assert_allclose(scores[~silent], label_scores(logits, manifest.spec)[~silent], atol=1e-6)
        assert not scores[silent].any()
        first = np.flatnonzero(silent)[-1] + 1  # smoothing begins anew after a silence
        np.testing.assert_array_equal(read(files, f"smoothed-{patch}")[first - 1], scores[first - 1])


def test_every_rule_has_events_to_work_on(document: dict[str, Any]) -> None:
    default, strict = document["rules"]
    assert (default["name"], strict["name"]) == ("default", "strict")
    for patch in map(str, PATCHES):
        assert default["events"][patch]
    shortest = min(strict["confirm_s"], strict["merge_s"], strict["min_duration_s"])
    assert shortest > 0
    assert strict["events"] != default["events"]


def test_the_same_bundle_gives_the_same_folder(files: dict[str, bytes], tiny_bundle: Path) -> None:
    assert build_conformance(Bundle.open(tiny_bundle), PATCHES) == files


def test_sizes_that_do_not_exist_and_damage_are_refused(tiny_bundle: Path, bundle_copy: Path) -> None:
    with pytest.raises(UsageError, match="has no patch size 17x17"):
        build_conformance(Bundle.open(tiny_bundle), [PatchSize(17, 17)])
    bundle = put(bundle_copy, "embed-12x12.onnx", (bundle_copy / "embed-8x8.onnx").read_bytes())
    with pytest.raises(VerificationError):
        build_conformance(bundle, PATCHES)
