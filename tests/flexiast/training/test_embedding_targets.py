"""What a student of another maker's teacher is given, learns and leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from flexiast.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flexiast.errors import DataError
from flexiast.frontend import Frontend
from flexiast.model import FlexiAST
from flexiast.networks import load_model, weights_of
from flexiast.spec import PatchSize, Spec
from flexiast.training.embedding_targets import (
    FARTHEST,
    EmbeddingTargets,
    Student,
    embed_clips,
    embedding_loss,
    vectors_to_learn,
)
from flexiast.training.external_teacher import Answers
from flexiast.training.unlabelled import Pieces, read_recordings
from tests.flexiast.training.test_external_teacher import LABELS, WIDTH

Float = NDArray[np.float32]
PATCH = PatchSize(16, 16)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=4), st.integers(1, 20))
def test_pieces_are_windows_side_by_side(lengths: list[int], window: int) -> None:
    recordings = [100 * number + np.arange(length, dtype=np.float32) for number, length in enumerate(lengths)]
    found = list(Pieces(recordings, window))
    assert all(0 < len(piece) <= window for piece in found)
    for number, recording in enumerate(recordings):
        joined = np.concatenate([piece for piece in found if piece[0] // 100 == number])
        np.testing.assert_array_equal(joined, recording[: len(joined)])
        assert len(recording) - len(joined) < window / 2 + 1


def test_targets_have_the_same_spread_in_every_dimension_that_lives() -> None:
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((500, 3)).astype(np.float32) * [1e-3, 1, 50] + [1, 2, 3]
    embedding = np.concatenate((embedding, np.full((500, 1), 7)), axis=1).astype(np.float32)  # a unit that never fires
    narrow = rng.standard_normal((500, 1), np.float32)
    targets = EmbeddingTargets([embedding, narrow, np.empty((500, 0), np.float32)])
    learnt = targets.values
    assert learnt.shape == (500, 4)
    np.testing.assert_allclose(targets.weights, [1 / 6, 1 / 6, 1 / 6, 1 / 2], rtol=1e-6)  # float32
    np.testing.assert_allclose(learnt.mean(axis=0), 0, atol=0.01)  # float32, and few are cut off
    np.testing.assert_allclose(learnt.std(axis=0), 1, atol=0.01)
    assert np.abs(learnt).max() <= FARTHEST


def test_a_student_begins_with_the_mean_scores_and_leaves_no_projection(
    build_spec: Callable[..., Spec], tmp_path: Path
) -> None:
    spec = build_spec(task="multi", labels=LABELS)
    rng = np.random.default_rng(0)
    scores = rng.random((50, 3), np.float32) * np.float32([1, 0.1, 0.01])
    student = Student(spec, WIDTH, scores.mean(axis=0))
    features = torch.from_numpy(rng.standard_normal((2, 98, 128), np.float32))
    with torch.no_grad():
        trained = student.train()(features, PATCH)
        answers = student.eval()(features, PATCH)
    assert trained.shape == (2, 3 + WIDTH)
    torch.testing.assert_close(trained[:, :3], answers)
    np.testing.assert_allclose(torch.sigmoid(answers), np.tile(scores.mean(axis=0), (2, 1)), rtol=1e-4)  # float32

    save_checkpoint(tmp_path / "student.safetensors", Checkpoint(spec, weights_of(student)))
    loaded = load_model(load_checkpoint(tmp_path / "student.safetensors")).cpu()
    with torch.no_grad():
        torch.testing.assert_close(loaded(features, PATCH), answers)


def test_a_checkpoint_teaches_the_mean_embedding_of_its_windows(
    build_spec: Callable[..., Spec], tmp_path: Path
) -> None:
    spec = build_spec(98)  # frames, a second
    model = FlexiAST(spec).eval()
    clips = [
        np.random.default_rng(seed).standard_normal(samples, np.float32) for seed, samples in enumerate((32_000, 9_000))
    ]
    found = embed_clips(model, PATCH, clips, tmp_path / "answers.npz")
    frontend, size = Frontend(spec.frontend), spec.frontend.window_samples
    for vector, clip, starts in zip(found, clips, ([0, size // 2, size // 2 * 2], [0]), strict=True):
        windows = torch.from_numpy(np.stack([frontend.window(clip[start:]) for start in starts]))
        with torch.no_grad():
            embedded = model.embed(windows, PATCH)
            torch.testing.assert_close(model.head(embedded), model(windows, PATCH))
        np.testing.assert_allclose(vector, embedded.numpy().mean(axis=0), atol=1e-5)  # float32
    again = embed_clips(model, PatchSize(8, 8), clips, tmp_path / "answers.npz")  # another size is asked anew
    assert np.abs(again - found).max() > 1e-3


def test_the_loss_is_the_weighted_squared_error_of_what_a_teacher_answered() -> None:
    weights = torch.tensor([0.5, 0.25])
    target = torch.tensor([[1.0, -2.0], [0.0, 0.0], [float("nan"), float("nan")]])
    answers = torch.tensor([[2.0, 0.0], [0.0, 3.0], [5.0, 5.0]], requires_grad=True)
    loss = embedding_loss(answers, target, weights)
    assert loss.tolist() == [0.5 * 1 + 0.25 * 4, 0.25 * 9, 0.0]
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert answers.grad is not None
    assert answers.grad.tolist() == [[1.0, 1.0], [0.0, 1.5], [0.0, 0.0]]  # 2 · weight · error


def test_a_teacher_without_an_embedding_teaches_the_logits_of_its_scores() -> None:
    scores = np.float32([[0.1, 0.5], [0.0, 0.9]])
    embedding = np.float32([[1, 2, 3], [4, 5, 6]])
    assert vectors_to_learn(Answers(scores, embedding)) is embedding
    found = vectors_to_learn(Answers(scores, np.empty((2, 0), np.float32)))
    np.testing.assert_allclose(expit(found), scores, atol=1e-5)  # a score of 0 is held at a millionth


def test_recordings_need_no_labels_and_are_split_as_wholes(tmp_path: Path) -> None:
    for number in range(40):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(800), 16_000)
    dataset = read_recordings(tmp_path, LABELS)
    assert [len(dataset.split(name).clips) for name in ("train", "val")] == [38, 2]
    for left in list(tmp_path.iterdir())[1:]:
        left.unlink()
    with pytest.raises(DataError, match="two or more recordings; it has 1"):
        read_recordings(tmp_path, LABELS)
