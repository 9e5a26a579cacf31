"""Faults that `flexiast listen` must survive, of microphone, disk, broker, pipe and process; one run each.

python -m benchmarks.faults --data ../shared/data [--case unplugged]

A real process hears spoken words, known beforehand, from a virtual microphone (../shared/rigs) and writes to four
sinks. What the run without a fault reports must be reported in every other one, but where audio is marked as lost.
Two and a half minutes; the full disk needs root, for a small file system of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM
from time import sleep
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from benchmarks.ears import ENDING_S, Ears, Heard
from benchmarks.measure import heading
from benchmarks.spoken import SLOT_S, find_start_s, spoken
from benchmarks.streams import Stream
from flexiast.errors import ExitCode
from flexiast.evaluation.events import Sound, count_by_onset
from flexiast.spec import parse_patches
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.inference.ort import load_engines

RATE_HZ = 16_000
WINDOW_S = 1.0
BESIDE_S = 0.75
"""Half a window and a step: nearer than this to a gap, some windows of an event are missing or padded."""
WORDS = 16
TURN_S = WORDS * SLOT_S
"""Until the words begin again"""
LOST = int(ExitCode.LOST)
AT_ONCE = 3
"""Runs side by side: each takes a tenth of a core"""
UNTIL_FOUND_S = 6.0
"""Long enough to hear words after a fault"""


@dataclass(frozen=True)
class Case:
    """A fault: what happens to a run, and how it ends."""

    name: str
    script: Callable[[Ears], Heard]
    codes: tuple[int, ...] = (0,)
    wav: str = "mono"
    small_disk: bool = False


class Gap(NamedTuple):
    """Audio marked as lost, in seconds of the stream."""

    start_s: float
    end_s: float
    reopened: bool
    """The device was opened anew, which begins the words anew"""


# ----- the faults


def unbroken(ears: Ears) -> Heard:
    sleep(TURN_S + 2)
    return ears.end(SIGTERM)


def unplugged(ears: Ears) -> Heard:
    for _ in range(10):
        sleep(4.8)
        ears.ctl("unplug")
        sleep(1.2)
        ears.ctl("ok")
    sleep(UNTIL_FOUND_S)
    return ears.end(SIGTERM)


def frozen(ears: Ears) -> Heard:
    for seconds in (2.0, 12.0):  # shorter and longer than a device may take to open
        sleep(UNTIL_FOUND_S)
        ears.ctl("freeze")
        sleep(seconds)
        ears.ctl("ok")
    sleep(2 * UNTIL_FOUND_S)
    return ears.end(SIGTERM)


def full_disk(ears: Ears) -> Heard:
    sleep(UNTIL_FOUND_S)
    ears.fill_disk()
    sleep(10)
    ears.free_disk()
    sleep(UNTIL_FOUND_S)
    return ears.end(SIGTERM)


def no_broker(ears: Ears) -> Heard:
    sleep(UNTIL_FOUND_S)
    ears.broker.stop()
    sleep(8)
    ears.broker.start()
    sleep(UNTIL_FOUND_S)
    return ears.end(SIGTERM)


def stalled_reader(ears: Ears) -> Heard:
    sleep(UNTIL_FOUND_S)
    ears.fill_stdout()
    sleep(5)
    ears.read_stdout()
    sleep(UNTIL_FOUND_S)
    return ears.end(SIGTERM)


def closed_pipe(ears: Ears) -> Heard:
    sleep(UNTIL_FOUND_S)
    return ears.close_stdout()


def suspended(ears: Ears) -> Heard:
    sleep(UNTIL_FOUND_S)
    ears.pause(3)
    sleep(UNTIL_FOUND_S)
    return ears.end(SIGTERM)


def ended(number: Any, *faults: Callable[[Ears], object]) -> Callable[[Ears], Heard]:
    """A signal two seconds after all these faults."""

    def script(ears: Ears) -> Heard:
        sleep(UNTIL_FOUND_S)
        for fault in faults:
            fault(ears)
        sleep(2)
        return ears.end(number)

    return script


def unplug(ears: Ears) -> None:
    ears.ctl("unplug")


def freeze(ears: Ears) -> None:
    ears.ctl("freeze")


def stop_broker(ears: Ears) -> None:
    ears.broker.stop()


def break_disk_and_broker(ears: Ears) -> None:
    ears.fill_disk()
    ears.broker.stop()


CASES = (
    Case("unplugged ten times in a minute", unplugged),
    Case("44.1 kHz, stereo", unbroken, wav="stereo"),
    Case("frozen for 2 s, for 12 s", frozen),
    Case("disk full for 10 s", full_disk, small_disk=True),
    Case("broker away for 8 s", no_broker),
    Case("stdout not read for 5 s", stalled_reader),
    Case("stdout closed", closed_pipe),
    Case("stopped for 3 s, as by suspend", suspended),
    Case("Ctrl-C", ended(SIGINT), (130,)),
    Case("SIGTERM while unplugged", ended(SIGTERM, unplug)),
    Case("Ctrl-C while frozen", ended(SIGINT, freeze), (130,)),
    Case("SIGTERM while disk full, broker away", ended(SIGTERM, break_disk_and_broker), (LOST,), small_disk=True),
    Case("SIGTERM while stdout is not read", ended(SIGTERM, Ears.fill_stdout)),
    Case("Ctrl-C while stdout is not read", ended(SIGINT, Ears.fill_stdout), (130,)),
)


# ----- what was heard of what there was


def gaps(records: Sequence[dict[str, Any]]) -> Iterator[Gap]:
    """From the first status after each, which is told of the first whole window."""
    lost_s, reopened = 0.0, False
    for record in records:
        if record["type"] == "source":
            reopened |= record["state"] == "found"
        elif record["type"] == "status" and record["dropped_s"] > lost_s:
            end_s = record["time_s"] - WINDOW_S
            yield Gap(end_s - (record["dropped_s"] - lost_s), end_s, reopened)
            lost_s, reopened = record["dropped_s"], False


def expected(reference: Sequence[Sound], lost: Sequence[Gap], end_s: float, beside_s: float) -> list[Sound]:
    """What sounded at least ``beside_s`` from every gap, and from the end."""
    found, begin_s, anchor_s = [], 0.0, 0.0
    for gap in (*lost, Gap(end_s, end_s, reopened=False)):
        first_s = begin_s + beside_s if begin_s else 0.0
        for turn in range(int((gap.start_s - anchor_s) / TURN_S) + 1):
            shift_s = anchor_s + turn * TURN_S
            moved = [Sound(label, start_s + shift_s, end_s + shift_s) for label, start_s, end_s in reference]
            found += [one for one in moved if one.start_s >= first_s and one.end_s <= gap.start_s - beside_s]
        begin_s, anchor_s = gap.end_s, gap.end_s if gap.reopened else anchor_s
    return found


def end_s(records: Sequence[dict[str, Any]]) -> float:
    """Of the stream, as far as it was told."""
    if records[-1]["type"] == "summary":
        return records[-1]["audio_s"] + records[-1]["dropped_s"]
    return max(record["time_s"] for record in records if record["type"] == "status")


def events(heard: Heard) -> dict[str, Sound]:
    """By id, whoever has them."""
    full = [record for record in heard.records if record["type"] == "event"]
    full += [event for sink in ("jsonl", "sqlite", "mqtt") for event in heard.sinks[sink]]
    return {event["id"]: Sound(event["label"], event["start_s"], event["end_s"]) for event in full}


class Row(NamedTuple):
    """One line of the table, and whether it is as it should be."""

    cells: tuple[str, ...]
    good: bool


HEAD = (
    "fault",
    "said",
    "lost, s",
    "events",
    "beside gaps",
    "others",
    "jsonl / sqlite / clips / mqtt",
    "MB",
    "exit",
    "s",
)


def row(case: Case, heard: Heard, reference: Sequence[Sound]) -> Row:
    known, lost, end = events(heard), list(gaps(heard.records)), end_s(heard.records)
    outside = expected(reference, lost, end, BESIDE_S)
    beside = [sound for sound in expected(reference, lost, end, 0.0) if sound not in outside]
    found = list(known.values())
    hits, near = count_by_onset(found, outside).found, count_by_onset(found, beside).found
    missing = [str(len(known.keys() - {event["id"] for event in events})) for events in heard.sinks.values()]
    cells = (
        case.name,
        said(heard),
        f"{sum(gap.end_s - gap.start_s for gap in lost):.1f}",
        f"{hits} / {len(outside)}",
        f"{near} / {len(beside)}",
        str(len(found) - hits - near),
        " / ".join(missing),
        f"{heard.memory_mb:.0f}",
        "none" if heard.exit_code is None else str(heard.exit_code),
        f"{heard.ended_s:.1f}",
    )
    return Row(cells, hits == len(outside) and heard.exit_code in case.codes)


def said(heard: Heard) -> str:
    """Notices, which are records too, and lines on stderr."""
    notices = Counter(record["state"] for record in heard.records if record["type"] == "source")
    return "; ".join([f"{state} × {number}" for state, number in notices.items()] + heard.stderr) or "nothing"


# ----- the runs


def write_wavs(stream: Stream, folder: Path) -> dict[str, Path]:
    found = {}
    for name, rate_hz, channels in (("mono", 48_000, 1), ("stereo", 44_100, 2)):
        samples = soxr.resample(stream.samples, RATE_HZ, rate_hz)[:, None].repeat(channels, axis=1)
        found[name] = folder / f"{name}.wav"
        soundfile.write(found[name], np.clip(samples, -1, 1), rate_hz, subtype="PCM_16")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--data", type=Path, required=True, help="folder of commands/")
    parser.add_argument("--case", help="only those whose name holds this")
    given = parser.parse_args()
    engines = load_engines(Bundle.open(find_bundle("commands-ar")), parse_patches("24"))
    stream = spoken(given.data, engines, WORDS)
    heading(f"Faults; {WORDS} words in {TURN_S:g} s, again and again; `commands` at 24x24")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wavs = write_wavs(stream, folder)

        def run(case: Case) -> Heard | None:
            if case.small_disk and os.geteuid() != 0:
                return None
            ears = Ears(wavs[case.wav], folder / case.name.replace(",", "").replace(" ", "-"), case.small_disk)
            return case.script(ears)

        plain = Case("none", unbroken)
        first = run(plain)
        assert first is not None
        reference = [sound for sound in events(first).values() if sound.start_s < TURN_S]
        start_s = find_start_s(engines.spec.frontend, 48_000)  # of the microphone that plays `mono`
        words = [Sound(label, from_s - start_s, to_s - start_s) for label, from_s, to_s in stream.truth]
        rows = [row(plain, first, words)]
        print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
        print("| " + " | ".join(rows[0].cells) + " |", flush=True)
        chosen = [case for case in CASES if not given.case or given.case in case.name]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for case, heard in zip(chosen, pool.map(run, chosen), strict=True):
                if heard is None:
                    print(f"| {case.name} | skipped: a small file system needs root |" + " |" * (len(HEAD) - 2))
                    continue
                rows.append(row(case, heard, reference))
                print("| " + " | ".join(rows[-1].cells) + " |", flush=True)
    if not all(each.good for each in rows):
        sys.exit(f"an event is missing, or a run did not end as it should within {ENDING_S:g} s")


if __name__ == "__main__":
    main()
