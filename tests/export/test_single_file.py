"""Samples → scores in one file: what the bundle's engines give, and what its metadata say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, weight_shapes
from flexiast.errors import UsageError, VerificationError
from flexiast.evaluation.evaluate import Classifier
from flexiast.frontend import Frontend
from flexiast.manifest import Manifest, Variant
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import FrontendSpec, NetworkSpec, PatchSize, Spec
from flexiast_export import single_file as module
from flexiast_export.single_file import write_single_files
from flexiast_export.to_onnx import export_onnx
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines
from tests.runtime.inference.test_selfcheck import put

pytest.importorskip("onnx", reason="the file is written on the spot")
onnxruntime = pytest.importorskip("onnxruntime")

Float = NDArray[np.float32]
PATCH = PatchSize(16, 16)
EQUAL = 1e-5
"""Scores of float32, whose features differ in the last digit"""


def export(tmp_path: Path, spec: Spec, **options: object) -> Bundle:
    rng, shapes = np.random.default_rng(3), weight_shapes(spec)
    weights = {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}
    checkpoint = Checkpoint(spec, weights)
    folder = tmp_path / "home.bundle"
    export_onnx(checkpoint, TorchClassifier(load_model(checkpoint)), [PATCH], folder, **options)  # type: ignore[arg-type]
    return Bundle.open(folder)


def give_temperature(bundle: Bundle, temperature: float) -> Bundle:
    variants = tuple(one.model_copy(update={"temperature": temperature}) for one in bundle.manifest.variants)
    return Bundle(bundle.folder, bundle.manifest.model_copy(update={"variants": variants}))


def sounds(spec: Spec, rows: int = 4) -> Float:
    rng = np.random.default_rng(5)
    levels = np.logspace(-3, -0.5, rows)[:, None]
    return (levels * rng.standard_normal((rows, spec.frontend.window_samples))).astype(np.float32)


@pytest.fixture(params=["single", "nothing class", "multi", "no bin means"])
def spec(
    request: pytest.FixtureRequest, build_spec: Callable[..., Spec], build_frontend_spec: Callable[..., FrontendSpec]
) -> Spec:
    fields: dict[str, object] = {
        "frontend": build_frontend_spec(
            window_samples=6_433, mel_bins=32, remove_bin_means=request.param == "no bin means"
        ),
        "network": NetworkSpec(width=16, depth=2, heads=2),
        "task": "multi" if request.param == "multi" else "single",
    }
    if request.param == "nothing class":
        fields["nothing_class"] = True
    return build_spec(**fields)


def test_scores_are_those_of_the_bundle(spec: Spec, tmp_path: Path) -> None:
    """With a temperature, of a whole batch, and labels alone where there is a class for nothing."""
    bundle = give_temperature(export(tmp_path, spec), 1.7)
    (path,) = write_single_files(bundle, [PATCH], ["fp32"], tmp_path / "files")
    samples, compute = sounds(spec), Frontend(spec.frontend)
    engines = load_engines(bundle)
    expected = engines.scores(np.stack([compute.window(row) for row in samples]), PATCH)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"samples": samples})
    assert found.shape == (len(samples), len(spec.labels))
    np.testing.assert_allclose(found, expected, atol=EQUAL)
    assert np.ptp(expected, axis=0).max() > 0.01  # the sounds are told apart, so that equality means something


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_sound_spoils_no_other(
    tiny_checkpoint: Checkpoint, tmp_path: Path, precision: str, bad: float
) -> None:
    """In int8 a batch shares its ranges, which what is no number must not reach: silence stands in for it."""
    bundle = export(tmp_path, tiny_checkpoint.spec, precisions=[precision])
    (path,) = write_single_files(bundle, [PATCH], bundle.manifest.precisions, tmp_path)
    samples = sounds(bundle.manifest.spec)
    session = onnxruntime.InferenceSession(path)
    samples[1] = 0
    (clean,) = session.run(None, {"samples": samples})
    samples[1, 100] = bad
    (found,) = session.run(None, {"samples": samples})
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2, 3]], clean[[0, 2, 3]], atol=EQUAL)


def test_a_file_explains_itself(tiny_bundle: Path, tmp_path: Path) -> None:
    import onnx

    opened = Bundle.open(tiny_bundle)
    manifest: Manifest = opened.manifest.model_copy(update={"thresholds": {"bark": 0.7}})
    (path,) = write_single_files(Bundle(tiny_bundle, manifest), [PATCH], ["fp32"], tmp_path)
    session = onnxruntime.InferenceSession(path)
    facts, spec = session.get_modelmeta().custom_metadata_map, manifest.spec
    assert json.loads(facts["labels"]) == list(spec.labels)
    assert json.loads(facts["thresholds"]) == {"alarm": 0.5, "bark": 0.7, "clap": 0.5}
    assert (int(facts["sample_rate_hz"]), int(facts["window_samples"])) == (16_000, 6_400)
    assert (facts["patch_size"], facts["precision"], facts["task"]) == ("16x16", "fp32", "multi")
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.shape, result.name, result.shape) == (
        "samples",
        ["batch", 6_400],
        "scores",
        ["batch", 3],
    )
    graph = onnx.load(path).graph
    assert "16000 Hz" in graph.input[0].doc_string
    assert "labels" in graph.output[0].doc_string
    assert (Path(__file__).parents[2] / facts["documentation"]).is_file()
    assert facts["documentation"] in graph.doc_string


def test_the_licence_is_that_of_the_card(tmp_path: Path) -> None:
    from flexiast_runtime.catalog import find_bundle

    bundle = Bundle.open(find_bundle("commands"))
    facts = module.describe(bundle, bundle.manifest.variants[0])
    assert facts["licence"].startswith("CC BY 4.0")
    assert module.file_name(bundle, bundle.manifest.variants[0]).startswith("commands-")


def test_the_licence_of_a_checkpoint_goes_into_its_bundle_and_their_files(
    tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path: Path
) -> None:
    checkpoint = replace(tiny_checkpoint, info={"licence": "CC BY 4.0"})
    export_onnx(checkpoint, tiny_source, [PatchSize(16, 16)], tmp_path / "licensed")
    bundle = Bundle.open(tmp_path / "licensed")
    assert module.describe(bundle, bundle.manifest.variants[0])["licence"] == bundle.manifest.licence == "CC BY 4.0"


def test_nothing_is_written_unless_all_is_right(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file's scores are wrong, by a temperature that its graph does not have: the first stays away too."""
    bundle, right = Bundle.open(tiny_bundle), module.single_file

    def spoil(bundle: Bundle, variant: Variant) -> object:
        hot = variant.patch_size == PATCH
        return right(bundle, variant.model_copy(update={"temperature": 9.0}) if hot else variant)

    monkeypatch.setattr(module, "single_file", spoil)
    with pytest.raises(VerificationError, match="16x16 in fp32 as one file gives scores that differ"):
        write_single_files(bundle, [PatchSize(8, 8), PATCH], ["fp32"], tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_files_that_exist_and_sizes_that_do_not_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    write_single_files(bundle, [PATCH], ["fp32"], tmp_path)
    with pytest.raises(UsageError, match="--force"):
        write_single_files(bundle, [PATCH], ["fp32"], tmp_path)
    write_single_files(bundle, [PATCH], ["fp32"], tmp_path, force=True)
    with pytest.raises(UsageError, match="has no patch size 17x17"):
        write_single_files(bundle, [PatchSize(17, 17)], ["fp32"], tmp_path)


def test_a_damaged_bundle_gives_no_file(bundle_copy: Path, tmp_path: Path) -> None:
    bundle = put(bundle_copy, "embed-12x12.onnx", (bundle_copy / "embed-8x8.onnx").read_bytes())
    with pytest.raises(VerificationError):
        write_single_files(bundle, [PATCH], ["fp32"], tmp_path / "files")
    assert not (tmp_path / "files").exists()
