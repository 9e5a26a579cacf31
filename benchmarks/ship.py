"""Prepares a training run for shipping as a model: weights in float16, a bundle, the table of its card.

python -m benchmarks.ship runs/commands commands commands/metadata.csv --patch-sizes 8,12,16,20,24,32,40,48
"""

from __future__ import annotations

import argparse
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from flexiast.checkpoint import load_checkpoint, save_checkpoint
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import PatchResult, Windows, evaluate
from flexiast.files import write_atomically
from flexiast.frontend import Frontend
from flexiast.manifest import MANIFEST, read_manifest
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import parse_patches
from flexiast_export.to_onnx import export_onnx
from flexiast_export.verify import VerificationData
from flexiast_runtime.catalog import CHECKPOINT, find_checkpoint, find_licence

MODELS = Path(__file__).resolve().parents[1] / "runtime" / "flexiast_runtime" / "models"

TABLE = re.compile(r"^\| patch \|.*\n(?:\|.*\n)+", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ship")
    parser.add_argument("run", help="a folder of `flexiast train`, or a checkpoint")
    parser.add_argument("name", help="what the model is called")
    parser.add_argument("data", type=Path, help="the data it was trained on")
    parser.add_argument("--val-fold")
    parser.add_argument("--patch-sizes", type=parse_patches, required=True, help="sizes of the bundle")
    parser.add_argument("--threshold", type=float, help="score at which an event of any label begins, if not 0.5")
    given = parser.parse_args()
    folder = MODELS / given.name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        rounded = Path(place) / CHECKPOINT
        save_checkpoint(rounded, load_checkpoint(find_checkpoint(given.run)), half=True)
        checkpoint = load_checkpoint(rounded)  # as it ships: the bundle and the card are of these weights
    spec = checkpoint.spec
    dataset = read_dataset(given.data, given.val_fold).labelled.split("val")
    clips, waveforms, _ = load_waveforms(dataset, spec.frontend.sample_rate_hz)
    source = TorchClassifier(load_model(checkpoint))
    windows = Windows(waveforms, Frontend(spec.frontend))
    targets = clips.targets(spec.labels)
    results = evaluate(source, windows, targets, spec.trained_patches)
    measured = [result.document() for result in results]
    licence = find_licence(checkpoint.info.get("licence"), folder / "bundle")
    checkpoint = replace(checkpoint, info=checkpoint.info | {"validation": measured, "licence": licence})
    export_onnx(
        checkpoint,
        source,
        given.patch_sizes,
        folder / "bundle",
        precisions=("fp32", "int8"),
        sounds=VerificationData(spec, waveforms, targets),
        force=True,
    )
    if given.threshold is not None:
        set_threshold(folder / "bundle", given.threshold)
    save_checkpoint(folder / CHECKPOINT, checkpoint, half=True)
    card = folder / "MODEL_CARD.md"
    text, found = TABLE.subn(lambda _: table(results), card.read_text(), count=1)
    if not found:
        parser.error(f"{card} has no table of patch sizes to write into; give it one that begins with | patch |")
    card.write_text(text)
    print(table(results))


def set_threshold(bundle: Path, threshold: float) -> None:
    """Give every label of a bundle the same threshold, for all sizes."""
    manifest = read_manifest(bundle)
    thresholds = dict.fromkeys(manifest.spec.labels, threshold)
    manifest = manifest.model_copy(update={"thresholds": thresholds})
    write_atomically(bundle / MANIFEST, manifest.model_dump_json(indent=1, exclude_none=True).encode())


def table(results: list[PatchResult]) -> str:
    """Markdown, a row for each patch size."""
    rows = [
        f"| {result.patch_size.short} | {result.tokens} | {result.gmac:.3f} | {100 * result.metric:.1f} % |\n"
        for result in results
    ]
    return "| patch | tokens | GMAC | accuracy |\n|---|---|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    main()
