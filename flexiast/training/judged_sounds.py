"""Sounds that a person has judged, cut into the windows in which a listener would hear them again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexiast.arrays import Float
from flexiast.frontend import Frontend

STEP_S = 0.5
"""From window to window, the largest step of a listener"""
MOST_WINDOWS = 24
"""Of one sound, evenly spread over it"""
FEWEST_SOUNDS = 2
"""Of a label that were taken for others, before a model changes for it: one is no habit, and what is made of it reaches
too far"""
QUIET_SHARE = 0.2
"""Of a clip's frames, from which what is missing around it is made"""


@dataclass(frozen=True)
class JudgedSound:
    """A sound and what it was."""

    waveform: Float
    """[samples] at the model's rate, with what sounded around it as far as it is there"""
    span: slice
    """Where the sound itself lies in that"""
    label: str | None
    """None: it was none of the labels"""


def cut_windows(judged: JudgedSound, frontend: Frontend, rng: np.random.Generator) -> Float:
    """Log-mel [windows, window_frames, mels] around moments of the sound, every half second.

    A clip is often shorter than a window. What is missing before and after it is filled with its own quietest frames in
    any order, which sound as the room does.
    """
    spec = frontend.spec
    log_mel = frontend.log_mel(np.pad(judged.waveform, (0, max(0, spec.taper_samples - len(judged.waveform)))))
    levels = log_mel.mean(axis=1)
    quiet = np.argsort(levels, kind="stable")[: max(1, round(QUIET_SHARE * len(levels)))]
    half = spec.window_frames // 2
    before, after = log_mel[rng.choice(quiet, half)], log_mel[rng.choice(quiet, spec.window_frames)]
    padded = np.concatenate((before, log_mel, after))
    first, last = (min(edge // spec.hop_samples, len(log_mel) - 1) for edge in (judged.span.start, judged.span.stop))
    step = round(STEP_S * spec.sample_rate_hz / spec.hop_samples)
    count = min(MOST_WINDOWS, 1 + (last - first) // step)
    centres = np.linspace(first, last, 2 * count + 1)[1::2].astype(int)  # the middles of equal parts
    return np.stack([padded[centre : centre + spec.window_frames] for centre in centres])
