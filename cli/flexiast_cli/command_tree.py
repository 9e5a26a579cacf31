"""The commands by name, each built when it is looked up: to build them all takes longer than to load one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command


class LazyCommands(Mapping[str, Any]):
    """Name → click command, from functions that return a Typer object which holds it alone: a command, or a group."""

    def __init__(self, sources: Mapping[str, Callable[[], typer.Typer]]) -> None:
        self._sources = sources
        self._built: dict[str, Any] = {}

    def get(self, name: str, default: Any = None) -> Any:
        """Click looks commands up by it. An unknown name is a miss; whatever a command raises while it loads is not.

        ``Mapping.get`` would take a KeyError from the loading for an unknown name.
        """
        return self[name] if name in self._sources else default

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = get_command(self._sources[name]())
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def lazy_group(sources: Mapping[str, Callable[[], typer.Typer]]) -> type[TyperGroup]:
    """A class of groups with these commands."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = LazyCommands(sources)  # type: ignore[assignment]  # nothing is added to a built one

    return LazyGroup
