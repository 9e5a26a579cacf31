"""A command run for each event, without a shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from flexiast.errors import SinkError, UsageError
from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.sinks.credentials import MQTT, WEBHOOK
from flexiast_runtime.sinks.sink import RunContext
from flexiast_runtime.sinks.template import check_template, event_fields
from flexiast_runtime.subprocesses import end_group

TIMEOUT_S = 10.0
_STDERR_TAIL = 200
"""Last bytes of a failed command's stderr that are reported."""


class Command:
    """Runs a program with the event as JSON on stdin and its fields as FLEXIAST_LABEL, FLEXIAST_SCORE, ….

    Arguments may hold `$label` and the other fields. One that fails or exceeds its time is not run again.
    """

    def __init__(self, argv: Sequence[str], *, name: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.name = name or f"exec:{argv[0]}"
        self._program, self._timeout_s = argv[0], timeout_s
        self._arguments = [check_template(argument, f"argument {argument!r}") for argument in argv[1:]]

    def open(self, context: RunContext) -> None:
        if shutil.which(self._program) is None:
            raise UsageError(f"{self._program!r} is no program that can be run; give its path, and chmod +x it")

    def wants(self, record: Record) -> bool:
        return isinstance(record, Event)

    def deliver(self, event: Event) -> None:
        values = event_fields(event)
        argv = [self._program, *(argument.substitute(values) for argument in self._arguments)]
        environment = {name: value for name, value in os.environ.items() if name not in MQTT + WEBHOOK}
        environment |= {f"FLEXIAST_{name.upper()}": value for name, value in values.items()}
        with tempfile.TemporaryFile() as stderr:
            code = self._run(argv, environment, f"{json.dumps(event.document())}\n".encode(), stderr.fileno())
            if code:
                raise SinkError(f"it ended with {code}: {_last_stderr_line(stderr.fileno())}")

    def close(self) -> None:
        """Each event has its own process."""

    def _run(self, argv: list[str], environment: dict[str, str], stdin: bytes, stderr: int) -> int:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # a group of its own, which can be ended as a whole
            )
        except OSError as error:
            raise SinkError(f"it cannot be started: {error.strerror}") from error
        with process:
            try:
                process.communicate(stdin, timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                raise SinkError(f"it took more than {self._timeout_s:g} s and was ended") from None
            finally:
                end_group(process)
        return process.returncode


def _last_stderr_line(handle: int) -> str:
    end = os.fstat(handle).st_size
    lines = os.pread(handle, _STDERR_TAIL, max(0, end - _STDERR_TAIL)).decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "nothing on stderr")
