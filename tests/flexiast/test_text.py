"""What may be printed: everything that cannot steer a terminal, joiners inside words among it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.spec import check_label
from flexiast.text import printable

ZWNJ, ZWJ = "\u200c", "\u200d"
WORDS = (
    f"\u06a9\u062a\u0627\u0628{ZWNJ}\u062e\u0627\u0646\u0647",  # Persian: library
    f"\u06f1\u06f0{ZWNJ}\u0633\u0627\u0644\u0647",  # Persian: ten years old, in digits
    f"\u0915\u094d{ZWJ}\u0937",  # Hindi: half of a ka, which its mark ends
    f"\U0001f469{ZWJ}\U0001f692",  # a firefighter
    f"\U0001f469\U0001f3fd{ZWJ}\U0001f692",  # with a skin tone
    f"\u2764\ufe0f{ZWJ}\U0001f525",  # a heart on fire
)


@pytest.mark.parametrize("word", WORDS)
def test_joiners_inside_words_stay(word: str) -> None:
    assert printable(word) == word
    assert check_label(word) == word
    assert printable(f"\x1b{word}\n") == f"\\x1b{word}\n"


@pytest.mark.parametrize(
    "text", [ZWJ, f"{ZWNJ}a", f"a{ZWJ}", f"a{ZWJ}{ZWJ}\u0633", f"a {ZWNJ}\u0633", f"do{ZWNJ}g", f"1{ZWJ}2"]
)
def test_other_joiners_are_written_out(text: str) -> None:
    assert not set(printable(text)) & {ZWNJ, ZWJ}
    with pytest.raises(ValueError, match="control characters"):
        check_label(text)


@given(st.text(st.sampled_from("a1\u0633\u094d\U0001f692 \n\x1b\u202e\xad" + ZWNJ + ZWJ)))
def test_nothing_else_of_their_kind_is_let_through(text: str) -> None:
    shown = printable(text)
    assert {unicodedata.category(character) for character in shown.replace("\n", "")} <= {
        "Ll",
        "Lo",
        "Mn",
        "So",
        "Nd",
        "Po",
        "Zs",
        "Cf",
    }
    assert not set(shown) & set("\x1b\u202e\xad")
    assert printable(shown) == shown
