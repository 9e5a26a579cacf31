"""Published data sets, in the smallest trees that look like them, become CSVs that we read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flexiast.data.clips import Clip
from flexiast.data.corpora import Listing, audioset, esc50, speechcommands, vggsound, voxceleb1, write_listing
from flexiast.data.dataset import read_dataset
from flexiast.errors import DataError

Touch = Callable[..., None]


@pytest.fixture
def touch(write_audio: Callable[..., Path]) -> Touch:
    """Audio files of a few samples, since listing decodes none."""

    def touch(folder: Path, *names: str) -> None:
        for name in names:
            write_audio(folder / name, np.zeros(10, np.float32))

    return touch


def read_back(listing: Listing, csv_path: Path) -> dict[str, tuple[tuple[str, ...], str]]:
    """Through the CSV: file name → labels, split."""
    write_listing(listing, csv_path)
    return {clip.path.name: (clip.labels, clip.split) for clip in read_dataset(csv_path).clips}


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ----- ESC-50


@pytest.fixture
def esc(tmp_path: Path, touch: Touch) -> Path:
    write(
        tmp_path / "meta" / "esc50.csv",
        "filename,fold,target,category,esc10,src_file,take",
        "1-100032-A-0.wav,1,0,dog,True,100032,A",
        "1-100038-A-14.wav,1,14,chirping_birds,False,100038,A",
        "5-9032-A-0.wav,5,0,dog,True,9032,A",
        "4-1-A-0.wav,4,0,dog,True,1,A",
    )
    touch(tmp_path / "audio", "1-100032-A-0.wav", "1-100038-A-14.wav", "5-9032-A-0.wav")
    return tmp_path


def test_esc50_keeps_its_folds(esc: Path) -> None:
    listing = esc50(esc)
    assert listing.missing == 1
    write_listing(listing, esc / "metadata.csv")
    assert (esc / "metadata.csv").read_text().splitlines() == [
        "path,label,fold",
        "audio/1-100032-A-0.wav,dog,1",
        "audio/1-100038-A-14.wav,chirping_birds,1",
        "audio/5-9032-A-0.wav,dog,5",
    ]
    assert {clip.path.name for clip in read_dataset(esc, "1").split("val").clips} == {
        "1-100032-A-0.wav",
        "1-100038-A-14.wav",
    }


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "meta" / "esc50.csv", "file,fold,category", "a.wav,1,dog")
    with pytest.raises(DataError, match=r"esc50\.csv row 1 has no filename; expected filename,fold,category"):
        esc50(tmp_path)


def test_a_folder_without_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta/esc50\.csv cannot be read"):
        esc50(tmp_path)


# ----- AudioSet


@pytest.fixture
def segments(tmp_path: Path) -> tuple[Path, Path]:
    """AudioSet's own header, and ids that begin and end with the characters that names are cut at."""
    write(
        tmp_path / "class_labels_indices.csv",
        "index,mid,display_name",
        '0,/m/09x0r,"Speech"',
        '1,/t/dd00088,"Male speech, man speaking"',
        '2,/m/0dgw9r,"Gurgling"',
    )
    header = (
        "# Segments csv created Sun Mar  5 10:54:31 2017",
        "# num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882",
        "# YTID, start_seconds, end_seconds, positive_labels",
    )
    balanced = write(
        tmp_path / "balanced_train_segments.csv",
        *header,
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"',
        'Y__--Yabc_1, 0.000, 10.000, "/m/09x0r"',
        'aaaaaaaa_30, 0.000, 10.000, "/m/0dgw9r"',
        'gone-gone-1, 0.000, 10.000, "/m/0dgw9r"',
    )
    evaluation = write(tmp_path / "eval_segments.csv", *header, '-0mG4eYNxkE, 30.000, 40.000, "/m/0dgw9r,/m/09x0r"')
    return balanced, evaluation


@pytest.mark.parametrize(
    "pattern", ["{}.wav", "Y{}.flac", "{}_30.000.wav", "{}_30.000_40.000.wav", "{}_30000_40000.flac", "{}_30.ogg"]
)
def test_audioset_in_the_usual_names(segments: tuple[Path, Path], tmp_path: Path, touch: Touch, pattern: str) -> None:
    ids = ("--PJHxphWEs", "Y__--Yabc_1", "aaaaaaaa_30", "-0mG4eYNxkE")
    first, second, third, fourth = names = [pattern.format(ytid) for ytid in ids]
    touch(tmp_path / "clips" / "train", *names[:3], "other.wav", "zzzzzzzzzzz.wav")
    touch(tmp_path / "clips" / "eval", fourth)
    listing = audioset(segments, tmp_path / "clips")
    assert listing.missing == 1
    assert read_back(listing, tmp_path / "out.csv") == {
        first: (("Speech", "Male speech, man speaking"), "train"),
        second: (("Speech",), "train"),
        third: (("Gurgling",), "train"),
        fourth: (("Gurgling", "Speech"), "val"),
    }


def test_two_files_of_one_clip_are_refused(segments: tuple[Path, Path], tmp_path: Path, touch: Touch) -> None:
    touch(tmp_path, "--PJHxphWEs.wav", "Y--PJHxphWEs.wav")
    with pytest.raises(DataError, match=r"--PJHxphWEs\.wav and .* are both the clip '--PJHxphWEs'; keep one"):
        audioset(segments, tmp_path)


def test_a_clip_listed_twice_is_refused(segments: tuple[Path, Path], tmp_path: Path, touch: Touch) -> None:
    touch(tmp_path, "--PJHxphWEs.wav")
    with pytest.raises(DataError, match="'--PJHxphWEs' is listed twice"):
        audioset((segments[0], segments[0]), tmp_path)


def test_a_class_that_is_not_listed_is_named(segments: tuple[Path, Path], tmp_path: Path) -> None:
    write(tmp_path / "class_labels_indices.csv", "index,mid,display_name", '0,/m/09x0r,"Speech"')
    with pytest.raises(DataError, match=r"--PJHxphWEs is labelled '/t/dd00088', which class_labels_indices\.csv lacks"):
        audioset(segments, tmp_path)


def test_a_disk_without_any_clip_is_refused(segments: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of the 5 clips .* named by its YouTube id; name the folder with --audio"
    ):
        audioset(segments, tmp_path)


# ----- VGGSound


def test_vggsound_is_named_by_id_and_second(tmp_path: Path, touch: Touch) -> None:
    table = write(
        tmp_path / "vggsound.csv",
        '---g-f_I2yQ,1,"people marching",test',
        '--0PQM4-hqg,30,"waterfall burbling",train',
        '--0PQM4-hqg,130,"people eating, apple",train',
        "gone-gone-1,5,dog barking,train",
    )
    touch(tmp_path / "clips", "---g-f_I2yQ_000001.wav", "--0PQM4-hqg_000030.flac", "--0PQM4-hqg_000130.wav")
    listing = vggsound(table, tmp_path)
    assert listing.missing == 1
    assert read_back(listing, tmp_path / "metadata.csv") == {
        "---g-f_I2yQ_000001.wav": (("people marching",), "val"),
        "--0PQM4-hqg_000030.flac": (("waterfall burbling",), "train"),
        "--0PQM4-hqg_000130.wav": (("people eating, apple",), "train"),
    }


@pytest.mark.parametrize("line", ["abcdefghijk,1.5,dog,train", "abcdefghijk,1,dog,dev", "abcdefghijk,-1,dog,train"])
def test_a_vggsound_line_of_another_kind_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match="abcdefghijk has start"):
        vggsound(write(tmp_path / "vggsound.csv", line), tmp_path)


def test_a_vggsound_line_with_a_hole_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2 has no split"):
        vggsound(write(tmp_path / "vggsound.csv", "abcdefghijk,1,dog,train", "abcdefghijk,1,dog"), tmp_path)


# ----- through torchaudio


def test_speech_commands_has_its_own_splits(tmp_path: Path, touch: Touch) -> None:
    pytest.importorskip("torchaudio", reason="its metadata is read by torchaudio")
    folder = tmp_path / "SpeechCommands" / "speech_commands_v0.02"
    touch(folder, "yes/a_nohash_0.wav", "yes/b_nohash_0.wav", "no/c_nohash_1.wav", "_background_noise_/hiss.wav")
    write(folder / "validation_list.txt", "yes/b_nohash_0.wav", "no/gone_nohash_0.wav")
    write(folder / "testing_list.txt", "no/c_nohash_1.wav")
    listing = speechcommands(tmp_path)
    assert listing.missing == 1
    assert read_back(listing, tmp_path / "metadata.csv") == {
        "a_nohash_0.wav": (("yes",), "train"),
        "b_nohash_0.wav": (("yes",), "val"),
        "c_nohash_1.wav": (("no",), "test"),
    }


def test_the_unpacked_archive_of_speech_commands_is_told_its_place(tmp_path: Path) -> None:
    (tmp_path / "testing_list.txt").write_text("yes/a.wav\n")
    with pytest.raises(DataError, match=r"move it to SpeechCommands/speech_commands_v0\.02"):
        speechcommands(tmp_path)


def test_voxceleb1_is_labelled_by_speaker(tmp_path: Path, touch: Touch) -> None:
    names = ("id10001/a-b/00001.wav", "id10001/c/00002.wav", "id11251/d/00003.wav")
    touch(tmp_path / "wav", *names)
    write(tmp_path / "iden_split.txt", *(f"{part} {name}" for part, name in enumerate(names, start=1)))
    listing = voxceleb1(tmp_path)
    assert read_back(listing, tmp_path / "metadata.csv") == {
        "00001.wav": (("id10001",), "train"),
        "00002.wav": (("id10001",), "val"),
        "00003.wav": (("id11251",), "test"),
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "id10001/a/00002.wav",
        "1",
        "4 id10001/a/00002.wav",
        "one id10001/a/00002.wav",
        "1 a b",
        "1 id10001/00002.wav",
    ],
)
def test_a_bad_line_of_voxceleb1_is_named(tmp_path: Path, touch: Touch, line: str) -> None:
    touch(tmp_path / "wav", "id10001/a/00001.wav")
    write(tmp_path / "iden_split.txt", "1 id10001/a/00001.wav", line, "2 id10001/a/00001.wav")
    with pytest.raises(DataError, match=r"iden_split\.txt line 2 is '.*'; expected a part"):
        voxceleb1(tmp_path)


def test_nothing_is_fetched(tmp_path: Path, touch: Touch) -> None:
    pytest.importorskip("torchaudio", reason="its metadata is read by torchaudio")
    touch(tmp_path / "wav", "id10001/a/00001.wav")
    with pytest.raises(DataError, match=r"iden_split\.txt cannot be read .*; get it from"):
        voxceleb1(tmp_path)
    with pytest.raises(DataError, match="does not hold SPEECHCOMMANDS as torchaudio unpacks it"):
        speechcommands(tmp_path)


# ----- writing


def test_paths_under_the_csv_are_relative_and_others_absolute(tmp_path: Path) -> None:
    clips = (Clip(tmp_path / "set" / "a b,ü.wav", ("x",), "train"), Clip(tmp_path / "other.wav", ("x",), "val"))
    (tmp_path / "set").mkdir()
    write_listing(Listing(clips, 0), tmp_path / "set" / "metadata.csv")
    with (tmp_path / "set" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["a b,ü.wav", str(tmp_path / "other.wav")]
    assert [clip.path for clip in read_dataset(tmp_path / "set").clips] == [clip.path for clip in clips]


@pytest.mark.parametrize(("label", "message"), [("a;b", "holds ';', which joins labels"), ("a\x1b[2J", "control")])
def test_a_label_that_a_csv_cannot_hold_is_refused(tmp_path: Path, label: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_listing(Listing((Clip(tmp_path / "a.wav", (label,), "train"),), 0), tmp_path / "metadata.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not UTF-8"):
        write_listing(Listing((Clip(tmp_path / "\udcff.wav", ("x",), "train"),), 0), tmp_path / "metadata.csv")
    assert list(tmp_path.iterdir()) == []
