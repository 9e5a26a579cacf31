"""What archives and long runs cost before the first window: ``python -m benchmarks.cluster [plan|steps|rate]``.

``plan``   CPU time and memory of planning lists of 1,000 to a million recordings that do not exist
``steps``  the same of a training's plan of steps
``rate``   CPU-seconds an hour of audio, and a table that extrapolates to 200,000 hours
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast.storage import Folder
from flexiast.training.recipe import PRESETS, Training
from flexiast.training.sampling import Plan
from flexiast_runtime.batch.archive import Archive, Task
from flexiast_runtime.batch.archive_run import Engine, prepare_run, run_in_process
from flexiast_runtime.batch.formats import Format
from flexiast_runtime.batch.ledger import Recording, open_ledger
from flexiast_runtime.batch.runner import Job
from flexiast_runtime.batch.tasks import plan_tasks, spool_recordings
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend

LISTS = (1_000, 10_000, 100_000, 1_000_000)
HOURS = 200_000
RATE_HZ = 16_000


def main() -> None:
    parts: dict[str, Callable[[], None]] = {"plan": plan, "steps": steps, "rate": rate}
    parts[sys.argv[1] if len(sys.argv) > 1 else "plan"]()


def plan() -> None:
    """Each list in a process of its own, so that its peak of memory is its own."""
    print("recordings    CPU s   µs each   peak MB")
    for count in LISTS:
        done = subprocess.run(
            [sys.executable, "-c", f"from benchmarks.cluster import plan_list; plan_list({count})"],
            check=True,
            capture_output=True,
            text=True,
        )
        print(done.stdout, end="")


def plan_list(count: int) -> None:
    started_s = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        recordings = spool_recordings(_invent_recordings(count))
        tasks = plan_tasks(recordings, open_ledger(Folder(place), {}), 16, lambda _: ())
        assert len(tasks) == -(-count // 16)
    cpu_s = time.process_time() - started_s
    print(f"{count:10,} {cpu_s:8.2f} {1e6 * cpu_s / count:9.1f} {_peak_mb():9.0f}")


def _invent_recordings(count: int) -> Iterator[Recording]:
    for number in range(count):
        name = f"site-{number // 10_000:03}/2026{number // 700 % 12 + 1:02}/AudioMoth_{number:08}.WAV"
        yield Recording(f"s3://archive/{name}", 115_200_044, f"{number:032x}", name)


def steps() -> None:
    spec = Spec.validate_fields(
        frontend=FrontendSpec.validate_fields(sample_rate_hz=RATE_HZ, window_samples=160_000, mean=0.0, std=1.0),
        network=PRESETS["nano"],
        base_patch=PatchSize(16, 16),
        trained_patches=(PatchSize(16, 16),),
        task="multi",
        labels=("a", "b"),
    )
    print("steps        growth   CPU s   peak MB more")
    for count, growth in ((200_000, 0.0), (6_000_000, 0.0), (200_000, 1.0)):
        before, started_s = _peak_mb(), time.process_time()
        made = Plan(spec, Training(batch_size=32, batch_growth=growth), 2_000_000, -(-count * 32 // 2_000_000))
        print(f"{len(made):9,} {growth:8g} {time.process_time() - started_s:8.2f} {_peak_mb() - before:8.1f}")


def rate() -> None:
    """Files of 10 s and of 10 minutes, at the finest, the best and the fastest size."""
    bundle = Bundle.open(find_bundle("sounds"))
    patches = sorted(bundle.manifest.patches, key=bundle.manifest.spec.tokens)
    print(f"size     file   CPU-s an hour   CPU-hours for {HOURS:,} h   days on 64 cores")
    for patch in dict.fromkeys((patches[-1], bundle.manifest.best_patch, patches[0])):
        for seconds, files in ((10, 24), (600, 1)):
            cpu_s, _ = _classify(bundle, patch, seconds, files, _alone)
            hour_s = cpu_s / (seconds * files) * 3600
            hours = hour_s * HOURS / 3600
            print(f"{patch!s:8} {seconds:4} s {hour_s:15.1f} {hours:26,.0f} {hours / 64 / 24:18.1f}")


def _alone(archive: Archive, tasks: list[Task]) -> object:
    return run_in_process(archive, tasks, print, lambda: False, lambda: None)


def _classify(bundle: Bundle, patch: PatchSize, seconds: int, files: int, engine: Engine) -> tuple[float, float]:
    """CPU-seconds of the tasks and seconds on the clock, on noise that is no silence and holds no event."""
    settings = DetectionSettings.from_frontend(bundle.manifest.spec.frontend)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = 0.02 * np.random.default_rng(0).standard_normal(seconds * RATE_HZ)
        for number in range(files):
            soundfile.write(folder / f"{number}.wav", noise, RATE_HZ)
        paths = sorted(folder.glob("*.wav"))
        recordings = [Recording(str(path), path.stat().st_size, "1", path.name) for path in paths]
        archive = Archive(
            Job(bundle.folder, patch, None, Backend.CPU, settings), f"{name}/out", Format.PARQUET, "sounds"
        )
        run = prepare_run(archive, bundle.manifest.spec, recordings, 16)
        started_s = time.perf_counter()
        cpu_s = sum(report.cpu_s for report in run.reports(engine))
        return cpu_s, time.perf_counter() - started_s


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
