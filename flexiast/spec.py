"""What a model is, as one frozen value that travels with its weights.

A physical fact stands here once; frames, grids, tokens and costs are derived from it. The spec is stored in the
checkpoint and in the bundle's manifest, so training, export and the runtime cannot disagree.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from flexiast.errors import UsageError
from flexiast.text import has_controls

MAX_TOKENS = 8192
"""Patches of 4 × 4 on ten seconds make 8,000; attention over more would take gigabytes."""

MAX_WINDOW_SAMPLES = 192_000 * 60
"""A minute at the highest rate."""

MAX_EXTRA_ROWS = 4096
"""Of a head. More than a place can teach."""

LONGEST_CLIP_S = 10.0
"""That one window should hold whole, as those of published data sets: sounds of seconds are lost in a longer one."""

MLP_RATIO = 4
"""Width of the feed-forward layer over the model's width, as in ViT."""

LOG_FLOOR = 1.1920928955078125e-07
"""Smallest mel energy before the logarithm: float32's epsilon, as in Kaldi."""


class PatchSize(NamedTuple):
    """A patch of ``mels`` bins × ``frames`` frames, written ``16x32``; ``16`` means ``16x16``."""

    mels: int
    frames: int

    @property
    def short(self) -> str:
        """``16`` for a square, ``16x32`` for a rectangle; ``parse`` reads both."""
        return str(self.mels) if self.mels == self.frames else str(self)

    def __str__(self) -> str:
        return f"{self.mels}x{self.frames}"

    @classmethod
    def parse(cls, text: object) -> PatchSize:
        """``"16"`` → 16 × 16, ``"16x32"`` → 16 mel bins × 32 frames; raises UsageError."""
        if isinstance(text, PatchSize):
            return text
        match = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", str(text).strip(), re.ASCII)
        if match is None:
            raise UsageError(f"{text!r} is not a patch size; write 16 or 16x32 (mel bins x frames)")
        mels = int(match[1])
        return cls(mels, int(match[2] or mels))


ALL_PATCHES = tuple(PatchSize(size, size) for size in (8, 10, 12, 16, 20, 24, 30, 32, 40, 48))
"""The sizes of the paper."""


def parse_patches(text: str) -> tuple[PatchSize, ...]:
    """``"8,16x32"`` → patch sizes in the order given, each once; raises UsageError."""
    patches = tuple(PatchSize.parse(part) for part in text.split(","))
    return tuple(dict.fromkeys(patches))


def _patch_or_value_error(value: object) -> PatchSize:
    try:
        return PatchSize.parse(value)
    except UsageError as error:
        raise ValueError(str(error)) from None  # pydantic collects ValueErrors only


Patch = Annotated[
    PatchSize,
    PlainValidator(_patch_or_value_error),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[1-9]\d{0,3}x[1-9]\d{0,3}$"}),
]
"""A PatchSize as a pydantic field: ``"16x32"`` in JSON."""


class Value(BaseModel):
    """An immutable value read strictly: unknown fields and silent conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def validate_fields(cls, **fields: Any) -> Self:
        """The value; UsageError with the first thing that is wrong, for what a user gave."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UsageError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """The first thing that is wrong, in one line. What is no JSON at all is not shown: it may be anything.

    A check of the whole value says itself what was given.
    """
    first, *others = error.errors(include_url=False)
    message, shown = first["msg"].removeprefix("Value error, "), repr(first["input"])
    more = f" (and {len(others)} more)" if others else ""
    if not first["loc"] and first["type"] == "value_error":
        return message + more
    where = ".".join(map(str, first["loc"])) or "as a whole"
    given = "" if first["type"] == "json_invalid" else f", given {shown if len(shown) <= 60 else shown[:60] + '…'}"
    return f"{where}: {message}{given}{more}"


class FrontendSpec(Value):
    """Kaldi-compatible log-mel filter bank; defaults are those of AST."""

    sample_rate_hz: int = Field(default=16_000, ge=4_000, le=192_000)
    window_samples: int = Field(ge=400, le=MAX_WINDOW_SAMPLES)
    """Audio classified at once."""
    mel_bins: int = Field(default=128, ge=8, le=512)
    taper: Literal["hann"] = "hann"
    taper_samples: int = Field(default=400, ge=64, le=8192)
    hop_samples: int = Field(default=160, ge=16, le=8192)
    preemphasis: float = Field(default=0.97, ge=0.0, lt=1.0)
    low_hz: float = Field(default=20.0, ge=0.0)
    high_hz: float = Field(default=8_000.0, gt=0.0)
    mean: float
    """Mean log-mel (natural log) of the training audio."""
    std: float = Field(gt=0.0)
    """Its standard deviation; features are (log-mel − mean) / (2 · std), as in AST."""
    remove_bin_means: bool = False
    """Subtract each mel bin's mean over the window: the channel goes, and loudness with it. For speakers."""

    @model_validator(mode="after")
    def _band_and_window_fit(self) -> Self:
        if not self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"mel band {self.low_hz:g}–{self.high_hz:g} Hz must rise and end at or under half the sample rate"
            )
        if self.hop_samples > self.taper_samples:
            raise ValueError(f"hop of {self.hop_samples} samples leaves gaps between frames of {self.taper_samples}")
        if self.window_samples < self.taper_samples:
            raise ValueError(f"window of {self.window_samples} samples is shorter than one frame")
        return self

    @property
    def window_frames(self) -> int:
        """Frames in one window; only whole frames count (Kaldi's snip_edges)."""
        return self.frames_in(self.window_samples)

    @property
    def window_s(self) -> float:
        return self.window_samples / self.sample_rate_hz

    @property
    def fft_samples(self) -> int:
        """The next power of two, as in Kaldi."""
        return 1 << (self.taper_samples - 1).bit_length()

    def frames_in(self, samples: int) -> int:
        """Whole frames in a waveform of so many samples."""
        return 0 if samples < self.taper_samples else 1 + (samples - self.taper_samples) // self.hop_samples

    def windows_in(self, samples: int) -> list[int]:
        """Frames that each window holds of a clip of so many samples, side by side; one window at the least."""
        frames, size = self.frames_in(samples), self.window_frames
        return [min(size, frames - start) for start in range(0, max(1, frames), size)]


class ResizeSpec(Value):
    """How a patch is resized in PI-resize; a model must be resized the way it was trained."""

    kernel: Literal["linear", "cubic"] = "linear"
    antialias: bool = True


class NetworkSpec(Value):
    """Kind and size of the network."""

    kind: Literal["transformer", "convolutional"] = "transformer"
    """A convolutional network has no patch sizes: it is a teacher, no more. Its ``depth`` stages end ``width`` wide."""
    width: int = Field(ge=8, le=4096)
    depth: int = Field(ge=1, le=64)
    heads: int = Field(ge=1, le=64)
    prefix_tokens: int = Field(default=1, ge=1, le=2)
    """CLS, then DeiT's distillation token; the head reads their mean after the last norm, as in AST."""
    norm_epsilon: float = Field(default=1e-5, gt=0, le=1e-3)
    """What layer norms add to the variance; PyTorch's default."""
    head_norm: bool = False
    """Whether the head begins with a layer norm of its own, as AST's does."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")
        if self.kind == "convolutional" and (self.heads != 1 or self.width % 2**self.depth):
            raise ValueError(f"a convolutional network has 1 head and a width that {self.depth} halvings divide")
        return self

    @property
    def channels(self) -> tuple[int, ...]:
        """Of a convolutional network: its stem's and those of its stages, each twice the one before."""
        return tuple(self.width >> halvings for halvings in range(self.depth, -1, -1))


PRESETS: dict[str, NetworkSpec] = {
    "pico": NetworkSpec(width=64, depth=4, heads=2),
    "nano": NetworkSpec(width=128, depth=6, heads=4),
    "tiny": NetworkSpec(width=192, depth=12, heads=3),
    "small": NetworkSpec(width=384, depth=12, heads=6),
    "base": NetworkSpec(width=768, depth=12, heads=12),
    "convnet": NetworkSpec(kind="convolutional", width=256, depth=4, heads=1),
    "convnet-wide": NetworkSpec(kind="convolutional", width=512, depth=4, heads=1),
}


class Spec(Value):
    """Everything a model needs besides its weights."""

    schema_version: Literal["1.0"] = "1.0"
    frontend: FrontendSpec
    base_patch: Patch = PatchSize(16, 16)
    """The patch size at which kernel and positions are stored, for ever."""
    base_stride: Patch | None = None
    """Step from patch to patch at the base size, where patches overlap; other sizes overlap in proportion.

    None: patches stand side by side and a last partial one is padded. With a stride only whole patches count, as in
    the convolution of an imported model, and less than one stride at the end stays unheard.
    """
    trained_patches: tuple[Patch, ...] = Field(min_length=1)
    resize: ResizeSpec = ResizeSpec()
    network: NetworkSpec
    task: Literal["single", "multi"]
    """One label per clip (softmax) or any number (sigmoid)."""
    labels: tuple[str, ...] = Field(max_length=100_000)
    """Names of the classes. Empty: the network has no head yet and is a start for training, nothing else."""
    nothing_class: bool = False
    """Whether one more class, the last, says that none of the labels sounds. It has no name and is never reported."""
    pcen: bool = False
    """Whether the network begins with PCEN: each mel bin divided by its own recent past. See ``flexiast.pcen``."""
    extra_rows: tuple[int, ...] = Field(default=(), max_length=MAX_EXTRA_ROWS)
    """Classes of the head's rows beyond one a class. A class sounds in several ways, and a row looks for one of them:
    the class's logit is the log-sum-exp of its rows. A bundle's graph does that, so its manifest names none."""

    @field_validator("labels")
    @classmethod
    def _labels_are_printable_and_distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:
            check_label(label)
        if len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct")
        return labels

    @model_validator(mode="after")
    def _stride_leaves_no_gaps(self) -> Self:
        stride, base = self.base_stride, self.base_patch
        if stride is not None and (stride.mels > base.mels or stride.frames > base.frames):
            raise ValueError(f"base_stride {stride} leaves gaps between patches of {base}")
        return self

    @model_validator(mode="after")
    def _nothing_is_one_of_several_classes(self) -> Self:
        if self.nothing_class and (self.task == "multi" or not self.labels):
            raise ValueError("a class for nothing needs labels of which one at a time sounds (task single)")
        return self

    @model_validator(mode="after")
    def _pcen_needs_levels(self) -> Self:
        if self.pcen and self.frontend.remove_bin_means:
            raise ValueError("pcen works on levels, which remove_bin_means takes away; choose one of them")
        return self

    @model_validator(mode="after")
    def _extra_rows_are_of_classes(self) -> Self:
        if self.extra_rows and self.network.kind == "convolutional":
            raise ValueError("a convolutional network's head has one row a class")
        if any(not 0 <= number < self.classes for number in self.extra_rows):
            raise ValueError(f"extra_rows must be numbers of classes, 0 … {self.classes - 1}")
        return self

    @model_serializer(mode="wrap")
    def _omit_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialize(self)
        for name in ("nothing_class", "pcen", "extra_rows"):
            if not getattr(self, name):  # specs from before have no such field, and stay the same to the byte
                del document[name]
        return document

    @property
    def classes(self) -> int:
        """Logits of a window: one a label and, in some models, a last one for nothing."""
        return len(self.labels) + self.nothing_class

    @property
    def head_rows(self) -> int:
        """Rows of the head: one a class, then the extra ones."""
        return self.classes + len(self.extra_rows)

    def drop_extra_rows(self) -> Spec:
        """As those see it who ask for logits."""
        return self.model_copy(update={"extra_rows": ()}) if self.extra_rows else self

    @property
    def base_grid(self) -> tuple[int, int]:
        """Rows over mel × columns over time of the stored positions."""
        return self.grid(self.base_patch)

    def stride(self, patch: PatchSize) -> PatchSize:
        """Step from patch to patch, in mel bins and frames: the patch itself where patches do not overlap."""
        if self.base_stride is None:
            return patch
        overlaps = zip(patch, self.base_stride, self.base_patch, strict=True)
        return PatchSize(*(max(1, round(size * step / base)) for size, step, base in overlaps))

    def grid(self, patch: PatchSize) -> tuple[int, int]:
        """Rows over mel × columns over time; a last partial patch counts, but not where patches overlap."""
        mels, frames = self.frontend.mel_bins, self.frontend.window_frames
        if self.base_stride is None:
            return -(-mels // patch.mels), -(-frames // patch.frames)
        stride = self.stride(patch)
        return 1 + (mels - patch.mels) // stride.mels, 1 + (frames - patch.frames) // stride.frames

    def tokens(self, patch: PatchSize) -> int:
        """Patches of one window and the prefix tokens."""
        rows, columns = self.grid(patch)
        return rows * columns + self.network.prefix_tokens

    def fits(self, patch: PatchSize) -> bool:
        """Whether a patch size can be had in a window."""
        try:
            self.check_patch(patch)
        except UsageError:
            return False
        return True

    def gmac(self, patch: PatchSize) -> float:
        """Billions of multiply-accumulates for one window: embedding, attention, feed-forward and head.

        The last block computes the prefix tokens only, since nothing else reaches the head.
        """
        if self.network.kind == "convolutional":
            return self._convolutional_gmac()
        network, tokens = self.network, self.tokens(patch)
        width, prefix = network.width, network.prefix_tokens
        embedding = (tokens - prefix) * patch.mels * patch.frames * width

        def block(asking: int) -> int:  # keys and values of all tokens; the rest for those that ask
            return 2 * tokens * width**2 + asking * ((2 + 2 * MLP_RATIO) * width**2 + 2 * tokens * width)

        return (embedding + (network.depth - 1) * block(tokens) + block(prefix) + width * self.head_rows) / 1e9

    def _convolutional_gmac(self) -> float:
        rows, columns = -(-self.frontend.mel_bins // 2), -(-self.frontend.window_frames // 2)  # the stem's stride
        channels = self.network.channels
        total = 9 * channels[0] * rows * columns
        for before, after in pairwise(channels):
            rows, columns = rows // 2, columns // 2
            total += 9 * (before + after) * after * rows * columns
        return (total + channels[-1] * self.classes) / 1e9

    def check_patch(self, patch: PatchSize) -> PatchSize:
        """The patch itself, or a UsageError when it is larger than one window or makes too many tokens."""
        mels, frames = self.frontend.mel_bins, self.frontend.window_frames
        if patch.mels > mels or patch.frames > frames:
            raise UsageError(
                f"patch size {patch} is larger than one window of {mels} mel bins x {frames} frames; "
                "choose a smaller one"
            )
        if self.tokens(patch) > MAX_TOKENS:
            raise UsageError(
                f"patch size {patch} makes {self.tokens(patch):,} tokens of a window, {MAX_TOKENS:,} are allowed; "
                "choose a larger one"
            )
        return patch


def check_label(label: str) -> str:
    """The label itself; ValueError when it is empty, longer than 200 characters or holds control characters.

    A label is printed on terminals and written into CSV, JSON and topics: escape sequences stop here, once.
    """
    if not label.strip() or len(label) > 200:
        raise ValueError(f"label {label[:40]!r} must have 1 to 200 characters")
    if has_controls(label):
        raise ValueError(f"label {label!r} holds control characters")
    return label
