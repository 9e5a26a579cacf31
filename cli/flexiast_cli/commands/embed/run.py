"""The work of `flexiast embed`: embed each window of recordings and write vectors and places. Needs torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flexiast.arrays import Double, Float
from flexiast.checkpoint import load_checkpoint
from flexiast.data.audio import check_bad_files, read_audio
from flexiast.errors import DataError, UsageError
from flexiast.evaluation.evaluate import Windows, classify
from flexiast.extras import require
from flexiast.files import atomic, check_new_output, write_atomically
from flexiast.frontend import Frontend
from flexiast.networks import Embedder, load_model
from flexiast.spec import PatchSize, Spec
from flexiast_cli.dataset import print_bad_files, search_sounds, track
from flexiast_cli.terminal.console import count_noun, log, stderr
from flexiast_runtime.catalog import find_checkpoint

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Embeddings:
    """Windows of recordings: where each lies, and its vector."""

    paths: Sequence[str]
    """[windows]."""
    start_s: Double
    """[windows]."""
    end_s: Double
    """[windows]; where a recording ends within a window, its end."""
    vectors: Float
    """[windows, width]."""


def run(model: str, recordings: Sequence[Path], output: Path, patch_size: str | None, *, force: bool) -> None:
    """Raises UsageError for an output of another kind, and DataError where there is no audio."""
    if output.suffix not in {".parquet", ".npy"}:
        raise UsageError(f"{output} must end in .parquet or .npy")
    index = output.with_suffix(".csv")
    for path in (output, index) if output.suffix == ".npy" else (output,):
        check_new_output(path, force=force)
    console = stderr()
    embedder = Embedder(load_model(load_checkpoint(find_checkpoint(model), start=True)))
    base = embedder.spec.base_patch
    patch = base if patch_size is None else embedder.spec.check_patch(PatchSize.parse(patch_size))
    if warning := _warn_of_untrained(embedder.spec, patch):
        log(warning)
    files = [file for path in recordings for file in _find_files(path, console)]
    if not files:
        raise DataError(f"there is no audio in {', '.join(map(str, recordings))}")
    found = _embed_files(embedder, files, patch, console)
    if output.suffix == ".parquet":
        _write_parquet(output, found)
    else:
        _write_npy(output, index, found)
    windows, width = found.vectors.shape
    console.print(f"{count_noun(windows, 'vector')} of {width} at {patch} in {output}", markup=False, soft_wrap=True)


def _warn_of_untrained(spec: Spec, patch: PatchSize) -> str | None:
    """A warning for a size below or above all that the model was trained at; what lies between is as good as they."""
    sides = [side for trained in spec.trained_patches for side in (trained.mels, trained.frames)]
    if min(sides) <= min(patch.mels, patch.frames) and max(patch.mels, patch.frames) <= max(sides):
        return None
    return (
        f"Warning: the model was trained at {', '.join(map(str, spec.trained_patches))}, and {patch} lies outside; its "
        "vectors may say little"
    )


def _find_files(path: Path, console: Console) -> Sequence[Path]:
    return search_sounds(path, console).files if path.is_dir() else [path]


def _embed_files(embedder: Embedder, files: Sequence[Path], patch: PatchSize, console: Console) -> Embeddings:
    spec = embedder.spec.frontend
    frontend, step_s = Frontend(spec), spec.window_frames * spec.hop_samples / spec.sample_rate_hz
    paths: list[str] = []
    vectors, starts, ends, errors = [], [], [], []
    for file in track(files, "Embedding", console):
        try:
            waveform = read_audio(file, spec.sample_rate_hz)
        except DataError as error:
            errors.append(error)
            continue
        vectors.append(classify(embedder, Windows([waveform], frontend, every=True, memory_bytes=0), patch))
        start_s = np.round(np.arange(len(vectors[-1])) * step_s, 6)  # a microsecond; the step is whole samples
        starts.append(start_s)
        ends.append(np.minimum(np.round(start_s + spec.window_s, 6), len(waveform) / spec.sample_rate_hz))
        paths += [str(file)] * len(start_s)
    check_bad_files(errors, len(files))
    print_bad_files(errors, console)
    return Embeddings(paths, np.concatenate(starts), np.concatenate(ends), np.concatenate(vectors, dtype=np.float32))


def _write_parquet(output: Path, found: Embeddings) -> None:
    pa, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    width = found.vectors.shape[1]
    columns = {
        "path": pa.array(found.paths, pa.string()),
        "start_s": pa.array(found.start_s),
        "end_s": pa.array(found.end_s),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(found.vectors.ravel()), width),
    }
    with atomic(output) as file:
        parquet.write_table(pa.table(columns), file)


def _write_npy(output: Path, index: Path, found: Embeddings) -> None:
    """The array last: where it stands, its rows are named."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "start_s", "end_s"))
    rows.writerows(zip(found.paths, found.start_s.tolist(), found.end_s.tolist(), strict=True))
    write_atomically(index, text.getvalue().encode("utf-8", "surrogateescape"))
    with atomic(output) as file:
        np.save(file, found.vectors)
