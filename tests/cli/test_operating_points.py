"""A bundle that is calibrated with background: what a budget costs, and other budgets to choose from in listening."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from flexiast.calibration import CALIBRATION, Calibration
from flexiast.errors import ModelError, UsageError
from flexiast.evaluation.event_curves import Timeline
from flexiast.manifest import MANIFEST
from flexiast.spec import PatchSize
from flexiast_cli.options.common import EventOptions, bundle_event_settings
from flexiast_export.calibrate import publish
from flexiast_export.false_alarms import _compare_recall, is_rarer, keep_budget, measure_recall
from flexiast_runtime.bundle import Bundle
from tests.cli.conftest import Run

PER_HOUR = 600.0


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, write_audio: Any) -> Path:
    """Four recordings of half a minute: noise whose colour changes."""
    folder, rng = tmp_path_factory.mktemp("room"), np.random.default_rng(3)
    for number in range(4):
        noise = rng.standard_normal(30 * 16_000) * np.repeat(rng.uniform(0.001, 0.3, 60), 8_000)
        write_audio(folder / f"{number}.wav", np.convolve(noise, rng.uniform(-1, 1, 8), "same") / 4)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, make_tone: Any, write_audio: Any) -> Path:
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(1)
    for label in ("alarm", "bark", "clap"):
        for number in range(4):
            write_audio(folder / label / f"{number}.wav", make_tone(rng.uniform(100, 6_000), 0.4))
    return folder


@pytest.fixture(scope="module")
def calibrated(
    run: Run, tiny_bundle: Path, room: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    made = tmp_path_factory.mktemp("made") / "bundle"
    words = ("--background", room, "--false-alarms-per-hour", PER_HOUR, "--data", clips, "--split", "all")
    result = run("calibrate", tiny_bundle, *words, "-o", made, "--json")
    assert result.returncode == 0, result.stderr
    return made, json.loads(result.stdout)


def test_the_cost_of_a_budget_stands_in_the_bundle(calibrated: tuple[Path, dict[str, Any]], run: Run) -> None:
    made, document = calibrated
    bundle = Bundle.open(made)
    calibration = bundle.read_calibration()
    assert calibration is not None
    assert calibration.clips == 12
    point = calibration.point()
    assert point.false_alarms_per_hour == PER_HOUR
    for size in document["sizes"]:
        patch = PatchSize.parse(size["patch_size"])
        assert point.sizes[str(patch)].thresholds == bundle.manifest.variant(patch).thresholds == size["thresholds"]
        assert set(size["recall_before"]) == set(size["recall_after"]) == {"20", "10", "5"}
        assert calibration.recall_by_snr_db(patch) == {float(at): one for at, one in size["recall_after"].items()}
    assert run("verify", made).returncode == 0
    shown = run("inspect", made).stdout
    assert "those in use are for 600, with a recall of " in shown
    assert " at 10 dB" in shown
    # Programs that are older than the file read the manifest as before: nothing but its list of files knows of it.
    text = (made / MANIFEST).read_text()
    assert "recall_by_snr_db" not in text
    assert text.count(CALIBRATION) == 1


def test_listening_picks_the_largest_budget_that_is_within_the_number_of_a_day(
    calibrated: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(calibrated[0])
    calibration = bundle.read_calibration()
    assert calibration is not None
    budgets = [point.false_alarms_per_hour for point in calibration.points]
    assert budgets == sorted(budgets)
    assert len(budgets) > 3
    for per_day, expected in ((24 * PER_HOUR, budgets[-1]), (24 * budgets[1] + 1e-9, budgets[1])):
        settings = bundle_event_settings(bundle, EventOptions(false_alarms_per_day=per_day))
        (point,) = (one for one in calibration.points if one.false_alarms_per_hour == expected)
        assert settings.rules.size_thresholds == point.size_thresholds
        assert f"{24 * expected:.3g} false alarms a day" in " ".join(capsys.readouterr().err.split())
    loud = bundle_event_settings(bundle, EventOptions()).rules.size_thresholds
    assert loud == calibration.point().size_thresholds
    own = EventOptions(false_alarms_per_day=24 * PER_HOUR, label_thresholds=["bark=0.9"], deny=["clap"])
    rules = bundle_event_settings(bundle, own).rules
    assert rules.label_thresholds == {"bark": 0.9}
    assert all("bark" not in each for each in rules.size_thresholds.values())
    with pytest.raises(UsageError, match="calibrated down to"):
        bundle_event_settings(bundle, EventOptions(false_alarms_per_day=12 * budgets[0]))
    with pytest.raises(UsageError, match="give one of them"):
        bundle_event_settings(bundle, EventOptions(false_alarms_per_day=1, threshold=0.5))


def test_a_bundle_without_background_says_how_to_calibrate_it(run: Run, tiny_bundle: Path, room: Path) -> None:
    refused = run("listen", tiny_bundle, "--input", room / "0.wav", "--false-alarms-per-day", 2)
    assert refused.returncode == 2
    assert f"flexiast calibrate {tiny_bundle} --background HOURS --false-alarms-per-hour 0.0833 -o" in refused.stderr


def test_clips_alone_remove_what_the_old_thresholds_measured(
    calibrated: tuple[Path, dict[str, Any]], run: Run, clips: Path, tmp_path: Path
) -> None:
    words = ("--data", clips, "--split", "all", "--precision-target", 1e-6, "-o", tmp_path / "new")
    assert run("calibrate", calibrated[0], *words).returncode == 0
    assert Bundle.open(tmp_path / "new").read_calibration() is None
    assert not (tmp_path / "new" / CALIBRATION).exists()


def test_a_damaged_calibration_is_no_calibration(calibrated: tuple[Path, dict[str, Any]]) -> None:
    from flexiast.calibration import parse_calibration

    content = (calibrated[0] / CALIBRATION).read_bytes()
    assert isinstance(parse_calibration(content, "here"), Calibration)
    with pytest.raises(ModelError, match="here is no valid calibration"):
        parse_calibration(content.replace(b'"points"', b'"point"'), "here")


def test_recall_that_falls_for_nothing_is_refused() -> None:
    assert not _compare_recall({"20": 0.9, "10": 0.5}, {"20": 0.9, "10": 0.49}, fewer=False)
    assert not _compare_recall({"20": 0.9, "10": 0.5}, {"20": 0.5, "10": 0.2}, fewer=True)
    assert not _compare_recall({}, {}, fewer=False)
    assert "with no fewer false alarms" in _compare_recall({"20": 0.9, "10": 0.5}, {"20": 0.9, "10": 0.4}, fewer=False)


def test_false_alarms_are_fewer_only_where_the_half_held_back_has_a_lower_rate() -> None:
    # 6 in 2 h with the bundle's own thresholds, which were chosen on neither half.
    assert is_rarer(2, 1.0, 6, 2.0)
    assert not is_rarer(3, 1.0, 6, 2.0)  # though the half that the new ones were raised for has none
    assert not is_rarer(0, 1.0, 0, 2.0)
    assert is_rarer(1, 2.0, 3, 3.0)  # halves of different lengths


def test_a_size_whose_own_thresholds_are_better_keeps_them_and_the_others_get_new_ones(
    tiny_bundle: Path, room: Path, run: Run, tmp_path: Path
) -> None:
    """One size is silent already, and what is chosen on the even half of the background does worse on the other."""
    shutil.copytree(room, tmp_path / "room")
    for number in (0, 2):
        soundfile.write(tmp_path / "room" / f"{number}.wav", np.tile([0.01, -0.01], 30 * 8_000), 16_000)
    bundle = Bundle.open(tiny_bundle)
    quiet, *others = bundle.manifest.patches
    strict = dict.fromkeys(bundle.manifest.spec.labels, 1.0)
    variants = [
        one.model_copy(update={"thresholds": strict, "temperature": 1.5} if one.patch_size == quiet else {})
        for one in bundle.manifest.variants
    ]
    publish(bundle, variants, {}, tmp_path / "strict")
    words = ("--background", tmp_path / "room", "--false-alarms-per-hour", 10, "--json")
    result = run("calibrate", tmp_path / "strict", *words, "-o", tmp_path / "new")
    assert result.returncode == 0, result.stderr
    sizes = {size["patch_size"]: size for size in json.loads(result.stdout)["sizes"]}
    assert "the bundle's own give 0" in sizes[str(quiet)]["refusal"]
    assert (sizes[str(quiet)]["before"], sizes[str(quiet)]["after"]) == (0, 0)
    new = Bundle.open(tmp_path / "new").manifest
    assert (new.variant(quiet).thresholds, new.variant(quiet).temperature) == (strict, 1.5)
    for patch in others:
        assert sizes[str(patch)]["refusal"] == ""
        assert new.variant(patch).thresholds == sizes[str(patch)]["thresholds"] != {}
    shown = run("calibrate", tmp_path / "strict", *words[:-1], "--dry-run")
    assert f"{quiet} keeps the bundle's own thresholds: new thresholds would give" in " ".join(shown.stderr.split())
    assert "as it was" in shown.stdout


def test_recall_is_that_of_each_labels_own_threshold() -> None:
    scores = np.array([[0.2, 0.6], [0.7, 0.1], [0.1, 0.1], [0.4, 0.4]], np.float32)
    events = (np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 1.0]]))
    edges = np.arange(5.0)
    timelines = {10.0: Timeline(edges[:-1], edges[1:], scores, events, 4 / 3600)}
    assert measure_recall(timelines, [0.5, 0.5]) == {"10": pytest.approx(2 / 3)}
    assert measure_recall(timelines, [0.3, 0.9]) == {"10": pytest.approx(2 / 3)}
    assert measure_recall(timelines, [0.9, 0.9]) == {"10": 0}


def test_labels_that_the_model_is_sure_of_are_listed_with_their_place(
    tiny_bundle: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment that `classify` reports them at, in the file and not in its half."""
    from flexiast.data.background import background_clips, stretches_of
    from flexiast_export import false_alarms

    monkeypatch.setattr(false_alarms, "SURE", 0.6)
    bundle = Bundle.open(tiny_bundle)
    stretches, _ = stretches_of(background_clips([room]), 16_000)
    budgets = keep_budget(bundle, bundle.manifest.variants, [stretches], PER_HOUR)
    assert budgets.suspects
    assert [one.score for one in budgets.suspects] == sorted((one.score for one in budgets.suspects), reverse=True)
    assert {Path(one.path).name for one in budgets.suspects} <= {f"{number}.wav" for number in range(4)}
    assert all(0 <= one.start_s < 30 and one.score >= 0.6 for one in budgets.suspects)
