"""Run the sessions of a page and paste what they print.

    python scripts/run_sessions.py docs/tutorial/first-model.md

A session is a block marked `console`; its lines that begin with `$ ` are run, in order, in one folder of their own.
What follows each line is replaced by what it prints now, so that the page shows real output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SESSION = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
COLUMNS = "88"
"""Of the terminal; a page shows as many"""
LONGEST_LINE = 120
"""On the page; what is printed as one line, however wide, goes on in the next"""


def commands(page: str) -> Iterator[str]:
    """The lines of all sessions, without their prompt."""
    for session in SESSION.findall(page):
        yield from (line.removeprefix("$ ") for line in session.splitlines() if line.startswith("$ "))


def run(command: str, folder: Path) -> str:
    """What a line prints, on stdout and stderr; raises CalledProcessError where it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        check=True,
        cwd=folder,
        env=os.environ | {"PATH": path, "COLUMNS": COLUMNS, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return "".join(f"{part}\n" for line in done.stdout.strip("\n").splitlines() for part in wrap(line.rstrip()))


def wrap(line: str) -> list[str]:
    """A line as the page shows it, in parts where it is too long; no part is changed otherwise."""
    return textwrap.wrap(line, LONGEST_LINE, break_long_words=False, break_on_hyphens=False) or [""]


def prepare(folder: Path) -> None:
    """Make a folder look like the root of a clone, as far as the pages need it."""
    (folder / "scripts").symlink_to(ROOT / "scripts")


def main(path: Path) -> None:
    page = path.read_text()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        shown = {command: f"$ {command}\n{run(command, folder)}" for command in commands(page)}
    path.write_text(
        SESSION.sub(lambda match: "\n".join(shown[line] for line in commands(f"```console\n{match[0]}```\n")), page)
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
