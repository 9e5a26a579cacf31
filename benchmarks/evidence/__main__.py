"""Run, list and report the experiments."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.evidence.experiments import EXPERIMENTS, TASKS, Experiment
from benchmarks.evidence.report import RESULTS, report
from benchmarks.evidence.variants import VARIANTS
from flexiast.batches import LogMels
from flexiast.data import load_waveforms, read_dataset
from flexiast.evaluate import Windows, evaluate
from flexiast.files import write_atomically
from flexiast.frontend import Frontend
from flexiast.journal import Journal
from flexiast.spec import PatchSize
from flexiast.train import TorchClassifier, Trainer, build_model, make_spec

SAMPLE_RATE_HZ = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("report")
    run = commands.add_parser("run")
    run.add_argument("names", nargs="+", choices=EXPERIMENTS, metavar="NAME")
    run.add_argument("--data", type=Path, required=True, help="folder that holds esc50, commands and speakers")
    run.add_argument("--fold", help="fold that validates, on esc50 (default: the last)")
    run.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.command == "list":
        print("\n".join(EXPERIMENTS))
    elif given.command == "report":
        report()
    else:
        for name in given.names:
            run_experiment(EXPERIMENTS[name], given.data, given.fold, given.seed)


def run_experiment(experiment: Experiment, data: Path, fold: str | None, seed: int) -> None:
    """Train, evaluate at every size, and write the result as one JSON file."""
    task = TASKS[experiment.task]
    recipe = experiment.recipe.changed(model={}, training={"seed": seed})
    dataset = read_dataset(data / task.csv, fold)
    training, waveforms, _ = load_waveforms(dataset.split("train"), SAMPLE_RATE_HZ)
    validation, validation_waveforms, _ = load_waveforms(dataset.split("val"), SAMPLE_RATE_HZ)
    frontend = recipe.model.frontend(SAMPLE_RATE_HZ, 0)
    log_mels = LogMels(waveforms, frontend, recipe.training.augment)
    spec = make_spec(
        frontend,
        log_mels,
        **recipe.model.fields(None),
        trained_patches=recipe.training.patches,
        task=training.task,
        labels=training.labels,
    )
    windows, targets = Windows(validation_waveforms, Frontend(spec.frontend)), validation.targets(spec.labels)
    build = VARIANTS[experiment.variant] if experiment.variant else build_model
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Path(folder), spec, recipe, log_mels, training.targets(spec.labels), build=build)
        header = {
            "experiment": experiment.key,
            "split": dataset.split_rule,
            "seed": seed,
            "variant": experiment.variant,
            "recipe": json.loads(recipe.model_dump_json()),
        }
        journal = Journal(Path(folder), header)
        losses = [step.loss for step in trainer.steps(windows, targets, journal)]
        results = evaluate(TorchClassifier(trainer.ema), windows, targets, _fitting(experiment, trainer))
        outcome = {
            "steps": trainer.total,
            "last_loss": round(float(np.mean(losses[-50:])), 4),
            "results": [json.loads(result.model_dump_json(exclude_none=True)) for result in results],
        }
        document = journal.describe(outcome)
    document["command"] = ["-m", "benchmarks.evidence", "run", experiment.key, "--seed", str(seed)]
    document["command"] += ["--fold", fold] if fold else []
    name = "-".join(filter(None, (experiment.key.replace("/", "-"), fold and f"fold{fold}", f"seed{seed}")))
    write_atomically(RESULTS / f"{name}.json", json.dumps(document, indent=1).encode() + b"\n")
    print(name, "  ".join(f"{result.patch_size} {result.metric:.3f}" for result in results), flush=True)


def _fitting(experiment: Experiment, trainer: Trainer) -> list[PatchSize]:
    mels, frames = trainer.spec.frontend.mel_bins, trainer.spec.frontend.window_frames
    return [patch for patch in experiment.measured if patch.mels <= mels and patch.frames <= frames]


if __name__ == "__main__":
    main()
