"""Options from files and the environment: the strongest route wins, and each goes through the option's own check."""

from __future__ import annotations

import json
import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from flexiast.errors import UsageError
from flexiast_cli.app import app
from flexiast_cli.commands.config import toml
from flexiast_cli.settings.configurable import catalogue, commands, configurable, is_configurable, settable
from flexiast_cli.settings.layers import Catalogue, check_owner, from_environment, gather, read, tomllib, variable
from flexiast_cli.settings.schema import schema_of

ROOT = typer.main.get_command(app)
CATALOGUE: Catalogue = {
    ("listen",): {"patch-sizes": "one", "threshold": "one", "explain": "flag", "to": "several", "password-file": "one"},
    ("engines", "build"): {"memory-limit": "one"},
}


class Kind(str, Enum):
    GOOD = "good"
    BEST = "best"


FRAMES = str.maketrans(dict.fromkeys("╭╮╰╯│─"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, and a user with no settings."""
    for name in [name for name in os.environ if name.startswith("FLEXIAST")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "home/flexiast").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def flexiast(*arguments: str, code: int = 0, **environment: str) -> str:
    result = CliRunner().invoke(app, arguments, env=environment)
    assert result.exit_code == code, result.output
    return " ".join(result.output.translate(FRAMES).split()) if code else result.output


# ----- which value counts


@pytest.fixture(scope="module")
def listening() -> typer.Typer:
    """A command that says what it was given."""

    def listen(
        model: Annotated[str | None, typer.Argument()] = None,
        threshold: Annotated[float, typer.Option("--threshold", min=0.0, max=1.0)] = 0.5,
        to: Annotated[list[str] | None, typer.Option("--to")] = None,
        kind: Annotated[Kind, typer.Option("--kind")] = Kind.GOOD,
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        print(json.dumps([model, threshold, to, kind.value, as_json]))

    made = typer.Typer()
    made.command()(configurable(listen))
    made.command()(configurable(lambda: None))
    return made


def heard(listening: typer.Typer, *arguments: str, **environment: str) -> list[Any]:
    result = CliRunner().invoke(listening, ["listen", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


ROUTES = ("default", "user", "project", "environment", "flag")


@pytest.mark.parametrize("strongest", range(len(ROUTES)))
def test_the_command_line_goes_before_the_environment_the_project_and_the_user(
    place: Path, listening: typer.Typer, strongest: int
) -> None:
    routes, environment, flags = ROUTES[: strongest + 1], {}, []
    values = {"default": 0.5, "user": 0.1, "project": 0.2, "environment": 0.3, "flag": 0.4}
    if "user" in routes:
        (place / "home/flexiast/config.toml").write_text("[listen]\nthreshold = 0.1\nmodel = 'mine'")
    if "project" in routes:
        Path("flexiast.toml").write_text("[listen]\nthreshold = 0.2")
    if "environment" in routes:
        environment = {"FLEXIAST_LISTEN_THRESHOLD": "0.3"}
    if "flag" in routes:
        flags = ["--threshold", "0.4"]
    model, threshold, *_ = heard(listening, *flags, **environment)
    assert threshold == values[routes[-1]]
    assert model == ("mine" if "user" in routes else None)  # weaker files are read for what stronger ones leave open


def test_a_file_that_is_named_stands_in_for_the_projects(place: Path, listening: typer.Typer) -> None:
    Path("flexiast.toml").write_text("[listen]\nthreshold = 0.2\nkind = 'best'")
    Path("other.toml").write_text("[listen]\nthreshold = 0.3")
    for arguments, environment in ((("--config", "other.toml"), {}), ((), {"FLEXIAST_CONFIG": "other.toml"})):
        _, threshold, _, kind, _ = heard(listening, *arguments, **environment)
        assert (threshold, kind) == (0.3, "good")
    assert "other.toml: 1 settings" in flexiast("config", "validate", FLEXIAST_CONFIG="other.toml")
    assert "0.3" in flexiast("config", "show", FLEXIAST_CONFIG="other.toml")


def test_every_kind_of_option_can_be_set_by_file_and_by_environment(place: Path, listening: typer.Typer) -> None:
    Path("flexiast.toml").write_text(
        '[listen]\nmodel = "m"\nthreshold = 1\nto = ["a b", "c"]\nkind = "best"\njson = true'
    )
    expected = ["m", 1.0, ["a b", "c"], "best", True]
    assert heard(listening) == expected
    Path("flexiast.toml").unlink()
    environment = {"MODEL": "m", "THRESHOLD": "1", "TO": "'a b' c", "KIND": "best", "JSON": "yes"}
    assert heard(listening, **{f"FLEXIAST_LISTEN_{key}": value for key, value in environment.items()}) == expected
    assert heard(listening, FLEXIAST_LISTEN_JSON="") == [None, 0.5, None, "good", False]  # empty is not given


def test_one_value_is_a_list_of_one(place: Path, listening: typer.Typer) -> None:
    Path("flexiast.toml").write_text('[listen]\nto = "a b"')
    assert heard(listening)[2] == ["a b"]


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
    lambda x: "://" not in x
)


@given(st.dictionaries(st.sampled_from(("patch-sizes", "threshold")), TEXTS), st.booleans(), st.lists(TEXTS))
def test_what_is_shown_is_what_was_read(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str], flag: bool, several: list[str]
) -> None:
    """`show` prints values as TOML: read again they are the same."""
    path = tmp_path_factory.mktemp("settings") / "x.toml"
    given = values | {"explain": flag, "to": tuple(several)}
    path.write_text("[listen]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in given.items()), "utf-8")
    assert {setting.key: setting.value for setting in read(path, CATALOGUE)} == given


# ----- what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[listn]\nx = 1", r"no table \[listn\]; did you mean listen\?"),
        ("[listen]\npatch_sizes = 8", r"\[listen\] has no setting 'patch_sizes'; did you mean patch-sizes\?"),
        ("[engines.build]\nmemory = 8", r"\[engines.build\] has no setting 'memory'; did you mean memory-limit\?"),
        ("[engines]\nxyz = 8", r"\[engines\] has no setting 'xyz'; there are build"),
        ("model = 8", r"no table \[model\]; there are engines, listen"),
        ("[listen]\npatch-sizes = [8, 16]", r"patch-sizes cannot be \[8, 16\]; expected one value"),
        ("[listen]\nthreshold = true", r"threshold cannot be true; expected one value"),
        ("[listen]\nto = [[1]]", r"to cannot be \[\[1\]\]; expected an array of values"),
        ("[listen.to]\nx = 1", r"to cannot be .*; expected an array"),
        ("[listen]\nx = 1\ny = [\n", r"cannot be read as TOML: .*line|end of document"),
        ("[listen]\nmqtt-password = 'x'", "put it into the environment"),
        ("[listen]\nto = 'mqtt://me:secret@garden'", "put it into the environment"),
    ],
)
def test_what_cannot_be_used_is_said_with_the_file_and_what_there_is(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        read(path, CATALOGUE)
    assert str(path) in str(refused.value)
    assert "secret@" not in str(refused.value)


def test_a_file_with_the_password_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[listen]\npassword-file = '/etc/secret'\nto = 'http://garden/x@y'")
    assert len(read(tmp_path / "a.toml", CATALOGUE)) == 2


def test_a_file_that_others_may_write_is_used_only_if_named(tmp_path: Path) -> None:
    """A recording's folder may bring a flexiast.toml of somebody else."""
    path = tmp_path / "flexiast.toml"
    path.write_text("[listen]\nexplain = true")
    path.chmod(0o666)
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "none")}
    with pytest.raises(UsageError, match="written by everybody, so it is not used unless named"):
        gather(None, environment, tmp_path, lambda: CATALOGUE)
    assert len(gather(path, environment, tmp_path, lambda: CATALOGUE)) == 1
    mine = path.stat()
    foreign = os.stat_result((0o100644, *mine[1:4], os.geteuid() + 1, *mine[5:]))
    with pytest.raises(UsageError, match="another user"):
        check_owner(path, foreign)


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("threshold", "7", "--threshold"),
        ("backend", "gpu", "--backend"),
        ("patch-sizes", "8,big", "--patch-sizes"),
        ("latency", "-5", "--latency"),
        ("duration", "nan", "--duration"),
        ("max-watts", "0", "--max-watts"),
        ("smoothing", "inf", "--smoothing"),
        ("until", "garbage", "--until"),
        ("to", "foo:bar", "--to"),
        ("gate", "loud", "--gate"),
        ("web", "x", "--web"),
        ("power-source", "mains", "--power-source"),
        ("label-threshold", "dog", "--label-threshold"),
    ],
)
def test_a_bad_value_is_refused_alike_on_every_route(place: Path, key: str, value: str, flag: str) -> None:
    def reason(output: str) -> str:
        """From the option's name on, without where it came from and what frames it."""
        return output[output.index(f"Invalid value for '{flag}'") :].split(" (from ", maxsplit=1)[0].rstrip(".")

    said = reason(flexiast("listen", "--input", "x.wav", flag, value, code=2))
    assert reason(flexiast("listen", code=2, **{variable(("listen",), key): value})) == said
    Path("flexiast.toml").write_text(f'[listen]\n{key} = "{value}"')
    refused = flexiast("listen", code=2)
    assert reason(refused) == said
    assert "(from flexiast.toml)" in refused
    assert reason(flexiast("config", "validate", code=2)) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FLEXIAST_LISTEN_THRESHHOLD", "listen has no option 'threshhold'; did you mean threshold?"),
        ("FLEXIAST_LISTEN_X", "listen has no option 'x'; there are allow, backend, "),
        ("FLEXIAST_ENGINES_BUILD_MEMORY", "engines build has no option 'memory'; did you mean memory-limit?"),
    ],
)
def test_a_variable_that_no_option_has_is_refused(place: Path, name: str, said: str) -> None:
    for command in (("listen",), ("config", "show"), ("config", "validate")):
        assert f"{name}: {said}" in flexiast(*command, code=2, **{name: "1"})
    assert flexiast("config", "validate", **{name: ""}) == ""  # empty is not given


def test_variables_with_another_meaning_are_left_alone() -> None:
    others = "CONFIG CACHE DATA WEB_TOKEN MQTT_USER MQTT_PASSWORD WEBHOOK_TOKEN WEBHOOK_SECRET LABEL SCORE SOURCE ID"
    environment = {f"FLEXIAST_{name}": "x" for name in others.split()} | {"LISTEN_X": "x"}
    assert from_environment(environment, catalogue(ROOT)) == []


def test_the_environment_is_validated_where_no_file_is_named(place: Path) -> None:
    assert "environment: 1 settings, all can be used" in flexiast("config", "validate", FLEXIAST_LISTEN_LATENCY="5")
    said = flexiast("config", "validate", code=2, FLEXIAST_LISTEN_LATENCY="-5")
    assert "Invalid value for '--latency': -5 cannot be used" in said
    assert "(from FLEXIAST_LISTEN_LATENCY)" in said
    Path("good.toml").write_text("")
    assert "environment" not in flexiast("config", "validate", "good.toml", FLEXIAST_LISTEN_LATENCY="-5")


def test_settings_in_use_are_said_before_what_a_command_finds_out_later(place: Path) -> None:
    Path("flexiast.toml").write_text("[listen]\ninput = 'x.wav'\ndevice = 'usb'")
    said = flexiast("listen", code=2, FLEXIAST_LISTEN_DURATION="3")
    assert said.startswith("with settings from flexiast.toml, FLEXIAST_LISTEN_DURATION flexiast: --input and --device")


def test_a_broken_file_does_not_stop_help_and_the_commands_that_mend_it(place: Path) -> None:
    Path("flexiast.toml").write_text("[")
    assert "flexiast.toml cannot be read as TOML" in flexiast("listen", code=2)
    assert "flexiast.toml cannot be read as TOML" in flexiast("config", "validate", code=2)
    assert "Usage" in flexiast("listen", "--help")
    Path("good.toml").write_text("")
    assert "0 settings" in flexiast("config", "validate", "good.toml")


def test_a_command_with_a_configuration_of_its_own_keeps_it(place: Path) -> None:
    Path("flexiast.toml").write_text("[train]\nepochs = 3")
    assert "no table [train]" in flexiast("config", "validate", code=2)
    assert "Recipe" in flexiast("train", "--help")


# ----- config


def test_init_writes_what_can_be_used_once_uncommented(place: Path) -> None:
    flexiast("config", "init")
    assert "is there already; --force" in flexiast("config", "init", code=2)
    written = Path("flexiast.toml").read_text()
    assert "flexiast.toml: 0 settings" in flexiast("config", "validate")
    unset = [line for line in written.splitlines() if line.startswith("#") and " = " in line and line[1] != " "]
    assert len(unset) == len(settable(dict(commands(ROOT))[("listen",)]))
    flexiast("config", "init", "--force")
    bare = "\n".join(line[1:] if line in unset else line for line in written.splitlines())
    Path("all.toml").write_text(bare)
    assert len(read(Path("all.toml"), catalogue(ROOT))) == len(unset)


def test_show_says_what_is_set_and_by_what(place: Path) -> None:
    (place / "home/flexiast/config.toml").write_text("[engines.build]\nmemory-limit = 100")
    Path("flexiast.toml").write_text('[listen]\npatch-sizes = "8,16"\nthreshold = 0.1')
    shown = flexiast("config", "show", "--origin", FLEXIAST_LISTEN_THRESHOLD="0.2")
    assert shown.splitlines() == [
        f'engines.build.memory-limit = "100"  # {place}/home/flexiast/config.toml',
        'listen.patch-sizes = "8,16"  # flexiast.toml',
        'listen.threshold = "0.2"  # FLEXIAST_LISTEN_THRESHOLD',
    ]
    settings = json.loads(flexiast("config", "show", "--json", FLEXIAST_LISTEN_THRESHOLD="0.2"))["settings"]
    assert settings[2]["origin"] == "FLEXIAST_LISTEN_THRESHOLD"
    assert "engines" not in flexiast("config", "show", XDG_CONFIG_HOME="/nowhere")


# ----- the schema


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As much of JSON Schema as we write."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    named = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if not any(isinstance(value, types[one]) and (one == "boolean") == isinstance(value, bool) for one in named):
        return False
    if isinstance(value, dict):
        known = schema["properties"]
        assert schema["additionalProperties"] is False
        return all(name in known and fits(one, known[name]) for name, one in value.items())
    if isinstance(value, list):
        return all(fits(one, schema["items"]) for one in value)
    limits = schema.get("minimum", value), schema.get("maximum", value)
    return isinstance(value, (str, bool)) or limits[0] <= value <= limits[1]


DOCUMENTS = [
    ('[listen]\npatch-sizes = "8,16"\nthreshold = 0.4\nexplain = true\nbackend = "cpu"', True),
    ("[listen]\npatch-sizes = 16\nlatency = 100\n[engines.build]\nmemory-limit = 100", True),
    ("[listen]\nthreshold = 7", False),
    ('[listen]\nbackend = "gpu"', False),
    ('[listen]\nexplain = "maybe"', False),
    ("[listen]\ntreshold = 0.5", False),
    ("[engines.build]\nmemory-limit = 0", False),
    ("[engines]\nmemory-limit = 100", False),
    ("[train]\nepochs = 3", False),
]


@pytest.mark.parametrize(("text", "usable"), DOCUMENTS)
def test_the_schema_and_the_commands_agree(place: Path, text: str, usable: bool) -> None:
    schema = json.loads(flexiast("config", "schema"))
    assert fits(tomllib.loads(text), schema) is usable
    Path("a.toml").write_text(text)
    flexiast("config", "validate", "a.toml", code=0 if usable else 2)


def test_the_schema_is_one_that_a_validator_takes() -> None:
    validator = jsonschema.Draft202012Validator(schema_of(ROOT))
    validator.check_schema(schema_of(ROOT))
    for text, usable in DOCUMENTS:
        assert validator.is_valid(tomllib.loads(text)) is usable


def test_each_option_of_each_command_is_in_the_schema() -> None:
    """So a new command needs nothing but its registration."""
    schema = schema_of(ROOT)
    for words, command in commands(ROOT):
        table = schema
        for word in words if is_configurable(command) else ():
            table = table["properties"][word]
        if table is not schema:
            assert set(table["properties"]) == set(settable(command))
            assert "--help" not in table["properties"]
    assert {words[0] for words, command in commands(ROOT) if not is_configurable(command)} == {
        "train",
        "config",
        "doctor",
        "service",
    }


def test_no_variable_means_two_things() -> None:
    names = [variable(words, key) for words, keys in catalogue(ROOT).items() for key in keys]
    assert len(set(names)) == len(names)
    assert not {"FLEXIAST_CONFIG", "FLEXIAST_CACHE", "FLEXIAST_DATA"} & set(names)  # which mean something already
