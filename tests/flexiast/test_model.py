"""The transformer, against slow loops, torch's convolution and torch's own encoder layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flexiast.checkpoint import weight_shapes
from flexiast.model import Block, FlexiAST, PatchEmbedding, drop_tokens, patchify
from flexiast.patching import patch_matrices
from flexiast.spec import NetworkSpec, PatchSize, Spec

SIZES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
RECTANGLES = ((8, 48), (48, 8), (16, 32), (32, 16), (10, 24), (24, 10), (128, 2), (1, 98))
PATCHES = tuple(PatchSize(size, size) for size in SIZES) + tuple(PatchSize(*pair) for pair in RECTANGLES)


def features_of(spec: Spec, batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, spec.frontend.window_frames, spec.frontend.mel_bins, generator=torch.manual_seed(seed))


def model_of(spec: Spec) -> FlexiAST:
    """A model whose head answers: a fresh one starts at zero and would pass any test of equality."""
    torch.manual_seed(0)
    model = FlexiAST(spec).eval()
    nn.init.normal_(model.head.weight)
    nn.init.normal_(model.head.bias)
    return model


# ----- patches


def slow_patchify(features: NDArray[np.float32], patch: PatchSize, floor: float) -> NDArray[np.float32]:
    """One value at a time: row of patches, column of patches, then mel and frame within the patch."""
    frames, mels = features.shape
    patches = []
    for top in range(0, mels, patch.mels):
        for left in range(0, frames, patch.frames):
            inside = [
                features[frame, mel] if frame < frames and mel < mels else floor
                for mel in range(top, top + patch.mels)
                for frame in range(left, left + patch.frames)
            ]
            patches.append(inside)
    return np.array(patches, np.float32)


@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12))
def test_patches_are_what_a_loop_over_mel_and_time_cuts(
    frames: int, mels: int, patch_mels: int, patch_frames: int
) -> None:
    patch = PatchSize(patch_mels, patch_frames)
    features = np.random.default_rng(0).normal(size=(2, frames, mels)).astype(np.float32)
    fast = patchify(torch.from_numpy(features), patch, -1.25).numpy()
    assert np.array_equal(fast, np.stack([slow_patchify(clip, patch, -1.25) for clip in features]))


@pytest.mark.parametrize("stride", [PatchSize(1, 1), PatchSize(3, 2), PatchSize(5, 4)], ids=str)
def test_overlapping_patches_are_what_torch_unfolds(stride: PatchSize) -> None:
    features = torch.randn(2, 23, 17, generator=torch.manual_seed(0))
    columns = functional.unfold(features.transpose(1, 2)[:, None], (5, 4), stride=tuple(stride))
    assert torch.equal(patchify(features, PatchSize(5, 4), 0.0, stride), columns.transpose(1, 2))


@pytest.mark.parametrize("frames", [98, 498])
def test_nothing_is_cropped_at_any_size(frames: int, build_spec: Callable[..., Spec]) -> None:
    spec = build_spec(frames)
    embedding = PatchEmbedding(spec)
    silence, last_mel, last_frame = torch.zeros(3, frames, 128)
    last_mel[0, -1] = 1.0
    last_frame[-1, 0] = 1.0
    for patch in PATCHES:
        rows, columns = spec.grid(patch)
        with torch.no_grad():
            tokens = embedding(torch.stack((silence, last_mel, last_frame)), patch)
        reached = (tokens[1:] - tokens[0]).abs().amax(dim=-1) > 1e-4  # kernels here are of size 1/16
        # bin 127 of frame 0 lies in the last row's first patch, bin 0 of the last frame in the first row's last
        assert reached[0].nonzero().flatten().tolist() == [(rows - 1) * columns], patch
        assert reached[1].nonzero().flatten().tolist() == [columns - 1], patch


def test_tokens_at_the_base_size_are_a_strided_convolution(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec(frames=96)  # 16 divides it: a convolution has no floor to pad with
    embedding = PatchEmbedding(spec)
    nn.init.normal_(embedding.bias)
    features = features_of(spec, 2)
    images = features.transpose(1, 2)[:, None]
    convolved = functional.conv2d(images, embedding.kernel[:, None], embedding.bias, stride=16)
    expected = convolved.flatten(2).transpose(1, 2) + embedding.positions.flatten(0, 1)
    # float32 sums of 256 products of size 1/16
    torch.testing.assert_close(embedding(features, PatchSize(16, 16)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [98, 498])
def test_kernel_and_positions_in_the_graph_are_those_of_the_exporter(
    frames: int, build_spec: Callable[..., Spec]
) -> None:
    spec = build_spec(frames)
    embedding = PatchEmbedding(spec)
    for patch in PATCHES:
        kernel, positions = (tensor.detach().numpy() for tensor in embedding.resize(patch))
        matrices = patch_matrices(spec, patch)
        # the graph multiplies in float32, numpy in float64; values are of size 1 and sums of at most 32 terms
        np.testing.assert_allclose(kernel, matrices.kernel(embedding.kernel.detach().numpy()), atol=2e-6)
        np.testing.assert_allclose(positions, matrices.positions(embedding.positions.detach().numpy()), atol=2e-6)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_every_stored_weight_of_the_embedding_learns_at_every_size(
    patch: PatchSize, build_spec: Callable[..., Spec]
) -> None:
    embedding = PatchEmbedding(build_spec())
    (embedding(features_of(embedding.spec, 2), patch) ** 2).sum().backward()
    assert (embedding.kernel.grad != 0).all()
    assert (embedding.positions.grad != 0).all()


# ----- the whole model


def test_a_block_is_torchs_encoder_layer(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec(network=NetworkSpec(width=24, depth=1, heads=3))
    block = Block(spec)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)  # norms and biases too, or half of the layer would go untested
    reference = nn.TransformerEncoderLayer(24, 3, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "projection.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    weights = block.state_dict()
    reference.load_state_dict(
        {f"{a}{kind}": weights[f"{b}{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    )
    tokens = torch.randn(2, 11, 24, generator=torch.manual_seed(0))
    torch.testing.assert_close(block(tokens), reference(tokens), rtol=1e-5, atol=1e-5)  # float32, other order of sums


IMPORTED = NetworkSpec(width=24, depth=2, heads=3, prefix_tokens=2, norm_epsilon=1e-6, head_norm=True)
"""Everything that only imported models have."""


@pytest.mark.parametrize("queries", [1, 2, 11])
def test_tokens_that_ask_become_what_they_would_among_all(queries: int, build_spec: Callable[..., Spec]) -> None:
    block = Block(build_spec(network=IMPORTED))
    tokens = torch.randn(2, 11, 24, generator=torch.manual_seed(0))
    torch.testing.assert_close(block(tokens, queries), block(tokens)[:, :queries], rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize("network", [NetworkSpec(width=24, depth=2, heads=3), IMPORTED], ids=["own", "imported"])
@pytest.mark.parametrize("stride", [None, PatchSize(10, 6)], ids=str)
def test_logits_are_those_of_whole_blocks(
    network: NetworkSpec, stride: PatchSize | None, build_spec: Callable[..., Spec]
) -> None:
    model = model_of(build_spec(network=network, base_stride=stride))
    features = features_of(model.spec, 2)
    tokens = model.embedding(features, PatchSize(12, 20))
    tokens = torch.cat((model.prefix().expand(2, -1, -1), tokens), dim=1)
    for block in model.blocks:
        tokens = block(tokens)
    pooled = model.norm(tokens)[:, : network.prefix_tokens].mean(dim=1)
    expected = model.head(model.head_norm(pooled) if network.head_norm else pooled)
    torch.testing.assert_close(model(features, PatchSize(12, 20)), expected, rtol=0, atol=1e-5)  # float32


# ----- dropped tokens


def test_kept_tokens_are_different_ones_of_each_clip() -> None:
    tokens = torch.arange(8 * 30 * 2, dtype=torch.float32).reshape(8, 30, 2)
    torch.manual_seed(0)
    kept = drop_tokens(tokens, 7)
    assert kept.shape == (8, 7, 2)
    chosen = [{int(row[0]) for row in clip} for clip in kept]
    assert all(len(clip) == 7 for clip in chosen)
    assert all(clip <= {int(row[0]) for row in of} for clip, of in zip(chosen, tokens, strict=True))
    assert len({frozenset(value - 60 * clip for value in kept) for clip, kept in enumerate(chosen)}) > 1


def test_every_token_is_kept_equally_often() -> None:
    torch.manual_seed(0)
    kept = drop_tokens(torch.eye(10).expand(4000, 10, 10), 3).sum(dim=(0, 1))
    # each count is binomial: mean 1200, standard deviation 29
    torch.testing.assert_close(kept, torch.full((10,), 1200.0), rtol=0, atol=5 * 29)


def test_tokens_are_dropped_while_training_only_and_by_the_seed(build_spec: Callable[..., Spec]) -> None:
    spec, patch = build_spec(network=IMPORTED), PatchSize(16, 16)
    model, features = model_of(spec), features_of(spec, 2)
    whole = model(features, patch)
    assert torch.equal(model(features, patch, 5), whole)  # evaluating
    model.train()
    assert torch.equal(model(features, patch), whole)
    assert torch.equal(model(features, patch, spec.tokens(patch)), whole)  # there are not more
    torch.manual_seed(1)
    once, other = model(features, patch, 5), model(features, patch, 5)
    torch.manual_seed(1)
    assert torch.equal(model(features, patch, 5), once)
    assert not torch.equal(once, other)
    assert not torch.equal(once, whole)


def test_dropped_tokens_cost_nothing(build_spec: Callable[..., Spec]) -> None:
    spec, patch = build_spec(network=NetworkSpec(width=24, depth=4, heads=3)), PatchSize(8, 8)
    model, features = model_of(spec).train(), features_of(spec, 1)
    seen: list[int] = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    model(features, patch, 20)
    assert seen == [21]


# ----- weights


@pytest.mark.parametrize("network", [NetworkSpec(width=24, depth=3, heads=3), IMPORTED], ids=["own", "imported"])
@pytest.mark.parametrize("stride", [None, PatchSize(5, 12)], ids=str)
def test_weights_have_the_names_and_shapes_a_checkpoint_expects(
    network: NetworkSpec, stride: PatchSize | None, build_spec: Callable[..., Spec]
) -> None:
    spec = build_spec(base_patch=PatchSize(8, 12), network=network, base_stride=stride, labels=("a", "b", "c"))
    assert {name: tuple(value.shape) for name, value in FlexiAST(spec).state_dict().items()} == weight_shapes(spec)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_a_window_gives_one_finite_logit_for_each_label(patch: PatchSize, build_spec: Callable[..., Spec]) -> None:
    spec = build_spec(labels=("a", "b", "c"))
    with torch.no_grad():
        logits = model_of(spec)(features_of(spec, 2), patch)
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    assert (logits[0] != logits[1]).all()  # it listens


@pytest.mark.parametrize("patch", [PatchSize(8, 8), PatchSize(16, 16), PatchSize(10, 24), PatchSize(48, 48)], ids=str)
@pytest.mark.parametrize("network", [NetworkSpec(width=24, depth=2, heads=3), IMPORTED], ids=["own", "imported"])
@pytest.mark.parametrize("stride", [None, PatchSize(10, 10)], ids=str)
def test_a_window_costs_the_products_that_torch_counts(
    patch: PatchSize, network: NetworkSpec, stride: PatchSize | None, build_spec: Callable[..., Spec]
) -> None:
    spec = build_spec(network=network, base_stride=stride, labels=("a", "b", "c"))
    model = model_of(spec)
    # the plain attention is made of matrix products, which the counter knows on every platform
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as whole:
            model(features_of(spec, 1), patch)
        with FlopCounterMode(display=False) as resizing:  # done once at export, so no part of a window's cost
            model.embedding.resize(patch)
    products = (whole.get_total_flops() - resizing.get_total_flops()) / 2
    assert spec.gmac(patch) == pytest.approx(products / 1e9, rel=1e-12)


def test_an_untrained_model_prefers_no_label(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec()
    with torch.no_grad():
        assert (FlexiAST(spec)(features_of(spec, 1), PatchSize(16, 16)) == 0).all()


@pytest.mark.parametrize("patch", [PatchSize(16, 16), PatchSize(10, 24), PatchSize(48, 48)], ids=str)
def test_logits_do_not_depend_on_the_rest_of_the_batch(patch: PatchSize, build_spec: Callable[..., Spec]) -> None:
    spec = build_spec()
    model, features = model_of(spec), features_of(spec, 5)
    with torch.no_grad():
        together = model(features, patch)
        alone = torch.cat([model(clip[None], patch) for clip in features])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)  # float32: matrix products may sum in another order


def test_no_clips_give_no_logits_and_pull_nowhere(build_spec: Callable[..., Spec]) -> None:
    """As on a rank that has no share of a step."""
    spec = build_spec()
    model = model_of(spec).train()
    logits = model(features_of(spec, 0), PatchSize(16, 16), keep=4)
    assert logits.shape == (0, spec.classes)
    logits.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_the_same_sound_elsewhere_in_time_is_another_input(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec(frames=96)
    model, features = model_of(spec), features_of(spec, 1)
    with torch.no_grad():
        patch = PatchSize(16, 16)
        moved = model(features.roll(16, dims=1), patch)  # the same patches in other columns: only positions tell
        assert (moved - model(features, patch)).abs().max() > 1e-3
