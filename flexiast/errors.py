"""The exception tree and the exit codes of the command line.

Every error says what was given, what was expected and what to do. Each class carries the exit code that the CLI ends
with, so a script can tell a bad file from a missing microphone without reading text.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from flexiast.text import printable


class ExitCode(IntEnum):
    """How a ``flexiast`` command ends."""

    OK = 0
    FAILURE = 1
    """Something failed while running that no other code names."""
    USAGE = 2
    """An option or value cannot be used."""
    MODEL = 3
    """A checkpoint or bundle is missing, damaged or of another kind."""
    DEVICE = 4
    """No microphone, or it cannot be opened, or it was lost and is not to be looked for."""
    VERIFICATION = 5
    """What was built or loaded is not what it claims to be: checksum, parity."""
    BUDGET = 6
    """`flexiast profile --budget-ms`: an engine takes longer than it may."""
    EXTRA = 7
    """The command needs an optional part of flexiast that is not installed."""
    DATA = 8
    """An audio file or data set cannot be read."""
    LOST = 9
    """`flexiast listen --to`: a sink did not get every record; stderr says how many and why."""
    REMOTE = 10
    """An object store cannot be reached, or refuses what was asked."""
    WORSE = 11
    """`flexiast learn`: the model that was learnt is worse than the one before, and was not published."""
    INTERRUPTED = 130
    """Ended by Ctrl-C, after everything was flushed."""
    TERMINATED = 143
    """Ended by SIGTERM before its end; `listen`, which has none of its own, ends with 0 once it has begun."""


class FlexiastError(Exception):
    """Root of every error that flexiast raises on purpose; its text is safe to print."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(FlexiastError):
    """A value was given that cannot be used."""

    exit_code = ExitCode.USAGE


class ModelError(FlexiastError):
    """A checkpoint or bundle cannot be used."""

    exit_code = ExitCode.MODEL


class DeviceError(FlexiastError):
    """An audio device cannot be used."""

    exit_code = ExitCode.DEVICE


class DeviceLostError(DeviceError):
    """An audio device stopped delivering, and whoever opened it wants no other attempt."""


class VerificationError(FlexiastError):
    """A file or an engine differs from what its manifest promises."""

    exit_code = ExitCode.VERIFICATION


class PlanError(FlexiastError):
    """A TensorRT plan cannot be built or loaded."""


class GpuError(FlexiastError):
    """There is no GPU to run on, or a call to it failed."""


class MissingExtraError(FlexiastError):
    """An optional part of flexiast is not installed."""

    exit_code = ExitCode.EXTRA


class DataError(FlexiastError):
    """Audio or a data set cannot be read."""

    exit_code = ExitCode.DATA


class LockedError(DataError):
    """Another program holds a database; worth another try."""


class ChangedError(DataError):
    """What was to be changed is no longer as the caller saw it."""


class WorseModelError(FlexiastError):
    """A model learnt, and is worse than it was."""

    exit_code = ExitCode.WORSE


class RemoteError(DataError):
    """An object store cannot be reached, or refuses what was asked."""

    exit_code = ExitCode.REMOTE


class SinkError(FlexiastError):
    """A sink cannot be opened, or refuses a record for good."""


class SinkUnavailableError(SinkError):
    """A sink does not take a record now; worth another try, others may be tried meanwhile.

    ``retry_after_s``: the receiver asks for no record at all within so many seconds.
    """

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class SinkDownError(SinkUnavailableError):
    """A sink takes nothing now, whatever the record: a full disk, a broker that cannot be reached."""
