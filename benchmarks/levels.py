"""A quiet voice: random levels in training, a mean removed from each window, or PCEN? And what else training varies.

python -m benchmarks.levels DATA [--epochs 6] [--only PCEN]
python -m benchmarks.levels DATA --parts
python -m benchmarks.levels DATA --models commands runs/pcen --patch-sizes 16,48

DATA holds english, background and esc50. A convolutional network learns the English words over speech and home noise,
once for each way; all else is equal. The second command leaves out one part of the augmentation at a time. The third
measures models that are there.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import heading
from flexiast.arrays import Float
from flexiast.checkpoint import load_checkpoint
from flexiast.data.audio import read_audio
from flexiast.evaluation.evaluate import classify
from flexiast.frontend import Frontend
from flexiast.networks import TorchClassifier, build_model, load_model
from flexiast.pcen_torch import PCEN
from flexiast.spec import PRESETS, FrontendSpec, PatchSize, Spec, parse_patches
from flexiast.training.batches import Backgrounds, Batches, LogMels
from flexiast.training.recipe import Augment, Training
from flexiast.training.sampling import Plan
from flexiast_runtime.catalog import find_checkpoint

RATE_HZ = 16_000
LEVELS_DBFS = (-20, -36, -50)
FLOOR_DBFS = -75.0
"""Of the microphone's own noise, under every example that is measured"""
SNR_DB = 10.0
LOUD_DBFS = (-24.0, -16.0)
"""As the clips were recorded"""
RANDOM_DBFS = (-50.0, -10.0)
"""As `train` varies them"""
LEARNING_RATE = 1.5e-3
FRONTEND = FrontendSpec(window_samples=RATE_HZ, mean=0.0, std=0.5)
"""Its features are log-mels"""

Examples = Mapping[str, Sequence[Float]]
"""Level and noise → clips"""


class Way(NamedTuple):
    """To cope with levels."""

    levels_dbfs: tuple[float, float]
    """Of training"""
    transform: Callable[[Tensor], Tensor]
    """Log-mel [batch, frames, mels] → features of the network, before they are scaled"""
    augment: Mapping[str, float] = {}
    """Fields of the augmentation that differ"""


def keep(log_mel: Tensor) -> Tensor:
    return log_mel


def remove_mean(log_mel: Tensor) -> Tensor:
    return log_mel - log_mel.mean(dim=(1, 2), keepdim=True)


WAYS = {
    "the level of the clips": Way(LOUD_DBFS, keep),
    "random levels, −50 to −10 dBFS": Way(RANDOM_DBFS, keep),
    "each window's mean removed": Way(LOUD_DBFS, remove_mean),
    "random levels, and the mean removed": Way(RANDOM_DBFS, remove_mean),
    "PCEN": Way(LOUD_DBFS, PCEN(FRONTEND)),
    "random levels and PCEN": Way(RANDOM_DBFS, PCEN(FRONTEND)),
}


PARTS = {
    "all": Way(RANDOM_DBFS, keep),
    "no background under the words": Way(RANDOM_DBFS, keep, {"background_share": 0.0}),
    "no background alone": Way(RANDOM_DBFS, keep, {"background_alone_share": 0.0}),
    "no half words": Way(RANDOM_DBFS, keep, {"half_share": 0.0}),
    "no small rooms": Way(RANDOM_DBFS, keep, {"echo_share": 0.0}),
    "no mixing of words": Way(RANDOM_DBFS, keep, {"mix_share": 0.0}),
    "no other levels": Way(LOUD_DBFS, keep),
}
"""Of the augmentation over backgrounds, each left out once"""


def read_words(data: Path, split: str) -> tuple[list[Float], list[str]]:
    with (data / "english" / "metadata.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split and row["label"]]
    return [read_audio(data / "english" / row["path"], RATE_HZ) for row in rows], [row["label"] for row in rows]


def read_backgrounds(data: Path, *, aside: bool) -> tuple[list[Float], list[Float]]:
    """Speech and home noise (ESC-10), for training or for measuring."""
    speech = sorted((data / "background").rglob("*.ogg"))
    chosen = [path for number, path in enumerate(speech) if (number % 5 == 4) == aside]
    with (data / "esc50" / "metadata.csv").open(newline="") as file:
        noise = [
            data / "esc50" / row["path"]
            for row in csv.DictReader(file)
            if row["esc10"] == "1" and (row["fold"] == "4") == aside
        ]
    return [read_audio(path, RATE_HZ) for path in chosen], [read_audio(path, RATE_HZ) for path in noise]


class Material(NamedTuple):
    """What all ways learn from; log-mels are computed once."""

    words: LogMels
    targets: Float
    """[clips, labels and nothing]"""
    backgrounds: Backgrounds


def prepare(words: Sequence[Float], targets: Float, backgrounds: Sequence[Sequence[Float]]) -> Material:
    one_speed = Augment(speed=0.0)
    heard = Backgrounds(
        [LogMels(each, FRONTEND, one_speed) for each in backgrounds],
        [[len(one) / RATE_HZ for one in each] for each in backgrounds],
    )
    return Material(LogMels(words, FRONTEND, Augment()), targets, heard)


class Network:
    """Trained in one of the ways."""

    def __init__(self, way: Way, material: Material, epochs: int) -> None:
        fields: dict[str, object] = {"mix_share": 0.2, "half_share": 0.1, "level_dbfs": way.levels_dbfs, **way.augment}
        augment = Augment.validate_fields(mix_from=0.0, **fields)
        training = Training(patches=(PatchSize(16, 16),), augment=augment)
        spec = Spec(
            frontend=FRONTEND,
            trained_patches=training.patches,
            network=PRESETS["convnet"],
            task="single",
            labels=tuple(map(str, range(material.targets.shape[1] - 1))),
            nothing_class=True,
        )
        self.way, self.patch, self.frontend = way, spec.base_patch, Frontend(FRONTEND)
        torch.manual_seed(0)
        self.model = build_model(spec)
        plan = Plan(spec, training, len(material.words), epochs)
        batches = Batches(material.words, material.targets, spec, training, plan, backgrounds=material.backgrounds)
        first = way.transform(torch.from_numpy(np.concatenate([batches[number][0] for number in range(8)])))
        self.mean, self.spread = first.mean(), 2 * first.std()
        begun = time.process_time()
        optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, len(plan), pct_start=0.1)
        for number in range(len(plan)):
            features, target = (torch.from_numpy(each) for each in batches[number])
            loss = F.cross_entropy(self._logits(features), target, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        self.seconds = time.process_time() - begun
        self.model.eval()

    def _logits(self, log_mel: Tensor) -> Tensor:
        logits: Tensor = self.model((self.way.transform(log_mel) - self.mean) / self.spread, self.patch)
        return logits

    @torch.no_grad()
    def score(self, waveforms: Sequence[Float]) -> Float:
        """Of each label [waveforms, labels]"""
        log_mel = torch.from_numpy(np.stack([self.frontend(waveform) for waveform in waveforms]))
        scores: Float = (
            torch.cat([self._logits(part) for part in torch.split(log_mel, 64)]).softmax(dim=1)[:, :-1].numpy()
        )
        return scores


def set_level(waveform: Float, dbfs: float) -> Float:
    """The loudest tenth of a second has this mean level."""
    energy = np.convolve(waveform**2, np.full(RATE_HZ // 10, 10 / RATE_HZ), "same").max()
    return (waveform * 10 ** (dbfs / 20) / max(1e-5, float(np.sqrt(energy)))).astype(np.float32)


def make_examples(
    words: Sequence[Float], noise: Sequence[Float], dbfs: float, snr_db: float | None, rng: np.random.Generator
) -> list[Float]:
    """One second each: a word at a level, over the microphone's own noise and maybe home noise."""
    found = []
    for word in words:
        clip = np.zeros(RATE_HZ, np.float32)
        part = word[:RATE_HZ]
        clip[: len(part)] = set_level(part, dbfs)
        clip += rng.normal(scale=10 ** (FLOOR_DBFS / 20), size=RATE_HZ).astype(np.float32)
        if snr_db is not None:
            under = noise[int(rng.integers(len(noise)))]
            start = rng.integers(max(1, len(under) - RATE_HZ))
            clip += set_level(under[start : start + RATE_HZ], dbfs - snr_db)
        found.append(np.clip(clip, -1, 1))
    return found


def put_in_room(waveform: Float, rng: np.random.Generator) -> Float:
    """A word in a small room: its echo decays by 60 dB in 0.4 s, and is as loud as the direct sound."""
    times = np.arange(round(0.4 * RATE_HZ)) / RATE_HZ
    response = rng.normal(size=len(times)) * 10 ** (-3 * times / 0.4)
    response /= np.sqrt(np.square(response).sum())
    response[0] += 1.0
    heard: Float = np.convolve(waveform, response)[: len(waveform)].astype(np.float32)
    return heard


def halve(waveform: Float, rng: np.random.Generator) -> Float:
    """The first or the last half of what is within 30 dB of a word's loudest moment, alone."""
    energy = np.convolve(waveform**2, np.full(RATE_HZ // 100, 100 / RATE_HZ), "same")
    loud = np.flatnonzero(energy >= energy.max() * 1e-3)
    middle, half = (loud[0] + loud[-1]) // 2, np.zeros_like(waveform)
    part = slice(0, middle) if rng.random() < 0.5 else slice(middle, None)
    half[part] = waveform[part]
    return half


def measure_models(
    names: Sequence[str], patches: Sequence[PatchSize], examples: Examples, truth: Sequence[str]
) -> None:
    """Prints the share of examples whose label is right with a score of 0.5 or more."""
    print("| model | patch | " + " | ".join(examples) + " |")
    print("|---" * (len(examples) + 2) + "|")
    for name in names:
        model = load_model(load_checkpoint(find_checkpoint(name)))
        spec, frontend, classifier = model.spec, Frontend(model.spec.frontend), TorchClassifier(model)
        right = np.array([spec.labels.index(label) for label in truth])
        for patch in patches if spec.network.kind == "transformer" else (spec.base_patch,):
            cells = []
            for clips in examples.values():
                logits = classify(classifier, np.stack([frontend.window(clip) for clip in clips]), patch)
                scores = torch.from_numpy(logits).softmax(dim=1).numpy()
                cells.append(100 * np.mean((scores.argmax(axis=1) == right) & (scores.max(axis=1) >= 0.5)))
            print(f"| {name} | {patch} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.levels")
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--only", default="", help="ways whose name holds this")
    parser.add_argument("--parts", action="store_true", help="leave parts of the augmentation out, one at a time")
    parser.add_argument("--models", nargs="*", default=[], help="shipped models, checkpoints or runs on these words")
    parser.add_argument("--patch-sizes", type=parse_patches, default=parse_patches("16,48"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    what = "models that are there" if given.models else f"{given.epochs} epochs of a convolutional network"
    heading(f"Levels: accuracy in %, {what}")
    words, names = read_words(given.data, "train")
    aside, aside_names = read_words(given.data, "val")
    labels = sorted(set(names))
    targets = np.zeros((len(words), len(labels) + 1), np.float32)
    targets[np.arange(len(words)), [labels.index(name) for name in names]] = 1
    truth = np.array([labels.index(name) for name in aside_names])
    speech, noise = read_backgrounds(given.data, aside=False)
    aside_speech, aside_noise = read_backgrounds(given.data, aside=True)
    examples = {
        f"{dbfs} dBFS{'' if snr is None else f', noise {snr:.0f} dB below'}": make_examples(
            aside, aside_noise, dbfs, snr, np.random.default_rng(0)
        )
        for snr in (None, SNR_DB)
        for dbfs in LEVELS_DBFS
    }
    if given.models:
        measure_models(given.models, given.patch_sizes, examples, aside_names)
        return
    nothing = [
        set_level(one[start : start + RATE_HZ], dbfs)
        for dbfs in LEVELS_DBFS
        for one in [*aside_speech, *aside_noise]
        for start in range(0, len(one) - RATE_HZ + 1, RATE_HZ)
    ]
    silent = {"background that is nothing": nothing}
    if given.parts:
        rng, quiet = np.random.default_rng(1), next(iter(examples.values()))
        examples["−20 dBFS, in a small room"] = [put_in_room(clip, rng) for clip in quiet]
        silent["half words that are nothing"] = [halve(clip, rng) for clip in quiet]
    columns = [*examples, *silent, "CPU s"]
    print(f"| way | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    material = prepare(words, targets, (speech, noise))
    for name, way in (PARTS if given.parts else WAYS).items():
        if given.only not in name:
            continue
        network = Network(way, material, given.epochs)
        cells = [100 * np.mean(network.score(clips).argmax(axis=1) == truth) for clips in examples.values()]
        cells += [100 * np.mean(network.score(clips).max(axis=1) < 0.5) for clips in silent.values()]
        row = " | ".join(f"{cell:.1f}" for cell in cells)
        print(f"| {name} | {row} | {network.seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
