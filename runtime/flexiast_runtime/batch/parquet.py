"""Events and failures as Parquet: one row each, with the units of the columns in their metadata."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from flexiast.extras import require
from flexiast_runtime.batch.formats import Result
from flexiast_runtime.schema import SCHEMA_VERSION

EVENT_COLUMNS = {
    "recording": ("string", "", "Path or URL of the recording"),
    "label": ("string", "", "What was recognised"),
    "start_s": ("float64", "s", "Where it begins, from the start of the recording"),
    "end_s": ("float64", "s", "Where it ends"),
    "score": ("float32", "1", "Highest smoothed score, 0 to 1"),
    "patch_size": ("string", "mel bins x frames", "Patch size that gave the score"),
    "channel": ("int16", "", "The only channel used, from 1; null for the mix of all"),
    "start_sample": ("int64", "samples", "First sample, at sample_rate_hz"),
    "end_sample": ("int64", "samples", "One past the last sample"),
    "sample_rate_hz": ("int32", "Hz", "Rate of the model, which the samples count"),
    "id": ("string", "", "The same for the same event in every run"),
    "model": ("string", "", "Model as it was named"),
}
"""Name → type, unit, meaning."""

ERROR_COLUMNS = {
    "recording": ("string", "", "Path or URL of the recording"),
    "error": ("string", "", "Why it has no result, and what to do"),
}


def write_events(results: Iterable[Result], model: str) -> bytes:
    """A whole Parquet file of the events of recordings, in their order."""
    rows = [
        {
            "recording": str(result.path),
            "label": event.label,
            "start_s": event.start_s,
            "end_s": event.end_s,
            "score": event.score,
            "patch_size": str(event.patch),
            "channel": event.channel,
            "start_sample": event.start_sample,
            "end_sample": event.end_sample,
            "sample_rate_hz": event.sample_rate_hz,
            "id": event.id,
            "model": model,
        }
        for result in results
        for event in result.events
    ]
    return _write(rows, EVENT_COLUMNS)


def write_errors(errors: Iterable[tuple[str, str]]) -> bytes:
    """A whole Parquet file of recordings and why each has no result."""
    return _write([{"recording": path, "error": error} for path, error in errors], ERROR_COLUMNS)


def _write(rows: list[dict[str, Any]], columns: dict[str, tuple[str, str, str]]) -> bytes:
    pyarrow, parquet = require("pyarrow", "cluster"), require("pyarrow.parquet", "cluster")
    fields = [
        pyarrow.field(name, getattr(pyarrow, kind)(), metadata={"unit": unit, "description": meaning})
        for name, (kind, unit, meaning) in columns.items()
    ]
    schema = pyarrow.schema(fields, metadata={"flexiast.schema_version": SCHEMA_VERSION})
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()
