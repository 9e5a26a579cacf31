"""What recipes/yamnet.toml learns from: single sounds and mixtures, cut, sped up, echoed, at random levels.

Nobody labels them; the teacher of `flexiast train --teacher` does. Segments of 2 s stand side by side in files of 40 s,
so that a window of 2 s holds one of them. DATA is the folder with commands, english, speakers, background and esc50
(of which only the CC BY part, ESC-10, folds 1 to 3, is taken); SOUNDS are further folders of audio, searched through.

python -m benchmarks.base_sounds DATA [SOUNDS …] -o base-sounds --hours 9
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from flexiast.data.audio import read_audio
from flexiast.data.search import search_folder
from flexiast.errors import DataError

Float = NDArray[np.float32]
Half = NDArray[np.float16]
"""As sources are kept, of which there are hours."""
RATE_HZ = 16_000
SEGMENT = 2 * RATE_HZ
SEGMENTS_A_FILE = 20
LONGEST_S = 60.0
"""Of a source: the middle of a piece of music tells its style."""

SHARES = {
    "esc10": 0.26,
    "sounds": 0.25,
    "synthetic": 0.15,
    "commands": 0.10,
    "english": 0.08,
    "speakers": 0.05,
    "background": 0.07,
    "espeak": 0.04,
}
SENTENCES = (
    "the kettle is on and the rain has not stopped since noon",
    "who left the gate open again",
    "seven trains a day go north, and one of them is late",
    "quick, quick, hold this",
    "I would rather walk than wait here",
    "hello, is anybody at home",
)
VOICES = ("en-us", "en-gb", "de", "fr", "it", "pl", "tr", "hi", "sw", "fi")


def may_teach(speaker: str) -> bool:
    """Two thirds of the speakers; the others are left for measuring."""
    return hashlib.sha256(speaker.encode()).digest()[0] % 3 > 0


def list_clips(folder: Path, keep: str) -> Iterator[Path]:
    """Clips of a data set that may teach."""
    with (folder / "metadata.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            kept = {
                "esc10": row.get("esc10") == "1" and row.get("fold") in {"1", "2", "3"},
                "train": row.get("split") == "train",
                "speakers": folder.name == "speakers" and may_teach(row["label"]),
            }[keep]
            if kept:
                yield folder / row["path"]


def decode(paths: Iterable[Path]) -> list[Half]:
    sources = []
    for path in paths:
        try:
            samples = read_audio(path, RATE_HZ)
        except DataError:  # a game's data hold files of odd kinds
            continue
        middle = max(0, (len(samples) - round(LONGEST_S * RATE_HZ)) // 2)
        samples = samples[middle : middle + round(LONGEST_S * RATE_HZ)]
        if len(samples) > RATE_HZ // 10 and float(np.abs(samples).max()) > 1e-3:
            sources.append(samples.astype(np.float16))
    return sources


def speak() -> list[Half]:
    """Sentences by espeak-ng at several pitches and speeds."""
    sources = []
    with tempfile.TemporaryDirectory() as place:
        for number in range(120):
            voice, text = VOICES[number % len(VOICES)], SENTENCES[number % len(SENTENCES)]
            variant = ("", "+f2", "+m3", "+f4", "+croak", "+whisper")[number // 10 % 6]
            path = Path(place) / f"{number}.wav"
            pitch, speed = str(20 + 7 * number % 75), str(110 + 13 * number % 110)
            command = ["espeak-ng", "-v", voice + variant, "-p", pitch, "-s", speed, "-w", str(path), text]
            subprocess.run(command, check=True, capture_output=True)
            sources.append(read_audio(path, RATE_HZ).astype(np.float16))
    return sources


def synthesise(rng: np.random.Generator) -> Float:
    """Tones, chirps, noises, clicks, plucked strings and alarms, with envelopes and vibrato [SEGMENT]."""
    time = np.arange(SEGMENT) / RATE_HZ
    kind = rng.integers(7)
    if kind == 0:  # a harmonic tone with vibrato
        pitch = np.exp(rng.uniform(np.log(60), np.log(2500)))
        vibrato = 1 + rng.uniform(0, 0.03) * np.sin(2 * np.pi * rng.uniform(3, 9) * time)
        phase = 2 * np.pi * np.cumsum(pitch * vibrato) / RATE_HZ
        count = int(rng.integers(1, 12))
        wave = sum(
            rng.uniform(0.2, 1) / (k + 1) * np.sin((k + 1) * phase)
            for k in range(count)
            if (k + 1) * pitch < RATE_HZ / 2.2
        )
    elif kind == 1:  # a chirp, maybe repeated as a siren is
        low, high = np.sort(np.exp(rng.uniform(np.log(80), np.log(6000), 2)))
        course = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.2, 8) * time + rng.uniform(0, 6))
        wave = np.sin(2 * np.pi * np.cumsum(low * (high / low) ** course) / RATE_HZ)
    elif kind == 2:  # noise of any colour and band
        spectrum = np.fft.rfft(rng.standard_normal(SEGMENT))
        hz = np.fft.rfftfreq(SEGMENT, 1 / RATE_HZ) + 20
        centre, width = np.exp(rng.uniform(np.log(100), np.log(6000))), rng.uniform(0.2, 3)
        spectrum *= (hz / 1000) ** rng.uniform(-1.2, 0.5) * np.exp(-((np.log(hz / centre) / width) ** 2))
        wave = np.fft.irfft(spectrum, SEGMENT)
    elif kind == 3:  # clicks, a clock or an engine by their rate
        wave = np.zeros(SEGMENT)
        wave[np.arange(int(rng.integers(1, 4000)), SEGMENT, max(40, int(RATE_HZ / np.exp(rng.uniform(0, 4.5)))))] = 1
        ring = np.exp(-np.arange(800) / rng.uniform(5, 200)) * rng.standard_normal(800)
        wave = np.convolve(wave, ring)[:SEGMENT]
    elif kind == 4:  # plucked strings or bells
        wave = np.zeros(SEGMENT)
        for _ in range(int(rng.integers(1, 6))):
            start, pitch = int(rng.integers(0, SEGMENT - 2000)), np.exp(rng.uniform(np.log(80), np.log(3000)))
            after = time[: SEGMENT - start]
            ratios = np.arange(1, 6) if rng.random() < 0.5 else np.array([1, 2.76, 5.4, 8.93, 13.3])
            for number, ratio in enumerate(ratios):
                if ratio * pitch < RATE_HZ / 2.2:
                    decay = np.exp(-after * rng.uniform(1, 8) * (1 + number))
                    wave[start:] += decay * np.sin(2 * np.pi * ratio * pitch * after) / (1 + number)
    elif kind == 5:  # beeps
        period, share = rng.uniform(0.1, 1.2), rng.uniform(0.2, 0.8)
        pitch = np.exp(rng.uniform(np.log(400), np.log(4500)))
        wave = np.sin(2 * np.pi * pitch * time) * ((time / period) % 1 < share)
        wave = np.sign(wave) if rng.random() < 0.3 else wave
    else:  # drops, crackle, rain: random short bursts
        wave = np.zeros(SEGMENT)
        for start in rng.integers(0, SEGMENT - 400, int(np.exp(rng.uniform(1, 6)))):
            tone = np.sin(2 * np.pi * rng.uniform(300, 7000) * time[:400] + rng.uniform(0, 6))
            wave[start : start + 400] += rng.exponential() * np.exp(-np.arange(400) / rng.uniform(8, 120)) * tone
    if rng.random() < 0.4:
        depth, rate = rng.uniform(0.2, 1), np.exp(rng.uniform(np.log(0.5), np.log(40)))
        wave = wave * (1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rate * time)))
    return np.asarray(wave, np.float32)


def vary(kept: Float | Half, rng: np.random.Generator) -> Float:
    """A stretch of a source somewhere in a segment, sometimes at another speed, backwards or in a small room."""
    source: Float = kept.astype(np.float32)
    rate = float(np.exp(rng.normal(0, 0.2))) if rng.random() < 0.5 else 1.0
    needed = round(SEGMENT * rate)
    if len(source) > needed:
        start = int(rng.integers(0, len(source) - needed + 1))
        source = source[start : start + needed]
    if rate != 1:
        source = soxr.resample(source, 1000 * rate, 1000.0, quality="LQ")
    source = source[:SEGMENT]
    if rng.random() < 0.05:
        source = source[::-1]
    if rng.random() < 0.25:  # an echo that dies away within 0.1 to 0.6 s
        length = 4000
        tail = rng.standard_normal(length) * np.exp(-np.arange(length) * 6.9 / (RATE_HZ * rng.uniform(0.1, 0.6)))
        tail[0] = np.abs(tail).sum() * rng.uniform(0.05, 0.5)
        size = 1 << (len(source) + length - 1).bit_length()
        wet = np.fft.irfft(np.fft.rfft(source, size) * np.fft.rfft(tail, size), size)[: len(source) + length]
        source = wet[:SEGMENT].astype(np.float32)
    segment = np.zeros(SEGMENT, np.float32)
    start = int(rng.integers(0, SEGMENT - len(source) + 1))
    segment[start : start + len(source)] = source
    return segment


def measure_loudness(segment: Float) -> float:
    return float(np.sqrt(np.mean(segment**2))) + 1e-9


def make_segment(sources: dict[str, list[Half]], rng: np.random.Generator) -> Float:
    """One sound, or two or three at −10 to +20 dB to one another, at −48 to −8 dBFS [SEGMENT]."""
    names = [name for name in SHARES if name == "synthetic" or sources.get(name)]
    shares = np.array([SHARES[name] for name in names])
    mixed = np.zeros(SEGMENT, np.float32)
    for layer in range(int(rng.choice((1, 2, 3), p=(0.5, 0.38, 0.12)))):
        name = str(rng.choice(names, p=shares / shares.sum()))
        if name == "synthetic":
            sound = synthesise(rng)
        else:
            sound = vary(sources[name][int(rng.integers(len(sources[name])))], rng)
        gain = 1.0 if layer == 0 else 10 ** (-rng.uniform(-10, 20) / 20)
        mixed += np.float32(gain / measure_loudness(sound)) * sound
    mixed += (
        rng.standard_normal(SEGMENT).astype(np.float32) * 10 ** (-rng.uniform(20, 70) / 20) * measure_loudness(mixed)
    )
    mixed *= 10 ** (rng.uniform(-48, -8) / 20) / measure_loudness(mixed)
    peak = float(np.abs(mixed).max())
    return mixed if peak < 1 else mixed / peak * np.float32(0.99)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.base_sounds")
    parser.add_argument("data", type=Path)
    parser.add_argument("sounds", type=Path, nargs="*")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=9.0)
    given = parser.parse_args()
    data = given.data
    sources = {
        "esc10": decode(list_clips(data / "esc50", "esc10")),
        "sounds": decode([path for folder in given.sounds for path in search_folder(folder).files]),
        "commands": decode(list_clips(data / "commands", "train")),
        "english": decode(list_clips(data / "english", "train")),
        "speakers": decode(list_clips(data / "speakers", "speakers")),
        "background": decode(search_folder(data / "background").files[:110]),
        "espeak": speak(),
    }
    for name, waves in sources.items():
        print(f"{name:12} {len(waves):6} sources, {sum(map(len, waves)) / RATE_HZ / 60:6.1f} minutes", flush=True)
    given.output.mkdir(parents=True)
    for number in range(round(given.hours * 3600 * RATE_HZ / (SEGMENT * SEGMENTS_A_FILE))):
        rng = np.random.default_rng((0, number))
        audio = np.concatenate([make_segment(sources, rng) for _ in range(SEGMENTS_A_FILE)])
        sf.write(given.output / f"{number:05}.wav", audio, RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    main()
