"""How the pages read: median words of a sentence and of a paragraph, code blocks in 1,000 words; long lines.

    python scripts/docs_words.py docs

Ends with 1 where a line of a page is longer than 125 characters. Exempt are tables, what a program prints, and
generated pages. Words of code blocks and tables do not count.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

LONGEST = 125
"""Characters of a line"""
GENERATED = ("Made by `python -m", "Written by `python -m")
"""What a page that a program writes begins with, below its title"""

FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)


class Reading(NamedTuple):
    """How one page reads."""

    sentences: list[int]
    """Words of each"""
    paragraphs: list[int]
    blocks: int
    """Blocks of code"""

    def line(self, name: str) -> str:
        words = sum(self.paragraphs)
        share = 1000 * self.blocks / words if words else 0.0
        middle = [f"{median(lengths):5g}" if lengths else "    –" for lengths in (self.sentences, self.paragraphs)]
        return f"{name:<34} {middle[0]:>9} {middle[1]:>10} {share:>14.1f} {words:>7,}"


def read(text: str) -> Reading:
    """A page of Markdown; list items and block quotes are paragraphs."""
    blocks = [match[0] for match in FENCE.finditer(text)]
    code = [block for block in blocks if not re.match(r"[`~]+\{(toctree|figure|image|raw)", block)]
    prose = FENCE.sub("\n\n", text)
    prose = re.sub(r"^\(.*\)=$|^:::.*$|^<.*>$|^<!--.*?-->|^#.*$|^\|.*$", "", prose, flags=re.MULTILINE)
    prose = re.sub(r"^\s*(?:[-*]|\d+\.|>|:)\s+", "\n\n", prose, flags=re.MULTILINE)
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    prose = re.sub(r"`[^`]*`", "code", prose)
    paragraphs = [part.split() for part in re.split(r"\n\s*\n", prose) if re.search(r"\w", part)]
    sentences = [
        len(sentence.split())
        for words in paragraphs
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(words))
        if re.search(r"\w", sentence)
    ]
    return Reading(sentences, [len(words) for words in paragraphs], len(code))


def too_long(text: str) -> list[int]:
    """Numbers of the lines that are longer than allowed."""
    if text.split("\n\n", 2)[1].startswith(GENERATED):
        return []
    lines, session = [], False
    for number, line in enumerate(text.splitlines(), 1):
        session = line in ("```console", "```text") or (session and line != "```")
        if not session:  # output of a program
            lines.append((number, line))
    return [number for number, line in lines if len(line) > LONGEST and not line.lstrip().startswith("|")]


def main(folder: Path) -> int:
    pages = {path: path.read_text() for path in sorted(folder.rglob("*.md"))}
    readings = {path: read(text) for path, text in pages.items()}
    print(f"{'page':<34} {'sentence':>9} {'paragraph':>10} {'blocks / 1,000':>14} {'words':>7}")
    for path, reading in readings.items():
        print(reading.line(path.relative_to(folder).as_posix()))
    every = Reading(
        [words for one in readings.values() for words in one.sentences],
        [words for one in readings.values() for words in one.paragraphs],
        sum(one.blocks for one in readings.values()),
    )
    print(every.line("all"))
    bad = [f"{path}:{number}" for path, text in pages.items() for number in too_long(text)]
    for place in bad:
        print(f"{place}: longer than {LONGEST} characters; break the line", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")))
