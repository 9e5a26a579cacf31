"""Models of other makers that teach: waveform → scores and embedding, from a .tflite or .onnx file.

Their answers to a clip are computed once and kept on disk: a teacher of 4 million parameters takes as long for a second
of sound as a training step does, and a run trains on every clip many times.
"""

from __future__ import annotations

import csv
import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr

from flexiast.arrays import Float
from flexiast.errors import ModelError, UsageError
from flexiast.extras import require
from flexiast.files import write_atomically
from flexiast.spec import check_label

SUFFIXES = (".tflite", ".onnx")
"""Names of files that are a teacher of another maker; every other teacher is a checkpoint of flexiast."""

NAME_COLUMNS = ("display_name", "label", "name")
"""Columns of a CSV of classes that may hold their names; AudioSet's is the first."""

ELEMENTWISE = {"LOGISTIC", "SOFTMAX", "RESHAPE", "SQUEEZE", "DEQUANTIZE", "MEAN"}
"""Operations between the last linear layer and the scores."""

LINEAR = {"FULLY_CONNECTED", "CONV_2D"}

NONE = np.empty((1, 0), np.float32)
"""The embedding of a teacher that has none."""


class Answers(NamedTuple):
    """A teacher's scores and embedding of clips."""

    scores: Float
    """[clips, labels], each in 0 … 1, the mean over the teacher's windows."""
    embedding: Float
    """[clips, width], the mean over the teacher's windows of its embedding's signed square root; width 0 for none.

    YAMNet's embedding is forty times as large in digital silence as in sound: a plain mean would tell little else.
    """


class ExternalTeacher:
    """A model of another maker, on one thread of the CPU.

    Its input is one waveform: of a fixed length, then it takes a clip in windows that overlap by a half; or of any,
    then it takes a clip whole. One output must be as wide as there are labels; the input of the last linear layer
    before it, or another output whose name holds "embedding", is the embedding.
    """

    def __init__(self, path: Path, labels: tuple[str, ...] | None = None, sample_rate_hz: int | None = None) -> None:
        """``labels`` are those of its scores; without, one output must be scores, which a linear layer gives.

        Raises ModelError for a model that is no teacher, and UsageError for one that does not state its sample rate.
        """
        if not path.is_file():
            raise ModelError(f"{path} does not exist; give a .tflite or .onnx model of waveform → scores")
        self.labels = labels or ()
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        opened = _open_onnx(path, labels) if path.suffix.lower() == ".onnx" else _open_litert(path, labels)
        self._run, self._window_samples, stated_hz = opened
        if stated_hz is not None and sample_rate_hz is not None and stated_hz != sample_rate_hz:
            raise UsageError(f"{path} states {stated_hz:,} Hz, --teacher-rate says {sample_rate_hz:,}; leave that out")
        rate = stated_hz or sample_rate_hz
        if rate is None:
            raise UsageError(f"{path} does not say its sample rate; give it, such as --teacher-rate 16000 for YAMNet")
        self.sample_rate_hz = rate
        noise = np.random.default_rng(0).standard_normal(self._window_samples or rate).astype(np.float32)
        tried = [self._run(level * noise)[0] for level in (0.0, 0.01, 0.3)]
        self._logits = bool(np.min(tried) < 0 or np.max(tried) > 1)

    def answer(self, waveform: Float, sample_rate_hz: int) -> tuple[Float, Float]:
        """Waveform [samples] → scores [labels] and embedding [width] as in ``Answers``."""
        if sample_rate_hz != self.sample_rate_hz:
            waveform = soxr.resample(waveform, sample_rate_hz, self.sample_rate_hz)
        size = self._window_samples or max(1, len(waveform))
        frames = [self._run(_pad(window, size)) for window in split_overlapping(waveform, size)]
        scores, embeddings = (np.concatenate(parts) for parts in zip(*frames, strict=True))
        if self._logits:
            scores = 1 / (1 + np.exp(-scores))
        return scores.mean(axis=0), (np.sign(embeddings) * np.sqrt(np.abs(embeddings))).mean(axis=0)

    def answers(
        self,
        clips: Sequence[Float],
        sample_rate_hz: int,
        cache: Path | None = None,
        *,
        progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> Answers:
        """Its answers to each clip; read from ``cache`` where that holds the same teacher's answers to the same clips.

        A cache of other clips, or of another teacher, is replaced.
        """

        def ask() -> Answers:
            pairs = [self.answer(clips[number], sample_rate_hz) for number in progress(range(len(clips)))]
            return Answers(np.stack([scores for scores, _ in pairs]), np.stack([vector for _, vector in pairs]))

        return cache_answers(clips, f"{self.sha256} {self.sample_rate_hz} {sample_rate_hz}", cache, ask)


def split_overlapping(waveform: Float, size: int) -> list[Float]:
    """Stretches of ``size`` samples that overlap by a half, one at the least, which may be shorter."""
    starts = range(0, max(1, len(waveform) - size + 1), max(1, size // 2))
    return [waveform[start : start + size] for start in starts]


def cache_answers(clips: Sequence[Float], asked: str, cache: Path | None, ask: Callable[[], Answers]) -> Answers:
    """The answers to these clips from ``cache``, or those of ``ask``, which are kept there.

    ``asked`` names the teacher and how it is asked. Raises ModelError for answers that are not finite.
    """
    digest = hashlib.sha256(f"{asked} {len(clips)}".encode())
    for clip in clips:
        digest.update(clip.tobytes())
    if cache is not None and (cached := _read_cache(cache, digest.hexdigest())) is not None:
        return cached
    answers = ask()
    if not all(np.isfinite(part).all() for part in answers):
        raise ModelError("the teacher answers some clips with values that are not finite; it cannot teach")
    if cache is not None:
        content = io.BytesIO()
        np.savez(content, key=np.array(digest.hexdigest()), scores=answers.scores, embedding=answers.embedding)
        write_atomically(cache, content.getvalue())
    return answers


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of a model's classes, in its order: a CSV with a column display_name, label or name, or one a line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a list of labels: {error}") from error
    reader = csv.DictReader(io.StringIO(text))
    column = next((name for name in NAME_COLUMNS if name in (reader.fieldnames or ())), None)
    lines = [line for line in text.splitlines() if line.strip()] if column is None else [row[column] for row in reader]
    labels = tuple(line.strip() for line in lines)
    for label in labels:
        try:
            check_label(label)
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None
    if len(set(labels)) < len(labels) or len(labels) < 2:
        raise UsageError(f"{path} must name two or more labels, each once; it has {len(labels)} lines")
    return labels


_Run = Callable[[Float], tuple[Float, Float]]
"""One window, or a clip of any length [samples] → scores [frames, labels], embedding [frames, width]."""


def _open_onnx(path: Path, labels: tuple[str, ...] | None) -> tuple[_Run, int | None, int | None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common root but this
        raise ModelError(f"{path} cannot be loaded as an ONNX model: {_last_line(error)}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        raise ModelError(f"{path} must have one input of float32, a waveform; it has {_describe_shapes(inputs)}")
    size = _window_samples(path, inputs[0].shape)
    scores = _find_scores(path, [(one.name, one.shape) for one in outputs], labels)
    embedding = next((one.name for one in outputs if "embedding" in one.name.lower()), None)
    wanted = [scores] if embedding is None else [scores, embedding]
    rank = len(inputs[0].shape)

    def run(waveform: Float) -> tuple[Float, Float]:
        found = session.run(wanted, {inputs[0].name: waveform.astype(np.float32).reshape((1,) * (rank - 1) + (-1,))})
        return _as_frames(found[0]), _as_frames(found[1]) if embedding else NONE

    stated = session.get_modelmeta().custom_metadata_map
    rate = stated.get("sample_rate_hz") or stated.get("sample_rate")
    return run, size, int(rate) if rate and rate.isdigit() else None


def _open_litert(path: Path, labels: tuple[str, ...] | None) -> tuple[_Run, int | None, int | None]:
    litert = require("ai_edge_litert.interpreter", "teacher")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that intermediate tensors take memory: they are what is asked for
            model = litert.Interpreter(model_path=str(path), num_threads=1, experimental_preserve_all_tensors=True)
            model.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be loaded as a TensorFlow Lite model: {_last_line(error)}") from error
    inputs, outputs = model.get_input_details(), model.get_output_details()
    if len(inputs) != 1 or inputs[0]["dtype"] != np.float32:
        listed = ", ".join(f"{one['name']} {one['shape'].tolist()} {np.dtype(one['dtype'])}" for one in inputs)
        raise ModelError(f"{path} must have one input of float32, a waveform; it has {listed}")
    size = _window_samples(path, inputs[0]["shape_signature"].tolist())
    indices = {one["name"]: one["index"] for one in outputs}
    if labels is None and len(outputs) > 1:  # YAMNet's other output is its spectrogram
        linear = [one for one in outputs if _find_last_linear_input(model, one["index"]) is not None]
        outputs = linear or outputs
    name = _find_scores(path, [(one["name"], one["shape_signature"].tolist()) for one in outputs], labels)
    scores = indices[name]
    named = (index for output, index in indices.items() if "embedding" in output.lower())
    embedding = next(named, None) or _find_last_linear_input(model, scores)
    into, rank = inputs[0]["index"], len(inputs[0]["shape"])

    def run(waveform: Float) -> tuple[Float, Float]:
        given = waveform.astype(np.float32).reshape((1,) * (rank - 1) + (-1,))
        if size is None:
            model.resize_tensor_input(into, given.shape)
            model.allocate_tensors()
        model.set_tensor(into, given)
        model.invoke()
        return _as_frames(model.get_tensor(scores)), NONE if embedding is None else _as_frames(
            model.get_tensor(embedding)
        )

    return run, size, None


def _find_last_linear_input(model: Any, scores: int) -> int | None:
    """The tensor that the last linear layer before the scores reads; None where another kind of layer comes first."""
    producers = {
        int(out): one for one in model._get_ops_details() for out in one["outputs"] if one["op_name"] != "DELEGATE"
    }
    tensor = scores
    while (operation := producers.get(tensor)) is not None:
        if operation["op_name"] in LINEAR:
            return int(operation["inputs"][0])
        if operation["op_name"] not in ELEMENTWISE:
            return None
        tensor = int(operation["inputs"][0])
    return None


def _window_samples(path: Path, shape: Sequence[object]) -> int | None:
    """Samples of the input, None for any number; raises ModelError for an input that is no waveform."""
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if not sizes or len(sizes) > 2 or any(size not in {1, None} for size in sizes[:-1]):
        raise ModelError(f"{path} must take one waveform, [samples] or [1, samples]; its input is {list(shape)}")
    return sizes[-1] if sizes[-1] != 1 else None  # a length of 1 stands for any: it is what converters write


def _find_scores(path: Path, outputs: Sequence[tuple[str, Sequence[object]]], labels: tuple[str, ...] | None) -> str:
    """Name of the output that holds the scores; raises ModelError where it cannot be known."""
    if labels is None:
        found = [name for name, _ in outputs if "embedding" not in name.lower()]
        wanted = "one output of scores"
    else:
        found = [name for name, shape in outputs if shape and shape[-1] == len(labels)]
        wanted = f"one output of {len(labels)} scores, one for each label"
    if len(found) != 1:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in outputs)
        raise ModelError(
            f"{path} must have {wanted}; it has {listed}; give the labels of this model as --teacher-labels"
        )
    return found[0]


def _as_frames(output: Float) -> Float:
    """Any shape whose last axis counts → [frames, width]."""
    return np.array(output, np.float32).reshape(-1, output.shape[-1])


def _pad(waveform: Float, size: int) -> Float:
    return np.pad(waveform, (0, size - len(waveform)))


def _read_cache(path: Path, key: str) -> Answers | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return Answers(held["scores"], held["embedding"]) if str(held["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or damaged
        return None


def _describe_shapes(values: Iterable[Any]) -> str:
    return ", ".join(f"{one.name} {one.shape} {one.type}" for one in values)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
