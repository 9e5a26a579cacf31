"""Checks of options' values. They run before the command does, so settings files and the environment pass them too.

What a check needs beyond plain numbers is imported inside it: `--help` loads this module and checks nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeVar

import typer

from flexiast.errors import UsageError
from flexiast_runtime.units import parse_duration, parse_size

T = TypeVar("T")

MAX_WORKERS = 16
"""Processes; on a machine with more cores, as many as cores."""
DEFAULT_HOST = "127.0.0.1"


def validate_with(check: Callable[[T], object]) -> Callable[[typer.CallbackParam, T | None], T | None]:
    """Return an option's callback that passes the value on, or raises BadParameter if ``check`` raises UsageError."""

    def callback(parameter: typer.CallbackParam, value: T | None) -> T | None:
        try:
            if value is not None:
                check(value)
        except UsageError as error:  # click names the option
            message = str(error).removeprefix(f"{parameter.opts[0]} ")
            raise typer.BadParameter(message) from None
        return value

    return callback


def _positive(value: float) -> None:
    if not 0 < value < math.inf:
        raise UsageError(f"{value:g} cannot be used; give a number above 0")


def _not_negative(value: float) -> None:
    if not 0 <= value < math.inf:
        raise UsageError(f"{value:g} cannot be used; give 0 or more seconds")


def _share(value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{value:g} cannot be used; give a share from 0 to 1, such as 0.8")


def _percent(value: float) -> None:
    if not 0 <= value <= 100:
        raise UsageError(f"{value:g} cannot be used; give a percentage from 0 to 100")


def _workers(count: int) -> None:
    if count > (most := max(MAX_WORKERS, os.cpu_count() or 1)):
        raise UsageError(f"{count} is more than {most}; give as many as there are free cores")


def _sizes(text: str) -> None:
    from flexiast.spec import parse_patches

    parse_patches(text)


def _size(text: str) -> None:
    try:
        parse_size(text)
    except ValueError as error:
        raise UsageError(f"{text!r} cannot be read; give {error}") from None


def _duration(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{text!r} cannot be read; give {error}") from None


def _sinks(texts: Sequence[str]) -> None:
    if texts:  # which needs pydantic
        from flexiast_runtime.sinks.parse import parse_sinks

        parse_sinks(texts)


def _public_urls(texts: Sequence[str]) -> None:
    from flexiast_cli.web.guard import PublicUrl

    for text in texts:
        PublicUrl.parse(text)


def _power_source(text: str) -> None:
    from flexiast_runtime.hardware.power_source import parse_power_source

    parse_power_source(text)


def parse_channel(text: str) -> int | Literal["each"]:
    """``2`` → 2; raises UsageError."""
    if text == "each":
        return "each"
    if not re.fullmatch(r"0*[1-9]\d{0,3}", text):
        raise UsageError(f"--channel {text!r} cannot be used; give a channel, counted from 1, or each")
    return int(text)


def _check_until(text: str) -> None:
    seconds_until(text, datetime.now())


def parse_address(text: str) -> tuple[str, int]:
    """``[HOST:]PORT`` → host and port; raises UsageError."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"\d{1,5}", port) or int(port) > 65_535:
        raise UsageError(f"--web {text!r} cannot be used; give [HOST:]PORT, such as 8642 or 0.0.0.0:8642")
    return host.removeprefix("[").removesuffix("]") or DEFAULT_HOST, int(port)


def seconds_until(text: str, now: datetime) -> float:
    """``2h`` → 7200; ``18:00`` → seconds to the next time that the clock shows it. Raises UsageError."""
    clock = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text)
    if clock is None:
        try:
            return parse_duration(text)
        except ValueError:
            raise UsageError(f"--until {text!r} cannot be read; write a time of day as 18:00, or 90m, 2h, 1d") from None
    then = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
    return (then if then > now else then + timedelta(days=1)).timestamp() - now.timestamp()


positive = validate_with(_positive)
not_negative = validate_with(_not_negative)
share = validate_with(_share)
percent = validate_with(_percent)
worker_count = validate_with(_workers)
named_sizes = validate_with(_sizes)
size_text = validate_with(_size)
duration_text = validate_with(_duration)
known_sinks = validate_with(_sinks)
named_channel = validate_with(parse_channel)
web_address = validate_with(parse_address)
public_urls = validate_with(_public_urls)
power_source_line = validate_with(_power_source)
time_to_last = validate_with(_check_until)
