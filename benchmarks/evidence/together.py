"""Measurements over several models: an ensemble of fixed ones, and the latency of each size."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.evidence.experiments import EXPERIMENTS, FIXED, TASKS
from benchmarks.evidence.running import RESULTS, RUNS, measured, read_validation, run_name, write_result
from benchmarks.measure import cpu_ms
from flexiast.checkpoint import Checkpoint, load_checkpoint
from flexiast.data.dataset import read_dataset
from flexiast.evaluation.evaluate import classify, score
from flexiast.files import write_atomically
from flexiast.networks import TorchClassifier, build_model, load_model, weights_of
from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast.training.journal import surroundings
from flexiast_export.to_onnx import export_onnx
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines

Float = NDArray[np.float32]

TIMED_ROUNDS = 31


def run_ensemble(task: str, data: Path, fold: str | None, seed: int) -> None:
    """Mean answers of two and of three: fixed models, each at its own size, against one flexible model at those sizes.

    Needs the checkpoints of the task's runs, of ``twice-in-place`` only where it has been run; writes one JSON file.
    """
    dataset = read_dataset(data / TASKS[task].csv, fold)
    compared = {"fixed": [f"fixed-{size}" for size in FIXED], "flexible": ["flexible"] * len(FIXED)}
    if (RUNS / run_name(f"{task}/twice-in-place", fold, seed)).is_dir():
        compared["twice-in-place"] = ["twice-in-place"] * len(FIXED)
    rows = {}
    for kind, names in compared.items():
        answers: dict[int, Float] = {}
        for name, size in zip(names, FIXED, strict=True):
            checkpoint = load_checkpoint(RUNS / run_name(f"{task}/{name}", fold, seed) / "checkpoint.safetensors")
            validation = read_validation(dataset, checkpoint.spec)
            classifier = TorchClassifier(load_model(checkpoint))
            logits = classify(classifier, validation.windows, PatchSize(size, size))
            answers[size] = torch.softmax(torch.from_numpy(validation.windows.clip_mean(logits)), 1).numpy()
        rows[kind] = {
            "+".join(map(str, sizes)): score(
                np.mean([answers[size] for size in sizes], axis=0), validation.targets, "single"
            )
            for count in range(1, len(FIXED) + 1)
            for sizes in combinations(FIXED, count)
        }
    document = {"experiment": f"{task}/ensemble", "split": dataset.split_rule, "seed": seed, "accuracy": rows}
    write_result(
        f"ensemble-{run_name(task, fold, seed)}", document | surroundings(), ["ensemble", task], data, fold, seed
    )
    print(json.dumps(rows, indent=1))


def measure_latency() -> None:
    """Process CPU time of one window in an engine on one thread, for every task and size; writes one JSON file."""
    torch.set_num_threads(1)
    found = {}
    for task, about in TASKS.items():
        experiment = EXPERIMENTS[f"{task}/flexible"]
        frontend = FrontendSpec.validate_fields(window_samples=round(about.window_s * 16_000), mean=0.0, std=1.0)
        spec = Spec.validate_fields(
            frontend=frontend,
            **experiment.recipe.model.fields(None),
            trained_patches=experiment.recipe.training.patches,
            task="single",
            labels=tuple(map(str, range(about.classes))),
        )
        model = build_model(spec).eval()  # how long a window takes does not depend on what was learnt
        features = np.random.default_rng(0).standard_normal((1, frontend.window_frames, frontend.mel_bins), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            patches = measured(experiment, spec)
            export_onnx(Checkpoint(spec, weights_of(model)), TorchClassifier(model), patches, bundle)
            engines = load_engines(Bundle.open(bundle))
            calls = {str(patch): partial(engines.logits, features, patch) for patch in patches}
            found[task] = cpu_ms(calls, rounds=TIMED_ROUNDS)
    document = surroundings() | {"command": ["-m", "benchmarks.evidence", "latency"], "cpu_ms": found}
    write_atomically(RESULTS / "latency.json", json.dumps(document, indent=1).encode() + b"\n")
    print(json.dumps(found, indent=1))
