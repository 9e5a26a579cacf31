"""Sources of options besides the command line: the environment, a project's file, the user's file.

A file's tables are named after commands and its keys after their long options, so a setting is an option written down:

    [listen]
    patch-sizes = "8,16"        # flexiast listen --patch-sizes 8,16
    explain = true              # flexiast listen --explain

Values are not interpreted here: each becomes the text that the command line would hold.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flexiast.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pragma: no cover

PROJECT_FILE = "flexiast.toml"
PREFIX = "FLEXIAST_"
"""Of the variables that set something"""

SECRET_KEY = re.compile(r"(password|passwd|passphrase|secret|token|api-?key)$", re.IGNORECASE)
SECRET_VALUE = re.compile(r"://[^/@\s]*:[^/@\s]+@")
"""A URL with a password in it."""

Words = tuple[str, ...]
"""A command as it is called after `flexiast`: ("listen",) or ("engines", "build")."""
Kind = Literal["flag", "one", "several"]
"""What an option takes: true or false, one value, or as many as are given."""
Catalogue = Mapping[Words, Mapping[str, Kind]]
"""What can be set: the keys of each command."""
Value = bool | str | tuple[str, ...]


class Setting(NamedTuple):
    """One value, as the command line would have it."""

    command: Words
    key: str
    value: Value
    origin: str
    """A file, or a variable of the environment."""


Settings = Mapping[tuple[Words, str], Setting]


def user_file(environment: Mapping[str, str]) -> Path:
    """``flexiast/config.toml`` in ``$XDG_CONFIG_HOME``, else in ``~/.config``."""
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "flexiast" / "config.toml"


def files(named: Path | None, environment: Mapping[str, str], folder: Path) -> list[Path]:
    """The files in use, the weakest first: the user's, then the one named, or else the folder's own.

    FLEXIAST_CONFIG names one too, more weakly. Raises UsageError for one that was not named and that somebody else may
    have written.
    """
    if named is None and (text := environment.get("FLEXIAST_CONFIG")):
        named = Path(text)
    found = [user_file(environment), *([] if named else [folder / PROJECT_FILE])]
    unnamed = [path for path in found if os.access(path, os.F_OK)]  # another user's home cannot be listed
    for path in unnamed:
        check_owner(path, path.stat())
    return unnamed + ([named] if named else [])


def gather(
    named: Path | None, environment: Mapping[str, str], folder: Path, list_keys: Callable[[], Catalogue]
) -> Settings:
    """Each setting's strongest value; raises UsageError for a file that cannot be read or holds an unknown name.

    ``list_keys`` is called where anything may be set: it builds every command.
    """
    paths = files(named, environment, folder)
    if not paths and not any(name.startswith(PREFIX) for name in environment):
        return {}
    catalogue = list_keys()
    layers = [read(path, catalogue) for path in paths]
    layers.append(from_environment(environment, catalogue))
    return {(one.command, one.key): one for layer in layers for one in layer}


def read(path: Path, catalogue: Catalogue) -> list[Setting]:
    """A file's settings; raises UsageError, with the line for a TOML error."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; `flexiast config init` writes one") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}") from error
    try:
        return list(_settings(document, (), catalogue, str(path)))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def from_environment(environment: Mapping[str, str], catalogue: Catalogue) -> list[Setting]:
    """Settings in the variables FLEXIAST_COMMAND_OPTION; an empty one counts as unset.

    Raises UsageError for one that names a command and none of its options.
    """
    _check_names(environment, catalogue)
    return [
        Setting(command, key, _split_values(name, text) if kind == "several" else text, name)
        for command, keys in catalogue.items()
        for key, kind in keys.items()
        if (text := environment.get(name := variable(command, key)))
    ]


def variable(command: Words, key: str) -> str:
    """The environment variable of an option: ``FLEXIAST_LISTEN_PATCH_SIZES``."""
    return "_".join(("flexiast", *command, key)).replace("-", "_").upper()


def _check_names(environment: Mapping[str, str], catalogue: Catalogue) -> None:
    for command, keys in catalogue.items():
        prefix, known = variable(command, ""), {variable(command, key) for key in keys}
        for name, text in environment.items():
            if text and name.startswith(prefix) and name not in known:
                key = name.removeprefix(prefix).lower().replace("_", "-")
                raise UsageError(f"{name}: {' '.join(command)} has no option {key!r}; {_nearest(key, keys)}")


def _split_values(name: str, text: str) -> tuple[str, ...]:
    """Split a text into values as a shell would."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{name} cannot be split into values ({error}): {text}") from error


def check_owner(path: Path, status: os.stat_result) -> None:
    """Raise UsageError where another user could have put the settings."""
    if status.st_uid not in {os.geteuid(), 0} or status.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"{path} belongs to another user or may be written by everybody, so it is not used unless named; "
            f"name it with --config, or make it yours: chown $USER {path}; chmod o-w {path}"
        )


def _settings(table: Mapping[str, Any], command: Words, catalogue: Catalogue, origin: str) -> Iterator[Setting]:
    keys = catalogue.get(command, {})
    depth = len(command)
    deeper = {words[depth] for words in catalogue if words[:depth] == command and len(words) > depth}
    for name, value in table.items():
        if name in deeper and isinstance(value, dict):
            yield from _settings(value, (*command, name), catalogue, origin)
        elif name in keys:
            yield Setting(command, name, _as_given(name, value, keys[name]), origin)
        else:
            raise UsageError(_unknown(name, command, [*deeper, *keys]))


def _as_given(key: str, value: object, kind: Kind) -> Value:
    """A TOML value as the command line would hold it; raises UsageError for a password and for nested values."""
    if isinstance(value, bool) and kind == "flag":
        return value
    items = value if isinstance(value, list) and kind == "several" else [value]
    if any(isinstance(item, (dict, list, bool)) for item in items):
        expected = {"flag": "true or false", "one": 'one value, such as "8,16"', "several": "an array of values"}[kind]
        raise UsageError(f"{key} cannot be {json.dumps(value, default=str)}; expected {expected}")
    found = tuple(map(str, items))
    if SECRET_KEY.search(key) or any(map(SECRET_VALUE.search, found)):
        raise UsageError(_secret(key))
    return found if kind == "several" else found[0]


def _unknown(name: str, command: Words, known: Iterable[str]) -> str:
    if SECRET_KEY.search(name):
        return _secret(name)
    what = f"[{'.'.join(command)}] has no setting {name!r}" if command else f"there is no table [{name}]"
    return f"{what}; {_nearest(name.replace('_', '-'), known)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the most similar name, or else list all."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"


def _secret(key: str) -> str:
    return (
        f"{key} holds a password, and a file of settings is copied and shown to others; put it into the environment "
        "instead (for a service: into its EnvironmentFile, which only root reads)"
    )
