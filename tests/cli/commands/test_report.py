"""What a run says it is worth, and the page that shows it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import soundfile
from PIL import Image

from flexiast.evaluation.evaluate import PatchResult
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, Spec
from flexiast_cli.commands.train.prepare import Prepared
from flexiast_cli.commands.train.report import write_report
from flexiast_cli.commands.train.summary import Summary, advise, compare_ways
from flexiast_cli.report_page import LONGEST_S, render_figure

LABELS = ("dog", "<b>cat</b>", "rain")
TRUTH, ANSWERED = [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2]


@pytest.fixture
def summary(build_spec: Callable[..., Spec]) -> Summary:
    logits = 2 * np.eye(3, dtype=np.float32)[ANSWERED]
    logits[3] *= 3  # the surest mistake
    results = [
        PatchResult(patch_size=PatchSize(size, size), tokens=50, gmac=1 / size, accuracy=accuracy)
        for size, accuracy in ((8, 0.6), (16, 4 / 6), (32, 0.5))
    ]
    return Summary(
        build_spec(labels=LABELS),
        results,
        PatchSize(16, 16),
        logits,
        np.eye(3, dtype=np.float32)[TRUTH],
        baseline=0.4,
        head=0.5,
        head_is_best=False,
        clips_by_label=dict.fromkeys(LABELS, 2),
    )


@pytest.fixture
def prepared() -> Prepared:
    waves = [np.random.default_rng(seed).uniform(-0.5, 0.5, 8_000).astype(np.float32) for seed in range(6)]
    fields = {
        "header": {"data": "sounds & more", "clips": {"train": 6, "val": 6}, "split": "by hash"},
        "backgrounds": None,
        "targets": np.eye(3, dtype=np.float32)[TRUTH],
        "waveforms": waves,
        "validation_waveforms": waves,
        "validation_names": [f"clip{number}.wav" for number in range(6)],
    }
    return cast(Prepared, SimpleNamespace(**fields))


class Page(HTMLParser):
    """Sources, classes of cells, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: dict[str, list[str]] = {"img": [], "audio": []}
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in self.sources:
            self.sources[tag].append(given.get("src") or "")
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


def decode(url: str) -> bytes:
    return base64.b64decode(url.partition("base64,")[2])


def test_the_page_holds_what_it_shows_and_loads_nothing(summary: Summary, prepared: Prepared, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", summary, prepared)
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert all(link.startswith("data:") for link in page.links)
    assert not re.search(r"<script|@import|url\(", text)
    assert "<b>cat</b></b>" not in text
    assert "&lt;b&gt;cat&lt;/b&gt;" in text
    assert len(page.sources["img"]) == len(page.sources["audio"]) == 3 + 2  # a clip of each label, and two wrong ones
    for picture in page.sources["img"]:
        with Image.open(io.BytesIO(decode(picture))) as image:
            assert image.convert("RGB").getextrema() != ((0, 0), (0, 0), (0, 0))
    first_wrong, _ = soundfile.read(io.BytesIO(decode(page.sources["audio"][3])), dtype="float32")
    np.testing.assert_allclose(first_wrong, prepared.validation_waveforms[3], atol=2**-15)  # the surest one, 16 bits
    assert [f"clip{number}.wav" in text for number in range(6)] == [False, True, False, True, False, False]
    for figure in ("40.0%", "50.0%", "58.9%"):  # baseline, head, mean of the sizes
        assert figure in text


def test_three_ways_stand_beside_one_another(summary: Summary) -> None:
    assert [round(value, 3) for _, value in compare_ways(summary)] == [0.4, 0.5, 0.589]
    assert len(compare_ways(replace(summary, head=None))) == 2
    assert "this run, which keeps that head" in dict(compare_ways(replace(summary, head_is_best=True)))


def test_advice_names_what_is_wrong_first(summary: Summary) -> None:
    weakest, background = advise(summary, background=False)
    assert "'dog' is weakest (50% found, often taken for '<b>cat</b>')" in weakest
    assert "record more than its 2 training clips" in weakest
    assert "--background" in background
    beaten = advise(replace(summary, baseline=0.9, head_is_best=True), background=True)
    assert "Logistic regression on log-mel statistics is better (0.90 over 0.59)" in beaten[0]
    assert "Record all of them alike" in beaten[0]
    assert "the linear head" in beaten[1]
    voices = advise(replace(summary, baseline=0.9, by_timbre=True), background=True)
    assert "record more of each label" in voices[0]
    assert "If they are not voices or machines" in voices[1]
    assert advise(replace(summary, logits=summary.targets), background=True) == []
    right = [one.model_copy(update={"accuracy": 1.0}) for one in summary.results]
    perfect = replace(summary, results=right, logits=summary.targets)
    assert advise(perfect, background=True) == []
    (kept,) = advise(replace(perfect, head_is_best=True), background=True)
    assert "right about all 6 validation clips, so it is kept" in kept
    within_noise = replace(summary, baseline=0.6, logits=summary.targets)  # six clips say nothing about a hundredth
    assert advise(within_noise, background=True) == []


def test_of_a_long_recording_the_part_that_sounds_is_played(build_spec: Callable[..., Spec]) -> None:
    frontend = Frontend(build_spec().frontend)
    rate_hz = frontend.spec.sample_rate_hz
    waveform = np.random.default_rng(0).normal(scale=1e-4, size=30 * rate_hz).astype(np.float32)
    waveform[20 * rate_hz : 22 * rate_hz] += 0.5 * np.sin(np.arange(2 * rate_hz) / 5).astype(np.float32)
    page = render_figure(waveform, frontend, "a bell")
    (sound,) = re.findall(r"data:audio/flac;base64,([^\"]+)", page)
    played, _ = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    assert len(played) == round(LONGEST_S * rate_hz)
    loud = np.flatnonzero(abs(played) > 0.1)
    assert loud[-1] - loud[0] == pytest.approx(2 * rate_hz, abs=100)  # all of it
    assert re.search(r"a bell<br>.*6 s from (1[6-9]|20)\.\d s on", page)
    short = render_figure(waveform[: 2 * rate_hz], frontend, "a bell")
    assert "s on" not in short
