"""Field failures, reproduced: recordings with a wrong length, and MP3s cut and joined at random.

python -m benchmarks.field ../shared/field [--mp3s 200] [--seed 0]

Each file is decoded twice, which must give the same samples, and is heard for as long as it sounds or refused in words.
Files that the folder lacks are passed over; the others are made here. MP3s are compared with ffmpeg's length.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from flexiast.data.audio import BLOCK_FRAMES, open_audio
from flexiast.errors import DataError

Float = NDArray[np.float32]

TOLERANCE_S = 0.05
"""The issue's: two frames of an MP3 at 48 kHz, less than one at 8 kHz."""

DOUBTS = ("may be wrong", "may skip a frame", "are in doubt")
"""What is said where players differ in how many frames they give up"""
DOUBT_S = 0.5


class Outcome(NamedTuple):
    """What came of a file."""

    seconds: float
    """0 where it was refused"""
    words: tuple[str, ...]
    """Notices, and why it was refused"""
    refused: bool


class Case(NamedTuple):
    """A file and what must come of it."""

    name: str
    make: Callable[[Path, Path], Path | None]
    """(folder of the field's files, folder to write into) → the file, None where it is absent"""
    seconds: float | None
    """None where only the header is read"""
    words: str = ""
    """Part of what must be said"""
    refused: bool = False
    """Unless what is left is wanted"""


def hear(path: Path, *, keep_cut: bool = False, whole: bool = True) -> Outcome:
    """Decode a file twice, or only its header; raises AssertionError where the samples differ."""
    (digest, heard), (again, _) = (_decode(path, keep_cut=keep_cut, whole=whole) for _ in range(2))
    assert digest == again, f"{path} is decoded to other samples each time"
    return heard


def _decode(path: Path, *, keep_cut: bool, whole: bool) -> tuple[str, Outcome]:
    words: list[str] = []
    digest, frames = hashlib.sha256(), 0
    try:
        with open_audio(path, keep_cut=keep_cut, log=words.append) as audio:
            for block in audio.blocks(BLOCK_FRAMES) if whole else ():
                digest.update(block.tobytes())
                frames += len(block)
            return digest.hexdigest(), Outcome(frames / audio.rate_hz, tuple(words), refused=False)
    except DataError as error:
        return digest.hexdigest(), Outcome(0.0, (*words, str(error)), refused=True)


# ----- the field's files, and others of their classes


def find_given(name: str) -> Callable[[Path, Path], Path | None]:
    return lambda field, _: path if (path := field / "files" / name).is_file() else None


def make_noise(seconds: float, rate_hz: int = 16_000, channels: int = 1, seed: int = 0) -> Float:
    samples = np.random.default_rng(seed).normal(scale=0.1, size=(round(seconds * rate_hz), channels))
    return samples.astype(np.float32)


def make_cut(name: str, **options: str) -> Callable[[Path, Path], Path | None]:
    """A file of 20 s without the last 40 % of its bytes."""

    def make(_: Path, folder: Path) -> Path:
        path = folder / name
        soundfile.write(path, make_noise(20), 16_000, **options)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 6 // 10])
        return path

    return make


def make_joined(name: str) -> Callable[[Path, Path], Path | None]:
    """Two files of 2 and 3 s, one behind the other."""

    def make(_: Path, folder: Path) -> Path:
        content = b""
        for seconds in (2, 3):
            soundfile.write(folder / name, make_noise(seconds), 16_000)
            content += (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        return folder / name

    return make


def make_understated(_: Path, folder: Path) -> Path:
    """A WAV whose sizes say 1 s where 20 s follow."""
    path = folder / "understated.wav"
    soundfile.write(path, make_noise(20), 16_000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 4, 36 + 32_000)
    struct.pack_into("<I", content, 40, 32_000)
    path.write_bytes(content)
    return path


def make_wrapped(_: Path, folder: Path) -> Path:
    """A WAV of 4 GiB and 1 s, whose sizes of 32 bits began anew, and a title behind its samples; no room on disk."""
    path, rate_hz, size = folder / "wrapped.wav", 768_000, 2**32 + 2 * 2 * 768_000  # two channels of 16 bits
    soundfile.write(path, np.full((4, 2), 0.25), rate_hz, subtype="PCM_16")
    content = bytearray(path.read_bytes()[:44])
    struct.pack_into("<I", content, 4, (36 + size + 12) % 2**32)
    struct.pack_into("<I", content, 40, size % 2**32)
    with path.open("wb") as file:
        file.write(content)
        file.seek(44 + size - 2)
        file.write(b"\1\1LIST\4\0\0\0INFO")
    return path


def make_bw64(_: Path, folder: Path) -> Path:
    path = folder / "bw64.wav"
    soundfile.write(path, make_noise(2), 16_000, format="RF64")
    path.write_bytes(b"BW64" + path.read_bytes()[4:])
    return path


def make_stereo(name: str, left: float, right: float, subtype: str = "PCM_16") -> Callable[[Path, Path], Path | None]:
    """One sound in both channels, at these levels."""

    def make(_: Path, folder: Path) -> Path:
        soundfile.write(folder / name, make_noise(2) * np.array([left, right], np.float32), 16_000, subtype=subtype)
        return folder / name

    return make


def make_flac_of_a_pipe(_: Path, folder: Path) -> Path:
    """Its header has no total of samples, as ffmpeg and sox leave it."""
    path = folder / "pipe.flac"
    soundfile.write(path, make_noise(2), 16_000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


CASES = (
    Case("cut.mp3", find_given("cut.mp3"), 11.95, "announces 20"),
    Case("vbr_no_xing.mp3", find_given("vbr_no_xing.mp3"), 20.088),
    Case("chained_second_link_over_64k.ogg", find_given("chained_second_link_over_64k.ogg"), 40.0),
    Case("gsm.wav", find_given("gsm.wav"), 1.04),
    Case("unknown_length.flac", find_given("unknown_length.flac"), 1.0),
    Case("ogg_cut60.ogg", find_given("ogg_cut60.ogg"), 11.176, "last page", refused=True),
    Case("two Ogg files joined", make_joined("joined.ogg"), 5.0),
    Case("two FLAC files joined", make_joined("joined.flac"), 5.0),
    Case("two WAV files joined", make_joined("joined.wav"), 5.0),
    Case("two AIFF files joined", make_joined("joined.aiff"), 5.0),
    Case("FLAC to a pipe", make_flac_of_a_pipe, 2.0),
    Case("WAV, cut at 60 %", make_cut("cut.wav"), 12.0, "announces 20.00 s", refused=True),
    Case("RIFX, cut at 60 %", make_cut("cut-rifx.wav", endian="BIG"), 12.0, "announces 20.00 s", refused=True),
    Case("RF64, cut at 60 %", make_cut("cut-rf64.wav", format="RF64"), 12.0, "announces 20.00 s", refused=True),
    Case("W64, cut at 60 %", make_cut("cut.w64"), 12.0, "announces 20.00 s", refused=True),
    Case("AIFF, cut at 60 %", make_cut("cut.aiff"), 12.0, "announces 20.00 s", refused=True),
    Case("AU, cut at 60 %", make_cut("cut.au"), 12.0, "announces 20.00 s", refused=True),
    Case("CAF, cut at 60 %", make_cut("cut.caf"), 12.0, "announces 20.00 s", refused=True),
    Case("FLAC, cut at 60 %", make_cut("cut.flac"), 12.0, "broke off", refused=True),
    Case("Ogg, cut at 60 %", make_cut("cut.ogg"), 11.0, "last page", refused=True),
    Case("WAV that says 1 s before 20 s", make_understated, 20.0, "announces 1.00 s, 20.00 s are there"),
    Case("WAV of 4 GiB with wrapped sizes", make_wrapped, None, "announces 1.00 s, 1399.10 s are there"),
    Case("BW64", make_bw64, 2.0),
    Case("channels of opposite phase", make_stereo("opposite.wav", 1, -1), 2.0, "cancel each other"),
    Case("sound in the right channel", make_stereo("right.wav", 0, 1), 2.0, "in channel 2 alone"),
    Case(
        "16-bit integers as floats",
        make_stereo("integers.wav", 32_767, 32_767, "FLOAT"),
        2.0,
        "integers stored as floats",
    ),
)


def check_case(case: Case, field: Path, folder: Path) -> tuple[Outcome, list[str]] | None:
    """What came of a case and what is wrong with that; None where its file is absent."""
    path = case.make(field, folder)
    if path is None:
        return None
    found, faults = hear(path, whole=case.seconds is not None), []
    if found.refused != case.refused:
        faults.append("refused" if found.refused else "not refused")
    heard = hear(path, keep_cut=True) if found.refused else found
    # What is cut inside a block of a codec is lost with the block
    tolerance_s = 1.0 if case.refused else TOLERANCE_S
    if case.seconds is not None and abs(heard.seconds - case.seconds) > tolerance_s:
        faults.append(f"{heard.seconds:.3f} s heard instead of {case.seconds:.3f}")
    if not any(case.words in text for text in (*found.words, *heard.words, "")):
        faults.append(f"nobody said {case.words!r}")
    return heard._replace(words=(*found.words, *heard.words)), faults


# ----- MP3s, cut and joined at random


@dataclass(frozen=True)
class Encoder:
    """A program that makes MP3s, with its options by the way it writes."""

    program: str
    options: tuple[tuple[str, ...], ...]

    @property
    def there(self) -> bool:
        return not self.program or shutil.which(self.program) is not None

    def encode(self, wav: Path, options: Sequence[str], path: Path) -> None:
        if self.program == "lame":
            rate_khz = str(soundfile.info(wav).samplerate / 1000)  # which it would lower at low bit rates
            command = ["lame", "--quiet", "--resample", rate_khz, *options, str(wav), str(path)]
        elif self.program == "ffmpeg":
            command = ["ffmpeg", "-v", "error", "-y", "-i", str(wav), "-c:a", "libmp3lame", *options, str(path)]
        else:
            samples, rate_hz = soundfile.read(wav)
            soundfile.write(path, samples, rate_hz, format="MP3", bitrate_mode=options[0], compression_level=0.6)
            return
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


ENCODERS = (
    Encoder("lame", (("-V4",), ("-b", "64"), ("-t", "-V5"), ("-t", "-b", "32"), ("--tt", "title", "--abr", "56"))),
    Encoder("ffmpeg", (("-q:a", "5"), ("-write_xing", "0", "-q:a", "3"), ("-b:a", "48k", "-metadata", "title=a"))),
    Encoder("", (("CONSTANT",), ("VARIABLE",))),
)
RATES = ((8_000, 1), (16_000, 1), (22_050, 2), (44_100, 1), (44_100, 2), (48_000, 1))


def encode_all(folder: Path) -> list[list[bytes]]:
    """Of each rate and number of channels the MP3s that the encoders at hand make."""
    groups = []
    for number, (rate_hz, channels) in enumerate(RATES):
        wav, group = folder / "clip.wav", []
        for encoder in filter(lambda encoder: encoder.there, ENCODERS):
            for options in encoder.options:
                # Loud and quiet by turns, so that a variable rate varies
                levels = np.resize([3, 0.01, 1, 0], (8, 1)).repeat(-(-rate_hz // 8), 0)[:rate_hz]
                soundfile.write(wav, np.clip(make_noise(1.0, rate_hz, channels, number) * levels, -1, 1), rate_hz)
                encoder.encode(wav, options, folder / "clip.mp3")
                group.append((folder / "clip.mp3").read_bytes())
        groups.append(group)
    return groups


def mix_mp3s(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """So many MP3s, of which most are cut, joined, or have something else between their frames."""
    rng = np.random.default_rng(seed)
    groups = encode_all(folder)
    for number in range(count):
        group = groups[rng.integers(len(groups))]
        content = b""
        for part in range(rng.integers(1, 4)):
            clip = group[rng.integers(len(group))]
            begin = int(rng.integers(len(clip) // 3)) if part and rng.random() < 0.5 else 0
            end = int(rng.integers(len(clip) // 2, len(clip))) if rng.random() < 0.5 else len(clip)
            between = (b"", b"", b"TAG" + bytes(125), b"ID3\3\0\0\0\0\0\x64" + bytes(100), rng.bytes(50), bytes(300))
            content += clip[begin:end] + between[rng.integers(len(between))]
        path = folder / f"{number:03}.mp3"
        path.write_bytes(content)
        yield path


def ffmpeg_s(path: Path) -> float:
    """Seconds that ffmpeg decodes of a file."""
    rate_hz = 48_000
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-ac", "1", "-ar", str(rate_hz), "-f", "s16le", "-"]
    return len(subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).stdout) / 2 / rate_hz


def judge_mp3(found: Outcome, expected_s: float) -> str:
    """Right within the tolerance; doubted or refused where that is said; else wrong.

    Where frames were lost, players differ in how many of the following ones they give up: a doubt of half a second.
    """
    if found.refused:
        return "refused"
    difference_s = abs(found.seconds - expected_s)
    if difference_s <= TOLERANCE_S:
        return "right"
    doubted = any(doubt in text for text in found.words for doubt in DOUBTS) and difference_s <= DOUBT_S
    return "doubted" if doubted else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("field", type=Path)
    parser.add_argument("--mp3s", type=int, default=0, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in CASES:
            answer = check_case(case, asked.field, folder)
            if answer is None:
                print(f"{case.name:<34} absent")
                continue
            found, faults = answer
            wrong += bool(faults)
            print(f"{case.name:<34} {found.seconds:9.3f} s  {'; '.join(faults) or 'right'}")
            for words in dict.fromkeys(found.words):
                print(f"    {words.replace(name, '').replace(str(asked.field), '')}")
        verdicts: Counter[str] = Counter()
        for path in mix_mp3s(folder, asked.mp3s, asked.seed):
            found, expected_s = hear(path), ffmpeg_s(path)
            verdict = judge_mp3(found, expected_s)
            verdicts[verdict] += 1
            if verdict != "right":
                print(f"{path.name}: {verdict}, {found.seconds:.3f} s, ffmpeg {expected_s:.3f} s")
                print(*(f"    {words.replace(name, '')}" for words in found.words), sep="\n")
        wrong += verdicts["wrong"]
    print(*(f"{count} MP3s {verdict}" for verdict, count in verdicts.items()), f"{wrong} wrong", sep="; ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
