"""The bundle's manifest: what export writes last and the runtime reads first.

python -m flexiast.manifest > docs/reference/manifest.schema.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from flexiast.errors import ModelError, UsageError
from flexiast.spec import Patch, PatchSize, Spec, Value, describe

MANIFEST = "manifest.json"
SCHEMA_VERSION = "1.0"
JSON_SCHEMA_DRAFT = "https://json-schema.org/draft/2020-12/schema"
MAX_MANIFEST_BYTES = 4_000_000
"""100,000 labels fit; a larger file is not a manifest."""

MAX_FILES = 1_000
MAX_LICENCE = 1_000
"""Characters of the licence's text"""
MAX_FILE_BYTES = 2_000_000_000
"""What one ONNX file can hold; a bundle that claims more is not read."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""A plain name inside the bundle: no folders, no way out."""


Metric = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(gt=0, le=1)]

Precision = Literal["fp32", "fp16", "int8", "int8-static"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""Finest first."""

OPSET = 17
"""The first with LayerNormalization as one operator, which fp16 and TensorRT need; TensorRT 10 and 11 read it."""


class FileEntry(Value):
    """One file of the bundle."""

    name: FileName
    size: int = Field(ge=0, le=MAX_FILE_BYTES)
    sha256: Sha256


class Parity(Value):
    """How far the engine's logits were from the source model's when the bundle was made; the worst of all windows."""

    inputs: int = Field(ge=1)
    """Windows compared: noise, silence, a sweep, and real audio if any was given."""
    real_inputs: int = Field(ge=0)
    max_abs_error: float = Field(ge=0)
    rel_error: float = Field(default=0.0, ge=0)
    """Length of the difference ÷ length of the source's logits."""
    cosine: float = Field(default=1.0, ge=-1, le=1)
    """Of the two vectors of logits, each less its mean."""
    tolerance: float = Field(gt=0)
    """Largest ``max_abs_error`` allowed, here and on a device."""
    top1_agreement: float = Field(ge=0, le=1)
    against: Precision | None = None
    """None: the source model. Else the size was added to a bundle without float32, and was compared under the bundle's
    own encoder of this precision: its embedder is right, and what that encoder loses is not in these figures."""


class Labelled(Value):
    """What an engine and its source model make of clips whose labels are known."""

    clips: int = Field(ge=1)
    metric: Metric
    source_metric: Metric

    @property
    def drop(self) -> float:
        """Points (hundredths of the metric) that the engine loses; below 0 where it wins."""
        return round(100 * (self.source_metric - self.metric), 6)  # half a point is half a point


class Encoder(Value):
    """The graph that all patch sizes of one precision share."""

    file: FileName
    quantized_layers: int = Field(default=0, ge=0)
    """Linear layers computed in int8, counted in the graph."""
    float_layers: tuple[str, ...] = ()
    """Layers of a quantised encoder left in float32, because the answers suffered."""
    calibration_windows: int = Field(default=0, ge=0)
    calibration_sha256: Sha256 | None = None
    """Hash of the features by which a static quantisation chose its ranges."""


class Variant(Value):
    """One patch size at one precision."""

    patch_size: Patch
    precision: Precision
    embedder: FileName
    tokens: int = Field(ge=2)
    gmac: float = Field(gt=0)
    parity: Parity
    metric: Metric | None = None
    """Accuracy or mean average precision on the validation split, where training measured this size."""
    labelled: Labelled | None = None
    """On the clips that the exporter was given, if they had labels."""
    temperature: float = Field(default=1.0, gt=0)
    """Logits are divided by it before they become scores, so that a score means the same at every size."""
    thresholds: dict[str, Threshold] | None = None
    """Label → score at which its events begin at this size; these go before those of the manifest."""

    def __str__(self) -> str:
        return f"patch size {self.patch_size} in {self.precision}"


class Manifest(Value):
    """Schema 1.0; unknown fields are refused."""

    schema_version: Literal["1.0"] = "1.0"
    spec: Spec
    opset: int = Field(default=OPSET, ge=OPSET)
    encoders: dict[Precision, Encoder] = Field(min_length=1)
    """By precision; the first is the default."""
    golden: FileName
    embedding: FileName | None = None
    """What embedders of more patch sizes are made from; older bundles lack it."""
    frontend: FileName | None = None
    """Samples → features as a graph, for those who use the bundle without flexiast; older bundles lack it."""
    measured: dict[str, Metric] = Field(default_factory=dict)
    """Patch size → metric on the validation split, for every size that training measured."""
    specificity: dict[str, Metric] | None = None
    """Patch size → share of the validation split's background without a score of 0.5; None where it has none."""
    variants: tuple[Variant, ...] = Field(min_length=1)
    """Every patch size in every precision."""
    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    """Label → score at which its events begin; labels without one have the runtime's default."""
    files: tuple[FileEntry, ...] = Field(max_length=MAX_FILES)
    source_sha256: Sha256
    """Hash of the source checkpoint's weights."""
    licence: str | None = Field(default=None, max_length=MAX_LICENCE)
    """Of the weights, as text; None where it is not known."""
    versions: dict[str, str]

    @model_validator(mode="after")
    def _engines_have_labels(self) -> Self:
        if not self.spec.labels:
            raise ValueError("a bundle's spec must have labels")
        return self

    @model_validator(mode="after")
    def _thresholds_are_of_labels(self) -> Self:
        own = (variant.thresholds or {} for variant in self.variants)
        if unknown := {*self.thresholds, *(label for each in own for label in each)} - set(self.spec.labels):
            raise ValueError(f"there are thresholds of labels that the spec lacks: {', '.join(sorted(unknown))}")
        return self

    @model_validator(mode="after")
    def _files_are_listed_once(self) -> Self:
        names = [entry.name for entry in self.files]
        if len(set(names)) != len(names):
            raise ValueError("a file is listed twice")
        encoders = {encoder.file for encoder in self.encoders.values()}
        used = {self.golden, *encoders, *(variant.embedder for variant in self.variants)}
        missing = (used | {name for name in (self.embedding, self.frontend) if name}) - set(names)
        if missing:
            raise ValueError(f"files are used but not listed: {', '.join(sorted(missing))}")
        return self

    @model_validator(mode="after")
    def _every_size_has_every_precision(self) -> Self:
        found = [(variant.patch_size, variant.precision) for variant in self.variants]
        if len(set(found)) != len(found):
            raise ValueError("a patch size stands twice in one precision")
        if set(found) != {(patch, precision) for patch in self.patches for precision in self.encoders}:
            raise ValueError("not every patch size has every precision that has an encoder")
        return self

    @property
    def patches(self) -> tuple[PatchSize, ...]:
        return tuple(dict.fromkeys(variant.patch_size for variant in self.variants))

    @property
    def best_patch(self) -> PatchSize:
        """The size that was measured best, the cheaper of equals; where none was measured, the finest.

        With background in the validation split, the best is that of the greatest mean of metric and specificity, as in
        training: of two sizes that know the clips equally well, the one with fewer false events.
        """
        measured = [variant for variant in self.variants if variant.metric is not None]
        if not measured:
            return max(self.variants, key=lambda variant: variant.tokens).patch_size

        def merit(variant: Variant) -> float:
            metric, specificity = variant.metric or 0.0, (self.specificity or {}).get(str(variant.patch_size))
            return metric if specificity is None else (metric + specificity) / 2

        return max(measured, key=lambda variant: (merit(variant), -variant.tokens)).patch_size

    @property
    def precisions(self) -> tuple[Precision, ...]:
        return tuple(self.encoders)

    @property
    def size_thresholds(self) -> dict[PatchSize, dict[str, float]]:
        """Thresholds that sizes have of their own; empty where none has any."""
        own = {patch: dict(self.variant(patch).thresholds or {}) for patch in self.patches}
        return own if any(own.values()) else {}

    def precision(self, wanted: str | None = None) -> Precision:
        """The precision of that name, or the default; raises UsageError with those there are."""
        for precision in self.precisions:
            if wanted in {None, precision}:
                return precision
        raise UsageError(f"the bundle has no {wanted} engines; it has {', '.join(self.precisions)}")

    def variant(self, patch: PatchSize, precision: str | None = None) -> Variant:
        """The variant of a patch size, in the default precision; raises UsageError with what there is."""
        precision = self.precision(precision)
        for variant in self.variants:
            if (variant.patch_size, variant.precision) == (patch, precision):
                return variant
        raise UsageError(f"the bundle has no patch size {patch}; it has {', '.join(map(str, self.patches))}")

    def entry(self, name: str) -> FileEntry:
        return next(entry for entry in self.files if entry.name == name)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; raises ModelError that says what is wrong and where."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"{folder} is not a bundle: {path.name} cannot be read ({error.strerror}); make one with `flexiast export`"
        ) from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise ModelError(f"{path} is larger than {MAX_MANIFEST_BYTES:,} bytes and cannot be a manifest")
    try:
        document = json.loads(content, object_pairs_hook=_refuse_duplicate_keys)
        _check_version(path, document)
        return Manifest.model_validate_json(content)
    except (ValueError, RecursionError) as error:  # pydantic's errors are ValueErrors
        reason = describe(error) if isinstance(error, ValidationError) else error
        raise ModelError(f"{path} is not a valid manifest: {reason}; export the bundle again") from error


def _refuse_duplicate_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice in one object")
    return dict(pairs)


def _check_version(path: Path, document: Any) -> None:
    version = str(document.get("schema_version", "")) if isinstance(document, dict) else ""
    if version != SCHEMA_VERSION:
        raise ModelError(
            f"{path} has schema version {version or 'none'!r}; "
            f"this flexiast reads {SCHEMA_VERSION}: upgrade flexiast or export again"
        )


def json_schema() -> dict[str, Any]:
    """The manifest's JSON Schema, for readers in any language; what spans several fields is checked in Python only."""
    return {"$schema": JSON_SCHEMA_DRAFT} | Manifest.model_json_schema()


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))
