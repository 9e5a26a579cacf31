"""What happens on the device stays there, and costs no more than it must: children started as a user starts them."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

FLEXIAST = Path(sys.executable).with_name("flexiast")


def user_environment(home: Path, **variables: str) -> dict[str, str]:
    """What a login shell has: nothing about threads, telemetry or CI (which alone would keep ONNX Runtime silent)."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "COLUMNS": "200", **variables}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).standard_normal(20 * 16_000) / 20
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    return tmp_path / "noise.wav"


@pytest.mark.parametrize(
    "command",
    [
        ("classify", "commands", "RECORDING"),
        ("listen", "commands", "--input", "RECORDING", "--json"),
        ("verify", "commands"),
        ("inspect", "commands"),
        ("doctor",),
        ("devices",),
        ("evaluate", "BUNDLE", "SOUNDS"),
        ("export", "BUNDLE", "--patch-sizes", "20", "-o", "HOME/more.bundle"),
        ("train", "SOUNDS", "-o", "HOME/run", "--epochs", "1", "--patch-sizes", "32"),
    ],
    ids=lambda command: command[0],
)
def test_nothing_leaves_the_device(
    command: tuple[str, ...], tmp_path: Path, recording: Path, bundle: Path, sounds: Path
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace, which lists the connections, is not installed")
    home, log = tmp_path / "home", tmp_path / "connections"
    home.mkdir()
    places = {"RECORDING": str(recording), "BUNDLE": str(bundle), "SOUNDS": str(sounds)}
    arguments = [places.get(word, word.replace("HOME", str(home))) for word in command]
    traced = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,bind", "-o", str(log)]
    finished = subprocess.run(
        [*traced, FLEXIAST, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=user_environment(home),
    )
    if "ptrace" in finished.stderr and not log.stat().st_size:
        pytest.skip("this system does not let one process trace another")
    assert finished.returncode in ((0, 1, 4) if command[0] in ("doctor", "devices") else (0,)), finished.stderr
    assert [line for line in log.read_text().splitlines() if "AF_INET" in line] == []
    left = [
        str(path.relative_to(home))
        for path in home.rglob("*")
        if "onnxruntime" in str(path) or "Microsoft" in str(path)
    ]
    assert left == []


def test_a_user_who_wants_the_telemetry_of_onnx_runtime_is_obeyed() -> None:
    code = "import os, flexiast_runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **variables} if variables else _without(os.environ, "ORT_DISABLE_TELEMETRY"),
        ).stdout.strip()
        for variables in ({}, {"ORT_DISABLE_TELEMETRY": "0"})
    ]
    assert found == ["1", "0"]


def _without(environment: os._Environ[str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


THREADS = """
import sys
from flexiast_cli.main import limit_blas_threads
limit_blas_threads()
import numpy as np
square = np.ones((512, 512), np.float32)
for _ in range(3):
    square @ square
print(len(list(__import__("pathlib").Path("/proc/self/task").iterdir())))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are count_noun in /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread anyway")
def test_products_of_numpy_run_in_one_thread_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    def count(**variables: str) -> int:
        environment = user_environment(tmp_path, **variables)
        finished = subprocess.run([sys.executable, "-c", THREADS], check=True, capture_output=True, env=environment)
        return int(finished.stdout)

    assert count() == 1
    assert count(OPENBLAS_NUM_THREADS="2") == 2
    assert count(OMP_NUM_THREADS="2") == 2


def test_a_clean_environment_takes_no_more_cpu_than_one_thread_of_blas(tmp_path: Path, recording: Path) -> None:
    """CPU time of the whole program. Threads that spin cost 1.7 times as much here, and eight times in real time."""

    def cpu_s(**variables: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [FLEXIAST, "classify", "sounds", recording, "--format", "csv"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=user_environment(tmp_path, **variables),
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    cpu_s()  # the first one reads files that the others find in memory
    clean, single = min(cpu_s() for _ in range(2)), min(cpu_s(OMP_NUM_THREADS="1") for _ in range(2))
    assert clean < 1.35 * single
