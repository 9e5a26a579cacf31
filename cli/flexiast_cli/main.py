"""Where the program begins: the commands take a while to load on a small board, and Ctrl-C may come in it."""

from __future__ import annotations


def run() -> None:
    """Entry point of the console script."""
    try:
        from flexiast_cli.signals import unwinding

        with unwinding():
            from flexiast_cli.encoding import adapt_streams

            adapt_streams()
            from flexiast_cli.app import app

            app()
    except KeyboardInterrupt:
        from flexiast.errors import ExitCode

        raise SystemExit(ExitCode.INTERRUPTED) from None


if __name__ == "__main__":  # torchrun -m flexiast_cli.main train …
    run()
