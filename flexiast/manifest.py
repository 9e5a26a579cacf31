"""The bundle's manifest: what export writes last and the runtime reads first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from flexiast.errors import ModelError, UsageError
from flexiast.spec import Patch, PatchSize, Spec, Value, describe

MANIFEST = "manifest.json"
SCHEMA_VERSION = "1.0"
MAX_MANIFEST_BYTES = 4_000_000
"""100,000 labels fit; a larger file is not a manifest."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""A plain name inside the bundle: no folders, no way out."""


Metric = Annotated[float, Field(ge=0, le=1)]


class FileEntry(Value):
    """One file of the bundle."""

    name: FileName
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Parity(Value):
    """How far the engines' logits were from the source model's when the bundle was made."""

    inputs: int = Field(ge=1)
    """Windows compared: noise, silence, a sweep, and real audio if any was given."""
    real_inputs: int = Field(ge=0)
    max_abs_error: float = Field(ge=0)
    tolerance: float = Field(gt=0)
    top1_agreement: float = Field(ge=0, le=1)


class Variant(Value):
    """One patch size at one precision."""

    patch_size: Patch
    precision: Literal["fp32"] = "fp32"
    embedder: FileName
    tokens: int = Field(ge=2)
    gmac: float = Field(gt=0)
    parity: Parity
    metric: Metric | None = None
    """Accuracy or mean average precision on the validation split, where training measured this size."""


class Manifest(Value):
    """Schema 1.0; unknown fields are refused."""

    schema_version: Literal["1.0"] = "1.0"
    spec: Spec
    encoder: FileName
    golden: FileName
    embedding: FileName | None = None
    """What embedders of more patch sizes are made from; older bundles lack it."""
    measured: dict[str, Metric] = Field(default_factory=dict)
    """Patch size → metric on the validation split, for every size that training measured."""
    variants: tuple[Variant, ...] = Field(min_length=1)
    files: tuple[FileEntry, ...]
    source_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the source checkpoint's weights."""
    versions: dict[str, str]

    @model_validator(mode="after")
    def _engines_have_labels(self) -> Self:
        if not self.spec.labels:
            raise ValueError("a bundle's spec must have labels")
        return self

    @model_validator(mode="after")
    def _files_are_listed_once(self) -> Self:
        names = [entry.name for entry in self.files]
        if len(set(names)) != len(names):
            raise ValueError("a file is listed twice")
        used = {self.encoder, self.golden, *(variant.embedder for variant in self.variants)}
        missing = (used | ({self.embedding} if self.embedding else set())) - set(names)
        if missing:
            raise ValueError(f"files are used but not listed: {', '.join(sorted(missing))}")
        patches = [variant.patch_size for variant in self.variants]
        if len(set(patches)) != len(patches):
            raise ValueError("a patch size stands twice")
        return self

    @property
    def patches(self) -> tuple[PatchSize, ...]:
        return tuple(variant.patch_size for variant in self.variants)

    def variant(self, patch: PatchSize) -> Variant:
        """The variant of a patch size; raises UsageError with the sizes there are."""
        for variant in self.variants:
            if variant.patch_size == patch:
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
