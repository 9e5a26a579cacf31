"""Terminals and locales that cannot show everything: nothing ends for that, widths and JSON stay right."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from flexiast_cli.terminal.console import json_line
from flexiast_cli.terminal.encoding import ESCAPED, SAME_WIDTH, adapt_streams
from flexiast_cli.terminal.screen import Screen
from flexiast_runtime.detection.records import Switch
from tests.cli.conftest import write_sounds
from tests.cli.terminal.test_screen import COARSE, ESCAPE, FINE, event, status

ENCODINGS = ("ascii", "iso-8859-1", "koi8-r", "utf-8")
LABEL = "тук · café → 東京 🚒\udcff"


def run_in(encoding: str, *arguments: object, text: str = "") -> subprocess.CompletedProcess[bytes]:
    """`flexiast` on streams of that encoding, without UTF-8 as a way out; ``text`` is said by a print in its place."""
    code = f"from flexiast_cli.terminal.encoding import adapt_streams; adapt_streams(); import typer; {text}"
    program = ["-c", code] if text else ["-m", "flexiast_cli.main", *map(str, arguments)]
    environment = os.environ | {
        "PYTHONIOENCODING": encoding,
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "LC_ALL": "C",
    }
    return subprocess.run([sys.executable, *program], check=False, capture_output=True, env=environment)


@pytest.fixture
def adapted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], io.TextIOWrapper]:
    """A stdout of some encoding, adapted as a program does it."""

    def adapted(encoding: str) -> io.TextIOWrapper:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        adapt_streams()
        return stream

    return adapted


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_commands_end_well_on_any_terminal(encoding: str, tmp_path: Path) -> None:
    sound = next(write_sounds(tmp_path / "sounds", clips=1, seconds=2.0).rglob("*.wav"))
    sound = sound.rename(sound.with_name("тест…\udcff.wav" if os.fsencode("т") == b"\xd1\x82" else "test.wav"))
    for arguments in (
        ("inspect", "commands"),
        ("doctor",),
        ("listen", "commands", "--input", sound, "--threshold", "0.01", "--explain"),
        ("listen", "commands", "--input", f"{sound}.gone"),
    ):
        result = run_in(encoding, *arguments)
        assert result.returncode == (8 if str(arguments[-1]).endswith("gone") else 0), result.stderr
        assert b"Traceback" not in result.stderr
        for written in (result.stdout, result.stderr):
            written.decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_echo_and_rich_write_the_same(encoding: str) -> None:
    """click would write UTF-8 in an ASCII locale, whatever the streams were told."""
    log = f"typer.echo({LABEL!a}); from flexiast_cli.terminal.console import stdout; stdout().print({LABEL!a})"
    result = run_in(encoding, text=log)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == second
    shown = first.decode(encoding)
    assert shown.endswith("\\udcff")
    if encoding == "ascii":
        assert shown.startswith("\\u0442\\u0443\\u043a - caf\\u00e9 > ")
    if encoding == "koi8-r":
        assert shown.startswith("тук · caf\\u00e9 > \\u6771")


@pytest.fixture(scope="module", autouse=True)
def handlers() -> None:
    """Known to Python once a program has adapted its streams."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, io.TextIOWrapper(io.BytesIO()))
        adapt_streams()


@given(
    st.text(st.characters(exclude_categories=())), st.sampled_from(ENCODINGS), st.sampled_from([ESCAPED, SAME_WIDTH])
)
def test_all_text_is_written_and_what_can_be_shown_stays(text: str, encoding: str, handler: str) -> None:
    written = text.encode(encoding, handler)
    if handler == ESCAPED:  # each as it would be alone
        assert written == b"".join(character.encode(encoding, handler) for character in text)
    for character in text:
        if encodable(character, encoding):
            assert character.encode(encoding, handler) == character.encode(encoding)


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))), st.sampled_from(ENCODINGS))
def test_widths_are_kept_in_pictures(text: str, encoding: str) -> None:
    assert cell_len(text.encode(encoding, SAME_WIDTH).decode(encoding)) == cell_len(text)


def test_joined_emoji_are_as_wide_as_on_other_terminals() -> None:
    text = "\U0001f469\u200d\U0001f692 fire"
    assert text.encode("ascii", SAME_WIDTH) == b"?" * cell_len(text[:3]) + b" fire"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_exact_in_any_encoding(adapted: Callable[[str], io.TextIOWrapper], encoding: str) -> None:
    stream = adapted(encoding)
    document = {"label": LABEL.replace("\udcff", "\U0001f9d1\u200d\U0001f692"), "reason": "16x16 → 48x48"}
    print(json_line(document), flush=True)
    assert json.loads(read(stream)) == document


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_the_screen_keeps_its_shape_where_there_are_no_blocks(
    adapted: Callable[[str], io.TextIOWrapper], encoding: str
) -> None:
    stream = adapted(encoding)
    console = Console(width=80, height=24, force_terminal=True, color_system="truecolor", _environ={"TERM": "xterm"})
    Screen(lambda: "тук", "a note", console).show(
        iter([status(), event(label="тук"), Switch("garden", 5.0, FINE, COARSE, "→")])
    )
    lines = read(stream).split("\x1b[?1049l")[-1].splitlines()
    assert not any(len(line) > 80 for line in map(without_colours, lines))
    assert any("===" in line for line in lines)
    assert stream.errors == ESCAPED


def read(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


def without_colours(line: str) -> str:
    return ESCAPE.sub("", line)


def encodable(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
