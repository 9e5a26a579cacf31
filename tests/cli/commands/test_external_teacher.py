"""`flexiast train` with a teacher of another maker, on recordings that nobody labelled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import soundfile

from flexiast.checkpoint import load_checkpoint
from tests.cli.conftest import Run, tone
from tests.cli.test_errors import assert_refused
from tests.flexiast.training.test_external_teacher import LABELS, write_onnx

QUICK = ("--model", "pico", "--window", 0.5, "--patch-sizes", "16,24x16", "--epochs", 1, "--batch-size", 32)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones of 3 s, high and low in turn."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(16):
        hz = 300 if number % 2 else 3_000
        soundfile.write(folder / f"{number}.wav", tone(hz, 3.0, number), 16_000)
    return folder


def taught(recordings: Path, teacher: Path) -> tuple[object, ...]:
    labels = teacher.with_name("labels.txt")
    return ("train", recordings, *QUICK, "--teacher", teacher, "--teacher-labels", labels)


def test_a_run_goes_from_recordings_without_labels_to_a_checkpoint(run: Run, recordings: Path, tmp_path: Path) -> None:
    teacher = write_onnx(tmp_path / "teacher.onnx", rate_hz=16_000)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    result = run(*taught(recordings, teacher), "-o", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "90 clips train, 6 validate" in result.stderr
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert (checkpoint.spec.labels, checkpoint.spec.task) == (LABELS, "multi")
    answers = tmp_path / "run" / "teacher-train.npz"
    written = answers.stat().st_mtime_ns
    again = run(*taught(recordings, teacher), "-o", tmp_path / "run", "--resume")  # nothing is left to do
    assert (again.returncode, answers.stat().st_mtime_ns) == (0, written), again.stderr


def test_its_embedding_is_learnt_next_to_labels(run: Run, sounds: Path, tmp_path: Path) -> None:
    teacher = write_onnx(tmp_path / "teacher.onnx", rate_hz=16_000)
    result = run("train", sounds, *QUICK, "--background", sounds / "low", "--teacher", teacher, "-o", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert checkpoint.spec.labels == ("high", "low")
    assert not [name for name in checkpoint.weights if "teacher" in name]
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["external_teacher"] == hashlib.sha256(teacher.read_bytes()).hexdigest()


def test_what_does_not_go_with_such_a_teacher_is_refused(run: Run, recordings: Path, tmp_path: Path) -> None:
    teacher = write_onnx(tmp_path / "teacher.onnx", rate_hz=16_000)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    two = run(*taught(recordings, teacher), "--teacher", teacher, "-o", tmp_path / "two")
    assert_refused(two, 2, "give one, and checkpoints beside it")
    without = run("train", recordings, "-o", tmp_path / "without", "--teacher", teacher)
    assert_refused(without, 8, "folders named by label")
    convnet = run(
        *taught(recordings, teacher)[:2],
        *taught(recordings, teacher)[-4:],
        "-o",
        tmp_path / "convnet",
        "--model",
        "convnet",
    )
    assert_refused(convnet, 2, "teaches transformers")
    folds = run(*taught(recordings, teacher), "--val-fold", 1, "-o", tmp_path / "folds")
    assert_refused(folds, 2, "--val-fold")
    stray = run("train", recordings, "-o", tmp_path / "stray", "--teacher-rate", 16_000)
    assert_refused(stray, 2, "--teacher-rate")
