"""Passwords and tokens: from the environment or from a file that only its owner reads, never from a command line.

They are kept in pydantic's SecretStr, which no message shows by mistake.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from flexiast.errors import UsageError

MQTT = ("FLEXIAST_MQTT_USER", "FLEXIAST_MQTT_PASSWORD")
WEBHOOK = ("FLEXIAST_WEBHOOK_TOKEN", "FLEXIAST_WEBHOOK_SECRET")


def read_credentials(
    names: tuple[str, ...], file: Path | None, environment: Mapping[str, str] = os.environ
) -> tuple[SecretStr | None, ...]:
    """The named values, of lines NAME=VALUE of a file if there is one, otherwise of the environment; None for absent.

    Raises UsageError for a file that others may read, and for lines and values that cannot be used.
    """
    values = environment if file is None else _read(file, names)
    return tuple(_secret(name, values[name]) if values.get(name) else None for name in names)


def _read(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageError(f"{path} has mode {mode:04o}, so others may read it; run: chmod 600 {path}")
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the credentials in {path} cannot be read: {type(error).__name__}") from None
    values = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.partition("=")
        if not line or line.startswith("#"):
            continue
        if not equals or name not in names:
            raise UsageError(f"{path}, line {number}, cannot be used; expected NAME=VALUE with {' or '.join(names)}")
        values[name] = value
    return values


def _secret(name: str, value: str) -> SecretStr:
    if not value.isprintable():
        raise UsageError(f"{name} holds characters that cannot be printed, such as a line end; give it without")
    return SecretStr(value)
