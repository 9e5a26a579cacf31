"""What the doctor looks at: real devices of the rigs where a device is meant, folders of files for the kernel's."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from flexiast_runtime.catalog import find_bundle, list_shipped
from flexiast_runtime.checks import CheckResult, audio, machine, model, software
from flexiast_runtime.hardware.battery import read_battery
from flexiast_runtime.hardware.machine import read_climate
from flexiast_runtime.inference.tensorrt.plan_store import PlanStore

RIGS = Path(__file__).parents[2].parent / "shared" / "rigs"
Files = dict[str, str]


@pytest.fixture(autouse=True)
def nothing_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No profile of this machine."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def tree(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def states(findings: Any) -> list[tuple[str, str]]:
    return [(finding.check, finding.state) for finding in findings]


# ----- the kernel's files

CPU = "sys/devices/system/cpu/cpu0/cpufreq"
ZONE = "sys/class/thermal/thermal_zone"
FAN = "sys/class/thermal/cooling_device0"
PI = "sys/devices/platform/soc/soc:firmware/get_throttled"


def test_a_machine_that_says_nothing_is_no_fault(tmp_path: Path) -> None:
    found = [
        machine.check_battery(read_battery(tmp_path / "sys")),
        machine.check_temperature(tmp_path),
        *machine.check_clocks(tmp_path),
    ]
    assert {finding.state for finding in found} == {"note"}
    assert list(machine.check_supply(tmp_path)) == []


@pytest.mark.parametrize(
    ("files", "state", "said"),
    [
        ({f"{ZONE}0/type": "cpu", f"{ZONE}0/temp": "52000"}, "ok", "cpu is at 52 °C, its limit is 80 °C"),
        ({f"{ZONE}0/type": "cpu", f"{ZONE}0/temp": "84000"}, "warning", "84 °C"),
        ({f"{ZONE}0/type": "cv", f"{ZONE}0/temp": "", f"{ZONE}1/type": "gpu", f"{ZONE}1/temp": "45000"}, "ok", "gpu"),
        (
            {f"{ZONE}0/type": "cpu", f"{ZONE}0/temp": "71000"}
            | {f"{ZONE}0/trip_point_0_type": "passive", f"{ZONE}0/trip_point_0_temp": "70000"},
            "warning",
            "its limit is 70 °C",
        ),
        (
            {f"{ZONE}0/type": "cpu", f"{ZONE}0/temp": "60000", f"{FAN}/type": "cpufreq-cpu0", f"{FAN}/cur_state": "3"},
            "warning",
            "throttled now",
        ),
    ],
)  # fmt: skip
def test_heat_is_judged_by_where_clocks_go_down(tmp_path: Path, files: Files, state: str, said: str) -> None:
    found = machine.check_temperature(tree(tmp_path, files))
    assert found.state == state
    assert said in found.text


@pytest.mark.parametrize("kind", ["active", "passive", "hot", "critical"])
def test_the_doctor_and_the_governor_know_the_same_limit(tmp_path: Path, kind: str) -> None:
    files = {f"{ZONE}0/type": "cpu", f"{ZONE}0/temp": "50000"}
    files |= {f"{ZONE}0/trip_point_0_type": kind, f"{ZONE}0/trip_point_0_temp": "66000"}
    headroom_c = read_climate(tree(tmp_path, files)).thermal_headroom_c
    assert headroom_c == (None if kind == "active" else 16.0)  # a fan that starts slows nothing down
    said = machine.check_temperature(tmp_path).text
    limit_c = machine.HOT_C if headroom_c is None else 50 + headroom_c
    assert f"its limit is {limit_c:.0f} °C" in said
    assert ("assumed" in said) == (headroom_c is None)


def test_a_zone_without_a_trip_point_does_not_hide_one_that_has_it(tmp_path: Path) -> None:
    files = {f"{ZONE}0/type": "battery", f"{ZONE}0/temp": "79000", f"{ZONE}1/type": "cpu", f"{ZONE}1/temp": "60000"}
    files |= {f"{ZONE}1/trip_point_0_type": "passive", f"{ZONE}1/trip_point_0_temp": "95000"}
    headroom_c = read_climate(tree(tmp_path, files)).thermal_headroom_c
    assert headroom_c == 35.0
    assert "cpu is at 60 °C, its limit is 95 °C" in machine.check_temperature(tmp_path).text


@pytest.mark.parametrize(
    ("governor", "driver", "state"),
    [
        ("schedutil", "cpufreq-dt", "ok"),
        ("powersave", "intel_pstate", "ok"),  # which is what its driver calls the ordinary one
        ("powersave", "cpufreq-dt", "warning"),
        ("performance", "acpi-cpufreq", "ok"),
    ],
)
def test_powersave_is_a_fault_where_it_never_goes_up(tmp_path: Path, governor: str, driver: str, state: str) -> None:
    tree(tmp_path, {f"{CPU}/scaling_governor": governor, f"{CPU}/scaling_driver": driver})
    assert ("clocks", state) in states(machine.check_clocks(tmp_path))


@pytest.mark.parametrize(
    ("flags", "state", "said"),
    [("0", "ok", "no low voltage"), ("0x1", "warning", "voltage"), ("50000", "warning", "since boot: voltage")],
)
def test_a_pi_that_starves_is_noticed(tmp_path: Path, flags: str, state: str, said: str) -> None:
    (found,) = machine.check_supply(tree(tmp_path, {PI: flags}))
    assert (found.state, said in found.text) == (state, True)


def test_sound_cards_that_may_not_be_read_are_a_failure_with_its_remedy(tmp_path: Path) -> None:
    assert machine.check_sound_rights(tmp_path).state == "note"
    tree(tmp_path, {"pcmC0D0p": "", "pcmC1D0c": ""})
    assert machine.check_sound_rights(tmp_path, lambda path: path.name.endswith("c")).state == "ok"
    found = machine.check_sound_rights(tmp_path, lambda path: False)
    assert (found.state, "usermod -aG audio" in found.remedy) == ("failure", True)


def test_room_is_that_of_the_folder_that_would_be_made(tmp_path: Path) -> None:
    found = machine.check_disk_space(tmp_path / "not/yet")
    assert str(tmp_path / "not/yet") in found.text
    assert not (tmp_path / "not").exists()
    free_gb = float(found.text.removesuffix(f" GB free for {tmp_path / 'not/yet'}"))
    assert free_gb == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.3)  # others use the disk meanwhile


@pytest.mark.parametrize("there", [True, False])
def test_who_may_not_write_is_told_to_own_the_folder_alone(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never what it lies in, which may be the whole system."""
    folder = tmp_path / "my data" / "flexiast"
    if there:
        folder.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for asked in (folder, Path("/nowhere/flexiast")):
        found = machine.check_disk_space(asked)
        command, _ = found.remedy.split(", or set")
        assert found.state == "warning"
        assert shlex.split(command)[-1] == str(asked)
        assert ("install -d" in command) is not (there and asked == folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--level", "12"), {"battery": "warning"}),
        (("--no-battery", "--jetson", "nano"), {"battery": "note", "temperature": "ok"}),
        (("--zones", "cpu-thermal=95"), {"temperature": "warning"}),
    ],
)
def test_a_made_up_machine_is_read_as_it_is(options: tuple[str, ...], expected: dict[str, str]) -> None:
    """The rig puts its files at /sys itself, for a process of its own."""
    rig = RIGS / "fake_power.py"
    if not rig.is_file():
        pytest.skip(f"{rig} is absent")
    code = (
        "import json; from flexiast_runtime.checks import machine as checks; "
        "from flexiast_runtime.hardware.platform import read_current_battery; "
        "found = checks.check_battery(read_current_battery()), checks.check_temperature(); "
        "print(json.dumps({one.check: one.state for one in found}))"
    )
    command = [sys.executable, rig, *options, "--", sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the rig needs rights to mount: {done.stderr[-200:]}")
    assert json.loads(done.stdout) | expected == json.loads(done.stdout)


# ----- models, engines, plans


def test_what_ships_is_whole_and_runs_where_it_is() -> None:
    assert states(model.check_files("sounds")) == [("model", "ok")] * len(list_shipped())
    found = model.check_provider("commands", "cpu")
    assert found.state == "ok"
    assert found.text.startswith("CPUExecutionProvider runs commands at 8x8")


def test_plans_that_cannot_be_read_or_run_are_said(tmp_path: Path) -> None:
    store = PlanStore(tmp_path / "plans")
    assert not [finding for finding in model.check_plans("commands", store) if finding.state == "warning"]
    store.folder.mkdir(mode=0o700)
    (store.folder / f"{'0' * 64}.json").write_text("{")
    found = next(iter(model.check_plans("commands", store)))
    assert (found.state, found.remedy) == ("warning", "flexiast engines prune")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A copy of a shipped bundle with one bit of one embedder changed."""
    folder = Path(shutil.copytree(find_bundle("commands"), tmp_path / "bundle"))
    victim = sorted(folder.glob("embed*"))[0]
    victim.chmod(0o644)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    return folder


def test_a_damaged_bundle_is_a_failure_that_names_the_file(damaged: Path) -> None:
    first, *others = model.check_files(str(damaged))
    assert (first.state, "embed" in first.text) == ("failure", True)
    assert {finding.state for finding in others} == {"ok"}
    assert model.check_provider(str(damaged), "cpu").state == "failure"
    assert model.check_profile(str(damaged), None).state == "note"


def test_a_model_that_is_none_is_a_failure_of_each_that_needs_it() -> None:
    assert states(model.check_files("nothing"))[0] == ("model", "failure")
    assert model.check_provider("nothing", "cpu").state == "failure"


def test_a_provider_that_is_not_here_is_said_and_not_replaced() -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a GPU")
    found = model.check_provider("commands", "cuda")
    assert (found.state, "CUDAExecutionProvider was asked for" in found.text) == ("failure", True)


def test_a_gpu_that_this_onnx_runtime_cannot_use_is_worth_knowing(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert states(model.check_providers("commands", nvidia=tmp_path)) == [("engines", "ok"), ("engines", "note")]
    assert states(model.check_providers("commands", nvidia=tmp_path / "none")) == [("engines", "ok")]


def test_versions_are_those_that_run() -> None:
    text = next(software.check_versions()).text
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in text
    assert f"numpy {np.__version__}" in text


# ----- the microphone

TONE = {"name": "usbmic", "rate_hz": 48_000, "seconds": 2.0, "rms": 0.1, "peak": 0.3, "clipped": 0.0, "lost_s": 0.0}


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (TONE, "ok", "level -20 dBFS, peak -10 dBFS"),
        (TONE | {"seconds": 0.0, "rms": 0.0, "peak": 0.0}, "failure", "delivers no sound"),
        (TONE | {"rms": 0.0, "peak": 0.0}, "warning", "digital silence"),
        (TONE | {"rms": 1e-4, "peak": 4e-4}, "warning", "almost silent"),
        (TONE | {"clipped": 0.02, "peak": 1.0}, "warning", "2.0% of the samples are clipped"),
        (TONE | {"lost_s": 0.3}, "warning", "0.30 s of sound was lost"),
        (TONE | {"channel_fault": "its channels cancel"}, "warning", "its channels cancel"),
        ({"error": "gone"}, "failure", "gone"),
    ],
)
def test_a_recording_is_judged_by_the_worst_of_it(answer: dict[str, Any], state: str, said: str) -> None:
    found = audio.judge_recording(answer)
    assert (found.state, said in found.text) == (state, True), found


@given(st.floats(1e-6, 1.0))
def test_decibels_are_of_full_scale(amplitude: float) -> None:
    said = float(audio.format_dbfs(amplitude).removesuffix(" dBFS"))
    assert 10 ** (said / 20) == pytest.approx(amplitude, rel=0.06)  # half a decibel


@pytest.fixture
def portaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A `sounddevice` of such code, for the process that is asked."""

    def be(code: str) -> None:
        (tmp_path / "sounddevice.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))

    return be


def test_a_machine_without_portaudio_is_told_what_to_install(portaudio: Callable[[str], None]) -> None:
    portaudio('raise OSError("PortAudio library not found")')
    (found,) = audio.check_devices(audio.run_probe("devices"))
    assert (found.state, "apt install libportaudio2" in found.text) == ("failure", True)
    assert "libportaudio2" in audio.judge_recording(audio.run_probe("record", "1")).text


def test_a_device_that_hangs_portaudio_is_given_up(portaudio: Callable[[str], None]) -> None:
    portaudio("import time; time.sleep(60)")
    (found,) = audio.check_devices(audio.run_probe("devices", patience_s=0.5))
    assert (found.state, "no response within" in found.text) == ("failure", True)


def test_a_process_that_dies_in_portaudio_is_reported(portaudio: Callable[[str], None]) -> None:
    portaudio("import os; os.abort()")
    (found,) = audio.check_devices(audio.run_probe("devices"))
    assert (found.state, "exited with -6" in found.text) == ("failure", True)


@pytest.fixture
def plugged(write_audio: Callable[..., Path], tmp_path: Path) -> Callable[..., list[CheckResult]]:
    """Findings of the devices and of a recording, on a machine with this microphone and after this fault."""
    rig = RIGS / "virtual_mic.sh"
    if not rig.is_file() or not shutil.which("gcc"):
        pytest.skip("the rig of virtual microphones needs ../shared/rigs and gcc")
    checked = subprocess.run([rig, "check"], check=True, capture_output=True, text=True).stdout
    if "libportaudio yes" not in checked or "libasound2-dev yes" not in checked:
        pytest.skip("the rig of virtual microphones needs libportaudio2 and libasound2-dev")

    def ask(samples: Any, fault: str, rate_hz: int = 48_000) -> list[CheckResult]:
        wav = write_audio(tmp_path / "mic.wav", samples, rate_hz)
        code = (
            "import json; from flexiast_runtime.checks import audio; from dataclasses import asdict; "
            "found = [*audio.check_devices(audio.run_probe('devices'))]; "
            "found.append(audio.judge_recording(audio.run_probe('record', '0.5', 'usbmic'))); "
            "print(json.dumps([asdict(one) for one in found]))"
        )
        command = [rig, "-m", f"usbmic={wav}", "--", "bash", "-c", f'{fault}; exec "$0" -c "$1"', sys.executable, code]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return [CheckResult(**one) for one in json.loads(done.stdout)]

    return ask


def test_a_microphone_is_found_with_its_rates_and_heard(
    plugged: Callable[..., list[CheckResult]], make_tone: Callable[..., Any]
) -> None:
    found = plugged(make_tone(440, 1.0, 48_000, amplitude=0.1), ":")
    text = next(one.text for one in found if one.text.startswith("usbmic"))
    assert text == "usbmic: 1 channel at 48,000 Hz"
    assert found[-1].state == "ok", found[-1]
    assert "level -23 dBFS, peak -20 dBFS" in found[-1].text  # a sine's level is 3 dB below its peak


@pytest.mark.parametrize(
    ("amplitude", "fault", "state", "said"),
    [
        (3.0, ":", "warning", "are clipped"),
        (0.0, ":", "warning", "digital silence"),
        (0.1, f"{RIGS}/virtual_mic.sh ctl usbmic freeze", "failure", ""),
    ],
)
def test_what_is_wrong_with_a_microphone_is_said(
    plugged: Callable[..., list[CheckResult]],
    make_tone: Callable[..., Any],
    amplitude: float,
    fault: str,
    state: str,
    said: str,
) -> None:
    found = plugged(np.clip(make_tone(440, 1.0, 48_000, amplitude=amplitude), -1, 1), fault)
    assert (found[-1].state, said in found[-1].text) == (state, True), asdict(found[-1])


@pytest.mark.parametrize(
    ("gains", "state", "said"),
    [((1, 1), "ok", ""), ((1, -1), "warning", "opposite phase"), ((0, 1), "warning", "channel 1 is silent")],
)
def test_a_microphone_whose_mix_would_lose_its_sound_is_no_ok(
    virtual_microphone: Callable[..., Any], tmp_path: Path, gains: tuple[float, float], state: str, said: str
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
    soundfile.write(tmp_path / "usbmic.wav", np.stack([gain * noise for gain in gains], axis=1), 48_000)
    program = [sys.executable, "-W", "error", "-m", "flexiast_runtime.checks.probe", "record", "0.5", "usbmic"]
    answer = json.loads(virtual_microphone(program, usbmic=tmp_path / "usbmic.wav").read())
    found = audio.judge_recording(answer)
    assert (found.state, said in found.text) == (state, True), found
    assert "level -20 dBFS" in found.text  # what is heard has lost nothing
