"""What `flexiast train` says and refuses before its first step."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flexiast.errors import UsageError
from flexiast.processor import has_bfloat16_dot_product
from flexiast.training.recipe import Distill
from tests.cli.conftest import RATE_HZ, Run, tone, write_sounds
from tests.cli.test_errors import assert_refused

QUICK = ("--model", "pico", "--epochs", 1, "--batch-size", 16)


@pytest.fixture(scope="module")
def short_sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 0.3 s: 28 frames, fewer than four of the default sizes have."""
    return write_sounds(tmp_path_factory.mktemp("short") / "sounds", clips=2, seconds=0.3)


@pytest.fixture(scope="module")
def trained_by_default(
    run: Run, short_sounds: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run that was told no sizes, and what it said."""
    output = tmp_path_factory.mktemp("default") / "run"
    return output, run("train", short_sounds, "-o", output, *QUICK)


def test_default_sizes_larger_than_the_window_are_left_out_and_told_ones_refused(
    run: Run, short_sounds: Path, trained_by_default: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    output, result = trained_by_default
    assert result.returncode == 0, result.stderr
    assert "Patch sizes 30, 32, 40, 48 do not fit a window of 0.3 s and are left out" in result.stderr
    assert "From the start" not in result.stderr
    document = json.loads((output / "run.json").read_text("utf-8"))
    trained = ["8x8", "10x10", "12x12", "16x16", "20x20", "24x24"]
    assert document["recipe"]["training"]["patches"] == trained
    assert [measured["patch_size"] for measured in document["validation"]] == trained

    told = run("train", short_sounds, "-o", tmp_path / "told", *QUICK, "--patch-sizes", "24,30")
    assert_refused(told, 2, "30x30 is larger than one window")


def test_what_a_start_lends_is_told_in_one_line(
    run: Run, short_sounds: Path, trained_by_default: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    other = ("--init", trained_by_default[0], "--patch-sizes", 24, "--base-patch", 24)
    result = run("train", short_sounds, "-o", tmp_path / "run", *QUICK, *other)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if "PI-resized" in line]
    positions = "positions interpolated at the centres of the new patches"
    assert lines == [f"From the start: kernel PI-resized from 16x16 to 24x24, {positions}"]


def test_few_clips_are_advised_a_shipped_model_first_and_that_a_convnet_cannot_be_exported(
    trained_by_default: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    (hint,) = [line for line in trained_by_default[1].stderr.splitlines() if line.startswith("Fewer than 100 clips")]
    places = [hint.index(text) for text in ("--init commands", "--model convnet", "cannot be exported")]
    assert places == sorted(places)


def test_inspect_of_a_run_shows_what_it_measured_and_on_how_many_clips(
    run: Run, trained_by_default: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    output, _ = trained_by_default
    document = json.loads((output / "run.json").read_text("utf-8"))
    figures = ", ".join(f"{one['patch_size'].split('x')[0]} {one['accuracy']:.3f}" for one in document["validation"])
    clips = document["clips"]["val"]
    noun = "clip" if clips == 1 else "clips"
    assert f"accuracy on {clips} validation {noun}: {figures}\n" in run("inspect", output).stdout


@pytest.mark.parametrize("model", ["convnet", "convnet-wide"])
def test_a_window_too_short_for_a_convnet_is_refused(run: Run, short_sounds: Path, tmp_path: Path, model: str) -> None:
    for window in (0.1, 0.2):  # the first is shorter than a patch, of which a convnet knows nothing
        result = run("train", short_sounds, "-o", tmp_path / "run", "--model", model, "--window", window)
        assert_refused(result, 2, f"{window} s is too short", "--window 0.325 or more")


def test_more_workers_than_any_machine_needs_are_refused(run: Run, short_sounds: Path, tmp_path: Path) -> None:
    result = run("train", short_sounds, "-o", tmp_path / "run", *QUICK, "--workers", 99_999)
    assert_refused(result, 2, "--workers", "as many as there are free cores")
    assert not list(tmp_path.iterdir())


def test_a_run_longer_than_can_be_planned_is_refused(run: Run, short_sounds: Path, tmp_path: Path) -> None:
    result = run("train", short_sounds, "-o", tmp_path / "run", *QUICK[:2], "--epochs", 99_999_999_999)
    assert_refused(result, 2, "10,000,000 steps", "lower epochs")


def test_a_label_that_only_validates_is_said(run: Run, short_sounds: Path, tmp_path: Path) -> None:
    clips = sorted(short_sounds.rglob("*.wav"))
    labels = sorted({clip.parent.name for clip in clips})
    rows = [f"{clip},{clip.parent.name},{'val' if clip.parent.name == labels[-1] else 'train'}" for clip in clips]
    rows.append(f"{clips[0]},{labels[0]},val")
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,split", *rows]))
    result = run("train", tmp_path / "clips.csv", "-o", tmp_path / "run", *QUICK, "--patch-sizes", 24)
    assert result.returncode == 0, result.stderr
    assert f"No training clip has {labels[-1]}: the model will not know it" in result.stderr


def test_what_was_left_out_of_which_label_is_said_before_training(run: Run, tmp_path: Path) -> None:
    sounds = write_sounds(tmp_path / "sounds", clips=5)
    (sounds / "low" / "bad.wav").write_text("no audio")
    (sounds / "high" / "notes.txt").write_text("text")
    (sounds / "high" / "gone.flac").symlink_to("nowhere.flac")
    (sounds / "nothing").mkdir()
    result = run("train", sounds, "-o", tmp_path / "run", *QUICK, "--patch-sizes", 24)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("bad.wav") == 1
    left_out, counted, named, *table = result.stderr.splitlines()[:7]
    assert left_out.startswith(f"Left out of {sounds}: 1 broken link, such as {sounds / 'high' / 'gone.flac'}")
    assert left_out.endswith("; 1 empty folder (nothing); 1 .txt file (not read as audio)")
    assert counted == "Left out 1 file that cannot be used:"
    assert named.startswith(f"  {sounds / 'low' / 'bad.wav'} cannot be read as audio")
    assert [line.split() for line in table] == [
        ["label", "train", "val", "left", "out"],
        ["high", "4", "1", "1"],
        ["low", "4", "1", "1"],
        ["nothing", "0", "0", "0"],
    ]
    assert "(2 clips: " in result.stderr  # of how many clips a figure is


def test_folders_named_by_split_train_and_the_test_split_is_measured(run: Run, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_sounds(tmp_path / "sounds" / split, clips=4)
    options = (*QUICK[:2], "--epochs", 30, "--patch-sizes", 24, "--learning-rate", 3e-3)
    result = run("train", tmp_path / "sounds", "-o", tmp_path / "run", *options)
    assert result.returncode == 0, result.stderr
    assert "Neither trained on nor validated on: test (8 clips)" in result.stderr
    assert "8 clips train, 8 validate (folders train, val, test); 2 labels" in result.stderr
    measured = run("evaluate", tmp_path / "run", tmp_path / "sounds", "--split", "test", "--per-label", "--json")
    (size,) = json.loads(measured.stdout)["results"]
    confusion = size["confusion"]
    assert [sum(row) for row in confusion] == [4, 4]
    assert size["accuracy"] == pytest.approx((confusion[0][0] + confusion[1][1]) / 8)
    assert size["accuracy_interval"][0] <= size["accuracy"] <= size["accuracy_interval"][1]
    assert [(label["label"], label["clips"], label["recall"]) for label in size["labels"]] == [
        ("high", 4, confusion[0][0] / 4),
        ("low", 4, confusion[1][1] / 4),
    ]
    verified = run("export", tmp_path / "run", "--patch-sizes", 24, "-o", tmp_path / "b", "--verify-data",
                   tmp_path / "sounds")  # fmt: skip
    assert verified.returncode == 0, verified.stderr
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))
    assert manifest["variants"][0]["labelled"]["clips"] == 8  # of val


@pytest.mark.parametrize("amplitude", [0.0, 0.3])
def test_what_cannot_be_trained_on_is_refused_before_training(run: Run, tmp_path: Path, amplitude: float) -> None:
    for label in ("a", "b"):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for number in range(1 if amplitude else 5):
            clip = amplitude * tone(300, 0.5, number)
            soundfile.write(tmp_path / "sounds" / label / f"{number}.wav", clip, RATE_HZ)
    message = "one clip of each label" if amplitude else "training clips are silent"
    assert_refused(run("train", tmp_path / "sounds", "-o", tmp_path / "run", *QUICK), 8, message, "record")
    assert not (tmp_path / "run").exists()


def test_a_model_that_always_answers_one_label_is_named(run: Run, tmp_path: Path) -> None:
    sounds = write_sounds(tmp_path / "sounds", clips=20)
    for path in sorted((sounds / "high").iterdir())[3:]:
        path.unlink()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\nbalanced = false\nlearning_rate = 1e-6\n")
    result = run("train", sounds, "-o", tmp_path / "run", *QUICK, "--patch-sizes", 24, "--config", recipe)
    assert result.returncode == 0, result.stderr
    assert "nearly every validation clip" in result.stderr
    # 1 clip of high and 4 of low validate: always answering low is right for 0.80
    last = result.stderr.splitlines()[-1]
    assert "at chance: its mean accuracy is 0.80" in last
    assert "'low' would be right for 0.80 of the validation clips" in last
    assert last.endswith(f"Try next: flexiast train {sounds} -o {tmp_path / 'run-sounds'} --init sounds")
    measured = run("evaluate", tmp_path / "run", sounds)
    assert "nearly every clip is answered" in measured.stderr


def test_without_a_background_a_run_warns_and_with_one_it_tells_what_it_took(
    run: Run, short_sounds: Path, trained_by_default: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert "There is no background" in trained_by_default[1].stderr
    assert "flexiast record --hours 1 -o place" in trained_by_default[1].stderr
    assert "--background place" in trained_by_default[1].stderr
    noise = 0.1 * np.random.default_rng(0).standard_normal(70 * 16_000)
    soundfile.write(tmp_path / "room.wav", noise, 16_000)
    options = ("--patch-sizes", 24, "--background", tmp_path / "room.wav")
    result = run("train", short_sounds, "-o", tmp_path / "run", *QUICK, *options)
    assert result.returncode == 0, result.stderr
    assert "There is no background" not in result.stderr
    assert "Background: 0.01 h train in 1 source, 77 windows validate" in result.stderr
    document = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert document["background"]["val_windows"] == 77  # of 0.3 s in the last of three stretches
    assert 0 <= document["validation"][0]["specificity"] <= 1
    assert "a class for nothing" in run("inspect", tmp_path / "run" / "checkpoint.safetensors").stdout


def test_a_single_file_of_background_is_split_alike_for_training_and_for_evaluation(
    run: Run, short_sounds: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(short_sounds, tmp_path / "sounds")
    (data / "_background_").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(70 * 16_000)
    soundfile.write(data / "_background_" / "room.wav", noise, 16_000)
    result = run("train", data, "-o", tmp_path / "run", *QUICK, "--patch-sizes", 24)
    assert result.returncode == 0, result.stderr
    trained = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    found = json.loads(run("evaluate", tmp_path / "run", data, "--split", "val", "--json").stdout)
    assert found["background_windows"] == trained["background"]["val_windows"] > 0
    assert found["results"][0]["specificity"] == trained["validation"][0]["specificity"]


def test_a_resumed_run_keeps_the_precision_that_it_began_with() -> None:
    from flexiast_cli.commands.train.run import choose_bf16

    output = Path("runs/first")
    for precision in ("bfloat16", "float32"):
        began = precision == "bfloat16"
        assert choose_bf16(None, {"precision": precision}, output) is began
        assert choose_bf16(began, {"precision": precision}, output) is began
        with pytest.raises(UsageError, match=f"{output} began in {precision}"):
            choose_bf16(not began, {"precision": precision}, output)
        assert choose_bf16(began, {}, output) is began
    assert choose_bf16(None, {}, output) == has_bfloat16_dot_product()


def test_a_share_for_a_teacher_that_nothing_uses_is_explained_by_the_teachers_given() -> None:
    from flexiast_cli.commands.train.run import explain_unused_weight

    asked, own, external = Distill(teacher_weight=0.5), Path("runs/teacher"), Path("yamnet.onnx")
    assert "there is no --teacher" in (explain_unused_weight(asked, []) or "")
    assert "yamnet.onnx teaches by its embeddings" in (explain_unused_weight(asked, [external]) or "")
    assert explain_unused_weight(asked, [external, own]) is None
    assert explain_unused_weight(Distill(), []) is None


def test_labels_that_differ_in_timbre_are_trained_without_varying_it_and_resume_and_start_so(
    run: Run, tmp_path: Path
) -> None:
    """The same sweeps under three labels, each in the hum of its own microphone."""
    rng, seconds = np.random.default_rng(0), np.arange(RATE_HZ // 2) / RATE_HZ
    for label, hum_hz in (("first", 700), ("second", 1100), ("third", 1700)):
        (tmp_path / "voices" / label).mkdir(parents=True)
        for number in range(20):
            low, high = rng.uniform(200, 6000, 2)
            sweep = 0.3 * np.sin(2 * np.pi * (low * seconds + (high - low) * seconds**2))
            hum = 0.003 * np.sin(2 * np.pi * (hum_hz * seconds + rng.random()))
            clip = sweep + hum + 1e-4 * rng.standard_normal(len(seconds))
            soundfile.write(tmp_path / "voices" / label / f"{number}.wav", clip, RATE_HZ)
    options = ("--patch-sizes", 24, "--epochs", 1)
    first = "train", tmp_path / "voices", "-o", tmp_path / "run", *options, "--init", "commands"
    result = run(*first)
    assert result.returncode == 0, result.stderr
    assert "The average spectrum separates these labels better than the pretrained model does" in result.stderr
    header = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    augment = header["recipe"]["training"]["augment"]
    assert header["by_timbre"]
    assert (augment["speed"], augment["filter_db"]) == (0, 0)
    resumed = run(*first, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "The average spectrum" not in resumed.stderr  # what was decided stays, and is not measured again
    again = run("train", tmp_path / "voices", "-o", tmp_path / "again", *options, "--init", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert "speed and filter augmentation stay off" in again.stderr
    measured = run("evaluate", tmp_path / "run", tmp_path / "voices", "--json")
    assert "are in the training split" in measured.stderr
    assert json.loads(measured.stdout)["clips"] == 60
