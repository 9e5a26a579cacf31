"""`flexiast embed`: what it writes, and that it is what the head reads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyarrow import parquet

from flexiast.checkpoint import load_checkpoint
from flexiast.frontend import Frontend
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize
from flexiast_runtime.catalog import find_checkpoint
from tests.cli.conftest import Run, tone
from tests.cli.test_errors import assert_refused


def test_vectors_are_what_the_head_reads(run: Run, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, seconds in (("a", 1.2), ("b", 0.4)):
        sound = tone(500, seconds, 1)
        sound[:8_000] *= 1e-4  # a window in which nothing is audible has its vector, too
        soundfile.write(folder / f"{name}.wav", sound, 16_000, subtype="FLOAT")
    (folder / "c.wav").write_bytes(b"no sound")
    output = tmp_path / "embeddings.npy"
    assert_refused(run("embed", trained, folder / "c.wav", "-o", output), 8, "c.wav")
    assert not output.exists()
    for path in (output, tmp_path / "embeddings.parquet"):
        result = run("embed", trained, folder, "-o", path, "--patch-size", "32x16")
        assert result.returncode == 0, result.stderr
        assert "c.wav cannot be read as audio" in result.stderr
    vectors = np.load(output)
    with output.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    checkpoint = load_checkpoint(find_checkpoint(str(trained)))
    frontend = Frontend(checkpoint.spec.frontend)
    assert [Path(row["path"]).name for row in rows] == ["a.wav"] * 3 + ["b.wav"]
    step, window = frontend.spec.window_frames * frontend.spec.hop_samples / 16_000, frontend.spec.window_s
    assert [float(row["start_s"]) for row in rows] == pytest.approx([0, step, 2 * step, 0])
    assert [float(row["end_s"]) for row in rows] == pytest.approx([window, step + window, 1.2, 0.4])

    table = parquet.read_table(tmp_path / "embeddings.parquet").to_pylist()
    assert [str(row["path"]) for row in table] == [row["path"] for row in rows]
    np.testing.assert_array_equal(np.float32([row["embedding"] for row in table]), vectors)

    samples = soundfile.read(folder / "a.wav", dtype="float32")[0]
    second = frontend.window(samples[round(step * 16_000) :])
    logits = TorchClassifier(load_model(checkpoint)).logits(second[None], PatchSize(32, 16))
    head = checkpoint.weights["head.weight"] @ vectors[1] + checkpoint.weights["head.bias"]
    np.testing.assert_allclose(head, logits[0], atol=1e-4)  # float32


def test_a_size_that_the_model_was_not_trained_at_is_warned_of(run: Run, trained: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(500, 0.4, 1), 16_000)
    sizes = load_checkpoint(find_checkpoint(str(trained))).spec.trained_patches
    small = min(min(patch.mels, patch.frames) for patch in sizes)
    for side, warned in ((small - 1, True), (small, False)):
        result = run("embed", trained, tmp_path / "a.wav", "-o", tmp_path / f"{side}.npy", "--patch-size", side)
        assert result.returncode == 0, result.stderr
        assert (f"and {side}x{side} lies outside" in result.stderr) == warned


def test_what_cannot_be_written_is_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    assert_refused(run("embed", trained, tmp_path, "-o", tmp_path / "vectors.csv"), 2, "must end in .parquet or .npy")
    (tmp_path / "mine.csv").write_text("path,label\n")
    assert_refused(run("embed", trained, tmp_path, "-o", tmp_path / "mine.npy"), 2, "mine.csv exists")
    assert (tmp_path / "mine.csv").read_text() == "path,label\n"
    assert_refused(run("embed", trained, tmp_path, "-o", tmp_path / "vectors.npy"), 8, "no audio")
