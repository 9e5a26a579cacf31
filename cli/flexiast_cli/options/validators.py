"""What an option takes, checked before its command runs, so that files and the environment are checked by it too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import typer

T = TypeVar("T")

MOST_WORKERS = 16
"""Processes, where there are not more cores than that."""


def validate_with(check: Callable[[T], object]) -> Callable[[typer.CallbackParam, T | None], T | None]:
    """An option's callback: what was given, if ``check`` raises no UsageError for it."""

    def callback(parameter: typer.CallbackParam, value: T | None) -> T | None:
        from flexiast.errors import UsageError

        try:
            if value is not None:
                check(value)
        except UsageError as error:  # click names the option
            message = str(error).removeprefix(f"{parameter.opts[0]} ")
            raise typer.BadParameter(message) from None
        return value

    return callback


def _positive(value: float) -> None:
    from flexiast.errors import UsageError

    if not 0 < value < math.inf:
        raise UsageError(f"{value:g} cannot be used; give a number above 0")


def _not_negative(value: float) -> None:
    from flexiast.errors import UsageError

    if not 0 <= value < math.inf:
        raise UsageError(f"{value:g} cannot be used; give 0 or more seconds")


def _share(value: float) -> None:
    from flexiast.errors import UsageError

    if not 0 <= value <= 1:
        raise UsageError(f"{value:g} cannot be used; give a share from 0 to 1, such as 0.8")


def _percent(value: float) -> None:
    from flexiast.errors import UsageError

    if not 0 <= value <= 100:
        raise UsageError(f"{value:g} cannot be used; give a percentage from 0 to 100")


def _workers(count: int) -> None:
    import os

    from flexiast.errors import UsageError

    if count > (most := max(MOST_WORKERS, os.cpu_count() or 1)):
        raise UsageError(f"{count} is more than {most}; give as many as there are free cores")


def _sizes(text: str) -> None:
    from flexiast.spec import parse_patches

    parse_patches(text)


def _sinks(texts: Sequence[str]) -> None:
    if texts:  # which needs pydantic
        from flexiast_runtime.sinks.parse import parse_sinks

        parse_sinks(texts)


def _address(text: str) -> None:
    from flexiast_cli.web.server import parse_address

    parse_address(text)


def _public_urls(texts: Sequence[str]) -> None:
    from flexiast_cli.web.guard import PublicUrl

    for text in texts:
        PublicUrl.parse(text)


def _power_source(text: str) -> None:
    from flexiast_runtime.hardware.power_source import parse_power_source

    parse_power_source(text)


def _check_until(text: str) -> None:
    from flexiast_cli.options.policy import seconds_until

    seconds_until(text, datetime.now())


positive = validate_with(_positive)
not_negative = validate_with(_not_negative)
share = validate_with(_share)
percent = validate_with(_percent)
worker_count = validate_with(_workers)
named_sizes = validate_with(_sizes)
known_sinks = validate_with(_sinks)
web_address = validate_with(_address)
public_urls = validate_with(_public_urls)
power_source_line = validate_with(_power_source)
time_to_last = validate_with(_check_until)
