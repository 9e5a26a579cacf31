"""Which precision runs where none is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexiast.errors import UsageError
from flexiast.manifest import Labelled, Manifest
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.backends import Backend, choose_precision


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """One that multiplies bytes."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("flags\t: avx512_vnni\n")
    return tmp_path


def quantised(bundle: Path, *losses: float | None) -> Manifest:
    """A manifest with int8 beside float32, whose sizes lose so many points."""
    manifest = Bundle.open(bundle).manifest
    lossy = [
        variant.model_copy(
            update={
                "precision": "int8",
                "labelled": None if loss is None else Labelled(clips=400, metric=0.8 - loss / 100, source_metric=0.8),
            }
        )
        for variant, loss in zip(manifest.variants, losses, strict=False)
    ]
    encoders = manifest.encoders | {"int8": manifest.encoders["fp32"]}
    return manifest.model_copy(update={"encoders": encoders, "variants": (*manifest.variants, *lossy)})


def test_int8_is_the_default_where_it_is_fast_and_good(tiny_bundle: Path, machine: Path) -> None:
    manifest = quantised(tiny_bundle, 0.5, -0.3)
    assert choose_precision(manifest, None, Backend.CPU, root=machine) == "int8"
    assert choose_precision(manifest, None, Backend.CPU, ("fp32", "int8"), machine) == "int8"


@pytest.mark.parametrize("losses", [(0.0, 0.51), (0.0, None)], ids=["loses", "never measured"])
def test_one_size_that_may_be_worse_keeps_float32(
    tiny_bundle: Path, machine: Path, losses: tuple[float, float | None]
) -> None:
    assert choose_precision(quantised(tiny_bundle, *losses), None, Backend.CPU, root=machine) == "fp32"


def test_what_is_asked_for_runs(tiny_bundle: Path, machine: Path) -> None:
    manifest = quantised(tiny_bundle, 0.0)
    assert choose_precision(manifest, "fp32", Backend.CPU, root=machine) == "fp32"
    assert choose_precision(manifest, "int8", Backend.CPU, root=machine / "nothing") == "int8"
    with pytest.raises(UsageError, match="no int4 engines"):
        choose_precision(manifest, "int4", Backend.CPU, root=machine)


def test_another_processor_backend_bundle_or_profile_keeps_float32(tiny_bundle: Path, machine: Path) -> None:
    manifest = quantised(tiny_bundle, 0.0)
    assert choose_precision(manifest, None, Backend.CPU, root=machine / "nothing") == "fp32"
    assert choose_precision(manifest, None, Backend.CUDA, root=machine) == "fp32"
    assert choose_precision(manifest, None, Backend.CPU, ("fp32",), machine) == "fp32"  # its figures are of float32
    assert choose_precision(Bundle.open(tiny_bundle).manifest, None, Backend.CPU, root=machine) == "fp32"
