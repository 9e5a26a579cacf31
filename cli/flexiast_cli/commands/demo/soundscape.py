"""A soundscape made of noise and oscillators, for a demonstration on a machine without sounds or a microphone.

Nothing here was recorded. Each sound imitates a class of ESC-50; what the model makes of it is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000

Wave = NDArray[np.float64]


class Scene(NamedTuple):
    """One sound of the soundscape and where it stands."""

    imitates: str
    start_s: float
    end_s: float


def _time(seconds: float) -> Wave:
    return np.arange(round(seconds * RATE_HZ)) / RATE_HZ


def _band(noise: Wave, low_hz: float, high_hz: float, slope: float = 0.0) -> Wave:
    """Noise limited to a band by its spectrum, tilted by a power of frequency; unit peak."""
    spectrum = np.fft.rfft(noise)
    hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
    spectrum *= (hz >= low_hz) & (hz <= high_hz)
    spectrum *= np.maximum(hz, 20.0) ** slope
    wave: Wave = np.fft.irfft(spectrum, len(noise))
    return wave / np.abs(wave).max()


PARTIALS = (
    (0.5, 0.6, 0.3),
    (1.0, 0.8, 0.48),
    (1.2, 0.9, 0.6),
    (1.5, 0.5, 0.78),
    (2.0, 0.8, 0.72),
    (2.67, 0.5, 1.08),
    (3.0, 0.5, 1.2),
    (4.1, 0.3, 1.68),
    (5.4, 0.2, 2.16),
)
"""Of a bell, from its hum: frequency over that of the strike, gain, and decay in 1 / s."""

STRIKES_HZ = (330, 370, 415)
SWING_S = 0.6
"""Between two strikes of different bells."""


def siren(seconds: float, rng: np.random.Generator) -> Wave:
    """A wail between 600 and 1500 Hz with harmonics."""
    t = _time(seconds)
    hz = 1050 + 450 * np.sin(2 * np.pi * t / 3.2 - np.pi / 2)
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    return (np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase)) / 1.75 + 0.01 * rng.standard_normal(
        len(t)
    )


def rain(seconds: float, rng: np.random.Generator) -> Wave:
    """Steady noise with the crackle of single drops."""
    t = _time(seconds)
    drops = _band(rng.standard_normal(len(t)) * (rng.random(len(t)) < 0.004), 1500, 8000)
    return 0.7 * _band(rng.standard_normal(len(t)), 400, 8000, -0.25) + 0.5 * drops


def church_bells(seconds: float, rng: np.random.Generator) -> Wave:
    """Three bells of a tower in the open, swinging a little unevenly; their higher partials die sooner."""
    count = round(seconds * RATE_HZ)
    wave = 0.15 * _band(rng.standard_normal(count), 60, 4000, -0.5)
    for number, due_s in enumerate(np.arange(0.05, seconds, SWING_S)):
        start_s = due_s + (SWING_S * rng.uniform(-0.08, 0.08) if number else 0)
        t = _time(max(0.1, seconds - start_s))[:count]
        strike_hz = STRIKES_HZ[number % len(STRIKES_HZ)]
        ringing = sum(
            gain * np.exp(-decay * t) * np.sin(2 * np.pi * ratio * strike_hz * t) for ratio, gain, decay in PARTIALS
        )
        wave[count - len(t) :] += ringing
    return wave / np.abs(wave).max()


def sea_waves(seconds: float, rng: np.random.Generator) -> Wave:
    """Noise that swells and falls every 5 s."""
    t = _time(seconds)
    swell = np.maximum(0, np.sin(2 * np.pi * t / 5 - 1)) ** 2
    return _band(rng.standard_normal(len(t)), 80, 8000, -0.5) * (0.2 + 0.8 * swell)


def vacuum_cleaner(seconds: float, rng: np.random.Generator) -> Wave:
    """Broad noise with the whine of a motor."""
    t = _time(seconds)
    whine = sum(np.sin(2 * np.pi * 310 * n * t) / n for n in (1, 2, 3, 4, 6))
    return 0.25 * np.asarray(whine) + 0.6 * _band(rng.standard_normal(len(t)), 150, 7500, -0.3)


SOUNDS: dict[str, Callable[[float, np.random.Generator], Wave]] = {
    "siren": siren,
    "rain": rain,
    "church_bells": church_bells,
    "sea_waves": sea_waves,
    "vacuum_cleaner": vacuum_cleaner,
}

SCENES = (
    Scene("church_bells", 1.0, 7.0),
    Scene("siren", 8.5, 14.0),
    Scene("rain", 15.5, 21.5),
    Scene("sea_waves", 22.5, 29.5),
    Scene("vacuum_cleaner", 30.5, 35.0),
    Scene("siren", 36.0, 40.0),
)

DURATION_S = 40.0


def soundscape(seed: int = 0) -> NDArray[np.float32]:
    """The scenes over a quiet background, mono [samples] at RATE_HZ; the same samples for the same seed."""
    rng = np.random.default_rng(seed)
    wave = 0.0005 * rng.standard_normal(round(DURATION_S * RATE_HZ))
    for scene in SCENES:
        sound = SOUNDS[scene.imitates](scene.end_s - scene.start_s, rng)
        fade = np.minimum(1, np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1]) / (0.1 * RATE_HZ))
        start = round(scene.start_s * RATE_HZ)
        wave[start : start + len(sound)] += 0.3 * fade * sound / np.abs(sound).max()
    return wave.astype(np.float32)
