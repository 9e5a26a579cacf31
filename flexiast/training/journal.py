"""What a run leaves besides weights: ``run.json``, what it was, and ``metrics.jsonl``, how it went."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flexiast
from flexiast.errors import ModelError
from flexiast.extras import require
from flexiast.files import write_atomically
from flexiast.processor import read_processor_name

SCHEMA_VERSION = "1.0"


class Journal:
    """Writes one run's folder; a resumed run goes on at the ``step`` where its state was saved.

    ``torn`` says that the last line of metrics.jsonl was cut off, by a crash say, and is dropped. Any other damage
    raises ModelError.
    """

    def __init__(
        self, run: Path, header: dict[str, Any], *, step: int | None = None, tensorboard: bool = False
    ) -> None:
        self._run, self._header = run, header
        self._began, self._cpu = time.monotonic(), time.process_time()
        earlier, self.torn = _read_lines(run / "metrics.jsonl") if step is not None else ([], False)
        self._written = False
        self._board = None
        if tensorboard:
            writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
            self._board = writer(str(run / "tensorboard"), purge_step=(step or 0) + 1)
        run.mkdir(parents=True, exist_ok=True)
        self._lines = [line for line in earlier if line["step"] <= (step or 0)]
        self._earlier_s = self._lines[-1]["wall_s"] if self._lines else 0.0
        self._earlier_cpu_s = self._lines[-1]["cpu_s"] if self._lines else 0.0
        write_atomically(run / "metrics.jsonl", "".join(map(_line, self._lines)).encode())
        # A resumed run's still says how its best weights came to be.
        if step is None or not (run / "run.json").is_file():
            self.describe({})

    def describe(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write run.json: the header, versions and machine, and what is known of the outcome; returns what it wrote."""
        document = {"schema_version": SCHEMA_VERSION} | self._header | surroundings() | self._measure_time() | outcome
        self._write(document)
        return document

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; numbers go to TensorBoard too."""
        self._written = True
        line = {"step": step} | values | self._measure_time()
        with (self._run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(line))
        if self._board is not None:
            for name, value in values.items():
                for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                    self._board.add_scalar(f"{name}/{key}" if key else name, number, step)

    def close(self) -> None:
        """Write into run.json what was spent in all, also after the best measurement; nothing if nothing was done."""
        if self._written:
            self._write(json.loads((self._run / "run.json").read_text("utf-8")) | self._measure_time())
        if self._board is not None:
            self._board.close()

    def _write(self, document: dict[str, Any]) -> None:
        self._written = True
        write_atomically(self._run / "run.json", json.dumps(document, indent=1).encode() + b"\n")

    def _measure_time(self) -> dict[str, float]:
        """Wall and CPU seconds of this process, those before a resume included."""
        return {
            "wall_s": round(self._earlier_s + time.monotonic() - self._began, 1),
            "cpu_s": round(self._earlier_cpu_s + time.process_time() - self._cpu, 1),
        }


def surroundings() -> dict[str, Any]:
    """Versions, machine and time: what a figure needs beside it."""
    cuda = torch.cuda.is_available()
    return {
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "versions": {
            "flexiast": flexiast.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "git_revision": git_revision(),
        "machine": {
            "system": platform.platform(),
            "processor": read_processor_name(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if cuda else None,
        },
    }


def cores() -> int:
    """Those that this process may use, where the system tells; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_revision() -> str | None:
    """Commit of the source that runs, with ``+`` when it has changes; None where git does not track it."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:  # an installed copy may lie inside somebody else's clone
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        command = [*git, "describe", "--always", "--abbrev=40", "--dirty=+"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The whole lines, and whether the last one was cut off; raises ModelError for one that no run wrote."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    records: list[dict[str, Any]] = []
    for number, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
            numbers = [record[name] for name in ("step", "wall_s", "cpu_s")]
        except (ValueError, KeyError, TypeError) as error:
            raise _line_error(path, number) from error
        if not all(isinstance(value, int | float) for value in numbers):
            raise _line_error(path, number)
        records.append(record)
    return records, len(whole) < len(lines)


def _line_error(path: Path, number: int) -> ModelError:
    return ModelError(f"{path} line {number} is damaged; remove the line, or mend it from a copy, and resume again")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
