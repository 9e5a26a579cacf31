"""Whether a place that holds results was made as this run would make them."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping

from flexiast.errors import UsageError

ABSENT = {"channel": "all channels mixed", "recordings cut short": "recordings cut short refused"}
"""What it means that a setting is not stored: its default, in words"""


def check_same_run(place: object, before: Mapping[str, str], now: Mapping[str, str], remedy: str) -> None:
    """Raise UsageError, with ``remedy`` at its end, where two runs' settings differ."""
    changes = [_describe(key, before, now) for key in {**before, **now} if before.get(key) != now.get(key)]
    if changes:
        raise UsageError(f"{place} holds results made with {', '.join(changes)}; {remedy}")


def _describe(key: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if key in before and key in now:
        first, second = _parse(before[key]), _parse(now[key])
        if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
            names = [name for name in first if first[name] != second[name]]
            return ", ".join(f"{name} {first[name]} instead of {second[name]}".replace("_", " ") for name in names)
        return f"{key} {before[key]} instead of {now[key]}"
    first, second = (f"{key} {one[key]}" if key in one else ABSENT.get(key, f"no {key}") for one in (before, now))
    return f"{first} instead of {second}"


def _parse(value: str) -> object:
    """What a setting stands for that was stored as Python writes it, such as the rules of events."""
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError):
        return value
