"""Augmentations: functions of (input, rng), so that a batch is a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

Float = NDArray[np.float32]

SPEED = 0.12
"""Playing up to 12 % faster or slower also shifts pitch: other speakers, other machines."""
SHIFT = 0.15
"""Share of the window by which a clip moves: a live window never starts with the sound."""
GAIN_DB = 8.0
MASK_SHARE = 0.2
"""Widest SpecAugment mask as a share of each axis; AST uses 24 of 128 bins, 96 of 512 frames on ESC-50."""


def random_window(waveform: Float, window_samples: int, rng: np.random.Generator) -> Float:
    """Waveform [samples] → [window_samples] at random speed, place and gain; silence where it does not reach."""
    speed = rng.uniform(1 - SPEED, 1 + SPEED)
    longest = int(window_samples * (1 + 2 * SPEED)) + 1  # more would be cut off again
    if len(waveform) > longest:
        skipped = int(rng.integers(0, len(waveform) - longest + 1))
        waveform = waveform[skipped : skipped + longest]
    waveform = soxr.resample(waveform, 1000.0 * speed, 1000.0, quality="LQ")
    slack = window_samples - len(waveform)
    reach = min(int(SHIFT * window_samples), len(waveform) // 2)  # half of a short clip stays inside
    start = int(rng.integers(min(slack, 0) - reach, max(slack, 0) + reach + 1))
    window = np.zeros(window_samples, np.float32)
    first, last = max(start, 0), min(start + len(waveform), window_samples)
    window[first:last] = waveform[first - start : last - start]
    return window * np.float32(10 ** (rng.uniform(-GAIN_DB, GAIN_DB) / 20))


def mixup(waveforms: Float, targets: Float, rng: np.random.Generator, alpha: float) -> tuple[Float, Float]:
    """Each waveform and its target blended with another's; the share is Beta(alpha, alpha), folded to ≥ ½."""
    share = rng.beta(alpha, alpha, len(waveforms)).astype(np.float32)[:, None]
    share = np.maximum(share, 1 - share)
    other = rng.permutation(len(waveforms))
    return share * waveforms + (1 - share) * waveforms[other], share * targets + (1 - share) * targets[other]


def spec_augment(features: Tensor, floor: float) -> Tensor:
    """One mel and one time mask per clip [batch, frames, mels], filled with the floor; draws from torch's generator."""
    from torchaudio.transforms import FrequencyMasking, TimeMasking

    _, frames, mels = features.shape
    masked = features.transpose(1, 2).contiguous()[:, None]  # [batch, channel, mels, frames]: masked per example
    masked = FrequencyMasking(int(MASK_SHARE * mels), iid_masks=True)(masked, floor)
    masked = TimeMasking(int(MASK_SHARE * frames), iid_masks=True)(masked, floor)
    return torch.as_tensor(masked)[:, 0].transpose(1, 2)
