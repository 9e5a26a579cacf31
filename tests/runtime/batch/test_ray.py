"""A cluster of two nodes on this machine that reads from an S3 server: both fail, and every event is there once."""

from __future__ import annotations

import gc
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexiast.errors import GpuError, RemoteError, UsageError, VerificationError
from flexiast.spec import PatchSize
from flexiast.storage import Folder, list_objects
from flexiast_runtime.batch import ray_engine
from flexiast_runtime.batch.archive import Archive, Report, Task, Worker
from flexiast_runtime.batch.archive_run import ERRORS, ArchiveRun, prepare_run, run_in_process
from flexiast_runtime.batch.formats import Format
from flexiast_runtime.batch.ledger import ENTRIES, RUN, Recording
from flexiast_runtime.batch.pace import Pace
from flexiast_runtime.batch.ray_engine import GPU_SHARE, RayCluster, RayOptions, connect
from flexiast_runtime.batch.runner import Job
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend
from tests.s3 import KEYS, Faults, serve_s3

ray = pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")
s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's, botocore's and moto's own

RATE = 16_000
FINE, COARSE = PatchSize(8, 8), PatchSize(16, 16)
DEADLY = "deadly.wav"
PATIENCE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "60000",
}
"""Of Ray with nodes that start slowly: this machine may have more to do."""
AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def node_arguments(cpus: int, gpus: int = 0) -> dict[str, Any]:
    """A small node. With ports of their own, nobody waits for agents that are slow to start on a busy machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in AGENT_PORTS]
        ports = {name: each.getsockname()[1] for name, each in zip(AGENT_PORTS, sockets, strict=True)}
    size = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": 80 << 20, "include_dashboard": False}
    return size | ports


class Nodes:
    """Two nodes of one CPU each, and a head that has none; one of them says that it has a GPU."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args=node_arguments(0))
        self.options = RayOptions(address=str(self._cluster.address))
        self._first = self._cluster.add_node(**node_arguments(1))
        self._cluster.add_node(**node_arguments(1, gpus=1))

    def kill_first(self) -> None:
        self._cluster.remove_node(self._first, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A server, and an environment in which nodes and drivers find it; nodes keep their copies in a new cache."""
    with serve_s3() as (url, faults), pytest.MonkeyPatch.context() as patch:
        own = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "AWS_ENDPOINT_URL": url}
        for name, value in (KEYS | PATIENCE | own).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield faults


@pytest.fixture(scope="module")
def nodes(s3: Faults) -> Iterator[Nodes]:
    running = Nodes()
    yield running
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray forgets processes that it has ended, and waits for none
        running.shutdown()
        del running
        gc.collect()


@pytest.fixture(scope="module")
def recordings(
    s3: Faults, tmp_path_factory: pytest.TempPathFactory, write_audio: Callable[..., Path]
) -> list[Recording]:
    """Of one to five seconds, in a bucket; one that is no sound, and one that no worker survives."""
    folder, rng, files = tmp_path_factory.mktemp("yard"), np.random.default_rng(0), s3fs.S3FileSystem()
    for number in range(16):
        sound = (0.1 * rng.standard_normal(RATE * (number % 5 + 1))).astype(np.float32)
        write_audio(folder / f"{number:02}.wav", sound, RATE)
    (folder / "bad.wav").write_bytes(b"no sound")
    (folder / DEADLY).write_bytes(b"no sound either")
    files.mkdir("yard")
    files.mkdir("results")
    for path in folder.iterdir():
        files.pipe_file(f"yard/{path.name}", path.read_bytes())
    return [Recording(*stored, stored.path.rpartition("/")[2]) for stored in list_objects("s3://yard")]


@pytest.fixture(scope="module")
def archive(s3: Faults, tiny_bundle: Path) -> Archive:
    job = Job(tiny_bundle, FINE, None, Backend.CPU, DetectionSettings(0.1, 0.15, EventRules(0.6)))
    return Archive(job, "s3://results/one-process", Format.PARQUET, "tiny")


@pytest.fixture(scope="module")
def expected(archive: Archive, recordings: list[Recording]) -> list[tuple[object, ...]]:
    """What one process finds."""

    def run_alone(archive: Archive, tasks: Any) -> Iterator[Report]:
        return run_in_process(archive, tasks, print, lambda: False, lambda: None)

    list(prepare(archive, recordings).reports(run_alone))
    found = read(archive)
    assert len(found) > 20
    return found


@dataclass(frozen=True)
class DeadlyArchive(Archive):
    """One whose workers die over a recording, as of a decoder's fault."""

    def load(self, log: Callable[[str], None]) -> Worker:
        worker = super().load(log)

        class DeadlyWorker(Worker):
            def __call__(self, task: Task, patch: PatchSize | None = None) -> Report:
                if any(recording.name == DEADLY for recording in task.recordings):
                    os._exit(1)
                return super().__call__(task, patch)

        return DeadlyWorker(self, worker.engines)


def prepare(archive: Archive, recordings: list[Recording]) -> ArchiveRun:
    return prepare_run(archive, Bundle.open(archive.job.bundle).manifest.spec, recordings, batch_files=2)


def read(archive: Archive) -> list[tuple[object, ...]]:
    names = ("recording", "start_sample", "end_sample", "label", "patch_size")
    place = archive.place.removeprefix("s3://")
    rows = parquet.read_table(f"{place}/events", filesystem=s3fs.S3FileSystem(use_listings_cache=False)).to_pylist()
    return sorted((*(row[name] for name in names), round(row["score"], 4)) for row in rows)


def list_entries(archive: Archive) -> set[str]:
    return Folder(archive.place).names(ENTRIES) - {RUN}


def test_a_cluster_that_loses_a_node_finds_what_one_process_finds(
    nodes: Nodes,
    s3: Faults,
    archive: Archive,
    recordings: list[Recording],
    expected: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a store that cuts connections and throttles, with a recording over which workers die."""
    monkeypatch.setattr(ray_engine, "PASSES", 2)  # a third would end as the second, some seconds later
    deadly = DeadlyArchive(**vars(replace(archive, place="s3://results/lost-node")))
    s3.cut, s3.unavailable, s3.slow_s = 3, 3, 0.02
    cluster, run = connect(nodes.options, print), prepare(deadly, recordings)
    assert cluster.workers == 2
    reports = run.reports(lambda archive, tasks: cluster.run(archive, tasks, lambda: False))
    found = [next(reports)]
    s3.slow_s = 1.0  # so that whoever has a task still has it when the node goes
    nodes.kill_first()
    s3.slow_s = 0.0
    found += reports
    assert read(deadly) == expected
    assert {path.rpartition("/")[2] for report in found for path, _ in report.failed} == {"bad.wav", DEADLY}
    assert {row["recording"].rpartition("/")[2] for row in read_errors(deadly)} == {"bad.wav", DEADLY}
    assert (s3.cut, s3.unavailable) == (0, 0)
    assert prepare(deadly, recordings).already == 16


def read_errors(archive: Archive) -> list[dict[str, Any]]:
    content = Folder(archive.place).read(ERRORS)
    return list(parquet.read_table(io.BytesIO(content or b"")).to_pylist())


DRIVER = """
import pickle, sys
from flexiast_runtime.batch.archive_run import prepare_run
from flexiast_runtime.batch.ray_engine import connect
from flexiast_runtime.bundle import Bundle

archive, recordings, options, pace = pickle.load(open(sys.argv[1], "rb"))
run = prepare_run(archive, Bundle.open(archive.job.bundle).manifest.spec, recordings, 2)
cluster = connect(options, print)
list(run.reports(lambda archive, tasks: cluster.run(archive, tasks, lambda: False, pace)))
"""


def test_a_driver_that_is_killed_and_run_again_finds_each_event_once(
    nodes: Nodes,
    s3: Faults,
    archive: Archive,
    recordings: list[Recording],
    expected: list[tuple[object, ...]],
    tmp_path: Path,
) -> None:
    """At sizes that each task asks for when it begins: there is time enough for the finer one."""
    coarse = replace(archive.job, patch=COARSE)
    archive = replace(archive, job=coarse, place="s3://results/killed", sizes=(COARSE, FINE))
    pace = Pace({FINE: 1e-3, COARSE: 1e-4}, seconds=1e9, workers=1, total_bytes=1e9)
    request = tmp_path / "request"
    request.write_bytes(pickle.dumps((archive, recordings, nodes.options, pace)))
    s3.slow_s = 0.1
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(request)], stdout=subprocess.DEVNULL)
    while len(list_entries(archive)) < 2:
        assert driver.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    s3.slow_s = 0.0
    cluster, run = connect(nodes.options, print), prepare(archive, recordings)
    assert 0 < run.already < 16
    list(run.reports(lambda archive, tasks: cluster.run(archive, tasks, lambda: False, pace)))
    assert read(archive) == expected


def test_what_keeps_workers_from_starting_is_said_and_nothing_is_written(
    nodes: Nodes, archive: Archive, recordings: list[Recording]
) -> None:
    archive = replace(archive, job=replace(archive.job, backend=Backend.CUDA), place="s3://results/none")
    cluster = connect(replace(nodes.options, gpu_share=GPU_SHARE), print)
    assert cluster.workers == 1, "four would share the GPU, but its node has one CPU"
    with pytest.raises(UsageError, match=r"no node of the Ray cluster has the 2 CPUs of a worker; lower --cpus"):
        _ = RayCluster(cluster.ray, RayOptions(cpus_per_worker=2)).workers
    run = prepare(archive, recordings)
    with pytest.raises(GpuError, match=r"on the node .*: "):
        list(run.reports(lambda archive, tasks: cluster.run(archive, tasks, lambda: False)))
    assert not list_entries(archive)


def test_a_node_that_differs_is_named(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ray, "get", lambda files: files)  # without a cluster, nothing stands for them
    files = ray_engine._pack(archive.job.bundle)

    def answer(version: str) -> object:
        tasks = [ray_engine._compress([Task((Recording("x.wav", 1, "1", "x.wav"),))])]
        actor = ray_engine._Actor(pickle.dumps(archive), files, version, None)
        (content,) = actor({"first": [0], "tasks": tasks})["report"]
        return pickle.loads(content)

    older = answer("0.0.1")
    assert isinstance(older, VerificationError)
    assert "on the node" in str(older)
    assert "0.0.1 where the run began" in str(older)
    answer(ray_engine.__version__)  # keeps the bundle
    (encoder,) = tmp_path.rglob("encoder.onnx")
    content = encoder.read_bytes()
    encoder.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = answer(ray_engine.__version__)
    assert isinstance(changed, VerificationError)
    assert "encoder.onnx differs from what was exported" in str(changed)


def test_a_cluster_that_does_not_answer_is_named() -> None:
    with pytest.raises(RemoteError, match=r"Ray cluster at 127\.0\.0\.1:9 cannot be reached.*--ray-address"):
        connect(RayOptions(address="127.0.0.1:9"), print)
