"""Annotations in every format that is read, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flexiast.data.annotations import (
    AnnotatedRecording,
    Annotation,
    check_annotations,
    read_annotated,
    read_annotations,
)
from flexiast.errors import DataError

TEXTS = {
    "yard.csv": "start_s,end_s,label\n1.5,2.25,dog\n3,4,rain\n",
    "yard.wav.csv": "label,source,end_s,start_s\ndog,yard.wav,2.25,1.5\nrain,yard.wav,4,3\n",
    "yard.tsv": "filename\tonset\toffset\tevent_label\nyard.wav\t1.5\t2.25\tdog\nyard.wav\t3\t4\train\n",
    "yard.txt": "1.500000\t2.250000\tdog\n\\\\\t100\t2000\n3.000000\t4.000000\train\n",
    "yard.labels.txt": "1.5\t2.25\tdog\r\n3\t4\train\r\n",
    "yard.selections.txt": (
        "Selection\tView\tBegin Time (s)\tEnd Time (s)\tSpecies\n"
        "1\tWaveform 1\t1.5\t2.25\tdog\n1\tSpectrogram 1\t1.5\t2.25\tdog\n2\tSpectrogram 1\t3\t4\train\n"
    ),
    "yard.jsonl": "\n".join(
        json.dumps({"type": kind, "label": label, "start_s": start, "end_s": end})
        for kind, label, start, end in (("event", "dog", 1.5, 2.25), ("status", "", 0, 0), ("event", "rain", 3, 4))
    ),
    "yard.wav.flexiast.labels.txt": "1.5\t2.25\tdog\n3\t4\train\n",
}


@pytest.fixture
def recording(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    return write_audio(tmp_path / "yard.wav", np.full(80_000, 0.1))


@pytest.mark.parametrize("name", TEXTS)
def test_every_format_is_read(recording: Path, name: str) -> None:
    recording.with_name(name).write_text(TEXTS[name])
    ((found,), bare) = read_annotated(recording.parent)
    assert found.path == recording
    assert [tuple(one[:3]) for one in found.annotations] == [("dog", 1.5, 2.25), ("rain", 3, 4)]
    assert not bare
    assert check_annotations(found, ("dog", "rain"), 5.0) == (list(found.annotations), 0)


@pytest.mark.parametrize("name", ["annotations.csv", "annotations.jsonl"])
def test_one_file_may_be_of_many_recordings(tmp_path: Path, write_audio: Callable[..., Path], name: str) -> None:
    for path in ("a/1.wav", "b/1.wav", "b/2.wav"):
        write_audio(tmp_path / path, np.full(8_000, 0.1))
    rows = [("b/1.wav", 0.1, 0.2, "dog"), ("2.wav", 0.3, 0.4, "rain")]
    keys = ("source", "start_s", "end_s", "label")
    lines = [",".join(keys), *(",".join(map(str, row)) for row in rows)]
    if name.endswith("jsonl"):
        lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (tmp_path / name).write_text("\n".join(lines))
    found, bare = read_annotated(tmp_path)
    assert [one.path.relative_to(tmp_path).as_posix() for one in found] == ["b/1.wav", "b/2.wav"]
    assert bare == [tmp_path / "a/1.wav"]
    (tmp_path / name).write_text("\n".join(lines).replace("2.wav", "1.wav").replace("b/1", "1"))
    with pytest.raises(DataError, match="more than once"):
        read_annotated(tmp_path)


def test_an_empty_file_says_that_nothing_sounds(recording: Path) -> None:
    for text in ("", "start_s,end_s,label\n"):
        recording.with_suffix(".csv").write_text(text)
        ((found,), _) = read_annotated(recording.parent)
        assert found.annotations == ()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("yard.csv", "start_s,label\n1,dog\n", "no column for the end, such as 'end_s'"),
        ("yard.csv", "start_s,end_s,label\n1,two,dog\n", "line 2: 'two' is no time"),
        ("yard.csv", "start_s,end_s,label\n1,2,\n", "line 2 has no label"),
        ("yard.txt", "1\t2\tdog\n3\t4\n", "line 2 is no label of Audacity"),
        ("yard.jsonl", '{"label": "dog", "start_s": 1}\n', "line 1 is no event"),
        ("yard.jsonl", "nonsense\n", "line 1 is no event"),
        ("annotations.csv", "start_s,end_s,label\n1,2,dog\n", "does not say of which recording"),
        ("annotations.csv", "source,start_s,end_s,label\nyird.wav,1,2,dog\n", "yird.wav is not in"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(recording: Path, name: str, text: str, reason: str) -> None:
    recording.with_name(name).write_text(text)
    with pytest.raises(DataError, match=reason) as error:
        read_annotated(recording.parent)
    assert str(recording.with_name(name)) in str(error.value)


def test_two_files_of_one_recording_are_refused(recording: Path) -> None:
    for name in ("yard.csv", "yard.txt"):
        recording.with_name(name).write_text(TEXTS[name])
    with pytest.raises(DataError, match="several annotation files"):
        read_annotated(recording.parent)


def test_recordings_without_any_annotation_are_refused(recording: Path) -> None:
    with pytest.raises(DataError, match="none of 1 recordings"):
        read_annotated(recording.parent)


@pytest.mark.parametrize(("name", "said"), [("absent", "does not exist"), ("file", "is no folder"), ("", "no audio")])
def test_what_is_no_folder_of_recordings_is_told_apart(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=said):
        read_annotated(tmp_path / name)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (Annotation("god", 1, 2, "x.csv line 7"), "x.csv line 7: the model does not know 'god'; it knows dog, rain"),
        (Annotation("dog", 2, 2, "x.csv line 7"), "is no stretch of time"),
        (Annotation("dog", -1, 2, "x.csv line 7"), "is no stretch of time"),
        (Annotation("dog", 4, 5.2, "x.csv line 7"), "ends at 5.2 s, and yard.wav at 5 s"),
    ],
)
def test_what_lies_outside_or_is_unknown_is_refused(one: Annotation, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        check_annotations(AnnotatedRecording(Path("yard.wav"), (one,)), ("dog", "rain"), 5.0)


def test_overlapping_annotations_of_a_label_become_one() -> None:
    given = tuple(
        Annotation(label, start, end, "")
        for label, start, end in (("dog", 3, 5.05), ("dog", 1, 2), ("rain", 1, 4), ("dog", 1.5, 1.7), ("dog", 2, 2.5))
    )
    found, merged = check_annotations(AnnotatedRecording(Path("yard.wav"), given), ("dog", "rain"), 5.0)
    expected = [("dog", 1, 2), ("rain", 1, 4), ("dog", 2, 2.5), ("dog", 3, 5.0)]
    assert [tuple(one[:3]) for one in found] == expected
    assert merged == 1


def test_text_of_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "yard.csv").write_bytes("start_s,end_s,label\n1,2,Mäuse\n".encode("utf-16"))
    with pytest.raises(DataError, match="text in UTF-8"):
        read_annotations(tmp_path / "yard.csv")
