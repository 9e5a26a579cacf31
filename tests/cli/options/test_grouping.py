"""Groups of options read by Typer as options of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from flexiast_cli.options.grouping import ungroup


@dataclass(frozen=True)
class Volume:
    """Two options."""

    gain: Annotated[float, typer.Option("--gain", help="In dB.")] = 0.0
    labels: Annotated[list[str] | None, typer.Option("--label")] = None


@dataclass(frozen=True)
class Place:
    """One option, which is called like the parameter that holds the other group."""

    volume: Annotated[str, typer.Option("--volume")] = "disk"


def test_fields_are_options_and_reach_the_command_in_their_groups() -> None:
    calls: list[tuple[str, Volume, Place, bool]] = []

    @ungroup
    def play(name: str, *, volume: Volume, place: Place, loud: bool = False) -> None:
        """Play a sound."""
        calls.append((name, volume, place, loud))

    app = typer.Typer()
    app.command()(play)
    given = ["dog", "--gain", "-3", "--label", "a", "--label", "b", "--volume", "tape", "--loud"]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert CliRunner().invoke(app, ["cat"]).exit_code == 0
    assert calls == [("dog", Volume(-3.0, ["a", "b"]), Place("tape"), True), ("cat", Volume(), Place(), False)]
    command = typer.main.get_command(app)
    assert [parameter.name for parameter in command.params[:5]] == ["name", "gain", "labels", "volume", "loud"]
    assert command.help == "Play a sound."
