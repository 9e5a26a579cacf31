"""The work of `flexiast doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer
from rich.text import Text

from flexiast.errors import ExitCode, UsageError
from flexiast.paths import data_folder
from flexiast_cli.commands.config import check
from flexiast_cli.settings.layers import files
from flexiast_cli.terminal.console import print_json, stdout
from flexiast_runtime.catalog import DEFAULT
from flexiast_runtime.checks import CheckResult, audio, machine, software
from flexiast_runtime.checks import model as models
from flexiast_runtime.hardware.nvml import Gpu
from flexiast_runtime.hardware.platform import read_current_battery
from flexiast_runtime.hardware.power_source import parse_power_source
from flexiast_runtime.inference.tensorrt.plan_store import PlanStore

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "bold red"}


def report(results: Iterable[CheckResult], *, as_json: bool) -> None:
    """Print each result as it comes, or all as JSON; exits with FAILURE where one is a failure."""
    printed: list[CheckResult] = []
    for result in results:
        printed.append(result)
        if not as_json:
            _print_result(result)
    failed = any(result.state == "failure" for result in printed)
    if as_json:
        print_json({"ok": not failed, "findings": [result.document() for result in printed]})
    if failed:
        raise typer.Exit(ExitCode.FAILURE)


def examine(
    context: typer.Context,
    model: str | None,
    record_s: float,
    device: str | None,
    config: Path | None,
    power_source: str | None,
) -> Iterator[CheckResult]:
    """Run all checks, one after the other."""
    model = model or DEFAULT
    yield from software.check_versions()
    yield from models.check_files(model)
    yield from models.check_providers(model)
    yield from models.check_plans(model, PlanStore.default())
    battery = read_current_battery()
    yield models.check_profile(model, battery)
    yield from audio.check_devices(audio.run_probe("devices"))
    yield machine.check_sound_rights()
    if record_s:
        question = ("record", str(record_s), *([device] if device else []))
        yield audio.judge_recording(audio.run_probe(*question, patience_s=record_s + audio.PATIENCE_S))
    else:
        yield CheckResult("recording", "note", "none was made", "flexiast doctor --record 2")
    yield machine.check_battery(battery)
    if power_source is not None:
        yield machine.check_power_source(parse_power_source(power_source))
    yield machine.check_gpu(Gpu.open())
    yield machine.check_temperature()
    yield from machine.check_clocks()
    yield from machine.check_supply()
    yield machine.check_disk_space(data_folder())
    yield from check_settings(context, config)


def check_settings(context: typer.Context, config: Path | None) -> Iterator[CheckResult]:
    """Check each file of settings that is in use here."""
    try:
        paths = files(config, os.environ, Path())
        for path in paths:
            yield CheckResult("settings", "ok", f"{path}: {len(check(path, context))} settings, all can be used")
    except UsageError as error:
        yield CheckResult("settings", "failure", str(error), "flexiast config validate, once it is fixed")
        return
    if not paths:
        yield CheckResult("settings", "note", "no file: all options are at their defaults", "flexiast config init")


def _print_result(result: CheckResult) -> None:
    line = Text.assemble((f"{result.state:8}", STYLES[result.state]), (f"{result.check:13}", "bold"), result.text)
    if result.remedy:
        line.append(f"\n{'':21}→ {result.remedy}", "dim" if result.state == "note" else "")
    stdout().print(line, soft_wrap=True)
