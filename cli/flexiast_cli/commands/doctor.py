"""``flexiast doctor``: what works here, what does not, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexiast_cli.options.common import PowerSourceOption

if TYPE_CHECKING:
    from flexiast_runtime.checks import CheckResult

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "bold red"}


def doctor(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="The bundle to run; a shipped one by default.", show_default=False),
    ] = None,
    record: Annotated[
        float, typer.Option("--record", min=0, max=60, help="Record so many seconds and judge them; keep nothing.")
    ] = 0.0,
    device: Annotated[str | None, typer.Option("--device", help="Microphone by name or part of it.")] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings to check.")] = None,
    power_source: PowerSourceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine for flexiast: software, engines, microphone, power, files.

    Every line is a finding, with what to do where it is not ok. The exit code is 1 if something does not work.
    """
    from flexiast.errors import ExitCode
    from flexiast_cli.terminal.console import print_json
    from flexiast_runtime.catalog import DEFAULT

    findings: list[CheckResult] = []
    for finding in examine(context, model or DEFAULT, record, device, config, power_source):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failed = any(finding.state == "failure" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [finding.document() for finding in findings]})
    if failed:
        raise typer.Exit(ExitCode.FAILURE)


def examine(
    context: typer.Context,
    model: str,
    record_s: float,
    device: str | None,
    config: Path | None,
    power_source: str | None,
) -> Iterator[CheckResult]:
    """All checks, one after the other."""
    from flexiast_runtime.checks import CheckResult, audio, machine, software
    from flexiast_runtime.checks import model as models
    from flexiast_runtime.hardware.nvml import Gpu
    from flexiast_runtime.hardware.platform import read_current_battery
    from flexiast_runtime.hardware.power_source import parse_power_source
    from flexiast_runtime.inference.tensorrt.plan_store import PlanStore
    from flexiast_runtime.paths import data_folder

    yield from software.check_versions()
    yield from models.check_files(model)
    yield from models.check_providers(model)
    yield from models.check_plans(model, PlanStore.default())
    yield models.check_profile(model)
    yield from audio.check_devices(audio.run_probe("devices"))
    yield machine.check_sound_rights()
    if record_s:
        question = ("record", str(record_s), *([device] if device else []))
        yield audio.judge_recording(audio.run_probe(*question, patience_s=record_s + audio.PATIENCE_S))
    else:
        yield CheckResult("recording", "note", "none was made", "flexiast doctor --record 2")
    yield machine.check_battery(read_current_battery())
    if power_source is not None:
        yield machine.check_power_source(parse_power_source(power_source))
    yield machine.check_gpu(Gpu.open())
    yield machine.check_temperature()
    yield from machine.check_clocks()
    yield from machine.check_supply()
    yield machine.check_disk_space(data_folder())
    yield from settings(context, config)


def settings(context: typer.Context, config: Path | None) -> Iterator[CheckResult]:
    """Each file of settings in use here."""
    from flexiast.errors import UsageError
    from flexiast_cli.commands.config import check
    from flexiast_cli.settings.layers import files
    from flexiast_runtime.checks import CheckResult

    try:
        paths = files(config, os.environ, Path())
        for path in paths:
            yield CheckResult("settings", "ok", f"{path}: {len(check(path, context))} settings, all can be used")
    except UsageError as error:
        yield CheckResult("settings", "failure", str(error), "flexiast config validate, once it is mended")
        return
    if not paths:
        yield CheckResult("settings", "note", "no file: all options are at their defaults", "flexiast config init")


def _print(finding: CheckResult) -> None:
    from rich.text import Text

    from flexiast_cli.terminal.console import stdout

    line = Text.assemble((f"{finding.state:8}", STYLES[finding.state]), (f"{finding.check:13}", "bold"), finding.text)
    if finding.remedy:
        line.append(f"\n{'':21}→ {finding.remedy}", "dim" if finding.state == "note" else "")
    stdout().print(line, soft_wrap=True)
