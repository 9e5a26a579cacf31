"""The power mode chosen in the desktop, from power-profiles-daemon or tuned-ppd over D-Bus.

The daemon writes the mode to sysfs if the hardware supports it, and `machine.read_climate` reads it there; this module
is for other hardware. ``busctl`` is part of systemd and needs 6 ms of CPU; ``powerprofilesctl`` starts a Python.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from flexiast.errors import DataError
from flexiast_runtime.subprocesses import output_of

NAME = "net.hadess.PowerProfiles"
"""The name that older and newer versions of the daemon share."""
PROPERTY = (NAME, "/net/hadess/PowerProfiles", NAME, "ActiveProfile")
TIMEOUT_S = 2.0
QUERY_EVERY_S = 60.0
"""A query starts a process, and a mode that is chosen by hand may take a minute to apply."""


class PowerProfiles:
    """Queries the daemon at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._queried_s = clock, float("-inf")
        self._saver: bool | None = None

    def saver(self) -> bool | None:
        """Whether to save power; None without a daemon."""
        if self._clock() - self._queried_s >= QUERY_EVERY_S:
            self._queried_s, self._saver = self._clock(), query_power_saver()
        return self._saver


def query_power_saver() -> bool | None:
    """Ask the daemon whether to save power; None without a daemon."""
    busctl = shutil.which("busctl")
    if busctl is None:
        return None
    command = (busctl, "--system", "--auto-start=no", f"--timeout={TIMEOUT_S:g}", "get-property", *PROPERTY)
    try:
        answer = output_of(command, TIMEOUT_S)  # s "power-saver"
    except DataError:
        return None  # no bus, or no daemon on it
    return "power-saver" in answer
