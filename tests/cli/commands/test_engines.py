"""`flexiast engines`: real plans for another GPU as a user builds them; those of this machine on a GPU in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flexiast_cli.app import app
from flexiast_runtime.inference.tensorrt.cuda import Cuda
from flexiast_runtime.inference.tensorrt.plan_store import PlanStore
from tests.cli.conftest import Run
from tests.cli.test_errors import assert_refused
from tests.runtime.inference.tensorrt.fake_gpu import FakeGpu

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanStore:
    monkeypatch.setenv("FLEXIAST_CACHE", str(tmp_path / "cache"))
    return PlanStore.default()


# ------------------------------------------------------------------------------------------ as processes, without a GPU


def test_plans_are_built_listed_verified_and_pruned(run: Run, tiny_bundle: Path, cache: PlanStore) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has wheels for Linux on x86-64 only")
    build = ("engines", "build", tiny_bundle, "--target", "sm86", "--patch-sizes", "8,16", "--flavour", "tensorrt-rtx")
    first = run(*build, "--json")
    assert first.returncode == 0, first.stderr
    assert "encoder.onnx: building for sm86 by tensorrt-rtx" in first.stderr
    plans = json.loads(first.stdout)["plans"]
    assert [(plan["name"], plan["built_now"]) for plan in plans] == [
        ("encoder.onnx", True),
        ("embed-8x8.onnx", True),
        ("embed-16x16.onnx", True),
    ]
    again = run(*build, "--rebuild", "--json")
    assert [plan["sha256"] for plan in json.loads(again.stdout)["plans"]] == [plan["sha256"] for plan in plans]
    kept = run(*build)
    assert kept.stderr == ""
    assert kept.stdout.count("was there") == 3

    listed = json.loads(run("engines", "list", "--json").stdout)
    assert listed["folder"] == str(cache.folder)
    assert {plan["digest"] for plan in listed["plans"]} == {plan["digest"] for plan in plans}
    table = run("engines", "list").stdout
    assert all(plan["digest"][:12] in table for plan in plans)
    assert "3 plans" in table

    assert run("engines", "verify").stdout == "3 plans are as they were built\n"
    path = cache.plan_path(plans[1]["digest"])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert_refused(run("engines", "verify"), 5, f"{plans[1]['digest']}.plan differs from the plan that was built")
    assert_refused(run("engines", "verify", tiny_bundle), 5, "differs")
    cache.folder.chmod(0o777)
    assert_refused(run("engines", "verify", "all"), 5, "may be written by others", "chmod go-w")
    assert_refused(run(*build), 5, "may be written by others")
    cache.folder.chmod(0o700)

    foretold = run("engines", "prune", "--all", "--dry-run")
    assert "3 plans" in foretold.stdout
    assert "would be removed" in foretold.stdout
    assert "1 plan" in run("engines", "prune", "--older-than", "1").stdout  # the damaged one
    assert len(cache.entries()) == 2
    assert "0 plans" in run("engines", "prune", "--older-than", "1").stdout
    assert "2 plans" in run("engines", "prune", "--all").stdout
    assert "0 plans" in run("engines", "list").stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--target", "sm99"), 2, ("cannot build for 'sm99'", "sm86")),
        (("--target", "sm75"), 1, ("FP32 GEMM is not supported",)),
        (("--target", "sm86", "--precision", "fp16"), 2, ("no fp16 engines", "fp32")),
        (("--target", "sm86", "--patch-sizes", "9"), 2, ("no patch size 9x9",)),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    run: Run, tiny_bundle: Path, cache: PlanStore, options: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has wheels for Linux on x86-64 only")
    result = run("engines", "build", tiny_bundle, "--flavour", "tensorrt-rtx", *options)
    assert_refused(result, code, *words)
    assert result.stderr.splitlines()[-1].startswith("flexiast: ")
    assert cache.entries() == []


def test_int8_of_a_shipped_model_is_for_cpus(run: Run) -> None:
    options = ("--flavour", "tensorrt-rtx", "--precision", "int8", "--target", "sm86")
    assert_refused(run("engines", "build", "sounds", *options), 2, "--precision fp16 or int8-static")


def test_options_that_exclude_each_other(run: Run) -> None:
    assert_refused(run("engines", "prune", "--all", "--older-than", "3"), 2, "--older-than")


def test_an_empty_cache_is_no_error(run: Run, cache: PlanStore) -> None:
    for command in ("list", "verify", "prune"):
        result = run("engines", command)
        assert result.returncode == 0, result.stderr
        assert "0 plans" in result.stdout
    assert json.loads(run("engines", "list", "--json").stdout)["plans"] == []


# ------------------------------------------------------------------------------------------------ on a GPU in memory


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    return gpu


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "400"})


def test_plans_of_this_machine_are_checked_by_their_answers(gpu: FakeGpu, tiny_bundle: Path) -> None:
    nothing = invoke("engines", "verify", tiny_bundle)
    assert nothing.exit_code == 0
    assert "no plan of" in nothing.output
    assert "Orin by tensorrt 10.3.0" in nothing.output
    built = invoke("engines", "build", tiny_bundle, "--patch-sizes", "8,20x10", "--memory-limit", "512")
    assert built.exit_code == 0, built.output
    assert "building for Orin by tensorrt 10.3.0, tuned for tokens=1x21x16, tokens=1x9x16" in built.output
    assert "Orin (8.7)" in invoke("engines", "list").output


def test_verify_runs_what_was_built_here(gpu: FakeGpu, tiny_bundle: Path) -> None:
    assert invoke("engines", "build", tiny_bundle, "--patch-sizes", "8,20x10", "--memory-limit", 9).exit_code == 0
    builds = len(gpu.builds)
    checked = invoke("engines", "verify", tiny_bundle)
    assert checked.exit_code == 0, checked.output
    assert "3 plans are as they were built" in checked.output
    assert "largest logit errors in fp32: 8x8 " in checked.output
    assert "20x10 " in checked.output
    assert len(gpu.builds) == builds  # verify builds nothing
    assert gpu.cuda.memory == {}


def test_a_plan_that_answers_otherwise_is_a_verification_error(
    gpu: FakeGpu, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("engines", "build", bundle_copy, "--patch-sizes", "8").exit_code == 0
    monkeypatch.setattr(Cuda, "synchronize", lambda self, stream: None)  # as if nothing ever ran
    gpu.cuda.streams.clear()
    monkeypatch.setattr(gpu.cuda, "enqueue", lambda stream, work, takes_ms=0.0: None)
    refused = invoke("engines", "verify", bundle_copy)
    assert refused.exit_code == 5
    assert "answers the golden inputs with an error of" in refused.output


def test_a_new_tensorrt_leaves_the_old_plans_to_prune(
    gpu: FakeGpu, tiny_bundle: Path, cache: PlanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("engines", "build", tiny_bundle, "--patch-sizes", "8")
    assert "0 plans, 0.0 MB, removed" in invoke("engines", "prune").output
    gpu.version = "10.16.2"
    gpu.install(monkeypatch)
    built = invoke("engines", "build", tiny_bundle, "--patch-sizes", "8")
    assert built.output.count("is not used") == 2
    assert "version 10.3.0, here 10.16.2" in built.output
    assert len(cache.entries()) == 4
    (cache.folder / f"{'f' * 64}.plan").write_bytes(b"never finished")
    pruned = invoke("engines", "prune")
    assert "built by tensorrt 10.3.0, installed is 10.16.2" in pruned.output
    assert "2 plans and 2 files that no plan needs" in pruned.output
    assert {entry.key.version for entry in cache.entries()} == {"10.16.2"}
    assert cache.leftovers() == []
    assert len(list(cache.folder.glob("*.timing"))) == 1
    assert " 1 file that no plan needs" in invoke("engines", "prune", "--all").output
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_a_machine_without_a_gpu_still_checks_what_it_can(
    gpu: FakeGpu, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("engines", "build", tiny_bundle, "--patch-sizes", "8")
    gpu.cuda.devices = 0
    checked = invoke("engines", "verify", tiny_bundle)
    assert checked.exit_code == 0
    assert "the plans were not run: there is no GPU" in checked.output
    refused = invoke("engines", "build", tiny_bundle)
    assert refused.exit_code == 1
    assert "plans are built on the GPU that runs them" in refused.output


# ------------------------------------------------------------------------------------------------------------ the page

JETSON = ROOT / "docs/how-to/jetson.md"


def test_the_python_of_the_page_runs(
    gpu: FakeGpu, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", JETSON.read_text(), re.DOTALL)
    (tmp_path / "home.bundle").symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["engines"].patches) == 4
