"""Entry point. Loading the commands takes seconds on a small board, so Ctrl-C is handled before they are imported."""

from __future__ import annotations

import os
import sys

from flexiast_cli.loading import collect_last_garbage, leave_out_plugins, pause_collection


def limit_blas_threads() -> None:
    """Limit NumPy to one thread, in this program and its children, unless the user has set a number.

    Between two short products OpenBLAS's threads wait by spinning: on two cores `listen sounds` took eight times the
    CPU, 24 % of a core instead of 3 %, and was no faster. It reads the variable once, when NumPy is loaded. Engines and
    torch have threads of their own, which this leaves alone.
    """
    if not os.environ.keys() & {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"


def let_threads_sleep() -> None:
    """Let torch's threads sleep while they wait for one another, unless the user has said how they wait.

    They spin by default. On two cores that other programs use as well, one then spins where the other should compute: a
    forward pass took 10 times as long and more. OpenMP reads the variable once, when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def open_closed_streams() -> None:
    """Open /dev/null as each of stdin, stdout and stderr that a shell has closed (``>&-``).

    Else the first file that is opened would take its number, and what is printed would end in that file.
    """
    for handle, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
            name = ("stdin", "stdout", "stderr")[handle]
            setattr(sys, name, open(handle, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (open to the end)


def run() -> None:
    """Entry point of the console script."""
    open_closed_streams()
    limit_blas_threads()
    let_threads_sleep()
    leave_out_plugins()
    try:
        from flexiast_cli.terminal.signals import signals_as_exceptions

        with signals_as_exceptions():
            from flexiast_cli.terminal.encoding import adapt_streams

            adapt_streams()
            with pause_collection():
                from flexiast_cli.app import app

            app()
    except KeyboardInterrupt:
        from flexiast.errors import ExitCode

        raise SystemExit(ExitCode.INTERRUPTED) from None
    finally:
        collect_last_garbage()


if __name__ == "__main__":  # torchrun -m flexiast_cli.main train …
    run()
