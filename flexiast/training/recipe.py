"""What decides a training run besides its data, as one frozen value.

A recipe is read from TOML, overridden by the command line, written into the run's folder and into its checkpoint, and
compared on resume. Reading one needs no torch.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from flexiast.errors import UsageError
from flexiast.spec import (
    ALL_PATCHES,
    LONGEST_CLIP_S,
    PRESETS,
    FrontendSpec,
    Patch,
    PatchSize,
    ResizeSpec,
    Spec,
    Value,
    describe,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pragma: no cover

V = TypeVar("V", bound=Value)

RECORDING_WINDOW_S = 5.0
"""Unless told, where the median clip is longer than ``LONGEST_CLIP_S``: a recording with a sound somewhere."""


class Augment(Value):
    """How training clips are varied; every change is made to the log-mel spectrogram but speed, a resampling."""

    speed: float = Field(default=0.12, ge=0, lt=0.5)
    """Clips play up to this share faster or slower, which also shifts pitch: other speakers, other machines."""
    shift: float = Field(default=0.15, ge=0, le=1)
    """Share of the window by which a clip moves: a live window never starts with the sound."""
    gain_db: float = Field(default=8.0, ge=0)
    filter_db: float = Field(default=6.0, ge=0)
    """A smooth random filter over the mel bins: other microphones, other rooms."""
    masks: int = Field(default=1, ge=0, le=8)
    """SpecAugment: masks along each axis."""
    mask_share: float = Field(default=0.2, ge=0, le=1)
    """Widest mask as a share of each axis; AST uses 24 of 128 bins and 96 of 512 frames on ESC-50."""
    mix_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the clips that are mixed with another (mixup)."""
    mix_alpha: float = Field(default=0.4, gt=0)
    """The louder clip's share is Beta(alpha, alpha), folded to at least a half."""
    mix_from: float = Field(default=0.3, ge=0, le=1)
    """Mixing begins at this share of the run: from scratch, mixing from the first step stalls learning.

    So do recorded backgrounds under the clips, random levels and rooms; backgrounds alone are heard from the first.
    """
    noise_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the clips that sound in steady noise, of any colour from that of wind to that of hiss."""
    noise_snr_db: tuple[float, float] = (-5.0, 45.0)
    """How far the clip's mean level lies above the noise: evenly between these."""
    nothing_share: float = Field(default=0.0, ge=0, le=1)
    """Share of those noises in which no clip sounds: the answer is then that no label is likelier than another."""

    background_share: float = Field(default=0.6, ge=0, le=1)
    """Share of the clips that sound over a recorded background, where a run has one; what follows is for such runs."""
    background_snr_db: tuple[float, float] = (0.0, 25.0)
    """How far the clip's mean level lies above the background: evenly between these."""
    background_alone_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the examples in which a background is heard alone: the answer is nothing."""
    level_dbfs: tuple[float, float] = (-50.0, -10.0)
    """Mean level of an example: from a voice in the next room to one at the microphone."""
    echo_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the clips that sound in a small room."""
    half_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the clips of which half is heard, as nothing: for words. Half of a rain is rain: 0 unless told."""

    @model_validator(mode="after")
    def _least_first(self) -> Self:
        for name in ("noise_snr_db", "background_snr_db", "level_dbfs"):
            low, high = getattr(self, name)
            if not -100 <= low <= high <= 100:
                raise ValueError(f"{name} {[low, high]} must be two numbers in -100 … 100, least first")
        return self


START_VALUES: dict[str, Any] = {
    "layer_decay": 0.75,
    "patience": 3,
    "max_tokens": 128,
    "warmup_share": 0.1,
}
"""Of a run that starts from another model: its lower blocks know more than few clips can tell them."""

CONVNET_MIXING = {"mix_share": 0.5, "mix_from": 0.0}
"""Of a convolutional network, which learns from the first step whatever it hears: as the recipes of all teachers."""

START_DISTILL = {"in_place_weight": 1.0}
"""On digits of other speakers, 40 and 48 gained 2 and 4 points after 150 steps, finer sizes lost nothing."""

START_GMAC = 3_500.0
"""Of forward passes: about 4 minutes on two cores, which train at 8 GMAC a second each."""

START_EPOCHS = (12, 60)

TIMBRE_AUGMENT = {"speed": 0.0, "filter_db": 0.0}
"""Of a run whose labels differ in timbre, as voices do: both would change what tells the labels apart."""

TIMBRE_VALUES = {"layer_decay": 1.0}
"""Of such a run: the pretrained lower blocks suppress timbre, so they must change too."""

TIMBRE_EPOCHS = (12, 200)


class Distill(Value):
    """Learning from answers besides labels; all weights are shares of the loss."""

    teacher_weight: float = Field(default=0.9, ge=0, le=1)
    """Of the divergence from a frozen teacher, where a run has one; the labels keep the rest.

    A teacher tells of a mixed, masked clip what is still heard of it; its label does not.
    """
    teacher_patch: Patch | None = None
    """The size that the teacher answers at; its base size unless told."""
    temperature: float = Field(default=1.0, gt=0)
    embedding_weight: float = Field(default=1.0, ge=0, le=100)
    """Of the squared error to the embeddings of a .tflite or .onnx teacher; a student that knows nothing has 1."""
    in_place_weight: float = Field(default=0.0, ge=0, le=100)
    """Of in-place distillation: the step's own answers teach the same network at the coarsest size."""


class Training(Value):
    """Budget, optimiser, sizes and seed of a run."""

    epochs: int | None = Field(default=None, ge=1)
    """None: 100, or as many as make 3,000 steps."""
    batch_size: int = Field(default=32, ge=1)
    """Clips in a step at the base patch."""
    batch_growth: float = Field(default=0.0, ge=0, le=1)
    """1 keeps the tokens of a step constant, so the batch grows as patches grow; 0 keeps the clips constant."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1e30)  # float32 ends soon above
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each block learns at this share of the rate of the block above it: 0.75 for a run that starts from another."""
    patience: int | None = Field(default=None, ge=1)
    """Measurements without a better one after which the run ends early; None: it goes to its end."""
    warmup_share: float = Field(default=0.04, ge=0, le=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    evaluations: int = Field(default=8, ge=1, le=10_000)
    """How often the validation split is measured; the best mean over all patch sizes is kept.

    Unless told, less often where measuring would take more than a fifth of what learning takes.
    """
    seed: int = Field(default=0, ge=0, lt=2**32)
    balanced: bool = False
    """Draw clips so that every label is seen equally often, as AST does on AudioSet."""
    patches: tuple[Patch, ...] = Field(default=ALL_PATCHES, min_length=1)
    """Those of the default that do not fit a window are left out; those that are told must fit."""
    patch_weights: tuple[float, ...] | None = None
    """How often each size is drawn, relative to the others; all alike unless told."""
    base_first: float | None = Field(default=None, ge=0, le=1)
    """Share of the run that trains at the base patch alone, or the nearest among the sizes, before all of them.

    None: that of ``sampling.active_patches``, which is nothing where the run starts from a checkpoint.
    """
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens a training step keeps of a clip, chosen at random (PaSST's patchout); all of them unless told."""
    augment: Augment = Augment()
    distill: Distill = Distill()

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        weights = self.patch_weights
        if len(set(self.patches)) < len(self.patches):
            raise ValueError("patches must be distinct; give one that is drawn more often a weight in patch_weights")
        if weights is not None and (len(weights) != len(self.patches) or not all(0 < w <= 1e6 for w in weights)):
            raise ValueError(
                f"patch_weights must be {len(self.patches)} numbers above 0, up to 1e6, one for each of the patches"
            )
        return self

    def fit_to_window(self, spec: Spec) -> Training:
        """Without the default sizes that do not fit a window; sizes that were told stay as they are."""
        if "patches" in self.model_fields_set or self.patch_weights is not None:
            return self
        fitting = tuple(patch for patch in self.patches if spec.fits(patch))
        return self.model_copy(update={"patches": fitting or self.patches})

    def fill_for_start(self, spec: Spec, clips: int, *, by_timbre: bool = False) -> Training:
        """With what suits a run from another model, whose head is fitted already, wherever nothing was told.

        The run is as long as ``START_GMAC`` allows, within ``START_EPOCHS`` over so many clips. ``by_timbre``: its
        labels differ in timbre.
        """
        parts = {
            "augment": _fill_in(self.augment, {"mix_from": 0.0} | (TIMBRE_AUGMENT if by_timbre else {})),
            "distill": _fill_in(self.distill, START_DISTILL),
        }
        least, most = TIMBRE_EPOCHS if by_timbre else START_EPOCHS
        values = START_VALUES | (TIMBRE_VALUES if by_timbre else {})
        filled = _fill_in(self, values).model_copy(update=parts)
        costs = filled.clip_gmac(spec).values()
        epochs = round(START_GMAC / (clips * sum(costs) / len(costs)))
        return _fill_in(filled, {"epochs": min(max(epochs, least), most)})

    def clip_gmac(self, spec: Spec) -> dict[PatchSize, float]:
        """Of a clip's forward passes in a step at each size: of the tokens kept, and of the coarsest size if taught."""
        keep, taught = self.max_tokens or math.inf, self.distill.in_place_weight > 0
        cost = {patch: spec.gmac(patch) for patch in self.patches}
        if spec.network.kind == "transformer":
            cost = {patch: gmac * min(1.0, keep / spec.tokens(patch)) for patch, gmac in cost.items()}
        coarsest = min(self.patches, key=spec.tokens)
        return {patch: gmac + (cost[coarsest] if taught and patch != coarsest else 0.0) for patch, gmac in cost.items()}

    def fill_for_convnet(self) -> Training:
        """With what suits a convolutional network, a teacher, wherever nothing was told."""
        return self.model_copy(update={"augment": _fill_in(self.augment, CONVNET_MIXING)})


class ModelConfig(Value):
    """What the model is before its data give labels, task and normalisation."""

    size: str | None = None
    """A preset; None: that of the checkpoint a run starts from, or nano."""
    base_patch: Patch | None = None
    """The size at which kernel and positions are stored; None: the start's, or 16 × 16."""
    window_s: float | None = Field(default=None, gt=0, le=600)
    """Audio classified at once; None: the median clip, or 5 s where that lasts more than 10."""
    remove_bin_means: bool = False
    """Subtract each mel bin's mean over the window: the channel goes, for speakers; loudness goes too."""
    pcen: bool | None = None
    """Begin with PCEN, which copes with quiet voices and steady noise; None: as the start does, or not."""
    resize: ResizeSpec | None = None
    """How the kernel is resized; None: as the start was trained, or antialiased linear PI-resize."""

    @model_validator(mode="after")
    def _size_is_known(self) -> Self:
        if self.size is not None and self.size not in PRESETS:
            raise ValueError(f"size {self.size!r} is unknown; choose one of {', '.join(PRESETS)}")
        return self

    def fields(self, start: Spec | None) -> dict[str, object]:
        """Fields of the spec that this shape decides, with those of the start where it says nothing."""
        network = PRESETS["nano"] if start is None else start.network
        return {
            "network": network if self.size is None else PRESETS[self.size],
            "base_patch": self.base_patch or (PatchSize(16, 16) if start is None else start.base_patch),
            "pcen": (start is not None and start.pcen) if self.pcen is None else self.pcen,
            "resize": self.resize or (ResizeSpec() if start is None else start.resize),
        }

    def frontend(self, sample_rate_hz: int, median_samples: float) -> FrontendSpec:
        """The front end before its normalisation is measured; raises UsageError for an impossible window."""
        if self.window_s is not None:
            samples = round(self.window_s * sample_rate_hz)
        elif median_samples <= LONGEST_CLIP_S * sample_rate_hz:
            samples = round(median_samples)
        else:
            samples = round(RECORDING_WINDOW_S * sample_rate_hz)
        frame = FrontendSpec.model_fields["taper_samples"].default
        if samples < frame:
            source = "the median clip, " if self.window_s is None else ""
            raise UsageError(
                f"a window of {samples / sample_rate_hz:g} s ({source}{samples} samples) is shorter than one frame of "
                f"{frame} samples; give a longer window, and clips that fill it"
            )
        return FrontendSpec.validate_fields(
            sample_rate_hz=sample_rate_hz,
            window_samples=samples,
            remove_bin_means=self.remove_bin_means,
            mean=0.0,
            std=1.0,
        )


class Recipe(Value):
    """A model's shape and how it is trained; ``recipes/`` holds those behind the shipped weights."""

    model: ModelConfig = ModelConfig()
    training: Training = Training()

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """From TOML with the tables ``model`` and ``training``; raises UsageError that names what is wrong."""
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path} cannot be read as a recipe (TOML): {error}") from error
        try:
            return cls.model_validate_json(json.dumps(document, default=str))
        except ValidationError as error:
            raise UsageError(f"{path}: {describe(error)}") from None

    def replace_fields(self, *, model: dict[str, object], training: dict[str, object]) -> Recipe:
        """With other fields where they are not None; raises UsageError for values that cannot be."""
        return Recipe(model=_replace_fields(self.model, model), training=_replace_fields(self.training, training))


def _fill_in(value: V, fields: Mapping[str, object]) -> V:
    """With these fields wherever the value was not told its own."""
    return value.model_copy(
        update={name: field for name, field in fields.items() if name not in value.model_fields_set}
    )


def _replace_fields(value: V, fields: dict[str, object]) -> V:
    given = {name: field for name, field in fields.items() if field is not None}
    chosen = {name: getattr(value, name) for name in value.model_fields_set}
    return type(value).validate_fields(**chosen | given)


def parse_weighted_patches(text: str) -> tuple[tuple[PatchSize, ...], tuple[float, ...] | None]:
    """``"8,16x32:2"`` → sizes and how often each is drawn (1 unless told, None when no weight is given)."""
    weights: dict[PatchSize, float] = {}
    for part in text.split(","):
        name, colon, weight = part.partition(":")
        patch = PatchSize.parse(name)
        try:
            value = float(weight) if colon else 1.0
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise UsageError(f"{part!r} is not a patch size with a weight; write 16:2 to draw it twice as often")
        if weights.setdefault(patch, value) != value:
            raise UsageError(f"{patch.short} has two weights, {weights[patch]:g} and {value:g}; give it one")
    return tuple(weights), tuple(weights.values()) if ":" in text else None
