"""Optional parts: a missing one says how to install it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from flexiast.errors import ExitCode, MissingExtraError
from flexiast.extras import require


def test_an_installed_module_is_imported() -> None:
    assert require("math", "train") is math


def test_a_missing_module_names_the_extra_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_module.*pip install 'flexiast\[export\]'") as caught:
        require("no_such_module", "export")
    assert caught.value.exit_code == ExitCode.EXTRA


@pytest.mark.parametrize(
    "failure", ["OSError('x.so: undefined symbol: aoti_torch')", "ImportError('needs another torch')"]
)
def test_a_module_that_does_not_load_is_told_apart_from_one_that_is_missing(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mismatched_library.py").write_text(f"raise {failure}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingExtraError, match=r"mismatched_library is installed but does not load .*flexiast\[train\]"
    ):
        require("mismatched_library", "train")
