"""The table of docs/explanation/governor.md names every number of the governor, with today's value."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import fields
from pathlib import Path

import numpy as np

import flexiast_runtime.governor as room
from flexiast_runtime.governor.types import Policy

DOCUMENT = Path(__file__).parents[3] / "docs/explanation/governor.md"


def read_table() -> dict[tuple[str, str], str]:
    """(Module, constant) → the cell of its value."""
    cells, module = {}, ""
    text = DOCUMENT.read_text("utf-8").split("## Where the numbers come from")[1]
    for row in re.findall(r"^\| *(`\w+`|) *\| *(`.+?`) *\| *(.+?) *\|", text, re.MULTILINE):
        module = row[0].strip("`") or module
        cells.update({(module, name): row[2] for name in re.findall(r"`(\w+)`", row[1])})
    return cells


def list_numbers() -> dict[tuple[str, str], list[float]]:
    """(Module, constant) → its numbers, of each module and of the policy."""
    policy = {each.name: getattr(Policy(), each.name) for each in fields(Policy) if each.name != "goal"}
    found = {("Policy", name): [value] for name, value in policy.items()}
    for each in pkgutil.iter_modules(room.__path__):
        path = Path(room.__path__[0]) / f"{each.name}.py"
        module = importlib.import_module(f"{room.__name__}.{each.name}")
        for line in re.findall(r"^([A-Z][A-Z0-9_, ]*)(?:: .+?)? = ", path.read_text("utf-8"), re.MULTILINE):
            for name in line.split(", "):
                value = getattr(module, name)
                if isinstance(value, int | float | np.ndarray):
                    found[each.name, name] = [float(number) for number in np.atleast_1d(value)]
    return found


def test_the_table_names_every_constant_and_none_that_is_gone() -> None:
    assert read_table().keys() == list_numbers().keys()


def test_the_table_has_the_values_of_the_code() -> None:
    cells = read_table()
    for key, numbers in list_numbers().items():
        shown = cells[key]
        plain = [float(each.replace(",", "")) for each in re.findall(r"-?\d[\d,]*(?:\.\d+)?", shown.replace(", ", " "))]
        if "%" in shown:
            plain += [each / 100 for each in plain]
        if "1 /" in shown:
            plain += [1 / each for each in plain]
        for number in numbers:
            assert any(np.isclose(number, each) for each in plain), f"{key}: {number} in {shown}"
