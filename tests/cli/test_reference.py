"""Help that is true: examples are understood by the commands, the page of commands is current, shells complete."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from flexiast_cli.app import app
from flexiast_cli.examples import EXAMPLES
from flexiast_cli.reference import reference
from flexiast_cli.settings.configurable import command_words, commands
from flexiast_cli.settings.layers import Words

ROOT = typer.main.get_command(app)
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference" / "commands.md"


def understood(line: str) -> Any:
    """The context that a line's command would run in: every option parsed and checked, nothing run."""
    (words,) = [part.split(">", maxsplit=1)[0] for part in line.split("|") if "flexiast" in part.split()]
    arguments = shlex.split(words)
    arguments = arguments[arguments.index("flexiast") + 1 :]
    command, context = ROOT, ROOT.make_context("flexiast", list(arguments))
    while hasattr(command, "commands"):
        arguments = command.name_command(arguments) if hasattr(command, "name_command") else arguments
        name = arguments.pop(0)
        command = command.commands[name]
        context = command.make_context(name, list(arguments), parent=context)
    return context


@pytest.mark.parametrize("words", [words for words, _ in commands(ROOT)], ids=" ".join)
def test_every_command_has_examples_that_it_understands(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    Path("garden.toml").touch()
    assert words in EXAMPLES, f"flexiast {' '.join(words)} needs an example in flexiast_cli/examples.py"
    for line in EXAMPLES[words]:
        assert command_words(understood(line)) == words


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert set(EXAMPLES) == {words for words, _ in commands(ROOT)}


def test_an_example_with_a_misspelt_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --latncy"):
        understood("flexiast listen home.bundle --latncy 100")


def test_the_page_of_commands_is_current() -> None:
    assert PAGE.read_text() == reference(ROOT), "run: python -m flexiast_cli.reference > docs/reference/commands.md"


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """What bash offers after these words, by the script that flexiast itself gives."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    folder = tmp_path_factory.mktemp("completion")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def bash(code: str) -> str:
        done = subprocess.run(["bash", "-c", code], check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = folder / "flexiast.bash"
    # with a second command bash stays, and is found as the shell that asks
    script.write_text(bash("flexiast --show-completion && true"))
    assert "complete -o default -F _flexiast_completion flexiast" in script.read_text()

    def complete(line: str) -> list[str]:
        words = (
            f'COMP_WORDS=({line}); [[ "{line}" == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1))'
        )
        return bash(f'source {script}; {words}; _flexiast_completion flexiast; echo "${{COMPREPLY[@]}}"').split()

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("flexiast li", {"listen"}),
        ("flexiast engines ", {"list", "build", "verify", "prune"}),
        ("flexiast listen --ba", {"--backend"}),
        ("flexiast listen --backend ", {"cpu", "cuda", "tensorrt"}),
    ],
)
def test_bash_completes(complete: Callable[[str], list[str]], line: str, offered: set[str]) -> None:
    assert set(complete(line)) == offered
