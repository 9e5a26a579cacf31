"""What HTML reports have in common: one file with everything in it, and clips that one sees and hears."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.files import write_atomically
from flexiast.frontend import Frontend
from flexiast_cli.spectrogram import MAGMA, shades

LONGEST_S = 6.0
"""Of a clip that is played."""


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write parts of HTML as a page, whole or not at all; nothing is loaded from elsewhere."""
    css = files("flexiast_cli").joinpath("report.css").read_text(encoding="utf-8")
    page = (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{escape(title)}</title><style>{css}</style><body>{''.join(parts)}</body></html>\n"
    )
    write_atomically(path, page.encode("utf-8", "replace"))


def render_figure(waveform: Float, frontend: Frontend, caption: str) -> str:
    """A clip's spectrogram, player and caption; of a long recording, its loudest part."""
    rate_hz = frontend.spec.sample_rate_hz
    if (start := find_loudest(waveform, round(LONGEST_S * rate_hz), rate_hz // 10)) is not None:
        caption += f"<br><span class=dim>{LONGEST_S:g} s from {start / rate_hz:.1f} s on</span>"
        waveform = waveform[start : start + round(LONGEST_S * rate_hz)]
    missing = frontend.spec.taper_samples - len(waveform)
    log_mel = frontend.log_mel(np.pad(waveform, (0, max(0, missing))))
    picture = _encode_url("image/png", _to_png(shades(frontend.normalise(log_mel)).T[::-1]))
    sound = io.BytesIO()
    soundfile.write(sound, waveform, rate_hz, format="FLAC", subtype="PCM_16")
    player = f'<audio controls preload=none src="{_encode_url("audio/flac", sound.getvalue())}"></audio>'
    return f'<figure><img src="{picture}" alt="spectrogram">{player}<figcaption>{caption}</figcaption></figure>'


def find_loudest(waveform: Float, length: int, step: int) -> int | None:
    """Where the loudest part of so many samples begins, to ``step`` samples; None for what is no longer than that."""
    if len(waveform) <= length:
        return None
    energy = np.concatenate(([0.0], np.cumsum(np.square(waveform, dtype=np.float64))))
    starts = np.arange(0, len(waveform) - length + 1, step)
    return int(starts[(energy[starts + length] - energy[starts]).argmax()])


def _encode_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _to_png(picture: NDArray[np.uint8]) -> bytes:
    """Shades [height, width] in magma as an indexed PNG."""
    height, width = picture.shape
    steps = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in MAGMA], np.float64)
    places = np.linspace(0, len(steps) - 1, 256)
    palette = np.stack([np.interp(places, np.arange(len(steps)), channel) for channel in steps.T], axis=1)
    rows = np.concatenate((np.zeros((height, 1), np.uint8), picture), axis=1)  # each row begins with its filter: none

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", header),
            chunk(b"PLTE", palette.round().astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        )
    )
