"""The live screen, drawn on terminals of any size by rich itself."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from flexiast.spec import PatchSize
from flexiast_cli.spectrogram import BINS, COLUMN_FRAMES, Spectrogram, shades
from flexiast_cli.terminal.panes import bar
from flexiast_cli.terminal.screen import Screen, print_lines
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.detection.records import (
    EngineFailure,
    Event,
    Overload,
    Record,
    SourceNotice,
    Status,
    Summary,
    Switch,
)
from flexiast_runtime.hardware.battery import Battery

FINE, COARSE = PatchSize(16, 16), PatchSize(48, 48)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def status(source: str = "garden", time_s: float = 5.0, **fields: Any) -> Status:
    frames = np.random.default_rng(0).normal(scale=0.5, size=(500, 128)).astype(np.float32)
    given = {
        "patch": FINE,
        "top": (("siren", 0.8), ("a label that is longer than any terminal has room for " * 4, 0.1), ("rain", 0.05)),
        "active": ("siren",),
        "latency_s": 0.004,
        "deadline_s": 0.5,
        "backlog_s": 0.0,
        "dropped_s": 0.0,
        "skipped": 0,
        "battery": Battery(0.42, True),
        "thermal_headroom_c": 12.4,
        "signal": Signal(level_dbfs=-23.0, peak_dbfs=-9.0),
        "frames": frames,
    }
    return Status(source, time_s, **given | fields)


def event(source: str = "garden", label: str = "siren", started_at_s: float | None = None) -> Event:
    return Event(source, label, 16_000, 48_000, 16_000, 0.8, FINE, started_at_s)


def drawn(records: list[Record], width: int = 100, height: int = 30, **console: Any) -> list[str]:
    """The last picture, as lines with their escape codes."""
    settings = {"force_terminal": True, "color_system": "truecolor", "_environ": {"TERM": "xterm"}} | console
    file = io.StringIO()
    screen = Screen(
        lambda: "title", "a note", Console(file=file, width=width, height=height, highlight=False, **settings)
    )
    screen.show(iter(records))
    return file.getvalue().split("\x1b[?1049l")[-1].splitlines()


def plain(lines: list[str]) -> str:
    return ESCAPE.sub("", "\n".join(lines))


@given(st.integers(40, 200), st.integers(12, 60), st.integers(1, 4), st.booleans())
def test_a_picture_stays_within_its_terminal(width: int, height: int, sources: int, dropped: bool) -> None:
    records: list[Record] = []
    for number in range(sources):
        source = f"/a/path/that/is/rather/long/{number}.wav"
        records += [status(source, dropped_s=1.5 * dropped), event(source), Switch(source, 5.0, FINE, COARSE, "why")]
    lines = plain(drawn(records, width, height)).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    if height >= 4 + 3 * sources:
        assert len(lines) <= height


def test_the_picture_says_what_is_heard_at_which_size_and_why() -> None:
    change = Switch("garden", 5.0, FINE, COARSE, "battery at 42% and discharging")
    text = plain(drawn([status(dropped_s=1.5), event(), change]))
    for expected in (
        "title",
        "garden",
        "-23 dBFS",
        "▸ siren",
        "0.80",
        "48x48 since 5.0 s: battery at 42%",
        "4.0 of 500 ms",
    ):
        assert expected in text
    assert "12 K to throttling   battery 42% draining" in text
    assert "lost 1.5 s of audio" in text
    assert "1.0–3.0 s  siren" in text
    assert "▀" * 40 in text


def test_the_title_names_the_model_that_runs_by_then() -> None:
    running = ["old.bundle"]

    def swap() -> Iterator[Record]:
        yield status()
        running[0] = "new.bundle"
        yield event()

    file = io.StringIO()
    Screen(lambda: running[0], console=Console(file=file, width=80, height=24, force_terminal=True)).show(swap())
    first, last = file.getvalue().split("\x1b[?1049l")
    assert "old.bundle" in first
    assert "new.bundle" in last and "old.bundle" not in last


def test_an_event_is_told_by_the_clock_where_there_is_one_and_by_the_day_unless_it_is_today() -> None:
    today = datetime.now().replace(hour=0, minute=0, second=1)
    assert re.search(r"00:00:01 +2\.0 s  siren", plain(drawn([event(started_at_s=today.timestamp())])))
    before = today - timedelta(seconds=2)
    assert re.search(rf"{before:%d %b} 23:59 +2\.0 s  siren", plain(drawn([event(started_at_s=before.timestamp())])))


LONG = "domestic_animals_and_pets"
MICROPHONES = ("USB Audio Device: - (hw:1,0)", "Built-in Microphone", "Garden microphone array")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (160, 50)])
def test_one_source_shows_long_labels_with_duration_and_score(width: int, height: int) -> None:
    change = Switch("garden", 5.0, FINE, COARSE, "why")
    began = datetime.now().timestamp()
    records = [status(top=((LONG, 0.91), ("rain", 0.2))), *[event(label=LONG, started_at_s=began)] * 6, change]
    text = plain(drawn(records, width, height))
    assert re.search(rf"2\.0 s  {LONG}  0\.80 .*  16x16 → 48x48" if height >= 30 else rf"2\.0 s  {LONG}  0\.80", text)
    assert re.search(rf"▸? {LONG[:15]}\S* [━╸─]{{5,}} 0\.91", text)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (160, 50)])
def test_three_sources_each_show_their_best_label_and_what_is_wrong_and_name_their_events(
    width: int, height: int
) -> None:
    records: list[Record] = [Switch(MICROPHONES[0], 5.0, FINE, COARSE, "the one reason")]
    for place, source in enumerate(MICROPHONES):
        bad = Signal(level_dbfs=-23.0, peak_dbfs=-9.0, clipped=3)
        scores = ((LONG, 0.91 + place / 100), ("rain", 0.2))
        records.append(status(source, top=scores, signal=bad, dropped_s=1.5))
    records += [event(source, LONG, datetime.now().timestamp()) for source in MICROPHONES]
    text = plain(drawn(records, width, height))
    assert text.count("the one reason") == (1 if width < 160 else 2)  # which has room for it among the switches too
    for place, source in enumerate(MICROPHONES):
        assert f"0.9{1 + place}" in text
        assert re.search(rf"2\.0 s  {LONG}  0\.80  {re.escape(source[:12])}", text)
    assert text.count("lost 1.5 s") == text.count("3 clipped") == 3


def test_a_lost_source_among_several_says_so_itself() -> None:
    records = [status(source) for source in MICROPHONES]
    text = plain(drawn([*records, SourceNotice(MICROPHONES[0], 5.0, "lost", "unplugged")]))
    assert re.search(rf"{re.escape(MICROPHONES[0])} .*LOST *\n *unplugged", text)
    assert "16x16 from the start" in text


def test_a_source_that_is_lost_or_silent_says_so_until_it_is_back() -> None:
    lost = SourceNotice("garden", 5.0, "lost", "unplugged")
    silent = SourceNotice("garden", 5.0, "no signal", "is it muted?")
    assert all(word in plain(drawn([status(), lost])) for word in ("LOST", "unplugged"))
    assert all(word in plain(drawn([status(), silent])) for word in ("NO SIGNAL", "is it muted?", "-23 dBFS"))
    assert "LOST" not in plain(drawn([status(), lost, SourceNotice("garden", 6.0, "found", "here again"), status()]))


def test_faults_of_a_microphone_are_shown_while_there_are_any() -> None:
    faulty = Signal(level_dbfs=-23.0, peak_dbfs=-9.0, dc_offset=-0.031, clipped=1234, invalid=2, gaps=1)
    assert "1 gap · 2 invalid · 1,234 clipped · DC" in plain(drawn([status(signal=faulty)], width=120))
    sound = plain(drawn([status(signal=Signal(level_dbfs=-23.0, peak_dbfs=-9.0, dc_offset=0.009))]))
    assert not any(word in sound for word in ("gap", "invalid", "clipped", "DC offset"))


def test_without_colours_the_picture_is_made_of_shades() -> None:
    lines = drawn([status()], color_system=None)
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", "\n".join(lines))
    assert re.search("[░▒▓]{40}", plain(lines))
    no_color = drawn([status()], _environ={"TERM": "xterm", "NO_COLOR": "1"})
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", "\n".join(no_color))
    assert re.search("[░▒▓]{40}", plain(no_color))


def test_labels_and_reasons_cannot_steer_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J"
    records = [
        Switch(hostile, 5.0, FINE, COARSE, hostile),
        status(hostile, top=((hostile, 0.9),)),
        event(hostile, hostile),
        SourceNotice(hostile, 5.0, "lost", hostile),
    ]
    text = "\n".join(drawn(records))
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text


def test_what_is_noted_meanwhile_is_shown_and_then_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    def noting() -> Iterator[Record]:
        yield status()
        print("the broker is down", file=sys.stderr)

    assert "the broker is down" in plain(drawn(noting()))  # type: ignore[arg-type]
    assert capsys.readouterr().err == "the broker is down\n"


def test_lines_go_to_stdout_and_what_became_of_a_source_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary("garden", 5.0, 1, 0, 1, 0, 0, 0.0, 0.1, ())
    notice = SourceNotice("garden", 2.0, "lost", "unplugged")
    print_lines(iter([status(), notice, event(), summary]), explain=False, several=False)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert "siren" in printed.out
    assert "garden lost: unplugged" in printed.err


def test_lines_name_their_source_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a [b]yard[/b]\x1b[2J"
    records = [
        event(hostile),
        Switch(hostile, 5.0, FINE, COARSE, "why"),
        EngineFailure(hostile, 5.0, FINE, "out of memory"),
        Overload(hostile, 5.0, COARSE, 0.2, 0.1),
        Summary(hostile, 5.0, 1, 0, 1, 0, 0, 0.0, 0.1, ()),
    ]
    print_lines(iter(records), explain=True, several=True)
    printed = capsys.readouterr()
    assert all("\x1b[2J" not in text for text in printed)
    assert printed.out.count("a [b]yard[/b]") == 1
    assert printed.err.count("a [b]yard[/b]") == 4
    print_lines(iter(records), explain=True, several=False)
    assert not any("yard" in text for text in capsys.readouterr())
    assert "a [b]yard[/b]" in plain(drawn([status(), *records[-1:], *records[-1:]]))


@given(st.integers(0, 40), st.integers(1, 140), st.integers(1, 80))
def test_shades_are_the_loudest_of_neighbouring_mels(frames: int, mels: int, bins: int) -> None:
    features = np.random.default_rng(mels).normal(size=(frames, mels)).astype(np.float32)
    seen = shades(features, bins)
    assert seen.shape == (frames, min(bins, mels))
    edges = [place * mels // min(bins, mels) for place in range(min(bins, mels))] + [mels]
    for row, frame in zip(seen, features, strict=True):
        for value, first, last in zip(row, edges[:-1], edges[1:], strict=True):
            expected = min(max(110 * (float(frame[first:last].max()) + 1), 0), 255)
            assert abs(int(value) - expected) <= 1  # truncated, and once in float32


@given(st.lists(st.integers(0, 70), max_size=8), st.integers(1, 60), st.integers(1, 30))
def test_a_spectrogram_is_the_same_however_its_frames_arrive(sizes: list[int], width: int, height: int) -> None:
    frames = np.random.default_rng(1).normal(scale=0.5, size=(sum(sizes), 64)).astype(np.float32)
    at_once, in_parts = Spectrogram(), Spectrogram()
    at_once.push(frames)
    for part in np.split(frames, np.cumsum(sizes)[:-1]) if sizes else []:
        in_parts.push(part)
    rows = in_parts.rows(width, height)
    assert rows.shape == (height, width)
    np.testing.assert_array_equal(rows, at_once.rows(width, height))
    columns = min(len(frames) // COLUMN_FRAMES, width)
    assert not rows[:, : width - columns].any()
    if columns and height == BINS:
        newest = frames[: len(frames) // COLUMN_FRAMES * COLUMN_FRAMES][-COLUMN_FRAMES:].mean(axis=0)
        np.testing.assert_array_equal(rows[::-1, -1], shades(newest[None])[0])


@given(st.floats(0, 1), st.integers(1, 60), st.none() | st.floats(0, 1))
def test_a_bar_is_as_long_as_it_is_told(share: float, width: int, mark: float | None) -> None:
    text = bar(share, width, "green", mark).plain
    assert cell_len(text) == width
    filled = text.count("━") + text.count("╸") / 2
    assert abs(filled - share * width) <= 0.5 + (mark is not None)
    assert text.count("┃") == (mark is not None)


@pytest.fixture
def tty(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, str], None]:
    def pretend(is_terminal: bool, term: str) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
        monkeypatch.setenv("TERM", term)

    return pretend


@pytest.mark.parametrize(
    ("is_terminal", "term", "expected"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_pictures_need_a_terminal_that_can_draw(
    tty: Callable[[bool, str], None], is_terminal: bool, term: str, expected: bool
) -> None:
    from flexiast_cli.terminal.console import shows_pictures

    tty(is_terminal, term)
    assert shows_pictures() is expected
