"""Teachers of other makers: small .onnx and .tflite models that are written here, against the same sums in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from flexiast.errors import ModelError, UsageError
from flexiast.training.external_teacher import ExternalTeacher, read_labels

Float = NDArray[np.float32]
SIZE, WIDTH, LABELS = 400, 6, ("hum", "hiss", "click")
RATE_HZ = 16_000


def weights(seed: int = 0) -> tuple[Float, Float]:
    """Waveform → embedding [SIZE, WIDTH] and embedding → logits [WIDTH, labels]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((SIZE, WIDTH), np.float32) / 20, rng.standard_normal((WIDTH, len(LABELS)), np.float32)


def write_onnx(
    path: Path, *, sigmoid: bool = True, rate_hz: int | None = None, shape: Sequence[object] = (1, SIZE)
) -> Path:
    """The embedding is the waveform times a matrix, the scores are that times another; both are outputs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    into, out = weights()
    nodes = [
        helper.make_node("MatMul", ["waveform", "into"], ["the_embedding"]),
        helper.make_node("MatMul", ["the_embedding", "out"], ["logits"]),
        helper.make_node("Sigmoid" if sigmoid else "Identity", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, list(shape))],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(LABELS)]),
            helper.make_tensor_value_info("the_embedding", TensorProto.FLOAT, [1, WIDTH]),
        ],
        [numpy_helper.from_array(into, "into"), numpy_helper.from_array(out, "out")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if rate_hz is not None:
        helper.set_model_props(model, {"sample_rate_hz": str(rate_hz)})
    onnx.save(model, str(path))
    return path


def write_tflite(path: Path) -> Path:
    """The same model; its embedding is inside, read by the last linear layer. Slots as in TensorFlow Lite's schema.

    A further output is no score: it comes from the input by no linear layer, as YAMNet's spectrogram does.
    """
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder(1 << 16)

    def table(*fields: tuple[str, int, int]) -> int:
        """(kind, slot, value) of each field; offsets were made before."""
        builder.StartObject(8)
        for kind, slot, value in fields:
            if kind == "offset":
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
            else:
                {"int8": builder.PrependInt8Slot, "int32": builder.PrependInt32Slot}[kind](slot, value, 0)
        return int(builder.EndObject())

    def offsets(values: Sequence[int]) -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependUOffsetTRelative(value)
        return int(builder.EndVector())

    def ints(*values: int) -> int:
        return int(builder.CreateNumpyVector(np.array(values, np.int32)))

    into, out = weights()
    constants = [into.T, out.T]  # FULLY_CONNECTED keeps [out, in]
    held = [builder.CreateNumpyVector(np.ascontiguousarray(each).view(np.uint8).ravel()) for each in constants]
    buffers = offsets([table(), *(table(("offset", 0, one)) for one in held)])
    shapes = [(1, SIZE), (WIDTH, SIZE), (1, WIDTH), (len(LABELS), WIDTH), (1, len(LABELS)), (1, len(LABELS)), (1, SIZE)]
    tensors = []
    for number, shape in enumerate(shapes):
        name, sizes = builder.CreateString(f"tensor{number}"), ints(*shape)
        buffer = {1: 1, 3: 2}.get(number, 0)
        tensors.append(table(("offset", 0, sizes), ("int32", 2, buffer), ("offset", 3, name)))
    operators = []
    for code, read, written in ((0, (0, 1, -1), 2), (0, (2, 3, -1), 4), (1, (4,), 5), (1, (0,), 6)):
        inputs, outputs = ints(*read), ints(written)
        fields = [("int32", 0, code), ("offset", 1, inputs), ("offset", 2, outputs)]
        if code == 0:
            fields += [("int8", 3, 8), ("offset", 4, table())]  # FullyConnectedOptions, all defaults
        operators.append(table(*fields))
    listed, done = offsets(tensors), offsets(operators)
    first, last = ints(0), ints(5, 6)
    subgraph = table(("offset", 0, listed), ("offset", 1, first), ("offset", 2, last), ("offset", 3, done))
    codes = [table(("int8", 0, code), ("int32", 2, 1), ("int32", 3, code)) for code in (9, 14)]
    codes_at, subgraphs = offsets(codes), offsets([subgraph])
    root = table(("int32", 0, 3), ("offset", 1, codes_at), ("offset", 2, subgraphs), ("offset", 4, buffers))
    builder.Finish(root, b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def expected(clip: Float, starts: Sequence[int]) -> tuple[Float, Float]:
    into, out = weights()
    windows = [np.pad(clip[start : start + SIZE], (0, max(0, start + SIZE - len(clip)))) for start in starts]
    embeddings = np.stack(windows) @ into
    return expit(embeddings @ out).mean(axis=0), (np.sign(embeddings) * np.sqrt(np.abs(embeddings))).mean(axis=0)


def noise(samples: int, seed: int = 1) -> Float:
    return np.random.default_rng(seed).standard_normal(samples, np.float32)


@pytest.fixture(params=["onnx", "onnx logits", "tflite"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> ExternalTeacher:
    if request.param == "tflite":
        pytest.importorskip("ai_edge_litert")
        return ExternalTeacher(write_tflite(tmp_path / "teacher.tflite"), LABELS, RATE_HZ)
    path = write_onnx(tmp_path / "teacher.onnx", sigmoid=request.param == "onnx")
    return ExternalTeacher(path, LABELS, RATE_HZ)


@pytest.mark.parametrize(
    ("samples", "starts"), [(100, [0]), (400, [0]), (599, [0]), (600, [0, 200]), (1_050, [0, 200, 400, 600])]
)
def test_answers_are_means_over_windows_that_overlap_by_half(
    teacher: ExternalTeacher, samples: int, starts: list[int]
) -> None:
    clip = noise(samples)
    for found, wanted in zip(teacher.answer(clip, RATE_HZ), expected(clip, starts), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)  # float32, sums in another order


def test_a_tflite_teacher_needs_no_labels_to_teach_its_embedding(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    clip = noise(SIZE)
    scores, embedding = ExternalTeacher(write_tflite(tmp_path / "t.tflite"), sample_rate_hz=RATE_HZ).answer(
        clip, RATE_HZ
    )
    np.testing.assert_allclose(scores, expected(clip, [0])[0], atol=1e-5)
    np.testing.assert_allclose(embedding, expected(clip, [0])[1], atol=1e-4)


def test_clips_at_another_rate_are_resampled(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "teacher.onnx", rate_hz=8_000)
    teacher = ExternalTeacher(path, LABELS)
    assert teacher.sample_rate_hz == 8_000  # read from the model
    slow = np.sin(np.arange(1_600) / 40).astype(np.float32)
    fast = np.sin(np.arange(3_200) / 80).astype(np.float32)
    for one, other in zip(teacher.answer(slow, 8_000), teacher.answer(fast, 16_000), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)  # the ends ring a little
    with pytest.raises(UsageError, match="8,000 Hz"):
        ExternalTeacher(path, LABELS, 16_000)


def test_answers_are_computed_once(teacher: ExternalTeacher, tmp_path: Path) -> None:
    clips, cache, asked = [noise(500, 1), noise(900, 2)], tmp_path / "answers.npz", []

    def counting(numbers: Sequence[int]) -> Sequence[int]:
        asked.append(len(numbers))
        return numbers

    first = teacher.answers(clips, RATE_HZ, cache, progress=counting)
    again = teacher.answers(clips, RATE_HZ, cache, progress=counting)
    assert asked == [2]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.scores[1], teacher.answer(clips[1], RATE_HZ)[0])
    teacher.answers([clips[0], clips[1] * 1.001], RATE_HZ, cache, progress=counting)  # other clips
    cache.write_bytes(cache.read_bytes()[:100])
    teacher.answers(clips, RATE_HZ, cache, progress=counting)  # a cut cache
    assert asked == [2, 2, 2]


@pytest.mark.parametrize(
    ("make", "labels", "rate_hz", "error", "words"),
    [
        (lambda path: path, LABELS, RATE_HZ, ModelError, "does not exist"),
        (lambda path: path.write_bytes(b"no model"), LABELS, RATE_HZ, ModelError, "cannot be loaded"),
        (write_onnx, LABELS[:2], RATE_HZ, ModelError, "one output of 2 scores"),
        (write_onnx, LABELS, None, UsageError, "--teacher-rate"),
        (lambda path: write_onnx(path, shape=(2, SIZE)), LABELS, RATE_HZ, ModelError, "one waveform"),
    ],
)
def test_what_cannot_teach_is_refused(
    tmp_path: Path,
    make: Callable[[Path], object],
    labels: tuple[str, ...],
    rate_hz: int | None,
    error: type[Exception],
    words: str,
) -> None:
    make(tmp_path / "teacher.onnx")
    with pytest.raises(error, match=words):
        ExternalTeacher(tmp_path / "teacher.onnx", labels, rate_hz)


def test_a_tflite_file_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "teacher.tflite").write_bytes(b"no model")
    with pytest.raises(ModelError, match="TensorFlow Lite"):
        ExternalTeacher(tmp_path / "teacher.tflite", LABELS, RATE_HZ)


@pytest.mark.parametrize("text", ['index,mid,display_name\n0,/m/1,hum\n1,/m/2,"hiss, steam"\n', "hum\nhiss, steam\n"])
def test_labels_are_read_from_a_csv_of_classes_or_from_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    assert read_labels(tmp_path / "labels.csv") == ("hum", "hiss, steam")


@pytest.mark.parametrize("text", ["hum\nhum\n", "hum\n", "hum\n\x1b[2J\n"])
def test_labels_that_cannot_be_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=r"labels\.csv"):
        read_labels(tmp_path / "labels.csv")
