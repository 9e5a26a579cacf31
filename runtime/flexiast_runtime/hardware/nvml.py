"""Power, energy, temperature and clocks of a discrete NVIDIA GPU, from NVML, which comes with the driver.

Through ctypes, as in cuda.py: eight functions whose names carry their version and do not change, so a package
(nvidia-ml-py) would only add a dependency. NVML does not report the power of a Jetson's GPU; the rails do.
Source: NVML API reference, nvmlDeviceQueries.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
TEMPERATURE_OF_GPU = 0
CLOCKS = {"gpu": 1, "gpu memory": 2}
"""NVML's numbers of the multiprocessors' clock and of the memory's."""
HEAT = {0x08: "hardware slow-down", 0x20: "heat", 0x40: "heat, by hardware", 0x80: "power brake"}
LIMITS = {0x04: "power limit"} | HEAT
"""Bits of the reasons for reduced clocks. A card at its power limit is not hot."""


@dataclass(frozen=True)
class GpuReading:
    """Current readings of a GPU; None, or left out, where it has none."""

    watts: float | None
    temperature_c: float | None
    clocks_mhz: dict[str, float]
    limits: tuple[str, ...] | None
    """Reasons for reduced clocks"""
    hot: bool | None
    """Whether one of them is heat, or the power brake of a server"""


class Gpu:
    """The first GPU of NVML's list."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle
        name = ctypes.create_string_buffer(96)
        known = library.nvmlDeviceGetName(handle, name, ctypes.c_uint(len(name))) == 0
        self.name = f"GPU alone: {name.value.decode(errors='replace') if known else 'NVIDIA'} (NVML)"

    @classmethod
    def open(cls, library: str = LIBRARY) -> Gpu | None:
        """The GPU; None if there is no driver or no GPU responds."""
        try:
            nvml, handle = ctypes.CDLL(library), ctypes.c_void_p()
        except OSError:
            return None
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(handle)):
            return None
        return cls(nvml, handle)

    def watts(self) -> float | None:
        """Current power; on newer cards the mean over one second."""
        return self._read_scaled("nvmlDeviceGetPowerUsage", ctypes.c_uint(), 1e-3)

    def joules(self) -> float | None:
        """Energy since the driver was loaded; None on older cards."""
        return self._read_scaled("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong(), 1e-3)

    def read(self) -> GpuReading:
        """All current readings."""
        temperature = self._number("nvmlDeviceGetTemperature", ctypes.c_uint(), ctypes.c_int(TEMPERATURE_OF_GPU))
        clocks = {
            name: self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(), ctypes.c_int(which))
            for name, which in CLOCKS.items()
        }
        reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())
        return GpuReading(
            watts=self.watts(),
            temperature_c=None if temperature is None else float(temperature),
            clocks_mhz={name: float(clock) for name, clock in clocks.items() if clock is not None},
            limits=None if reasons is None else tuple(reason for bit, reason in LIMITS.items() if reasons & bit),
            hot=None if reasons is None else any(reasons & bit for bit in HEAT),
        )

    def _read_scaled(self, function: str, value: Any, unit: float) -> float | None:
        number = self._number(function, value)
        return None if number is None else number * unit

    def _number(self, function: str, value: Any, *arguments: Any) -> int | None:
        """Call the function with ``value`` as output; None if this GPU or driver does not support it."""
        call = getattr(self._library, function, None)
        if call is None or call(self._handle, *arguments, ctypes.byref(value)):
            return None
        return int(value.value)
