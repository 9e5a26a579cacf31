"""What verdicts teach: the right stretch of the right file, with the label that `flexiast train` should learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from flexiast_runtime.history.clips import Span, list_clips, read_clip_folders, read_span, render_span
from flexiast_runtime.history.corrections import read_corrections
from flexiast_runtime.history.database import open_for_writing
from flexiast_runtime.history.marks import marks_folder
from flexiast_runtime.history.verdicts import Verdict, give_verdict
from tests.runtime.history.conftest import BUNDLE, Fill
from tests.runtime.sinks.conftest import BEGAN_AT_S, RATE_HZ, event

EVENTS = [event(number, bundle_sha256=BUNDLE) for number in range(0, 12, 2)]
VERDICTS = [(Verdict.RIGHT, None), (Verdict.WRONG, None), (Verdict.OTHER, "owl"), (Verdict.NOTHING, None)]


def judge(path: Path) -> None:
    for one, (verdict, label) in zip(EVENTS, VERDICTS, strict=False):
        give_verdict(path, one.id, verdict, label, reviewer="ann", instead_of=None, now_s=5.0)


def insert_mark(path: Path, mark_id: str, audio: str, start_s: float, end_s: float) -> None:
    """A mark as a database may hold it, whatever lies in the folder of marks."""
    row = (mark_id, "kitchen", "owl", BEGAN_AT_S, audio, start_s, end_s, BEGAN_AT_S + 60, "ann")
    with open_for_writing(path) as connection:
        connection.execute("INSERT INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def test_each_verdict_gives_its_label_and_the_stretch_of_the_event(fill: Fill) -> None:
    path = fill(EVENTS, clipped=EVENTS)
    judge(path)
    corrections = read_corrections(path)
    assert [(one.id, one.label) for one in corrections.found] == [
        (EVENTS[0].id, "dog"),
        (EVENTS[1].id, None),
        (EVENTS[2].id, "owl"),
        (EVENTS[3].id, None),
    ]
    assert [one.label for one in corrections.labelled] == ["dog", "owl"]
    assert [one.id for one in corrections.background] == [EVENTS[1].id, EVENTS[3].id]
    for one in corrections.found:
        assert (one.detected, one.score, one.bundle_sha256, one.decided_at_s) == ("dog", 0.75, BUNDLE, 5.0)
        began_at_s = BEGAN_AT_S + 2 * corrections.found.index(one)
        assert (one.began_s, one.ended_s) == pytest.approx((began_at_s, began_at_s + 0.5), abs=1e-3)
        samples, rate = soundfile.read(one.path, dtype="float32")
        stretch = samples[round(one.span.start_s * rate) : round(one.span.end_s * rate)]
        # Events begin with a full second and are half as long: the audio there rises from 0 to 0.45.
        np.testing.assert_allclose(stretch, np.linspace(0, 0.9, RATE_HZ, dtype=np.float32)[: RATE_HZ // 2], atol=1e-4)


def test_a_clip_that_is_gone_or_damaged_is_counted_and_the_others_are_read(fill: Fill) -> None:
    path = fill(EVENTS, clipped=EVENTS[:3])
    judge(path)
    clips = list_clips(read_clip_folders(path))
    clips[EVENTS[1].id].write_bytes(b"no flac")
    corrections = read_corrections(path)
    assert [one.id for one in corrections.found] == [EVENTS[0].id, EVENTS[2].id]
    assert corrections.missing == (EVENTS[1].id, EVENTS[3].id)


def test_clips_that_were_moved_are_found_where_they_are_said_to_be(fill: Fill, tmp_path: Path) -> None:
    path = fill(EVENTS, clipped=EVENTS)
    judge(path)
    (tmp_path / "clips").rename(tmp_path / "elsewhere")
    assert len(read_corrections(path).missing) == 4
    assert len(read_corrections(path, [tmp_path / "elsewhere"]).found) == 4


def test_a_missed_sound_is_a_correction_with_its_label(fill: Fill) -> None:
    path = fill(EVENTS)
    marks_folder(path).mkdir()
    soundfile.write(marks_folder(path) / "m1.flac", np.zeros(5 * RATE_HZ), RATE_HZ)
    for name in ("m1", "m2"):
        insert_mark(path, name, f"{name}.flac", 1.0, 3.0)
    corrections = read_corrections(path)
    (found,) = corrections.found
    assert (found.path, found.span, found.label) == (marks_folder(path) / "m1.flac", Span(1.0, 3.0), "owl")
    assert (found.detected, found.score) == (None, None)
    assert corrections.missing == ("m2",)


def test_no_path_of_a_database_leads_out_of_its_folder(fill: Fill, tmp_path: Path) -> None:
    path = fill(EVENTS)
    soundfile.write(tmp_path / "secret.flac", np.zeros(RATE_HZ), RATE_HZ)
    for name in ("../secret.flac", str(tmp_path / "secret.flac")):
        insert_mark(path, name, name, 0.0, 1.0)
    assert read_corrections(path).found == ()
    (tmp_path / "clips" / f"20261125T152342Z_dog_{EVENTS[0].id}.flac").symlink_to(tmp_path / "secret.flac")
    assert list_clips([tmp_path / "clips"]) == {}


@pytest.mark.parametrize(
    ("comment", "span"),
    [
        (render_span(Span(0.5, 1.5)), Span(0.5, 1.5)),
        (render_span(Span(0.5, 2.005)), Span(0.5, 2.0)),  # a rounded end
        ("", Span(0.0, 2.0)),
        ("a comment of another program", Span(0.0, 2.0)),
        ("[1, 2]", Span(0.0, 2.0)),
        ('{"start_s": 1, "end_s": 0.5}', Span(0.0, 2.0)),
        ('{"start_s": "0", "end_s": "1"}', Span(0.0, 2.0)),
        ('{"start_s": 0, "end_s": 99}', Span(0.0, 2.0)),
    ],
)
def test_a_clip_that_does_not_say_where_its_event_lies_is_taken_whole(tmp_path: Path, comment: str, span: Span) -> None:
    with soundfile.SoundFile(tmp_path / "clip.flac", "w", RATE_HZ, 1, "PCM_16") as file:
        if comment:
            file.comment = comment
        file.write(np.zeros(2 * RATE_HZ, np.float32))
    assert read_span(tmp_path / "clip.flac") == span
