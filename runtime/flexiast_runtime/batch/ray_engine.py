"""Runs the tasks of an archive with Ray Data, on as many machines as a Ray cluster has.

Ray schedules: it starts an actor for every free share of a node, gives each the next tasks, starts again those of a
node that is lost, and takes new nodes as they come. The bundle travels with the tasks, so a node needs flexiast and
nothing else. A task that is run twice writes the same files twice.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from flexiast import __version__
from flexiast.errors import FlexiastError, RemoteError, UsageError, VerificationError
from flexiast.extras import require
from flexiast.log import Log, log_nothing
from flexiast.manifest import MANIFEST
from flexiast.paths import cache_folder
from flexiast_runtime.batch.archive import Archive, Report, Task, Worker
from flexiast_runtime.batch.archive_run import give_up
from flexiast_runtime.batch.pace import Pace

BLOCKS = 1_500
"""Of tasks, at most, that Ray Data is given. Each costs the driver 10 kB, and is run as a whole."""
TASK_RETRIES = 1
"""Of a block over which an actor dies or a node is lost."""
PASSES = 3
"""Over what is left of an archive: all of it in blocks, then twice what was lost with actors, one by one."""
GPU_SHARE = 0.25
"""Of a GPU for each worker: decoding and features keep four of them busy with one."""
ANSWER_S = 5.0
"""For the address of a cluster to answer."""
OBJECT_STORE_BYTES = 200 << 20
"""On a machine of our own: tasks and reports are small, recordings never pass through Ray."""


@dataclass(frozen=True)
class RayOptions:
    """Where the tasks run, and what each actor takes."""

    address: str | None = None
    """``HOST:PORT``, or ``auto`` for the cluster that this machine is a node of; None starts Ray here"""
    cpus_per_worker: float = 1.0
    gpu_share: float | None = None
    """Of a GPU for each worker; None where they need none"""


class RayCluster:
    """A cluster that ``connect`` found."""

    def __init__(self, ray: Any, options: RayOptions) -> None:
        self.ray, self.options = ray, options

    @property
    def workers(self) -> int:
        """That its nodes have room for; raises UsageError for none, for which Ray would wait without end."""
        room = sum(self._count_workers(node["Resources"]) for node in self.ray.nodes() if node["Alive"])
        if not room:
            gpu = self.options.gpu_share is not None
            raise UsageError(
                f"no node of the Ray cluster has the {self.options.cpus_per_worker:g} CPUs{' and the GPU' * gpu} of a "
                f"worker; lower --cpus-per-worker, {'leave --backend out, ' * gpu}or add nodes (`ray status` lists "
                "what they have)"
            )
        return room

    def _count_workers(self, resources: Mapping[str, float]) -> int:
        room = resources.get("CPU", 0) / self.options.cpus_per_worker
        if self.options.gpu_share is not None:
            room = min(room, resources.get("GPU", 0) / self.options.gpu_share)
        return int(room + 1e-9)  # 1 // 0.1 is 9

    def run(
        self, archive: Archive, tasks: Sequence[Task], stopped: Callable[[], bool], pace: Pace | None = None
    ) -> Iterator[Report]:
        """Run the tasks in any order; ends early when ``stopped()``. Disconnects at the end.

        Raises what a worker raises when it loads the model, VerificationError for a node with another version of
        flexiast, and RemoteError for a cluster that breaks down.
        """
        try:
            yield from self._run_all(archive, tasks, stopped, pace)
        except (self.ray.exceptions.RayError, ConnectionError) as error:
            raise RemoteError(
                f"the Ray cluster ended the run: {_last_line(error)}; look at its nodes (`ray status`) and run the "
                "same command again, which goes on with what is missing"
            ) from error
        finally:
            self.ray.shutdown()

    def _run_all(
        self, archive: Archive, tasks: Sequence[Task], stopped: Callable[[], bool], pace: Pace | None
    ) -> Iterator[Report]:
        for _ in range(PASSES):
            if not tasks:
                return
            reported = bytearray(len(tasks))
            for number, report in self._run_once(archive, tasks, stopped, pace):
                reported[number] = True
                yield report
            if stopped():
                return
            lost = (tasks[number] for number, done in enumerate(reported) if not done)
            tasks = [one for task in lost for one in _take_apart(task)]
        for task in tasks:
            yield give_up(archive, task, "workers died while they ran it, in each of several tries")

    def _run_once(
        self, archive: Archive, tasks: Sequence[Task], stopped: Callable[[], bool], pace: Pace | None
    ) -> Iterator[tuple[int, Report]]:
        """Each task's number and report, as they come; a block over which actors died has none."""
        ray, workers = self.ray, min(self.workers, len(tasks))
        with warnings.catch_warnings():
            # `max_task_retries` has no name of its own yet; without it, a recording that kills its reader would
            # kill one actor after the other for ever.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            dataset = _to_dataset(tasks).map_batches(
                _Actor,
                batch_size=1,
                # one task in hand and one waiting: more would wait behind a long one while others rest
                compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=self.options.cpus_per_worker,
                num_gpus=self.options.gpu_share,
                max_task_retries=TASK_RETRIES,
                fn_constructor_kwargs={
                    "archive": pickle.dumps(archive),
                    # a reference: Ray Data prints, copies and keeps what an actor is made with
                    "files": ray.put(_pack(archive.job.bundle)),
                    "version": __version__,
                    "pace": None if pace is None else _serve_pace(ray, pace),
                },
            )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for number, content in zip(batch["number"].to_pylist(), batch["report"].to_pylist(), strict=True):
                answer = pickle.loads(content)
                if isinstance(answer, FlexiastError):
                    raise answer
                yield number, answer
            if stopped():
                return


def connect(options: RayOptions, log: Log) -> RayCluster:
    """A cluster; raises RemoteError, within seconds where none answers, and MissingExtraError."""
    # Ray would report its use to its makers; no command opens a connection unasked.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = require("ray", "cluster")
    require("ray.data", "cluster")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # an actor that dies is an error there, and a matter of ours
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "ignore_reinit_error": True}
    try:
        if options.address is None:
            # "local": without it Ray would join whatever cluster runs on this machine.
            ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        else:
            _check_answers(options.address)
            ray.init(address=options.address, **quiet)
    except FlexiastError:
        raise
    except Exception as error:  # Ray raises the root of all where a node does not start in time
        raise RemoteError(
            f"the Ray cluster at {options.address or 'this machine'} cannot be reached: {_last_line(error)}; start one "
            "with `ray start --head`, or give its address with --ray-address"
        ) from error
    nodes = [node for node in ray.nodes() if node["Alive"]]
    log(f"Ray: {len(nodes)} node{'s' * (len(nodes) != 1)}, {ray.cluster_resources().get('CPU', 0):g} CPUs")
    return RayCluster(ray, options)


def _check_answers(address: str) -> None:
    """Raise OSError for an address at which nothing listens; Ray itself would wait for minutes."""
    if "://" in address:
        raise UsageError(
            f"{address} is an address of Ray Client; run flexiast on a node of the cluster, and give HOST:PORT or auto"
        )
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()


def _last_line(error: BaseException) -> str:
    """What an error of Ray is about: it tells of its causes first, with their tracebacks."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _take_apart(task: Task) -> list[Task]:
    return [task] if task.piece is not None else [Task((recording,)) for recording in task.recordings]


def _to_dataset(tasks: Sequence[Task]) -> Any:
    """The tasks as a dataset with a row for each block, which is run as a whole: its first number and its texts."""
    data = require("ray.data", "cluster")
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    return data.from_blocks(_Blocks(tasks))  # from_arrow would start a task of Ray's for each, and hold 50 kB of it


class _Blocks:
    """Tables that are made as they are read: Ray Data reads them twice, and holds none of them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks

    def __iter__(self) -> Iterator[Any]:
        pyarrow, count = require("pyarrow", "cluster"), len(self._tasks)
        each = -(-count // BLOCKS)
        for begin in range(0, count, each):
            chosen = (self._tasks[number] for number in range(begin, min(count, begin + each)))
            yield pyarrow.table({"first": [begin], "tasks": [_compress(chosen)]})


def _compress(tasks: Iterable[Task]) -> bytes:
    """Names of an archive are much alike: a fifth of their bytes is left."""
    return zlib.compress(json.dumps([task.to_json() for task in tasks]).encode())


class _Actor:
    """A worker on a node: loads the model once, and answers with a pickled report or FlexiastError.

    An actor that raised would be started again, or its tasks lost, and why would stand in a log of Ray's.
    """

    def __init__(self, archive: bytes, files: Any, version: str, pace: Any) -> None:
        self._pace = pace
        self._worker: Worker | None = None
        self._failure: FlexiastError | None = None
        self._node = socket.gethostname()
        try:
            self._worker = self._load(archive, files, version)
        except FlexiastError as error:
            self._failure = type(error)(f"on the node {self._node}: {error}")

    def _load(self, archive: bytes, files: Any, version: str) -> Worker:
        if version != __version__:
            raise VerificationError(f"flexiast is {__version__} here, and {version} where the run began; install one")
        unpickled: Archive = pickle.loads(archive)
        here = replace(unpickled, job=replace(unpickled.job, bundle=_unpack(require("ray", "cluster").get(files))))
        return here.load(log_nothing)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (first,), (content,) = batch["first"], batch["tasks"]
        reports = [pickle.dumps(self._run(text)) for text in json.loads(zlib.decompress(content))]
        return {"number": [int(first) + each for each in range(len(reports))], "report": reports}

    def _run(self, text: str) -> Report | FlexiastError:
        if self._worker is None:
            return self._failure or FlexiastError("the worker has no model")
        task = Task.from_json(text)
        try:
            if self._pace is None:
                return self._worker(task)
            report = self._worker(task, require("ray", "cluster").get(self._pace.choose.remote()))
            self._pace.add.remote(report.patch, report.audio_s, report.busy_s, task.size)
        except FlexiastError as error:
            return error
        except Exception as error:  # noqa: BLE001 (the driver raises it)
            return FlexiastError(f"on the node {self._node}: {task.recordings[0].path} failed with {error!r}")
        return report


def _serve_pace(ray: Any, pace: Pace) -> Any:
    """An actor that all workers ask for the size of their next task, on the driver's node: no other may end it."""

    class PaceServer:
        def __init__(self, pace: Pace) -> None:
            self._pace, self._started_s = pace, time.monotonic()

        def choose(self) -> Any:
            return self._pace.choose(time.monotonic() - self._started_s)

        def add(self, *measured: Any) -> None:
            self._pace.add(*measured)

    affinity = require("ray.util.scheduling_strategies", "cluster").NodeAffinitySchedulingStrategy
    here = affinity(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(PaceServer).remote(pace)


def _pack(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(bundle.iterdir()) if path.is_file()}


def _unpack(files: dict[str, bytes]) -> Path:
    """The bundle in a folder of this node, written by the first of its workers; each verifies what it reads of it."""
    folder = cache_folder() / "bundles" / sha256(files[MANIFEST]).hexdigest()[:40]
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as stage:
            whole = Path(stage, "bundle")
            whole.mkdir()
            for name, content in files.items():
                (whole / name).write_bytes(content)
            whole.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another worker was first
            raise RemoteError(
                f"the model cannot be kept in {folder.parent}: {error.strerror}; make room there, or set XDG_CACHE_HOME"
            ) from error
    return folder
