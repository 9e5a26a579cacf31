"""One line for each sink: what it makes, what it refuses, and what it never repeats."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import MissingExtraError, UsageError
from flexiast_runtime.sinks.credentials import MQTT, WEBHOOK, read_credentials
from flexiast_runtime.sinks.parse import KINDS, parse_sink, parse_sinks
from flexiast_runtime.sinks.sink import RunContext
from flexiast_runtime.units import parse_duration, parse_size


def made(text: str) -> dict[str, Any]:
    """What the sink was made of."""
    return vars(parse_sink(text))


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MQTT + WEBHOOK:
        monkeypatch.delenv(name, raising=False)


def test_each_kind_has_an_example_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("body.json").write_text("{}")
    names = [parse_sink(kind.example).name for kind in KINDS.values()]
    assert names == [
        "jsonl:events.jsonl",
        "sqlite:history.db",
        "mqtt://host:1883/flexiast",
        "mqtts://host:8883/flexiast",
        "https://host",
        "http://host",
        "exec:./hook.sh",
        "clips:folder",
        "metrics://127.0.0.1:9464",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "body.json"]  # nothing is opened yet


def test_options_reach_their_sink() -> None:
    file = made("jsonl:a.jsonl#rotate=10MB&keep=7")
    assert (file["_path"], file["_rotate_bytes"], file["_keep"]) == (Path("a.jsonl"), 10**7, 7)
    mqtt = made("mqtts://broker/home/ears#discovery=ha/two&labels=dog,a%2Cb&ca=my%26ca.pem")
    assert (mqtt["_port"], mqtt["_topic"], mqtt["_tls"], mqtt["_ca"]) == (8883, "home/ears", True, Path("my&ca.pem"))
    assert (mqtt["_prefix"], mqtt["_labels"]) == ("ha/two", ("dog", "a,b"))
    hook = made("https://host/path?own=query&b=%23#timeout=1.5s")
    assert (hook["_url"], hook["_timeout_s"]) == ("https://host/path?own=query&b=%23", 1.5)
    clips = made("clips:sounds#pre=2s&post=500.5s&keep=30d&total=2GB")
    assert (clips["_pre_s"], clips["_post_s"]) == (2.0, 500.5)
    assert (clips["_retention"].age_s, clips["_retention"].total_bytes) == (30 * 86400, 2 * 10**9)
    command = made("exec:./say.sh 'a b' $label#timeout=2m")
    assert [template.template for template in command["_arguments"]] == ["a b", "$label"]
    assert command["_timeout_s"] == 120
    assert (made("metrics:")["_host"], made("metrics://[::1]:8000")["_host"]) == ("127.0.0.1", "::1")
    assert made("jsonl:take#1.jsonl#")["_path"] == Path("take#1.jsonl")


@pytest.mark.parametrize(("text", "expected"), [("1kB", 10**3), ("1KB", 10**3), ("1MB", 10**6), ("1GB", 10**9)])
def test_a_size_may_have_any_of_the_usual_units(text: str, expected: int) -> None:
    assert parse_size(text) == expected
    assert made(f"jsonl:a#rotate={text}")["_rotate_bytes"] == expected


def test_two_commands_of_one_program_are_told_apart_by_name() -> None:
    sinks = parse_sinks(["exec:sh a.sh#name=light", "exec:sh b.sh"])
    assert [sink.name for sink in sinks] == ["light", "exec:sh"]
    with pytest.raises(UsageError, match=r"exec:sh is there twice; .*#name="):
        parse_sinks(["exec:sh a.sh", "exec:sh b.sh"])


def test_no_two_sinks_go_by_one_name() -> None:
    assert [sink.name for sink in parse_sinks(["https://host/a#name=phone", "https://host/b", "jsonl:a"])] == [
        "phone",
        "https://host",
        "jsonl:a",
    ]
    for twice in (["jsonl:a", "jsonl:a"], ["https://host/a?key=hunter2", "https://host/b"]):
        with pytest.raises(UsageError, match="is there twice") as caught:
            parse_sinks(twice)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("carrier-pigeon:home", "'carrier-pigeon' is no kind of sink; there are jsonl:"),
        ("jsonl", "'jsonl' is no kind of sink"),
        ("jsonl:", "has no path; write jsonl:events"),
        ("jsonl:a#rotat=1MB", "option rotat cannot be used; there are, as key=value, each once: rotate, keep"),
        ("jsonl:a#rotate=1MB&rotate=2MB", "option rotate cannot be used"),
        ("jsonl:a#rotate", "option rotate cannot be used"),
        ("jsonl:a#rotate=1MiB", "rotate=1MiB cannot be used; expected a size such as 500kB"),
        ("jsonl:a#rotate=0MB", "rotate=0MB cannot be used"),
        ("jsonl:a#rotate=1MB&keep=0", "keep=0 cannot be used; expected a number from 1 to 9999"),
        ("jsonl:a#keep=2", "give rotate=SIZE too"),
        ("sqlite:a.db#keep=1d", "option keep cannot be used; there are, as key=value, each once: cooldown"),
        ("mqtt://host/a/+/b", "names no topic"),
        ("mqtt://host:port", "the address cannot be read"),
        ("mqtt:host", "has no address"),
        ("mqtt:///topic", "names no host"),
        ("mqtt://host#discovery=a/%23", "expected Home Assistant's discovery prefix, homeassistant unless"),
        ("mqtt://host#ca=a.pem", "option ca cannot be used"),
        ("https://host/a b", "has no address of printable ASCII"),
        ("https://host#timeout=10", "expected a time such as 1.5s"),
        ("exec:", "has no command"),
        ("exec:say 'oh", "the command cannot be read: No closing quotation"),
        ("exec:say $lable", "'lable'; there are"),
        ("metrics://host:1/path", "a host and a port only"),
        ("metrics://:9464", "names no host"),
        ("metrics://me:x@host", "takes no user or password"),
    ],
)
def test_what_cannot_be_used_is_refused_and_says_what_can(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sink(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "https", "http"])
@pytest.mark.parametrize(
    "address", ["me:hunter2@host/x", "hunter2@host", "me:hun#ter2@host", "me:hunter2@host:port", "me:hunter2@host#a=b"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(scheme: str, address: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sink(f"{scheme}://{address}")
    assert not any(part in str(caught.value) for part in ("hunter2", "hun#", "ter2"))


def test_credentials_come_from_the_environment_and_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(MQTT + WEBHOOK, ("me", "hunter2", "t0ken", "s3cret"), strict=True):
        monkeypatch.setenv(name, value)
    mqtt, hook = made("mqtt://host"), made("https://host/hook?key=k3y")
    assert mqtt["_user"].get_secret_value() == "me"
    assert mqtt["_password"].get_secret_value() == "hunter2"
    assert hook["_token"].get_secret_value() == "t0ken"
    assert hook["_secret"].get_secret_value() == "s3cret"
    shown = repr(mqtt) + repr(hook["_token"]) + repr(hook["_secret"]) + hook["name"] + mqtt["name"]
    assert not any(secret in shown for secret in ("hunter2", "t0ken", "s3cret", "k3y"))


def test_a_password_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXIAST_MQTT_PASSWORD", "hunter2")
    with pytest.raises(UsageError, match="there is FLEXIAST_MQTT_PASSWORD but no FLEXIAST_MQTT_USER") as caught:
        parse_sink("mqtt://host")
    assert "hunter2" not in str(caught.value)


def test_credentials_come_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / "broker"
    file.write_text("# of the broker\n\nFLEXIAST_MQTT_USER=me\nFLEXIAST_MQTT_PASSWORD=a=b c\n")
    for mode in (0o644, 0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(UsageError, match=f"has mode {mode:04o}, so others may read it; run: chmod 600"):
            parse_sink(f"mqtt://host#credentials={file}")
    for mode in (0o600, 0o400):
        file.chmod(mode)
        mqtt = made(f"mqtt://host#credentials={file}")
        assert [mqtt[name].get_secret_value() for name in ("_user", "_password")] == ["me", "a=b c"]


@pytest.mark.parametrize(
    "text", ["hunter2", "PASSWORD=hunter2", "FLEXIAST_WEBHOOK_TOKEN=hunter2", "FLEXIAST_MQTT_PASSWORD=hunter2\x07"]
)
def test_lines_that_cannot_be_used_are_named_by_number(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broker"
    file.write_text(f"FLEXIAST_MQTT_USER=me\n{text}\n")
    file.chmod(0o600)
    with pytest.raises(UsageError, match=r"line 2, cannot be used|cannot be printed") as caught:
        read_credentials(MQTT, file)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read: FileNotFoundError"):
        read_credentials(MQTT, tmp_path / "none")


@given(st.integers(1, 10**6), st.sampled_from(("s", "m", "h", "d")))
def test_times_are_what_they_say(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


@given(st.text(max_size=12))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) > 0
        except ValueError as error:
            assert "such as" in str(error)
    with suppress(UsageError):
        parse_sink(text)


@pytest.mark.parametrize(("text", "module"), [("mqtt://host", "paho.mqtt.client"), ("metrics:", "prometheus_client")])
def test_a_sink_whose_library_is_missing_names_the_extra(
    text: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flexiast\[service\]'"):
        parse_sink(text).open(RunContext())
