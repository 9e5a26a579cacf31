"""``flexiast service``: listening from boot on, under systemd. Nothing is changed unless ``--apply`` is given."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from flexiast.errors import UsageError
from flexiast.files import write_atomically
from flexiast_cli.commands.config import check
from flexiast_cli.commands.service.unit import MARK, NAME, Scope, Service, unreachable
from flexiast_cli.settings.layers import user_file
from flexiast_cli.terminal.console import log

UserOption = Annotated[
    bool, typer.Option("--user/--system", help="In your own session, or for the whole machine from boot on.")
]
ApplyOption = Annotated[bool, typer.Option("--apply", help="Do it; without this option only print what would be done.")]


def install(
    context: typer.Context,
    user: UserOption = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings of `flexiast listen`.",
            show_default="/etc/flexiast/flexiast.toml, or your own file",
        ),
    ] = None,
    apply: ApplyOption = False,
) -> None:
    """Print the unit that runs `flexiast listen`, and write it with --apply."""
    scope, path = _scope(user), unit_path(_scope(user))
    service = Service(scope, Path(sys.executable), (config or _default_config(scope)).absolute())
    check(service.config, context)
    _check_reach(service)
    if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
        raise UsageError(f"{path} was not written by flexiast; move it away first")
    typer.echo(service.text(), nl=False)
    if apply:
        write_atomically(path, service.text().encode())
    log(f"{path} {'is' if apply else 'would be'} written; then:")
    for line in (*(["loginctl enable-linger"] if user else []), "daemon-reload", "enable --now flexiast"):
        log(f"  {line if line.startswith('loginctl') else _systemctl(scope, line)}")
    log(f"  {_journal(scope)}")


def uninstall(user: UserOption = False, apply: ApplyOption = False) -> None:
    """Remove the unit, once it is disabled."""
    scope, path = _scope(user), unit_path(_scope(user))
    if not path.exists():
        raise UsageError(f"{path} does not exist; nothing is installed there")
    if enabled := list(path.parent.glob(f"*.wants/{path.name}")):
        raise UsageError(f"{enabled[0]} starts it; first run: {_systemctl(scope, 'disable --now flexiast')}")
    if apply:
        path.unlink()
    log(f"{path} {'is' if apply else 'would be'} removed; then: {_systemctl(scope, 'daemon-reload')}")


def show(user: UserOption = False) -> None:
    """Print the unit that is installed."""
    path = unit_path(_scope(user))
    if not path.exists():
        raise UsageError(f"{path} does not exist; `flexiast service install` writes it")
    typer.echo(path.read_text(encoding="utf-8"), nl=False)


def unit_path(scope: Scope) -> Path:
    """Where systemd looks for an administrator's or a user's units."""
    if scope == "system":
        return Path("/etc/systemd/system") / NAME
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user" / NAME


def _scope(user: bool) -> Scope:
    return "user" if user else "system"


def _default_config(scope: Scope) -> Path:
    return Path("/etc/flexiast/flexiast.toml") if scope == "system" else user_file(os.environ)


def _check_reach(service: Service) -> None:
    """Raise UsageError where a system service may not read its Python, this package or its settings."""
    for path in (service.python, Path(__file__), service.config) if service.scope == "system" else ():
        if part := unreachable(path):
            raise UsageError(
                f"{path} lies behind {part}, which a system service may not enter; install flexiast and its settings "
                "where all may read them, such as /opt/flexiast and /etc/flexiast, or use --user"
            )


def _systemctl(scope: Scope, rest: str) -> str:
    return shlex.join(["systemctl", "--user"] if scope == "user" else ["sudo", "systemctl"]) + f" {rest}"


def _journal(scope: Scope) -> str:
    return f"journalctl {'--user ' if scope == 'user' else ''}-u flexiast -f"
