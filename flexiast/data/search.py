"""What a folder holds: the audio that can be read, and what a search leaves out, by kind."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Literal

from flexiast.data.audio import AUDIO_SUFFIXES
from flexiast.data.media import EXTRA, MEDIA_SUFFIXES, is_available
from flexiast.errors import DataError

KINDS_LISTED = 4
"""Kinds of files that are named; more are counted together."""


@dataclass(frozen=True)
class LeftOut:
    """What a search did not take, counted."""

    media: Counter[str] = field(default_factory=Counter)
    """Files by suffix that PyAV would read."""
    other: Counter[str] = field(default_factory=Counter)
    """Files by suffix that are no audio, or of a kind that cannot be read; without a suffix: by whole name."""
    closed: tuple[Path, ...] = ()
    """Folders that may not be opened."""
    broken: tuple[Path, ...] = ()
    """Links that lead nowhere."""
    loose: int = 0
    """Audio files outside any label's folder."""
    empty: tuple[Path, ...] = ()
    """Folders named by label without any file."""
    special: int = 0
    """Pipes, sockets and devices."""
    unreadable: int = 0
    """Audio files that could not be decoded; each is reported by its own error, so the text leaves them out."""

    def __add__(self, more: LeftOut) -> LeftOut:
        return LeftOut(
            self.media + more.media,
            self.other + more.other,
            self.closed + more.closed,
            self.broken + more.broken,
            self.loose + more.loose,
            self.empty + more.empty,
            self.special + more.special,
            self.unreadable + more.unreadable,
        )

    @property
    def lost(self) -> int:
        """What may well be clips: bad files, media, links that lead nowhere, and folders that may not be opened."""
        return self.unreadable + self.media.total() + len(self.broken) + len(self.closed)

    def __str__(self) -> str:
        """By kind and count, each with what to do; empty where nothing was left out."""
        parts = []
        if self.media:
            kinds = _kinds(self.media)
            parts.append(f"{kinds} (to read them: {EXTRA}, or convert them to FLAC)")
        if self.broken:
            parts.append(
                f"{_count(len(self.broken), 'broken link')}, such as {self.broken[0]} "
                "(fetch the target, as with git annex get, or remove the link)"
            )
        if self.closed:
            parts.append(
                f"{_count(len(self.closed), 'folder')} without permission, such as {self.closed[0]} (chmod u+rx)"
            )
        if self.loose:
            parts.append(f"{_count(self.loose, 'audio file')} outside the labels' folders (move each into its label's)")
        if self.empty:
            names = ", ".join(path.name for path in self.empty[:KINDS_LISTED])
            parts.append(
                f"{_count(len(self.empty), 'empty folder')} ({names}{', …' * (len(self.empty) > KINDS_LISTED)})"
            )
        if self.special:
            parts.append(f"{_count(self.special, 'pipe, socket or device')} (give a pipe by its name)")
        if self.other:
            parts.append(f"{_kinds(self.other)} (not read as audio)")
        return "; ".join(parts)


@dataclass(frozen=True)
class Search:
    """Audio files anywhere under a folder, sorted, and what was left out."""

    files: tuple[Path, ...]
    left_out: LeftOut

    def __bool__(self) -> bool:
        """Whether there was anything, taken or left out."""
        return bool(self.files or str(self.left_out))


def search_folder(folder: Path) -> Search:
    """Search a folder at any depth; hidden files and folders are no part of it.

    Linked files and folders are followed, and each folder is searched once, so links in a circle end. Files that only
    PyAV reads are found where it is installed.
    """
    suffixes = AUDIO_SUFFIXES | MEDIA_SUFFIXES if is_available() else AUDIO_SUFFIXES
    found: dict[str, list[Path]] = {"file": [], "closed": [], "broken": [], "special": []}
    for path, kind in _walk(folder):
        found[kind].append(path)
    files = sorted((path for path in found["file"] if path.suffix.lower() in suffixes), key=attrgetter("parts"))
    others = Counter(path.suffix.lower() or path.name for path in found["file"])
    media = Counter({kind: count for kind, count in others.items() if kind in MEDIA_SUFFIXES - suffixes})
    other = Counter({kind: count for kind, count in others.items() if kind not in MEDIA_SUFFIXES | suffixes})
    closed, broken = (tuple(sorted(found[kind])) for kind in ("closed", "broken"))
    return Search(tuple(files), LeftOut(media, other, closed, broken, special=len(found["special"])))


def find_audio(folder: Path) -> list[Path]:
    """Audio files anywhere under a folder, sorted; what the search leaves out is not reported."""
    return list(search_folder(folder).files)


def list_entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files right inside a folder, sorted, links followed, hidden ones left out; raises DataError."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be opened: {error.strerror}; chmod u+rx it, or choose another") from error
    folders, files = ([folder / name for name, is_folder in visible if is_folder is wanted] for wanted in (True, False))
    return folders, files


def _walk(folder: Path) -> Iterator[tuple[Path, Literal["file", "closed", "broken", "special"]]]:
    """Visible files under a folder, folders in it that may not be opened, links that lead nowhere, and pipes and such.

    Linked folders come last, so that what lies in the folder itself is found under its own name.
    """
    visited: set[tuple[int, int]] = set()
    waiting, linked = [folder], deque[Path]()
    while waiting or linked:
        current = waiting.pop() if waiting else linked.popleft()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=attrgetter("name"))
        except OSError:
            yield current, "closed"
            continue
        for entry in visible:
            path, kind = current / entry.name, _kind(entry)
            if kind == "folder":
                (linked if entry.is_symlink() else waiting).append(path)
            else:
                yield path, kind


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "broken", "special"]:
    """What an entry or its target is; pipes, sockets and devices are special."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken" if entry.is_symlink() and not Path(entry).exists() else "special"
    except OSError:  # a link to itself, or into a folder that may not be entered
        return "broken"


def _kinds(counts: Counter[str]) -> str:
    """``7 files (5 .txt, 2 .jpg)``."""
    listed = [f"{count:,} {kind}" for kind, count in counts.most_common(KINDS_LISTED)]
    if len(counts) > KINDS_LISTED:
        listed.append(f"{sum(counts.values()) - sum(count for _, count in counts.most_common(KINDS_LISTED)):,} others")
    if len(counts) == 1:
        (kind, count), *_ = counts.items()
        return f"{count:,} {kind} {'file' if count == 1 else 'files'}"
    return f"{_count(counts.total(), 'file')} ({', '.join(listed)})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
