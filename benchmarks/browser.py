"""CPU milliseconds of one window in WebAssembly, as the page of `export --web` runs it, against Python.

`python -m benchmarks.browser [MODEL ...]`; needs node and npm.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import cpu_ms, heading
from flexiast.frontend import Frontend
from flexiast.spec import parse_patches
from flexiast_cli.commands.export.web import build_page
from flexiast_export.publish import PAGE, publish_files
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.inference.ort import load_engines

SIZES = "16,24,32,48"


def main(models: list[str]) -> None:
    for name in models:
        bundle, patches = Bundle.open(find_bundle(name)), parse_patches(SIZES)
        for precision in ("fp32", "int8"):
            engines = load_engines(bundle, patches, precision)
            frontend = Frontend(engines.spec.frontend)
            samples = (0.1 * np.sin(np.arange(frontend.spec.window_samples) ** 2)).astype(np.float32)
            features = frontend.window(samples)[None]
            calls = {str(patch): partial(engines.logits, features, patch) for patch in patches}
            python = cpu_ms({"frontend": lambda: frontend(samples), **calls}, rounds=31)  # noqa: B023
            with tempfile.TemporaryDirectory() as place:
                publish_files(build_page(bundle, patches, precision), Path(place) / "site", force=False, kind=PAGE)
                command = ["node", str(Path(__file__).with_suffix(".mjs")), str(Path(place) / "site")]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            heading(f"{name} in {precision}: a window of {frontend.spec.window_s:g} s, in Python and in WebAssembly")
            for part, ms in json.loads(done.stdout).items():
                print(f"{part:>8}  {python[part]:7.2f} ms  {ms:7.2f} ms  ({ms / python[part]:.1f} ×)")


if __name__ == "__main__":
    main(sys.argv[1:] or ["sounds", "commands"])
