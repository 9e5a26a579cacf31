"""A virtual microphone: a real ALSA device that plays a WAV, under a real PortAudio; faults are injected by name."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

RIG = Path(__file__).parents[2].parent / "shared" / "rigs" / "virtual_mic.sh"


class Plugged:
    """A program that runs with virtual microphones; its stdout is a text pipe."""

    def __init__(self, program: list[str], wavs: dict[str, Path], folder: Path) -> None:
        microphones = [word for name, wav in wavs.items() for word in ("-m", f"{name}={wav}")]
        folder.mkdir()
        self._folder, self.errors = folder, folder / "stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [RIG, *microphones, "--", *program],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ
                | {"TMPDIR": str(folder), "VMIC_QUIET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    @property
    def rig(self) -> Path:
        """The folder that holds `alsa.conf`, which a test may edit, and the faults."""
        return next(self._folder.glob("vmic.*"))

    def ctl(self, name: str, word: str) -> None:
        """unplug, error, freeze, mute, drift=PPM, late=MS, ok"""
        subprocess.run([RIG, "ctl", name, word], check=True, env=os.environ | {"VMIC_DIR": str(self.rig)})

    def read(self) -> str:
        """The program's next line; fails with what it wrote to stderr when there is none."""
        assert self.process.stdout is not None
        line: str = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()}: {self.errors.read_text()}"
        return line

    def close(self) -> None:
        with self.process:  # which waits, and closes the pipe
            self.process.terminate()  # the wrapper ends what it started


@functools.lru_cache
def _missing() -> str:
    """What the rig lacks here; nothing where it runs."""
    if not RIG.is_file():
        return f"{RIG} is absent"
    if not shutil.which("gcc") or not shutil.which("setpriv"):
        return "the virtual microphone needs gcc and setpriv"
    checked = subprocess.run([RIG, "check"], check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = {"libportaudio yes", "libasound2-dev yes"}
    return "" if wanted <= set(checked) else "the virtual microphone needs libportaudio2 and libasound2-dev"


@pytest.fixture
def virtual_microphone(tmp_path: Path) -> Iterator[Callable[..., Plugged]]:
    """``virtual_microphone([program, …], usbmic=wav)`` starts a program that finds the microphone `usbmic`."""
    if reason := _missing():
        pytest.skip(reason)
    with ExitStack() as stack:

        def plug(program: list[Any], **wavs: Path) -> Plugged:
            number = len(list(tmp_path.glob("rig-*")))
            plugged = Plugged([str(word) for word in program], wavs, tmp_path / f"rig-{number}")
            stack.callback(plugged.close)
            return plugged

        yield plug
