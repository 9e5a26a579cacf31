"""Checks what is installed."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from flexiast import __version__
from flexiast.errors import MissingExtraError
from flexiast_runtime.checks.result import CheckResult
from flexiast_runtime.inference.tensorrt.build import FLAVOURS, find_tensorrt


def check_versions() -> Iterator[CheckResult]:
    """Versions of everything that results depend on."""
    import numpy
    import onnxruntime

    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    text = f"flexiast {__version__}, {python}, numpy {numpy.__version__}, ONNX Runtime {onnxruntime.__version__}"
    yield CheckResult("versions", "ok", text)
    for flavour in FLAVOURS:
        try:
            found = find_tensorrt(flavour)
        except MissingExtraError:
            continue
        yield CheckResult("versions", "ok", f"{flavour} {found.version}")
