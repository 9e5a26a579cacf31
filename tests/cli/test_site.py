"""What the site says is true: every code block runs or is parsed, links lead somewhere, messages exist."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import soundfile

from flexiast.training.recipe import Recipe
from flexiast_cli.commands.config import check
from flexiast_cli.commands.demo.soundscape import RATE_HZ, soundscape
from tests.cli.test_reference import understood

yaml = pytest.importorskip("yaml", reason="comes with myst-parser")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(ROOT / "scripts"))

from docs_words import read, too_long  # noqa: E402
from run_sessions import commands, prepare, run  # noqa: E402

PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
GUIDES = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "scripts/README.md")}
KINDS = ("tutorial", "how-to", "explanation", "reference")
INSTRUCTIONS = {page: text for page, text in PAGES.items() if page.split("/")[0] in KINDS}
TUTORIAL = "tutorial/first-model.md"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {"how-to/cluster.md", "how-to/jetson.md", "how-to/own-program.md", "how-to/sinks.md", "how-to/power.md"}
"""Pages with programs that need hardware or a server: their own tests run those"""


def blocks(language: str, page: str) -> list[str]:
    return [code for found, code in FENCE.findall(PAGES[page]) if found == language]


def programs() -> Iterator[Any]:
    for page in PAGES:
        for number, code in enumerate(blocks("python", page)):
            # the tutorial's bundle is made on the way, see below
            if page != TUTORIAL and (page not in RUN_ELSEWHERE or "import flexiast\n" in code):
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


# ----- every block of code


def parse_shell(code: str) -> None:
    """Every line is a shell's; those of flexiast have options and values that it accepts."""
    if code.startswith("#!"):  # a script, which its own test runs
        return
    done = subprocess.run(["bash", "-n"], check=False, input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in code.replace("\\\n", "").splitlines():
        command = re.sub(r"\s#\s.*| \|\| .*", "", line)
        if re.search(r"(?:^|\| |sudo |--no-python |docker run .*)flexiast \w", command):
            understood(command)


def parse_toml(code: str) -> None:
    """A recipe, or settings that commands understand."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.toml"
        path.write_text(code)
        if re.search(r"^\[(?:model|training)\b", code, re.MULTILINE):
            Recipe.read(path)
        else:
            check(path, understood("flexiast config validate"))


def parse_ini(code: str) -> None:
    configparser.ConfigParser(interpolation=None).read_string(code if code.startswith("[") else f"[top]\n{code}")


def parse_braces(code: str) -> None:
    """nginx and Caddy, which a test of the proxy runs."""
    assert code.count("{") == code.count("}")


PARSERS: dict[str, Callable[[str], object]] = {
    "sh": parse_shell,
    "console": lambda code: [parse_shell(line) for line in commands(f"```console\n{code}```\n")],
    "python": ast.parse,
    "toml": parse_toml,
    "ini": parse_ini,
    "json": json.loads,
    "yaml": yaml.safe_load,
    "nginx": parse_braces,
    "caddy": parse_braces,
    "js": parse_braces,  # which its own test runs
    "text": str,  # what a program prints, names of files
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("page", [page for page in PAGES | GUIDES if page != "reference/commands.md"])
def test_every_block_is_parsed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands with their options and values; reference/commands.md is generated from tested examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("my.toml", "garden.toml", "body.json", "broker", "broker.pem"):
        Path(name).touch(mode=0o600)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for language, code in FENCE.findall((PAGES | GUIDES)[page]):
        if not language.startswith("{"):  # a directive of Sphinx
            PARSERS[language](code)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("sh", "flexiast listen --latncy 100"),
        ("sh", "arecord | flexiast listen --inptu -"),
        ("sh", "sudo flexiast service install --aply"),
        ("sh", "torchrun --no-python flexiast train sounds --outptu run"),
        ("sh", "echo 'open"),
        ("toml", "[listen]\nlatncy = 100"),
        ("toml", "[training]\nepoch = 3"),
    ],
)
def test_a_mistake_in_a_block_is_noticed(language: str, code: str) -> None:
    with pytest.raises(Exception, match=r"No such option|unexpected EOF|latncy|epoch"):
        PARSERS[language](code)


@pytest.mark.parametrize("page", PAGES)
def test_no_code_hides_in_an_indent(page: str) -> None:
    """Only fenced blocks are parsed, copied by a button, and counted."""
    prose = FENCE.sub("", PAGES[page])
    assert not re.findall(r"\n\n {4}(?![-*\d]).*", prose)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_the_repository_lead_somewhere(page: str) -> None:
    """Those inside the site are checked by Sphinx, which does not see these."""
    for link in re.findall(r"\]\(((?!https?:)[^)#\s]+)", FENCE.sub("", PAGES[page])):
        assert ((DOCS / page).parent / link).exists(), link


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


WRITTEN = [page for page in INSTRUCTIONS if page not in ("reference/glossary.md", "reference/commands.md")]


@pytest.mark.parametrize("page", WRITTEN)
def test_sentences_are_short(page: str) -> None:
    assert median(read(PAGES[page]).sentences) <= 13


def test_paragraphs_are_short() -> None:
    assert median(words for page in WRITTEN for words in read(PAGES[page]).paragraphs) <= 20


def test_instructions_show_before_they_tell() -> None:
    """Blocks of code in 1,000 words; the best pages of the field have 19."""
    readings = [read(PAGES[page]) for page in WRITTEN if page.startswith(("tutorial", "how-to"))]
    words = sum(sum(reading.paragraphs) for reading in readings)
    assert 1000 * sum(reading.blocks for reading in readings) >= 12 * words


@pytest.mark.parametrize("page", [page for page in INSTRUCTIONS if page != "reference/commands.md"])
def test_figures_with_a_date_or_a_processor_stay_out(page: str) -> None:
    prose = re.sub(r"`[^`]*`", "", FENCE.sub("", PAGES[page]))
    assert not re.findall(r"\b20\d\d-\d\d-\d\d\b|EPYC|H200", prose)


def test_every_page_stands_in_one_of_the_kinds() -> None:
    assert {page for page in PAGES if page.split("/")[0] not in (*KINDS, "benchmarks")} == {"index.md"}


def test_words_are_counted_as_a_reader_counts_them(tmp_path: Path) -> None:
    page = "# Title\n\nOne two three. Four [five](six.md) `seven eight`!\n\n- nine\n\n```sh\nten\n```\n\n| a | b |\n"
    reading = read(page)
    assert (reading.sentences, reading.paragraphs, reading.blocks) == ([3, 3, 1], [6, 1], 1)


@pytest.mark.parametrize(
    ("line", "bad"), [("x" * 125, []), ("x" * 126, [3]), ("| " + "x" * 200 + " |", [])], ids=["fits", "long", "table"]
)
def test_long_lines_are_found(line: str, bad: list[int]) -> None:
    assert too_long(f"# Title\n\n{line}\n") == bad


@pytest.mark.parametrize("language", ["console", "text"])
def test_what_a_program_prints_may_be_long(language: str) -> None:
    assert too_long(f"# T\n\n```{language}\n" + "x" * 200 + "\n```\n" + "x" * 126) == [6]


@pytest.mark.parametrize("verb", ["Made", "Written"])
def test_a_generated_page_may_have_long_lines(verb: str) -> None:
    assert too_long(f"# Title\n\n{verb} by `python -m x`.\n\n" + "x" * 200) == []
