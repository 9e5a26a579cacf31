"""What is wrong with an option's value, in our words: Typer reports those of the library that it checks with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPECTED = {
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than_equal": "a number of at most {le:g}",
    "finite_number": "a number that is finite",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
}
"""By Pydantic's name of the fault; what is in braces is in its context"""


class PlainCommand(TyperCommand):
    """A command whose options name what was given and what was expected."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises BadParameter."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = describe(error)
            raise


def describe(error: typer.BadParameter) -> str:
    """The message, without the words of a library."""
    list_faults = getattr(error.__cause__, "errors", None)  # of a ValidationError, without importing it
    if list_faults is None:
        return error.message
    fault: Mapping[str, Any] = list_faults()[0]
    expected = EXPECTED.get(fault["type"])
    if expected is None:
        return error.message.removeprefix("Value error, ")
    return f"{fault['input']} cannot be used; give {expected.format(**fault.get('ctx', {}))}"
