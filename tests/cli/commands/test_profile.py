"""`flexiast profile` as a user runs it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from flexiast_cli.commands.profile.report import render
from flexiast_cli.commands.profile.table import latencies_csv, show_profile
from flexiast_runtime.inference.engine import Stages
from flexiast_runtime.profiling.measure import Runs
from flexiast_runtime.profiling.profiles import GpuTimes, read_profile
from tests.cli.conftest import Run

QUICK = ("--duration", "0.1", "--warmup", "0.01")


@pytest.fixture(scope="module")
def profiled(run: Run, bundle: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """One run with all that it writes; the rest is said on stderr."""
    folder = tmp_path_factory.mktemp("profile")
    files = ("--csv", folder / "raw.csv", "--html", folder / "report.html", "--accuracy", sounds)
    result = run("profile", bundle, "--patch-sizes", "16,48", *QUICK, *files, "--json")
    assert result.returncode == 0, result.stderr
    (folder / "old.json").write_text(result.stdout)
    return folder, json.loads(result.stdout)


def test_every_single_latency_is_in_the_csv(profiled: tuple[Path, dict]) -> None:
    folder, document = profiled
    rows = list(csv.DictReader(io.StringIO((folder / "raw.csv").read_text())))
    for m in document["measurements"]:
        mine = [float(r["latency_ms"]) for r in rows if (r["patch_size"], r["precision"]) == (m["patch_size"], "fp32")]
        assert len(mine) == m["runs"]
        assert max(mine) == pytest.approx(m["max_ms"], abs=1e-3)


def test_the_metric_is_that_of_the_labelled_sounds(run: Run, bundle: Path, sounds: Path, profiled: tuple) -> None:
    evaluated = run("evaluate", bundle, sounds, "--split", "val", "--patch-sizes", "16,48", "--json")
    metrics = {r["patch_size"]: r["accuracy"] for r in json.loads(evaluated.stdout)["results"]}
    assert {m["patch_size"]: m["metric"] for m in profiled[1]["measurements"]} == metrics


def test_the_report_is_one_page_that_needs_nothing_else(profiled: tuple[Path, dict]) -> None:
    page = (profiled[0] / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "src=" not in page
    assert "@import" not in page


def test_stages_on_a_gpu_are_shown_in_the_table_the_csv_and_the_report(
    profiled: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_profile(profiled[0] / "old.json")
    times = GpuTimes(enqueue_ms=0.011, h2d_ms=0.022, compute_ms=0.333, d2h_ms=0.044, transfers=True, cuda_graph=False)
    first, *rest = found.measurements
    staged = found.model_copy(update={"measurements": (first.model_copy(update={"gpu": times}), *rest)})
    runs = {m.name: Runs(latencies_s=[m.p50_ms / 1000]) for m in staged.measurements}
    runs[first.name].stages = [Stages(11e-6, 22e-6, 333e-6, 44e-6)]
    show_profile(staged, "fp32")
    shown, page = capsys.readouterr().out, render(staged, runs)
    for text in (shown, page):
        for word in ("enqueue", "H2D", "compute", "D2H", "0.011", "0.022", "0.333", "0.044"):
            assert word in text
        assert "Latencies count both copies; windows are launched without a CUDA graph." in text
    rows = list(csv.DictReader(io.StringIO(latencies_csv(runs))))
    assert [(row["enqueue_ms"], row["d2h_ms"], bool(row["latency_ms"])) for row in rows] == [
        ("0.0110", "0.0440", False),
        ("", "", True),
        ("", "", True),
    ]
    show_profile(found, "fp32")
    assert "enqueue" not in capsys.readouterr().out
    assert "enqueue" not in render(found, runs)


def test_a_profile_is_compared_with_an_older_one(run: Run, bundle: Path, profiled: tuple[Path, dict]) -> None:
    result = run("profile", bundle, "--patch-sizes", "16,24", *QUICK, "--compare", profiled[0] / "old.json")
    assert result.returncode == 0, result.stderr
    assert "16x16 fp32" in result.stderr
    assert "24x24 fp32" not in result.stderr.split("since")[1].split("warning")[0]  # it was not measured then


def test_a_profile_takes_its_energy_from_the_source(run: Run, bundle: Path) -> None:
    source = "exec:printf 'watts=3.5\\npercent=50\\ncharging=no\\n'"
    result = run("profile", bundle, "--patch-sizes", "48", *QUICK, "--power", "--power-source", source, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    (found,) = document["measurements"]
    assert document["meter"] == source
    assert document["idle_w"] == pytest.approx(3.5)
    assert found["energy_above_idle_mj"] == 0
    assert found["gpu"] is None


@pytest.mark.parametrize(("budget", "code"), [("60000", 0), ("0.000001", 6)])
def test_a_budget_is_an_exit_code(run: Run, bundle: Path, budget: str, code: int) -> None:
    result = run("profile", bundle, "--patch-sizes", "48", *QUICK, "--budget-ms", budget)
    assert result.returncode == code
    assert ("over the budget" in result.stderr) is (code == 6)


def test_listen_goes_by_the_profile_that_was_kept(run: Run, bundle: Path, profiled: tuple[Path, dict]) -> None:
    kept = run("profile", bundle, "--patch-sizes", "48", *QUICK).stderr
    path = Path(next(line for line in kept.splitlines() if "kept for" in line).split(": ", 1)[1])
    path.write_text("{")
    result = run("listen", bundle, "--input", "-", stdin=b"")
    assert result.returncode == 0
    assert path.name in result.stderr  # what is measured at the start serves instead
    path.unlink()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--patch-sizes", "17"), "no patch size 17"),
        (("--precision", "int8"), "no int8 engines"),
        (("--duration", "0"), "--duration"),
        (("--budget-ms", "-1"), "--budget-ms"),
        (("--val-fold", "1"), "--accuracy"),
        (("--compare", "/no/such.json"), "such.json"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(run: Run, bundle: Path, options: tuple, word: str) -> None:
    result = run("profile", bundle, *options)
    assert result.returncode in {2, 8}
    assert word in result.stderr
    assert "kept" not in result.stderr
