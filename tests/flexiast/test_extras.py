"""Optional parts: a missing one says how to install it."""

from __future__ import annotations

import math

import pytest

from flexiast.errors import ExitCode, MissingExtraError
from flexiast.extras import require


def test_an_installed_module_is_imported() -> None:
    assert require("math", "train") is math


def test_a_missing_module_names_the_extra_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_module.*pip install 'flexiast\[export\]'") as caught:
        require("no_such_module", "export")
    assert caught.value.exit_code == ExitCode.EXTRA
