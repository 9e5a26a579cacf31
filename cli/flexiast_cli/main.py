"""Where the program begins: the commands take a while to load on a small board, and Ctrl-C may come in it."""

from __future__ import annotations

from flexiast.errors import ExitCode


def run() -> None:
    """Entry point of the console script."""
    try:
        from flexiast_cli.app import app
        from flexiast_cli.interrupts import raise_on_sigterm

        raise_on_sigterm()
        app()
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None


if __name__ == "__main__":  # torchrun -m flexiast_cli.main train …
    run()
