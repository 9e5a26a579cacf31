"""Parity: the runtime's own engines against the source model, before anything is published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy

import numpy as np

from flexiast.arrays import Float
from flexiast.errors import VerificationError
from flexiast.evaluation.evaluate import Classifier, Windows, classify, score
from flexiast.frontend import Frontend
from flexiast.manifest import Labelled, Parity, Precision, Variant
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.selfcheck import golden_key

TOLERANCE = 1e-4
"""Largest difference of a float32 logit. Rounding in another order stays near 1e-6; a wrong weight is far above."""

SHARE: dict[Precision, float] = {"fp16": 0.05, "int8": 0.6, "int8-static": 0.6}
"""Largest difference of a logit in coarser numbers, as a share of the spread of the logits: the worst of 800 clips is a
third of that in int8 when all is well; int16 sums that overflow, on CPUs without VNNI, are beyond it."""

MAX_DROP = 0.5
"""Points of the metric that an engine may lose on clips with labels."""


def tolerance(precision: Precision, reference: Float) -> float:
    """Largest difference of a logit that a precision may make, by the source's logits [inputs, classes]."""
    spread = float(np.sqrt(np.mean((reference - reference.mean(axis=1, keepdims=True)) ** 2)))
    return max(TOLERANCE, SHARE.get(precision, 0.0) * spread)


def synthetic_waveforms(spec: Spec) -> Float:
    """One window [3, window_samples] of noise, silence and a rising tone each; the same on every machine."""
    samples = spec.frontend.window_samples
    seconds = np.arange(samples) / spec.frontend.sample_rate_hz
    duration = samples / spec.frontend.sample_rate_hz
    noise = 0.1 * np.random.default_rng(0).standard_normal(samples)
    sweep = 0.5 * np.sin(2 * np.pi * (100 * seconds + 3000 * seconds**2 / duration))
    return np.stack([noise, np.zeros(samples), sweep]).astype(np.float32)


def synthetic_inputs(spec: Spec) -> Float:
    """The features [3, window_frames, mels] of `synthetic_waveforms`."""
    return np.stack([*map(Frontend(spec.frontend).window, synthetic_waveforms(spec))])


class VerificationData:
    """What engines are compared on: synthetic windows first, then those of real clips, which may have labels."""

    def __init__(self, spec: Spec, waveforms: Sequence[Float] = (), targets: Float | None = None) -> None:
        """``targets`` [clips, classes]."""
        self._task, self._targets = spec.task, targets
        self._clips = Windows(waveforms, Frontend(spec.frontend)) if waveforms else None
        real = [self._clips[:]] if self._clips else []
        self.features: Float = np.concatenate([synthetic_inputs(spec), *real])
        """[windows, window_frames, mels]"""

    def drop_labels(self) -> VerificationData:
        """The same sounds, of which nothing is known."""
        plain = copy(self)
        plain._targets = None
        return plain

    @property
    def synthetic(self) -> int:
        return len(self.features) - self.real

    @property
    def real(self) -> int:
        return len(self._clips) if self._clips else 0

    def compare_metrics(self, reference: Float, found: Float) -> Labelled | None:
        """The metric of the source's logits [windows, classes] and of an engine's; None without labels."""
        if self._clips is None or self._targets is None:
            return None
        source, engine = (
            score(self._clips.clip_mean(logits[self.synthetic :]), self._targets, self._task)
            for logits in (reference, found)
        )
        return Labelled(clips=len(self._targets), metric=engine, source_metric=source)


class Comparison:
    """Engines against their source model on the same sounds; the model answers once for all precisions."""

    def __init__(
        self, source: Classifier, sounds: VerificationData, max_drop: float = MAX_DROP, against: Precision | None = None
    ) -> None:
        """``against`` is what the figures say of their source, see ``Parity``."""
        self._source, self._sounds, self._max_drop, self._against = source, sounds, max_drop, against
        self._references: dict[PatchSize, Float] = {}

    @property
    def sounds(self) -> VerificationData:
        return self._sounds

    def reference(self, patch: PatchSize) -> Float:
        """The model's logits [windows, classes]."""
        if patch not in self._references:
            self._references[patch] = classify(self._source, self._sounds.features, patch)
        return self._references[patch]

    def verify_variant(self, engines: Engines, variant: Variant) -> Variant:
        """The variant with its parity and, for clips with labels, its metric."""
        patch, sounds = variant.patch_size, self._sounds
        reference, found = self.reference(patch), classify(engines, sounds.features, patch)
        compared = parity(reference, found, sounds.real, tolerance(variant.precision, reference))
        return variant.model_copy(
            update={
                "parity": compared.model_copy(update={"against": self._against}),
                "labelled": sounds.compare_metrics(reference, found),
            }
        )

    def check(self, variants: Iterable[Variant]) -> None:
        """Raise VerificationError for the first engine that is too far from its source model."""
        for variant in variants:
            check(variant, self._max_drop)

    def golden(self, patches: Iterable[PatchSize]) -> dict[str, Float]:
        """Synthetic inputs and the model's answers, for a device to compare its own with."""
        count = self._sounds.synthetic
        answers = {golden_key(patch): self.reference(patch)[:count] for patch in patches}
        return {"features": self._sounds.features[:count], **answers}


def parity(reference: Float, found: Float, real: int, allowed: float) -> Parity:
    """Compare logits [inputs, classes] of the source model and of an engine; ``real`` inputs stand last."""
    difference = reference - found
    best = np.sort(reference, axis=1)
    decided = best[:, -1] - best[:, -2] > 2 * TOLERANCE if reference.shape[1] > 1 else np.ones(len(reference), bool)
    return Parity(
        inputs=len(reference),
        real_inputs=real,
        max_abs_error=_finite(np.abs(difference).max()),
        rel_error=_finite((_lengths(difference) / np.maximum(_lengths(reference), TOLERANCE)).max()),
        cosine=float(np.clip(_cosines(reference, found).min(), -1, 1)),
        tolerance=allowed,
        top1_agreement=float(np.mean((reference.argmax(1) == found.argmax(1)) | ~decided)),
    )


def check(variant: Variant, max_drop: float) -> None:
    """Raise VerificationError for an engine that is too far from its source model."""
    found, labelled = variant.parity, variant.labelled
    if not found.max_abs_error <= found.tolerance:
        raise VerificationError(
            f"{variant}: the engine's logits differ from the model's by {found.max_abs_error:.2g} "
            f"(allowed {found.tolerance:.2g}); nothing was published"
        )
    if labelled is not None and labelled.drop > max_drop:
        raise VerificationError(
            f"{variant}: the engine loses {labelled.drop:.2f} points on {labelled.clips:,} clips "
            f"({100 * labelled.source_metric:.1f} to {100 * labelled.metric:.1f}; --max-drop allows {max_drop:g}); "
            "nothing was published"
        )


def _finite(value: float) -> float:
    """A number that JSON can hold: an engine that answers NaN is infinitely wrong."""
    return float(value) if np.isfinite(value) else float(np.finfo(np.float32).max)


def _lengths(vectors: Float) -> Float:
    lengths: Float = np.linalg.norm(vectors, axis=1)
    return lengths


def _cosines(reference: Float, found: Float) -> Float:
    """Of vectors less their means; 1 where both are constant, as for a model of one class."""
    a, b = (logits - logits.mean(axis=1, keepdims=True) for logits in (reference, found))
    product = _lengths(a) * _lengths(b)
    cosines: Float = np.where(product > 0, (a * b).sum(axis=1) / np.where(product > 0, product, 1), 1)
    return np.nan_to_num(cosines, nan=-1.0)
