"""The systemd unit: accepted by systemd itself, confined, and written only when told to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import typer.testing
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import ExitCode
from flexiast_cli.app import app
from flexiast_cli.commands.service.unit import MARK, Scope, Service, quote_word, unreachable

SCOPES: tuple[Scope, ...] = ("system", "user")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a file of settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "flexiast").mkdir()
    (tmp_path / "flexiast/config.toml").write_text("[listen]\nthreshold = 0.4\n")
    return tmp_path


def flexiast(*arguments: object, code: int = 0) -> tuple[str, str]:
    """stdout and stderr."""
    result = typer.testing.CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.mark.parametrize("scope", SCOPES)
def test_systemd_takes_the_unit(scope: Scope, tmp_path: Path) -> None:
    """Every key in its section, every value of its kind, a command that exists, also with odd characters in a path."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "flexiast.service"
    path.write_text(Service(scope, Path(sys.executable), tmp_path / "fi le%n$x.toml").text())
    checked = subprocess.run(
        ["systemd-analyze", f"--{scope}", "verify", path],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    complaints = [line for line in checked.stderr.splitlines() if "flexiast.service" in line]
    assert complaints == []


def test_systemd_calls_the_systems_unit_confined(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "flexiast.service"
    path.write_text(Service("system", Path(sys.executable), tmp_path / "a.toml").text())
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", path]  # 2.5 of 10
    judged = subprocess.run(command, check=False, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout[-300:]


@pytest.mark.parametrize("scope", SCOPES)
def test_what_no_restart_mends_is_not_restarted(scope: Scope) -> None:
    text = Service(scope, Path("/usr/bin/python3"), Path("/etc/a.toml")).text()
    (codes,) = re.findall(r"RestartPreventExitStatus=(.*)", text)
    assert {ExitCode(int(code)) for code in codes.split()}.isdisjoint({ExitCode.DEVICE, ExitCode.FAILURE, ExitCode.OK})
    assert "WatchdogSec=" in text
    assert "Type=notify" in text


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1))
def test_a_word_of_the_command_is_what_it_was(word: str) -> None:
    """Read as systemd reads it: quotes and backslashes undone, then %% and $$ halved, nothing else special left."""
    text = quote_word(word)
    if text != word:
        assert text[0] == text[-1] == '"'
        assert re.fullmatch(r'(?:[^"\\]|\\["\\])*', text[1:-1])
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
        assert not re.search(r"(?<!%)%(%%)*(?!%)|(?<!\$)\$(\$\$)*(?!\$)", text)
        text = text.replace("%%", "%").replace("$$", "$")
    else:
        assert not set(word) & set(" \t'\"%$\\;#*")
    assert text == word


def test_a_place_that_the_service_could_not_enter_is_named() -> None:
    with TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are private
        folder = Path(name)
        config = folder / "a.toml"
        folder.chmod(0o755)
        config.touch(0o644)
        assert unreachable(config) is None
        config.chmod(0o600)
        assert unreachable(config) == config
        folder.chmod(0o700)
        assert unreachable(config) == folder
    assert unreachable(Path("/root/x")) == Path("/root")


def test_nothing_is_written_before_it_is_told_to(home: Path) -> None:
    unit = home / "systemd/user/flexiast.service"
    text, said = flexiast("service", "install", "--user")
    assert not unit.parent.exists()
    assert "would be written" in said
    assert f"--config {home}/flexiast/config.toml" in text
    printed, said = flexiast("service", "install", "--user", "--apply")
    assert unit.read_text() == text == printed == flexiast("service", "show", "--user")[0]
    assert "systemctl --user enable --now flexiast" in said


def test_the_unit_is_removed_once_nothing_starts_it(home: Path) -> None:
    unit = home / "systemd/user/flexiast.service"
    flexiast("service", "install", "--user", "--apply")
    assert "would be removed" in flexiast("service", "uninstall", "--user")[1]
    assert unit.exists()
    wants = unit.parent / "default.target.wants"
    wants.mkdir()
    (wants / unit.name).symlink_to(unit)
    assert "disable --now flexiast" in flexiast("service", "uninstall", "--user", "--apply", code=2)[1]
    assert unit.exists()
    (wants / unit.name).unlink()
    assert "is removed" in flexiast("service", "uninstall", "--user", "--apply")[1]
    assert not unit.exists()
    assert "service install" in flexiast("service", "show", "--user", code=2)[1]
    assert "nothing is installed" in flexiast("service", "uninstall", "--user", code=2)[1]


def test_settings_that_listen_would_refuse_are_not_installed(home: Path) -> None:
    (home / "bad.toml").write_text("[listen]\nthreshold = 7\n")
    assert "--threshold" in flexiast("service", "install", "--user", "--config", home / "bad.toml", code=2)[1]
    assert "config init" in flexiast("service", "install", "--user", "--config", home / "none.toml", code=2)[1]
    assert not (home / "systemd").exists()


def test_a_unit_of_somebody_elses_is_left_alone(home: Path) -> None:
    unit = home / "systemd/user/flexiast.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    assert "was not written by flexiast" in flexiast("service", "install", "--user", "--apply", code=2)[1]
    unit.write_text(f"{MARK}\n")
    flexiast("service", "install", "--user", "--apply")
    assert "ExecStart=" in unit.read_text()
