"""The desktop's power mode over a real, private bus, from a stand-in for power-profiles-daemon."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexiast_runtime.hardware import platform, power_profiles
from flexiast_runtime.hardware.power_profiles import NAME, PROPERTY, QUERY_EVERY_S, PowerProfiles, query_power_saver

SYSTEM_PYTHON = "/usr/bin/python3"
CONFIG = """<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
"""
PATIENCE_S = 30.0
"""Far more than a daemon takes to start on a busy machine."""


def has_dbusmock() -> bool:
    try:
        return (
            subprocess.run([SYSTEM_PYTHON, "-c", "import dbusmock"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a bus that nobody is on."""
    if not (shutil.which("dbus-daemon") and shutil.which("busctl")):
        pytest.skip("dbus-daemon and busctl are not installed")
    socket = tmp_path_factory.mktemp("bus") / "socket"
    config = socket.with_name("bus.conf")
    config.write_text(CONFIG.format(socket=socket))
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
        try:
            waited(socket.exists)
            yield f"unix:path={socket}"
        finally:
            daemon.terminate()


@pytest.fixture
def on_bus(bus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus)


@pytest.fixture
def daemon(on_bus: None) -> Iterator[None]:
    """A power-profiles-daemon."""
    if not has_dbusmock():
        pytest.skip("python3-dbusmock is not installed")
    command = [SYSTEM_PYTHON, "-m", "dbusmock", "--system", "--template", "power_profiles_daemon"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as mock:
        try:
            waited(lambda: query_power_saver() is not None)
            yield
        finally:
            mock.terminate()


def waited(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def choose(profile: str) -> None:
    arguments = (*PROPERTY[:2], "org.freedesktop.DBus.Properties", "Set", "ssv", NAME, PROPERTY[3], "s", profile)
    subprocess.run(["busctl", "--system", "call", *arguments], check=True)


@pytest.mark.parametrize(("profile", "saves"), [("power-saver", True), ("balanced", False), ("performance", False)])
def test_the_mode_that_the_user_chose_is_known(daemon: None, profile: str, saves: bool) -> None:
    choose(profile)
    assert query_power_saver() is saves


def test_without_a_daemon_nothing_is_known(on_bus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert query_power_saver() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert query_power_saver() is None


def test_without_a_bus_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    assert query_power_saver() is None


def test_the_daemon_is_asked_once_a_minute_and_only_where_the_kernel_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, now = iter([True, False]), [0.0]
    monkeypatch.setattr(power_profiles, "query_power_saver", lambda: next(answers))
    profiles = PowerProfiles(clock=lambda: now[0])
    assert [profiles.saver(), profiles.saver()] == [True, True]
    now[0] = QUERY_EVERY_S
    assert profiles.saver() is False
    expected = platform.read_climate().power_saver
    assert platform.read_current_climate(saver=lambda: True).power_saver is (True if expected is None else expected)
