"""An evening with a listener: review in a real browser, learn, and swap while the microphone goes on.

python -m benchmarks.evening [--keep FOLDER] [--rig ../shared/rigs/virtual_mic.sh]

A day of made-up sounds was heard: sirens, rain and bells that `sounds` knows, doors and motors that it does not. In the
evening a `flexiast listen` hears a virtual microphone, and a Chromium shows its page. There 30 clips are reviewed by
keyboard, in two tabs; the database must hold what was pressed. The verdicts are exported and learnt, and the page's
dialog *Model* hands the new bundle to the listener. Everything that the microphone gave, to the sample, must be in the
sound that `--keep-audio` stored.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.measure import heading
from flexiast_cli.commands.demo.soundscape import RATE_HZ, SOUNDS
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.control import find_processes
from flexiast_runtime.history.events import read_events
from flexiast_runtime.history.stored_audio import audio_folder
from flexiast_runtime.history.verdicts import Verdict, find_event, read_verdicts
from tests.cli.chromium import Tab, open_tab

RIG = Path(__file__).parents[2] / "shared" / "rigs" / "virtual_mic.sh"
VERDICTS = 30
SOUND_S, PAUSE_S = 5.0, 3.0
PATIENCE_S = 600.0
FLEXIAST = (sys.executable, "-m", "flexiast_cli.main")
WATCH = """
window.asked = [];
const fetchAsBefore = window.fetch;
window.fetch = (...request) => {
  window.asked.push(new URL(request[0].url ?? request[0], location.href).pathname);
  return fetchAsBefore(...request);
};
"""
"""Writes down what a page asks for: the last picture is that of the event which it shows"""
LAST_PICTURE = "window.asked.filter(one => one.includes('/pictures/')).at(-1)"
SINKS = ("--to", "sqlite:history.db", "--to", "clips:clips")
BROWSER = ("--autoplay-policy=no-user-gesture-required", "--mute-audio")


class Sound(NamedTuple):
    """A sound of a day."""

    start: int
    end: int
    label: str | None
    """None for what the model has no label for"""


def creak(seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A door: a pitch that climbs and stutters."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    hz = 400 + 900 * (times % 1.7) + 60 * np.sin(2 * np.pi * 11 * times)
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    harmonics = np.stack([np.sin(number * phase) / number for number in (1, 2, 3, 4)])
    found: NDArray[np.float64] = harmonics.sum(axis=0) * (np.sin(2 * np.pi * 9 * times) > -0.4)
    return found


def chatter(seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A coffee machine: noise in bursts, over a hum."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return rng.standard_normal(len(times)) * (np.sin(2 * np.pi * 14 * times) > 0) + np.sin(2 * np.pi * 100 * times)


def build_day(sounds: int, seed: int) -> tuple[NDArray[np.float32], list[Sound]]:
    """Sounds at random levels in a quiet room, half of them of no label."""
    rng = np.random.default_rng(seed)
    day: list[NDArray[np.float64]] = []
    truth, place = [], 0
    for number in range(sounds):
        label = None if number % 2 else str(rng.choice(list(SOUNDS)))
        make = (creak, chatter)[number // 2 % 2] if label is None else SOUNDS[label]
        wave = make(SOUND_S, rng)
        fade = np.minimum(1, np.minimum(np.arange(len(wave)), np.arange(len(wave))[::-1]) / (0.05 * RATE_HZ))
        day += [wave / np.abs(wave).max() * fade * rng.uniform(0.1, 0.4), np.zeros(round(PAUSE_S * RATE_HZ))]
        truth.append(Sound(place, place + len(wave), label))
        place += len(wave) + len(day[-1])
    whole = np.concatenate(day)
    return (whole + 0.0005 * rng.standard_normal(len(whole))).astype(np.float32), truth


@dataclass(frozen=True)
class Evening:
    """Where everything lies."""

    folder: Path
    rig: Path

    @property
    def database(self) -> Path:
        return self.folder / "history.db"

    @property
    def environment(self) -> dict[str, str]:
        own = {f"XDG_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        return os.environ | own | {"XDG_RUNTIME_DIR": str(self.folder), "VMIC_QUIET": "1", "COLUMNS": "160"}

    def run(self, *words: object) -> str:
        """What a command printed; raises where it fails."""
        done = subprocess.run(
            [*FLEXIAST, *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )
        if done.returncode:
            raise RuntimeError(f"flexiast {words[0]} ended with {done.returncode}: {done.stderr}")
        return done.stdout + done.stderr


def wait_for(found: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (value := found()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)
    return value


@contextmanager
def listen(evening: Evening) -> Iterator[tuple[str, Path]]:
    """A listener at the virtual microphone: the address of its page, and its records."""
    records, log = evening.folder / "records.jsonl", evening.folder / "listen.log"
    words = ["listen", "old.bundle", "--device", "usbmic", *SINKS, "--keep-audio", "1h", "--web", "0", "--json"]
    with records.open("w") as out, log.open("w") as err:
        process = subprocess.Popen(
            [str(evening.rig), "-m", "usbmic=mic.wav", "--", *FLEXIAST, *words],
            stdout=out,
            stderr=err,
            cwd=evening.folder,
            env=evening.environment,
        )
        try:
            url = wait_for(lambda: re.search(r"the page is at (http\S+)", log.read_text()), "the page's address")[1]
            os.environ["XDG_RUNTIME_DIR"] = str(evening.folder)
            number = next(iter(wait_for(find_processes, "the listener's socket")))
            yield url, records
            os.kill(number, signal.SIGINT)
            process.wait(PATIENCE_S)
        finally:
            process.kill()


def judge(event: dict[str, Any], truth: Sequence[Sound]) -> tuple[str, str | None]:
    """The key to press, and the label to type."""
    start, end = event["start_sample"], event["end_sample"]
    during = [one.label for one in truth if one.start < end and start < one.end]
    if event["label"] in during:
        return "1", None
    labels = [label for label in during if label is not None]
    return ("3", labels[0]) if labels else ("2", None)


def read_id(tab: Tab) -> str:
    """Of the event that a tab shows, once its picture is there."""
    tab.until("document.getElementById('card').ariaBusy === 'false'")
    return str(tab.value(LAST_PICTURE)).split("/pictures/")[1]


def open_review(tab: Tab, url: str) -> None:
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    tab.call("Page.navigate", url=f"{url}review.html")
    tab.until(f"document.getElementById('place')?.textContent.startsWith('1 of') && {LAST_PICTURE}")


def review(tab: Tab, evening: Evening, truth: Sequence[Sound], count: int) -> dict[str, tuple[str, str | None]]:
    """Press the true key for so many events: what was meant for each."""
    meant: dict[str, tuple[str, str | None]] = {}
    while len(meant) < count:
        event_id = read_id(tab)
        document = find_event(evening.database, event_id).event
        if document["started_at"] is not None:  # of this evening, of which no truth is written down
            tab.press("ArrowRight")
        else:
            key, label = judge(document, truth)
            tab.press(key, key)
            if label is not None:
                tab.until("document.getElementById('ask').open")
                tab.call("Input.insertText", text=label)
                tab.press("Enter", "\r")
            meant[event_id] = {"1": "right", "2": "wrong", "3": "other"}[key], label
        tab.until(f"!{LAST_PICTURE}.includes('{event_id}')")
    return meant


def collide(tab: Tab, other: Tab, url: str, evening: Evening) -> str:
    """Two tabs judge one event: the later one is told."""
    open_review(tab, url)
    open_review(other, url)
    event_id = read_id(tab)
    if read_id(other) != event_id:
        raise RuntimeError("the tabs show two events")
    tab.press("2", "2")
    wait_for(lambda: event_id in read_verdicts(evening.database), "the first verdict")
    other.press("1", "1")
    message = "document.getElementById('message').textContent"
    other.until(f"{message}.includes('meanwhile has the verdict')")
    if read_verdicts(evening.database)[event_id].verdict is not Verdict.WRONG:
        raise RuntimeError("a verdict was overwritten by a tab that had not seen it")
    said = str(other.value(message))
    tab.press("ArrowLeft")
    tab.until("document.getElementById('verdict').textContent !== ''")
    tab.press("u", "u")
    wait_for(lambda: event_id not in read_verdicts(evening.database), "the verdict is taken back")
    return said


def take_picture(tab: Tab, path: Path, width: int, height: int) -> None:
    """As it is in the docs: dark, of this size."""
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    time.sleep(1.0)  # a picture of two frames at the least
    path.write_bytes(base64.b64decode(tab.call("Page.captureScreenshot", format="png")["data"]))


def swap(tab: Tab, url: str, name: str) -> str:
    """Choose a bundle in the page's dialog: what it says then."""
    tab.call("Page.navigate", url=url)
    tab.until("document.getElementById('model')?.hidden === false")
    tab.value("document.getElementById('model').click()")
    tab.until("document.getElementById('models').open")
    options = "[...document.getElementById('choice').options]"
    tab.until(f"{options}.some(one => one.text === '{name}')")
    place = tab.value(f"{options}.findIndex(one => one.text === '{name}')")
    tab.value(f"document.getElementById('choice').selectedIndex = {place}; document.getElementById('swap').click()")
    said = "document.getElementById('swapped').textContent"
    tab.until(f"{said}.includes('runs now')", PATIENCE_S)
    return str(tab.value(said))


def compare_audio(evening: Evening) -> tuple[int, int]:
    """Samples that were stored, and how many of them are not the microphone's, one after the other."""
    stored = np.concatenate(
        [soundfile.read(path, dtype="int16")[0] for path in sorted(audio_folder(evening.database).glob("*.flac"))]
    )
    given = soundfile.read(evening.folder / "mic.wav", dtype="int16")[0]
    starts = np.flatnonzero(given == stored[0])
    first = next(
        (
            start
            for start in starts
            if np.array_equal(np.take(given, range(start, start + 400), mode="wrap"), stored[:400])
        ),
        0,
    )
    return len(stored), int((np.take(given, np.arange(first, first + len(stored)), mode="wrap") != stored).sum())


def spend(evening: Evening) -> None:
    samples, truth = build_day(60, 0)
    soundfile.write(evening.folder / "day.wav", samples, RATE_HZ)
    soundfile.write(evening.folder / "mic.wav", build_day(16, 1)[0], RATE_HZ)
    shutil.copytree(find_bundle("sounds"), evening.folder / "old.bundle")
    evening.run("listen", "old.bundle", "--input", "day.wav", "--patch-sizes", 24, *SINKS, "--json")
    print(f"the day: {len(truth)} sounds, {len(list(read_events(evening.database)))} events")
    with listen(evening) as (url, records), open_tab(evening.folder / "tab", *BROWSER) as tab:
        with open_tab(evening.folder / "other", *BROWSER) as other:
            print("two tabs:", collide(tab, other, url, evening))
        open_review(tab, url)
        meant = review(tab, evening, truth, VERDICTS)
        stored = {name: (one.verdict.value, one.label) for name, one in read_verdicts(evening.database).items()}
        agree = sum(stored.get(name, ("", None))[0] == verdict for name, (verdict, _) in meant.items())
        print(f"by keyboard: {dict(Counter(verdict for verdict, _ in meant.values()))}; stored as meant: {agree}")
        take_picture(tab, evening.folder / "review-web.png", 1240, 1090)
        print(evening.run("review", "export", "history.db", "-o", "corrections.csv").rstrip())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(evening.run("learn", "--from", "old.bundle", "--history", "history.db", "-o", "new.bundle").rstrip())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"learn took {after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.0f} s of CPU time")
        print("swapped:", swap(tab, url, "new.bundle"))
        sha256 = Bundle.open(evening.folder / "new.bundle").sha256
        wait_for(lambda: sha256 in records.read_text(), "an event of the new model")
        tab.value("document.getElementById('models').close()")
        take_picture(tab, evening.folder / "listen-web.png", 1180, 1090)
    print("the listener:", records.read_text().splitlines()[-1])
    samples_stored, wrong = compare_audio(evening)
    print(f"stored: {samples_stored} samples, {wrong} of them not the microphone's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rig", type=Path, default=RIG)
    parser.add_argument("--keep", type=Path, help="folder in which everything stays")
    arguments = parser.parse_args()
    heading("An evening with a listener")
    with tempfile.TemporaryDirectory(prefix="evening-") as folder:
        place = arguments.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        spend(Evening(place.resolve(), arguments.rig.resolve()))


if __name__ == "__main__":
    main()
