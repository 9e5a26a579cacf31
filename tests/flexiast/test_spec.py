"""The spec: what is accepted, what is refused, and what is derived from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flexiast.errors import UsageError
from flexiast.spec import (
    PRESETS,
    FrontendSpec,
    NetworkSpec,
    PatchSize,
    ResizeSpec,
    Spec,
    check_label,
    describe,
    parse_patches,
)

Specs = Callable[..., Spec]

PATCH_SIZES = st.builds(PatchSize, st.integers(1, 9_999), st.integers(1, 9_999))

# ----- patch sizes


@pytest.mark.parametrize(
    ("text", "patch"),
    [("16", (16, 16)), ("16x32", (16, 32)), (" 8x128 ", (8, 128)), (12, (12, 12)), (PatchSize(4, 5), (4, 5))],
)
def test_a_patch_size_is_mel_bins_times_frames(text: object, patch: tuple[int, int]) -> None:
    assert PatchSize.parse(text) == patch


@given(PATCH_SIZES)
def test_a_patch_size_reads_as_it_is_written(patch: PatchSize) -> None:
    assert PatchSize.parse(str(patch)) == patch
    assert PatchSize.parse(patch.short) == patch
    assert patch.short.isdigit() == (patch.mels == patch.frames)


@pytest.mark.parametrize(
    "text",
    ["", "0", "16x0", "016", "-8", "16 x 32", "16x", "x16", "16X32", "1e2", "12345", "１６", "16x16x16", 16.0, None],
)
def test_what_is_no_patch_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(UsageError, match="write 16 or 16x32") as caught:
        PatchSize.parse(text)
    assert repr(text) in str(caught.value)


def test_patch_sizes_keep_their_order_and_stand_once() -> None:
    assert parse_patches("32, 8,8x8,16x32,32") == ((32, 32), (8, 8), (16, 32))


@pytest.mark.parametrize("text", ["", "8,,16", "8;16", "8,"])
def test_a_list_with_a_hole_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a patch size"):
        parse_patches(text)


# ----- the stored value

LABELS = st.lists(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20), min_size=1, max_size=5, unique=True
)


@given(
    labels=LABELS,
    base_patch=PATCH_SIZES,
    trained_patches=st.lists(PATCH_SIZES, min_size=1, max_size=4).map(tuple),
    resize=st.builds(ResizeSpec, kernel=st.sampled_from(["linear", "cubic"]), antialias=st.booleans()),
    task=st.sampled_from(["single", "multi"]),
    mean=st.floats(-20, 20),
    std=st.floats(1e-3, 20),
)
def test_a_spec_comes_back_from_json_unchanged(
    build_spec: Specs, labels: list[str], mean: float, std: float, **fields: Any
) -> None:
    frontend = FrontendSpec(window_samples=16_000, mean=mean, std=std)
    spec = build_spec(frontend=frontend, labels=tuple(labels), **fields)
    read = Spec.model_validate_json(spec.model_dump_json())
    assert read == spec
    assert hash(read) == hash(spec)  # the matrices of a patch size are cached under it


def test_patch_sizes_stand_in_json_as_they_are_typed(build_spec: Specs) -> None:
    document = build_spec(trained_patches=(PatchSize(8, 8), PatchSize(16, 32))).model_dump(mode="json")
    assert document["base_patch"] == "16x16"
    assert document["trained_patches"] == ["8x8", "16x32"]


def test_a_spec_of_the_first_checkpoints_means_what_it_meant(build_spec: Specs) -> None:
    document = build_spec().model_dump(mode="json")
    del document["base_stride"]
    for name in ("prefix_tokens", "norm_epsilon", "head_norm"):
        del document["network"][name]
    assert Spec.model_validate_json(json.dumps(document)) == build_spec()


@pytest.mark.parametrize("stride", [PatchSize(17, 16), PatchSize(16, 17)], ids=str)
def test_a_stride_that_leaves_gaps_is_refused(build_spec: Specs, stride: PatchSize) -> None:
    with pytest.raises(ValidationError, match=f"base_stride {stride} leaves gaps between patches of 16x16"):
        build_spec(base_stride=stride)


def test_a_spec_cannot_be_changed(build_spec: Specs) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        build_spec().task = "multi"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", ("dog", "\x1b[31mcat"), "control characters"),
        ("labels", ("dog", "cat\u202egod"), "control characters"),  # turns the reading direction of a terminal
        ("labels", ("dog", "cat\n"), "control characters"),
        ("labels", ("dog", "do\u200cg"), "control characters"),  # looks like the other one
        ("labels", ("dog", "cat", "dog"), "distinct"),
        ("labels", ("dog", " "), "1 to 200 characters"),
        ("labels", ("dog", "d" * 201), "1 to 200 characters"),
        ("task", "ranking", "'single' or 'multi'"),
        ("schema_version", "2.0", "should be '1.0'"),
        ("base_patch", "16by16", "write 16 or 16x32"),
        ("trained_patches", ("8", "0x4"), "write 16 or 16x32"),
        ("labels", 3, "valid tuple"),
        ("comment", "mine", "Extra inputs are not permitted"),
    ],
)
def test_a_bad_field_is_refused_by_name(build_spec: Specs, field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        build_spec(**{field: value})
    assert caught.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 30, "depth": 1, "heads": 4}, "width 30 is not divisible by 4 heads"),
        ({"width": 32, "depth": 0, "heads": 4}, "greater than or equal to 1"),
        ({"width": 32.0, "depth": 1, "heads": 4}, "valid integer"),
        ({"width": "32", "depth": 1, "heads": 4}, "valid integer"),
        ({"width": 32, "depth": 1, "heads": 4, "dropout": 0.1}, "Extra inputs are not permitted"),
        ({"width": 32, "depth": 1, "heads": 4, "prefix_tokens": 3}, "less than or equal to 2"),
        ({"width": 32, "depth": 1, "heads": 4, "norm_epsilon": 0.0}, "greater than 0"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NetworkSpec(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low_hz": 4_000.0, "high_hz": 3_000.0}, "must rise"),
        ({"high_hz": 8_001.0}, "half the sample rate"),
        ({"window_samples": 500, "taper_samples": 512}, "shorter than one frame"),
        ({"std": 0.0}, "greater than 0"),
        ({"mean": math.nan}, "finite"),
        ({"taper": "hamming"}, "should be 'hann'"),
    ],
)
def test_a_front_end_that_cannot_be_computed_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FrontendSpec(**{"window_samples": 16_000, "mean": 0.0, "std": 1.0} | fields)


@given(st.text(max_size=30))
def test_an_accepted_label_prints_as_one_plain_line(label: str) -> None:
    try:
        check_label(label)
    except ValueError as error:
        assert "\x1b" not in str(error)
    else:
        assert label.splitlines() == [label]
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in label)


# ----- what is derived


@given(st.integers(0, 3_000), st.integers(64, 600), st.integers(16, 64))
def test_whole_frames_are_those_that_fit(samples: int, taper: int, hop: int) -> None:
    spec = FrontendSpec(window_samples=1_000, taper_samples=taper, hop_samples=hop, mean=0.0, std=1.0)
    assert spec.frames_in(samples) == sum(1 for start in range(0, samples, hop) if start + taper <= samples)


@pytest.mark.parametrize(("seconds", "frames"), [(1, 98), (5, 498), (10, 998)])
def test_a_window_has_kaldis_number_of_frames(seconds: int, frames: int) -> None:
    spec = FrontendSpec(window_samples=seconds * 16_000, mean=0.0, std=1.0)
    assert spec.window_frames == frames
    assert spec.window_s == seconds


@pytest.mark.parametrize(("taper", "fft"), [(400, 512), (512, 512), (513, 1024), (256, 256)])
def test_the_fft_has_the_next_power_of_two(taper: int, fft: int) -> None:
    assert FrontendSpec(window_samples=16_000, taper_samples=taper, mean=0.0, std=1.0).fft_samples == fft


# AST-Base on 128 mel bins × 1024 frames: patches and GMAC of a window from the table the project was planned with.
# Sizes that do not divide are padded, never cropped. test_model.py counts the products of a running model.
AST_BASE = [(8, 2048, 251.5), (16, 512, 48.5), (40, 104, 9.3), (48, 66, 5.9)]


@pytest.mark.parametrize(("size", "patches", "gmac"), AST_BASE)
def test_tokens_and_costs_are_those_of_ast_base(build_spec: Specs, size: int, patches: int, gmac: float) -> None:
    spec = build_spec(frames=1024, network=PRESETS["base"], labels=tuple(f"label {index}" for index in range(527)))
    patch = PatchSize(size, size)
    assert math.prod(spec.grid(patch)) == patches
    assert spec.tokens(patch) == patches + 1
    # the table was made for whole blocks; of the last one only the CLS token asks
    spared = patches * (10 * 768**2 + 2 * (patches + 1) * 768) / 1e9
    assert spec.gmac(patch) + spared == pytest.approx(gmac, rel=0.015)  # the table has one decimal


@given(st.integers(1, 128), st.integers(1, 98))
def test_a_grid_covers_the_window_and_wastes_less_than_one_patch(build_spec: Specs, mels: int, frames: int) -> None:
    rows, columns = build_spec().grid(PatchSize(mels, frames))
    assert (rows - 1) * mels < 128 <= rows * mels
    assert (columns - 1) * frames < 98 <= columns * frames


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 128), st.integers(1, 98))
def test_overlapping_patches_are_whole_and_leave_less_than_a_stride(
    build_spec: Specs, stride_mels: int, stride_frames: int, mels: int, frames: int
) -> None:
    spec, patch = build_spec(base_stride=PatchSize(stride_mels, stride_frames)), PatchSize(mels, frames)
    for extent, size, step, count in zip((128, 98), patch, spec.stride(patch), spec.grid(patch), strict=True):
        assert 0 <= extent - ((count - 1) * step + size) < step
        assert step <= size
    rows, columns = spec.grid(patch)
    assert spec.tokens(patch) == rows * columns + 1


def test_ast_has_its_1214_tokens(build_spec: Specs) -> None:
    network = PRESETS["base"].model_copy(update={"prefix_tokens": 2})
    spec = build_spec(frames=1024, network=network, base_stride=PatchSize(10, 10))
    assert spec.base_grid == (12, 101)
    assert spec.tokens(PatchSize(16, 16)) == 1214
    assert spec.stride(PatchSize(32, 8)) == (20, 5)
    assert spec.stride(PatchSize(1, 1)) == (1, 1)


def test_a_patch_as_large_as_the_window_is_the_largest(build_spec: Specs) -> None:
    spec = build_spec()
    assert spec.check_patch(PatchSize(128, 98)) == (128, 98)
    for patch in (PatchSize(129, 98), PatchSize(128, 99)):
        with pytest.raises(UsageError, match=f"{patch} is larger .* choose a smaller one"):
            spec.check_patch(patch)


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00", b"\xff" * 100, "{", '{"a": \x1b[31m}'], ids=repr)
def test_what_is_no_json_is_not_shown(content: bytes | str) -> None:
    with pytest.raises(ValidationError) as caught:
        ResizeSpec.model_validate_json(content)
    assert describe(caught.value).startswith("as a whole: Invalid JSON: ")
    assert "given" not in describe(caught.value)


def test_what_is_wrong_is_shown_with_what_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        ResizeSpec.model_validate_json('{"antialias": "yes", "more": 1}')
    assert describe(caught.value) == "antialias: Input should be a valid boolean, given 'yes' (and 1 more)"


# ----- a class for nothing


def test_a_class_for_nothing_is_one_more_logit_and_no_label(build_spec: Callable[..., Spec]) -> None:
    spec, without = build_spec(nothing_class=True), build_spec()
    assert spec.labels == without.labels
    assert (spec.classes, without.classes) == (3, 2)
    assert spec.gmac(spec.base_patch) > without.gmac(spec.base_patch)
    assert Spec.model_validate_json(spec.model_dump_json()) == spec


def test_specs_without_it_are_written_as_they_were(build_spec: Callable[..., Spec]) -> None:
    assert "nothing" not in build_spec().model_dump_json()
    assert Spec.model_validate_json(build_spec().model_dump_json()) == build_spec()


@pytest.mark.parametrize("fields", [{"task": "multi"}, {"labels": ()}])
def test_several_labels_or_none_need_no_class_for_nothing(
    build_spec: Callable[..., Spec], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match="class for nothing needs labels"):
        build_spec(nothing_class=True, **fields)
