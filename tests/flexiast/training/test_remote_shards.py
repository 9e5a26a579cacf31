"""Shards in an object store: each process reads its own, and what fails is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.data.remote_shards import ShardFetcher, shards_of
from flexiast.data.shards import write_shards
from flexiast.errors import DataError, RemoteError, UsageError
from flexiast.storage import RemotePath
from flexiast.training.sampling import ShardOrder
from tests.flexiast.training.test_distributed import (
    ARGUMENTS,
    assert_same_weights,
    await_step,
    finish,
    rank_of,
    sounds,
    start,
)
from tests.s3 import KEYS, Faults, serve_s3

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytestmark = pytest.mark.filterwarnings("default")  # botocore's and moto's own
__all__ = ["sounds", "start"]  # fixtures

SHARDS = RemotePath("s3://clips/shards")
RATE = 16_000


@pytest.fixture(scope="module")
def faults(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A server that holds the sounds in shards of a few clips, and an environment in which it is found."""
    folder = tmp_path_factory.mktemp("shards") / "shards"
    write_shards(read_dataset(sounds), sounds, folder, shard_bytes=60_000)
    with serve_s3() as (url, faults), pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": url}).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.mkdir("clips")
        for path in folder.iterdir():
            files.pipe_file(f"clips/shards/{path.name}", path.read_bytes())
        yield faults


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_clips_are_those_of_the_folder_and_a_copy_is_read_in_place_of_the_store(
    sounds: Path,
    faults: Faults,
) -> None:
    local = read_dataset(sounds)
    _, expected, _ = load_waveforms(local, RATE)
    dataset = read_dataset(SHARDS)
    assert [(clip.labels, clip.split) for clip in dataset.clips] == [(clip.labels, clip.split) for clip in local.clips]
    _, waveforms, _ = load_waveforms(dataset, RATE)
    assert not waveforms.in_memory
    faults.cut, faults.unavailable = 1, 1
    for ours, theirs in zip(waveforms, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (faults.cut, faults.unavailable) == (0, 0)
    shards = shards_of(dataset)
    assert shards is not None
    assert len(shards.shards) > 4
    ShardFetcher(shards.shards).fetch(range(len(shards.shards)), ())
    faults.requests.clear()
    for ours, theirs in zip(waveforms, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert faults.requests == []


def test_a_shard_that_is_not_there_is_named(faults: Faults) -> None:
    files = s3fs.S3FileSystem(use_listings_cache=False)
    dataset = read_dataset(SHARDS)
    shards = shards_of(dataset)
    assert shards is not None
    lost = shards.shards[0]
    content = files.cat_file(lost.url)
    files.rm_file(lost.url)
    try:
        with pytest.raises(DataError, match=rf"{lost} does not exist; copy it again"):
            read_dataset(SHARDS)
        for read in (lambda: ShardFetcher(shards.shards).fetch([0], []), lambda: lost.read(0, 10)):
            with pytest.raises(RemoteError, match=rf"{lost} does not exist"):
                read()
    finally:
        files.pipe_file(lost.url, content)
    with pytest.raises(DataError, match=r"s3://clips/none/shards.json does not exist; give a folder of shards"):
        read_dataset(RemotePath("s3://clips/none"))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_in_each_epoch_every_shard_belongs_to_one_rank(ranks: int, weighted: bool) -> None:
    """And a rank that is alone sees each clip once; with weights it draws as many of each group."""
    shards = np.random.default_rng(0).integers(0, 11, 200).astype(np.int32)
    weights = np.full(200, 1 / 200) if weighted else None
    orders = [ShardOrder(7, shards, weights, rank, ranks) for rank in range(ranks)]
    length = -(-200 // ranks)
    for epoch in range(3):
        owners: dict[int, set[int]] = {}
        for rank, order in enumerate(orders):
            first = epoch * length * ranks
            places = list(order.places(first, length * ranks))
            assert all(place % ranks == rank for place in places)
            clips = [order[place] for place in places]
            for place, clip in zip(places, clips, strict=True):
                owners.setdefault(int(shards[clip]), set()).add(rank)
                assert shards[clip] in order.groups(place)[0]
            if ranks == 1 and not weighted:
                assert sorted(clips) == list(range(200))
            assert clips == [ShardOrder(7, shards, weights, rank, ranks)[place] for place in places]
        assert all(len(each) == 1 for each in owners.values())
        assert weighted or len(owners) == 11
    steps = [sorted(place for order in orders for place in order.places(first, 7)) for first in range(0, 70, 7)]
    assert steps == [list(range(first, first + 7)) for first in range(0, 70, 7)]


def test_fewer_shards_than_ranks_are_refused() -> None:
    with pytest.raises(UsageError, match="2 shards cannot be shared by 3 processes"):
        ShardOrder(0, np.array([0, 1, 1], np.int32), None, 0, 3)


def test_a_run_on_two_processes_goes_on_after_one_is_killed(
    faults: Faults,
    start: Path,
    tmp_path: Path,
) -> None:
    def launch(run: Path, *options: str) -> subprocess.Popen[str]:
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options)
        train = ("-m", "flexiast_cli.main", "train", str(SHARDS), "-o", run, "--init", start, *ARGUMENTS)
        return subprocess.Popen(
            [*torchrun, *map(str, train)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )

    assert "16 clips train" in finish(launch(tmp_path / "whole"))
    faults.cut, faults.unavailable = 2, 2
    process = launch(tmp_path / "killed", "--max-restarts", "1")
    await_step(50, tmp_path / "killed", process)
    rank_of(process, 1).kill()
    assert finish(process).count("step 196/196") == 1
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")
