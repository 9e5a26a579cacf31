"""What the site says is true: its programs and sessions run, its commands are understood, its messages exist."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from flexiast_cli.commands.demo.soundscape import RATE_HZ, soundscape
from tests.cli.test_reference import understood

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(ROOT / "scripts"))

from docs_words import read, too_long  # noqa: E402
from run_sessions import commands, prepare, run  # noqa: E402

PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text()
    for path in (
        DOCS / "index.md",
        *(
            page
            for kind in ("tutorial", "how-to", "explanation", "reference")
            for page in sorted((DOCS / kind).glob("*.md"))
        ),
    )
}
TUTORIAL = "tutorial/first-model.md"


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def programs() -> Iterator[Any]:
    for page in PAGES:
        for number, code in enumerate(blocks("python", page)):
            if page != TUTORIAL:  # whose bundle is made on the way, see below
                yield pytest.param(code, id=f"{page}:{number}")


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some seconds of the demo's soundscape."""
    folder = tmp_path_factory.mktemp("site")
    soundfile.write(folder / "today.wav", soundscape()[: 9 * RATE_HZ], RATE_HZ)
    return folder


@pytest.mark.parametrize("code", list(programs()))
def test_programs_run(code: str, today: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(today)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # one of the programs sets it, for good otherwise
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})


def test_the_main_use_takes_ten_lines_or_fewer() -> None:
    first = blocks("python", "reference/python-api.md")[0]
    assert "flexiast.load" in first
    assert len(first.splitlines()) <= 10


def test_the_tutorial_runs_to_a_model_that_finds_the_five_sounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path)
    expected = ["doorbell", "smoke_alarm", "doorbell", "doorbell", "smoke_alarm"]
    lines = list(commands(PAGES[TUTORIAL]))
    assert len(lines) > 5
    for line in lines:
        printed = run(line, tmp_path)
        if " classify " in line:
            assert re.findall(r"^today.wav +[\d.]+ +[\d.]+ +[\d.]+ +(\w+)$", printed, re.MULTILINE) == expected
    monkeypatch.chdir(tmp_path)
    for code in blocks("python", TUTORIAL):
        exec(compile(code, "docs", "exec"), {"__name__": "docs"})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == expected


def test_the_tutorial_shows_what_a_run_printed() -> None:
    """Each command is followed by output, with the five sounds in it."""
    for session in blocks("console", TUTORIAL):
        assert len(session.splitlines()) > session.count("$ ")
    assert len(re.findall(r"^today.wav .* (?:doorbell|smoke_alarm)$", PAGES[TUTORIAL], re.MULTILINE)) == 5


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page: str) -> None:
    lines = [line for block in blocks("sh", page) for line in block.splitlines()]
    for line in lines:
        if re.match(r"flexiast ", line):
            understood(line)
        else:
            assert re.match(r"(python3 -m venv|pip install|mkdir -p|for n in \$\(seq) ", line), (
                f"{line} is run by no test"
            )


# ----- troubleshooting


def texts() -> Iterator[str]:
    """Every string of the four packages; what an f-string takes in is left out by a …."""
    for package in ("flexiast", "export", "runtime", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_the_messages_of_troubleshooting_exist() -> None:
    messages = re.findall(r"^### `(.+)`$", PAGES["how-to/troubleshooting.md"], re.MULTILINE)
    assert len(messages) >= 30
    assert len(set(messages)) == len(messages)
    known = list(texts())
    for message in messages:
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
        assert any(map(pattern.search, known)), f"{message} is printed by nothing"


# ----- how the pages read


@pytest.mark.parametrize("page", [page for page in PAGES if page != "reference/glossary.md"])
def test_sentences_are_short(page: str) -> None:
    lengths = sorted(read(PAGES[page]).sentences)
    assert lengths[len(lengths) // 2] <= 14


def test_figures_with_a_date_stay_out() -> None:
    for page, text in PAGES.items():
        assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text), page


def test_words_are_counted_as_a_reader_counts_them(tmp_path: Path) -> None:
    page = "# Title\n\nOne two three. Four [five](six.md) `seven eight`!\n\n- nine\n\n```sh\nten\n```\n\n| a | b |\n"
    reading = read(page)
    assert (reading.sentences, reading.paragraphs, reading.blocks) == ([3, 3, 1], [6, 1], 1)


@pytest.mark.parametrize(
    ("line", "bad"), [("x" * 125, []), ("x" * 126, [3]), ("| " + "x" * 200 + " |", [])], ids=["fits", "long", "table"]
)
def test_long_lines_are_found(line: str, bad: list[int]) -> None:
    assert too_long(f"# Title\n\n{line}\n") == bad


def test_what_a_session_prints_may_be_long() -> None:
    assert too_long("# T\n\n```console\n" + "x" * 200 + "\n```\n" + "x" * 126) == [6]


def test_a_generated_page_may_have_long_lines() -> None:
    assert too_long("# Title\n\nMade by `python -m x`.\n\n" + "x" * 200) == []
