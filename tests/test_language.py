"""Names are plain English: functions are verbs, and the field's words stand in place of private ones."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("flexiast", "export/flexiast_export", "runtime/flexiast_runtime", "cli/flexiast_cli")


def split_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IRREGULAR_PARTICIPLES = split_words("""
    begun bought bound brought built caught chosen dealt done drawn driven fallen felt fitted forgotten found frozen
    given gone got grown heard held hidden kept known laid led left lent lost made met paid ridden risen said seen
    sent shown sold sought spent spoken stood struck stuck sung sunk sworn swept taken thought thrown told torn
    understood woken won worn wound written
""")
NOT_PARTICIPLES = split_words("bleed bring embed exceed feed need ping proceed ring seed shed shred speed string")
"""Verbs and nouns that only look like one"""
PREPOSITIONS = split_words("""
    about above across after against along among around at before below beside besides by during for from in into of off
    on onto over past since through to toward towards under until up upon via with within without
""")
CONVERSIONS = split_words("at from is on to with")
"""Prepositions that may begin a longer name: ``to_json``, ``from_frontend``, ``with_gpu``"""

ALLOWED = {
    "until_reader_stalls": "a context manager: `with until_reader_stalls():` reads as a sentence",
}
"""Names that the rules would wrongly find, each with a reason"""

FIELDS_TERMS = {
    "told": "reported, configured or logged",
    "heard": "detected or classified",
    "hear": "detect, classify or process",
    "dear": "costly",
    "dearer": "costlier",
    "dearest": "costliest",
    "beside": "with, next to",
    "lookout": "Poller",
    "wishes": "PolicyOptions",
    "belief": "estimate",
    "senses": "sensors",
    "begun": "started_at",
    "wished": "requested",
    "kept": "retained, stored",
    "made": "created, built",
}
"""Private words, and what the field calls it"""


class Name(NamedTuple):
    """An identifier that a source defines."""

    file: str
    line: int
    text: str
    is_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.text}"


def is_bare(name: str) -> bool:
    """Whether a function's name says no action: ``heard``, ``_from_chosen``, ``sorting``, ``beside``."""
    if name.startswith("__") or not name.strip("_"):
        return False
    first, *others = name.strip("_").split("_")
    if first in IRREGULAR_PARTICIPLES or (first in PREPOSITIONS and not (others and first in CONVERSIONS)):
        return True
    if first in NOT_PARTICIPLES:
        return False
    return bool(re.fullmatch(r"[a-z]{3,}ed", first) or (not others and re.fullmatch(r"[a-z]{3,}ing", first)))


def words_of(name: str) -> list[str]:
    """``SnakeAndCamel_case`` → its words in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is read like a value, whose name is a noun or an adjective."""
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def list_names(source: str, file: str) -> Iterator[Name]:
    """Every function, class, parameter, field and variable that a source defines."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Name(file, node.lineno, node.name, not _is_property(node))
            case ast.ClassDef():
                yield Name(file, node.lineno, node.name, False)
            case ast.arg():
                yield Name(file, node.lineno, node.arg, False)
            case ast.Name(ctx=ast.Store()):
                yield Name(file, node.lineno, node.id, False)
            case ast.Attribute(ctx=ast.Store()):
                yield Name(file, node.lineno, node.attr, False)


@functools.cache
def list_all_names() -> tuple[Name, ...]:
    """Those of the packages."""
    return tuple(_read_all_names())


def _read_all_names() -> Iterator[Name]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = path.relative_to((ROOT / folder).parent).as_posix()
            yield from list_names(path.read_text(encoding="utf-8"), file)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(
            (name, True)
            for name in (
                "heard",
                "_told_apart",
                "beside",
                "_resized",
                "sorting",
                "in_noise",
                "_of_ogg",
                "at",
                "found_folder",
            )
        ),
        *((name, False) for name in ("resize", "split", "split_by_hash", "to_json", "with_gpu", "speed", "sing_on")),
        *(
            (name, False)
            for name in ("__init__", "_", "is_set", "read", "ringing_tone", "on_message", "feed", "string")
        ),
    ],
)
def test_the_rule_knows_a_bare_participle_from_a_verb(name: str, expected: bool) -> None:
    assert is_bare(name) is expected


def test_every_kind_of_definition_is_found() -> None:
    source = "class Told:\n    heard_s: int = 0\n    def hear(self, dear, *, kept=1):\n        self.begun = made = 1\n"
    expected = {"Told", "heard_s", "hear", "self", "dear", "kept", "begun", "made"}
    assert {name.text for name in list_names(source, "a.py")} == expected
    assert words_of("ToldApart_dearestHTTPCost") == ["told", "apart", "dearest", "http", "cost"]


def test_functions_are_verbs() -> None:
    found = [
        str(name) for name in list_all_names() if name.is_function and is_bare(name.text) and name.text not in ALLOWED
    ]
    assert not found, "name what the function does:\n" + "\n".join(found)


def test_names_use_the_words_of_the_field() -> None:
    found = [
        f"{name} (say {FIELDS_TERMS[word]})"
        for name in list_all_names()
        for word in words_of(name.text)
        if word in FIELDS_TERMS and name.text not in ALLOWED
    ]
    assert not found, "use the field's word:\n" + "\n".join(found)
