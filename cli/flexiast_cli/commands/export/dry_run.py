"""`flexiast export --dry-run`: what an export would write, and how fast its engines would be."""

from __future__ import annotations

from rich.table import Table

from flexiast.errors import DataError
from flexiast.spec import PatchSize
from flexiast_cli.commands.export.job import Job
from flexiast_cli.terminal.console import log, print_json, stdout
from flexiast_export.graph import embedder
from flexiast_runtime.hardware import platform
from flexiast_runtime.hardware.machine import read_settings
from flexiast_runtime.profiling.profiles import newest


def show_plan(job: Job, *, as_json: bool) -> None:
    """Print sizes, operations and bytes of the graphs, which are built in memory; nothing is written."""
    spec, opset = job.spec, job.opset
    encoders = {name: graph.ByteSize() for name, graph in job.encoders().items()}
    sizes = {patch: embedder(spec, job.weights, patch, opset).ByteSize() for patch in job.patches}
    total = sum(encoders.values()) + sum(sizes.values())
    expected = _estimate_ms(job)
    if as_json:
        graphs = [
            {
                "patch_size": str(patch),
                "tokens": spec.tokens(patch),
                "gmac": spec.gmac(patch),
                "bytes": size,
                "expected_ms": expected[patch],
            }
            for patch, size in sizes.items()
        ]
        print_json({"encoders": encoders, "variants": graphs, "bytes": total})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    timed = list(dict.fromkeys(name for times in expected.values() for name in times))
    for name in ("patch", "tokens", "GMAC", "embedder", *(f"≈ ms {name}" for name in timed)):
        table.add_column(name, justify="left" if name == "patch" else "right")
    for patch, size in sizes.items():
        table.add_row(
            str(patch),
            f"{spec.tokens(patch):,}",
            f"{spec.gmac(patch):.3f}",
            f"{size / 1e6:.2f} MB",
            *(f"{expected[patch][name]:.2f}" for name in timed),
        )
    console = stdout()
    console.print(table)
    console.print()
    for name, size in encoders.items():
        console.print(f"One {name} encoder of {size / 1e6:.1f} MB serves all sizes.")
    if timed:
        console.print("≈ ms: median latency on this machine, between the sizes that `flexiast profile` measured.")
    console.print(f"{total / 1e6:.1f} MB in all; nothing was written.")


def _estimate_ms(job: Job) -> dict[PatchSize, dict[str, float]]:
    """Estimates by size and precision, from the newest profile of these weights here; empty where there is none."""
    try:
        profile = newest(job.source_sha256, platform.describe_machine(), read_settings())
    except DataError as error:
        log(str(error))
        profile = None
    return {
        patch: {
            name: ms
            for name in job.precisions
            if profile is not None and (ms := profile.estimate_ms(job.spec.gmac(patch), name)) is not None
        }
        for patch in job.patches
    }
