"""What MODEL on the command line may be: real folders, and an install that ships one model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flexiast.errors import ModelError
from flexiast_runtime import catalog as models
from flexiast_runtime.catalog import find_any, find_bundle, find_checkpoint, list_shipped, name_bundle


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An install that ships ``doorbell``; beside it a folder that is no model. The user stands elsewhere."""
    folder = tmp_path / "install" / "models"
    (folder / "doorbell" / "bundle").mkdir(parents=True)
    (folder / "doorbell" / "bundle" / "manifest.json").write_text("{}")
    (folder / "doorbell" / "checkpoint.safetensors").write_bytes(b"weights")
    (folder / "doorbell" / "MODEL_CARD.md").write_text("# doorbell")
    (folder / "draft").mkdir()
    monkeypatch.setattr(models, "_SHIPPED", folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What ``flexiast train`` leaves."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"weights")
    return folder


def test_only_models_with_a_card_are_shipped(install: Path) -> None:
    assert list_shipped() == ("doorbell",)


def test_a_shipped_name_is_its_bundle_or_its_checkpoint(install: Path) -> None:
    assert find_bundle("doorbell") == install / "doorbell" / "bundle"
    assert find_any("doorbell") == install / "doorbell" / "bundle"
    assert find_checkpoint("doorbell") == install / "doorbell" / "checkpoint.safetensors"


def test_a_model_here_goes_before_a_shipped_one(install: Path) -> None:
    folder = Path("doorbell")
    folder.mkdir()
    assert find_bundle("doorbell") == install / "doorbell" / "bundle"  # a folder of doorbell sounds
    (folder / "manifest.json").write_text("{}")
    assert find_bundle("doorbell") == folder


def test_a_run_folder_here_goes_before_a_shipped_model(install: Path) -> None:
    path = Path("doorbell") / "checkpoint.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    assert find_checkpoint("doorbell") == find_any("doorbell") == path


@pytest.mark.parametrize("find", [find_bundle, find_checkpoint, find_any])
def test_what_is_neither_names_what_is_shipped(install: Path, find: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"'absent' is neither a file or folder nor a shipped model \(doorbell\)"):
        find("absent")


def test_a_run_folder_is_its_checkpoint(install: Path, run_folder: Path) -> None:
    assert find_checkpoint(str(run_folder)) == run_folder / "checkpoint.safetensors"
    assert find_any(str(run_folder)) == run_folder / "checkpoint.safetensors"


def test_a_bundle_folder_is_itself(install: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    assert find_any(str(bundle)) == find_bundle(str(bundle)) == bundle


def test_a_checkpoint_file_is_itself(install: Path, run_folder: Path) -> None:
    path = run_folder / "checkpoint.safetensors"
    assert find_any(str(path)) == find_checkpoint(str(path)) == path


def test_a_file_where_a_bundle_is_needed_says_how_to_make_one(install: Path, run_folder: Path) -> None:
    path = run_folder / "checkpoint.safetensors"
    with pytest.raises(ModelError, match=rf"is a file; .*flexiast export {path} -o BUNDLE"):
        find_bundle(str(path))


def test_a_bundle_is_called_what_its_user_calls_it(install: Path, tmp_path: Path) -> None:
    assert name_bundle(find_bundle("doorbell")) == "doorbell"
    assert name_bundle(tmp_path / "home.bundle") == str(tmp_path / "home.bundle")


def test_audio_where_a_bundle_is_needed_is_not_to_be_exported(install: Path, tmp_path: Path) -> None:
    (tmp_path / "mono.wav").touch()
    with pytest.raises(ModelError, match=r"mono\.wav is a file and no model; give a bundle folder") as error:
        find_bundle(str(tmp_path / "mono.wav"))
    assert "export" not in str(error.value)


@pytest.mark.parametrize("find", [find_checkpoint, find_any])
def test_a_folder_where_a_checkpoint_is_needed_says_what_one_is(
    install: Path, tmp_path: Path, find: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelError, match=r"is a folder; this needs a checkpoint, the \.safetensors file"):
        find(str(tmp_path))
