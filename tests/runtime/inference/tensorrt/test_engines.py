"""TensorRT: real plans of TensorRT-RTX, built without a GPU; runs and switches on a GPU in memory."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint
from flexiast.errors import (
    ExitCode,
    FlexiastError,
    GpuError,
    MissingExtraError,
    ModelError,
    PlanError,
    UsageError,
    VerificationError,
)
from flexiast.evaluation.evaluate import Classifier
from flexiast.frontend import Frontend
from flexiast.manifest import Encoder, Manifest
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference import ort
from flexiast_runtime.inference.backends import Backend, precisions_of
from flexiast_runtime.inference.engine import StagedEngine
from flexiast_runtime.inference.selfcheck import golden_errors
from flexiast_runtime.inference.tensorrt import cuda
from flexiast_runtime.inference.tensorrt import engines as tensorrt_engines
from flexiast_runtime.inference.tensorrt.build import OptimizationProfile, TensorRt, TrtLog, build_plan, find_tensorrt
from flexiast_runtime.inference.tensorrt.cuda import Cuda
from flexiast_runtime.inference.tensorrt.plan_store import PlanStore
from flexiast_runtime.inference.tensorrt.plans import (
    Target,
    check_usable,
    encoder_profiles,
    get_or_build,
    list_cached_plans,
    list_plan_requests,
    plan_precision,
)
from flexiast_runtime.profiling.measure import STAGED_RUNS, measure
from flexiast_runtime.profiling.profiler import profile_bundle, profile_key, warnings
from flexiast_runtime.profiling.profiles import GpuTimes
from scripts import gpu_plans
from tests.conftest import TINY_PATCHES
from tests.runtime.inference.tensorrt.fake_gpu import ILLEGAL_ADDRESS, OUT_OF_MEMORY, FakeGpu

Float = NDArray[np.float32]
TARGETS = ("any", "sm80", "sm86", "sm89", "sm120")


def noise(spec: Spec, batch: int) -> Float:
    shape = (batch, spec.frontend.window_frames, spec.frontend.mel_bins)
    return np.random.default_rng(batch).normal(size=shape).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path / "plans")


# -------------------------------------------------------------------------------------------- real plans, without a GPU


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has wheels for Linux on x86-64 only")
    return find_tensorrt("tensorrt-rtx")


@pytest.fixture(scope="module")
def precise_bundle(
    tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The tiny checkpoint in every precision."""
    from flexiast_export.to_onnx import export_onnx

    folder = tmp_path_factory.mktemp("precise") / "bundle"
    export_onnx(
        tiny_checkpoint,
        tiny_source,
        TINY_PATCHES[:2],
        folder,
        precisions=("fp32", "fp16", "int8", "int8-static"),
        calibration=np.stack([Frontend(tiny_checkpoint.spec.frontend).window(np.zeros(6_400, np.float32) + 0.1)] * 2),
        max_drop=100.0,
    )
    return Bundle.open(folder)


def encoder_of(bundle: Bundle, precision: str = "fp32") -> bytes:
    return bundle.read(bundle.manifest.encoders[precision].file)  # type: ignore[index]


@pytest.fixture(scope="module")
def built(rtx: TensorRt, tiny_bundle: Path) -> bytes:
    """The encoder's plan with a profile for each patch size."""
    bundle = Bundle.open(tiny_bundle)
    return build_plan(rtx, encoder_of(bundle), encoder_profiles(bundle.manifest, TINY_PATCHES), target="sm86").plan


def test_a_plan_is_the_same_to_the_byte_when_built_again(rtx: TensorRt, tiny_bundle: Path, built: bytes) -> None:
    bundle = Bundle.open(tiny_bundle)
    again = build_plan(rtx, encoder_of(bundle), encoder_profiles(bundle.manifest, TINY_PATCHES), target="sm86").plan
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(built).hexdigest()


def test_a_plan_holds_the_weights_once_for_all_profiles(
    tiny_bundle: Path, tiny_checkpoint: Checkpoint, built: bytes
) -> None:
    """Searched for, since without a GPU no plan can be loaded; TensorRT may turn a matrix over."""
    assert len(encoder_profiles(Bundle.open(tiny_bundle).manifest, TINY_PATCHES)) == 4
    matrices = [
        tiny_checkpoint.weights[f"blocks.{block}.{name}.weight"] for block in (0, 1) for name in ("expand", "contract")
    ]
    for matrix in matrices:
        assert built.count(matrix.tobytes()) + built.count(np.ascontiguousarray(matrix.T).tobytes()) == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-static"])
def test_every_precision_is_built_for_every_gpu(
    rtx: TensorRt, precise_bundle: Bundle, target: str, precision: str
) -> None:
    profiles = encoder_profiles(precise_bundle.manifest, precise_bundle.manifest.patches[:1])
    plan = build_plan(rtx, encoder_of(precise_bundle, precision), profiles, target=target).plan
    assert len(plan) > 10_000
    assert plan[1:4] == b"trt"


def test_the_plans_of_a_bundle_are_built_once(rtx: TensorRt, tiny_bundle: Path, store: PlanStore) -> None:
    bundle, place, said = Bundle.open(tiny_bundle), Target.resolve(rtx, "sm86"), []
    wanted = list(list_plan_requests(bundle, TINY_PATCHES[:2], "fp32", place))
    assert [one.file for one in wanted] == ["encoder.onnx", "embed-8x8.onnx", "embed-12x12.onnx"]
    first = [get_or_build(store, one, place, log=said.append) for one in wanted]
    second = [get_or_build(store, one, place, log=said.append) for one in wanted]
    assert [one.fresh for one in first + second] == [True] * 3 + [False] * 3
    assert [(one.entry, one.plan) for one in first] == [(one.entry, one.plan) for one in second]
    assert len(said) == 3
    assert said[0] == f"encoder.onnx: building for sm86 by {rtx}, tuned for tokens=1x21x16, tokens=1x13x16"
    rebuilt = get_or_build(store, wanted[0], place, rebuild=True)
    assert (rebuilt.fresh, rebuilt.plan) == (True, first[0].plan)


def test_all_precisions_share_the_plans_of_the_embedders(rtx: TensorRt, precise_bundle: Bundle) -> None:
    place, patches = Target.resolve(rtx, "sm86"), precise_bundle.manifest.patches
    plain, half = (
        [one.key for one in list_plan_requests(precise_bundle, patches, precision, place)]
        for precision in ("fp32", "fp16")
    )
    assert plain[0].digest != half[0].digest
    assert plain[1:] == half[1:]


def test_no_machine_takes_a_plan_that_was_built_for_a_target(rtx: TensorRt, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    (target, *_), (here, *_) = (
        list_plan_requests(bundle, TINY_PATCHES, "fp32", place)
        for place in (Target.resolve(rtx, "sm86"), Target(rtx, device=cuda.Device("RTX A2000", "8.6", "CUDA 12.9")))
    )
    assert target.key.slot == here.key.slot
    assert target.key.digest != here.key.digest


# --------------------------------------------------------------------------------------------- how a build can go wrong


def refused(rtx: TensorRt, error: type[FlexiastError], match: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(error, match=match) as caught:
        build_plan(rtx, *arguments, **{"target": "sm86"} | options)
    assert "\n" not in str(caught.value)
    assert caught.type is error


PROFILE = OptimizationProfile("tokens", (1, 21, 16))


def test_what_is_no_graph_is_a_model_error(rtx: TensorRt, tiny_bundle: Path) -> None:
    refused(rtx, ModelError, r"cannot read the graph: MODEL_DESERIALIZE_FAILED", b"not a graph" * 9, [PROFILE])
    half = encoder_of(Bundle.open(tiny_bundle))[:10_000]
    refused(rtx, ModelError, r"cannot read the graph: MODEL_DESERIALIZE_FAILED", half, [PROFILE])


def test_an_operator_that_it_lacks_is_named_once(rtx: TensorRt, precise_bundle: Bundle) -> None:
    onnx = encoder_of(precise_bundle, "int8")
    refused(rtx, ModelError, r"DynamicQuantizeLinear: UNSUPPORTED_NODE .*\(and \d more\)", onnx, [PROFILE])


def test_a_graph_without_a_profile_is_refused_before_it_is_built(rtx: TensorRt, tiny_bundle: Path) -> None:
    onnx = encoder_of(Bundle.open(tiny_bundle))
    refused(rtx, UsageError, "input 'tokens' has dynamic axes and no profile", onnx, [])
    refused(rtx, UsageError, "input 'tokens' has dynamic axes", onnx, [OptimizationProfile("features", (1, 21, 16))])


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((1, 21, 17), "Dimension mismatch for tensor tokens"),
        ((1, 21), "3 dimensions but profile 0 has 2"),
        ((1, -5, 16), "inconsistent with other shapes"),
    ],
)
def test_a_profile_that_does_not_fit_is_a_plan_error(
    rtx: TensorRt, tiny_bundle: Path, shape: tuple[int, ...], match: str
) -> None:
    refused(rtx, PlanError, match, encoder_of(Bundle.open(tiny_bundle)), [OptimizationProfile("tokens", shape)])


def test_a_target_that_lacks_the_arithmetic_is_a_plan_error(rtx: TensorRt, tiny_bundle: Path) -> None:
    onnx = encoder_of(Bundle.open(tiny_bundle))
    refused(rtx, PlanError, r"for sm75: .*FP32 GEMM is not supported", onnx, [PROFILE], target="SM75")


def test_a_target_that_does_not_exist_is_a_usage_error(rtx: TensorRt) -> None:
    refused(
        rtx, UsageError, r"cannot build for 'sm99'; supported are .*sm86, sm89, sm120", b"", [PROFILE], target="sm99"
    )


def test_too_little_memory_is_a_plan_error_that_says_what_to_raise(rtx: TensorRt, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    profiles = encoder_profiles(bundle.manifest, TINY_PATCHES)
    wanted = "the limit of 1 MB is too low: raise --memory-limit"
    large = OptimizationProfile("tokens", (1, 8_000, 16))
    refused(rtx, PlanError, wanted, encoder_of(bundle), [*profiles, large], memory_limit_mb=1)


def test_the_gpu_of_a_machine_without_one_is_a_gpu_error(rtx: TensorRt, tiny_bundle: Path) -> None:
    if has_gpu():
        pytest.skip("this machine has a GPU")
    onnx = encoder_of(Bundle.open(tiny_bundle))
    refused(rtx, GpuError, r"finds no GPU .*cudaError .*name a target \(.*sm86", onnx, [PROFILE], target="current")
    with pytest.raises(GpuError, match=r"plans are built on the GPU that runs them; without one, .*sm86"):
        Target.resolve(rtx)


def test_a_plan_that_cannot_be_loaded_is_a_plan_error(
    rtx: TensorRt, tiny_manifest: Manifest, built: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's own reasons: without a GPU, and of a plan that is none."""
    gpu = FakeGpu()
    for plan, reason in ((built, "cudaError"), (b"not a plan", "")):
        if plan is built and has_gpu():
            continue
        with pytest.raises(PlanError, match=f"cannot load a plan on this GPU: .*{reason}.*--rebuild"):
            tensorrt_engines.build_engines(rtx, Cuda(gpu.cuda, gpu.cuda), tiny_manifest, [], [plan])


def has_gpu() -> bool:
    try:
        Cuda.open()
    except GpuError:
        return False
    return True


# ----------------------------------------------------------------------------------------------- which one is installed


def test_what_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"apt install python3-libnvinfer.*system-site-packages") as caught:
        find_tensorrt("tensorrt")
    assert "pip" not in str(caught.value)
    with pytest.raises(MissingExtraError, match=r"pip install 'flexiast\[tensorrt-rtx\]'"):
        find_tensorrt("tensorrt-rtx")
    with pytest.raises(MissingExtraError, match=r"apt install.*pip install"):
        find_tensorrt()


def test_what_is_installed_but_broken_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a bindings wheel without its libraries is."""
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingExtraError, match=r"tensorrt is installed but cannot be loaded \(libnvinfer\.so\.11"):
        find_tensorrt("tensorrt")


def test_a_tensorrt_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu("8.6.2").install(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"tensorrt 8\.6\.2 is too old, 10\.3 is needed"):
        find_tensorrt("tensorrt")


def test_the_flavour_asked_for_is_the_one_given(rtx: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu("11.4.1").install(monkeypatch)
    assert (str(find_tensorrt("tensorrt-rtx")), find_tensorrt().version) == (str(rtx), "11.4.1")
    with pytest.raises(UsageError, match=r"tensorrt 11\.4\.1 builds for the GPU of this machine only, not for sm86"):
        Target.resolve(find_tensorrt(), "sm86")


@pytest.fixture
def holding(tiny_manifest: Manifest) -> Callable[..., Manifest]:
    """A manifest with encoders of these precisions."""
    return lambda *precisions: tiny_manifest.model_copy(
        update={"encoders": {name: Encoder(file="e") for name in precisions}}
    )


def test_int8_for_cpus_is_refused_and_the_rest_chosen_by_name(holding: Callable[..., Manifest]) -> None:
    assert plan_precision(holding("int8", "fp32", "fp16")) == "fp16"
    assert plan_precision(holding("int8", "fp32")) == "fp32"
    assert plan_precision(holding("int8-static")) == "int8-static"
    assert plan_precision(holding("fp32", "fp16"), "fp32") == "fp32"
    for manifest, wanted in ((holding("fp32", "int8"), "int8"), (holding("int8"), None)):
        with pytest.raises(UsageError, match="--precision fp16 or int8-static"):
            plan_precision(manifest, wanted)
    with pytest.raises(UsageError, match="no fp16 engines; it has fp32"):
        plan_precision(holding("fp32"), "fp16")


def test_a_backend_has_the_precisions_that_it_runs(holding: Callable[..., Manifest]) -> None:
    every, only = holding("int8", "fp32"), holding("int8")
    assert precisions_of(every, Backend.CPU) == ("int8", "fp32")
    assert precisions_of(every, Backend.TENSORRT) == ("fp32",)
    assert precisions_of(only, Backend.TENSORRT) == ("int8",)  # which loading refuses, and says why


def test_sizes_with_equally_many_tokens_share_a_profile(tiny_manifest: Manifest) -> None:
    profiles = encoder_profiles(tiny_manifest, [PatchSize(16, 16), PatchSize(11, 10), PatchSize(12, 12)])
    assert profiles == (OptimizationProfile("tokens", (1, 13, 16)), OptimizationProfile("tokens", (1, 7, 16)))
    assert str(profiles[0]) == "tokens=1x13x16"


# ----------------------------------------------------------------------------------------------- runs on a fake runtime


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    return gpu


@pytest.fixture
def load(gpu: FakeGpu, tiny_bundle: Path, store: PlanStore) -> Callable[..., tensorrt_engines.TrtEngines]:
    return lambda patches=None, **options: tensorrt_engines.load_engines(
        Bundle.open(tiny_bundle), patches, store=store, **options
    )


Load = Callable[..., tensorrt_engines.TrtEngines]
RUN = ["cudaMemcpyAsync", "execute_async_v3", "execute_async_v3", "cudaMemcpyAsync", "cudaStreamSynchronize"]


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_engines_answer_as_onnx_runtime_does(load: Load, tiny_bundle: Path, batch: int, graphs: bool) -> None:
    engines, features = load(graphs=graphs), noise(Bundle.open(tiny_bundle).manifest.spec, batch)
    reference = ort.load_engines(Bundle.open(tiny_bundle))
    assert engines.patches == TINY_PATCHES
    for patch in (*TINY_PATCHES, *reversed(TINY_PATCHES)):
        found = engines.logits(features, patch)
        assert found.dtype == np.float32
        # the same graphs by the same runtime, but window by window
        np.testing.assert_allclose(found, reference.logits(features, patch), rtol=0, atol=1e-5)


def test_a_tensorrt_that_types_strongly_anyway_has_no_flag_for_it(
    tiny_bundle: Path, store: PlanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu("11.4.1")
    gpu.always_strong = True
    gpu.install(monkeypatch)
    assert golden_errors(Bundle.open(tiny_bundle), tensorrt_engines.load_engines(Bundle.open(tiny_bundle), store=store))


def test_the_golden_answers_are_checked_like_any_engines(load: Load, tiny_bundle: Path) -> None:
    errors = golden_errors(Bundle.open(tiny_bundle), load())
    assert [variant.patch_size for variant, _ in errors] == list(TINY_PATCHES)


def test_a_run_of_the_prepared_size_only_enqueues(load: Load, gpu: FakeGpu) -> None:
    engines = load()
    features = noise(engines.spec, 1)
    for patch in TINY_PATCHES:
        engines.prepare(patch)
        gpu.cuda.calls.clear()
        engines[patch].run(features)
        assert gpu.cuda.calls == RUN


def test_a_switch_sets_profile_memory_and_shape_and_allocates_nothing(load: Load, gpu: FakeGpu) -> None:
    engines = load()
    before, addresses = gpu.cuda.allocated, set(gpu.cuda.memory)
    gpu.cuda.calls.clear()
    engines.prepare(TINY_PATCHES[2])
    assert gpu.cuda.calls == [
        "set_optimization_profile_async",
        "set_device_memory",
        "set_input_shape",
        "cudaStreamSynchronize",
    ]
    gpu.cuda.calls.clear()
    engines.prepare(TINY_PATCHES[2])
    assert gpu.cuda.calls == []
    for patch in (*TINY_PATCHES, *TINY_PATCHES):
        engines[patch].run(noise(engines.spec, 2))
    assert gpu.cuda.allocated == {}
    assert set(gpu.cuda.memory) == addresses
    assert before == {"cudaMalloc": 4, "cudaMallocHost": 2}


def test_a_size_that_was_not_prepared_is_prepared_by_its_run(load: Load, gpu: FakeGpu, tiny_bundle: Path) -> None:
    engines = load()
    features = noise(engines.spec, 1)
    engines.prepare(TINY_PATCHES[0])
    found = engines[TINY_PATCHES[3]].run(features)
    expected = ort.load_engines(Bundle.open(tiny_bundle)).logits(features, TINY_PATCHES[3])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_each_size_runs_under_its_own_profile(load: Load, gpu: FakeGpu) -> None:
    engines = load()
    (encoder,) = [context for context in gpu.contexts if context.engine.input.name == "tokens"]
    assert len(gpu.contexts) == 1 + len(TINY_PATCHES)
    seen = {}
    for patch in TINY_PATCHES:
        engines.prepare(patch)
        seen[patch] = (encoder.profile, encoder.shape)
    tokens = [engines.spec.tokens(patch) for patch in TINY_PATCHES]
    assert [shape for _, shape in seen.values()] == [(1, count, 16) for count in tokens]
    assert sorted(index for index, _ in seen.values()) == [0, 1, 2, 3]


def test_all_contexts_share_one_scratch_memory_that_is_large_enough_for_each(load: Load, gpu: FakeGpu) -> None:
    load()
    (scratch,) = {context.scratch for context in gpu.contexts}
    assert scratch is not None
    assert scratch[1] == max(context.engine.device_memory_size_v2 for context in gpu.contexts)
    shared = {address for context in gpu.contexts for address in context.addresses.values()}
    assert scratch[0] not in shared
    assert len(shared) == 3  # features, tokens, logits


def test_a_graph_is_captured_at_each_switch_and_then_launched(load: Load, gpu: FakeGpu) -> None:
    engines = load(graphs=True)
    features = noise(engines.spec, 1)
    for patch in TINY_PATCHES:
        engines.prepare(patch)
        assert len(gpu.cuda.graphs) == 1  # the last one's is gone
        gpu.cuda.calls.clear()
        engines[patch].run(features)
        assert gpu.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]
    engines.close()
    assert gpu.cuda.graphs == {}


@pytest.mark.parametrize("graphs", [False, True])
def test_the_stages_of_a_window_are_timed_by_the_gpu(load: Load, gpu: FakeGpu, tiny_bundle: Path, graphs: bool) -> None:
    engines, reference = load(graphs=graphs), ort.load_engines(Bundle.open(tiny_bundle))
    features = noise(engines.spec, 1)
    for patch in TINY_PATCHES:
        engine = engines[patch]
        assert isinstance(engine, StagedEngine)
        assert engine.cuda_graph is graphs
        found = engine.stages(features)
        assert found[1:] == (0.25e-3, 2e-3, 0.125e-3)  # embedder and encoder take 1 ms each
        assert found.enqueue_s > 0
        np.testing.assert_allclose(engine.run(features), reference.logits(features, patch), rtol=0, atol=1e-5)
    assert gpu.cuda.events == {}


def test_a_graph_is_enqueued_as_it_is_run(load: Load, gpu: FakeGpu) -> None:
    engines = load(graphs=True)
    gpu.cuda.calls.clear()
    engines[TINY_PATCHES[0]].stages(noise(engines.spec, 1))  # type: ignore[attr-defined]
    assert gpu.cuda.calls.count("cudaGraphLaunch") == 1


def test_a_profile_on_tensorrt_knows_its_stages_and_versions(load: Load, gpu: FakeGpu, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    key = profile_key(bundle, Backend.TENSORRT)
    assert key.versions["tensorrt"] == "10.3.0"
    assert key.versions["GPU"].startswith("Orin (8.7), CUDA 12.6")
    gpu.cuda.calls.clear()
    found, runs = profile_bundle(
        "tiny",
        bundle,
        list(load(TINY_PATCHES[:2])),
        key,
        step_s=0.1,
        duration_s=0.05,
        warmup_s=0.0,
        metrics={},
        power=False,
    )
    assert [len(theirs.stages) for theirs in runs.values()] == [STAGED_RUNS] * 2
    for measurement in found.measurements:
        assert measurement.gpu is not None
        times = (measurement.gpu.h2d_ms, measurement.gpu.compute_ms, measurement.gpu.d2h_ms)
        assert times == pytest.approx((0.25, 2.0, 0.125))
        assert (measurement.gpu.transfers, measurement.gpu.cuda_graph) == (True, False)
    late = found.measurements[0].model_copy(
        update={"gpu": GpuTimes(enqueue_ms=9, h2d_ms=3, compute_ms=2, d2h_ms=1, transfers=True, cuda_graph=False)}
    )
    warned = " ".join(warnings(found.model_copy(update={"measurements": (late,)}), asked_for_power=False))
    assert "enqueue 8x8 fp32" in warned
    assert "as long as computing 8x8 fp32" in warned


def test_a_switch_between_two_turns_is_not_counted(load: Load, gpu: FakeGpu, tiny_bundle: Path) -> None:
    """A listener prepares between windows; so nothing but a run lies between two looks at the clock."""
    engines, seen = load(TINY_PATCHES[:2]), []

    def clock() -> float:
        seen.append(list(gpu.cuda.calls))
        gpu.cuda.calls.clear()
        return len(seen) / 10

    named = {str(engine.variant.patch_size): engine for engine in engines}
    measure(named, noise(engines.spec, 1), duration_s=0.5, warmup_s=0.0, clock=clock)
    turns = [calls for calls in seen if calls == RUN]
    switches = [calls for calls in seen if "set_optimization_profile_async" in calls]
    assert len(turns) >= 10
    assert len(switches) >= 10
    assert all("execute_async_v3" not in calls for calls in switches[3:])  # the first are of the cold inferences


def test_closing_gives_everything_back(load: Load, gpu: FakeGpu) -> None:
    engines = load()
    engines.close()
    assert (gpu.cuda.memory, gpu.cuda.streams) == ({}, {})
    with pytest.raises(GpuError, match="they were closed"):
        engines[TINY_PATCHES[0]].run(noise(engines.spec, 1))
    engines.close()  # twice is once


# ----------------------------------------------------------------------------------------------- how a run can go wrong


@pytest.mark.parametrize("function", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaGraphLaunch"])
def test_after_an_error_of_the_gpu_no_engine_of_the_bundle_runs(load: Load, gpu: FakeGpu, function: str) -> None:
    engines = load(graphs=function == "cudaGraphLaunch")
    features = noise(engines.spec, 1)
    gpu.cuda.failing[function] = ILLEGAL_ADDRESS
    with pytest.raises(GpuError, match=f"CUDA refused {function} with error 700: reason 700"):
        engines[engines.patches[0]].run(features)
    gpu.cuda.failing.clear()  # it would work again, and answer with whatever lies there
    gpu.cuda.calls.clear()
    for patch in engines.patches:
        with pytest.raises(GpuError, match=r"cannot be used any more \(CUDA refused .*new process"):
            engines[patch].run(features)
    with pytest.raises(GpuError, match="cannot be used any more"):
        engines.prepare(engines.patches[1])
    assert gpu.cuda.calls == []


def test_a_run_that_tensorrt_refuses_says_why(load: Load, gpu: FakeGpu) -> None:
    engines = load()
    gpu.refusing = "the reason,\n in two lines"
    with pytest.raises(GpuError, match="refused a run of the embedder at patch size 8x8: the reason, in two lines"):
        engines[engines.patches[0]].run(noise(engines.spec, 1))
    gpu.refusing = ""
    with pytest.raises(GpuError, match="cannot be used any more"):
        engines[engines.patches[0]].run(noise(engines.spec, 1))


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags"])
def test_a_gpu_without_room_is_a_gpu_error_and_keeps_nothing(load: Load, gpu: FakeGpu, function: str) -> None:
    gpu.cuda.failing[function] = OUT_OF_MEMORY
    with pytest.raises(GpuError, match=f"CUDA refused {function} with error 2"):
        load()
    assert (gpu.cuda.memory, gpu.cuda.streams) == ({}, {})


def test_an_error_while_freeing_does_not_hide_the_first_one(load: Load, gpu: FakeGpu) -> None:
    gpu.cuda.failing |= {"cudaStreamSynchronize": ILLEGAL_ADDRESS, "cudaFree": ILLEGAL_ADDRESS}
    with pytest.raises(GpuError, match="CUDA refused cudaStreamSynchronize"):
        load()


@pytest.mark.parametrize("shape", [(38, 32), (1, 37, 32), (1, 38, 33), (1, 1, 38, 32)])
def test_features_of_another_shape_are_refused_and_harm_nothing(load: Load, shape: tuple[int, ...]) -> None:
    engines = load()
    with pytest.raises(UsageError, match=re.escape(f"features {list(shape)} do not fit; expected [batch, 38, 32]")):
        engines[engines.patches[0]].run(np.zeros(shape, np.float32))
    engines[engines.patches[0]].run(noise(engines.spec, 1))


def test_a_plan_with_other_profiles_is_not_run(load: Load, gpu: FakeGpu, tiny_bundle: Path, store: PlanStore) -> None:
    load()
    bundle, tensorrt = Bundle.open(tiny_bundle), find_tensorrt("tensorrt")
    variants = [bundle.manifest.variant(patch) for patch in TINY_PATCHES[:1]]
    plans = gpu.loaded[:2]  # the encoder's has four profiles
    with pytest.raises(PlanError, match=r"loaded a plan for tokens=1x21x16, .*, not for tokens=1x21x16;"):
        tensorrt_engines.build_engines(tensorrt, Cuda.open(), bundle.manifest, variants, plans)


def test_a_plan_that_tensorrt_does_not_take_says_why(load: Load, gpu: FakeGpu) -> None:
    gpu.loads = False
    with pytest.raises(PlanError, match="cannot load a plan on this GPU: a plan of something else"):
        load()


# ------------------------------------------------------------------------------------------------------------ the cache


def test_plans_are_built_once_for_a_machine(load: Load, gpu: FakeGpu) -> None:
    said: list[str] = []
    load(log=said.append)
    assert len(gpu.builds) == len(said) == 1 + len(TINY_PATCHES)
    load(log=said.append)
    assert len(gpu.builds) == len(said) == 1 + len(TINY_PATCHES)
    assert gpu.loaded[: len(said)] == gpu.loaded[len(said) :]


CHANGES: dict[str, tuple[Callable[[FakeGpu], object], str]] = {
    "driver": (lambda gpu: setattr(gpu.cuda, "cuda_version", 13_020), "driver CUDA 12.6, here CUDA 13.2"),
    "gpu": (lambda gpu: setattr(gpu.cuda, "gpu", b"Orin NX"), "gpu Orin, here Orin NX"),
    "version": (lambda gpu: setattr(gpu, "version", "10.16.2"), "version 10.3.0, here 10.16.2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_of_another_key_is_never_loaded_and_both_keys_are_told(
    load: Load, gpu: FakeGpu, store: PlanStore, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(cuda, "_read_driver_versions", lambda root: [])
    load(TINY_PATCHES[:1])
    old = {entry.key.digest for entry in store.entries()}
    for digest in old:  # whatever it holds, it is not read
        store.plan_path(digest).write_bytes(b"poison")
    alter, told = CHANGES[change]
    alter(gpu)
    gpu.install(monkeypatch)
    said: list[str] = []
    gpu.loaded.clear()
    load(TINY_PATCHES[:1], log=said.append)
    new = {entry.key.digest for entry in store.entries()} - old
    assert len(new) == len(gpu.loaded) == 2
    assert b"poison" not in gpu.loaded
    refusals = [line for line in said if "is not used" in line]
    assert len(refusals) == 2
    for line in refusals:
        assert line.endswith(told)
        assert any(digest[:16] in line for digest in old)
        assert any(digest[:16] in line for digest in new)


def test_a_damaged_plan_is_refused_and_can_be_built_again(
    load: Load, gpu: FakeGpu, store: PlanStore, tiny_bundle: Path
) -> None:
    load(TINY_PATCHES[:1])
    (encoder, *_) = store.entries()
    store.plan_path(encoder.key.digest).write_bytes(b"poison")
    gpu.loaded.clear()
    with pytest.raises(VerificationError, match="engines build --rebuild"):
        load(TINY_PATCHES[:1])
    assert b"poison" not in gpu.loaded
    place = Target.resolve(find_tensorrt("tensorrt"))
    for wanted in list_plan_requests(Bundle.open(tiny_bundle), TINY_PATCHES[:1], "fp32", place):
        get_or_build(store, wanted, place, rebuild=True)
    load(TINY_PATCHES[:1])


def test_what_the_builder_measured_is_offered_to_the_next_build(load: Load, gpu: FakeGpu, store: PlanStore) -> None:
    load(TINY_PATCHES[:1])
    assert gpu.builds == [b"", b"measured"]
    (timing,) = store.folder.glob("*.timing")
    timing.write_bytes(b"of another GPU")
    load(TINY_PATCHES[1:2])
    assert gpu.builds[2:] == [b"", b"measured"]


def test_another_set_of_sizes_has_another_encoder_and_the_same_embedders(load: Load, gpu: FakeGpu) -> None:
    load(TINY_PATCHES)
    load(TINY_PATCHES[:2])
    assert len(gpu.builds) == 1 + len(TINY_PATCHES) + 1


def test_the_order_of_sizes_does_not_matter(load: Load, gpu: FakeGpu, tiny_bundle: Path) -> None:
    load(TINY_PATCHES)
    engines = load(tuple(reversed(TINY_PATCHES)))
    assert len(gpu.builds) == 1 + len(TINY_PATCHES)
    features, reference = noise(engines.spec, 1), ort.load_engines(Bundle.open(tiny_bundle))
    for patch in engines.patches:
        np.testing.assert_allclose(
            engines.logits(features, patch), reference.logits(features, patch), rtol=0, atol=1e-5
        )


def test_of_sizes_that_share_a_profile_those_that_were_built_are_found(
    gpu: FakeGpu, store: PlanStore, tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path: Path
) -> None:
    from flexiast_export.to_onnx import export_onnx

    fine, twins = PatchSize(8, 8), (PatchSize(16, 16), PatchSize(16, 18))
    assert len({tiny_checkpoint.spec.tokens(patch) for patch in twins}) == 1
    export_onnx(tiny_checkpoint, tiny_source, (fine, *twins), tmp_path / "bundle")
    bundle, here = Bundle.open(tmp_path / "bundle"), Target.resolve(find_tensorrt("tensorrt"))
    for patches in ([twins[1]], [fine, twins[0]]):
        tensorrt_engines.load_engines(bundle, patches, store=store).close()
        builds = len(gpu.builds)
        for one in list_cached_plans(bundle, store, here):
            assert len(golden_errors(bundle, tensorrt_engines.load_engines(bundle, one.patches, store=store))) == len(
                one.patches
            )
        assert len(gpu.builds) == builds
    assert {one.patches for one in list_cached_plans(bundle, store, here)} == {twins, (fine, *twins)}
    (embedder,) = [entry.key for entry in store.entries() if entry.name == f"embed-{twins[0]}.onnx"]
    store.remove(embedder.digest)
    assert {one.patches for one in list_cached_plans(bundle, store, here)} == {twins[1:], (fine, twins[1])}


def test_what_was_planned_here_is_found_by_size(
    load: Load, gpu: FakeGpu, store: PlanStore, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(tiny_bundle)
    load(TINY_PATCHES[1:2])
    load(TINY_PATCHES[1:3])
    here = Target.resolve(find_tensorrt("tensorrt"))
    load(TINY_PATCHES[:2], memory_limit_mb=64)
    ready = {(one.precision, one.patches, one.memory_limit_mb) for one in list_cached_plans(bundle, store, here)}
    assert ready == {
        ("fp32", TINY_PATCHES[1:2], None),
        ("fp32", TINY_PATCHES[1:3], None),
        ("fp32", TINY_PATCHES[:2], 64),
    }
    (embedder,) = [
        entry.key for entry in store.entries() if (entry.name, entry.key.memory_limit_mb) == ("embed-8x8.onnx", 64)
    ]
    store.remove(embedder.digest)
    assert len(list_cached_plans(bundle, store, here)) == 2  # what an embedder is missing from is not ready
    assert {check_usable(entry.key) for entry in store.entries()} == {None}
    gpu.cuda.gpu = b"Orin NX"
    assert list_cached_plans(bundle, store, Target.resolve(find_tensorrt("tensorrt"))) == []
    assert all("built for Orin with" in (check_usable(entry.key) or "") for entry in store.entries())
    FakeGpu("11.4.1").install(monkeypatch)
    assert {check_usable(entry.key) for entry in store.entries()} == {"built by tensorrt 10.3.0, installed is 11.4.1"}
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert {check_usable(entry.key) for entry in store.entries()} == {None}  # it may only be this environment


# ----------------------------------------------------------------------------------------------------------------- CUDA


def test_a_gpu_is_known_by_name_capability_and_both_versions_of_its_driver(gpu: FakeGpu, tmp_path: Path) -> None:
    assert Cuda.open().device(tmp_path) == cuda.Device("Orin", "8.7", "CUDA 12.6")
    for name, text in (
        ("sys/module/nvidia/version", "540.4.0\n"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert Cuda.open().device(tmp_path).driver == "CUDA 12.6, 540.4.0, R36 (release), REVISION: 4.3"


def test_a_machine_without_a_gpu_says_what_is_missing(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.cuda.devices = 0
    with pytest.raises(GpuError, match="no GPU that CUDA can use"):
        Cuda(gpu.cuda, gpu.cuda)
    gpu.cuda.failing["cudaGetDeviceCount"] = 35
    with pytest.raises(GpuError, match="cudaGetDeviceCount with error 35"):
        Cuda(gpu.cuda, gpu.cuda)


def test_the_real_runtime_library_is_called_rightly_and_its_error_told() -> None:
    """As torch brings it; without a driver it answers every call with an error."""
    if has_gpu():
        pytest.skip("this machine has a GPU")
    runtime = cuda._first_library([*cuda.RUNTIME_LIBRARIES, *cuda._list_wheel_libraries()])
    if runtime is None:
        pytest.skip("no wheel of this environment brings libcudart")
    with pytest.raises(GpuError, match=r"cudaGetDeviceCount with error \d+: \w+"):
        Cuda(runtime, None)


@pytest.mark.parametrize(("missing", "match"), [("libcuda.", "no NVIDIA driver"), ("libcudart", "runtime library")])
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str, match: str) -> None:
    def find(names: Sequence[str]) -> object:
        return None if any(missing in name for name in names) else object()

    monkeypatch.setattr(cuda, "_first_library", find)
    with pytest.raises(GpuError, match=match):
        Cuda.open()


def test_the_runtime_library_of_a_wheel_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "nvidia/cu13/lib"
    folder.mkdir(parents=True)
    (folder / "libcudart.so.13").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert list(cuda._list_wheel_libraries()) == [str(folder / "libcudart.so.13")]


def test_a_driver_that_refuses_is_named(gpu: FakeGpu) -> None:
    gpu.cuda.failing["cuInit"] = 100
    with pytest.raises(GpuError, match="driver refused cuInit with error 100"):
        Cuda.open().device()


# ----------------------------------------------------------------------------------------- ONNX Runtime's own providers


def test_a_provider_that_onnx_runtime_lacks_is_said_not_replaced(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    said = "CUDAExecutionProvider was asked for, this ONNX Runtime has CPUExecutionProvider"
    with pytest.raises(GpuError, match=said) as caught:
        ort.load_engines(Bundle.open(tiny_bundle), provider="cuda")
    assert caught.value.exit_code == ExitCode.FAILURE


def test_a_provider_that_onnx_runtime_did_not_take_is_said(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu lists what it has no GPU for, and then just takes the CPU."""
    asked: dict[str, Any] = {}
    real = onnxruntime.InferenceSession

    def session(content: bytes, options: Any, providers: list[str], enable_fallback: int) -> Any:
        asked.update(providers=providers, enable_fallback=enable_fallback)
        asked["disabled"] = options.get_session_config_entry("session.disable_cpu_ep_fallback")
        return real(content, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(GpuError, match="CUDAExecutionProvider was asked for, ONNX Runtime took CPUExecutionProvider"):
        ort.load_engines(Bundle.open(tiny_bundle), provider="cuda")
    assert asked == {"providers": ["CUDAExecutionProvider"], "enable_fallback": 0, "disabled": "1"}


def test_no_operator_falls_back_to_the_cpu(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself refuses the CPU when another provider is asked for; here the CPU poses as one."""
    monkeypatch.setitem(ort.PROVIDERS, "cuda", ["CPUExecutionProvider"])
    with pytest.raises(GpuError, match=r"cannot run all of .*encoder\.onnx: .*CPU"):
        ort.load_engines(Bundle.open(tiny_bundle), provider="cuda")


def test_the_module_of_a_flavour_is_imported_when_it_is_used() -> None:
    assert isinstance(tensorrt_engines, ModuleType)
    assert not {"tensorrt", "tensorrt_rtx"} & set(vars(tensorrt_engines))


# -------------------------------------------------------------------------------------------------------------- scripts


def test_what_is_packed_for_another_machine_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_plans, "FILTERS", [{"id": lzma.FILTER_LZMA2, "preset": 0}])  # the real ones take gigabytes
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("package/library.so", bytes(range(256)) * 99)
    gpu_plans.pack(tmp_path / "a.tar.xz", [tmp_path / "a.whl"])
    for name in ("a.whl", "a.tar.xz"):
        gpu_plans.unpack([tmp_path / name], tmp_path / name.replace(".", "-"))
        assert (tmp_path / name.replace(".", "-") / "package/library.so").read_bytes() == bytes(range(256)) * 99


def test_the_figures_of_a_card_name_every_target_that_was_tried(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = FakeGpu("1.7.1", "tensorrt_rtx")
    gpu.takes = lambda target: target.name == "SM89"
    gpu.install(monkeypatch)
    monkeypatch.setattr(gpu_plans, "TARGETS", ("current", "sm80", "sm89", "sm120"))
    monkeypatch.setattr(gpu_plans, "WARM_UP_RUNS", 1)
    report = gpu_plans.measure(tiny_bundle, "8,16", "fp32", runs=3)
    assert [trial["target"] for trial in report["targets"]] == ["current", "sm80", "sm89"]
    assert ["error" in trial for trial in report["targets"]] == [True, True, False]
    assert (report["target"], report["gpu"], report["tensorrt"]) == ("sm89", "Orin", "tensorrt-rtx 1.7.1")
    for way in ("launched", "graphs"):
        assert [row["patch_size"] for row in report[way]] == ["8x8", "16x16"]
        for row in report[way]:
            assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
            assert 0 <= row["max_abs_error"] <= row["tolerance"]
            assert row["against_onnxruntime"] < 1e-5
    assert json.loads(json.dumps(report)) == report
    gpu_plans.show(report)
    assert "not a Jetson" in capsys.readouterr().out


@pytest.mark.parametrize(("percent", "rank"), [(50, 50), (95, 95), (99, 99), (100, 100), (0, 1)])
def test_percentiles_are_values_that_were_measured(percent: float, rank: int) -> None:
    assert gpu_plans.nearest_rank([float(value) for value in range(1, 101)], percent) == rank


def test_a_signal_that_meets_the_log_is_raised_when_the_build_ends() -> None:
    """TensorRT would swallow what its log raises, Ctrl-C too."""

    class Interrupting(str):
        def split(self, *_: Any) -> list[str]:  # type: ignore[override]
            raise KeyboardInterrupt

    log = TrtLog(SimpleNamespace(ILogger=type("ILogger", (), {"__init__": lambda self: None})))
    built = []
    with pytest.raises(KeyboardInterrupt), log.collect():
        log.logger.log(SimpleNamespace(name="INFO"), Interrupting())
        built.append("went on")
    assert built == ["went on"]
    with log.collect():  # it is raised once
        pass
