"""`flexiast data`: what it writes is what `evaluate` reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flexiast.data.dataset import read_dataset
from tests.cli.conftest import Run
from tests.cli.test_errors import assert_refused


@pytest.fixture(scope="module")
def shards(run: Run, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("packed") / "shards"
    result = run("data", "shard", sounds, "-o", output)
    assert result.returncode == 0, result.stderr
    assert "12 clips in 2 shards" in result.stderr
    assert result.stdout == ""
    return output


def test_shards_and_their_source_measure_alike(run: Run, trained: Path, sounds: Path, shards: Path) -> None:
    results = [run("evaluate", trained, data, "--split", "val", "--json") for data in (sounds, shards)]
    assert [result.returncode for result in results] == [0, 0], results[1].stderr
    files, packed = (json.loads(result.stdout)["results"] for result in results)
    assert files == packed


def test_bad_files_are_named_and_left_out(run: Run, sounds: Path, tmp_path: Path) -> None:
    shutil.copytree(sounds, tmp_path / "sounds")
    (tmp_path / "sounds/low/0.wav").write_text("no audio")
    result = run("data", "shard", tmp_path / "sounds", "-o", tmp_path / "a")
    assert_refused(result, 0, "Left out 1 file that cannot be used:", "low/0.wav", "11 clips in 2 shards")


def test_the_fold_that_validates_is_fixed_when_shards_are_written(run: Run, sounds: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name},{number % 3}" for number, path in enumerate(sorted(sounds.rglob("*.wav")))]
    (tmp_path / "folds.csv").write_text("\n".join(["path,label,fold", *rows]) + "\n")
    for told, fold in (((), "2"), (("--val-fold", "1"), "1")):
        result = run("data", "shard", tmp_path / "folds.csv", "-o", tmp_path / fold, *told)
        assert_refused(result, 0, f"fold {fold} validates")
        packed, listed = (read_dataset(*data) for data in ((tmp_path / fold,), (tmp_path / "folds.csv", fold)))
        assert [(clip.labels, clip.split) for clip in packed.clips] == [
            (clip.labels, clip.split) for clip in listed.clips
        ]
    assert_refused(run("data", "shard", sounds, "-o", tmp_path / "x", "--val-fold", "1"), 8, "has no folds")


def test_what_exists_is_kept(run: Run, sounds: Path, shards: Path, tmp_path: Path) -> None:
    assert_refused(run("data", "shard", sounds, "-o", shards), 2, "exists")
    assert_refused(run("data", "shard", shards, "-o", tmp_path / "again"), 2, "shards already")


def test_a_published_set_is_listed_and_read(run: Run, sounds: Path, tmp_path: Path) -> None:
    shutil.copytree(sounds / "low", tmp_path / "esc/audio")
    lines = [f"{number}.wav,{number + 1},low" for number in range(8)]  # two more than there are
    (tmp_path / "esc/meta").mkdir()
    (tmp_path / "esc/meta/esc50.csv").write_text("\n".join(["filename,fold,category", *lines]) + "\n")
    command = ("data", "manifest", "esc50", tmp_path / "esc", "-o", tmp_path / "esc/metadata.csv")
    assert_refused(run(*command), 0, "6 clips; 2 more are listed, but not on this disk")
    assert len(read_dataset(tmp_path / "esc").clips) == 6
    assert_refused(run(*command), 2, "exists", "--force")
    assert run(*command, "--force").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("esc50", "a", "b", "-o", "x.csv"), 2, "one source"),
        (("voxceleb1", "a", "--audio", "b", "-o", "x.csv"), 2, "--audio"),
        (("vggsound", "a.csv", "-o", "x.csv"), 8, "a.csv"),
        (("audioset", "a.csv", "-o", "x.csv"), 8, "class_labels_indices.csv"),
        (("esc50", "a", "-o", "."), 2, "folder"),
    ],
)
def test_what_cannot_be_listed(run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, word: str) -> None:
    assert_refused(run("data", "manifest", *arguments, cwd=tmp_path), code, word)
    assert list(tmp_path.iterdir()) == []
