"""The arguments of `flexiast classify`: an optional model, then files, folders, or a list of them on stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from flexiast.errors import UsageError
from flexiast.text import printable, printable_line
from flexiast_cli.dataset import search_sounds
from flexiast_cli.terminal.console import stderr
from flexiast_runtime.batch.formats import Result
from flexiast_runtime.catalog import DEFAULT, list_shipped, looks_like_model

BUNDLE_SUFFIX = ".bundle"
"""Of a name that means a model even where there is none, so that a misspelt one is not taken for a recording"""


def split_model(arguments: list[str]) -> tuple[str, list[str]]:
    """The model, which the first argument may be, and the paths or URLs; raises UsageError."""
    first, *rest = arguments
    sounds_by_that_name = first in list_shipped() and not rest and Path(first).is_dir()
    if sounds_by_that_name:
        return DEFAULT, arguments
    if not looks_like_model(first):
        if Path(first).suffix == BUNDLE_SUFFIX:
            raise UsageError(f"{first}, a model by its name, does not exist; check the path")
        return DEFAULT, arguments
    if not rest:
        raise UsageError(f"{first} is a model; name the audio files or folders after it")
    return first, rest


def find_files(paths: list[Path]) -> tuple[dict[Path, Path], list[Result]]:
    """Each file once, with the path of its result below an output folder; and the paths that hold no audio.

    Folders are searched. The result of a file found in one has the same place below the output folder; that of a file
    given by itself has its own path.
    """
    files: dict[Path, Path] = {}
    unusable = {}
    for path in _expand_stdin(paths):
        try:
            path.stat()
            found = search_sounds(path, stderr()).files if path.is_dir() else (path,)
            error = None if found else "holds no audio files; expected WAV, FLAC, Ogg, Opus, MP3 or AIFF"
        except (OSError, ValueError) as failure:  # a name may hold a zero byte, which the system does not take
            found, error = (), _describe_failure(failure)
        if error is not None:
            unusable[path] = Result(path, printable_line(str(path)), error=printable(f"{path} {error}"))
        for file in found:
            files.setdefault(file, file.relative_to(path) if path.is_dir() else _relative_path(file))
    return files, list(unusable.values())


def _describe_failure(failure: OSError | ValueError) -> str:
    if isinstance(failure, (FileNotFoundError, NotADirectoryError)):
        return "does not exist"
    reason = failure.strerror if isinstance(failure, OSError) else str(failure)
    return f"cannot be read: {reason}"


def _expand_stdin(paths: list[Path]) -> Iterator[Path]:
    """Yield the paths, and in the place of ``-`` those listed on stdin."""
    for path in paths:
        if path == Path("-"):
            yield from (Path(os.fsdecode(line.rstrip(b"\n"))) for line in sys.stdin.buffer if line.strip())
        else:
            yield path


def _relative_path(file: Path) -> Path:
    """The path without its root and `..`, so that it stays below an output folder."""
    return Path(*(part for part in file.parts if part not in {file.anchor, ".."}))
