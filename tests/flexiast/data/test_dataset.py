"""Data sets in folders and CSVs: labels, splits, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from flexiast.data.clips import Dataset
from flexiast.data.dataset import compute_balanced_weights, load_waveforms, read_dataset
from flexiast.errors import DataError

Float = NDArray[np.float32]
WriteAudio = Callable[..., Path]


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "clips.csv"
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write


WriteCsv = Callable[..., Path]


def splits_of(data_set: Dataset) -> dict[str, str]:
    return {clip.path.name: clip.split for clip in data_set.clips}


# ----- folders


@pytest.fixture
def folders(tmp_path: Path, write_audio: WriteAudio) -> Path:
    """Twenty clips of dogs, ten of rain, one of a whistle."""
    for label, count in (("dog", 20), ("rain", 10), ("whistle", 1)):
        for index in range(count):
            write_audio(tmp_path / "set" / label / f"{index:02}.wav", np.zeros(10, np.float32))
    return tmp_path / "set"


def test_folders_are_labels(folders: Path, write_audio: WriteAudio) -> None:
    write_audio(folders / ".cache" / "0.wav", np.zeros(10, np.float32))
    (folders / "notes.txt").write_text("text")
    data_set = read_dataset(folders)
    assert (data_set.labels, data_set.task) == (("dog", "rain", "whistle"), "single")
    assert Counter(clip.labels for clip in data_set.clips) == {("dog",): 20, ("rain",): 10, ("whistle",): 1}
    assert all(clip.path.parent.name == clip.labels[0] for clip in data_set.clips)


def test_a_fifth_of_each_label_validates_and_a_lone_clip_trains(folders: Path) -> None:
    validation = read_dataset(folders).split("val")
    assert Counter(clip.labels for clip in validation.clips) == {("dog",): 4, ("rain",): 2}


def test_the_hashed_split_stays_when_the_data_set_moves(folders: Path, tmp_path: Path) -> None:
    before = [(clip.path.relative_to(folders), clip.split) for clip in read_dataset(folders).clips]
    moved = folders.rename(tmp_path / "elsewhere")
    assert [(clip.path.relative_to(moved), clip.split) for clip in read_dataset(moved).clips] == before


def test_a_clip_added_to_one_label_moves_none_of_another(folders: Path, write_audio: WriteAudio) -> None:
    before = {clip.path: clip.split for clip in read_dataset(folders).clips if clip.labels == ("dog",)}
    write_audio(folders / "rain" / "new.wav", np.zeros(10, np.float32))
    after = {clip.path: clip.split for clip in read_dataset(folders).clips if clip.labels == ("dog",)}
    assert after == before


def test_a_folder_with_metadata_is_read_by_it(folders: Path) -> None:
    (folders / "metadata.csv").write_text("path,label,split\ndog/00.wav,hound,train\n")
    assert read_dataset(folders).labels == ("hound",)


def test_a_folder_without_audio_shows_what_one_looks_like(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no audio in folders named by label, such as .*bark\.wav"):
        read_dataset(tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give a folder"):
        read_dataset(tmp_path / "absent")


@pytest.mark.parametrize("label", ["dog\x1b[31m", "dog\ncat"])
def test_a_folder_with_control_characters_is_no_label(tmp_path: Path, write_audio: WriteAudio, label: str) -> None:
    write_audio(tmp_path / label / "0.wav", np.zeros(10, np.float32))
    with pytest.raises(DataError, match="control characters"):
        read_dataset(tmp_path)


def test_the_refusal_of_an_escape_sequence_does_not_print_it(tmp_path: Path, write_audio: WriteAudio) -> None:
    write_audio(tmp_path / "dog\x1b[31m" / "0.wav", np.zeros(10, np.float32))
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert "\x1b" not in str(caught.value)


# ----- CSV


def test_a_split_column_is_kept(write_csv: WriteCsv) -> None:
    data_set = read_dataset(write_csv("path,label,split", "a.wav,dog,train", "b.wav,cat,val", "c.wav,dog,test"))
    assert splits_of(data_set) == {"a.wav": "train", "b.wav": "val", "c.wav": "test"}
    assert data_set.labels == ("cat", "dog")
    assert data_set.split_rule == "split column"


def test_paths_are_relative_to_the_csv(write_csv: WriteCsv, tmp_path: Path) -> None:
    data_set = read_dataset(write_csv("path,label,split", "audio/a.wav,dog,train"))
    assert [clip.path for clip in data_set.clips] == [tmp_path / "audio" / "a.wav"]


FOLDS = ("path,label,fold", "a.wav,dog,2", "b.wav,dog,10", "c.wav,dog,9", "d.wav,dog,10")


def test_folders_have_no_folds(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/0.wav").touch()
    assert len(read_dataset(tmp_path).clips) == 1
    with pytest.raises(DataError, match="has no folds, so fold '2' cannot validate; leave --val-fold out"):
        read_dataset(tmp_path, "2")


@pytest.mark.parametrize(("val_fold", "validation"), [(None, {"b.wav", "d.wav"}), ("2", {"a.wav"}), ("9", {"c.wav"})])
def test_one_fold_validates_the_last_unless_told(
    write_csv: WriteCsv, val_fold: str | None, validation: set[str]
) -> None:
    data_set = read_dataset(write_csv(*FOLDS), val_fold)
    assert {name for name, split in splits_of(data_set).items() if split == "val"} == validation
    assert {name for name, split in splits_of(data_set).items() if split == "train"} == set(
        splits_of(data_set)
    ) - validation


def test_a_fold_that_is_not_there_is_refused_with_those_that_are(write_csv: WriteCsv) -> None:
    with pytest.raises(DataError, match="no fold '5'; it has 10, 2, 9"):
        read_dataset(write_csv(*FOLDS), "5")


def test_a_fold_is_refused_where_there_are_none(write_csv: WriteCsv) -> None:
    with pytest.raises(DataError, match="fold"):
        read_dataset(write_csv("path,label", "a.wav,dog", "b.wav,dog"), "5")


def test_a_csv_without_split_or_fold_is_split_by_path(write_csv: WriteCsv) -> None:
    names = [f"{label}{index}.wav,{label}" for label in ("cat", "dog") for index in range(10)]
    split = splits_of(read_dataset(write_csv("path,label", *names)))
    assert Counter((name[:3], where) for name, where in split.items()) == {
        ("cat", "train"): 8,
        ("cat", "val"): 2,
        ("dog", "train"): 8,
        ("dog", "val"): 2,
    }
    assert splits_of(read_dataset(write_csv("path,label", *reversed(names)))) == split  # whatever the order of lines


def test_absolute_paths_are_split_by_path_too(write_csv: WriteCsv) -> None:
    data_set = read_dataset(write_csv("path,label", "/elsewhere/a.wav,dog", "/elsewhere/b.wav,dog"))
    assert sorted(splits_of(data_set).values()) == ["train", "val"]


def test_several_labels_of_a_clip_make_a_multi_label_task(write_csv: WriteCsv) -> None:
    data_set = read_dataset(
        write_csv("path,label,split", "a.wav,dog; rain;dog,train", "b.wav,rain,train", "c.wav,cat;,val")
    )
    assert data_set.task == "multi"
    assert [clip.labels for clip in data_set.clips] == [("dog", "rain"), ("rain",), ("cat",)]
    assert data_set.targets(("cat", "dog", "rain")).tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(("line", "missing"), [(",dog", "no path"), (",", "no path"), ("a.wav,;", "no label between")])
def test_a_line_with_a_hole_is_named(write_csv: WriteCsv, line: str, missing: str) -> None:
    with pytest.raises(DataError, match=rf"clips\.csv line 3 has {missing}"):
        read_dataset(write_csv("path,label", "x.wav,dog", line))


# ----- background


@pytest.mark.parametrize("line", ["a.wav,", "a.wav", "a.wav, ", "a.wav,_background_"])
def test_an_empty_label_is_background_and_no_label(write_csv: WriteCsv, line: str) -> None:
    data_set = read_dataset(write_csv("path,label", "x.wav,dog", "y.wav,cat", line))
    assert (data_set.labels, data_set.task) == (("cat", "dog"), "single")
    assert [clip.path.name for clip in data_set.background] == ["a.wav"]
    assert [clip.path.name for clip in data_set.labelled.clips] == ["x.wav", "y.wav"]
    assert data_set.label_targets(("cat", "dog")).with_nothing()[:].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_the_background_folder_is_no_label_and_a_fifth_of_it_validates(folders: Path, write_audio: WriteAudio) -> None:
    before = read_dataset(folders)
    for index in range(10):
        write_audio(folders / "_background_" / "den" / f"{index}.wav", np.zeros(10, np.float32))
    data_set = read_dataset(folders)
    assert (data_set.labels, data_set.task) == (before.labels, "single")
    assert Counter(clip.split for clip in data_set.background) == {"train": 8, "val": 2}
    assert data_set.labelled.clips == before.clips  # nor does it move any clip


def test_a_data_set_of_background_alone_is_refused(
    tmp_path: Path, write_audio: WriteAudio, write_csv: WriteCsv
) -> None:
    write_audio(tmp_path / "set" / "_background_" / "0.wav", np.zeros(10, np.float32))
    with pytest.raises(DataError, match="no audio in folders named by label"):
        read_dataset(tmp_path / "set")
    with pytest.raises(DataError, match="no label in any line"):
        read_dataset(write_csv("path,label", "a.wav,", "b.wav,"))


def test_a_byte_order_mark_is_no_part_of_the_first_column(write_csv: WriteCsv) -> None:
    data_set = read_dataset(write_csv("path,label,split", "a.wav,été,train", encoding="utf-8-sig"))
    assert data_set.labels == ("été",)


@pytest.mark.parametrize(
    ("header", "missing"), [("file,label", "path"), ("path,class", "label"), ("path;label", "path")]
)
def test_a_missing_column_is_named_beside_those_found(write_csv: WriteCsv, header: str, missing: str) -> None:
    with pytest.raises(
        DataError, match=f"no column '{missing}'; it has {header.replace(',', ', ')}; expected path,label"
    ):
        read_dataset(write_csv(header, "a.wav,dog"))


@pytest.mark.parametrize(("content", "message"), [(b"", "it has none"), (b"path,label\n", "lists no clips")])
def test_a_csv_without_clips_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "clips.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / "clips.csv")


def test_a_csv_in_another_encoding_is_refused(write_csv: WriteCsv) -> None:
    with pytest.raises(DataError, match=r"is not UTF-8 .*iconv -f WINDOWS-1252 -t UTF-8 clips\.csv"):
        read_dataset(write_csv("path,label", "a.wav,été", encoding="latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 .*iconv -f UTF-16 -t UTF-8 clips\.csv"):
        read_dataset(write_csv("path,label", "a.wav,été", encoding="utf-16"))


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_with_other_separators_is_refused_with_the_remedy(write_csv: WriteCsv, separator: str, name: str) -> None:
    with pytest.raises(DataError, match=f"separated by {name}: save it with commas"):
        read_dataset(write_csv(separator.join(("path", "label")), separator.join(("a.wav", "dog"))))


def test_a_label_with_an_escape_sequence_is_refused_and_not_printed(write_csv: WriteCsv) -> None:
    with pytest.raises(DataError, match="control characters") as caught:
        read_dataset(write_csv("path,label", "a.wav,dog;\x1b[2Jcat"))
    assert "\x1b" not in str(caught.value)


# ----- splits and targets


def test_a_split_that_is_not_there_is_refused_with_those_that_are(write_csv: WriteCsv) -> None:
    data_set = read_dataset(write_csv("path,label,split", "a.wav,dog,train", "b.wav,dog,test"))
    with pytest.raises(
        DataError, match=r"no clip has split 'val'; the data set has test, train; .* leave the column out"
    ):
        data_set.split("val")
    with pytest.raises(DataError, match=r"the data set has test, train$"):
        data_set.split("dev")


def test_a_split_keeps_the_labels_of_the_whole(write_csv: WriteCsv) -> None:
    data_set = read_dataset(write_csv("path,label,split", "a.wav,dog,train", "b.wav,cat,val"))
    assert data_set.split("val").labels == ("cat", "dog")


def test_a_label_the_model_does_not_know_is_named_with_its_clip(write_csv: WriteCsv) -> None:
    data_set = read_dataset(write_csv("path,label,split", "a.wav,dog,train", "b.wav,wolf,train"))
    with pytest.raises(DataError, match=r"b\.wav is labelled 'wolf', which the model does not know; it knows cat, dog"):
        data_set.targets(("cat", "dog"))


# ----- balanced drawing

TARGETS = arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 6)), elements=st.sampled_from([0, 1])).filter(
    lambda targets: bool(targets.any())
)


@given(targets=TARGETS)
def test_balanced_weights_are_those_of_ast_without_its_constants(targets: Float) -> None:
    """AST's loops over clips and labels, with counts that need no guard."""
    counts: Counter[int] = Counter(int(label) for clip in targets for label in np.flatnonzero(clip))
    weights = [sum(1 / counts[int(label)] for label in np.flatnonzero(clip)) for clip in targets]
    found = compute_balanced_weights(targets)
    np.testing.assert_allclose(found, np.array(weights) / sum(weights), rtol=1e-12)
    assert found.dtype == np.float64
    assert found.sum() == pytest.approx(1, abs=1e-12)  # as numpy's choice asks


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_where_clips_have_one_label_each_label_is_drawn_equally_often(counts: list[int]) -> None:
    targets = np.repeat(np.eye(len(counts), dtype=np.float32), counts, axis=0)
    np.testing.assert_allclose(compute_balanced_weights(targets) @ targets, 1 / len(counts), rtol=1e-12)


# ----- waveforms


@pytest.fixture
def damaged(write_csv: WriteCsv, write_audio: WriteAudio, make_tone: Callable[..., Float], tmp_path: Path) -> Dataset:
    """Two good clips among four that cannot be used."""
    write_audio(tmp_path / "good.wav", make_tone(440))
    write_audio(tmp_path / "stereo.flac", np.stack([make_tone(440, rate_hz=44_100)] * 2, axis=1), 44_100)
    write_audio(tmp_path / "empty.wav", np.zeros(0, np.float32))
    write_audio(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), subtype="FLOAT")
    (tmp_path / "text.wav").write_text("not audio")
    names = ("empty.wav", "good.wav", "nan.wav", "text.wav", "absent.wav", "stereo.flac")
    return read_dataset(write_csv("path,label,split", *(f"{name},dog,train" for name in names)))


def test_all_bad_files_are_listed_at_once(damaged: Dataset) -> None:
    with pytest.raises(DataError, match=r"4 of 6 files cannot be used, more than half") as caught:
        load_waveforms(damaged, 16_000)
    lines = str(caught.value).splitlines()[1:]
    for line, (name, cause) in zip(
        lines,
        [
            ("empty.wav", "no samples"),
            ("nan.wav", "not numbers"),
            ("text.wav", "cannot be read"),
            ("absent.wav", "does not exist"),
        ],
        strict=True,
    ):
        assert name in line
        assert cause in line


def test_a_few_bad_files_are_left_out_and_reported(damaged: Dataset) -> None:
    mostly_good = damaged.with_clips([*damaged.clips, damaged.clips[1], damaged.clips[5]])
    seen = []
    good, waveforms, errors = load_waveforms(
        mostly_good, 16_000, progress=lambda clips: (seen.append(clip) or clip for clip in clips)
    )
    assert [clip.path.name for clip in good.clips] == ["good.wav", "stereo.flac"] * 2
    assert [len(waveform) for waveform in waveforms] == [8_000] * 4  # half a second at the model's rate
    assert len(errors) == 4
    assert tuple(seen) == mostly_good.clips


# ----- the real data sets


@pytest.mark.parametrize(
    ("name", "labels", "train", "validation"),
    [("esc50", 50, 1_200, 400), ("commands", 40, 7_200, 2_400), ("speakers", 300, None, None)],
)
def test_the_real_data_sets_are_read_as_described(
    name: str, labels: int, train: int | None, validation: int | None, real_metadata: Callable[[str], Path]
) -> None:
    data_set = read_dataset(real_metadata(name).parent)
    assert (len(data_set.labels), data_set.task) == (labels, "single")
    counts = Counter(clip.split for clip in data_set.clips)
    assert set(counts) == {"train", "val"}
    if train is not None:
        assert counts == {"train": train, "val": validation}
    # every label is in both splits, or its figure would mean nothing
    for split in ("train", "val"):
        assert {clip.labels[0] for clip in data_set.split(split).clips} == set(data_set.labels)


def test_a_recording_is_no_list_of_clips(tmp_path: Path) -> None:
    (tmp_path / "01.WAV").write_bytes(b"RIFF\x96")
    with pytest.raises(DataError, match="is a recording; expected a folder"):
        read_dataset(tmp_path / "01.WAV")
