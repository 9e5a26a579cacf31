"""The JSON schema of a file of settings, from the commands' own parameters."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from flexiast_cli.settings.configurable import commands, is_configurable, settable

DRAFT = "https://json-schema.org/draft/2020-12/schema"
TYPES: dict[Any, Any] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: ["string", "number"],  # patch-sizes = 16 is as good as "16"
    Path: "string",
}


def schema_of(root: Any) -> dict[str, Any]:
    """A table for each command that can be configured, of groups nested, and nothing else."""
    whole: dict[str, Any] = {"$schema": DRAFT, "title": "flexiast.toml", **_table({})}
    for words, command in commands(root):
        if is_configurable(command):
            table = whole
            for word in words[:-1]:
                table = table["properties"].setdefault(word, _table({}))
            annotations = inspect.signature(command.callback, eval_str=True).parameters
            properties = {
                key: _value(annotations[parameter.name].annotation, parameter)
                for key, parameter in settable(command).items()
            }
            table["properties"][words[-1]] = _table(properties) | {"description": command.help}
    return whole


def _table(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _value(annotation: Any, parameter: Any) -> dict[str, Any]:
    """What one option takes, with its help and the default that the help names."""
    information: Any = None
    if get_origin(annotation) is Annotated:
        annotation, information = get_args(annotation)[:2]
    found = _type(annotation)
    for ours, theirs in (("min", "minimum"), ("max", "maximum")):
        if (limit := getattr(information, ours, None)) is not None:
            found[theirs] = limit
    default = f" (default: {parameter.show_default})" if isinstance(parameter.show_default, str) else ""
    return found | {"description": f"{parameter.help}{default}"}


def _type(annotation: Any) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        (inner,) = (one for one in arguments if one is not types.NoneType)
        return _type(inner)
    if origin in {list, tuple}:
        item = _type(arguments[0])
        return {"anyOf": [{"type": "array", "items": item}, item]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {"enum": [member.value for member in annotation]}
    return {"type": TYPES[annotation]}
