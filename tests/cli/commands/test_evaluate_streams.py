"""`flexiast evaluate` on streams: its figures, its pictures, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from flexiast_cli.app import app

Float = NDArray[np.float32]


def evaluate(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, write_audio: Callable[..., Path]) -> Path:
    """Clips of each of the tiny model's labels, and two kinds of background."""
    from flexiast.manifest import read_manifest

    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for label in read_manifest(tiny_bundle).spec.labels:
        for take in range(3):
            write_audio(folder / "clips" / label / f"{take}.wav", rng.normal(0, 0.1, 6_000))
    for kind in ("street", "room"):
        write_audio(folder / "beds" / kind / "bed.wav", rng.normal(0, 0.02, 16_000 * 25))
    return folder


def test_mixes_and_background_give_recall_by_snr_and_false_events_by_kind(
    tiny_bundle: Path, sounds: Path, tmp_path: Path
) -> None:
    words = ("--mix", sounds / "clips", "--background", sounds / "beds", "--snr", "quiet,10", "--patch-sizes", "8,16")
    result = evaluate(tiny_bundle, *words, "--json", "--det", tmp_path / "det.png")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [one["patch_size"] for one in document["results"]] == ["8x8", "16x16", "governed"]
    for one in document["results"]:
        assert [rate["kind"] for rate in one["false_events"]] == ["all", "room", "street"]
        assert one["false_events"][0]["hours"] == pytest.approx(50 / 3600)
        every, *kinds = one["false_events"]
        assert every["false"] == sum(rate["false"] for rate in kinds)
        assert {name: share["of"] for name, share in one["recall_by_snr_db"].items()} == {"quiet": 9, "10": 9}
        assert one["events"] == 18
        assert one["budgets"] == []  # 50 seconds cannot show a rate below 72 an hour
    assert (tmp_path / "det.png").read_bytes().startswith(b"\x89PNG")
    shown = evaluate(tiny_bundle, *words)
    assert shown.stdout.count("governed") == 2
    assert "cannot show a rate below 72 an hour" in shown.stderr


def test_a_rate_that_short_background_cannot_show_is_a_plain_number(
    tiny_bundle: Path, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, 16_000 * 20)
    write_audio(tmp_path / "a.wav", noise)
    (tmp_path / "a.csv").write_text("start_s,end_s,label\n0,1,bark\n")
    result = evaluate(tiny_bundle, "--streams", tmp_path, "--patch-sizes", "8")
    assert "\n1 event\n" in result.stdout, result.output
    assert "cannot show a rate below 180 an hour" in result.stderr


def test_a_threshold_for_all_labels_replaces_the_bundles(tiny_bundle: Path, sounds: Path) -> None:
    words = (tiny_bundle, "--background", sounds / "beds", "--patch-sizes", "8", "--json")
    low, high = (json.loads(evaluate(*words, "--threshold", one).stdout)["results"][0] for one in ("0.01", "1"))
    assert low["false_events"][0]["false"] > high["false_events"][0]["false"] == 0
    assert low["trade_off"] == high["trade_off"] == []  # nothing sounds, so nothing is missed


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "give clips as DATA"),
        (("DATA", "--background", "BEDS"), "give clips as DATA"),
        (("--streams", "BEDS", "--background", "BEDS"), "leave --mix and --background out"),
        (("--mix", "CLIPS"), "needs a --background"),
        (("--mix", "CLIPS", "--background", "BEDS", "--snr", "loud"), "cannot be read; give decibels"),
        (("--mix", "CLIPS", "--background", "BEDS", "--per-label"), "--per-label: of labels of clips only"),
        (("DATA", "--snr", "3", "--clips", "2"), "--snr, --clips: of events in streams only"),
        (("--streams", "BEDS", "--split", "val"), "--split: of clips that are mixed into a background"),
    ],
)
def test_what_cannot_be_combined_is_refused(
    tiny_bundle: Path, sounds: Path, words: tuple[str, ...], reason: str
) -> None:
    places = {"DATA": sounds / "clips", "CLIPS": sounds / "clips", "BEDS": sounds / "beds"}
    result = evaluate(tiny_bundle, *(places.get(word, word) for word in words))
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.replace("│", " ").split())


def test_a_checkpoint_is_to_be_exported_first(tmp_path: Path, sounds: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    result = evaluate(tmp_path / "model.safetensors", "--background", sounds / "beds")
    assert result.exit_code == 2
    assert "flexiast export" in result.stderr


def test_annotated_recordings_give_what_their_own_events_say(
    tiny_bundle: Path, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    """Events that `classify` finds are all found again, and none is false."""
    rng = np.random.default_rng(1)
    yard = write_audio(tmp_path / "places" / "yard" / "a.wav", rng.normal(0, 0.1, 90_000))
    write_audio(tmp_path / "places" / "hall" / "b.wav", rng.normal(0, 0.1, 60_000))
    write_audio(tmp_path / "places" / "hall" / "c.wav", rng.normal(0, 0.1, 60_000))
    (tmp_path / "places" / "hall" / "b.csv").touch()
    words = ("--patch-size", "8", "--format", "csv")
    result = CliRunner().invoke(app, ["classify", str(tiny_bundle), str(yard), *words])
    yard.with_suffix(".csv").write_text(result.stdout)
    result = evaluate(tiny_bundle, "--streams", tmp_path / "places", "--patch-sizes", "8", "--json")
    assert result.exit_code == 0, result.output
    assert "1 recording without annotations, such as c.wav" in result.stderr
    (found,) = json.loads(result.stdout)["results"]
    assert found["events"] > 0
    assert found["recall"] == found["onset_recall"] == 1
    false = {rate["kind"]: rate["false"] for rate in found["false_events"]}
    assert false == {"all": false["hall"], "hall": false["hall"], "yard": 0}
    assert found["trade_off"]
    shown = evaluate(tiny_bundle, "--streams", tmp_path / "places", "--patch-sizes", "8").stdout
    assert "events; " not in shown  # not a word on SNR or other clips, which recordings do not have
    assert "SNR" not in shown


def test_an_annotation_that_the_model_cannot_know_ends_with_the_code_of_data(
    tiny_bundle: Path, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    write_audio(tmp_path / "a.wav", np.full(16_000, 0.1))
    (tmp_path / "a.csv").write_text("start_s,end_s,label\n0,1,unicorn\n")
    result = evaluate(tiny_bundle, "--streams", tmp_path)
    assert result.exit_code == 8
    assert f"{tmp_path / 'a.csv'} line 2: the model does not know 'unicorn'" in result.stderr
