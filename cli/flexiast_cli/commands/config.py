"""``flexiast config``: settings in files, written, shown and checked; their schema for editors."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flexiast.errors import UsageError
from flexiast.files import check_output, write_atomically
from flexiast_cli.settings.configurable import catalogue, check_setting, command_at, commands, is_configurable, settable
from flexiast_cli.settings.layers import PROJECT_FILE, Setting, Value, files, from_environment, gather, read
from flexiast_cli.settings.schema import schema_of
from flexiast_cli.terminal.console import log, print_json, stdout

HEAD = """\
# Settings of flexiast. The tables are commands, the keys their long options. The command line goes first, then
# FLEXIAST_COMMAND_OPTION in the environment, then this file, then ~/.config/flexiast/config.toml.
# `flexiast config validate` checks it, `flexiast config show --origin` shows where each value comes from.
# Passwords do not belong here."""


def init(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to write it.")] = Path(PROJECT_FILE),
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """Write a file of settings for `flexiast listen`, with everything commented out."""
    check_output(path)
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; --force writes over it")
    write_atomically(path, template(context.find_root().command).encode())
    log(f"{path} is written; take the # away before what you want to set")


def show(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Show where each value comes from.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="In place of ./flexiast.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """Show every option that is set by the environment or by a file."""
    found = gather(config, os.environ, Path(), lambda: catalogue(context.find_root().command)).values()
    if as_json:
        print_json({"settings": [one._asdict() for one in found]})
        return
    for one in found:
        where = f"  # {one.origin}" if origin else ""
        stdout().print(f"{'.'.join(one.command)}.{one.key} = {toml(one.value)}{where}", markup=False, soft_wrap=True)


def validate(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: the files that are in use.")] = None,
) -> None:
    """Check files of settings: every name must be an option, every value one that the option accepts.

    Without FILE, the variables of the environment are checked too.
    """
    found = {str(path): check(path, context) for path in ([file] if file else files(None, os.environ, Path()))}
    if file is None and (variables := from_environment(os.environ, catalogue(context.find_root().command))):
        found["environment"] = _check_all(variables, context)
    for where, settings in found.items():
        stdout().print(f"{where}: {len(settings)} settings, all can be used", markup=False, soft_wrap=True)


def schema(context: typer.Context) -> None:
    """Print the JSON schema of the file, for editors that complete and check TOML."""
    typer.echo(json.dumps(schema_of(context.find_root().command), indent=1))


def check(path: Path, context: typer.Context) -> list[Setting]:
    """A file's settings; raises UsageError that names every value that its option refuses."""
    return _check_all(read(path, catalogue(context.find_root().command)), context)


def _check_all(settings: list[Setting], context: typer.Context) -> list[Setting]:
    if bad := list(_faults(settings, context)):
        raise UsageError("\n".join(bad))
    return settings


def _faults(settings: Iterable[Setting], context: Any) -> Iterator[str]:
    """Each value that its option refuses, and why."""
    root = context.find_root().command
    for one in settings:
        command = command_at(root, one.command)
        try:
            check_setting(one, settable(command)[one.key], type(context)(command, info_name=one.command[-1]))
        except typer.BadParameter as error:
            yield error.format_message()


def template(root: Any) -> str:
    """The commented file: every setting of `listen` with its help."""
    tables = [f"[{'.'.join(words)}]" for words, command in commands(root) if is_configurable(command)]
    lines = [HEAD, *textwrap.wrap(f"Tables: {', '.join(tables)}.", 118, initial_indent="# ", subsequent_indent="# ")]
    lines += ["", "[listen]"]
    for key, described in schema_of(root)["properties"]["listen"]["properties"].items():
        lines += [f"# {described['description']}", f"#{key} = {_example(described)}", ""]
    return "\n".join(lines).strip() + "\n"


def _example(described: Mapping[str, Any]) -> str:
    """An example value of the type that the schema describes."""
    if "enum" in described:
        return toml(described["enum"][0])
    if "anyOf" in described:
        return "[]"
    return {"boolean": "true", "number": "1.0", "integer": "1"}.get(str(described["type"]), '""')


def toml(value: Value) -> str:
    """A value in TOML. JSON serves: its strings, booleans and arrays of strings are TOML too."""
    return json.dumps(value, ensure_ascii=False)
