"""Values that an option does not take are refused in the words of this program."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from flexiast_cli.app import app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("record", "-o", "x", "--format", "mp3"), "'--format': 'mp3' is not one of 'flac', 'wav'"),
        (
            ("mine", "sounds", "x", "-o", "x.csv", "--threshold", "nan"),
            "nan cannot be used; give a number of at most 1",
        ),
        (
            ("mine", "sounds", "x", "-o", "x.csv", "--threshold", "0"),
            "0 cannot be used; give a number of at least 0.01",
        ),
        (("mine", "sounds", "x", "-o", "x.csv", "--most", "few"), "few cannot be used; give a whole number"),
        (("mine", "sounds", "x", "-o", "x.csv", "--threshold", "low"), "low cannot be used; give a number"),
    ],
)
def test_what_was_given_and_expected_is_said_plainly(words: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    text = " ".join(result.stderr.replace("│", " ").split())
    assert (result.exit_code, said in text) == (2, True), text
    assert "Value error" not in text
    assert "Input should" not in text


def test_a_value_of_the_environment_is_refused_in_the_same_words() -> None:
    words = ("mine", "sounds", "x", "-o", "x.csv")
    result = CliRunner().invoke(app, words, env={"FLEXIAST_MINE_THRESHOLD": "7", "COLUMNS": "200"})
    text = " ".join(result.stderr.replace("│", " ").split())
    assert "7 cannot be used; give a number of at most 1 (from" in text
