"""The exception tree and the exit codes of the command line.

Every error says what was given, what was expected and what to do. Each class carries the exit code that the CLI ends
with, so a script can tell a bad file from a missing microphone without reading text.
"""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from typing import ClassVar


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
    INTERRUPTED = 130
    """Ended by Ctrl-C, after everything was flushed."""
    TERMINATED = 143
    """Ended by SIGTERM before its end; `listen`, which has none of its own, ends with 0 once it has begun."""


CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of what steers a terminal or reader, or cannot be shown."""
JOINERS = frozenset("\u200c\u200d")
"""ZWNJ and ZWJ: between two characters they belong to how these are written, in Persian, Hindi and emoji."""


def has_controls(text: str) -> bool:
    """Whether it holds characters that `printable` would write out, or line ends."""
    return "\n" in text or printable(text) != text


def printable(text: str) -> str:
    """The text with control characters written out, so that a path or label cannot steer a terminal; line ends stay.

    A joiner inside a word stays too. Alone, doubled, at an end or in plain ASCII it only makes two texts look the same.
    """
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in CONTROLS or _joins(text, place)
        else repr(character)[1:-1]
        for place, character in enumerate(text)
    )


def _joins(text: str, place: int) -> bool:
    beside = text[place - 1 : place] + text[place + 1 : place + 2]  # empty before the first
    return text[place] in JOINERS and len(beside) == 2 and not beside.isascii() and all(map(_is_written, beside))


def _is_written(character: str) -> bool:
    """A letter, mark, digit or symbol."""
    return unicodedata.category(character)[0] in "LMNS"


def printable_line(text: str) -> str:
    """Printable text whose line ends are written out too."""
    return printable(text).replace("\n", "\\n")


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
