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


def limit_spinning() -> None:
    """Let torch's threads wait for one another by spinning for microseconds only, unless the user has said how.

    GNU's OpenMP spins for a millisecond. On two cores that other programs use as well, one thread then spins where the
    other should compute: a training step took 10 times as long and more. On free cores threads that never spin (the
    policy PASSIVE) take 1.5 to 1.9 times as long, these 1.0 to 1.2. The variable is read once, when torch is loaded.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "1000"


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
    limit_spinning()
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
