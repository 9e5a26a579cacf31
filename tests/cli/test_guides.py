"""What the pages of profile and power say is true: commands run, figures are explained, readings are read."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.power_source import parse_supply
from flexiast_runtime.profiling.profiles import GpuTimes, Measurement
from tests.cli.conftest import Run

DOCS = Path(__file__).parents[2] / "docs"
PROFILE, FIGURES, POWER = (
    (DOCS / name).read_text() for name in ("how-to/profile.md", "reference/profile.md", "how-to/power.md")
)
QUICK = ("--duration", "0.1", "--warmup", "0.01")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_commands_of_the_profile_run_as_written(run: Run, bundle: Path, tmp_path: Path) -> None:
    """Only shorter."""
    (tmp_path / "home.bundle").symlink_to(bundle)
    (block,) = re.findall(r"<!-- run by tests/cli/test_guides.py -->\n```sh\n(.*?)```", PROFILE, re.DOTALL)
    for line in block.splitlines():
        command, _, output = line.partition(" > ")
        result = run(*shlex.split(command)[1:], *QUICK, cwd=tmp_path)
        assert result.returncode == 0, f"{line}: {result.stderr}"
        if output:
            (tmp_path / output).write_text(result.stdout)
        kept = [line.split(": ", 1)[1] for line in result.stderr.splitlines() if line.startswith("kept for")]
        for path in kept:  # other tests share the home
            Path(path).unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"home.bundle", "before.json"}


def test_every_figure_of_a_profile_is_explained() -> None:
    table = FIGURES.split("## What the figures mean")[1].split("\n\n`meter`")[0]
    described = set(re.findall(r"`(\w+)`", table)) - {"null"}
    told_elsewhere = {"patch_size", "precision", "tokens", "gmac", "runs"}
    assert described == (set(Measurement.model_fields) | set(GpuTimes.model_fields)) - told_elsewhere


def test_readings_are_read() -> None:
    for block in blocks(POWER, "json") + blocks(POWER, "ini")[:1]:
        assert parse_supply(block, "docs").battery == Battery(0.875, discharging=True)


@pytest.mark.parametrize(("rate", "discharging"), [(-3, True), (0, False), (12, False)])
def test_the_script_for_a_gauge_gives_a_reading(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rate: int,
    discharging: bool,
) -> None:
    """A MAX17048 on a bus of our own: SOC counts 1/256 %, CRATE is signed; high bytes come first."""
    registers = {0x04: round(87.5 * 256), 0x16: rate & 0xFFFF}

    class SMBus:
        def __init__(self, bus: int) -> None: ...

        def __enter__(self) -> SMBus:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read_word_data(self, address: int, register: int) -> int:
            assert address == 0x36
            return int.from_bytes(registers[register].to_bytes(2, "big"), "little")

    module: Any = ModuleType("smbus2")
    module.SMBus = SMBus
    monkeypatch.setitem(sys.modules, "smbus2", module)
    (code,) = blocks(POWER, "python")
    (tmp_path / "ups.py").write_text(code)
    runpy.run_path(str(tmp_path / "ups.py"))
    assert parse_supply(capsys.readouterr().out, "").battery == Battery(0.875, discharging=discharging)
