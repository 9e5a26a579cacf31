"""A folder with one result for each recording, and the journal that lets a run go on where the last one ended.

The journal's first line holds the settings of the run. Each further line names a finished result and its recording,
with size and time of change, as ``make`` and ``rsync`` compare files: to hash terabytes takes as long as to read them.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from flexiast.errors import DataError, UsageError
from flexiast.files import TEMPORARY, atomic, check_output, shorten_name
from flexiast_runtime.batch.formats import Format, Result, render
from flexiast_runtime.batch.identity import check_same_run

JOURNAL = ".flexiast-run.jsonl"
ANOTHER = "give each folder of recordings its own --output-dir"


@dataclass(frozen=True)
class ResultEntry:
    """A result and its recording."""

    output: str
    """Relative to the folder"""
    input: str
    """Absolute"""
    size: int
    mtime_ns: int


class OutputFolder:
    """Results of one kind; opened by ``open_outputs``."""

    def __init__(self, folder: Path, output_format: Format, journal: BinaryIO, done: Sequence[ResultEntry]) -> None:
        self._folder, self._format, self._journal = folder, output_format, journal
        self._done = {entry.output: entry for entry in done}

    def list_missing(self, recordings: Mapping[Path, Path]) -> dict[Path, ResultEntry]:
        """The results still to be made of recordings, each given with its name here.

        A name keeps its suffix: ``a.wav`` and ``a.flac`` do not meet. Raises UsageError where two results would, or
        where one of another recording is. Call it before anything is read, so that a later change of a recording shows.
        """
        planned: dict[str, ResultEntry] = {}
        missing = {}
        for path, name in recordings.items():
            entry = self._plan(path, name)
            other = planned.setdefault(entry.output, entry)
            if other is not entry:
                raise UsageError(f"{other.input} and {path} would both become {self._folder / entry.output}; {ANOTHER}")
            if not self._holds(entry):
                missing[path] = entry
        return missing

    def _plan(self, recording: Path, name: Path) -> ResultEntry:
        status = recording.stat()
        ending = f".flexiast.{self._format.suffix}"
        output = str(name.with_name(shorten_name(name.name, ending, self._folder)))
        return ResultEntry(output, str(recording.absolute()), status.st_size, status.st_mtime_ns)

    def _holds(self, planned: ResultEntry) -> bool:
        entry, place = self._done.get(planned.output), self._folder / planned.output
        if entry is None or not place.is_file():
            return False
        unchanged = (entry.size, entry.mtime_ns) == (planned.size, planned.mtime_ns)
        if entry.input != planned.input and not unchanged:
            raise UsageError(f"{place} was made of {entry.input}, not of {planned.input}; {ANOTHER}")
        return unchanged

    def write(self, entry: ResultEntry, result: Result, model: str) -> None:
        """Write the result atomically, then add it to the journal."""
        with atomic(self._folder / entry.output) as file:
            for text in render(self._format, [result], model):
                file.write(text.encode())
        self._journal.write(_line(asdict(entry)))
        self._journal.flush()


@contextmanager
def open_outputs(folder: Path, output_format: Format, settings: Mapping[str, str]) -> Iterator[OutputFolder]:
    """The folder, created where it is not there, and ours alone meanwhile.

    Raises UsageError when it holds results that were made otherwise, when another run writes there or when nobody can,
    and DataError for a damaged journal.
    """
    check_output(folder / JOURNAL)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / JOURNAL).open("a+b") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another run writes to {folder}; wait for it or give another --output-dir") from None
        for left in folder.rglob(f".*.flexiast.*{TEMPORARY}*"):  # by a run that was killed
            left.unlink()
        done = _read(journal, {"format": output_format.value, **settings})
        yield OutputFolder(folder, output_format, journal, done)


def _read(journal: BinaryIO, settings: Mapping[str, str]) -> list[ResultEntry]:
    """Finished results in the journal; a new journal gets its first line."""
    journal.seek(0)
    content = journal.read()
    whole = content[: content.rfind(b"\n") + 1]  # a run that was killed may have left half a line
    journal.truncate(len(whole))
    if not whole:
        journal.write(_line(settings))
        return []
    try:
        before, *lines = map(json.loads, whole.splitlines())
        before = {**before}  # a list is damage
        done = [ResultEntry(**line) for line in lines]
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{journal.name} is damaged: {error}; remove it, and all results are made anew") from error
    check_same_run(Path(journal.name).parent, before, settings, "run it as before or give another --output-dir")
    return done


def _line(document: Mapping[str, object]) -> bytes:
    return json.dumps(document).encode() + b"\n"
