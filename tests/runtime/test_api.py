"""The public Python interface gives what the commands give, however audio is cut, and refuses what it cannot use."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import flexiast
from flexiast.errors import DataError, ModelError, UsageError
from flexiast.evaluation.evaluate import Windows
from flexiast.frontend import Frontend
from flexiast_runtime import api
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.records import Status, Summary, Switch
from flexiast_runtime.inference.engine import scores
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.sinks.sink import RunContext

Float = NDArray[np.float32]

RATE = 44_100
RULES = flexiast.EventRules(0.6)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> flexiast.Model:
    return flexiast.load(tiny_bundle)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, make_tone: Callable[..., Float]) -> Path:
    """Stereo at another rate than the model's: noise, a tone, silence, a tone."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=RATE)
    mono = np.concatenate((noise, make_tone(440, 0.7, RATE), np.zeros(RATE // 2), make_tone(3_000, 0.6, RATE)))
    path = tmp_path_factory.mktemp("api") / "recording.wav"
    soundfile.write(path, np.stack((mono, 0.5 * mono), axis=1), RATE, subtype="FLOAT")
    return path


def facts(event: flexiast.Event) -> tuple[Any, ...]:
    return event.label, event.start_sample, event.end_sample, str(event.patch)


def same(found: list[flexiast.Event], expected: list[flexiast.Event]) -> None:
    assert list(map(facts, found)) == list(map(facts, expected))
    # to five digits, for a matrix product of more rows may add in another order
    assert [event.score for event in found] == pytest.approx([event.score for event in expected], abs=1e-5)


# ----- the same as the commands


def test_the_events_of_a_file_are_those_of_classify_and_listen(tiny_bundle: Path, recording: Path) -> None:
    flags = ("--threshold", "0.6")
    program = Path(sys.executable).with_name("flexiast")
    size = str(flexiast.load(tiny_bundle).patch_size)
    ways = (
        ("classify", tiny_bundle, recording, "--format", "jsonl", *flags),
        ("listen", tiny_bundle, "--input", recording, "--json", "--pin", size, *flags),
    )
    expected = [event.document() for event in flexiast.load(tiny_bundle).events(recording, rules=RULES)]
    assert len(expected) > 1, "a quiet model would make the comparison empty"
    for way in ways:
        printed = subprocess.run([program, *way], check=True, capture_output=True, text=True).stdout
        found = [line for line in map(json.loads, printed.splitlines()) if line["type"] == "event"]
        if way[0] == "listen":  # whose events have ids of their own in each run
            found = [event | {"id": wanted["id"]} for event, wanted in zip(found, expected, strict=True)]
        assert [event | {"score": pytest.approx(event["score"], abs=1e-4)} for event in found] == expected


@given(st.lists(st.integers(0, 9_000), min_size=1, max_size=12))
def test_a_stream_gives_the_events_of_the_file_however_it_is_cut(
    model: flexiast.Model, recording: Path, sizes: list[int]
) -> None:
    samples, rate = soundfile.read(recording, dtype="float32")
    blocks, start = [], 0
    while start < len(samples):
        size = sizes[len(blocks) % len(sizes)] or (1 if not any(sizes) else 0)
        size = max(size, 700) if len(blocks) > 100 else size  # blocks of a few samples for a while are enough
        blocks.append(samples[start : start + size])
        start += size
    same(list(model.stream(blocks, rate, rules=RULES)), list(model.events(recording, rules=RULES)))


def test_a_clip_scores_what_evaluate_compares(model: flexiast.Model, tiny_bundle: Path, recording: Path) -> None:
    """By the windows and engines themselves; the clip holds several windows."""
    engines = load_engines(Bundle.open(tiny_bundle))
    samples = soundfile.read(recording, dtype="float32")[0].mean(axis=1)
    for patch in model.patch_sizes:
        windows = Windows([samples], Frontend(engines.spec.frontend))
        assert len(windows) > 1
        logits = windows.clip_mean(engines.logits(windows[0 : len(windows)], patch))[0]
        expected = scores(logits / np.float32(engines[patch].variant.temperature), engines.spec.task)
        found = model.classify(samples, model.rate_hz, patch_size=patch)
        assert dict(found) == pytest.approx(dict(zip(engines.spec.labels, expected.tolist(), strict=True)), abs=1e-5)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


# ----- sizes


def test_one_size_is_pinned_by_load_or_by_call(tiny_bundle: Path, model: flexiast.Model, recording: Path) -> None:
    pinned = flexiast.load(tiny_bundle, patch_size=16)
    assert list(map(str, pinned.patch_sizes)) == ["16x16"]
    same(list(pinned.events(recording, rules=RULES)), list(model.events(recording, patch_size="16", rules=RULES)))
    with pytest.raises(UsageError, match="patch size 8x8 is not loaded; there are 16x16"):
        pinned.classify([0.0], 16_000, patch_size=8)


def test_a_deadline_moves_the_size_and_the_stream_says_which(tiny_bundle: Path) -> None:
    """Engines that sleep, the finer the longer: all answer within an hour, only the coarser ones within the step."""

    @dataclasses.dataclass
    class Sleeps:
        bundle: flexiast.Bundle
        variant: flexiast.Variant

        def run(self, features: Float) -> Float:
            time.sleep(0.1 if self.variant.patch_size.mels == 8 else 0.001)
            return np.full((len(features), self.bundle.manifest.spec.classes), -9, np.float32)

    model, sink = flexiast.load(tiny_bundle, make_engine=Sleeps), Collect()
    with flexiast.Stream(model, 16_000, deadline_s=3_600, sinks=[sink]) as stream:
        assert str(stream.patch_size) == "8x8"
        stream.deadline_s = 0.05
        stream.push(np.random.default_rng(0).normal(scale=0.1, size=16_000 * 3))
        last = stream.patch_size
        stream.finish()
    assert str(last) != "8x8"
    switches = [record for record in sink.records if isinstance(record, Switch)]
    assert str(switches[0].before) == "8x8"


# ----- sinks and engines of the user's own


class Collect:
    name = "collect"

    def __init__(self) -> None:
        self.records: list[flexiast.Record] = []
        self.hearing: RunContext | None = None
        self.closed = False

    def open(self, hearing: RunContext) -> None:
        self.hearing = hearing

    def wants(self, record: flexiast.Record) -> bool:
        return True

    def deliver(self, record: flexiast.Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed = True


def test_a_sink_gets_every_record_and_is_closed(model: flexiast.Model, recording: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(recording, dtype="float32")
    sink, lines = Collect(), tmp_path / "events.jsonl"
    events = list(model.stream([samples], rate, rules=RULES, sinks=[sink, f"jsonl:{lines}"], name="hall"))
    assert sink.closed
    assert sink.hearing is not None
    assert (sink.hearing.labels, sink.hearing.sources) == (model.labels, ("hall",))
    assert [record for record in sink.records if isinstance(record, flexiast.Event)] == events
    assert any(isinstance(record, Status) for record in sink.records)
    assert isinstance(sink.records[-1], Summary)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line for line in written if line["type"] == "event"] == [event.document() for event in events]


def test_a_loop_that_is_left_early_closes_its_sinks(model: flexiast.Model, recording: Path) -> None:
    samples, rate = soundfile.read(recording, dtype="float32")
    sink = Collect()
    events = model.stream(np.array_split(samples, 30), rate, rules=RULES, sinks=[sink])
    next(events)
    assert not sink.closed
    events.close()  # type: ignore[attr-defined]  # what the end of a `for` over the last reference does
    assert sink.closed


def test_a_sink_that_refuses_is_reported(
    model: flexiast.Model, recording: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses(Collect):
        name = "refuses"

        def deliver(self, record: flexiast.Record) -> None:
            raise RuntimeError("defect")

    samples, rate = soundfile.read(recording, dtype="float32")
    events = list(model.stream([samples], rate, rules=RULES, sinks=[Refuses()]))
    assert events
    assert "refuses fails: RuntimeError" in caplog.text
    assert "refuses lost" in caplog.text


def test_an_engine_of_the_users_own_answers(tiny_bundle: Path, recording: Path) -> None:
    @dataclasses.dataclass
    class AlwaysFirst:
        bundle: flexiast.Bundle
        variant: flexiast.Variant

        def run(self, features: Float) -> Float:
            assert features.shape[2] == self.bundle.manifest.spec.frontend.mel_bins
            logits = np.full((len(features), self.bundle.manifest.spec.classes), -20, np.float32)
            logits[:, 0] = 20
            return logits

    model = flexiast.load(tiny_bundle, make_engine=AlwaysFirst)
    samples, rate = soundfile.read(recording, dtype="float32")
    assert model.classify(samples, rate)[0].label == model.labels[0]
    assert {event.label for event in model.events(recording)} == {model.labels[0]}


def test_an_engine_that_answers_in_another_shape_is_refused(tiny_bundle: Path) -> None:
    @dataclasses.dataclass
    class Flat:
        bundle: flexiast.Bundle
        variant: flexiast.Variant

        def run(self, features: Float) -> Float:
            return np.zeros(len(features), np.float32)

    with pytest.raises(UsageError, match=r"the engine of 8x8 answers \(1, \d+, \d+\) with \(1,\); expected \(1, 3\)"):
        flexiast.load(tiny_bundle, make_engine=Flat)


# ----- gaps and ends


def test_lost_frames_break_events_off(model: flexiast.Model, make_tone: Callable[..., Float]) -> None:
    """The samples after a gap are count_noun from the stream's start, the missing ones included."""
    tone, gap = make_tone(440, 1.5), 16_000 * 7
    with api.Stream(model, 16_000, rules=RULES) as stream:
        before = stream.push(tone)
        after = stream.push(tone, lost=gap) + stream.finish()
    ends = [event.end_sample for event in (*before, *after)]
    assert ends
    assert all(end <= len(tone) or end > len(tone) + gap for end in ends)


def test_a_finished_stream_takes_no_more(model: flexiast.Model) -> None:
    stream = api.Stream(model, 16_000)
    stream.finish()
    assert stream.finish() == []
    with pytest.raises(UsageError, match="this stream is finished"):
        stream.push([0.0])
    stream.close()


# ----- what cannot be used


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(9, np.int16), "samples are int16; give floats in −1 … 1: samples / 32768"),
        (np.zeros(9, np.uint8), "samples / 128"),
        (np.zeros(9, complex), "samples are complex128"),
        (["a"], "give real floats"),
        (np.zeros((2, 48_000)), r"the shape \(2, 48000\); give \[frames\] or \[frames, channels\]"),
        (np.zeros((2, 2, 2)), r"the shape \(2, 2, 2\)"),
        (np.array([0.0, np.nan]), "NaN or infinity"),
        (np.array([0.0, 3_000.0]), "samples reach 3000"),
    ],
)
def test_samples_that_cannot_be_used_are_refused_everywhere(model: flexiast.Model, samples: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.classify(samples, 16_000)
    with pytest.raises(UsageError, match=message):
        list(model.stream([samples], 16_000))


def test_other_values_that_cannot_be_used(model: flexiast.Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a rate of 0 Hz cannot be used; give 1,000 to 768,000"):
        model.classify([0.0], 0)
    with pytest.raises(UsageError, match="no samples to classify"):
        model.classify([], 16_000)
    with pytest.raises(UsageError, match="'gpu' is not a backend; there are cpu, cuda, tensorrt"):
        flexiast.load("sounds", backend="gpu")
    with pytest.raises(ModelError, match="neither a file or folder nor a shipped model"):
        flexiast.load("nothing-of-that-name")
    with pytest.raises(DataError, match=r"absent\.wav does not exist"):
        model.events(tmp_path / "absent.wav")
    with pytest.raises(UsageError, match="patch_size keeps one size, deadline_s picks"):
        api.Stream(model, 16_000, patch_size=8, deadline_s=0.1)
    with pytest.raises(UsageError, match="a deadline of 0 s cannot be used"):
        api.Stream(model, 16_000, deadline_s=0)
    with pytest.raises(UsageError, match="has no label 'dog'"):
        api.Stream(model, 16_000, rules=flexiast.EventRules(deny=("dog",)))
    with pytest.raises(UsageError, match="clips are cut by `flexiast listen"):
        api.Stream(model, 16_000, sinks=[f"clips:{tmp_path}"])


# ----- the public names


def test_import_flexiast_is_light_and_names_are_lazy() -> None:
    code = (
        "import sys, flexiast; assert 'numpy' not in sys.modules and 'pydantic' not in sys.modules;"
        "assert set(flexiast.__all__) <= set(dir(flexiast)); flexiast.load; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_flexiast_exports_what_the_interface_names() -> None:
    assert sorted(flexiast.__all__) == sorted(api.__all__)
    for name in flexiast.__all__:
        assert getattr(flexiast, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        flexiast.lod  # noqa: B018
