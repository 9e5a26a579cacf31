"""Parity: the runtime's own engines against the source model, before anything is published."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import VerificationError
from flexiast.frontend import Frontend
from flexiast.manifest import Parity
from flexiast.spec import PatchSize, Spec

Float = NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest difference of a logit. Rounding of float32 in another order stays near 1e-6; a wrong weight is far above."""


def synthetic_inputs(spec: Spec) -> Float:
    """Features [3, window_frames, mels] of noise, silence and a rising tone; the same on every machine."""
    frontend, samples = Frontend(spec.frontend), spec.frontend.window_samples
    seconds = np.arange(samples) / spec.frontend.sample_rate_hz
    duration = samples / spec.frontend.sample_rate_hz
    noise = 0.1 * np.random.default_rng(0).standard_normal(samples)
    sweep = 0.5 * np.sin(2 * np.pi * (100 * seconds + 3000 * seconds**2 / duration))
    return np.stack([frontend.window(wave.astype(np.float32)) for wave in (noise, np.zeros(samples), sweep)])


def real_inputs(spec: Spec, waveforms: Sequence[Float]) -> Float:
    """Features [clips, window_frames, mels] of the first window of each clip."""
    frontend = Frontend(spec.frontend)
    shape = (0, spec.frontend.window_frames, spec.frontend.mel_bins)
    return np.stack([frontend.window(wave) for wave in waveforms]) if waveforms else np.empty(shape, np.float32)


def parity(patch: PatchSize, reference: Float, found: Float, real: int) -> Parity:
    """Compare logits [inputs, classes]; raises VerificationError when they are not those of the source model."""
    error = float(np.abs(reference - found).max())
    if not error <= TOLERANCE:  # also catches NaN
        raise VerificationError(
            f"patch size {patch}: the engine's logits differ from the model's by {error:.2g} (allowed {TOLERANCE:g}); "
            "nothing was published"
        )
    best = np.sort(reference, axis=1)
    decided = best[:, -1] - best[:, -2] > 2 * TOLERANCE if reference.shape[1] > 1 else np.ones(len(reference), bool)
    agreement = float(np.mean((reference.argmax(1) == found.argmax(1)) | ~decided))
    return Parity(
        inputs=len(reference), real_inputs=real, max_abs_error=error, tolerance=TOLERANCE, top1_agreement=agreement
    )
