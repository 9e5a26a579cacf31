"""Per-channel energy normalization (PCEN): each mel bin is divided by its own recent past, then compressed.

A quiet voice and a loud one look alike afterwards, and steady noise goes. After Wang et al., "Trainable Frontend For
Robust and Far-Field Keyword Spotting" (arXiv 1607.05666), without their ε: no energy is below the front end's floor. It
begins anew in each window, so that a window's scores depend on that window alone. The network does it, on the log-mels
of any front end: whoever runs a bundle has nothing to do. Here stand the constants and NumPy's arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flexiast.arrays import Float
from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec, Spec

SMOOTHING = 0.025
"""Of the running mean, for each frame: it reaches back 40 frames."""
ALPHA = 0.98
"""How much of a steady level goes: all but its fiftieth part in decibels."""
DELTA = 2.0
"""Added before the square root, so that steady noise stays small."""


class Smoothing(NamedTuple):
    """The running mean of energies [frames, mels] as matrix products over blocks of frames.

    In each block the mean over its own frames is ``within`` @ energies. What blocks before it add is ``fading`` times
    their last mean, which is ``carried`` @ (the first frame, then the last row of each block but the last).
    """

    within: Float
    """[frames of a block, frames of a block]"""
    fading: Float
    """[frames of a block, 1]"""
    carried: Float
    """[blocks, blocks]"""


def smoothing_matrices(frames: int) -> Smoothing:
    """Of a window of so many frames, the last block of which may be padded; √frames in a block cost least."""
    block = max(1, round(frames**0.5))
    within = SMOOTHING * _decay(block, 1 - SMOOTHING)
    fading = (1 - SMOOTHING) ** np.arange(1, block + 1)[:, None]
    carried = _decay(-(-frames // block), (1 - SMOOTHING) ** block)
    return Smoothing(*(each.astype(np.float32) for each in (within, fading, carried)))


def _decay(size: int, rate: float) -> Float:
    """Rate ** (row − column) on and below the diagonal, zeros above."""
    lags = np.subtract.outer(np.arange(size), np.arange(size))
    decay: Float = np.where(lags >= 0, rate ** np.maximum(lags, 0), 0.0)
    return decay


def normalize_energy(features: Float, frontend: FrontendSpec) -> Float:
    """Features [batch, frames, mels] of a front end → the same after PCEN, in float64 and frame by frame."""
    log_mel = features.astype(np.float64) * (2 * frontend.std) + frontend.mean
    energy = np.exp(log_mel)
    smooth = np.empty_like(energy)
    past = energy[:, 0]
    for frame in range(energy.shape[1]):
        past = (1 - SMOOTHING) * past + SMOOTHING * energy[:, frame]
        smooth[:, frame] = past
    gained = np.exp(log_mel - ALPHA * np.log(smooth))
    return (np.sqrt(gained + DELTA) - DELTA**0.5).astype(np.float32)


def padding_value(spec: Spec) -> float:
    """With what the network pads an incomplete patch: lasting silence, as patches hold it."""
    floor = Frontend(spec.frontend).floor
    if not spec.pcen:
        return floor
    return float(normalize_energy(np.full((1, 1, 1), floor, np.float32), spec.frontend)[0, 0, 0])
