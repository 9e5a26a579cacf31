"""TensorRT engines: one encoder with an optimization profile for each patch size, and a small embedder for each.

    features → embedder → tokens, which stay on the GPU → encoder → logits

All run on one stream, one after the other, so all contexts share one block of scratch memory. Everything is allocated
at load time. A switch sets the encoder's profile and shapes; ``prepare`` does so between windows, and ``run`` then only
enqueues. Engines of one bundle must be used by one thread at a time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import FlexiastError, GpuError, PlanError, UsageError
from flexiast.log import Log, log_nothing
from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.engine import Engines, Stages
from flexiast_runtime.inference.tensorrt.build import CURRENT, OptimizationProfile, TensorRt, find_tensorrt
from flexiast_runtime.inference.tensorrt.cuda import Cuda
from flexiast_runtime.inference.tensorrt.plan_store import Flavour, PlanStore
from flexiast_runtime.inference.tensorrt.plans import (
    Target,
    embedder_profile,
    encoder_profile,
    encoder_profiles,
    get_or_build,
    list_plan_requests,
    plan_precision,
)

Float = NDArray[np.float32]


def load_engines(
    bundle: Bundle,
    patches: Sequence[PatchSize] | None = None,
    precision: str | None = None,
    *,
    flavour: Flavour | None = None,
    store: PlanStore | None = None,
    memory_limit_mb: int | None = None,
    graphs: bool = False,
    log: Log = log_nothing,
) -> TrtEngines:
    """Load engines for some or all patch sizes on this machine's GPU; missing plans are built now.

    ``precision``: default fp16 if the bundle has it; ``graphs`` launches each window as one CUDA graph.
    Raises MissingExtraError, GpuError, PlanError, ModelError, VerificationError, and UsageError for what the bundle
    lacks or TensorRT cannot run.
    """
    tensorrt, manifest = find_tensorrt(flavour), bundle.manifest
    chosen = plan_precision(manifest, precision)
    variants = [manifest.variant(patch, chosen) for patch in (manifest.patches if patches is None else patches)]
    cuda = Cuda.open()
    target, store = Target(tensorrt, CURRENT, cuda.device(), memory_limit_mb), store or PlanStore.default()
    patches = [variant.patch_size for variant in variants]
    plans = [
        get_or_build(store, request, target, log=log).plan
        for request in list(list_plan_requests(bundle, patches, chosen, target))
    ]
    return build_engines(tensorrt, cuda, manifest, variants, plans, graphs=graphs)


def build_engines(
    tensorrt: TensorRt,
    cuda: Cuda,
    manifest: Manifest,
    variants: Sequence[Variant],
    plans: Sequence[bytes],
    *,
    graphs: bool = False,
) -> TrtEngines:
    """Engines from plans in the order of ``list_plan_requests``: the encoder's, then each patch size's embedder."""
    patches = tuple(dict.fromkeys(variant.patch_size for variant in variants))
    runtime = tensorrt.module.Runtime(tensorrt.log.logger)
    encoder, *embedders = (_deserialize(tensorrt, runtime, plan) for plan in plans)
    profiles = encoder_profiles(manifest, patches)
    _check_profiles(tensorrt, encoder, profiles)
    for embedder in embedders:
        _check_profiles(tensorrt, embedder, (embedder_profile(manifest),))
    pipeline = _Pipeline(tensorrt, cuda, manifest, encoder, dict(zip(patches, embedders, strict=True)), graphs=graphs)
    return TrtEngines(manifest, pipeline, variants)


class TrtEngines(Engines):
    """The engines of one bundle on one GPU."""

    def __init__(self, manifest: Manifest, pipeline: _Pipeline, variants: Sequence[Variant]) -> None:
        super().__init__(manifest, {variant.patch_size: TrtEngine(variant, pipeline) for variant in variants})
        self._pipeline = pipeline

    def prepare(self, patch: PatchSize) -> None:
        """Switch to this size, so that its next ``run`` only enqueues; raises GpuError. Called between windows."""
        self._pipeline.prepare(patch)

    def close(self) -> None:
        """Release the GPU's memory. The engines cannot be run afterwards."""
        self._pipeline.close()


@dataclass(frozen=True)
class TrtEngine:
    """One patch size of the shared encoder."""

    variant: Variant
    pipeline: _Pipeline

    def run(self, features: Float) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes], one window after the other.

        Switches to its patch size if necessary. Raises GpuError; after that, all engines of the bundle do.
        """
        return self.pipeline.run(self.variant.patch_size, features)

    @property
    def cuda_graph(self) -> bool:
        return self.pipeline.graphs

    def prepare(self) -> None:
        """Switch to this size, so that its next ``run`` only enqueues."""
        self.pipeline.prepare(self.variant.patch_size)

    def stages(self, features: Float) -> Stages:
        """Measure the stages of one window, features [1, window_frames, mels]; raises GpuError."""
        return self.pipeline.stages(self.variant.patch_size, features)


class _Pipeline:
    """Contexts, buffers and the stream that all patch sizes share."""

    def __init__(
        self,
        tensorrt: TensorRt,
        cuda: Cuda,
        manifest: Manifest,
        encoder: Any,
        embedders: Mapping[PatchSize, Any],
        *,
        graphs: bool,
    ) -> None:
        self._tensorrt, self._cuda, self._manifest, self.graphs = tensorrt, cuda, manifest, graphs
        self._profiles = encoder_profiles(manifest, tuple(embedders))
        self._prepared: PatchSize | None = None
        self._graph: int | None = None
        self._failure: str | None = None
        with ExitStack() as owned:
            self._allocate(owned, (encoder, *embedders.values()))
            self._encoder = self._context(encoder)
            self._address(self._encoder, tokens=self._tokens, logits=self._device_logits)
            self._embedders = {patch: self._embedder(engine) for patch, engine in embedders.items()}
            self.prepare(next(iter(embedders)))
            self._owned = owned.pop_all()

    def _allocate(self, owned: ExitStack, engines: Sequence[Any]) -> None:
        """Allocate what any patch size needs; ``owned`` frees it."""
        cuda, spec = self._cuda, self._manifest.spec

        def own(resource: Any, free: Callable[[Any], None]) -> Any:
            owned.callback(_release, free, resource)
            return resource

        self._stream: int = own(cuda.create_stream(), cuda.destroy_stream)
        frames, mels = spec.frontend.window_frames, spec.frontend.mel_bins
        self._features: Float = own(cuda.host_array((1, frames, mels)), cuda.free_host)
        self._logits: Float = own(cuda.host_array((1, spec.classes)), cuda.free_host)
        self._device_features: int = own(cuda.allocate(self._features.nbytes), cuda.free)
        self._device_logits: int = own(cuda.allocate(self._logits.nbytes), cuda.free)
        self._tokens: int = own(
            cuda.allocate(4 * int(np.prod(self._profiles[0].shape))), cuda.free
        )  # of the most tokens
        self._scratch_bytes = max(engine.device_memory_size_v2 for engine in engines)
        self._scratch: int = own(cuda.allocate(self._scratch_bytes), cuda.free)

    def _context(self, engine: Any) -> Any:
        """A context that uses the shared scratch memory."""
        strategy = self._tensorrt.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy)
        self._check_accepted(context is not None, "a context")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        return context

    def _embedder(self, engine: Any) -> Any:
        context, profile = self._context(engine), embedder_profile(self._manifest)
        self._check_accepted(context.set_input_shape(profile.tensor, profile.shape), f"the shape {profile}")
        self._address(context, features=self._device_features, tokens=self._tokens)
        return context

    def _address(self, context: Any, **addresses: int) -> None:
        for tensor, address in addresses.items():
            self._check_accepted(context.set_tensor_address(tensor, address), f"the address of {tensor}")

    def prepare(self, patch: PatchSize) -> None:
        with self._poison_on_error():
            if patch != self._prepared:
                self._switch(patch)

    def run(self, patch: PatchSize, features: Float) -> Float:
        expected = self._features.shape[1:]
        if features.ndim != 3 or features.shape[1:] != expected:
            raise UsageError(
                f"features {list(features.shape)} do not fit; expected [batch, {expected[0]}, {expected[1]}]"
            )
        self.prepare(patch)
        logits = np.empty((len(features), self._logits.shape[1]), np.float32)
        with self._poison_on_error():
            for index, window in enumerate(features):
                self._features[0] = window
                self._launch(patch)
                self._cuda.synchronize(self._stream)
                logits[index] = self._logits[0]
        return logits

    def stages(self, patch: PatchSize, features: Float) -> Stages:
        """Run a window as usual to time the enqueueing, then one with events between the stages, never as a graph."""
        self.prepare(patch)
        cuda, stream = self._cuda, self._stream
        with self._poison_on_error(), ExitStack() as owned:
            events = [cuda.create_event() for _ in range(4)]
            for event in events:
                owned.callback(_release, cuda.destroy_event, event)
            self._features[0] = features[0]
            started = time.perf_counter()
            self._launch(patch)
            enqueue_s = time.perf_counter() - started
            cuda.synchronize(stream)
            marks = iter(events)
            self._enqueue(patch, lambda: cuda.record(next(marks), stream))
            cuda.synchronize(stream)
            return Stages(enqueue_s, *(cuda.measure_elapsed_s(*pair) for pair in itertools.pairwise(events)))

    def close(self) -> None:
        self._failure = self._failure or "they were closed"
        self._encoder, self._embedders = None, {}  # contexts must be freed before the memory that they use
        self._drop_graph()
        self._owned.close()

    def _switch(self, patch: PatchSize) -> None:
        """Switch the encoder to a patch size.

        The order is TensorRT's: ``set_optimization_profile_async`` invalidates the input shapes, and may need another
        amount of scratch memory, so memory and shapes are set after it. It returns before the switch is done, so the
        stream is synchronised: a run must not start with the old profile.
        """
        self._prepared = None
        self._drop_graph()
        profile = encoder_profile(self._manifest, self._manifest.spec.tokens(patch))
        context, index = self._encoder, self._profiles.index(profile)
        self._check_accepted(context.set_optimization_profile_async(index, self._stream), f"the profile {profile}")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        self._check_accepted(context.set_input_shape(profile.tensor, profile.shape), f"the shape {profile}")
        self._cuda.synchronize(self._stream)
        if self.graphs:
            self._capture(patch)
        self._prepared = patch

    def _capture(self, patch: PatchSize) -> None:
        """Capture a window as a CUDA graph.

        The first run after a switch may allocate memory, which cannot be captured, so it is done before.
        """
        self._enqueue(patch)
        self._cuda.synchronize(self._stream)
        self._cuda.begin_capture(self._stream)
        self._enqueue(patch)
        self._graph = self._cuda.end_capture(self._stream)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            _release(self._cuda.destroy_graph, self._graph)
            self._graph = None

    def _launch(self, patch: PatchSize) -> None:
        if self._graph is None:
            self._enqueue(patch)
        else:
            self._cuda.launch(self._graph, self._stream)

    def _enqueue(self, patch: PatchSize, mark: Callable[[], None] = lambda: None) -> None:
        """Enqueue one window; ``mark`` is called before, between and after its stages."""
        mark()
        self._cuda.copy_to_device(self._device_features, self._features, self._stream)
        mark()
        for name, context in (("embedder", self._embedders[patch]), ("encoder", self._encoder)):
            self._check_accepted(context.execute_async_v3(self._stream), f"a run of the {name} at patch size {patch}")
        mark()
        self._cuda.copy_to_host(self._logits, self._device_logits, self._stream)
        mark()

    def _check_accepted(self, accepted: bool, what: str) -> None:
        """Raise GpuError with TensorRT's log, which alone has the reason when a call returns False."""
        if not accepted:
            raise GpuError(f"{self._tensorrt} refused {what}: {self._tensorrt.log.trouble()}")

    @contextmanager
    def _poison_on_error(self) -> Iterator[None]:
        """After a GPU error refuse all further calls: CUDA errors persist, and later results would be undefined."""
        if self._failure is not None:
            raise GpuError(f"these engines cannot be used any more ({self._failure}); load them again in a new process")
        try:
            with self._tensorrt.log.collect():
                yield
        except FlexiastError as error:
            self._failure = str(error)
            raise


def _release(free: Callable[[Any], None], resource: Any) -> None:
    """Free a resource. A GPU that failed cannot: its error was raised before, and exiting frees everything."""
    with suppress(GpuError):
        free(resource)


def _deserialize(tensorrt: TensorRt, runtime: Any, plan: bytes) -> Any:
    """Without ``get_engine_validity``, which was observed to reject plans that run."""
    with tensorrt.log.collect():
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PlanError(
                f"{tensorrt} cannot load a plan on this GPU: {tensorrt.log.trouble()}; "
                "build it again with `flexiast engines build --rebuild`"
            )
        return engine


def _check_profiles(tensorrt: TensorRt, engine: Any, profiles: Sequence[OptimizationProfile]) -> None:
    """Raise PlanError unless the engine has the profiles of its key."""
    found = [
        OptimizationProfile(profiles[0].tensor, tuple(engine.get_tensor_profile_shape(profiles[0].tensor, index)[1]))
        for index in range(engine.num_optimization_profiles)
    ]
    if found != list(profiles):
        raise PlanError(
            f"{tensorrt} loaded a plan for {', '.join(map(str, found))}, not for {', '.join(map(str, profiles))}; "
            "build it again with `flexiast engines build --rebuild`"
        )
