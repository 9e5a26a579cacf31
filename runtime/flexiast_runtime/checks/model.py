"""Checks models, the engines that run them, and cached TensorRT plans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flexiast.errors import DataError, FlexiastError, GpuError, MissingExtraError
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle, list_shipped
from flexiast_runtime.checks.result import CheckResult
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.inference.backends import Backend, choose_precision
from flexiast_runtime.inference.ort import PROVIDERS, Provider, load_engines
from flexiast_runtime.inference.selfcheck import golden_errors
from flexiast_runtime.inference.tensorrt.build import find_tensorrt
from flexiast_runtime.inference.tensorrt.plan_store import PlanStore
from flexiast_runtime.inference.tensorrt.plans import Target, check_usable, list_cached_plans
from flexiast_runtime.profiling.profiler import profile_key
from flexiast_runtime.profiling.profiles import describe_battery_life, find

NVIDIA = Path("/proc/driver/nvidia")


def check_files(model: str) -> Iterator[CheckResult]:
    """Checksums of every file of the model and of all shipped models."""
    for name in dict.fromkeys((model, *list_shipped())):
        try:
            bundle = Bundle.open(find_bundle(name))
            bundle.check_files()
        except FlexiastError as error:
            remedy = "pip install --force-reinstall flexiast" if name in list_shipped() else "copy or export it again"
            yield CheckResult("model", "failure", str(error), remedy)
        else:
            yield CheckResult("model", "ok", f"{name}: {len(bundle.manifest.files)} files are as exported")


def check_providers(model: str, nvidia: Path = NVIDIA) -> Iterator[CheckResult]:
    """Run each ONNX Runtime provider that is installed: being listed does not mean that it works."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    yield check_provider(model, "cpu")
    if PROVIDERS["cuda"][0] in available:
        yield check_provider(model, "cuda")
    elif nvidia.exists():
        text = f"this ONNX Runtime has {', '.join(available)} only, and there is an NVIDIA GPU"
        yield CheckResult("engines", "note", text, "use TensorRT, or install onnxruntime-gpu in place of onnxruntime")


def check_provider(model: str, name: Provider) -> CheckResult:
    """Compare this provider's results with those stored in the model."""
    try:
        bundle = Bundle.open(find_bundle(model))
        engines = load_engines(bundle, provider=name)
        errors = golden_errors(bundle, engines)
    except FlexiastError as error:
        remedy = "flexiast verify names every engine" if name == "cpu" else "--backend cpu works without it"
        return CheckResult("engines", "failure", f"{model} on {name}: {error}", remedy)
    worst = max(errors, key=lambda found: found[1] / found[0].parity.tolerance)
    text = f"{PROVIDERS[name][0]} runs {model} at {', '.join(map(str, engines.patches))}"
    return CheckResult(
        "engines", "ok", f"{text}; largest logit error {worst[1]:.1e} of {worst[0].parity.tolerance:.1e} allowed"
    )


def check_profile(model: str, battery: Battery | None) -> CheckResult:
    """Whether this machine has a profile of the model, which the governor uses, and for how long its battery lasts."""
    try:
        bundle = Bundle.open(find_bundle(model))
        found = find(profile_key(bundle, Backend.CPU))
    except DataError as error:  # it counts as none
        return CheckResult("profile", "warning", str(error), f"flexiast profile {model}")
    except FlexiastError as error:
        return CheckResult("profile", "failure", str(error), f"flexiast profile {model}")
    if found is None:
        text = f"none of {model} for this machine with its settings; latencies are measured at each start"
        return CheckResult("profile", "note", text, f"flexiast profile {model}")
    precision = choose_precision(bundle.manifest, None, Backend.CPU, found.precisions)
    life = describe_battery_life(found, precision, battery)
    return CheckResult("profile", "ok", f"{model} was measured at {found.created_at}" + (f". {life}" if life else ""))


def check_plans(model: str, store: PlanStore) -> Iterator[CheckResult]:
    """Whether the cached TensorRT plans can be used on this machine."""
    entries = store.entries()
    if damaged := len(store.digests()) - len(entries):
        yield CheckResult("plans", "warning", f"{damaged} in {store.folder} cannot be read", "flexiast engines prune")
    unusable = {entry.name: reason for entry in entries if (reason := check_usable(entry.key))}
    for name, reason in unusable.items():
        yield CheckResult("plans", "warning", f"{name}: {reason}", "flexiast engines prune")
    try:
        target = Target.resolve(find_tensorrt(None))
        ready = list_cached_plans(Bundle.open(find_bundle(model)), store, target)
    except (MissingExtraError, GpuError):  # not a fault: most machines have neither
        if entries:
            yield CheckResult(
                "plans", "note", f"{len(entries)} in {store.folder}, and no TensorRT or no GPU to run them"
            )
        return
    except FlexiastError:
        return  # the model's own check reports it
    for one in ready:
        yield CheckResult(
            "plans", "ok", f"{model} in {one.precision} at {', '.join(map(str, one.patches))} for {target}"
        )
    if not ready:
        yield CheckResult("plans", "note", f"none of {model} for {target}", f"flexiast engines build {model}")
