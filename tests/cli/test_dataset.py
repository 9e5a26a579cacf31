"""What a command says of its data before it reads them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from flexiast.data.clips import Clip, Dataset
from flexiast_cli import dataset
from tests.cli.conftest import write_sounds


@pytest.mark.parametrize(("many", "lines"), [(11, 1), (12, 0)])
def test_of_many_clips_it_is_said_how_many_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, lines: int
) -> None:
    sounds = write_sounds(tmp_path / "sounds", clips=6)
    monkeypatch.setattr(dataset, "MANY_CLIPS", many)
    monkeypatch.setattr(dataset, "drop_bad_clips", lambda *_, **__: pytest.fail("a clip was read before"))
    output = io.StringIO()
    with pytest.raises(pytest.fail.Exception):
        dataset.read_data(sounds, None, Console(file=output))
    said = output.getvalue().splitlines()
    assert len(said) == lines
    assert all(line.startswith("12 clips of 2 labels") for line in said)


def test_bad_files_are_named_once_up_to_twenty_and_the_others_counted(tmp_path: Path) -> None:
    sounds = write_sounds(tmp_path / "sounds", clips=15)
    for number in range(25):
        (sounds / "low" / f"notes {number}.wav").write_text("no audio")
    output = io.StringIO()
    found = dataset.read_data(sounds, None, Console(file=output, width=300))
    assert len(found.clips) == 30
    first, *named, more = output.getvalue().splitlines()
    assert first == "Left out 25 files that cannot be used:"
    assert len(named) == 20
    assert more == "  … and 5 more"


def test_a_bad_file_of_which_many_parts_are_named_is_one_file(tmp_path: Path) -> None:
    sounds = write_sounds(tmp_path / "sounds", clips=6)
    (sounds / "notes.wav").write_text("no audio")
    rows = [f"{path.relative_to(sounds)},{path.parent.name},," for path in sorted(sounds.glob("*/*.wav"))]
    rows += [f"notes.wav,low,{start},{start + 1}" for start in range(5)]
    table = sounds / "clips.csv"
    table.write_text("\n".join(["path,label,start_s,end_s", *rows]))
    output = io.StringIO()
    dataset.read_data(table, None, Console(file=output, width=300))
    first, *named = output.getvalue().splitlines()
    assert first == "Left out 1 file that cannot be used:"
    assert len(named) == 1


@pytest.mark.parametrize(
    ("splits", "split", "said"),
    [
        (("train", "train", "val"), None, "2 of these 3 clips are in the training split"),
        (("train", "val", "val", "test"), None, "use --split test (1 clip)"),  # val chose the weights
        (("train", "val", "val"), None, "use --split val (2 clips)"),
        (("train", "train", "val"), "val", ""),
        (("val", "test"), None, ""),
        (("train", "train"), None, ""),
    ],
)
def test_a_measurement_that_takes_training_clips_too_says_so(
    splits: tuple[str, ...], split: str | None, said: str
) -> None:
    clips = tuple(Clip(Path(f"{number}.wav"), ("dog",), name) for number, name in enumerate(splits))
    clips += (Clip(Path("hum.wav"), (), "train"),) if split is None else ()  # background is no clip
    splits += ("train",) if split is None else ()
    output = io.StringIO()
    taken = dataset.take_split(Dataset(clips, ("dog",), "single", "by hand"), split, Console(file=output, width=400))
    assert [clip.split for clip in taken.clips] == [name for name in splits if split in {None, name}]
    assert said in output.getvalue()
    assert bool(said) == bool(output.getvalue())
