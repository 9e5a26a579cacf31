"""Runs one experiment: trains, measures every size, writes the results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.experiments import TASKS, Experiment
from benchmarks.evidence.masked import masked_start
from benchmarks.evidence.variants import VARIANTS
from flexiast.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_sha256
from flexiast.data.clips import Dataset
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import Windows, evaluate
from flexiast.files import write_atomically
from flexiast.frontend import Frontend
from flexiast.networks import TorchClassifier, build_model, load_model, weights_of
from flexiast.spec import PatchSize, Spec
from flexiast.training.batches import LogMels
from flexiast.training.journal import Journal
from flexiast.training.trainer import Trainer, make_spec
from flexiast_runtime.catalog import find_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "results"
RUNS = ROOT / "runs" / "evidence"
"""Not kept in the repository: states to go on from, and the checkpoints that an ensemble is made of."""

SAMPLE_RATE_HZ = 16_000


class Validation(NamedTuple):
    """Clips that measure a model, as a spec's front end hears them."""

    windows: Windows
    targets: NDArray[np.float32]


def run_name(key: str, fold: str | None, seed: int) -> str:
    return "-".join(filter(None, (key.replace("/", "-"), fold and f"fold{fold}", f"seed{seed}")))


def run_experiment(experiment: Experiment, data: Path, fold: str | None, seed: int, teacher: Path | None) -> None:
    """Train, evaluate at every size, and write the result as one JSON file, unless it is there."""
    name = run_name(experiment.key, fold, seed)
    if (RESULTS / f"{name}.json").is_file():
        print(f"{name} is done", flush=True)
        return
    recipe = experiment.recipe.replace_fields(model={}, training={"seed": seed})
    dataset = read_dataset(data / TASKS[experiment.task].csv, fold)
    training, waveforms, _ = load_waveforms(dataset.split("train"), SAMPLE_RATE_HZ)
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
    validation = read_validation(dataset, spec)
    taught_by = load_checkpoint(find_checkpoint(str(teacher))) if teacher is not None and experiment.taught else None
    run = RUNS / name
    resumes = (run / "last.safetensors").is_file()
    begun = time.process_time()
    start = masked_start(spec, recipe.training, log_mels) if experiment.masked_start and not resumes else None
    earlier = json.loads((run / "run.json").read_text("utf-8")) if resumes else {}
    start_cpu_s = earlier.get("start_cpu_s", round(time.process_time() - begun, 1))
    trainer = Trainer(
        run,
        spec,
        recipe,
        log_mels,
        training.targets(spec.labels),
        start=start,
        teachers=[] if taught_by is None else [load_model(taught_by)],
        build=VARIANTS[experiment.variant] if experiment.variant else build_model,
    )
    if resumes:
        trainer.resume()
    header = {
        "experiment": experiment.key,
        "split": dataset.split_rule,
        "seed": seed,
        "variant": experiment.variant,
        "teacher": None if taught_by is None else weights_sha256(taught_by),
        "recipe": json.loads(recipe.model_dump_json()),
        "start_cpu_s": start_cpu_s,
    }
    journal = Journal(run, header, step=trainer.step)
    losses = [step.loss for step in trainer.steps(*validation, journal)]
    results = evaluate(TorchClassifier(trainer.ema), *validation, measured(experiment, spec))
    save_checkpoint(run / "checkpoint.safetensors", Checkpoint(spec, weights_of(trainer.ema), header))
    outcome = {
        "steps": trainer.total,
        "last_loss": round(float(np.mean(losses[-50:])), 4) if losses else None,
        "results": [result.document() for result in results],
    }
    command = ["run", experiment.key, *(["--teacher", str(teacher)] if taught_by is not None else [])]
    write_result(name, journal.describe(outcome), command, data, fold, seed)
    print(name, "  ".join(f"{result.patch_size} {result.metric:.3f}" for result in results), flush=True)


def read_validation(dataset: Dataset, spec: Spec) -> Validation:
    clips, waveforms, _ = load_waveforms(dataset.split("val"), SAMPLE_RATE_HZ)
    return Validation(Windows(waveforms, Frontend(spec.frontend)), clips.targets(spec.labels))


def measured(experiment: Experiment, spec: Spec) -> list[PatchSize]:
    """Sizes of the experiment that fit into a window."""
    mels, frames = spec.frontend.mel_bins, spec.frontend.window_frames
    return [patch for patch in experiment.measured if patch.mels <= mels and patch.frames <= frames]


def write_result(
    name: str, document: dict[str, Any], command: list[str], data: Path, fold: str | None, seed: int
) -> None:
    """One JSON file that names the command which made it."""
    options = ["--data", str(data), "--seed", str(seed), *(["--fold", fold] if fold else [])]
    document["command"] = ["-m", "benchmarks.evidence", *command, *options]
    write_atomically(RESULTS / f"{name}.json", json.dumps(document, indent=1).encode() + b"\n")
