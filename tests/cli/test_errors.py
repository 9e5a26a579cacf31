"""What a user sees when something is wrong: one line, the documented exit code, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import Run


def assert_refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_unknown_model(run: Run) -> None:
    assert_refused(run("inspect", "nothing-here"), 3, "nothing-here", "commands", "sounds")


def test_patch_size_that_is_none(run: Run, trained: Path, tmp_path: Path) -> None:
    assert_refused(run("export", trained, "--patch-sizes", "8,big", "-o", tmp_path / "b"), 2, "big", "16x32")
    assert list(tmp_path.iterdir()) == []


def test_patch_size_larger_than_the_window(run: Run, trained: Path, tmp_path: Path) -> None:
    assert_refused(run("export", trained, "--patch-sizes", "400", "-o", tmp_path / "b"), 2, "400x400", "128 mel bins")
    assert list(tmp_path.iterdir()) == []


def test_export_over_something_else(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert_refused(
        run("export", trained, "--patch-sizes", "48", "-o", tmp_path / "notes", "--force"), 2, "not a bundle"
    )
    assert (tmp_path / "notes").is_dir()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "fp8"), "unknown precision 'fp8'; there are fp32, fp16, int8, int8-static"),
        (("--precision", "int8-static"), "--calibration-data"),
        (("--opset", "16"), "opset 16 cannot be written; it must be 17"),
    ],
)
def test_export_in_a_way_that_is_none(
    options: tuple[str, str], said: str, run: Run, trained: Path, tmp_path: Path
) -> None:
    assert_refused(run("export", trained, "--patch-sizes", "16", "-o", tmp_path / "b", *options), 2, said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("backend", "said"), [("cuda", "CUDAExecutionProvider was asked for"), ("tensorrt", "NVIDIA")])
def test_a_backend_that_is_not_here_is_said_and_not_replaced(
    backend: str, said: str, run: Run, bundle: Path, sounds: Path
) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a GPU")
    assert_refused(run("classify", bundle, sounds, "--backend", backend), 1, said)
    assert_refused(run("listen", bundle, "--input", next(sounds.rglob("*.wav")), "--backend", backend), 1, said)


def test_a_checkpoint_runs_in_pytorch_only(run: Run, trained: Path, sounds: Path) -> None:
    assert_refused(run("evaluate", trained, sounds, "--backend", "cuda"), 2, "PyTorch", "measure a bundle")


def test_folders_of_which_some_are_labels_are_not_taken_for_mere_sounds(
    run: Run, trained: Path, sounds: Path, tmp_path: Path
) -> None:
    mixed = shutil.copytree(sounds, tmp_path / "mixed")
    (mixed / ".git").mkdir()
    shutil.copytree(next(path for path in sounds.iterdir() if path.is_dir()), mixed / "garden")
    result = run("export", trained, "--patch-sizes", "16", "-o", tmp_path / "b", "--verify-data", mixed)
    assert_refused(result, 8, "'garden' is none that the model knows")


def test_sizes_are_added_in_the_precisions_that_a_bundle_has(run: Run, bundle: Path) -> None:
    assert_refused(run("export", bundle, "--patch-sizes", "12", "--precision", "int8"), 2, "from the checkpoint")


def test_export_without_a_place(run: Run, trained: Path) -> None:
    assert_refused(run("export", trained, "--patch-sizes", "16"), 2, "--output")


def test_pickle_is_not_a_checkpoint(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"\x80\x04\x95garbage")
    assert_refused(run("export", tmp_path / "model.pth", "--patch-sizes", "16", "-o", tmp_path / "b"), 3, "safetensors")


def test_data_that_does_not_exist(run: Run, tmp_path: Path) -> None:
    assert_refused(run("train", tmp_path / "none", "-o", tmp_path / "run"), 8, "none")
    assert list(tmp_path.iterdir()) == []


def test_label_that_the_model_does_not_know(run: Run, trained: Path, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(f"path,label\n{sounds}/low/0.wav,whale\n")
    assert_refused(run("evaluate", trained, tmp_path / "data.csv"), 8, "whale", "high, low")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--input", "x.wav", "--device", "usb"), "--device"),
        (("--input", "-", "--channel", "2"), "--channel"),
        (("--on-device-loss", "wait"), "'retry', 'exit'"),
        (("--realtime",), "--input"),
        (("--input", "x.wav", "--threshold", "7"), "--threshold"),
    ],
)
def test_options_that_exclude_each_other(run: Run, bundle: Path, arguments: tuple[str, ...], word: str) -> None:
    assert_refused(run("listen", bundle, *arguments), 2, word)


def test_audio_that_is_none(run: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("hello")
    assert_refused(run("listen", bundle, "--input", tmp_path / "a.wav"), 8, "a.wav")
    assert_refused(run("listen", bundle, "--input", "-", stdin=b"odd"), 8, "16-bit")
    assert_refused(run("classify", bundle, tmp_path / "none.wav"), 8, "none.wav")


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("torch", "train", ("train", "DATA", "-o", "x")),
        ("onnx", "export", ("export", "M", "--patch-sizes", "8", "-o", "x")),
    ],
)
def test_a_missing_extra_is_named_with_its_remedy(module: str, extra: str, arguments: tuple[str, ...]) -> None:
    lines = [
        "import sys",
        f"sys.modules[{module!r}] = None",
        f"sys.argv = ['flexiast', *{arguments!r}]",
        "from flexiast_cli.main import run",
        "run()",
    ]
    code = "\n".join(lines)
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert_refused(result, 7, f"pip install 'flexiast[{extra}]'")


@pytest.mark.parametrize("output", [("--format", "csv"), ("--format", "json"), ()])
def test_output_that_a_shell_has_closed_goes_nowhere(bundle: Path, sounds: Path, output: tuple[str, ...]) -> None:
    flexiast = Path(sys.executable).with_name("flexiast")
    command = f"{flexiast} classify {bundle} {next(sounds.rglob('*.wav'))} {' '.join(output)} >&-"
    result = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr


def test_a_closed_pipe_is_no_error(bundle: Path, sounds: Path) -> None:
    flexiast = Path(sys.executable).with_name("flexiast")
    command = f"{flexiast} classify {bundle} {sounds} --threshold 0.05 --format jsonl | head -n 1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=False, capture_output=True, text=True)
    assert_refused(result, 0)
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (("train", "SOUNDS", "-o", "x", "--learning-rate", "0"), "learning_rate"),
        (("train", "SOUNDS", "-o", "x", "--window", "-1"), "--window"),
        (("train", "SOUNDS", "-o", "x", "--window", "nan"), "--window"),
        (("train", "SOUNDS", "-o", "x", "--window", "0.001"), "shorter than one frame"),
        (("train", "SOUNDS", "-o", "x", "--seed", "99999999999999999999"), "seed"),
        (("train", "SOUNDS", "-o", "x", "--base-patch", "400"), "400x400"),
        (("listen", "BUNDLE", "--input", "SOUNDS/low/0.wav", "--duration", "inf"), "--duration"),
        (("listen", "BUNDLE", "--input", "SOUNDS/low/0.wav", "--latency", "nan"), "--latency"),
        (("listen", "BUNDLE", "--input", "SOUNDS/low/0.wav", "--patch-sizes", ""), "patch size"),
        (("classify", "BUNDLE", "SOUNDS", "-o", "SOUNDS/low/0.wav/events.csv"), "not a folder"),
        (("classify", "BUNDLE", "SOUNDS", "-o", "SOUNDS"), "folder"),
        (("evaluate", "BUNDLE", "SOUNDS", "--plot", "SOUNDS"), "folder"),
    ],
)
def test_values_that_cannot_be_used(
    run: Run, bundle: Path, sounds: Path, tmp_path: Path, command: tuple[str, ...], word: str
) -> None:
    arguments = [part.replace("SOUNDS", str(sounds)).replace("BUNDLE", str(bundle)) for part in command]
    assert_refused(run(*arguments, cwd=tmp_path), 2, word)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_edited_by_hand_is_noticed(run: Run, bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """Every checksum still holds; the graphs say what they were exported with."""
    edited = tmp_path / "edited"
    shutil.copytree(bundle, edited)
    (edited / "manifest.json").chmod(0o644)
    text = (edited / "manifest.json").read_text()
    assert '"low"' in text
    (edited / "manifest.json").write_text(text.replace('"low"', '"swapped"'))
    assert_refused(run("verify", edited), 5, "another spec")
    assert_refused(run("listen", edited, "--input", sounds / "low/0.wav"), 5, "another spec")


def test_a_device_is_written_to_and_stays_one(run: Run, bundle: Path, sounds: Path) -> None:
    assert run("classify", bundle, sounds, "--format", "csv", "-o", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()


def test_a_file_name_cannot_steer_the_terminal(run: Run, bundle: Path, sounds: Path, tmp_path: Path) -> None:
    shutil.copy(sounds / "low/0.wav", tmp_path / "a\x1b[31m[red]\nb.wav")
    for arguments in (("--format", "table"), ("--format", "csv"), ("--format", "jsonl")):
        result = run("classify", bundle, tmp_path, "--threshold", "0.05", *arguments)
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in result.stdout + result.stderr
        assert "[red]" in result.stdout


def test_file_names_that_are_not_utf8_are_read(run: Run, bundle: Path, sounds: Path, tmp_path: Path) -> None:
    shutil.copy(sounds / "low/0.wav", os.fsencode(tmp_path) + b"/low\xff.wav")
    result = run("classify", bundle, tmp_path, "--threshold", "0.05", "--format", "jsonl")
    assert result.returncode == 0, result.stderr
    assert "low" in result.stdout


def test_an_absurd_sample_rate_is_refused(run: Run, bundle: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", np.zeros(100), 4)
    assert_refused(run("listen", bundle, "--input", tmp_path / "slow.wav"), 8, "4 samples a second")
    assert_refused(run("classify", bundle, tmp_path / "slow.wav"), 8, "4 samples a second")


def test_one_label_is_not_a_task(run: Run, sounds: Path, tmp_path: Path) -> None:
    shutil.copytree(sounds / "low", tmp_path / "data/low")
    assert_refused(run("train", tmp_path / "data", "-o", tmp_path / "run"), 8, "one label only")


def test_clips_of_several_labels_are_not_measured_by_a_model_of_one(
    run: Run, trained: Path, sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text(f"path,label\n{sounds}/low/0.wav,low;high\n")
    assert_refused(run("evaluate", trained, tmp_path / "data.csv"), 8, "several labels")


def test_a_shipped_model_is_found_beside_a_folder_of_its_name(run: Run, sounds: Path, tmp_path: Path) -> None:
    shutil.copytree(sounds, tmp_path / "sounds")
    alone = run("classify", "sounds", "--format", "csv", cwd=tmp_path)
    named = run("classify", "sounds", "sounds", "--format", "csv", cwd=tmp_path)
    assert alone.returncode == named.returncode == 0, alone.stderr + named.stderr
    assert alone.stdout == named.stdout
    assert json.loads(run("inspect", "sounds", "--json", cwd=tmp_path).stdout)["spec"]["labels"][0] == "airplane"


def test_a_checkpoint_is_not_taken_for_audio(run: Run, trained: Path, sounds: Path) -> None:
    assert_refused(run("classify", trained / "checkpoint.safetensors", sounds), 3, "flexiast export")
