"""The work of `flexiast review export`."""

from __future__ import annotations

import csv
import errno
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from pathlib import Path

from flexiast.errors import DataError, UsageError
from flexiast.files import TEMPORARY, check_new_output, write_atomically
from flexiast.text import preview
from flexiast_cli.commands.history.command import QueryOptions
from flexiast_cli.commands.history.query import build_query
from flexiast_cli.terminal.console import count_noun, log
from flexiast_runtime.history.clips import NAME
from flexiast_runtime.history.corrections import Correction, Corrections, read_corrections
from flexiast_runtime.history.database import default_database
from flexiast_runtime.history.verdicts import KnownBundle, find_last_bundle

COLUMNS = ("path", "start_s", "end_s", "label", "detected", "score", "source", "id", "bundle_sha256")
"""Of the CSV; `flexiast train` reads the first four."""


def run(
    database: Path | None, output: Path, options: QueryOptions, clips: Sequence[Path] | None, *, force: bool
) -> None:
    """Raises DataError where there is nothing to write."""
    if output.suffix.lower() != ".csv":
        raise UsageError(f"{output} would be no CSV for `flexiast train`; let its name end with .csv")
    check_new_output(output, force=force)
    audio = output.with_suffix("")
    if audio.exists() and not (force and audio.is_dir()):
        raise UsageError(f"{audio} exists, and the audio would go there; choose another name, or add --force")
    database = database or default_database()
    corrections = read_corrections(database, clips, build_query(options))
    if not corrections.found:
        raise DataError(_explain_nothing(database, corrections))
    _copy_audio(corrections.found, audio)
    write_atomically(output, _render(corrections.found, audio).encode())
    _remove_stale(audio, {one.path.name for one in corrections.found})
    _report(corrections, output, find_last_bundle(database))


def _explain_nothing(database: Path, corrections: Corrections) -> str:
    if corrections.missing:
        return (
            f"the clips of all {count_noun(len(corrections.missing), 'reviewed event')} in {database} are gone; name "
            "their folder with --clips, and keep them longer with --to 'clips:FOLDER#keep=30d&keep-reviewed=365d'"
        )
    return f"no event that matches has a verdict in {database}; give some with `flexiast review`"


def _copy_audio(found: Iterable[Correction], folder: Path) -> None:
    """All files or none: they lie in another folder until all are there."""
    staged = folder.with_name(f".{folder.name}{TEMPORARY}audio")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700, parents=True)
    try:
        for one in found:
            _copy(one.path, staged / one.path.name, folder)
        folder.mkdir(mode=0o700, exist_ok=True)  # what is said in a room is for its owner only
        for path in staged.iterdir():
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _copy(clip: Path, copy: Path, folder: Path) -> None:
    try:
        shutil.copyfile(clip, copy)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:  # the error names what is read
            error.filename = str(folder)
        raise


def _remove_stale(folder: Path, current: Set[str]) -> None:
    """Remove the audio of an earlier export, which no line names any more. Files with other names stay."""
    for path in folder.iterdir():
        if path.name not in current and NAME.fullmatch(path.name):
            path.unlink()


def _render(found: Iterable[Correction], audio: Path) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found:
        times = f"{one.span.start_s:.4f}", f"{one.span.end_s:.4f}"
        score = "" if one.score is None else f"{one.score:.4f}"
        more = (one.detected or "", score, one.source, one.id, one.bundle_sha256 or "")
        writer.writerow((f"{audio.name}/{one.path.name}", *times, one.label or "", *more))
    return text.getvalue()


def _report(corrections: Corrections, output: Path, latest: KnownBundle | None) -> None:
    labels = Counter(one.label for one in corrections.found if one.label is not None)
    counts = ", ".join(f"{count:,} {label}" for label, count in labels.most_common())
    log(
        f"{count_noun(len(corrections.found), 'correction')} in {output}: {len(corrections.background):,} background"
        + (f", {counts}" if counts else "")
    )
    if corrections.missing:
        gone = count_noun(len(corrections.missing), "reviewed event is", "reviewed events are")
        log(f"{gone} left out: the clip is gone or damaged")
    if not corrections.labelled:
        log(f"every verdict is background, so this is no data set of its own; train with --background {output}")
    if latest is not None and (unknown := sorted(labels.keys() - set(latest.labels))):
        log(
            f"{latest.model}, the last model that wrote this database, does not know {preview(unknown)}: "
            "these are labels of another model, or new ones"
        )
