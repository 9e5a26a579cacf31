"""CPU-seconds of an hour in three rooms, and the events found there, beside peers. `benchmarks.hour --data` runs it.

Clips of the validation side sound in a twentieth of the time, 20 dB above the room: pink noise of a quiet room, rain,
or talk. The real loop hears it in virtual time, in steps of a microphone at 48 kHz; a peer does what twenty lines of
Python would: resample, and run its model on the last window at every step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from benchmarks.cascade import governed
from benchmarks.streams import TASKS, Stream, halves, louder, pink
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.events import Counts, Sound, count_by_overlap
from flexiast.evaluation.mixing import trim_to_audible
from flexiast.manifest import Variant
from flexiast.spec import PatchSize
from flexiast_runtime.audio.capture import Capture
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import Block
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.cascade import Cascade
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.backends import Backend, choose_precision
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

Float = NDArray[np.float32]

MODEL, FINE, COARSE = "sounds", PatchSize(16, 16), PatchSize(48, 48)
DEVICE_HZ, RATE_HZ, STEP_S = 48_000, 16_000, 0.5
SHARE, SNR_DB, SEED = 0.05, 20.0, 1
YAMNET_SAMPLES = 15_600


class Heard(NamedTuple):
    """What one program made of one room."""

    cpu_s: float
    events: tuple[Sound, ...] | None
    """None for a model that knows other labels"""


class Device:
    """A room as a microphone delivers it to a reader that is woken once a step."""

    name, rate_hz = "room", DEVICE_HZ

    def __init__(self, samples: Float) -> None:
        self._samples = samples

    def blocks(self) -> Iterator[Block]:
        size = round(STEP_S * DEVICE_HZ)
        for start in range(0, len(self._samples), size):
            yield Block(self._samples[start : start + size, None])


@dataclass(frozen=True)
class TorchGraph:
    """The network as `torch.onnx.export` writes it, run by ONNX Runtime."""

    variant: Variant
    session: Any

    def run(self, features: Float) -> Float:
        (logits,) = self.session.run(None, {self.session.get_inputs()[0].name: features})
        return logits


def make_rooms(data: Path, minutes: float) -> dict[str, Stream]:
    task, rng = TASKS[MODEL], np.random.default_rng(SEED)
    side = halves(read_dataset(data / task.metadata, task.val_fold).labelled.split("val"), task.source)[SEED % 2]
    dataset, waveforms, _ = load_waveforms(side, RATE_HZ)
    clips = list(zip(dataset.clips, waveforms, strict=True))
    rain = np.concatenate([wave for clip, wave in clips if clip.labels[0] == "rain"])
    talk = np.concatenate(
        [soundfile.read(path, dtype="float32")[0] for path in sorted((data / "background").rglob("*.ogg"))]
    )
    sounds = [(clip.labels[0], trim_to_audible(wave, RATE_HZ)) for clip, wave in clips if clip.labels[0] != "rain"]
    samples = round(60 * minutes * RATE_HZ)
    rooms = {"quiet": pink(samples, rng), "rain": 0.01 * loop(rain, samples), "talk": 0.01 * loop(talk, samples)}
    return {name: fill(room, sounds, rng) for name, room in rooms.items()}


def loop(waveform: Float, samples: int) -> Float:
    """Again and again, at a level of 1."""
    return np.resize(waveform / np.sqrt(np.square(waveform).mean()), samples)


def fill(room: Float, sounds: Sequence[tuple[str, Float]], rng: np.random.Generator) -> Stream:
    """Sounds in a share of the time; each is as loud as the room's level and the SNR say."""
    mixed, truth, place = room.copy(), [], 0
    level = float(np.sqrt(np.square(room).mean())) / float(np.sqrt(np.square(pink(RATE_HZ, rng)).mean()))
    for index in rng.permutation(len(sounds)):
        label, sound = sounds[index]
        start = place + round(rng.uniform(0.5, 1.5) * len(sound) * (1 - SHARE) / SHARE)
        place = start + len(sound)
        if place > len(room):
            break
        mixed[start:place] += level * louder(sound, SNR_DB)
        truth.append(Sound(label, start / RATE_HZ, place / RATE_HZ))
    return Stream(np.clip(mixed, -1, 1), tuple(truth))


def listen(engines: Engines, patch: PatchSize, samples: Float, first: PatchSize | None = None) -> Heard:
    """Every window at one size, or those in which something changes, after a cheaper ``first`` if it is another."""
    manifest, frontend = engines.manifest, engines.spec.frontend
    settings = DetectionSettings.from_frontend(frontend, EventRules(label_thresholds=manifest.thresholds))
    source = Monitored(Device(samples))
    capture = Capture(
        source, RATE_HZ, round(settings.step_s * RATE_HZ), live=False, window_samples=frontend.window_samples
    )
    thresholds = settings.rules.thresholds(engines.spec.labels)
    classifier = StreamClassifier(
        engines,
        FixedSize(patch) if first in {None, patch} else governed(first or patch, patch, Conditions(10.0)),
        settings,
        source="room",
        conditions=lambda _: Conditions(settings.step_s),
        signal=lambda: source.signal,
        cascade=None if first is None else Cascade(first, thresholds, engines.spec, settings.step_s),
    )
    began_s = time.process_time()
    events = [record for record in classifier.run(capture) if isinstance(record, Event)]
    cpu_s = time.process_time() - began_s
    return Heard(cpu_s, tuple(Sound(one.label, one.start_s, one.end_s) for one in events))


def run_yamnet(model: Path, samples: Float) -> Heard:
    """The last 0.975 s at every step, as its own example does."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    resampler, held = soxr.ResampleStream(DEVICE_HZ, RATE_HZ, 1, dtype="float32"), np.zeros(YAMNET_SAMPLES, np.float32)
    began_s = time.process_time()
    for block in Device(samples).blocks():
        held = np.concatenate((held, resampler.resample_chunk(block.samples[:, 0])))[-YAMNET_SAMPLES:]
        interpreter.set_tensor(given["index"], held.reshape(given["shape"]))
        interpreter.invoke()
        interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return Heard(time.process_time() - began_s, None)


def torch_engines(engines: Engines) -> Engines:
    """One size, exported by torch from the same checkpoint."""
    import onnxruntime
    import torch

    from benchmarks.export import AtPatch
    from flexiast.checkpoint import load_checkpoint
    from flexiast.networks import load_model
    from flexiast_runtime.catalog import find_checkpoint

    torch.set_num_threads(1)
    model, frontend = load_model(load_checkpoint(find_checkpoint(MODEL))).cpu(), engines.spec.frontend
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "torch.onnx"
        example = torch.zeros(1, frontend.window_frames, frontend.mel_bins)
        torch.onnx.export(AtPatch(model, FINE).eval(), (example,), graph, verbose=False)
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Engines(engines.manifest, {FINE: TorchGraph(engines.manifest.variant(FINE), session)})


def programs(yamnet: Path | None, *, peers: bool) -> dict[str, Callable[[Float], Heard]]:
    bundle = Bundle.open(find_bundle(MODEL))
    plain = load_engines(bundle, (FINE, COARSE), "fp32")
    precision = choose_precision(bundle.manifest, None, Backend.CPU)
    chosen = load_engines(bundle, (FINE, COARSE), precision)
    found: dict[str, Callable[[Float], Heard]] = {
        "flexiast 16, every window, fp32": lambda room: listen(plain, FINE, room),
        "flexiast 48, every window, fp32": lambda room: listen(plain, COARSE, room),
        f"flexiast 16, {precision}": lambda room: listen(chosen, FINE, room, FINE),
        f"**flexiast 16 after 48, {precision}: the default**": lambda room: listen(chosen, FINE, room, COARSE),
        f"flexiast 48, {precision}": lambda room: listen(chosen, COARSE, room, COARSE),
    }
    if peers:
        graph = torch_engines(plain)
        found["torch.onnx.export 16, ONNX Runtime"] = lambda room: listen(graph, FINE, room)
    if yamnet is not None:
        found["YAMNet int8, LiteRT"] = lambda room: run_yamnet(yamnet, room)
    return found


def compare(data: Path, minutes: float, yamnet: Path | None, plot: Path | None, *, peers: bool) -> None:
    """Print CPU-seconds an hour and F1 of each program in each room."""
    rooms = make_rooms(data, minutes)
    device = {name: soxr.resample(room.samples, RATE_HZ, DEVICE_HZ).astype(np.float32) for name, room in rooms.items()}
    print(f"{sum(len(room.truth) for room in rooms.values())} events in three rooms, {minutes:g} minutes each\n")
    print("| program | " + " | ".join(f"{name}, CPU-s an hour | F1" for name in rooms) + " |")
    print("|---" * (1 + 2 * len(rooms)) + "|", flush=True)
    points: dict[str, tuple[float, float]] = {}
    for name, hear in programs(yamnet, peers=peers).items():
        heard = {room: hear(samples) for room, samples in device.items()}
        hourly = {room: one.cpu_s * 60 / minutes for room, one in heard.items()}
        counts = {room: score(one, rooms[room]) for room, one in heard.items()}
        cells = (f"{hourly[room]:.1f} | {show_f1(counts[room])}" for room in rooms)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if (total := add(counts.values())) is not None and total.f1 is not None:
            points[name.strip("*")] = sum(hourly.values()) / len(hourly), total.f1
    if plot is not None:
        draw(points, plot)


def score(heard: Heard, room: Stream) -> Counts | None:
    """By overlap; rain is a label of the model's own, and no event here."""
    if heard.events is None:
        return None
    return count_by_overlap([event for event in heard.events if event.label != "rain"], room.truth)


def show_f1(counts: Counts | None) -> str:
    return "–" if counts is None or counts.f1 is None else f"{counts.f1:.2f}"


def add(counts: Any) -> Counts | None:
    known = [one for one in counts if one is not None]
    return sum(known, Counts()) if known else None


def draw(points: dict[str, tuple[float, float]], path: Path) -> None:
    from flexiast_cli.plot_axes import logarithmic, new_figure, plain

    figure, axes = new_figure(7, 4)
    for marker, (name, (cpu_s, f1)) in zip("os^D*v", points.items(), strict=False):
        colour = "#b3541e" if name.startswith("torch") else "#7a9e91" if "every" in name else "#2a7f62"
        axes.plot(cpu_s, f1, marker, color=colour, markersize=9, label=name)
    axes.legend(loc="lower right", fontsize=8)
    plain(axes)
    logarithmic(axes)
    axes.set(xlabel="CPU-seconds an hour, listening process, mean of the rooms", ylabel="F1 of events", ylim=(0, 1))
    figure.savefig(path, dpi=120)
