"""How the patch size is chosen, as a user asks for it; what was decided, recorded and played again."""

from __future__ import annotations

import json
import math
import re
import resource
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile

from flexiast.errors import UsageError
from flexiast.manifest import Labelled, Manifest
from flexiast.spec import PatchSize
from flexiast_cli.commands.simulate.command import simulate
from flexiast_cli.governor import build_policy, find_profile, load_candidates, prepare, record_trace, select_sizes
from flexiast_cli.options.policy import PolicyOptions, Preset
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.governor.live import Conditions, GovernedController
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.trace import read_trace
from flexiast_runtime.governor.types import Goal, Option, Policy
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.inference.backends import Backend
from flexiast_runtime.profiling.profiler import profile_key
from flexiast_runtime.profiling.profiles import Measurement, Profile, keep, profile_folder, read_profile
from flexiast_runtime.simulation.scenarios import NAMES
from tests.cli.conftest import RATE_HZ, Run

NOW = datetime(2026, 7, 1, 17, 30, 15)
UNKNOWN = (Option(PatchSize(32, 32), 0.01, 0.7), Option(PatchSize(8, 8), 0.1, 0.8))
POWERED = (Option(PatchSize(32, 32), 0.01, 0.7, 4.0), Option(PatchSize(8, 8), 0.1, 0.8, 9.0))
ON_BATTERY = Conditions(0.25, Battery(0.8, discharging=True))


def test_the_presets_are_those_of_the_runtime() -> None:
    assert set(get_args(Preset)) == set(POLICIES)
    assert POLICIES["balanced"] == Policy()


# ----- what was measured here


def test_a_profile_that_cannot_be_read_is_said_and_done_without(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    bundle = Bundle.open(tiny_bundle)
    path = profile_folder() / f"{profile_key(bundle, Backend.CPU).digest}.json"
    path.parent.mkdir(parents=True)
    for content in ('{"schema_version": "0.9"}', "half a fi"):
        path.write_text(content)
        assert find_profile(bundle, Backend.CPU) is None
        said = " ".join(capsys.readouterr().err.split())
        assert "profile again" in said
        assert path.name in said


def test_a_profile_of_another_power_mode_is_ignored_and_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    bundle = Bundle.open(tiny_bundle)
    key = profile_key(bundle, Backend.CPU)
    other = key.model_copy(update={"settings": key.settings.model_copy(update={"power_mode": "15W"})})
    written = read_profile(Path(__file__).parents[1] / "runtime" / "artefacts" / "profile-1.0.json")
    keep(written.model_copy(update={"key": other}))
    assert find_profile(bundle, Backend.CPU) is None
    assert "the profile made with power mode 15W" in " ".join(capsys.readouterr().err.split())
    keep(written.model_copy(update={"key": key}))
    assert find_profile(bundle, Backend.CPU) is not None
    assert not capsys.readouterr().err


# ----- what is asked of battery and power


def test_a_goal_is_on_the_streams_time_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = build_policy(
        PolicyOptions(policy="greedy", until="18:00", min_battery=35, max_watts=7.0), POWERED, ON_BATTERY, NOW
    )
    assert found.goal == Goal(1_785, 0.35, 7.0)
    assert found.dwell_s == POLICIES["greedy"].dwell_s
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_had_as_asked_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    build_policy(PolicyOptions(until="2h"), UNKNOWN, ON_BATTERY, NOW)
    assert "straight discharge line" in " ".join(capsys.readouterr().err.split())
    build_policy(PolicyOptions(until="2h"), POWERED, Conditions(0.25), NOW)
    assert "no battery" in capsys.readouterr().err
    build_policy(PolicyOptions(min_battery=30.0), POWERED, Conditions(0.25), NOW)
    assert "no battery" in capsys.readouterr().err
    build_policy(PolicyOptions(), POWERED, Conditions(0.25), NOW)
    assert not capsys.readouterr().err
    build_policy(PolicyOptions(max_watts=2.0), POWERED, ON_BATTERY, NOW)
    assert "draws 4.0 W" in capsys.readouterr().err
    for options in (UNKNOWN, (UNKNOWN[0], POWERED[1])):
        with pytest.raises(UsageError, match="flexiast profile --power"):
            build_policy(PolicyOptions(max_watts=7.0), options, ON_BATTERY, NOW)


def test_what_cannot_act_on_one_size_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    build_policy(
        PolicyOptions(policy="greedy", until="2h", min_battery=30.0, max_watts=2.0), POWERED[:1], ON_BATTERY, NOW
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "32x32 is the only size" in said
    assert said.endswith("no effect of --policy, --until, --min-battery, --max-watts")
    build_policy(PolicyOptions(), POWERED[:1], ON_BATTERY, NOW)
    assert not capsys.readouterr().err


# ----- which sizes


@pytest.fixture
def measured(tiny_manifest: Manifest) -> Manifest:
    metrics = (0.9, 0.8, 0.7, None)
    variants = zip(tiny_manifest.variants, metrics, strict=True)
    return tiny_manifest.model_copy(update={"variants": tuple(v.model_copy(update={"metric": m}) for v, m in variants)})


def test_sizes_below_the_metric_are_not_loaded(measured: Manifest) -> None:
    sizes = measured.patches
    assert select_sizes(PolicyOptions(), measured, None, "fp32") is None
    assert select_sizes(PolicyOptions(min_metric=0.8), measured, None, "fp32") == sizes[:2]
    assert select_sizes(
        PolicyOptions(patch_sizes=f"{sizes[1]},{sizes[2]}", min_metric=0.8), measured, None, "fp32"
    ) == (sizes[1],)
    with pytest.raises(UsageError, match=r"8x8 0\.900.*20x10 –"):
        select_sizes(PolicyOptions(min_metric=0.95), measured, None, "fp32")
    with pytest.raises(UsageError, match="no patch size"):
        select_sizes(
            PolicyOptions(patch_sizes=str(sizes[3]), min_metric=0.1), measured, None, "fp32"
        )  # it was never measured


def profiled(patch: PatchSize, precision: str, metric: float, *, own: bool) -> Profile:
    """Just what is looked at."""
    fields = {"patch_size": patch, "precision": precision, "metric": metric, "metric_measured_here": own}
    return Profile.model_construct(measurements=(Measurement.model_construct(**fields),))


def test_what_an_engine_reached_itself_counts_before_what_float32_did(
    measured: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes, asked = measured.patches, PolicyOptions(min_metric=0.8)
    encoders = {"int8": measured.encoders["fp32"]}
    variants = tuple(v.model_copy(update={"precision": "int8"}) for v in measured.variants)
    quantised = measured.model_copy(update={"variants": variants, "encoders": encoders})

    def chosen(manifest: Manifest, profile: Profile | None) -> tuple[tuple[PatchSize, ...] | None, str]:
        found = select_sizes(asked, manifest, profile, manifest.precision())
        return found, " ".join(capsys.readouterr().err.split())

    found, said = chosen(quantised, None)
    assert found == sizes[:2]
    assert f"for {sizes[0]}, {sizes[1]}, {sizes[2]}: their int8 engines were never measured" in said
    found, said = chosen(quantised, profiled(sizes[0], "int8", 0.7, own=True))
    assert found == sizes[1:2]
    assert f"for {sizes[1]}, {sizes[2]}: " in said
    borrowed = profiled(sizes[0], "int8", 0.7, own=False)  # a profile made without --accuracy holds the bundle's
    assert chosen(quantised, borrowed)[0] == sizes[:2]
    labelled = Labelled(clips=40, metric=0.75, source_metric=0.9)
    exported = quantised.model_copy(
        update={"variants": (variants[0].model_copy(update={"labelled": labelled}), *variants[1:])}
    )
    assert chosen(exported, None)[0] == sizes[1:2]
    assert chosen(measured, profiled(sizes[2], "fp32", 0.85, own=True)) == (sizes[:3], "")


def test_a_pinned_size_excludes_all_that_would_choose(measured: Manifest) -> None:
    assert select_sizes(PolicyOptions(pin="8"), measured, None, "fp32") == (PatchSize(8, 8),)
    for options in (
        PolicyOptions(pin="8", patch_sizes="8,16"),
        PolicyOptions(pin="8", until="2h"),
        PolicyOptions(pin="8", policy="greedy"),
        PolicyOptions(pin="8", max_watts=5.0),
        PolicyOptions(pin="8", min_battery=0.0),
        PolicyOptions(pin="8", min_metric=0.5),
    ):
        with pytest.raises(UsageError, match="--pin keeps one size"):
            select_sizes(options, measured, None, "fp32")


# ----- as commands


@pytest.fixture(scope="module")
def recording(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of ten seconds of noise; what listening says is looked at, too."""
    folder = tmp_path_factory.mktemp("recording")
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE_HZ)
    soundfile.write(folder / "noise.wav", noise, RATE_HZ)
    options = ("--patch-sizes", "16,48", "--policy", "greedy", "--every-window", "--record", folder / "trace.jsonl")
    result = run("listen", "commands", "--input", folder / "noise.wav", *options)
    assert result.returncode == 0, result.stderr
    return folder / "trace.jsonl"


def test_a_recorded_run_is_played_again_and_compared(run: Run, recording: Path, tmp_path: Path) -> None:
    result = run("simulate", "--trace", recording, "--policy", "steady", "--json", "--plot", tmp_path / "it.png")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    windows = len(recording.read_text().splitlines()) - 1
    assert document["replay"] == {"same_decisions": windows, "same": True}
    assert [one["name"] for one in document["results"]] == ["recorded", "steady"]
    assert document["results"][0]["windows"] == windows
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_a_cascade_that_saves_nothing_says_why_once(run: Run, tmp_path: Path) -> None:
    """Noise whose level jumps: it always changes, and at such a threshold it may always be an event."""
    noise = np.random.default_rng(0).normal(0, 0.003, (130, 2, 8_000))
    noise[:, 1] *= 10
    soundfile.write(tmp_path / "jumps.wav", noise.reshape(-1), 16_000)
    options = ("--patch-sizes", "48", "--threshold", "0.02")
    result = run("listen", "commands", "--input", tmp_path / "jumps.wav", *options)
    assert result.returncode == 0, result.stderr
    assert " ".join(result.stderr.split()).count("every window was run: all the time something may have been") == 1


def test_a_full_disk_ends_the_recording_and_not_the_listening(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, path = GovernedController(UNKNOWN, POLICIES["balanced"], Conditions(1.0)), tmp_path / "trace.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with record_trace(chosen, path, Bundle.open(tiny_bundle), "tiny", 0.5, sources=1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 150, limits[1]))  # a step and a half
        try:
            for tick in range(1, 5):
                chosen.observe(replace(chosen.first, time_s=0.5 * tick, latency_s=0.1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("listening goes on") == 1
    trace = read_trace(path)
    assert trace.torn  # what was whole can be played again
    assert trace.steps


def test_another_decision_is_an_exit_code(run: Run, recording: Path, tmp_path: Path) -> None:
    lines = recording.read_text().splitlines(keepends=True)
    step = json.loads(lines[5])
    step["index"] = 1 - step["index"]
    (tmp_path / "other.jsonl").write_text("".join([*lines[:5], json.dumps(step) + "\n", *lines[6:], '{"observation']))
    result = run("simulate", "--trace", tmp_path / "other.jsonl")
    assert result.returncode == 5
    assert "4 decisions are the same" in result.stderr
    assert "torn" in result.stderr


def test_the_guide_and_the_help_name_every_scenario() -> None:
    guide = (Path(__file__).parents[2] / "docs/how-to/battery.md").read_text("utf-8")
    rows = re.findall(r"^\| ([a-z, ]+) \|", guide.split("| scenario | |")[1], re.MULTILINE)
    assert sorted(name for row in rows for name in row.split(", ")) == sorted(NAMES)
    help_text = " ".join((simulate.__doc__ or "").split())
    assert f"Scenarios: {', '.join(NAMES)}." in help_text


def test_scenarios_are_compared_in_a_table(run: Run) -> None:
    result = run("simulate", "commands", "--patch-sizes", "16,48", "--hours", "0.02")
    assert result.returncode == 0, result.stderr
    rows = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert {"quiet", "battery in percent", "mean"} <= set(rows)
    assert "measured just now" in result.stderr
    assert "modelled" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", "commands", "--patch-sizes", "48", "--scenario", "storm"), "there are quiet, step"),
        (("simulate", "commands", "--trace", "x.jsonl"), "brings its own"),
        (("simulate", "--trace", "x.jsonl", "--hours", "3"), "--hours"),
        (("simulate", "--trace", "x.jsonl", "--seed", "0"), "--seed"),
        (("listen", "commands", "--input", "-", "--pin", "16", "--patch-sizes", "16,48"), "--pin keeps one size"),
        (("listen", "commands", "--input", "-", "--pin", "48", "--record", "x.jsonl"), "decides nothing"),
        (("listen", "commands", "--input", "-", "--min-metric", "0.99", "--precision", "fp32"), "16x16 0.9"),
        (("listen", "commands", "--input", "-", "--min-metric", "80"), "share from 0 to 1"),
        (("listen", "commands", "--input", "-", "--max-watts", "5", "--patch-sizes", "40,48"), "profile --power"),
    ],
)
def test_what_cannot_be_is_a_usage_error(run: Run, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = run(*arguments, stdin=b"", cwd=tmp_path)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "measured just now" not in result.stderr  # refused before any engine is loaded
    assert not list(tmp_path.iterdir())


def test_a_charge_that_is_not_believed_is_said_once(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = Conditions(1.0, Battery(0.87, discharging=True))
    sizes = PolicyOptions()
    controller = prepare(load_candidates(Bundle.open(tiny_bundle), sizes), sizes, conditions)
    assert isinstance(controller, GovernedController)
    capsys.readouterr()
    for second, charge in enumerate([0.87, math.nan, *[0.03] * 20, 0.87, 0.03], 1):
        seen = replace(conditions, battery=Battery(charge, discharging=True)).to_observation(float(second))
        controller.observe(seen)
    said = " ".join(capsys.readouterr().err.split())
    assert said == ("the battery's sensor reads 3% where 87% is likely; it is not believed until it has drained by 2%")
