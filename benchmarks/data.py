"""CPU time and memory of reading clips from files and from shards. `python -m benchmarks.data FOLDER_OR_CSV`"""

from __future__ import annotations

import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np

from benchmarks.measure import cpu_ms, heading
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.data.shards import write_shards
from flexiast.data.waveforms import Waveforms

RATE_HZ = 16_000


def epoch(waveforms: Waveforms) -> None:
    """Every clip once, in the random order of a training epoch."""
    for clip in np.random.default_rng(0).permutation(len(waveforms)):
        waveforms[clip]


def main() -> None:
    data = Path(sys.argv[1])
    files = read_dataset(data)
    root = data if data.is_dir() else data.parent
    with tempfile.TemporaryDirectory() as folder:
        write_shards(files, root, Path(folder) / "shards", shard_bytes=20_000_000)
        shards = read_dataset(Path(folder) / "shards")
        from_files, from_shards = (load_waveforms(clips, RATE_HZ, budget_bytes=0)[1] for clips in (files, shards))
        tracemalloc.start()
        kept = load_waveforms(shards, RATE_HZ)[1]
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        heading(f"An epoch of {len(kept):,} clips, {sum(map(len, kept)) / RATE_HZ / 3600:.1f} h, all at random")
        calls = {
            "files, decoded at each access": lambda: epoch(from_files),
            "shards, decoded at each access": lambda: epoch(from_shards),
            "in memory": lambda: epoch(kept),
            "check all headers (files, once)": lambda: load_waveforms(files, RATE_HZ, budget_bytes=0),
            "read the index (shards, once)": lambda: read_dataset(Path(folder) / "shards"),
        }
        for name, milliseconds in cpu_ms(calls, rounds=3).items():
            print(f"{name:32} {milliseconds / 1000:8.2f} s  {1000 * milliseconds / len(kept):8.1f} µs a clip")
        print(f"{'memory, all decoded':32} {held / 1e6:8.0f} MB")


if __name__ == "__main__":
    main()
