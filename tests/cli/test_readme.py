"""What the README and the page of records say is true: commands run, tables are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import soundfile

from flexiast.errors import ExitCode
from flexiast_runtime.catalog import DEFAULT, list_shipped
from tests.cli.conftest import RATE_HZ, Run, tone, write_sounds

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RECORDS = (ROOT / "docs/reference/records.md").read_text()

# The training is shortened, and a test machine has no microphone; nothing else is changed.
ADDED = {"train": ("--epochs", "2", "--batch-size", "4", "--patch-sizes", "16,32,48")}
MICROPHONE = ("--input", "recordings/today.wav")


def commands() -> list[list[str]]:
    blocks = re.findall(r"<!-- run by tests/cli/test_readme.py -->\n```sh\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def test_the_path_from_sounds_to_device_runs_as_written(run: Run, tmp_path: Path) -> None:
    write_sounds(tmp_path / "sounds", seconds=0.6)
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings/today.wav", np.concatenate((tone(300, 1, 1), tone(3000, 1, 2))), RATE_HZ)
    lines = commands()
    assert [line[1] for line in lines] == [
        "train",
        "evaluate",
        "export",
        "inspect",
        "verify",
        "classify",
        "listen",
        "listen",
    ]
    for program, command, *arguments in lines:
        assert program == "flexiast"
        added = ADDED.get(command, MICROPHONE if command == "listen" and "--input" not in arguments else ())
        result = run(command, *arguments, *added, cwd=tmp_path)
        assert result.returncode == 0, f"{command}: {result.stderr}"
    assert {path.name for path in tmp_path.iterdir()} == {
        "sounds",
        "recordings",
        "runs",
        "home.bundle",
        "accuracy.png",
        "events.csv",
    }


def test_the_exit_codes_are_the_ones_in_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", RECORDS, re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name.lower()) for code in ExitCode]


def test_the_shipped_models_are_named() -> None:
    rows = re.findall(r"^\| \[`([\w-]+)`\]\((\S+)\) \|.*\| ([^|]+) \|$", README, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(list_shipped())
    for name, card, licence in rows:
        assert card.endswith(f"models/{name}/MODEL_CARD.md")
        assert licence.split(",")[0] in (ROOT / card).read_text()
    assert f"`{DEFAULT}` is the default" in README


def test_pictures_and_links_of_the_readme_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.split()) < 800
