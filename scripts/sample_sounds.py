"""Sample sounds for a first model: a doorbell, a smoke alarm and a room's background, made by arithmetic.

    python scripts/sample_sounds.py sounds

writes sounds/doorbell/00.wav … and, beside the folder, today.wav: a minute of the room with five sounds in it, which no
training clip holds. Nothing here was recorded. The same seed gives the same samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 16_000
CLIP_S = 1.5
TODAY = (("doorbell", 8.0), ("smoke_alarm", 20.0), ("doorbell", 31.0), ("doorbell", 42.0), ("smoke_alarm", 51.0))
"""What sounds in today.wav, and when it begins, in seconds"""

Wave = NDArray[np.float64]


def _seconds(duration_s: float) -> Wave:
    return np.arange(round(duration_s * RATE_HZ)) / RATE_HZ


def room(duration_s: float, rng: np.random.Generator) -> Wave:
    """Noise that falls with frequency, and the hum of something electric; of another colour and level each time."""
    t = _seconds(duration_s)
    hz = np.fft.rfftfreq(len(t), 1 / RATE_HZ)
    shape = np.maximum(hz, 40.0) ** -rng.uniform(0.3, 1.2)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(t))) * shape, len(t))
    hum = np.sin(2 * np.pi * rng.choice([50.0, 60.0]) * t + rng.uniform(0, 2 * np.pi))
    level = 10 ** rng.uniform(-3.2, -1.6)
    wave: Wave = level * (noise / noise.std() + rng.uniform(0, 1.5) * hum)
    return wave


def doorbell(rng: np.random.Generator) -> Wave:
    """Ding, dong: two struck bars, the second a third lower."""
    t = _seconds(CLIP_S)
    wave = np.zeros_like(t)
    high_hz, pause_s = rng.uniform(600, 760), rng.uniform(0.35, 0.5)
    for start_s, strike_hz in ((0.05, high_hz), (0.05 + pause_s, high_hz * 0.8)):
        since = np.maximum(t - start_s, 0)
        for partial, gain, decay in ((1.0, 1.0, 3.0), (2.76, 0.5, 6.0), (5.4, 0.25, 12.0)):
            wave += (t >= start_s) * gain * np.exp(-decay * since) * np.sin(2 * np.pi * partial * strike_hz * since)
    return wave / np.abs(wave).max()


def smoke_alarm(rng: np.random.Generator) -> Wave:
    """Loud beeps near 3 kHz, two or three a second."""
    t = _seconds(CLIP_S)
    beeping = (t * rng.uniform(1.8, 3.2) + rng.random()) % 1 < 0.5
    tone: Wave = np.sin(2 * np.pi * rng.uniform(2_800, 3_400) * t) * beeping
    return tone


SOUNDS: dict[str, Callable[[np.random.Generator], Wave]] = {"doorbell": doorbell, "smoke_alarm": smoke_alarm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="where the folders of clips go, one for each label and the background"
    )
    parser.add_argument("--clips", type=int, default=40, help="in each folder (default: 40)")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    for label in ("_background_", *SOUNDS):
        (arguments.folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(arguments.clips):
            wave = room(CLIP_S, rng)
            if label in SOUNDS:
                wave += rng.uniform(0.05, 0.6) * SOUNDS[label](rng)
            write(arguments.folder / label / f"{number:02}.wav", wave)
    today = room(60.0, rng)
    for label, start_s in TODAY:
        start = round(start_s * RATE_HZ)
        sound = SOUNDS[label](rng)
        today[start : start + len(sound)] += 0.3 * sound
    write(arguments.folder.parent / "today.wav", today)


def write(path: Path, wave: Wave) -> None:
    soundfile.write(path, np.clip(wave, -1, 1), RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    main()
