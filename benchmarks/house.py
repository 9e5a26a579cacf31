"""A house in simulation: what sounds in it on two days, and the ears that hear them. For `benchmarks.place`.

The model is the shipped `sounds` without ten of its fifty labels. Sounds of those ten are the house's nuisances, one
recording of each: its squeaking door, its keyboard, which sound again and again on both days, at other levels and
speeds. Speech is the TV's, other sentences each day. Events are sounds of twelve labels that a household may ask for,
from the fold that `sounds` was not trained on; a third of them are recordings that the other day does not have. The
other half of that fold, all labels, is the validation set. The network was trained on other recordings of the ten
labels, so nuisances of no known kind may be harder.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import onnx
import onnxruntime
import soundfile
import soxr

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, load_checkpoint
from flexiast.spec import PatchSize, Spec
from flexiast_export.encoder import encoder
from flexiast_export.graph import embedder
from flexiast_runtime.catalog import find_checkpoint
from flexiast_runtime.detection.scoring import StreamLogits, score_stream
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.engine import Engines

RATE_HZ = 16_000
NUISANCES = (
    "door_wood_creaks",
    "washing_machine",
    "vacuum_cleaner",
    "water_drops",
    "keyboard_typing",
    "can_opening",
    "crow",
    "brushing_teeth",
    "church_bells",
    "pouring_water",
)
"""Labels that the model does not have."""
OWN_LABELS = (
    "cat",
    "chirping_birds",
    "clock_alarm",
    "coughing",
    "crying_baby",
    "dog",
    "door_wood_knock",
    "glass_breaking",
    "rooster",
    "siren",
    "thunderstorm",
    "toilet_flush",
)
"""What the house asks for"""
MINUTES = 40
TRUE_SHARE, SPEECH_SHARE = 0.45, 0.2
"""Of what sounds in a day: events, and the TV"""
STRANGER_SHARE = 1 / 3
"""Of a label's events: a recording that the other day does not have."""
LEVEL_DBFS = (-35.0, -20.0)


class Occurrence(NamedTuple):
    """A sound of a day."""

    start: int
    end: int
    label: str | None
    """None for a nuisance"""
    kind: str


class Day(NamedTuple):
    """A stream, and what sounds in it."""

    samples: Float
    occurrences: list[Occurrence]


class House(NamedTuple):
    """What does not change from day to day."""

    start: Checkpoint
    waveforms: dict[tuple[str, str], list[Float]]
    """(label, train, validation or house) → clips"""
    speech: list[Float]
    """Of the TV, half of it on each day"""
    background: list[Float]
    """That the model was trained on: other speech"""

    @property
    def spec(self) -> Spec:
        return self.start.spec


def build_house(data: Path, seed: int) -> House:
    """The model without the nuisances' labels, and the clips; fold 4 is parted in halves of each label."""
    shipped = load_checkpoint(find_checkpoint("sounds"))
    kept = [number for number, label in enumerate(shipped.spec.labels) if label not in NUISANCES]
    rows = [*kept, len(shipped.spec.labels)]
    head = {name: shipped.weights[name][rows] for name in ("head.weight", "head.bias")}
    spec = shipped.spec.model_copy(update={"labels": tuple(shipped.spec.labels[number] for number in kept)})
    rng = np.random.default_rng(seed)
    paths: dict[tuple[str, str], list[Path]] = {}
    with (data / "esc50" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            part = "train" if row["fold"] != "4" else "house"
            paths.setdefault((row["label"], part), []).append(data / "esc50" / row["path"])
    waveforms: dict[tuple[str, str], list[Float]] = {}
    for (label, part), group in paths.items():
        clips = [soundfile.read(path, dtype="float32")[0] for path in group]
        if part == "train":
            waveforms[label, part] = clips
            continue
        order = rng.permutation(len(clips))
        for number, half in enumerate(("validation", "house")):
            waveforms[label, half] = [clips[place] for place in order[number::2]]
    utterances = sorted((data / "background").rglob("*.ogg"))
    speech = [soundfile.read(utterances[number], dtype="float32")[0] for number in rng.permutation(len(utterances))]
    return House(Checkpoint(spec, shipped.weights | head), waveforms, speech[:60], speech[60:])


def build_day(house: House, number: int, seed: int, minutes: float = MINUTES) -> Day:
    """Quiet noise, in which something sounds every eleven seconds or so. Days are numbered 0 and 1."""
    rng = np.random.default_rng((seed, number))
    samples = rng.normal(scale=0.0015, size=round(60 * minutes * RATE_HZ)).astype(np.float32)
    changes = np.arange(0, len(samples) + 30 * RATE_HZ, 30 * RATE_HZ)
    samples *= np.interp(np.arange(len(samples)), changes, rng.uniform(0.5, 2.0, len(changes))).astype(np.float32)
    occurrences: list[Occurrence] = []
    place = 2 * RATE_HZ
    while True:
        label, kind, clip = _draw_sound(house, number, rng)
        clip = soxr.resample(clip[: 5 * RATE_HZ], float(rng.uniform(0.97, 1.03)), 1.0)
        clip = clip * (10 ** (rng.uniform(*LEVEL_DBFS) / 20) / max(1e-4, float(np.sqrt(np.mean(clip**2)))))
        if place + len(clip) + 2 * RATE_HZ > len(samples):
            return Day(np.clip(samples, -1, 1), occurrences)
        samples[place : place + len(clip)] += clip.astype(np.float32)
        occurrences.append(Occurrence(place, place + len(clip), label, kind))
        place += len(clip) + round(rng.uniform(4, 9) * RATE_HZ)


def _draw_sound(house: House, day: int, rng: np.random.Generator) -> tuple[str | None, str, Float]:
    """Label, or None, and kind and waveform of what sounds next."""
    kind = rng.random()
    if kind < TRUE_SHARE:
        label = str(rng.choice(OWN_LABELS))
        clips = house.waveforms[label, "house"]
        clip = clips[2 + day] if rng.random() < STRANGER_SHARE else clips[rng.integers(2)]
        return label, label, clip
    if kind < TRUE_SHARE + SPEECH_SHARE:
        return None, "TV", house.speech[30 * day + rng.integers(30)]
    nuisance = str(rng.choice(NUISANCES))
    return None, nuisance, house.waveforms[nuisance, "house"][0]


class EmbeddingEngines:
    """Engines whose logits are embeddings: the graphs of an export whose head is the identity."""

    def __init__(self, start: Checkpoint) -> None:
        width = start.spec.network.width
        labels = tuple(map(str, range(width)))
        self.spec = start.spec.model_copy(update={"labels": labels, "nothing_class": False})
        identity = {"head.weight": np.eye(width, dtype=np.float32), "head.bias": np.zeros(width, np.float32)}
        self._weights = start.weights | identity
        self._encoder = _load(encoder(Checkpoint(self.spec, self._weights)))
        self._embedders: dict[PatchSize, onnxruntime.InferenceSession] = {}

    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → embeddings [batch, width], a window at a time as in listening."""
        if patch not in self._embedders:
            self._embedders[patch] = _load(embedder(self.spec, self._weights, patch))
        first = self._embedders[patch]
        rows = [self._encoder.run(None, {"tokens": first.run(None, {"features": one[None]})[0]})[0] for one in features]
        return np.concatenate(rows)


def _load(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def hear(samples: Float, ears: EmbeddingEngines, patch: PatchSize) -> StreamLogits:
    """Embeddings instead of logits of every window of a day."""
    settings = DetectionSettings.from_frontend(ears.spec.frontend)
    return score_stream(cast(Engines, ears), settings, np.array_split(samples, 200), [patch])
