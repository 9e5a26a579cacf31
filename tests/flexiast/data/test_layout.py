"""Folders named by split: recognised, or refused where they could be either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flexiast.data.clips import Clip, Dataset
from flexiast.data.dataset import drop_bad_clips, read_dataset
from flexiast.data.layout import SPLIT_FOLDERS
from flexiast.data.search import LeftOut
from flexiast.errors import DataError

WriteAudio = Callable[..., Path]


@pytest.fixture
def write_clips(tmp_path: Path, write_audio: WriteAudio) -> Callable[..., Path]:
    """So many clips in each of these folders of a data set."""

    def write(count: int, *folders: str) -> Path:
        for folder in folders:
            for number in range(count):
                write_audio(tmp_path / "set" / folder / f"{number:02}.wav", np.zeros(10, np.float32))
        return tmp_path / "set"

    return write


WriteClips = Callable[..., Path]


def counts(dataset: Dataset) -> dict[tuple[str, str], int]:
    return dict(Counter((clip.split, clip.labels[0]) for clip in dataset.clips))


@pytest.mark.parametrize("name", [*SPLIT_FOLDERS, "Train", "VALIDATION"])
def test_each_name_of_a_split_is_known(write_clips: WriteClips, name: str) -> None:
    split = SPLIT_FOLDERS[name.casefold()]
    others = {"train": "train", "val": "val", "test": "test"} | {split: name}
    dataset = read_dataset(write_clips(2, *(f"{folder}/{label}" for folder in others.values() for label in "ab")))
    assert dataset.labels == ("a", "b")
    assert counts(dataset) == {(split, label): 2 for split in ("train", "val", "test") for label in "ab"}
    assert dataset.split_rule == f"folders {', '.join(others.values())}"


def test_without_val_a_fifth_of_train_validates_and_test_stays_aside(write_clips: WriteClips) -> None:
    write_clips(10, "train/a", "train/b")
    dataset = read_dataset(write_clips(5, "test/a", "test/b"))
    assert counts(dataset) == {
        (split, label): count for split, count in (("train", 8), ("val", 2), ("test", 5)) for label in "ab"
    }
    train = {clip.path for clip in dataset.clips if clip.split != "test"}
    assert all(path.parts[-3] == "train" for path in train)


def test_test_alone_is_a_split_to_measure(write_clips: WriteClips) -> None:
    assert counts(read_dataset(write_clips(3, "test/a", "test/b"))) == {("test", "a"): 3, ("test", "b"): 3}


def test_the_sound_of_trains_is_a_label(write_clips: WriteClips) -> None:
    assert read_dataset(write_clips(5, "dog", "train", "rain/deep/er")).labels == ("dog", "rain", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "val/a", "c"), "mixes layouts: train, val hold folders as a split does, but c stands"),
        (("train/a", "val"), "mixes layouts: train hold folders"),
        (("train", "test"), "test is named like a split, but holds no folders named by label"),
        (("train",), "train is named like a split"),
        (("a/train", "a/test", "b/train"), r"a holds the splits test, train inside a label"),
        (("train/a", "test/b"), "have no label in common"),
        (("train/a", "val/a", "dev/a"), "both the split 'val'"),
    ],
)
def test_layouts_that_could_be_either_are_refused_with_what_to_do(
    write_clips: WriteClips, folders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(write_clips(2, *folders))
    assert "CSV" in str(caught.value)


def test_loose_files_and_empty_folders_are_counted(write_clips: WriteClips, write_audio: WriteAudio) -> None:
    folder = write_clips(2, "train/a", "train/b", "val/a", "val/b")
    (folder / "train" / "empty").mkdir()
    (folder / "README.md").write_text("text")
    for name in ("loose.wav", "train/loose.flac"):
        write_audio(folder / name, np.zeros(10, np.float32))
    left_out = read_dataset(folder).left_out
    assert sum(left_out.values(), LeftOut()) == LeftOut(
        loose=2, other=Counter({".md": 1}), empty=(folder / "train" / "empty",)
    )


def test_a_folder_whose_audio_is_all_loose_says_so(write_clips: WriteClips) -> None:
    with pytest.raises(DataError, match=r"no audio in folders named by label.*left out: 3 audio files outside"):
        read_dataset(write_clips(3, "."))


# ----- the split is made of what can be read


@pytest.mark.parametrize("seed", range(5))
def test_skipping_bad_files_splits_as_removing_them_does(write_clips: WriteClips, seed: int) -> None:
    folder = write_clips(9, "a", "b", "c/d")
    bad = np.random.default_rng(seed).choice(sorted(folder.rglob("*.wav")), 8, replace=False)
    for path in bad:
        path.write_bytes(b"no audio")
    kept, errors = drop_bad_clips(read_dataset(folder))
    assert len(errors) == 8
    assert sum(left_out.unreadable for left_out in kept.left_out.values()) == 8
    for path in bad:
        path.unlink()
    removed = read_dataset(folder)
    assert (kept.clips, kept.labels) == (removed.clips, removed.labels)


def test_a_label_keeps_a_validation_clip_when_its_first_choice_is_bad(write_clips: WriteClips) -> None:
    folder = write_clips(4, "a", "b")
    for clip in read_dataset(folder).split("val").clips:
        clip.path.write_bytes(b"no audio")
    kept, _ = drop_bad_clips(read_dataset(folder))
    assert counts(kept) == {("train", "a"): 2, ("val", "a"): 1, ("train", "b"): 2, ("val", "b"): 1}


def test_a_split_of_its_own_is_left_as_it_is(write_clips: WriteClips) -> None:
    folder = write_clips(3, "train/a", "train/b", "val/a", "val/b")
    (folder / "val" / "a" / "00.wav").write_bytes(b"no audio")
    kept, _ = drop_bad_clips(read_dataset(folder))
    assert counts(kept) == {("train", "a"): 3, ("train", "b"): 3, ("val", "a"): 2, ("val", "b"): 3}
    assert Clip(folder / "val" / "a" / "01.wav", ("a",), "val") in kept.clips
