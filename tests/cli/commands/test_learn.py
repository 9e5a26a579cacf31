"""``flexiast learn``: what teaches, what is held out, what is refused, and what is published."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer.testing

from flexiast.checkpoint import Checkpoint, save_checkpoint
from flexiast.errors import DataError, ExitCode, LockedError
from flexiast.frontend import Frontend
from flexiast.spec import Spec
from flexiast_cli.app import app
from flexiast_cli.commands.learn.verdicts import Lesson, Lessons, hold_out, read_lessons
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.history.clips import Span, name_clip
from flexiast_runtime.history.corrections import Correction
from flexiast_runtime.history.verdicts import Verdict, give_verdict
from tests.runtime.history.conftest import BUNDLE, fill_history
from tests.runtime.sinks.conftest import RATE_HZ, event

pytest.importorskip("torch", reason="learning needs it")
pytest.importorskip("onnx", reason="what is learnt is exported")

from flexiast.networks import Embedder, TorchClassifier, load_model
from flexiast.training.linear_head import fit_head
from flexiast_export.to_onnx import export_onnx

HZ = {"alarm": 3_000, "bark": 500}
Says = Sequence[tuple[str, Verdict, str | None]]


def sing(hz: float, seed: int, seconds: float = 1.0) -> np.ndarray:
    """A tone, or noise for a pitch of 0."""
    rng = np.random.default_rng(seed)
    if not hz:
        return (0.1 * rng.standard_normal(round(seconds * RATE_HZ))).astype(np.float32)
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.97, 1.03) * times)
    return (tone + 0.01 * rng.standard_normal(len(times))).astype(np.float32)


def write_history(folder: Path, said: Says, *, apart_s: int = 60, together: int = 1) -> Path:
    """A database of events a minute apart, so many at once, each with a verdict and a clip: its pitch, or noise."""
    events = [
        event(number, label, started_at_s=1.8e9 + apart_s * (number // together), bundle_sha256=BUNDLE, threshold=0.5)
        for number, (label, _, _) in enumerate(said)
    ]
    database = fill_history(folder, events)
    (folder / "clips").mkdir(exist_ok=True)
    for number, (one, (label, verdict, other)) in enumerate(zip(events, said, strict=True)):
        truth = other or (label if verdict is Verdict.RIGHT else "nothing")
        name = name_clip(label, one.id, one.started_at_s, 0.0)
        soundfile.write(folder / "clips" / name, sing(HZ.get(truth, 0), number), RATE_HZ)
        give_verdict(database, one.id, verdict, other, reviewer="ann", instead_of=None)
    return database


def alternate(count: int) -> Says:
    """Right, wrong and another label in turn."""
    kinds = (("bark", Verdict.RIGHT, None), ("alarm", Verdict.WRONG, None), ("bark", Verdict.OTHER, "alarm"))
    return [kinds[number % 3] for number in range(count)]


def learn(*words: object) -> tuple[int, str, str]:
    """The exit code, stdout and stderr."""
    done = typer.testing.CliRunner().invoke(app, ["learn", *map(str, words)], env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def read_spec(bundle: Path) -> Spec:
    return Bundle.open(bundle).manifest.spec


@pytest.fixture(scope="module")
def tone_bundle(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head that knows alarms and barks, and takes noise for one of them."""
    spec, frontend = tiny_checkpoint.spec, Frontend(tiny_checkpoint.spec.frontend)
    labels = [("alarm", "bark")[number % 2] for number in range(40)]
    features = np.stack([frontend.window(sing(HZ[label], 50 + number)) for number, label in enumerate(labels)])
    embedder = Embedder(load_model(tiny_checkpoint))
    embeddings = np.concatenate([embedder.logits(features, patch) for patch in spec.trained_patches])
    targets = np.array([[label == one for one in spec.labels] for label in labels], np.float32)
    head = fit_head(embeddings, np.tile(targets, (len(spec.trained_patches), 1)), "multi", clips=len(labels))
    weights = tiny_checkpoint.weights | {"head.weight": head.weight, "head.bias": head.bias}
    learnt = replace(tiny_checkpoint, weights=weights)
    folder = tmp_path_factory.mktemp("tones") / "old.bundle"
    export_onnx(learnt, TorchClassifier(load_model(learnt)), learnt.spec.trained_patches, folder)
    return folder


@pytest.fixture
def read(tiny_bundle: Path) -> Callable[..., Lessons]:
    """``read_lessons`` for the tiny model."""

    def read(database: Path, *, with_data: bool = False) -> Lessons:
        return read_lessons(database, None, read_spec(tiny_bundle), "tiny", with_data=with_data)

    return read


# ---------------------------------------------------------------------------------------------------- what is published


class Media(HTMLParser):
    """Where a page's pictures and sounds come from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_a_bundle_is_published_if_it_mistakes_no_more_and_the_report_shows_both(
    tone_bundle: Path, tmp_path: Path
) -> None:
    """A network this small may well be worse in the end; then nothing is published, and the exit code says so."""
    database, output = write_history(tmp_path, alternate(40)), tmp_path / "new.bundle"
    code, printed, notes = learn("--from", tone_bundle, "--history", database, "-o", output, "--json")
    document = json.loads(printed)
    held_out, verdicts = document["held_out"], document["verdicts"]
    assert verdicts["taught"] + verdicts["held_out"] == 40 and 4 <= verdicts["held_out"] <= 12
    before, after = (
        held_out["sounds"] - found + false
        for found, false in zip(held_out["found"], held_out["false_events"], strict=True)
    )
    assert before > 0 and "compared on verdicts alone" in notes
    page = (tmp_path / "new.html").read_text()
    assert "<h2>By label</h2>" in page
    sources = Media(page).sources
    assert len(sources) == 2 * verdicts["held_out"] and all(one.startswith("data:") for one in sources)
    if document["refusal"]:
        assert code == ExitCode.WORSE and document["bundle"] is None and not output.exists()
        return
    assert code == 0 and after <= before and "Published as" in page
    old, new = Bundle.open(tone_bundle).manifest, Bundle.open(output).manifest
    assert (new.spec, new.patches, new.precisions) == (old.spec, old.patches, old.precisions)
    Bundle.open(output).check_files()


def test_the_original_data_is_compared_and_a_budget_is_met(tiny_bundle: Path, tmp_path: Path) -> None:
    says = [("alarm", Verdict.WRONG, None)] * 24  # not one that names a sound: the data does
    database, output = write_history(tmp_path, says), tmp_path / "new.bundle"
    rows = [
        (f"{label}-{number}.wav", label, "val" if number % 3 == 0 else "train")
        for label in ("alarm", "bark")
        for number in range(9)
    ]
    for number, (name, label, _) in enumerate(rows):
        soundfile.write(tmp_path / name, sing(HZ[label], 100 + number), RATE_HZ)
    with (tmp_path / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    hours = tmp_path / "hours"
    hours.mkdir()
    for number in range(4):
        soundfile.write(hours / f"{number}.wav", sing(0, 200 + number, 5.0), RATE_HZ)
    data = ("--data", tmp_path / "data.csv", "--background", hours, "--false-alarms-per-hour", 5)
    code, printed, notes = learn("--from", tiny_bundle, "--history", database, "-o", output, *data)
    assert code == 0, notes
    assert "mean average precision on the original validation set" in printed
    assert "verdicts alone" not in notes
    new = Bundle.open(output)
    assert set(new.manifest.measured) == {str(patch) for patch in new.manifest.patches}  # of the new head
    calibration = new.read_calibration()
    assert ("the thresholds stay" in notes) or (calibration is not None and calibration.false_alarms_per_hour == 5)


def test_a_checkpoint_learns_too(tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes that it was trained at; its licence stays. It learns nothing here, which is no worse."""
    monkeypatch.setattr("flexiast_cli.commands.learn.run.adapt_head", lambda start, *_: replace(start, info={}))
    checkpoint, output = tmp_path / "tiny.safetensors", tmp_path / "new.bundle"
    save_checkpoint(checkpoint, replace(tiny_checkpoint, info={"licence": "CC BY 4.0"}))
    code, _, notes = learn("--from", checkpoint, "--history", write_history(tmp_path, alternate(20)), "-o", output)
    assert code == 0, notes
    manifest = Bundle.open(output).manifest
    assert (manifest.patches, manifest.licence) == (tiny_checkpoint.spec.trained_patches, "CC BY 4.0")


def test_a_worse_model_is_not_published(tone_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network answers everything with every label, whatever it was taught."""

    def spoil(start: Checkpoint, *_: Any, **__: Any) -> Checkpoint:
        bias = np.full_like(start.weights["head.bias"], 20)
        return replace(start, weights=start.weights | {"head.bias": bias})

    monkeypatch.setattr("flexiast_cli.commands.learn.run.adapt_head", spoil)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    database, output = write_history(tmp_path, alternate(30)), tmp_path / "out" / "new.bundle"
    code, printed, notes = learn("--from", tone_bundle, "--history", database, "-o", output)
    assert code == ExitCode.WORSE == 11
    assert "the new model is worse" in notes and "new.bundle was not written: of the verdicts held out it gets" in notes
    assert "false events" in printed
    assert [path.name for path in output.parent.iterdir()] == ["new.html"]
    assert "Not published" in (output.parent / "new.html").read_text()
    assert not list(tmp_path.glob("flexiast-learn-*"))
    assert (
        learn("--from", tone_bundle, "--history", database, "-o", output)[0] == ExitCode.WORSE
    )  # its report is in no way


# ------------------------------------------------------------------------------------- what is said before any training


def test_what_exists_is_not_replaced(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("one.bundle", "two.html"):
        (tmp_path / name).mkdir() if name.endswith("bundle") else (tmp_path / name).write_text("mine")
    for output in ("one.bundle", "two.bundle"):
        code, _, notes = learn("--from", tiny_bundle, "--history", tmp_path / "none.db", "-o", tmp_path / output)
        assert code == ExitCode.USAGE and "exists" in notes
    output = tmp_path / "three.bundle"
    inside = ("-o", output, "--report", output / "report.html")
    code, _, notes = learn("--from", tiny_bundle, "--history", tmp_path / "none.db", *inside)
    assert code == ExitCode.USAGE and "lies in the bundle" in notes


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ([], "holds no verdict yet; give 20 or more with `flexiast review`"),
        (alternate(19), r"19 verdicts of .* can teach, and it takes 20 .*; review 1 more"),
        ([("dog", Verdict.RIGHT, None)] * 25, "holds events of home: dog. tiny knows none of these labels"),
        ([("alarm", Verdict.WRONG, None)] * 25, "would learn to be silent. Give what it was trained on by --data"),
    ],
)
def test_too_little_is_said_in_words(said: Says, text: str, tmp_path: Path, read: Callable[..., Lessons]) -> None:
    with pytest.raises(DataError, match=text):
        read(write_history(tmp_path, said))


def test_clips_that_are_gone_are_counted_and_without_any_nothing_is_learnt(
    tmp_path: Path, read: Callable[..., Lessons]
) -> None:
    database = write_history(tmp_path, alternate(24))
    clips = sorted((tmp_path / "clips").iterdir())
    clips[0].unlink()
    clips[1].write_bytes(clips[1].read_bytes()[:200])  # damaged in its middle
    lessons = read(database)
    assert len(lessons.taught) + len(lessons.held_out) == 22
    assert "left out: the clip is" in " ".join(lessons.notes)
    for path in clips[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"the clips of all 24 reviewed events .* are gone; name their folder"):
        read(database)


def test_a_locked_database_is_worth_another_try(tmp_path: Path, read: Callable[..., Lessons]) -> None:
    database = write_history(tmp_path, alternate(20))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LockedError, match=r"another program holds .*; end it, or try again in a moment"):
            read(database)


def test_labels_that_the_model_lacks_teach_that_none_of_its_own_sounded(
    tmp_path: Path, read: Callable[..., Lessons]
) -> None:
    says = [*alternate(20), ("bark", Verdict.OTHER, "door"), ("dog", Verdict.RIGHT, None)]
    lessons = read(write_history(tmp_path, says))
    assert len(lessons.taught) + len(lessons.held_out) == 21
    every = [*lessons.taught, *lessons.held_out]
    assert {one.label for one in every} == {"bark", "alarm", None}
    notes = " ".join(lessons.notes)
    assert "1 verdict names door, which tiny does not know" in notes
    assert "1 verdict is left out: dog is no label of tiny, but of another model" in notes


def test_what_is_wrong_at_a_moment_that_another_verdict_names_teaches_nothing(
    tmp_path: Path, read: Callable[..., Lessons]
) -> None:
    database = write_history(tmp_path, alternate(36), together=3)
    lessons = read(database)
    assert {one.label for one in (*lessons.taught, *lessons.held_out)} == {"bark", "alarm"}
    assert "12 verdicts are left out: wrong at a moment of which another verdict says what sounded" in lessons.notes


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--false-alarms-per-hour", "1"], "give some with --background"),
        (["--val-fold", "1"], "--val-fold chooses a fold of --data"),
    ],
)
def test_options_without_effect_are_refused(words: list[str], text: str, tiny_bundle: Path, tmp_path: Path) -> None:
    database = write_history(tmp_path, alternate(20))
    code, _, notes = learn("--from", tiny_bundle, "--history", database, "-o", tmp_path / "new.bundle", *words)
    assert code == ExitCode.USAGE and text in notes


# ----------------------------------------------------------------------------------------------------- what is held out


def build_lessons(count: int, *, apart_s: float = 60.0, seed: int = 0) -> list[Lesson]:
    rng = np.random.default_rng(seed)
    labels = [None if rng.random() < 0.5 else "bark" for _ in range(count)]
    return [
        Lesson(
            Correction(
                path=Path("clip.flac"),
                span=Span(0.0, 1.0),
                label=label,
                detected="bark",
                score=0.6,
                source="kitchen",
                decided_at_s=0.0,
                id=f"{number:016x}",
                bundle_sha256=None,
                began_s=apart_s * number,
            ),
            np.zeros(16_000, np.float32),
            slice(0, 16_000),
        )
        for number, label in enumerate(labels)
    ]


@pytest.mark.parametrize("count", [20, 57, 400])
def test_about_a_fifth_is_held_out_of_sounds_and_of_nothing(count: int) -> None:
    lessons = build_lessons(count)
    taught, held_out = hold_out(lessons)
    assert sorted(one.correction.id for one in (*taught, *held_out)) == [one.correction.id for one in lessons]
    for is_nothing in (True, False):
        total, held = (sum((one.label is None) is is_nothing for one in each) for each in (lessons, held_out))
        assert 1 <= held < total
        assert abs(held - total / 5) <= max(1, 4 * (0.16 * total) ** 0.5)  # four standard deviations of a hash's choice


def test_tomorrow_nothing_is_measured_by_what_taught_today() -> None:
    lessons = build_lessons(200)
    taught = {one.correction.id for one in hold_out(lessons[::2])[0]}
    assert not taught & {one.correction.id for one in hold_out(lessons)[1]}


def test_a_sound_that_goes_on_for_minutes_teaches_and_measures() -> None:
    """And nothing that teaches is within 5 s of what measures."""
    lessons = build_lessons(80, apart_s=6.5)
    taught, held_out = hold_out(lessons)
    assert 5 <= len(held_out) <= 35 and len(taught) >= 30
    for one in taught:
        assert all(abs(one.correction.began_s - each.correction.began_s) >= 1.0 + 5.0 for each in held_out)


def test_verdicts_of_one_moment_alone_are_refused(tmp_path: Path, read: Callable[..., Lessons]) -> None:
    rights: Says = [("bark", Verdict.RIGHT, None), ("alarm", Verdict.RIGHT, None)] * 12
    with pytest.raises(DataError, match=r"are of one half minute, so that none can be held out"):
        read(write_history(tmp_path, rights, apart_s=0))


def test_a_label_that_was_misheard_once_is_named(read: Callable[..., Lessons], tmp_path: Path) -> None:
    usual = [("bark", Verdict.RIGHT, None), ("alarm", Verdict.WRONG, None)] * 20
    for others in (0, 20):
        folder = tmp_path / str(others)
        folder.mkdir()
        says = [*usual, *[("bark", Verdict.OTHER, "alarm")] * others]
        assert not any("misheard once" in note for note in read(write_history(folder, says)).notes)
    for number in range(8):  # held out or not is decided by the moment's hash
        folder = tmp_path / f"once-{number}"
        folder.mkdir()
        says = [*usual[: 20 + number], ("bark", Verdict.OTHER, "alarm"), *usual[20 + number :]]
        lessons = read(write_history(folder, says))
        taught = sum(one.label == "alarm" for one in lessons.taught)
        assert any(note.startswith("alarm: misheard once") for note in lessons.notes) is (taught == 1)
        if taught:
            return
    pytest.fail("the verdict was held out at every place")
