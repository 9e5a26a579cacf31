"""Options of events on both commands, and a bundle that is calibrated and then listened with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.manifest import Manifest, read_manifest
from flexiast_cli.options.common import event_settings
from flexiast_runtime.detection.rules import EventRules
from tests.cli.conftest import Run

GIVEN: dict[str, Any] = {
    "threshold": None,
    "label_thresholds": None,
    "allow": None,
    "deny": None,
    "min_duration": 0.0,
    "confirm": 0.0,
    "merge_gap": 0.0,
    "smoothing": None,
    "gate": "-80",
}


@pytest.fixture
def calibrated_manifest(tiny_manifest: Manifest) -> Manifest:
    return tiny_manifest.model_copy(update={"thresholds": {"bark": 0.7, "clap": 0.2}})


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory, make_tone: Any, write_audio: Any) -> Path:
    rng = np.random.default_rng(0)
    parts: list[NDArray[Any]] = [make_tone(hz, 0.7) for hz in rng.uniform(100, 6_000, 12)]
    parts[3:3] = [np.zeros(16_000, np.float32)]
    path: Path = write_audio(tmp_path_factory.mktemp("stream") / "stream.wav", np.concatenate(parts))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, make_tone: Any, write_audio: Any) -> Path:
    """Twelve tones of each label, at random, so that scores have to come down."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(1)
    rows = ["path,label,split"]
    for label in ("alarm", "bark", "clap"):
        for number in range(12):
            write_audio(folder / label / f"{number}.wav", make_tone(rng.uniform(100, 6_000), 0.4))
            rows.append(f"{label}/{number}.wav,{label},val")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


def test_without_flags_a_bundle_says_where_events_begin(calibrated_manifest: Manifest) -> None:
    settings = event_settings(calibrated_manifest, **GIVEN)
    assert settings.rules == EventRules(0.5, {"bark": 0.7, "clap": 0.2})
    np.testing.assert_array_equal(settings.rules.thresholds(("alarm", "bark", "clap")), np.float32([0.5, 0.7, 0.2]))


def test_flags_go_before_the_bundle(calibrated_manifest: Manifest) -> None:
    one = event_settings(calibrated_manifest, **GIVEN | {"label_thresholds": ["bark=0.9"]})
    every = event_settings(calibrated_manifest, **GIVEN | {"threshold": 0.6, "label_thresholds": ["alarm=0.1"]})
    assert one.rules.label_thresholds == {"bark": 0.9, "clap": 0.2}
    assert (every.rules.threshold, every.rules.label_thresholds) == (0.6, {"alarm": 0.1})


def test_lists_are_by_commas_and_repeated_but_a_label_may_hold_commas(tiny_manifest: Manifest) -> None:
    spec = tiny_manifest.spec.model_copy(update={"labels": ("a, b", "bark", "clap")})
    manifest = tiny_manifest.model_copy(update={"spec": spec})
    rules = event_settings(manifest, **GIVEN | {"allow": ["a, b", "bark, clap"], "deny": ["clap"]}).rules
    assert (rules.allow, rules.deny) == (("a, b", "bark", "clap"), ("clap",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allow": ["brak"]}, "did you mean bark"),
        ({"label_thresholds": ["bark"]}, "write dog=0.7"),
        ({"label_thresholds": ["brak=0.5"]}, "did you mean bark"),
        ({"gate": "low"}, "or off"),
        ({"gate": "6"}, "at most 0 dBFS"),
        ({"confirm": -1.0}, "0 or more seconds"),
    ],
)
def test_what_cannot_be_used_is_told_with_what_can(
    tiny_manifest: Manifest, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        event_settings(tiny_manifest, **GIVEN | change)


def test_both_commands_make_the_same_events_of_the_same_options(run: Run, tiny_bundle: Path, stream: Path) -> None:
    options = ("--threshold", 0.4, "--label-threshold", "bark=0.3", "--deny", "clap", "--merge-gap", 0.3)
    options += ("--min-duration", 0.2, "--confirm", 0.15, "--smoothing", 0.05, "--gate", -60)
    listened = run("listen", tiny_bundle, "--input", stream, "--patch-sizes", "8", "--json", *options)
    classified = run("classify", tiny_bundle, stream, "--patch-size", "8", "--format", "jsonl", *options)
    *records, summary = map(json.loads, listened.stdout.splitlines())
    events = [record for record in records if record["type"] == "event"]
    others = [json.loads(line) for line in classified.stdout.splitlines()]
    for event in (*events, *others):
        assert event.pop("id")  # another one in each run
    assert events == others
    assert {event["label"] for event in events} == {"alarm", "bark"}
    assert summary["skipped"] > 0
    refused = run("classify", tiny_bundle, stream, "--allow", "brak")
    assert refused.returncode == 2
    assert "did you mean bark" in refused.stderr


def test_a_calibrated_bundle_verifies_and_listens_by_its_own_thresholds(
    run: Run, tiny_bundle: Path, clips: Path, stream: Path, tmp_path: Path
) -> None:
    options = ("--data", clips, "--precision-target", 1e-6)  # any threshold will do: the lowest of each label's clips
    made = tmp_path / "calibrated"
    result = run("calibrate", tiny_bundle, *options, "-o", made, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    manifest = read_manifest(made)
    assert [found["temperature"] for found in document["variants"]] == [v.temperature for v in manifest.variants]
    assert {point["label"]: point["threshold"] for point in document["labels"]} == manifest.thresholds
    assert all(point["positives"] == 12 and point["negatives"] == 24 for point in document["labels"])
    assert run("verify", made).returncode == 0
    said = [f"--label-threshold={label}={threshold}" for label, threshold in manifest.thresholds.items()]
    own, told, flat = (
        run("classify", made, stream, "--format", "jsonl", *flags).stdout for flags in ((), said, ("--threshold", 0.5))
    )
    assert own == told
    assert own != flat


def test_a_dry_run_proposes_and_writes_nothing(run: Run, tiny_bundle: Path, clips: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tiny_bundle.iterdir()}
    result = run("calibrate", tiny_bundle, "--data", clips, "--precision-target", 1.0, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "temperature" in result.stdout
    assert {path.name: path.stat().st_mtime_ns for path in tiny_bundle.iterdir()} == before


def test_a_shipped_model_is_calibrated_elsewhere(run: Run, clips: Path) -> None:
    refused = run("calibrate", "sounds", "--data", clips)
    assert refused.returncode == 2
    assert "--output" in refused.stderr


# ----- a budget of false alarms


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, write_audio: Any) -> Path:
    """Four recordings of half a minute: noise whose colour changes."""
    folder, rng = tmp_path_factory.mktemp("room"), np.random.default_rng(3)
    for number in range(4):
        noise = rng.standard_normal(30 * 16_000) * np.repeat(rng.uniform(0.001, 0.3, 60), 8_000)
        write_audio(folder / f"{number}.wav", np.convolve(noise, rng.uniform(-1, 1, 8), "same") / 4)
    return folder


def test_a_budget_is_kept_where_it_was_not_chosen_and_listening_keeps_it(
    run: Run, tiny_bundle: Path, room: Path, tmp_path: Path
) -> None:
    made, options = tmp_path / "quiet", ("--background", room, "--false-alarms-per-hour", 600)
    result = run("calibrate", tiny_bundle, *options, "-o", made, "--json")
    assert result.returncode == 0, result.stderr
    document, manifest = json.loads(result.stdout), read_manifest(made)
    assert [size["patch_size"] for size in document["sizes"]] == [str(patch) for patch in manifest.patches]
    for size, patch in zip(document["sizes"], manifest.patches, strict=True):
        assert size["thresholds"] == manifest.variant(patch).thresholds
        assert size["hours"] == pytest.approx(60 / 3600)
        assert size["after"] <= max(size["before"], 10)
        kept = ("classify", made, "--patch-size", patch, "--format", "jsonl")
        held_back = [room / "1.wav", room / "3.wav"]
        events = [run(*kept, recording).stdout.splitlines() for recording in held_back]
        assert sum(map(len, events)) == size["after"]  # count_noun by the same rules as listening
    assert any(size["before"] > size["after"] for size in document["sizes"])
    assert "at each size" in run("inspect", made).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--false-alarms-per-hour", 1), "give both --background and"),
        (("--background", "ROOM"), "give both --background and"),
        (("--background", "ROOM", "--false-alarms-per-hour", 0), "a number above 0"),
        (("--background", "ROOM", "--false-alarms-per-hour", 1, "--precision-target", 0.9), "one aim"),
        ((), "give clips with labels by --data, or"),
        (("--background", "ROOM", "--false-alarms-per-hour", 1, "-o", "ROOM"), "exists; choose another place"),
    ],
)
def test_an_aim_that_cannot_be_is_refused_before_anything_is_heard(
    run: Run, tiny_bundle: Path, room: Path, options: tuple[Any, ...], message: str
) -> None:
    result = run("calibrate", tiny_bundle, *(room if option == "ROOM" else option for option in options))
    assert result.returncode == 2, result.stderr
    assert message in " ".join(result.stderr.split())


def test_flags_go_before_the_thresholds_of_a_size(tiny_manifest: Manifest) -> None:
    variants = tuple(
        one.model_copy(update={"thresholds": {"bark": 0.7, "clap": 0.2}}) for one in tiny_manifest.variants
    )
    manifest = tiny_manifest.model_copy(update={"variants": variants, "thresholds": {"bark": 0.1, "alarm": 0.3}})
    labels, patch = manifest.spec.labels, manifest.patches[0]

    def found(**flags: Any) -> list[float]:
        return event_settings(manifest, **GIVEN | flags).rules.thresholds(labels, patch).tolist()

    assert found() == pytest.approx([0.3, 0.7, 0.2])
    assert found(label_thresholds=["clap=0.9"]) == pytest.approx([0.3, 0.7, 0.9])
    assert found(threshold=0.6) == pytest.approx([0.6, 0.6, 0.6])
    assert found(deny=["clap"]) == pytest.approx([0.3, 0.7, np.inf])
