"""The few CUDA calls needed to run a plan, through ctypes, on libraries that a driver and TensorRT install anyway.

No torch, no pycuda: a Jetson has ``libcudart`` from apt, a PC from the same wheels as TensorRT or torch. A call that
does not return 0 raises GpuError.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import GpuError

Float = NDArray[np.float32]

RUNTIME_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
WHEEL_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_runtime/lib")
"""Where pip installs the runtime of CUDA 13 and 12, under site-packages"""

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
NON_BLOCKING_STREAM = 1
CAPTURE_THIS_THREAD = 1
"""Other threads may allocate memory while this one captures a graph."""


@dataclass(frozen=True)
class Device:
    """What a plan depends on of a GPU."""

    name: str
    compute_capability: str
    """Such as ``8.7``."""
    driver: str
    """The newest CUDA that the driver supports, and the driver's own version if known."""


class Cuda:
    """The first GPU of this machine, through CUDA's runtime library."""

    def __init__(self, runtime: Any, driver: Any) -> None:
        """``runtime`` is the opened libcudart, ``driver`` libcuda; raises GpuError without a GPU."""
        self._runtime, self._driver = runtime, driver
        count = ctypes.c_int(0)
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        if count.value < 1:
            raise GpuError("there is no GPU that CUDA can use on this machine")

    @classmethod
    def open(cls) -> Cuda:
        """The GPU of this machine; raises GpuError that names what is missing."""
        driver = _first_library(("libcuda.so.1", "libcuda.so"))
        if driver is None:
            raise GpuError("there is no NVIDIA driver on this machine (libcuda.so.1 is not found)")
        runtime = _first_library((*RUNTIME_LIBRARIES, *_list_wheel_libraries()))
        if runtime is None:
            raise GpuError(
                "CUDA's runtime library (libcudart.so.12 or .13) is not found; install it with: "
                "pip install nvidia-cuda-runtime-cu12, or on a Jetson: sudo apt install cuda-cudart-12-6"
            )
        return cls(runtime, driver)

    def device(self, root: Path = Path("/")) -> Device:
        """What identifies the GPU; ``root`` holds ``sys`` and ``etc``."""
        major, minor = (
            self._number("cudaDeviceGetAttribute", ctypes.c_int(what), ctypes.c_int(0))
            for what in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR)
        )
        cuda = self._number("cudaDriverGetVersion")
        versions = [f"CUDA {cuda // 1000}.{cuda % 1000 // 10}", *_read_driver_versions(root)]
        return Device(self._name(), f"{major}.{minor}", ", ".join(versions))

    def allocate(self, size: int) -> int:
        """Address of new memory on the GPU, ``size`` bytes, aligned as TensorRT requires."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value or 0

    def free(self, address: int) -> None:
        self._call("cudaFree", ctypes.c_void_p(address))

    def host_array(self, shape: Sequence[int]) -> Float:
        """Zeros in pinned memory, which the GPU copies while the CPU continues; ``free_host`` releases it."""
        count = int(np.prod(shape))
        address = ctypes.c_void_p()
        self._call("cudaMallocHost", ctypes.byref(address), ctypes.c_size_t(4 * count))
        array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address.value or 0)).reshape(shape)
        array[...] = 0
        return array

    def free_host(self, array: Float) -> None:
        """The array must not be used afterwards."""
        self._call("cudaFreeHost", ctypes.c_void_p(array.ctypes.data))

    def create_stream(self) -> int:
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(NON_BLOCKING_STREAM))
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def copy_to_device(self, address: int, array: Float, stream: int) -> None:
        """Enqueue the copy of a pinned array, which must not change until the stream is synchronised."""
        self._copy(address, array.ctypes.data, array.nbytes, HOST_TO_DEVICE, stream)

    def copy_to_host(self, array: Float, address: int, stream: int) -> None:
        """Enqueue the copy into a pinned array, which is complete once the stream is synchronised."""
        self._copy(array.ctypes.data, address, array.nbytes, DEVICE_TO_HOST, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until everything enqueued is done; raises its errors."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def create_event(self) -> int:
        event = ctypes.c_void_p()
        self._call("cudaEventCreateWithFlags", ctypes.byref(event), ctypes.c_uint(0))
        return event.value or 0

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        """Enqueue the event, which stores the time when everything before it is done."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def measure_elapsed_s(self, first: int, last: int) -> float:
        """Seconds between two events of a synchronised stream."""
        milliseconds = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(milliseconds), ctypes.c_void_p(first), ctypes.c_void_p(last))
        return milliseconds.value / 1000

    def begin_capture(self, stream: int) -> None:
        self._call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(CAPTURE_THIS_THREAD))

    def end_capture(self, stream: int) -> int:
        """An executable graph of what was enqueued since ``begin_capture``."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:  # the same signature in CUDA 12 and 13, unlike cudaGraphInstantiate
            self._call("cudaGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cudaGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", ctypes.c_void_p(graph))

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _number(self, function: str, *arguments: Any) -> int:
        number = ctypes.c_int()
        self._call(function, ctypes.byref(number), *arguments)
        return number.value

    def _name(self) -> str:
        """From the driver: the runtime's struct with the name differs between versions."""
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        for function, arguments in (
            ("cuInit", (ctypes.c_uint(0),)),
            ("cuDeviceGet", (ctypes.byref(device), ctypes.c_int(0))),
            ("cuDeviceGetName", (name, ctypes.c_int(len(name)), device)),
        ):
            if code := getattr(self._driver, function)(*arguments):
                raise GpuError(f"the NVIDIA driver refused {function} with error {code}")
        return name.value.decode(errors="replace")

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._runtime, function)(*arguments)
        if code:
            raise GpuError(f"CUDA refused {function} with error {code}: {self._reason(code)}")

    def _reason(self, code: int) -> str:
        describe = self._runtime.cudaGetErrorString
        describe.restype = ctypes.c_char_p
        reason: bytes | None = describe(ctypes.c_int(code))
        return (reason or b"unknown").decode(errors="replace")


def _first_library(names: Sequence[str]) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _list_wheel_libraries() -> Iterator[str]:
    for path in sys.path:
        for folder in WHEEL_FOLDERS:
            yield from sorted(map(str, Path(path or ".", folder).glob("libcudart.so.*")), reverse=True)


def _read_driver_versions(root: Path) -> Iterator[str]:
    """The kernel module's version, and on a Jetson the version of L4T, which includes the driver."""
    for name, pattern in (
        ("sys/module/nvidia/version", r"^\s*([\w.-]+)\s*$"),
        ("etc/nv_tegra_release", r"(R\d+ \(release\), REVISION: [\d.]+)"),
    ):
        try:
            text = (root / name).read_text(errors="replace")
        except OSError:
            continue
        if found := re.search(pattern, text):
            yield found[1]
