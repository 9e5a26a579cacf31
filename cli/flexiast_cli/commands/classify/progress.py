"""Counts of classified files: shown on a terminal while they run, and reported at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from threading import Event as Flag

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flexiast_cli.terminal.console import count_noun, log, stderr
from flexiast_runtime.batch.formats import Result


class Tally:
    """Counts results as they pass."""

    def __init__(self, *, fail_fast: bool) -> None:
        self.stop = Flag()
        """Set when the run is to end with the results so far."""
        self.failures: list[str] = []
        self._notices: list[str] = []
        self._fail_fast = fail_fast
        self._files = self._events = 0
        self._audio_s = 0.0

    def watch(self, results: Iterable[Result], total: int, *, shown: bool) -> Iterator[Result]:
        """Yield the results and count them; on a terminal with a progress bar, if it is to be ``shown``."""
        console, started_s = stderr(), time.monotonic()
        columns = (TextColumn("Classifying"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
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
                speed = self._audio_s / (time.monotonic() - started_s)
                done = f"{self._audio_s / 3600:,.1f} h of audio, {speed:,.0f} × real time"
                progress.update(task, advance=1, description=done)
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

    def report(self, total: int, already: int, description: str) -> None:
        """Print one line for each notice and failure, and one of totals."""
        for notice in self._notices:
            log(f"note: {notice}")
        for failure in self.failures:
            typer.echo(f"flexiast: {failure}", err=True)
        classified = self._files - len(self.failures)
        passed = f" ({already:,} there already)" if already else ""
        counts = f"{count_noun(self._events, 'event')} in {classified:,} of {count_noun(total, 'file')}{passed}"
        stderr().print(f"{counts}, {description}", style="dim", markup=False, soft_wrap=True)
