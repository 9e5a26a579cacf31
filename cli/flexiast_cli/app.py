"""``flexiast``: its commands, and what they have in common. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flexiast import __version__
from flexiast.errors import ExitCode, FlexiastError
from flexiast.text import printable
from flexiast_cli.commands import config
from flexiast_cli.commands.calibrate.command import calibrate
from flexiast_cli.commands.classify.command import classify
from flexiast_cli.commands.data import manifest, shard
from flexiast_cli.commands.demo.command import demo
from flexiast_cli.commands.devices.command import devices
from flexiast_cli.commands.doctor.command import doctor
from flexiast_cli.commands.embed.command import embed
from flexiast_cli.commands.engines import command as engines
from flexiast_cli.commands.evaluate.command import evaluate
from flexiast_cli.commands.export.command import export
from flexiast_cli.commands.history.command import history
from flexiast_cli.commands.import_.command import import_
from flexiast_cli.commands.inspect.command import inspect
from flexiast_cli.commands.learn.command import learn
from flexiast_cli.commands.listen.command import listen
from flexiast_cli.commands.mine.command import mine
from flexiast_cli.commands.profile.command import profile
from flexiast_cli.commands.record.command import record
from flexiast_cli.commands.review import command as review
from flexiast_cli.commands.service import command as service
from flexiast_cli.commands.simulate.command import simulate
from flexiast_cli.commands.swap.command import swap
from flexiast_cli.commands.train.command import train
from flexiast_cli.commands.verify.command import verify
from flexiast_cli.examples import epilog
from flexiast_cli.settings.configurable import configurable
from flexiast_cli.settings.layers import Words
from flexiast_cli.settings.parsing import PlainCommand

EPILOG = "Exit codes: " + ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode) + "."

app = typer.Typer(
    name="flexiast",
    help="Sound recognition on small devices: one checkpoint, many patch sizes, switched while it listens.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def _register(group: typer.Typer, *registered: Callable[..., None], under: Words = (), settable: bool = True) -> None:
    """Add commands, named after their functions: with error handling, settings from files, and examples in the help."""
    for command in registered:
        name = command.__name__.rstrip("_")
        wrapped = _handle_errors(configurable(command) if settable else command)
        group.command(name, cls=PlainCommand, epilog=epilog((*under, name)))(wrapped)


def _group(
    name: str,
    help_text: str,
    *registered: Callable[..., None],
    settable: bool = True,
    cls: type[TyperGroup] = TyperGroup,
) -> None:
    group = typer.Typer(help=help_text, no_args_is_help=cls is TyperGroup, cls=cls)
    _register(group, *registered, under=(name,), settable=settable)
    app.add_typer(group, name=name)


_register(app, listen, swap, history, classify, record, devices, doctor, profile, simulate)
_register(app, train, learn, import_, evaluate, embed, export, calibrate, mine, inspect, verify, demo)
_group(
    "review",
    "Listen to events and say what each was, mark what was missed; write that for training.",
    review.start,
    review.export,
    review.mark,
    review.marks,
    cls=review.ReviewGroup,
)
_group("data", "Prepare data sets: a CSV of a published one, shards of a large one.", manifest, shard)
_group(
    "engines",
    "TensorRT plans of this machine: list, build, verify, prune.",
    engines.list_,
    engines.build,
    engines.verify,
    engines.prune,
)
_group(
    "config",
    "Settings files: write one, show what is set and where, check.",
    config.init,
    config.show,
    config.validate,
    config.schema,
    settable=False,
)
_group(
    "service",
    "Listen from boot on, under systemd: install, show or remove the unit.",
    service.install,
    service.uninstall,
    service.show,
    settable=False,
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
