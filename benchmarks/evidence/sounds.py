"""Runs of ``flexiast train`` → ``docs/results/sounds/*.json`` → their accuracy on held-out folds."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.evidence.curves import Curve, read_curves
from benchmarks.evidence.running import RESULTS, read_validation
from benchmarks.evidence.tables import table
from flexiast.checkpoint import load_checkpoint
from flexiast.data.dataset import read_dataset
from flexiast.evaluation.evaluate import evaluate
from flexiast.files import write_atomically
from flexiast.spec import PatchSize, parse_patches
from flexiast.training.trainer import TorchClassifier, load_model

SIZES = parse_patches("8,12,16,20,24,30,32,40,48,56")

TEACHER = "sounds/teacher"

TEXT = """## sounds: as good as people?

People who listened to ESC-50 were right at 81.3 % (Piczak, 2015). Here the first part of what made the shipped model,
before its noise, each of the folds 1 to 4 validating in turn, every run measured after its last step; {date},
{machine}, all runs of a stage side by side:

```sh
flexiast train esc50/metadata.csv -o runs/sounds-teacher-S --config recipes/sounds-teacher.toml --val-fold FOLD --seed S
flexiast train esc50/metadata.csv -o runs/sounds --config recipes/sounds.toml --val-fold FOLD \\
    --teacher runs/sounds-teacher-0 --teacher runs/sounds-teacher-1    # nano, seed 1; tiny: --model tiny --epochs 110
python -m benchmarks.evidence sounds runs/sounds NAME --data DATA --fold FOLD    # measures it and writes a result
```

{table}
| | parameters | epochs | steps | last loss | minutes |
|---|---|---|---|---|---|
{budgets}

The convolutional network, with one patch size, passes the listeners; it needs two dozen clips a label. The flexible
nano does not: {gap:.1f} points lie between it at 16 × 16 and its teachers. What it lacks is steps, as `twice-in-place`
above tells of pico; tiny had time for four of nano's seven and is far from trained. At 48 × 48 nano keeps {kept:.3f} of
what it reaches at 16 × 16.
"""


def measure(run: Path, name: str, data: Path, fold: str, results: Path = RESULTS) -> None:
    """Evaluate a run of ``flexiast train`` on the fold that it did not see; writes the result as one JSON file."""
    checkpoint = load_checkpoint(run / "checkpoint.safetensors")
    spec, about = checkpoint.spec, json.loads((run / "run.json").read_text("utf-8"))
    model = load_model(checkpoint)
    validation = read_validation(read_dataset(data / "esc50" / "metadata.csv", fold), spec)
    sizes = spec.trained_patches if spec.network.kind == "convolutional" else SIZES
    found = evaluate(TorchClassifier(model), *validation, sizes)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    training = about["recipe"]["training"]
    document = about | {
        "experiment": f"sounds/{name}",
        "seed": training["seed"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": training["epochs"],
        "last_loss": round(statistics.mean(losses[-1].values()), 4) if losses else None,
        "results": [result.document() for result in found],
    }
    path = results / "sounds" / f"{name}-fold{fold}-seed{training['seed']}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n")


def section(folder: Path) -> str:
    """Markdown of all runs in the folder."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    curves = read_curves(runs)
    teacher, nano = curves[TEACHER], curves["sounds/nano"]
    base, coarse = PatchSize(16, 16), PatchSize(48, 48)
    return TEXT.format(
        date=runs[0]["written"][:10],
        machine=runs[0]["machine"]["accelerator"],
        table=table(SIZES, {name.removeprefix("sounds/"): _shown(name, curve) for name, curve in curves.items()}),
        budgets="\n".join(_budget(name, runs) for name in curves),
        gap=100 * (teacher.mean[base] - nano.mean[base]),
        kept=nano.mean[coarse] / nano.mean[base],
    )


def _shown(name: str, curve: Curve) -> Curve:
    """A convolutional network is measured at one size and is the same at all."""
    sizes = (PatchSize(16, 16),) if name == TEACHER else SIZES
    return Curve({patch: curve.each[patch] for patch in sizes}, curve.gmac)


def _budget(name: str, runs: list[dict[str, Any]]) -> str:
    mine = [run for run in runs if run["experiment"] == name]
    loss, minutes = (statistics.mean(run[key] for run in mine) for key in ("last_loss", "wall_s"))
    one = mine[0]
    return (
        f"| {name.removeprefix('sounds/')} | {one['parameters'] / 1e6:.1f} M | {one['epochs']} | {one['steps']:,} | "
        f"{loss:.2f} | {minutes / 60:.1f} |"
    )
