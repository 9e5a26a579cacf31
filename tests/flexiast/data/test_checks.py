"""What is said of a data set before it is trained on: each refusal and warning, and none where all is well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.data.checks import (
    LabelCount,
    check_trainable,
    count_labels,
    warn_lost_labels,
    warn_low_rates,
    warn_uneven,
    warn_window,
    warnings_before_reading,
    warnings_on_audio,
)
from flexiast.data.clips import Clip, Dataset
from flexiast.data.dataset import drop_bad_clips, load_waveforms, read_dataset
from flexiast.errors import DataError

Float = NDArray[np.float32]
WriteAudio = Callable[..., Path]
FRAME = 400


@pytest.fixture
def write_set(tmp_path: Path, write_audio: WriteAudio) -> Callable[..., Path]:
    """Folders with so many clips of noise each, all different."""
    rng = np.random.default_rng(0)

    def write(rate_hz: int = 16_000, **counts: int) -> Path:
        for label, count in counts.items():
            for number in range(count):
                noise = (0.1 * rng.standard_normal(1_000)).astype(np.float32)
                write_audio(tmp_path / "set" / label / f"{number:02}.wav", noise, rate_hz)
        return tmp_path / "set"

    return write


WriteSet = Callable[..., Path]


def on_audio(dataset: Dataset) -> list[str]:
    parts: list[tuple[Dataset, Sequence[Float]]] = []
    for split in ("train", "val"):
        readable, waveforms, _ = load_waveforms(dataset.split(split), 16_000)
        parts.append((readable, waveforms.in_memory))
    (training, sounds), (validation, validation_sounds) = parts
    return warnings_on_audio(training, sounds, validation, validation_sounds, FRAME)


def test_a_good_data_set_is_met_with_silence(write_set: WriteSet) -> None:
    dataset = read_dataset(write_set(dog=10, cat=12))
    check_trainable(dataset, Path("set"), background=False)
    assert warnings_before_reading(dataset) == []
    assert on_audio(dataset) == []
    assert warn_low_rates(dataset.clips, 16_000) == []
    assert warn_uneven(dataset.label_targets(dataset.labels).count_clips(), dataset.labels) == []
    assert warn_window([1.0] * 20, 1.0) == []


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"dog": 9}, "one label only, 'dog'; add sounds"),
        ({"dog": 1, "cat": 1}, r"one clip of each label \(cat, dog\).*record at least 5"),
        ({f"take{number}": 1 for number in range(30)}, "folders are named by what sounds in them, not by recording"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_a_file_is_decoded(
    write_set: WriteSet, counts: dict[str, int], message: str
) -> None:
    folder = write_set(**counts)
    for path in folder.rglob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=message):
        check_trainable(read_dataset(folder), folder, background=False)


def test_one_clip_labels_and_labels_that_nothing_validates_are_named(tmp_path: Path) -> None:
    rows = ["a.wav,ant,train", "b.wav,bee,train", "c.wav,bee,train", "d.wav,cow,train", "e.wav,cow,val"]
    rows += ["f.wav,dog,val", "g.wav,dog,val", "h.wav,cow,test"]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,split", *rows]))
    assert warnings_before_reading(read_dataset(tmp_path / "clips.csv")) == [
        "Neither trained on nor validated on: test (1 clip); measure it with flexiast evaluate --split",
        "One clip only of ant: record at least 5 of each; 20 or more are usual",
        "No validation clip of bee: no figure tells whether it was learnt",
        "No training clip has dog: the model will not know it",
    ]


def test_a_file_in_both_splits_is_found_under_any_name(tmp_path: Path, write_audio: WriteAudio) -> None:
    write_audio(tmp_path / "a.wav", np.ones(10, np.float32))
    (tmp_path / "link.wav").symlink_to("a.wav")
    rows = ["a.wav,dog,train", "link.wav,dog,val", "x.wav,cat,train", "y.wav,cat,val"]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,split", *rows]))
    assert warnings_before_reading(read_dataset(tmp_path / "clips.csv")) == [
        f"1 file in both train and val, such as {tmp_path / 'link.wav'}: validation figures are too good; "
        "leave each in one"
    ]


def test_the_same_sound_in_both_splits_or_under_two_labels_is_found(write_set: WriteSet) -> None:
    folder = write_set(dog=6, cat=6)
    dataset = read_dataset(folder)
    one, two = (next(c for c in dataset.split(s).clips if c.labels == ("dog",)).path for s in ("train", "val"))
    two.write_bytes(one.read_bytes())
    cat = next(c for c in dataset.split("train").clips if c.labels == ("cat",)).path
    cat.write_bytes([c for c in dataset.split("train").clips if c.labels == ("dog",)][-1].path.read_bytes())
    notes = on_audio(dataset)
    assert len(notes) == 2
    assert notes[0].startswith(f"1 validation clip with the very sound of a training clip, such as {two} and {one}")
    assert notes[1].startswith("1 clip with the very sound of a clip of another label")


def test_silence_is_refused_where_it_is_all_and_else_counted(write_set: WriteSet, write_audio: WriteAudio) -> None:
    folder = write_set(dog=6, cat=6)
    dataset = read_dataset(folder)
    silent = [clip for clip in dataset.split("train").clips if clip.labels == ("cat",)]
    for number, clip in enumerate(silent):  # with an offset: a microphone that is switched off has one
        write_audio(clip.path, np.full(1_000 + number, 0.25, np.float32))
    assert on_audio(dataset) == [
        f"{len(silent)} clips of cat without any sound, such as {silent[0].path}: remove what is not meant as silence"
    ]
    for clip in dataset.split("train").clips:
        write_audio(clip.path, np.zeros(1_000, np.float32))
    with pytest.raises(DataError, match=r"all 10 training clips are silent, .* check the recorder's input"):
        on_audio(dataset)


def test_clips_shorter_than_a_frame_are_counted(write_set: WriteSet, write_audio: WriteAudio) -> None:
    dataset = read_dataset(write_set(dog=6, cat=6))
    rng = np.random.default_rng(1)
    for clip in dataset.clips[:2]:
        write_audio(clip.path, rng.uniform(-0.5, 0.5, FRAME - 1).astype(np.float32))
    assert [note.split(",")[0] for note in on_audio(dataset)] == [f"2 clips shorter than one frame of {FRAME} samples"]


@pytest.mark.parametrize(("rate_hz", "warned"), [(8_000, True), (11_025, True), (16_000, False), (48_000, False)])
def test_clips_of_a_lower_rate_are_said(write_set: WriteSet, rate_hz: int, warned: bool) -> None:
    clips = read_dataset(write_set(rate_hz, dog=3, cat=3)).clips
    notes = warn_low_rates(clips, 16_000)
    assert [f"nothing above {rate_hz // 2:,} Hz is learnt" in note for note in notes] == [True] * warned


def test_the_window_is_said_where_it_holds_few_or_too_much() -> None:
    short = warn_window([0.4] * 60 + [1.1] * 40, 0.4)
    assert [note.split(":")[0] for note in short] == [
        "The window is the median clip, 0.4 s; a tenth of the clips last 1.1 s or more and are learnt in parts, where "
        "something sounds"
    ]
    assert short[0].endswith("--window 1.1 would hold them whole")
    assert "--window" not in warn_window([0.4] * 60 + [90.0] * 40, 0.4)[0]
    assert warn_window([30.0] * 10, 5.0)[0].startswith("The median clip lasts 30 s: the window is 5 s and is laid")


def test_uneven_labels_are_said_with_the_setting_that_helps() -> None:
    (note,) = warn_uneven(np.array([40, 3, 1]), ("dog", "cat", "cow"))
    assert note.startswith("dog has 40 training clips, cow 1")
    assert "drawn equally often" in note


def test_the_table_counts_every_clip_once(write_set: WriteSet) -> None:
    folder = write_set(dog=10, cat=10, cow=2)
    for name in ("dog/00.wav", "dog/01.wav", "cow/00.wav", "cow/01.wav"):
        (folder / name).write_bytes(b"no audio")
    (folder / "cat" / "gone.wav").symlink_to("nowhere.wav")
    dataset, _ = drop_bad_clips(read_dataset(folder))
    counts = count_labels(dataset, dataset.split("train"), dataset.split("val"))
    assert dataset.labels == ("cat", "dog")
    assert warnings_before_reading(dataset) == ["No clip of cow can be read: the model will not have such a label"]
    assert counts == [
        LabelCount("cat", 8, 2, 0, 1),
        LabelCount("cow", 0, 0, 0, 2),
        LabelCount("dog", 6, 2, 0, 2),
    ]
    # Skipped while it is loaded, where the data set has a split of its own: count_noun all the same.
    fixed = Dataset(tuple(Clip(Path(f"{n}.wav"), ("a",), split) for n, split in enumerate(("train", "val", "test"))),
                    ("a",), "single", "split column")  # fmt: skip
    lost = warn_lost_labels(fixed, Dataset((), ("a",), "single", ""), fixed.split("val"))
    assert lost == ["Every training clip of a was left out: the model will not know it"]
    assert count_labels(fixed, Dataset((), ("a",), "single", ""), fixed.split("val")) == [LabelCount("a", 0, 1, 1, 1)]
