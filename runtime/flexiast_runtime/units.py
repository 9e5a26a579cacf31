"""Parses sizes and durations as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SIZES = {"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """``10MB`` → bytes; raises ValueError with the expected format."""
    return round(_parse_with_unit(text, _SIZES, "a size such as 500kB, 10MB or 2GB"))


def parse_duration(text: str) -> float:
    """``90s``, ``24h`` → seconds; raises ValueError with the expected format."""
    return _parse_with_unit(text, _SECONDS, "a time such as 1.5s, 10m, 24h or 30d")


def _parse_with_unit(text: str, units: Mapping[str, int], expected: str) -> float:
    found = re.fullmatch(rf"(\d{{1,9}}(?:\.\d{{1,9}})?)({'|'.join(units)})", text)
    if not found or not float(found[1]):
        raise ValueError(expected)
    return float(found[1]) * units[found[2]]
