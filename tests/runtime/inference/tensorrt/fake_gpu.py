"""A GPU in memory: the calls of CUDA and TensorRT that the runtime makes, with their rules and their traps.

Addresses are real ones of this process, so what is copied to the wrong place is wrong. A stream runs when it is
synchronised, so what is read too early is not there. A "plan" is the graph and its profiles; it is run by ONNX Runtime.
A context keeps TensorRT's rules: a new profile forgets the shapes and the scratch memory, a run needs both, and what
breaks a rule returns False.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections import Counter
from collections.abc import Callable
from enum import Enum, IntEnum
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from flexiast_runtime.inference.tensorrt.cuda import Cuda

OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700
TAKES_MS = {"to device": 0.25, "to host": 0.125, "run": 1.0}
"""Of the GPU's own time, which goes on only while it works."""
Work = Callable[[], None]


class FakeCuda:
    """libcudart and libcuda of a machine with one Orin."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, int] = {}
        """Function → error code that it returns from now on."""
        self.memory: dict[int, Any] = {}
        self.pinned: set[int] = set()
        self.streams: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.captured: list[Work] | None = None
        self.now_ms = 0.0
        self.events: dict[int, float | None] = {}
        self.devices = 1
        self.gpu, self.cuda_version = b"Orin", 12_060
        self.cudaGetErrorString = lambda code: f"reason {code.value}".encode()

    @property
    def allocated(self) -> Counter[str]:
        return Counter(name for name in self.calls if name in {"cudaMalloc", "cudaMallocHost"})

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = type(self).__dict__.get(f"_{name}")
        if function is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if code := self.failing.get(name):
                return code
            function(self, *arguments)
            return 0

        return call

    def enqueue(self, stream: int, work: Work, takes_ms: float = 0.0) -> None:
        work = partial(self._worked, work, takes_ms)
        if self.captured is not None:
            self.captured.append(work)
        else:
            self.streams[stream].append(work)

    def _worked(self, work: Work, takes_ms: float) -> None:
        work()
        self.now_ms += takes_ms

    def new(self, table: dict[int, Any], value: Any) -> int:
        handle = 1 + max((0, *self.streams, *self.graphs, *self.events))
        table[handle] = value
        return handle

    def _cudaGetDeviceCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def _cudaDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> None:
        value._obj.value = {75: 8, 76: 7}[attribute.value]

    def _cudaDriverGetVersion(self, value: Any) -> None:
        value._obj.value = self.cuda_version

    def _cuInit(self, flags: Any) -> None: ...

    def _cuDeviceGet(self, device: Any, ordinal: Any) -> None: ...

    def _cuDeviceGetName(self, name: Any, size: Any, device: Any) -> None:
        name.value = self.gpu

    def _cudaMallocHost(self, pointer: Any, size: Any) -> None:
        self._cudaMalloc(pointer, size)
        self.pinned.add(pointer._obj.value)

    def _cudaMalloc(self, pointer: Any, size: Any) -> None:
        block = (ctypes.c_ubyte * size.value)(*[0xAA] * size.value)  # never zeros by luck
        self.memory[ctypes.addressof(block)] = block
        pointer._obj.value = ctypes.addressof(block)

    def _cudaFree(self, pointer: Any) -> None:
        del self.memory[pointer.value]

    _cudaFreeHost = _cudaFree

    def _cudaStreamCreateWithFlags(self, stream: Any, flags: Any) -> None:
        stream._obj.value = self.new(self.streams, [])

    def _cudaStreamDestroy(self, stream: Any) -> None:
        assert self.streams.pop(stream.value) == [], "destroyed while work waits"

    def _cudaStreamSynchronize(self, stream: Any) -> None:
        assert self.captured is None, "a stream that is captured cannot be synchronised"
        waiting = self.streams[stream.value]
        while waiting:
            waiting.pop(0)()

    def _cudaMemcpyAsync(self, to: Any, source: Any, size: Any, kind: Any, stream: Any) -> None:
        for address in (to.value, source.value):
            assert address in self.memory, "a copy of something that was not allocated"
        assert (source.value in self.pinned, to.value in self.pinned) == {1: (True, False), 2: (False, True)}[
            kind.value
        ]
        takes_ms = TAKES_MS[{1: "to device", 2: "to host"}[kind.value]]
        self.enqueue(stream.value, lambda: ctypes.memmove(to.value, source.value, size.value) and None, takes_ms)

    def _cudaEventCreateWithFlags(self, event: Any, flags: Any) -> None:
        event._obj.value = self.new(self.events, None)

    def _cudaEventRecord(self, event: Any, stream: Any) -> None:
        assert self.captured is None, "an event in a graph cannot be asked for its time"
        self.enqueue(stream.value, lambda: self.events.update({event.value: self.now_ms}))

    def _cudaEventElapsedTime(self, milliseconds: Any, first: Any, last: Any) -> None:
        begun, ended = self.events[first.value], self.events[last.value]
        assert begun is not None, "an event that did not happen yet"
        assert ended is not None, "an event that did not happen yet"
        milliseconds._obj.value = ended - begun

    def _cudaEventDestroy(self, event: Any) -> None:
        del self.events[event.value]

    def _cudaStreamBeginCapture(self, stream: Any, mode: Any) -> None:
        self.captured = []

    def _cudaStreamEndCapture(self, stream: Any, graph: Any) -> None:
        graph._obj.value = self.new(self.graphs, self.captured)
        self.captured = None

    def _cudaGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> None:
        executable._obj.value = self.new(self.graphs, self.graphs[graph.value])

    def _cudaGraphDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]

    _cudaGraphExecDestroy = _cudaGraphDestroy

    def _cudaGraphLaunch(self, graph: Any, stream: Any) -> None:
        for work in self.graphs[graph.value]:
            self.enqueue(stream.value, work)


class FakeEngine:
    """A graph and its profiles, loaded."""

    def __init__(self, gpu: FakeGpu, plan: bytes) -> None:
        header, _, onnx = plan.partition(b"\n")
        document = json.loads(header)
        self.gpu, self.profiles = gpu, document["profiles"]
        self.session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        (self.input,), (self.output,) = self.session.get_inputs(), self.session.get_outputs()
        self.device_memory_size_v2 = 64 * max(int(np.prod(shape)) for _, shape in self.profiles)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        tensor, shape = self.profiles[index]
        assert tensor == name
        return [tuple(shape)] * 3

    def create_execution_context(self, strategy: str) -> FakeContext:
        assert strategy == "user managed"
        return FakeContext(self.gpu, self)


class FakeContext:
    """What a run needs, and whether it is there."""

    def __init__(self, gpu: FakeGpu, engine: FakeEngine) -> None:
        self.gpu, self.engine = gpu, engine
        self.profile: int | None = 0  # TensorRT's first context of an engine begins so
        self.shape: tuple[int, ...] | None = None
        self.scratch: tuple[int, int] | None = None
        self.addresses: dict[str, int] = {}
        gpu.contexts.append(self)

    def set_device_memory(self, address: int, size: int) -> None:
        self.gpu.cuda.calls.append("set_device_memory")
        self.scratch = (address, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.gpu.cuda.calls.append("set_optimization_profile_async")
        if not 0 <= index < len(self.engine.profiles):
            return self.gpu.refuse("no such profile")
        self.profile, self.shape, self.scratch = index, None, None
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.gpu.cuda.calls.append("set_input_shape")
        if self.profile is None or (name, list(shape)) != tuple(self.engine.profiles[self.profile]):
            return self.gpu.refuse(f"{name} {shape} does not fit the profile")
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.gpu.cuda.calls.append("execute_async_v3")
        if self.gpu.refusing or self.shape is None or self.scratch is None:
            return self.gpu.refuse(self.gpu.refusing or "shape or scratch memory is not set")
        if self.scratch[1] < self.engine.device_memory_size_v2:
            return self.gpu.refuse("too little scratch memory")
        self.gpu.cuda.enqueue(stream, lambda shape=self.shape: self._run(shape), TAKES_MS["run"])  # type: ignore[misc]
        return True

    def _run(self, shape: tuple[int, ...]) -> None:
        (address, size), engine = self.scratch or (0, 0), self.engine
        ctypes.memset(address, 0xFF, size)  # scratch is written over by every run
        values = np.ctypeslib.as_array(
            (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[engine.input.name])
        )
        (result,) = engine.session.run(None, {engine.input.name: values.reshape(shape)})
        ctypes.memmove(self.addresses[engine.output.name], np.ascontiguousarray(result).ctypes.data, result.nbytes)


class FakeGpu:
    """Puts itself where ``tensorrt`` and CUDA are looked for."""

    def __init__(self, version: str = "10.3.0", name: str = "tensorrt") -> None:
        self.cuda = FakeCuda()
        self.version, self.name = version, name
        self.contexts: list[FakeContext] = []
        self.loaded: list[bytes] = []
        self.builds: list[bytes] = []
        """What was measured before, of each build."""
        self.refusing = ""
        """What TensorRT says when it refuses to run, or nothing: it runs."""
        self.loads, self.always_strong = True, False
        self.takes: Callable[[Any], bool] = lambda target: True
        """Whether it builds for a target."""
        self._loggers: list[Any] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, self.name, self.module())
        monkeypatch.setattr(Cuda, "open", classmethod(lambda cls: cls(self.cuda, self.cuda)))

    def refuse(self, reason: str) -> bool:
        severity = SimpleNamespace(name="ERROR")
        self._loggers[0].log(severity, reason)  # the first for ever, as in TensorRT
        return False

    def module(self) -> ModuleType:
        module: Any = ModuleType(self.name)
        module.__version__ = self.version
        module.ILogger = type("ILogger", (), {"__init__": lambda self: None})
        module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
        flags = {"EXPLICIT_BATCH": 0} | ({} if self.always_strong else {"STRONGLY_TYPED": 1})
        module.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", flags)
        module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        if self.name == "tensorrt_rtx":
            module.ComputeCapability = Enum("ComputeCapability", {"CURRENT": 1, "SM80": 80, "SM89": 89, "SM120": 120})
        module.Runtime = self._runtime
        module.Builder = self._builder
        module.OnnxParser = self._parser
        return module

    def _runtime(self, logger: Any) -> Any:
        self._loggers.append(logger)

        def deserialize(plan: bytes) -> FakeEngine | None:
            self.loaded.append(plan)
            return FakeEngine(self, plan) if self.loads or self.refuse("a plan of something else") else None

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def _builder(self, logger: Any) -> Any:
        self._loggers.append(logger)
        profiles: list[tuple[str, list[int]]] = []

        def profile() -> Any:
            one: Any = SimpleNamespace()
            one.set_shape = lambda tensor, low, best, high: profiles.append((tensor, list(best)))
            return one

        def build(network: Any, config: Any) -> bytes:
            return json.dumps({"profiles": profiles}).encode() + b"\n" + network.onnx

        def network(flags: int) -> Any:
            assert flags == (0 if self.always_strong else 1 << 1), "a network that may change the graph's precision"
            return SimpleNamespace()

        return SimpleNamespace(
            create_network=network,
            create_builder_config=lambda: self._config(profiles),
            create_optimization_profile=profile,
            build_serialized_network=build,
        )

    def _config(self, profiles: list[Any]) -> Any:
        config: Any = SimpleNamespace(limits={}, num_compute_capabilities=0)
        config.set_compute_capability = lambda target, index: (
            index < config.num_compute_capabilities and self.takes(target)
        )
        config.add_optimization_profile = lambda profile: len(profiles) - 1
        config.set_memory_pool_limit = config.limits.__setitem__
        config.create_timing_cache = lambda content: None if content == b"of another GPU" else content

        def set_timing_cache(content: bytes, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self.builds.append(content)
            return True

        config.set_timing_cache = set_timing_cache
        config.get_timing_cache = lambda: SimpleNamespace(serialize=lambda: b"measured")
        return config

    def _parser(self, network: Any, logger: Any) -> Any:
        def parse(onnx: bytes) -> bool:
            inputs = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"]).get_inputs()
            shapes = [[-1 if isinstance(axis, str) else axis for axis in tensor.shape] for tensor in inputs]
            tensors = [SimpleNamespace(name=one.name, shape=shape) for one, shape in zip(inputs, shapes, strict=True)]
            network.onnx, network.num_inputs, network.get_input = onnx, len(tensors), tensors.__getitem__
            return True

        return SimpleNamespace(parse=parse)
