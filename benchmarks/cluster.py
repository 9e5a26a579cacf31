"""What archives and long runs cost: ``python -m benchmarks.cluster [plan|driver|steps|start|rate|ray|memory|loss]``.

``plan``    CPU time and memory of planning lists of 1,000 to a million recordings that do not exist
``driver``  the same of handing such lists to Ray, whose workers do nothing
``steps``   the same of a training's plan of steps
``start``   the same of what a training does with two million clips in shards before its first step
``rate``    CPU-seconds an hour of audio, and a table that extrapolates to 200,000 hours
``ray``     the rate of two workers of Ray beside that of ``--workers 2``
``memory``  peak of one of Ray's workers on recordings of a minute and of an hour, at 192 kHz
``loss``    500 recordings in S3 on two nodes, one of which is killed after 100; then the events beside one process's
"""

from __future__ import annotations

import io
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import soundfile
from pyarrow import parquet

from flexiast.data.checks import check_trainable, count_labels, warnings_before_reading
from flexiast.data.clips import ShardClips
from flexiast.data.dataset import compute_balanced_weights, load_waveforms, read_dataset
from flexiast.data.shards import INDEX, Entries, Shard, ShardIndex
from flexiast.data.targets import hash_targets
from flexiast.spec import PRESETS, FrontendSpec, PatchSize, Spec
from flexiast.storage import Folder
from flexiast.training.recipe import Training
from flexiast.training.sampling import Plan, ShardOrder
from flexiast_runtime.batch.archive import Archive, Report, Task
from flexiast_runtime.batch.archive_run import Engine, prepare_run, run_in_process, run_in_workers
from flexiast_runtime.batch.formats import Format
from flexiast_runtime.batch.ledger import Recording, open_ledger
from flexiast_runtime.batch.ray_engine import RayOptions, connect
from flexiast_runtime.batch.runner import Job
from flexiast_runtime.batch.tasks import plan_tasks, spool_recordings
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend

LISTS = (1_000, 10_000, 100_000, 1_000_000)
HOURS = 200_000
CLIPS, SHARDS, LABELS = 2_000_000, 500, 527
RATE_HZ = 16_000


def main() -> None:
    parts: dict[str, Callable[[], None]] = {
        "plan": plan,
        "driver": drive,
        "steps": steps,
        "start": start,
        "rate": rate,
        "ray": compare_with_ray,
        "memory": measure_memory,
        "loss": lose_node,
    }
    parts[sys.argv[1] if len(sys.argv) > 1 else "plan"]()


def plan() -> None:
    _run_each("plan_list")


def drive() -> None:
    _run_each("drive_list")


def _run_each(name: str) -> None:
    """Each list in a process of its own, so that its peak of memory is its own."""
    print("recordings    CPU s   µs each   peak MB")
    for count in LISTS:
        done = subprocess.run(
            [sys.executable, "-c", f"from benchmarks.cluster import {name}; {name}({count})"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(done.stdout.splitlines()[-1])


def plan_list(count: int) -> None:
    started_s = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        recordings = spool_recordings(_invent_recordings(count))
        tasks = plan_tasks(recordings, open_ledger(Folder(place), {}), 16, lambda _: ())
        assert len(tasks) == -(-count // 16)
    cpu_s = time.process_time() - started_s
    print(f"{count:10,} {cpu_s:8.2f} {1e6 * cpu_s / count:9.1f} {_peak_mb():9.0f}")


@dataclass(frozen=True)
class IdleArchive(Archive):
    """One whose workers have nothing to load and find nothing."""

    def load(self, say: Callable[[str], None]) -> Callable[[Task], Report]:  # type: ignore[override]
        return Report


def drive_list(count: int) -> None:
    """What the driver takes from the list to the last report; Ray's own processes are not counted."""
    cluster = connect(RayOptions(), print)
    started_s, settings = time.process_time(), DetectionSettings(0.1, 0.15)
    job = Job(find_bundle("sounds"), PatchSize(48, 48), None, Backend.CPU, settings)
    with tempfile.TemporaryDirectory() as place:
        recordings = spool_recordings(_invent_recordings(count))
        tasks = plan_tasks(recordings, open_ledger(Folder(place), {}), 16, lambda _: ())
        archive = IdleArchive(job, place, Format.PARQUET, "sounds")
        done = sum(len(report.task.recordings) for report in cluster.run(archive, tasks, lambda: False))
        assert done == count
    cpu_s = time.process_time() - started_s
    print(f"{count:10,} {cpu_s:8.2f} {1e6 * cpu_s / count:9.1f} {_peak_mb():9.0f}")


def _invent_recordings(count: int) -> Iterator[Recording]:
    for number in range(count):
        name = f"site-{number // 10_000:03}/2026{number // 700 % 12 + 1:02}/AudioMoth_{number:08}.WAV"
        yield Recording(f"s3://archive/{name}", 115_200_044, sha256(name.encode()).hexdigest()[:32], name)


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


def start() -> None:
    """An index as `flexiast data shard` writes it, beside shards that are holes."""
    began_s = time.process_time()

    def say(name: str) -> None:
        print(f"{name:24} {time.process_time() - began_s - made_s:8.1f} {_peak_mb():9.0f}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            [sys.executable, "-c", f"from benchmarks.cluster import *; write_index(Path({place!r}))"], check=True
        )
        print(f"{Path(place, INDEX).stat().st_size / 1e6:.0f} MB\nafter                       CPU s   peak MB")
        made_s = time.process_time() - began_s
        say("imports")
        dataset = read_dataset(Path(place))
        say("reading the index")
        training, validation = (dataset.labelled.split(name) for name in ("train", "val"))
        check_trainable(dataset, Path(place), background=False)
        assert warnings_before_reading(dataset) == []
        training, waveforms, _ = load_waveforms(training, RATE_HZ, budget_bytes=0)
        assert len(count_labels(dataset, training, validation)) == LABELS
        say("splits and labels")
        targets = training.label_targets(dataset.labels)
        probabilities = compute_balanced_weights(targets)
        say("targets")
        numbers = training.clips.numbers if isinstance(training.clips, ShardClips) else np.empty(0, np.int32)
        assert 0 <= ShardOrder(0, numbers, probabilities)[0] < len(waveforms)
        say("the first epoch's order")
        assert len(hash_targets(targets)) == 64
        say("what a resume compares")


def write_index(folder: Path) -> None:
    """Two million clips with one to three of 527 labels each, in 500 shards, one of which validates."""
    rng = np.random.default_rng(0)
    numbers = rng.permutation(CLIPS).reshape(SHARDS, -1)
    shards = []
    for shard, mine in enumerate(numbers.tolist()):
        split = "val" if shard == 0 else "train"
        labels = rng.integers(LABELS, size=(len(mine), 3)).tolist()
        entries = [
            [number, 512 + 321_536 * place, 320_044, sorted(set(labels[place][: 1 + number % 3]))]
            for place, number in enumerate(mine)
        ]
        size = 321_536 * len(mine) + 10_240
        with (folder / f"{split}-{shard:06}.tar").open("wb") as file:
            file.truncate(size)
        shards.append(Shard(name=f"{split}-{shard:06}.tar", split=split, size=size, clips=Entries.parse(entries)))
    names = tuple(f"label {number}" for number in range(LABELS))
    index = ShardIndex(task="multi", split_rule="split column", labels=names, shards=tuple(shards))
    (folder / INDEX).write_text(index.model_dump_json())


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


def compare_with_ray() -> None:
    """At the fastest size, where everything but the engine weighs most. The rate begins with the first report.

    The better of two rounds each, in turn: other programs disturb one of them.
    """
    bundle = Bundle.open(find_bundle("sounds"))
    patch = min(bundle.manifest.patches, key=bundle.manifest.spec.tokens)

    def run_on_ray(archive: Archive, tasks: Sequence[Task]) -> Iterator[Report]:
        return connect(RayOptions(), lambda _: None).run(archive, tasks, lambda: False)

    def run_on_workers(archive: Archive, tasks: Sequence[Task]) -> Iterator[Report]:
        return run_in_workers(archive, tasks, 2, print, lambda: False, lambda: None)

    print("file     engine        × real time   seconds to the first report")
    for seconds, files in ((10, 720), (3_600, 4)):
        rates: dict[str, float] = {}
        for name, engine in 2 * (("--workers 2", run_on_workers), ("Ray", run_on_ray)):
            stamps: list[tuple[float, float]] = []
            _classify(bundle, patch, seconds, files, _Timed(engine, stamps))
            (first_s, _), (last_s, _) = stamps[0], stamps[-1]
            rate = sum(audio_s for _, audio_s in stamps[1:]) / (last_s - first_s)
            rates[name] = max(rates.get(name, 0.0), rate)
            print(f"{seconds:5} s  {name:12} {rate:12,.0f} {first_s:12.1f}", flush=True)
        print(f"{seconds:5} s  Ray has {rates['Ray'] / rates['--workers 2']:.2f} of the rate")


class _Timed:
    """An engine whose reports are stamped: seconds since it began, and seconds of audio."""

    def __init__(self, engine: Engine, stamps: list[tuple[float, float]]) -> None:
        self._engine, self._stamps = engine, stamps

    def __call__(self, archive: Archive, tasks: Sequence[Task]) -> Iterator[Report]:
        started_s = time.perf_counter()
        for report in self._engine(archive, tasks):
            self._stamps.append((time.perf_counter() - started_s, report.audio_s))
            yield report


def measure_memory() -> None:
    bundle = Bundle.open(find_bundle("sounds"))
    patches = sorted(bundle.manifest.patches, key=bundle.manifest.spec.tokens)
    print("size     recording   peak MB of a worker   of which shared")
    for patch in (patches[0], patches[-1]):
        for seconds in (60, 3_600):
            peaks: list[tuple[float, float]] = []

            def run_on_ray(
                archive: Archive, tasks: Sequence[Task], peaks: list[tuple[float, float]] = peaks
            ) -> Iterator[Report]:
                for report in connect(RayOptions(), lambda _: None).run(archive, tasks, lambda: False):
                    peaks += _worker_peaks_mb()
                    yield report

            _classify(bundle, patch, seconds, 1, run_on_ray, rate_hz=192_000)
            peak, shared = max(peaks)
            print(f"{patch!s:8} {seconds:7} s {peak:18.0f} {shared:17.0f}", flush=True)


def _worker_peaks_mb() -> Iterator[tuple[float, float]]:
    """Peak of each of Ray's workers that is a child of ours, and what of its memory is Ray's object store."""
    for process in psutil.Process(os.getpid()).children(recursive=True):
        if "MapWorker" in " ".join(process.cmdline()):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            peak, shared = (int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "RssShmem"))
            yield peak, shared


def lose_node() -> None:
    """The command itself, against an S3 server in this process."""
    import s3fs
    from moto.server import ThreadedMotoServer
    from ray.cluster_utils import Cluster

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys | {"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())})
    store, rng = s3fs.S3FileSystem(use_listings_cache=False), np.random.default_rng(0)
    store.mkdir("yard")
    store.mkdir("results")
    for number in range(500):
        wave, file = 0.01 * rng.standard_normal(10 * RATE_HZ), io.BytesIO()
        for begin in (RATE_HZ * rng.integers(9, size=3)).tolist():
            hz = rng.uniform(300, 5_000)
            wave[begin : begin + RATE_HZ] += 0.3 * np.sin(2 * np.pi * hz / RATE_HZ * np.arange(RATE_HZ))
        soundfile.write(file, wave, RATE_HZ, format="WAV")
        store.pipe_file(f"yard/2026/{number:03}.wav", file.getvalue())
    quiet = {"include_dashboard": False, "object_store_memory": 200 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    first, _ = (cluster.add_node(num_cpus=1, **quiet) for _ in range(2))

    def classify(place: str, *more: str) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("flexiast")
        command = (program, "classify", "sounds", "s3://yard/2026", "-o", f"s3://results/{place}")
        settings = ("--format", "parquet", "--patch-size", "48", "--threshold", "0.1", "--batch-files", "4")
        return subprocess.Popen([*command, *settings, *more])

    run, killed = classify("cluster", "--engine", "ray", "--ray-address", cluster.address), 0
    while run.poll() is None:
        entries = len(store.glob("results/cluster/_done/*.json")) - 1
        if not killed and 4 * entries >= 100:
            cluster.remove_node(first, allow_graceful=False)
            killed = 4 * entries
        time.sleep(0.2)
    print(f"a node killed after {killed} recordings; exit code {run.returncode}", flush=True)
    assert classify("alone").wait() == run.returncode
    tables = [parquet.read_table(f"results/{place}/events", filesystem=store) for place in ("cluster", "alone")]
    rows = [sorted(map(tuple, (row.values() for row in table.to_pylist()))) for table in tables]
    print(f"{len(rows[0]):,} events on the cluster, {len(rows[1]):,} in one process, equal: {rows[0] == rows[1]}")
    cluster.shutdown()
    server.stop()


def _alone(archive: Archive, tasks: Sequence[Task]) -> Iterator[Report]:
    return run_in_process(archive, tasks, print, lambda: False, lambda: None)


def _classify(
    bundle: Bundle, patch: PatchSize, seconds: int, files: int, engine: Engine, rate_hz: int = RATE_HZ
) -> tuple[float, float]:
    """CPU-seconds of the tasks and seconds on the clock, on noise that is no silence and holds no event."""
    settings = DetectionSettings.from_frontend(bundle.manifest.spec.frontend)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = 0.02 * np.random.default_rng(0).standard_normal(10 * rate_hz)
        for number in range(files):
            with soundfile.SoundFile(folder / f"{number}.wav", "w", rate_hz, 1, "PCM_16") as file:
                for _ in range(seconds // 10):
                    file.write(noise)
        paths = sorted(folder.glob("*.wav"))
        recordings = [Recording(str(path), path.stat().st_size, "1", path.name) for path in paths]
        archive = Archive(
            Job(bundle.folder, patch, None, Backend.CPU, settings), f"{name}/out", Format.PARQUET, "sounds"
        )
        run = prepare_run(archive, bundle.manifest.spec, recordings, 16 if seconds < 600 else 1)
        started_s = time.perf_counter()
        cpu_s = sum(report.cpu_s for report in run.reports(engine))
        return cpu_s, time.perf_counter() - started_s


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
