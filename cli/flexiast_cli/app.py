"""``flexiast``: its commands, and what they have in common. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from flexiast import __version__
from flexiast.errors import ExitCode, FlexiastError
from flexiast.text import printable
from flexiast_cli.command_tree import lazy_group
from flexiast_cli.examples import epilog
from flexiast_cli.settings.configurable import configurable
from flexiast_cli.settings.layers import Words
from flexiast_cli.settings.parsing import PlainCommand

EPILOG = "Exit codes: " + ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode) + "."


class Group(NamedTuple):
    """Commands that are called by a word before theirs."""

    help_text: str
    module: str
    """Where they are defined, relative to `flexiast_cli.commands`"""
    names: tuple[str, ...]
    settable: bool = True
    """Whether their options can be set in files"""
    kind: str | None = None
    """The name of the group's class in that module; None for a plain group"""


COMMANDS = (
    *("listen", "swap", "history", "classify", "record", "devices", "doctor", "profile", "simulate"),
    *("train", "learn", "import", "evaluate", "embed", "export", "calibrate", "mine", "inspect", "verify", "demo"),
)
GROUPS = {
    "review": Group(
        "Listen to events and say what each was, mark what was missed; write that for training.",
        "review.command",
        ("start", "export", "mark", "marks"),
        kind="ReviewGroup",
    ),
    "data": Group("Prepare data sets: a CSV of a published one, shards of a large one.", "data", ("manifest", "shard")),
    "engines": Group(
        "TensorRT plans of this machine: list, build, verify, prune.",
        "engines.command",
        ("list", "build", "verify", "prune"),
    ),
    "config": Group(
        "Settings files: write one, show what is set and where, check.",
        "config",
        ("init", "show", "validate", "schema"),
        settable=False,
    ),
    "service": Group(
        "Listen from boot on, under systemd: install, show or remove the unit.",
        "service.command",
        ("install", "uninstall", "show"),
        settable=False,
    ),
}


def _make_command(name: str) -> typer.Typer:
    holder = typer.Typer(add_completion=False)
    _add(holder, f"{_identifier(name)}.command", name)
    return holder


def _make_group(name: str) -> typer.Typer:
    group = GROUPS[name]
    kind: type[TyperGroup] = getattr(_import(group.module), group.kind) if group.kind else TyperGroup
    holder = typer.Typer(
        name=name, help=group.help_text, no_args_is_help=group.kind is None, cls=kind, add_completion=False
    )
    for each in group.names:
        _add(holder, group.module, each, under=(name,), settable=group.settable)
    return holder


def _add(holder: typer.Typer, module: str, name: str, *, under: Words = (), settable: bool = True) -> None:
    """Load a command, the function of its name, and add it: with error handling, settings from files and examples."""
    command = getattr(_import(module), _identifier(name))
    wrapped = _handle_errors(configurable(command) if settable else command)
    holder.command(name, cls=PlainCommand, epilog=epilog((*under, name)))(wrapped)


def _import(module: str) -> ModuleType:
    return import_module(f"flexiast_cli.commands.{module}")


def _identifier(name: str) -> str:
    """The name of a command in the code, where some words have a meaning of their own."""
    return f"{name}_" if name in {"import", "list"} else name


def _handle_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that an expected failure ends in one line on stderr and a documented exit code."""

    @functools.wraps(command)
    def handle(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            if sys.stdout is not None:  # a shell may close it
                sys.stdout.flush()
        except FlexiastError as error:
            raise _exit_with(error, error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            _abandon_stdout()
            raise typer.Exit(ExitCode.OK) from None
        except OSError as error:  # a full disk, a folder that may not be written
            _abandon_stdout()
            raise _exit_with(_describe_os_error(error), ExitCode.FAILURE) from None

    return handle


def _describe_os_error(error: OSError) -> FlexiastError:
    """Where it happened, what, and what to do; only what goes to stdout has no name of its own."""
    place = "stdout" if error.filename is None else os.fsdecode(error.filename)
    remedies = {
        errno.ENOSPC: "free some space or name another place",
        errno.EDQUOT: "free some space or name another place",
        errno.EROFS: "its file system is read-only; name another place",
        errno.EACCES: "name another place, or change its permissions",
        errno.ENOENT: "check the path",
    }
    remedy = remedies.get(error.errno or 0)
    return FlexiastError(f"{place} cannot be used: {error.strerror or error}" + (f"; {remedy}" if remedy else ""))


def _exit_with(error: Exception, code: ExitCode) -> typer.Exit:
    typer.echo(f"flexiast: {printable(str(error))}", err=True)
    return typer.Exit(code)


def _abandon_stdout() -> None:
    """Redirect stdout to nowhere, or the interpreter would flush it once more at its end, and complain."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="flexiast",
    cls=lazy_group(
        {name: functools.partial(_make_command, name) for name in COMMANDS}
        | {name: functools.partial(_make_group, name) for name in GROUPS}
    ),
    help="Sound recognition on small devices: one checkpoint, many patch sizes, switched while it listens.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"flexiast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass
