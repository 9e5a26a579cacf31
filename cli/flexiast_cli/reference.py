"""docs/reference/commands.md: every command with its arguments, options and examples, from the commands themselves.

python -m flexiast_cli.reference > docs/reference/commands.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from flexiast_cli.examples import EXAMPLES
from flexiast_cli.settings.configurable import commands, is_configurable
from flexiast_cli.settings.layers import Words

HEAD = """\
# Commands

Made by `python -m flexiast_cli.reference`; `flexiast COMMAND --help` says the same. Options marked ⚙ can also stand in
a file of settings or in the environment: [Settings](settings.md).
"""


def reference(root: Any) -> str:
    """The whole page in Markdown."""
    return "\n".join((HEAD, *(_section(words, command) for words, command in commands(root))))


def _section(words: Words, command: Any) -> str:
    name = f"flexiast {' '.join(words)}"
    lines = [f"## {name}", "", inspect.cleandoc(command.help), ""]
    lines += _table(list(_rows(command)))
    if examples := EXAMPLES.get(words):
        lines += ["```sh", *examples, "```", ""]
    return "\n".join(lines)


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    """Nothing where a command takes nothing."""
    if not rows:
        return []
    return ["| | | default |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _rows(command: Any) -> Iterator[tuple[str, str, str]]:
    """What is given, what it means, and what holds without it."""
    for parameter in command.params:
        if parameter.hidden:
            continue
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        else:
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        mark = " ⚙" if is_configurable(command) and not parameter.is_eager and not parameter.required else ""
        yield names + mark, _escape_cell(parameter.help or ""), _escape_cell(_default(parameter))


def _default(parameter: Any) -> str:
    """As the help says it; nothing where the text itself does."""
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    default = parameter.default
    if default is None or default is False or not parameter.show_default:
        return ""
    return str(default.value if isinstance(default, Enum) else default)


def _escape_cell(text: str) -> str:
    """For a cell of a table."""
    return re.sub(r"([|<>])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    from typer.main import get_command

    from flexiast_cli.app import app

    print(reference(get_command(app)), end="")
