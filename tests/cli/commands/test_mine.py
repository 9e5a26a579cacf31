"""`flexiast mine`: what it lists is what listening reports, and training on the list makes it less."""

from __future__ import annotations

import csv
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexiast.data.background import background_clips
from tests.cli.conftest import Run


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, write_audio: Any) -> Path:
    """Two recordings of noise whose level changes, and a copy of one."""
    folder, rng = tmp_path_factory.mktemp("room"), np.random.default_rng(3)
    for name in ("a", "b"):
        noise = rng.standard_normal(25 * 16_000) * np.repeat(rng.uniform(0.001, 0.3, 50), 8_000)
        write_audio(folder / name / "bed.wav", np.convolve(noise, rng.uniform(-1, 1, 8), "same") / 4)
    (folder / "c").mkdir()
    shutil.copy(folder / "a" / "bed.wav", folder / "c")
    return folder


def test_moments_hold_what_classify_reports_the_surest_first(run: Run, tiny_bundle: Path, room: Path) -> None:
    output = room / "hard.csv"
    words = ("--patch-sizes", "8", "--threshold", "0.55")
    result = run("mine", tiny_bundle, room / "a", room / "b", "-o", output, *words)
    assert result.returncode == 0, result.stderr
    rows = read_rows(output)
    assert [row["label"] for row in rows] == [""] * len(rows)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for name in ("a", "b"):
        classified = run(
            "classify",
            tiny_bundle,
            room / name / "bed.wav",
            "--patch-size",
            "8",
            "--threshold",
            "0.55",
            "--format",
            "csv",
        )
        events = list(csv.DictReader(classified.stdout.splitlines()))
        assert events
        spans = sorted((float(r["start_s"]), float(r["end_s"])) for r in rows if r["path"] == f"{name}/bed.wav")
        for event in events:
            start_s, end_s = float(event["start_s"]), float(event["end_s"])
            assert sum(start <= start_s + 1e-3 and end_s <= end + 1e-3 for start, end in spans) == 1
        assert all(later[0] >= earlier[1] for earlier, later in pairwise(spans))
        assert spans[-1][1] <= 25
    assert len(background_clips([output])) == len(rows)


def test_a_copy_of_a_recording_adds_nothing(run: Run, tiny_bundle: Path, room: Path, tmp_path: Path) -> None:
    words = ("--patch-sizes", "8", "--threshold", "0.55")
    assert run("mine", tiny_bundle, room / "a", "-o", tmp_path / "once.csv", *words).returncode == 0
    assert run("mine", tiny_bundle, room / "a", room / "c", "-o", tmp_path / "twice.csv", *words).returncode == 0
    assert (tmp_path / "once.csv").read_text() == (tmp_path / "twice.csv").read_text()
    assert run("mine", tiny_bundle, room / "a", "-o", tmp_path / "few.csv", *words, "--most", "2").returncode == 0
    assert read_rows(tmp_path / "few.csv") == read_rows(tmp_path / "once.csv")[:2]


def test_a_place_that_is_taken_is_refused_and_a_quiet_background_gives_no_file(
    run: Run, tiny_bundle: Path, room: Path, tmp_path: Path
) -> None:
    (tmp_path / "hard.csv").touch()
    assert "exists" in run("mine", tiny_bundle, room, "-o", tmp_path / "hard.csv").stderr
    assert "end with .csv" in run("mine", tiny_bundle, room, "-o", tmp_path / "hard.txt").stderr
    quiet = run("mine", tiny_bundle, room / "a", "-o", tmp_path / "none.csv", "--threshold", "1")
    assert quiet.returncode == 0  # a model that is right is no mistake of the caller
    assert "nothing is wrongly reported" in quiet.stderr
    assert not (tmp_path / "none.csv").exists()
