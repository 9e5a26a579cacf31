"""Thirty days of listening in virtual time: memory, counters, events. `python -m benchmarks.soak [--days 30]`

Everything but the network is real: blocks, checks, resampling, ring, features, smoothing, events, records. The engine
is a stand-in that answers by loudness, so that every event is known beforehand. Each hour holds 60 bursts and a gap.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import heading
from flexiast.manifest import Variant
from flexiast_runtime.audio.capture import Capture
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import Block
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event, Status, Summary
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.engine import Engines

Float = NDArray[np.float32]

RATE_HZ = 44_100
HOUR_S, BURST_EVERY_S, BURST_S = 3_600, 60, 4
GAP_S = 2.5
"""Missing at the end of every hour"""
LIMIT_MB_A_DAY = 1.0


@dataclass(frozen=True)
class Loudness:
    """The first label while the middle of the window is loud."""

    variant: Variant
    classes: int

    def run(self, features: Float) -> Float:
        loud = features[:, features.shape[1] // 2].mean() > 0
        logits = np.full((1, self.classes), -10, np.float32)
        logits[0, 0 if loud else 1] = 10
        return logits


class Days:
    """A microphone at 44.1 kHz in a quiet room with a burst of noise every minute, as fast as it is read."""

    name, rate_hz = "thirty days", RATE_HZ

    def __init__(self, days: float) -> None:
        self._hours = round(24 * days)
        random = np.random.default_rng(0)
        self._quiet = random.normal(0, 1e-4, (RATE_HZ, 1)).astype(np.float32)
        self._loud = random.normal(0, 0.1, (RATE_HZ, 1)).astype(np.float32)

    def blocks(self) -> Iterator[Block]:
        for hour in range(self._hours):
            for second in range(HOUR_S):
                loud = 20 <= second % BURST_EVERY_S < 20 + BURST_S
                lost = round(GAP_S * RATE_HZ) if hour and not second else 0
                yield Block(self._loud if loud else self._quiet, lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=30.0)
    days = parser.parse_args().days
    manifest = Bundle.open(find_bundle("sounds")).manifest
    labels, patch = manifest.spec.labels, manifest.patches[0]
    settings = DetectionSettings.from_frontend(manifest.spec.frontend)
    rate_hz = manifest.spec.frontend.sample_rate_hz
    capture = Capture(Monitored(Days(days)), rate_hz, round(settings.step_s * rate_hz), live=False)
    listener = StreamClassifier(
        Engines(manifest, {patch: Loudness(manifest.variant(patch), len(labels))}),
        FixedSize(patch),
        settings,
        source="thirty days",
        conditions=lambda _: Conditions(settings.step_s),
        unix_s=capture.unix_s,
    )
    events, memory, next_s, begun = 0, [], 0.0, time.process_time()
    with Path(os.devnull).open("w", encoding="utf-8") as out:
        for record in listener.run(capture):
            out.write(json.dumps(record.document()))
            if isinstance(record, Event):
                events += record.label == labels[0]
            elif isinstance(record, Status) and record.time_s >= next_s:
                memory.append((record.time_s / 86_400, _resident_mb()))
                next_s += HOUR_S
            elif isinstance(record, Summary):
                summary = record
    report(days, events, np.array(memory), summary, time.process_time() - begun)


def report(days: float, events: int, memory: Float, summary: Summary, cpu_s: float) -> None:
    settled = memory[memory[:, 0] > days / 3]
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0])
    expected = round(24 * days) * HOUR_S // BURST_EVERY_S
    samples = round((summary.audio_s + summary.dropped_s) * 16_000)
    heading(f"{days:g} days of listening in virtual time")
    print(f"samples at the model's rate   {samples:,} ({samples / 2**31:.1f} × 2³¹)")
    print(f"events found / in the stream  {events:,} / {expected:,}")
    print(f"discontinuities               {summary.discontinuities:,}, {summary.dropped_s:,.1f} s marked as lost")
    print(f"memory, first hour and last   {memory[0, 1]:.1f} → {memory[-1, 1]:.1f} MB, slope {slope:+.3f} MB a day")
    print(f"CPU without an engine         {100 * cpu_s / summary.audio_s:.3f} % of a core")
    if events != expected or slope > LIMIT_MB_A_DAY:
        sys.exit(f"events are missing, or memory grows by more than {LIMIT_MB_A_DAY:g} MB a day")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
