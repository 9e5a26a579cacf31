"""The page's JavaScript, in Node on ONNX Runtime Web, gives what flexiast writes into a conformance folder."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run

SCRIPT = Path(__file__).parents[3] / "examples/browser/conformance.mjs"
STREAM = Path(__file__).parents[3] / "cli/flexiast_cli/browser/stream.js"
MODEL_WITHOUT_NUMBERS = """
    const frontend = { sample_rate_hz: 100, window_samples: 100, taper_samples: 10, hop_samples: 10, mel_bins: 1 };
    const model = {
      spec: { frontend }, labels: ["dog"], thresholds: () => [0.5], scores: (logits) => logits,
      features: async (samples) => new Float32Array(Math.floor(samples.length / 10)),
      logits: async () => Float32Array.of(NaN),
    };
    const stream = new Stream(model), noise = Float32Array.from({ length: 100 }, (_, at) => (at % 2) - 0.5);
    for await (const result of stream.push(noise, () => "8x8")) console.log("a result");
"""


@pytest.fixture(scope="module")
def answers(run: Run, site: Path) -> Path:
    folder = site.parent / "answers"
    result = run("export", "commands", "--patch-sizes", "8,48", "--conformance", folder)
    assert result.returncode == 0, result.stderr
    return folder


def check(node: str, site: Path, answers: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([node, SCRIPT, site, answers], check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_javascript_gives_the_same_features_scores_and_events(node: str, site: Path, answers: Path) -> None:
    code, report = check(node, site, answers)
    assert code == 0, report
    assert set(report["sizes"]) == {"8x8", "48x48"}
    assert report["sizes"]["48x48"]["events"]["strict"]


def test_another_answer_is_noticed(node: str, site: Path, answers: Path, tmp_path: Path) -> None:
    for path in answers.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    scores = np.load(tmp_path / "scores-48x48.npy")
    scores[3, 1] += 0.01
    np.save(tmp_path / "scores-48x48.npy", scores)
    code, report = check(node, site, tmp_path)
    assert code == 1
    assert report["sizes"]["48x48"]["scores"] > 0.009
    assert report["sizes"]["8x8"]["scores"] < 1e-4


def test_the_javascript_of_the_page_on_own_programs_runs(node: str, site: Path, run: Run, tmp_path: Path) -> None:
    """With the runtime that the page has, which is what npm would install, less its choice of threads in Node."""
    page = (Path(__file__).parents[3] / "docs/how-to/own-program.md").read_text("utf-8")
    (program,) = re.findall(r"```js\n(.*?)```", page, re.DOTALL)
    (tmp_path / "program.mjs").write_text(program, "utf-8")
    package = tmp_path / "node_modules/onnxruntime-web"
    package.mkdir(parents=True)
    (package / "ort").symlink_to(site / "ort")
    (package / "package.json").write_text('{"type": "module", "exports": "./index.mjs"}', "utf-8")
    source = "./ort/ort.wasm.min.mjs"
    text = f'import {{ env }} from "{source}";\nenv.wasm.numThreads = 1;\nexport * from "{source}";\n'
    (package / "index.mjs").write_text(text, "utf-8")
    options = ("--patch-sizes", "16", "--single-file", "-o", "models")
    assert run("export", "commands", *options, cwd=tmp_path).returncode == 0
    done = subprocess.run([node, "program.mjs"], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = [float(number) for number in re.findall(r"\d\.\d+(?:e-\d+)?", done.stdout)]
    assert len(scores) == 14
    assert all(0 <= score <= 1 for score in scores)


def test_scores_that_are_no_numbers_are_an_error_and_no_result(node: str) -> None:
    script = f"import {{ Stream }} from '{STREAM.as_uri()}';\n{MODEL_WITHOUT_NUMBERS}"
    command = [node, "--input-type=module", "--eval", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "gives no numbers for the sound before 1.0 s" in done.stderr
