"""What came of many files so far: told while they run on a terminal, and at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from threading import Event as Flag
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flexiast_runtime.batch.formats import Result


class Tally:
    """Counts results as they pass by."""

    def __init__(self, *, fail_fast: bool) -> None:
        self.stop = Flag()
        """Set when the run is to end with what it has"""
        self.failures: list[str] = []
        self._notices: list[str] = []
        self._fail_fast = fail_fast
        self._files = self._events = 0
        self._audio_s = 0.0

    def watch(self, results: Iterable[Result], total: int, *, shown: bool) -> Iterator[Result]:
        """The results as they are, counted; on a terminal with a progress bar, if it is to be ``shown``."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from flexiast_cli.terminal.console import stderr

        console, begun_s = stderr(), time.monotonic()
        columns = (TextColumn("Listening"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # data on stdout stays there
            disable=not (shown and console.is_terminal),
        ) as progress:
            task = progress.add_task("", total=total)
            for result in results:
                self._count(result)
                speed = self._audio_s / (time.monotonic() - begun_s)
                heard = f"{self._audio_s / 3600:,.1f} h of audio, {speed:,.0f} × real time"
                progress.update(task, advance=1, description=heard)
                yield result
                if self._fail_fast and self.failures:
                    return

    def _count(self, result: Result) -> None:
        self._files += 1
        self._events += len(result.events)
        self._audio_s += result.audio_s
        self._notices += result.notices
        if result.error is not None:
            self.failures.append(result.error)

    def report(self, total: int, already: int, made_by: str) -> None:
        """One line for people, and one for whatever is wrong with a file."""
        from flexiast_cli.terminal.console import count_noun, say, stderr

        heard = self._files - len(self.failures)
        passed = f" ({already:,} there already)" if already else ""
        note = f"{count_noun(self._events, 'event')} in {heard:,} of {count_noun(total, 'file')}{passed}, {made_by}"
        stderr().print(note, style="dim", markup=False, soft_wrap=True)
        for notice in self._notices:
            say(f"note: {notice}")
        for failure in self.failures:
            typer.echo(f"flexiast: {failure}", err=True)
