"""Builds a TensorRT plan from ONNX, with TensorRT 10.3 to 11 or TensorRT-RTX. It does not run plans.

Networks are strongly typed: each layer computes in the precision of the graph. It is the only mode of TensorRT 11 and
TensorRT-RTX, and available since 10.0.

The builder returns None when it fails, with the reason in its log only, so the log is part of every error.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args

from flexiast.errors import GpuError, MissingExtraError, ModelError, PlanError, UsageError
from flexiast_runtime.inference.tensorrt.plan_store import Flavour

FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
"""The full TensorRT (Jetson, data centre) comes first, since nobody installs it by accident."""

MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the first comes with a meta package only
}
INSTALL: dict[Flavour, str] = {
    "tensorrt": "on a Jetson: sudo apt install python3-libnvinfer, and create the virtual environment with "
    "--system-site-packages",
    "tensorrt-rtx": "on a PC with an RTX card: pip install 'flexiast[tensorrt-rtx]'",
}

OLDEST: dict[Flavour, tuple[int, int]] = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 4)}
"""That of JetPack 6.1, and the first TensorRT-RTX on PyPI"""

CURRENT = "current"
"""Target: the GPU of this machine"""
ANY = "any"
"""Target of TensorRT-RTX by default: every GPU since Ampere"""

LOG_LINES = 200
TROUBLE = {"WARNING", "ERROR", "INTERNAL_ERROR"}


@dataclass(frozen=True)
class OptimizationProfile:
    """An input and the one shape that it is tuned for (min = opt = max).

    A fixed shape lets TensorRT choose kernels for exactly that number of tokens, and reserve no memory for others.
    """

    tensor: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.tensor}={'x'.join(map(str, self.shape))}"


class TrtLog:
    """Collects TensorRT's log; one instance per module and process.

    TensorRT uses the first logger that it gets until the process ends, and ignores all later ones. So this one must not
    be replaced or freed.
    """

    def __init__(self, trt: Any) -> None:
        lines: deque[tuple[str, str]] = deque(maxlen=LOG_LINES)
        signals: list[BaseException] = []

        class Logger(trt.ILogger):  # type: ignore[misc]  # a base class that is known at run time only
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                try:
                    lines.append((severity.name, " ".join(msg.split())))
                except BaseException as signal:  # noqa: BLE001  # Ctrl-C may arrive here, and TensorRT would swallow it
                    signals.append(signal)

        self.logger, self._lines, self._signals = Logger(), lines, signals

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Clear the log, so that after the block it explains what failed in it."""
        self._lines.clear()
        self._signals.clear()
        try:
            yield
        finally:
            if self._signals:
                raise self._signals[0]

    def trouble(self) -> str:
        """The errors, or else the warnings, oldest first: the first one usually names the cause."""
        errors = [text for severity, text in self._lines if severity in TROUBLE - {"WARNING"}]
        found = errors or [text for severity, text in self._lines if severity in TROUBLE]
        return " / ".join(dict.fromkeys(found)) or "no reason was logged"


_log = functools.cache(TrtLog)


@dataclass(frozen=True)
class TensorRt:
    """An installed flavour, with its Python module and exact version."""

    flavour: Flavour
    module: Any

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def log(self) -> TrtLog:
        return _log(self.module)

    @property
    def targets(self) -> tuple[str, ...]:
        """GPUs that plans can be built for without having one, such as ``sm86``; empty for the full TensorRT."""
        known = getattr(self.module, "ComputeCapability", None)
        if known is None:
            return ()
        return (ANY, *(name.lower() for name in known.__members__ if name.startswith("SM")))

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


def find_tensorrt(flavour: Flavour | None = None) -> TensorRt:
    """The requested flavour, or the one that is installed; raises MissingExtraError with how to install it."""
    reasons = []
    for candidate in FLAVOURS if flavour is None else (flavour,):
        for module in MODULES[candidate]:
            try:
                found = TensorRt(candidate, import_module(module))
            except ModuleNotFoundError:
                continue
            except (ImportError, OSError) as error:  # installed, but a library that it needs is missing
                reasons.append(f"{module} is installed but cannot be loaded ({error})")
                continue
            if found.release >= OLDEST[candidate]:
                return found
            reasons.append(f"{found} is too old, {'.'.join(map(str, OLDEST[candidate]))} is needed")
    ways = " ; ".join(INSTALL[candidate] for candidate in FLAVOURS if flavour in {None, candidate})
    what = " and ".join(reasons) or f"{flavour or 'TensorRT'} is not installed"
    raise MissingExtraError(f"{what}; install it, {ways}")


def check_target(tensorrt: TensorRt, target: str) -> str:
    """The target in lower case; raises UsageError if this flavour cannot build for it."""
    target = target.lower()
    if target == CURRENT or target in tensorrt.targets:
        return target
    if not tensorrt.targets:
        raise UsageError(
            f"{tensorrt} builds for the GPU of this machine only, not for {target}; leave --target out, "
            "or use --flavour tensorrt-rtx"
        )
    raise UsageError(f"{tensorrt} cannot build for {target!r}; supported are {', '.join(tensorrt.targets)}")


@dataclass(frozen=True)
class BuiltPlan:
    """A new plan, and the kernel timings that the builder measured."""

    plan: bytes
    timing: bytes = b""


def build_plan(
    tensorrt: TensorRt,
    onnx: bytes,
    profiles: Sequence[OptimizationProfile],
    *,
    target: str = CURRENT,
    memory_limit_mb: int | None = None,
    timing: bytes = b"",
) -> BuiltPlan:
    """Build a graph for one GPU, tuned for each profile.

    ``timing`` is the timing cache of an earlier build on the same GPU; TensorRT-RTX has none. Raises ModelError for a
    graph that TensorRT cannot read, UsageError for an input that needs a profile and has none, GpuError if a GPU is
    needed and missing, and PlanError with TensorRT's message for everything else.
    """
    target = check_target(tensorrt, target)
    with tensorrt.log.collect():
        try:
            return _build(tensorrt, onnx, profiles, target, memory_limit_mb, timing)
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:  # what pybind11 makes of C++ exceptions
            if "factory function returned nullptr" in str(error):
                raise GpuError(f"{tensorrt} finds no GPU to build with: {tensorrt.log.trouble()}") from error
            raise PlanError(f"{tensorrt} cannot build this plan: {error}; its log: {tensorrt.log.trouble()}") from error


def _build(
    tensorrt: TensorRt,
    onnx: bytes,
    profiles: Sequence[OptimizationProfile],
    target: str,
    memory_limit_mb: int | None,
    timing: bytes,
) -> BuiltPlan:
    trt, log = tensorrt.module, tensorrt.log
    builder = trt.Builder(log.logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log.logger)
    _parse(tensorrt, parser, onnx)
    config = builder.create_builder_config()
    _add_profiles(tensorrt, builder, network, config, profiles)
    if memory_limit_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, memory_limit_mb << 20)
    measures = tensorrt.flavour == "tensorrt"
    if measures:
        _use_timing(config, timing)
    elif not _set_target(trt, config, target):
        raise PlanError(f"{tensorrt} rejects the target {target}: {log.trouble()}")
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise _explain_refusal(tensorrt, target, memory_limit_mb)
    measured = bytes(memoryview(config.get_timing_cache().serialize())) if measures else b""
    return BuiltPlan(bytes(memoryview(serialized)), measured)


def _strongly_typed(trt: Any) -> int:
    """The flag of TensorRT 10; later versions are always strongly typed and have none."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(tensorrt: TensorRt, parser: Any, onnx: bytes) -> None:
    if parser.parse(onnx):
        return
    reasons = dict.fromkeys(_parser_error(parser.get_error(index)) for index in range(parser.num_errors))
    first, *others = reasons or {tensorrt.log.trouble(): None}
    more = f" (and {len(others)} more)" if others else ""
    raise ModelError(f"{tensorrt} cannot read the graph: {first}{more}; export it again, or with another precision")


def _parser_error(error: Any) -> str:
    """Without the node's number, so that one operator in many places is reported once."""
    operator = getattr(error, "node_operator", lambda: "")()
    where = f"{operator}: " if operator else ""
    return f"{where}{error.code().name} {' '.join(error.desc().split())}"


def _add_profiles(
    tensorrt: TensorRt, builder: Any, network: Any, config: Any, profiles: Sequence[OptimizationProfile]
) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        if -1 in tuple(tensor.shape) and not any(profile.tensor == tensor.name for profile in profiles):
            raise UsageError(f"the graph's input {tensor.name!r} has dynamic axes and no profile; add one")
    for profile in profiles:
        wanted = builder.create_optimization_profile()
        wanted.set_shape(profile.tensor, profile.shape, profile.shape, profile.shape)
        if config.add_optimization_profile(wanted) < 0:
            raise PlanError(f"{tensorrt} rejects the profile {profile}: {tensorrt.log.trouble()}")


def _use_timing(config: Any, timing: bytes) -> None:
    """Use an earlier build's timings; if TensorRT rejects them, it measures again."""
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _set_target(trt: Any, config: Any, target: str) -> bool:
    if target == ANY:
        return True
    config.num_compute_capabilities = 1  # must come first: without it the next call returns False, with no other sign
    return bool(config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0))


def _explain_refusal(tensorrt: TensorRt, target: str, memory_limit_mb: int | None) -> GpuError | PlanError:
    """Why the builder returned None, with a remedy if one is known."""
    trouble = tensorrt.log.trouble()
    if target == CURRENT and "cudaError" in trouble:
        return GpuError(
            f"{tensorrt} finds no GPU to build for: {trouble}; build on the device that runs the plan"
            + (f", or name a target ({', '.join(tensorrt.targets)})" if tensorrt.targets else "")
        )
    message = f"{tensorrt} cannot build this plan for {target}: {trouble}"
    if memory_limit_mb is not None and "workspace" in trouble:
        message += f"; the limit of {memory_limit_mb} MB is too low: raise --memory-limit or leave it out"
    return PlanError(message)
