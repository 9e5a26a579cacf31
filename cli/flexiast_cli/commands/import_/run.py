"""The work of `flexiast import`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flexiast.checkpoint import save_checkpoint
from flexiast.importing import ImportOptions, import_model, read_labels
from flexiast.spec import PatchSize
from flexiast_cli.model_card import describe_spec
from flexiast_cli.terminal.console import stderr


def run(
    source: Path,
    output: Path,
    labels: Path | None,
    *,
    task: Literal["single", "multi"] | None,
    mean: float | None,
    std: float | None,
    frames: int | None,
    stride: str | None,
    half: bool,
) -> None:
    """Raises what `import_model` raises for weights that cannot be taken."""
    options = ImportOptions(
        labels=None if labels is None else read_labels(labels),
        task=task,
        mean=mean,
        std=std,
        frames=frames,
        stride=None if stride is None else PatchSize.parse(stride),
    )
    checkpoint = import_model(source, options)
    save_checkpoint(output, checkpoint, half=half)
    console = stderr()
    source_format = checkpoint.info["imported"]["format"]
    console.print(f"Imported {source} ({source_format}) as {output}", markup=False, soft_wrap=True)
    console.print(describe_spec(checkpoint.spec), markup=False, soft_wrap=True)
    if not checkpoint.spec.labels:
        console.print(f"A start for training: flexiast train SOUNDS --init {output}", markup=False, soft_wrap=True)
