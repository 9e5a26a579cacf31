"""What a user sees when something is wrong: one line, the documented exit code, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
        (("--realtime",), "--input"),
        (("--input", "x.wav", "--threshold", "7"), "7"),
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


def test_a_closed_pipe_is_no_error(bundle: Path, sounds: Path) -> None:
    flexiast = Path(sys.executable).with_name("flexiast")
    command = f"{flexiast} classify {bundle} {sounds} --threshold 0.05 --format jsonl | head -n 1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=False, capture_output=True, text=True)
    assert_refused(result, 0)
    assert result.stdout.count("\n") == 1
