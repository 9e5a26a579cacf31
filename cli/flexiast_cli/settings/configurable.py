"""Commands whose options can also be set in the environment and in files; each option checks its value either way.

The settings become click's defaults for one call: the command line overrides them, and the command needs no code.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiast.errors import UsageError
from flexiast_cli.settings.layers import Catalogue, Kind, Setting, Words, gather
from flexiast_cli.settings.parsing import describe
from flexiast_cli.terminal.console import log

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG = "config"


def configurable(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option ``--config`` to a command, unless it has its own, as `train` has for its recipe."""
    signature = inspect.signature(command, eval_str=True)
    if CONFIG in signature.parameters:
        return command

    @functools.wraps(command)
    def with_settings(*args: Any, config: tuple[str, ...], **kwargs: Any) -> None:
        if config:  # the folder's file is used without being named, so its use is logged
            log(f"with settings from {', '.join(config)}")
        command(*args, **kwargs)

    added = inspect.Parameter(CONFIG, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption)
    parameters = [*signature.parameters.values(), added]
    with_settings.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_settings


def _apply_settings(context: typer.Context, named: str | None) -> tuple[str, ...]:
    """Make the settings of this command its defaults, before any other option is parsed; return their origins."""
    if context.resilient_parsing:  # a shell asks for completions
        return ()
    known = settable(context.command)
    try:
        found = gather(
            None if named is None else Path(named),
            os.environ,
            Path(),
            lambda: catalogue(context.find_root().command),
        )
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    own = [setting for setting in found.values() if setting.command == command_words(context)]
    context.default_map = {known[one.key].name: check_setting(one, known[one.key], context) for one in own}
    return tuple(dict.fromkeys(setting.origin for setting in own))


ConfigOption = Annotated[
    str | None,  # an older Typer makes a Path of what the callback returns
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_apply_settings,
        help="Settings (TOML) to use in place of ./flexiast.toml; options override them.",
    ),
]


def check_setting(setting: Setting, parameter: Any, context: Any) -> Any:
    """The value, if the option accepts it; raises BadParameter that names the setting's origin."""
    value = list(setting.value) if isinstance(setting.value, tuple) else setting.value
    try:
        parameter.process_value(context, value)
    except typer.BadParameter as error:
        message = f"{describe(error).rstrip('.')} (from {setting.origin})"
        raise typer.BadParameter(message, ctx=context, param=parameter) from None
    return value


def command_words(context: Any) -> Words:
    """The words that called the command, without `flexiast`."""
    words: list[str] = []
    while context.parent is not None:
        words.insert(0, context.info_name)
        context = context.parent
    return tuple(words)


def commands(root: Any, words: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Every command below a group, with the words that call it."""
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def command_at(root: Any, words: Words) -> Any:
    for word in words:
        root = root.commands[word]
    return root


def catalogue(root: Any) -> Catalogue:
    """The keys of each configurable command."""
    return {
        words: {key: kind(parameter) for key, parameter in settable(command).items()}
        for words, command in commands(root)
        if is_configurable(command)
    }


def is_configurable(command: Any) -> bool:
    return any(parameter.name == CONFIG and parameter.is_eager for parameter in command.params)


def kind(parameter: Any) -> Kind:
    if getattr(parameter, "is_flag", False):
        return "flag"
    return "several" if parameter.multiple else "one"


def settable(command: Any) -> Mapping[str, Any]:
    """Key → parameter: each option by its long name, and an argument that may be left out by its own."""
    keys = {
        _key(parameter): parameter
        for parameter in command.params
        if not parameter.is_eager and (parameter.param_type_name == "option" or not parameter.required)
    }
    return {key: parameter for key, parameter in keys.items() if key != "help"}


def _key(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.name)
    return max(parameter.opts, key=len).removeprefix("--")
