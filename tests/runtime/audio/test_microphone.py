"""The microphone, heard through a real PortAudio: ALSA's side of it is a virtual device that plays a WAV."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

Plug = Callable[..., Any]

RECORDER = Path(__file__).with_name("recorder.py")
MANY_S = 20.0
"""Longer than anything here takes, also where every core is busy."""
SLACK_S = 0.5
"""Between what the clock says and what was heard: blocks on their way, and a busy machine."""


@pytest.fixture(scope="module")
def wavs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """White noise, so that every stretch of it is found in one place only."""
    folder, rng = tmp_path_factory.mktemp("wavs"), np.random.default_rng(0)
    formats = {"usbmic": (48_000, 1), "stereo": (44_100, 2), "other": (44_100, 1)}
    for name, (rate_hz, channels) in formats.items():
        noise = rng.integers(-(2**15), 2**15, (2 * rate_hz, channels), dtype=np.int16)
        soundfile.write(folder / f"{name}.wav", noise, rate_hz, subtype="PCM_16")
    return {name: folder / f"{name}.wav" for name in formats}


@pytest.fixture
def hear(virtual_microphone: Plug, wavs: dict[str, Path]) -> Plug:
    """Start the recorder with these options of `Microphone`; the first line that it prints comes with it."""

    def start(**options: Any) -> Any:
        return virtual_microphone([sys.executable, "-W", "error", RECORDER, json.dumps(options)], **wavs)

    return start


def lines(running: Any) -> Iterator[dict[str, Any]]:
    end_s = time.monotonic() + MANY_S
    while time.monotonic() < end_s:
        yield json.loads(running.read())
    pytest.fail(f"nothing came of it in {MANY_S:g} s")


def until(running: Any, **wanted: object) -> list[dict[str, Any]]:
    """Lines up to the first one in which all of this stands."""
    found = []
    for line in lines(running):
        found.append(line)
        if wanted.items() <= line.items():
            return found
    return found


def until_heard(running: Any) -> list[dict[str, Any]]:
    """Lines up to the first one with audio."""
    found = []
    for line in lines(running):
        found.append(line)
        if line.get("frames"):
            break
    return found


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # of each thread
    return [int(child) for task in tasks for child in task.read_text().split()]


def assert_gone(pid: int) -> None:
    end_s = time.monotonic() + MANY_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end_s, f"process {pid} is still there"
        time.sleep(0.02)


# ----- what is heard


@pytest.mark.parametrize(
    ("name", "channel", "shown"),
    [("usbmic", None, [0]), ("stereo", None, [0, 1]), ("stereo", 2, [1]), ("stereo", "each", [0, 1])],
)
def test_audio_is_exact_and_in_order_at_the_devices_own_rate(
    hear: Plug, wavs: dict[str, Path], tmp_path: Path, name: str, channel: int | str | None, shown: list[int]
) -> None:
    played, rate_hz = soundfile.read(wavs[name], dtype="float32", always_2d=True)
    running = hear(device=name, channel=channel, frames=int(0.8 * rate_hz), output=str(tmp_path / "heard"))
    assert next(lines(running)).items() >= {"name": name, "rate_hz": rate_hz}.items()
    assert running.process.wait(MANY_S) == 0
    heard = np.load(tmp_path / "heard.npz")
    assert_played(heard["samples"], heard["starts"], heard["lengths"], np.tile(played[:, shown], (4, 1)))


@pytest.mark.parametrize("channel", [1, 2])
def test_a_chosen_channel_is_not_a_mix_where_the_system_converts(
    virtual_microphone: Plug, wavs: dict[str, Path], tmp_path: Path, channel: int
) -> None:
    """ALSA's `default` is a plug: it takes any number of channels, and gives the mean of all where one is asked."""
    played, rate_hz = soundfile.read(wavs["stereo"], dtype="float32")
    options = {"device": "default", "channel": channel, "frames": rate_hz // 2, "output": str(tmp_path / "heard")}
    program = [sys.executable, "-W", "error", RECORDER, json.dumps(options)]
    assert virtual_microphone(program, stereo=wavs["stereo"]).process.wait(MANY_S) == 0
    piece = np.load(tmp_path / "heard.npz")["samples"][-8_000:, 0]
    alike = [likeness(piece, np.tile(played[:, column], 2)) for column in (channel - 1, 2 - channel)]
    assert alike[0] > 0.99  # a mean of two is alike to each by 0.7
    assert alike[1] < 0.1


def assert_played(samples: Any, starts: Any, lengths: Any, played: NDArray[np.float32]) -> None:
    """Every stretch without a loss stands in what was played, each after the one before."""
    breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1])
    after = 0
    for stretch in np.split(samples, np.cumsum(lengths)[breaks]):
        place = after + int(np.flatnonzero((played[after:] == stretch[0]).all(axis=1))[0])
        np.testing.assert_array_equal(stretch, played[place : place + len(stretch)])
        after = place + len(stretch)
    assert breaks.size <= 1  # a busy machine may lose audio, once


# ----- what happens to it


def assert_accounted(heard: list[dict[str, Any]], rate_hz: int = 48_000) -> None:
    """Audio that came and audio that is missing last as long as the clock says."""
    blocks = [line for line in heard if line.get("frames")]
    counted_s = sum(line["frames"] + line["lost"] for line in blocks[1:]) / rate_hz
    assert counted_s == pytest.approx(blocks[-1]["at"] - blocks[0]["at"], abs=SLACK_S)


def test_a_lost_microphone_is_found_again_and_what_is_missing_is_counted(hear: Plug) -> None:
    running = hear(device="usbmic", retry_s=(0.0, 0.2))
    heard = until_heard(running)
    for fault, reason in [
        ("unplug", "it delivers nothing"),
        ("unplug", "it delivers nothing"),
        ("error", "its driver ended the stream"),
        ("freeze", "it delivers nothing"),
    ]:
        running.ctl("usbmic", fault)
        heard += until(running, state="lost")
        assert heard[-1].items() >= {"frames": 0, "reason": reason}.items()
        running.ctl("usbmic", "ok")
        heard += until(running, state="found")
        heard += [line for line, _ in zip(lines(running), range(5), strict=False)]
    assert_accounted(heard)


def test_a_capture_process_that_is_killed_is_replaced(hear: Plug) -> None:
    running = hear(device="usbmic")
    heard = until_heard(running)
    (killed,) = children(heard[0]["pid"])
    os.kill(killed, signal.SIGKILL)
    heard += until(running, state="found")
    lost = [line["reason"] for line in heard if line.get("state") == "lost"]
    assert lost == ["its capture process ended without a word"]
    assert_accounted(heard)


def test_a_device_that_comes_back_with_another_rate_is_resampled(
    hear: Plug, wavs: dict[str, Path], tmp_path: Path
) -> None:
    running = hear(device="usbmic", retry_s=(0.1,), after="found", frames=36_000, output=str(tmp_path / "heard"))
    heard = until_heard(running)
    running.ctl("usbmic", "unplug")
    heard += until(running, state="lost")
    config = running.rig / "alsa.conf"
    config.write_text(config.read_text().replace("usbmic.wav", "other.wav"))
    running.ctl("usbmic", "ok")
    heard += until(running, state="found")
    assert running.process.wait(MANY_S) == 0
    saved = np.load(tmp_path / "heard.npz")
    played, rate_hz = soundfile.read(wavs["other"], dtype="float32")
    piece = saved["samples"][-24_000:-12_000, 0]
    assert likeness(piece, soxr.resample(np.tile(played, 2), rate_hz, 48_000)) > 0.99


def likeness(piece: NDArray[np.float32], whole: NDArray[np.float32]) -> float:
    """Highest normalised correlation of a piece of white noise with any place of a whole."""
    size = len(whole)
    found = np.fft.irfft(np.fft.rfft(whole) * np.fft.rfft(piece, size).conj(), size)
    return float(found.max() / (np.linalg.norm(piece) * np.std(whole) * np.sqrt(len(piece))))


def test_a_stopped_capture_process_loses_audio_and_says_so(hear: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMIC_BUFFER_MS", "200")
    running = hear(device="usbmic")
    heard = until_heard(running)
    (stopped,) = children(heard[0]["pid"])
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(0.4)  # the device's buffer is shorter; no microphone is lost so soon
    os.kill(stopped, signal.SIGCONT)
    heard += [line for line, _ in zip(lines(running), range(20), strict=False)]
    assert sum(line.get("lost", 0) for line in heard) > 0.1 * 48_000
    assert_accounted(heard)


def test_a_stopped_program_knows_what_it_missed(hear: Plug) -> None:
    """A stop that is longer than the ring: the device went on, so nothing was lost but what was overwritten."""
    running = hear(device="usbmic")
    heard = until_heard(running)
    os.kill(heard[0]["pid"], signal.SIGSTOP)
    time.sleep(4.6)
    os.kill(heard[0]["pid"], signal.SIGCONT)
    heard += [line for line, _ in zip(lines(running), range(20), strict=False)]
    assert 0 < sum(line.get("lost", 0) for line in heard) < 1.5 * 48_000
    assert {line.get("state") for line in heard} == {None}
    assert_accounted(heard)


def test_without_a_retry_a_loss_is_an_error_and_nothing_hangs(hear: Plug) -> None:
    running = hear(device="usbmic", on_loss="exit")
    until_heard(running)
    running.ctl("usbmic", "unplug")
    failed = until(running, error="DeviceLostError")[-1]
    assert "usbmic was lost: it delivers nothing; check that it is plugged in" in failed["reason"]
    assert running.process.wait(MANY_S) == 0


# ----- how it ends


@pytest.mark.parametrize("after", [None, "lost"])
def test_who_stops_hearing_stops_at_once_and_leaves_no_process(hear: Plug, after: str | None) -> None:
    running = hear(device="usbmic", frames=12_000 if after is None else 0, after=after)
    until_heard(running)
    if after:
        running.ctl("usbmic", "unplug")
    closed = until(running, children=[])[-1]
    assert closed["closed_s"] < 1.0
    assert running.process.wait(MANY_S) == 0


def test_a_killed_program_leaves_nothing(hear: Plug) -> None:
    running = hear(device="usbmic")
    pid = until_heard(running)[0]["pid"]
    (child,) = children(pid)
    memory = [line for line in Path(f"/proc/{child}/maps").read_text().splitlines() if "flexiast-capture" in line]
    assert memory and all("/memfd:" in line for line in memory)  # memory without a name goes with who has it open
    os.kill(pid, signal.SIGKILL)
    assert_gone(child)


@pytest.mark.parametrize("lost", [False, True])
def test_ctrl_c_ends_listening_whether_the_microphone_is_there_or_not(
    virtual_microphone: Plug, wavs: dict[str, Path], tiny_bundle: Path, lost: bool
) -> None:
    command = [sys.executable, "-W", "error", "-m", "flexiast_cli.main", "listen", tiny_bundle, "--device", "usbmic"]
    running = virtual_microphone([*command, "--json", "--on-device-loss", "retry"], **wavs)
    until(running, type="status")
    if lost:
        running.ctl("usbmic", "unplug")
        until(running, type="source", state="lost")
    (listening,) = children(running.process.pid)
    (capturing,) = children(listening) or [listening]
    os.kill(listening, signal.SIGINT)
    until(running, type="summary")
    assert running.process.wait(MANY_S) == 130
    assert_gone(capturing)


# ----- what may come


def test_one_that_may_come_is_looked_for_from_the_start(hear: Plug, wavs: dict[str, Path], tmp_path: Path) -> None:
    """Its rate is not known before, and what was before it is not missing."""
    options = {"device": "gard", "may_come": True, "retry_s": (0.1,), "after": "found", "frames": 24_000}
    running = hear(**options, output=str(tmp_path / "heard"))
    heard = until(running, state="lost")
    assert "no microphone is called 'gard'; found: 'usbmic'" in heard[-1]["reason"]
    config = running.rig / "alsa.conf"
    config.write_text(config.read_text().replace("pcm.other", "pcm.garden"))
    heard += until(running, state="found")
    assert (heard[-1]["lost"], heard[-1]["reason"]) == (0, "audio starts now")
    assert running.process.wait(MANY_S) == 0
    piece = np.load(tmp_path / "heard.npz")["samples"][-12_000:, 0]
    played, rate_hz = soundfile.read(wavs["other"], dtype="float32")
    assert likeness(piece, soxr.resample(np.tile(played, 2), rate_hz, 48_000)) > 0.99


def test_one_that_may_come_and_cannot_be_opened_at_first_is_heard_later(
    virtual_microphone: Plug, wavs: dict[str, Path]
) -> None:
    options = json.dumps({"device": "usbmic", "may_come": True, "retry_s": (0.1,)})
    broken = f"echo error > $VMIC_DIR/usbmic.ctl; exec {sys.executable} {RECORDER} '{options}'"
    running = virtual_microphone(["sh", "-c", broken], **wavs)
    assert "Input/output error" in until(running, state="lost")[-1]["reason"]
    running.ctl("usbmic", "ok")
    assert until(running, state="found")[-1]["lost"] == 0


# ----- what cannot be opened


def test_a_name_that_no_microphone_has_says_what_there_is(hear: Plug) -> None:
    failed = next(lines(hear(device="nope")))
    assert failed["error"] == "DeviceError"
    assert failed["reason"].startswith("no microphone is called 'nope'; found: 'usbmic', 'stereo', 'other', 'default'")


def test_a_channel_that_it_does_not_have_says_how_many_there_are(hear: Plug) -> None:
    failed = next(lines(hear(device="stereo", channel=3)))
    assert failed["reason"] == "stereo has no channel 3; give one from 1 to 2"


def test_a_device_that_cannot_be_opened_says_why(virtual_microphone: Plug, wavs: dict[str, Path]) -> None:
    options = json.dumps({"device": "usbmic"})
    broken = f"echo error > $VMIC_DIR/usbmic.ctl; exec {sys.executable} {RECORDER} '{options}'"
    failed = until(virtual_microphone(["sh", "-c", broken], **wavs), error="DeviceError")[-1]
    assert failed["reason"].startswith("usbmic cannot be opened: ")
    assert "Input/output error" in failed["reason"]
