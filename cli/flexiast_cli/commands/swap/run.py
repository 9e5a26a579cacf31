"""The work of `flexiast swap`: find the listener, ask it, and repeat its answer."""

from __future__ import annotations

from pathlib import Path

from flexiast.errors import ExitCode, FlexiastError, GpuError, ModelError, UsageError, VerificationError
from flexiast_cli.terminal.console import log
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.control import ask, find_processes

DESCRIBE_S = 2.0
"""Seconds that each of several listeners has to say what it runs."""

ERRORS: dict[int, type[FlexiastError]] = {
    error.exit_code: error for error in (UsageError, ModelError, VerificationError, GpuError)
}


def run(model: str | None, pid: int | None, *, back: bool) -> None:
    """Raises the listener's error, whose exit code it is, and UsageError where it is not known which one is meant."""
    if back and model is not None:
        raise UsageError("--back returns to the model that ran before; give it or a MODEL")
    request = {"action": "back" if back else "reload"}
    if model is not None:
        request = {"action": "swap", "model": _name_for_others(model)}
    answer = ask(_choose_process(pid), request)
    if (error := answer.get("error")) is not None:
        raise ERRORS.get(answer.get("code", ExitCode.FAILURE), FlexiastError)(str(error))
    log(str(answer.get("text", "")))


def _name_for_others(model: str) -> str:
    """A name that means the same in another working directory; raises ModelError for what is no bundle."""
    bundle = Bundle.open(find_bundle(model).absolute())
    return bundle.name


def _choose_process(pid: int | None) -> Path:
    found = find_processes()
    if pid is not None and pid in found:
        return found[pid]
    if not found or pid is not None:
        listener = "`flexiast listen`"
        which = f"No {listener} of yours hears" if pid is None else f"Process {pid} is not a {listener} that hears"
        others = f"; running: {', '.join(map(str, found))}" if found else ""
        raise UsageError(
            f"{which} live sound now{others}; start one, or ask as the user that runs it (sudo, for a service)"
        )
    if len(found) > 1:
        lines = "\n".join(f"  --pid {number}  {_describe(path)}" for number, path in found.items())
        raise UsageError(f"several listeners run; choose one:\n{lines}")
    return next(iter(found.values()))


def _describe(path: Path) -> str:
    try:
        return str(ask(path, {"action": "describe"}, DESCRIBE_S).get("text", ""))
    except FlexiastError as error:
        return str(error)
