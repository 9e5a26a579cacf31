"""The power mode that the user chose in their desktop, from power-profiles-daemon or tuned-ppd over D-Bus.

The daemon writes its choice to sysfs where the hardware has a place for it, and `machine.read_climate` reads it there;
this is for the rest. ``busctl`` is a part of systemd and needs 6 ms of CPU; ``powerprofilesctl`` starts a Python.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from flexiast.errors import DataError
from flexiast_runtime.subprocesses import output_of

NAME = "net.hadess.PowerProfiles"
"""Older and newer versions all answer to this one."""
PROPERTY = (NAME, "/net/hadess/PowerProfiles", NAME, "ActiveProfile")
TIMEOUT_S = 2.0
ASK_EVERY_S = 60.0


class PowerProfiles:
    """Asks at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._asked_s = clock, float("-inf")
        self._saver: bool | None = None

    def saver(self) -> bool | None:
        """Whether power is to be saved; None where no daemon says."""
        if self._clock() - self._asked_s >= ASK_EVERY_S:
            self._asked_s, self._saver = self._clock(), saves_power()
        return self._saver


def saves_power() -> bool | None:
    """As the daemon says now; None where there is none."""
    busctl = shutil.which("busctl")
    if busctl is None:
        return None
    ask = (busctl, "--system", "--auto-start=no", f"--timeout={TIMEOUT_S:g}", "get-property", *PROPERTY)
    try:
        answer = output_of(ask, TIMEOUT_S)  # s "power-saver"
    except DataError:
        return None  # no bus, or no daemon on it
    return "power-saver" in answer
