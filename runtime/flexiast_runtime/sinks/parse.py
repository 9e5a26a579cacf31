"""A sink from one line of text, as `--to` takes it: KIND:TARGET#key=value&key=value.

The options stand behind the last ``#``, so that a webhook's own query stays as it is. A target that holds ``#`` itself
is written with another one at its end.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from flexiast.errors import UsageError
from flexiast_runtime.sinks.clips import Clips
from flexiast_runtime.sinks.command import Command
from flexiast_runtime.sinks.cooldown import Cooldown
from flexiast_runtime.sinks.credentials import MQTT, WEBHOOK, read_credentials
from flexiast_runtime.sinks.home_assistant import DISCOVERY_PREFIX
from flexiast_runtime.sinks.jsonl import JsonlFile
from flexiast_runtime.sinks.metrics import PORT, Metrics
from flexiast_runtime.sinks.mqtt import Mqtt
from flexiast_runtime.sinks.retention import Retention
from flexiast_runtime.sinks.sink import Sink
from flexiast_runtime.sinks.sqlite import SqliteHistory
from flexiast_runtime.sinks.template import BodyTemplate
from flexiast_runtime.units import parse_duration, parse_size

Options = dict[str, Any]


@dataclass(frozen=True)
class _Kind:
    example: str
    make: Callable[[str, Options], Sink]
    options: dict[str, Callable[[str], Any]]


def parse_sink(text: str) -> Sink:
    """The sink that a line describes, not yet open; raises UsageError, which never repeats what may be secret."""
    name, colon, rest = text.partition(":")
    kind = KINDS.get(name)
    if kind is None or not (colon or name == "sqlite"):
        known = ", ".join(kind.example for kind in KINDS.values())
        raise UsageError(f"--to {name!r} is no kind of sink; there are {known}")
    target, _, options = rest.rpartition("#") if "#" in rest else (rest, "", "")
    values = _options(name, kind, options)
    cooldown_s = values.pop("cooldown", None)
    sink = kind.make(target, values)
    return sink if cooldown_s is None else Cooldown(sink, cooldown_s)


def parse_sinks(texts: Iterable[str]) -> tuple[Sink, ...]:
    """A sink for each line; raises UsageError where two would go by one name."""
    sinks: dict[str, Sink] = {}
    for text in texts:
        sink = parse_sink(text)
        if sink.name in sinks:
            raise UsageError(
                f"--to {sink.name} is there twice; give it once, or another #name=… to one of two webhooks or commands"
            )
        sinks[sink.name] = sink
    return tuple(sinks.values())


def _options(name: str, kind: _Kind, text: str) -> Options:
    values: Options = {}
    readers = kind.options | ANY_OPTIONS
    for part in filter(None, text.split("&")):
        key, equals, value = part.partition("=")
        if key not in readers or not equals or key in values:
            known = ", ".join(readers)
            option = f"option {key}" if key.isidentifier() else "an option"  # what is no word may be part of a secret
            raise UsageError(f"--to {name}: {option} cannot be used; there are, as key=value, each once: {known}")
        try:
            values[key] = readers[key](value)
        except ValueError as error:
            raise UsageError(f"--to {name}: {key}={value} cannot be used; expected {error}") from None
    return values


# --------------------------------------------------------------------------------------------------------------- values


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ValueError("a number from 1 to 9999")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    if not text:
        raise ValueError("labels separated by commas, each comma within a label written as %2C")
    return tuple(map(unquote, text.split(",")))


def _file(text: str) -> Path:
    return Path(unquote(text)).expanduser()


def _prefix(text: str) -> str:
    prefix = unquote(text).strip("/")
    if not prefix or re.search(r"[+#\0\s]", prefix):
        raise ValueError(f"Home Assistant's discovery prefix, {DISCOVERY_PREFIX} unless it was changed there")
    return prefix


# ---------------------------------------------------------------------------------------------------------------- kinds


def _path(kind: str, target: str) -> Path:
    if not target or "\0" in target:
        raise UsageError(f"--to {kind}: has no path; write {KINDS[kind].example}")
    return Path(target).expanduser()


def _jsonl(target: str, options: Options) -> Sink:
    if "keep" in options and "rotate" not in options:
        raise UsageError("--to jsonl: keep is the number of rotated files; give rotate=SIZE too")
    return JsonlFile(_path("jsonl", target), options.get("rotate"), **_constructor_arguments(options, "keep"))


def _sqlite(target: str, options: Options) -> Sink:
    return SqliteHistory(_path("sqlite", target) if target else None)


def _clips(target: str, options: Options) -> Sink:
    retention = Retention(options.get("keep"), options.get("total"), options.get("keep-reviewed"))
    if retention.reviewed_age_s is not None:
        if retention.age_s is None and retention.total_bytes is None:
            raise UsageError(
                "--to clips: without keep or total every clip stays; give one of them beside keep-reviewed"
            )
        if retention.age_s is not None and retention.reviewed_age_s < retention.age_s:
            raise UsageError("--to clips: keep-reviewed is shorter than keep; reviewed clips stay as long or longer")
    return Clips(
        _path("clips", target), retention=retention, **_constructor_arguments(options, pre="pre_s", post="post_s")
    )


def _exec(target: str, options: Options) -> Sink:
    try:
        argv = shlex.split(target)
    except ValueError as error:
        raise UsageError(f"--to exec: the command cannot be read: {error}") from None
    if not argv:
        raise UsageError(f"--to exec: has no command; write {KINDS['exec'].example}")
    return Command(argv, **_constructor_arguments(options, "name", timeout="timeout_s"))


def _mqtt(scheme: str) -> Callable[[str, Options], Sink]:
    def make(target: str, options: Options) -> Sink:
        parts = _url(scheme, target)
        topic = unquote(parts.path).strip("/") or "flexiast"
        if parts.query or re.search(r"[+#\0]", topic):
            raise UsageError(f"--to {scheme}: names no topic by its path; write {KINDS[scheme].example}")
        user, password = read_credentials(MQTT, options.get("credentials"))
        if password is not None and user is None:
            raise UsageError(f"--to {scheme}: there is {MQTT[1]} but no {MQTT[0]}; give both")
        return Mqtt(
            parts.hostname or "",
            parts.port or (8883 if scheme == "mqtts" else 1883),
            topic,
            tls=scheme == "mqtts",
            user=user,
            password=password,
            **_constructor_arguments(options, "ca", "labels", "discovery"),
        )

    return make


def _webhook(scheme: str) -> Callable[[str, Options], Sink]:
    def make(target: str, options: Options) -> Sink:
        from flexiast_runtime.sinks.webhook import Webhook  # HTTP and TLS are a twentieth of the start-up

        _url(scheme, target)
        token, secret = read_credentials(WEBHOOK, options.get("credentials"))
        template = BodyTemplate(options["template"]) if "template" in options else None
        return Webhook(
            f"{scheme}:{target}",
            template=template,
            token=token,
            secret=secret,
            **_constructor_arguments(options, "name", timeout="timeout_s"),
        )

    return make


def _metrics(target: str, options: Options) -> Sink:
    if not target:
        return Metrics()
    parts = _url("metrics", target)
    if parts.path or parts.query:
        raise UsageError(f"--to metrics: has a host and a port only; write {KINDS['metrics'].example}")
    return Metrics(parts.hostname or "", PORT if parts.port is None else parts.port)


def _url(scheme: str, target: str) -> SplitResult:
    """The parts of an address. Errors do not repeat it, because it may hold a secret."""
    example = KINDS[scheme].example
    if not re.fullmatch(r"//[!-~]+", target):
        raise UsageError(f"--to {scheme}: has no address of printable ASCII; write {example}")
    try:
        parts = urlsplit(f"{scheme}:{target}")
        _ = parts.port
    except ValueError:
        raise UsageError(f"--to {scheme}: the address cannot be read; write {example}") from None
    if "@" in parts.netloc:
        names = {"mqtt": MQTT, "mqtts": MQTT, "https": WEBHOOK, "http": WEBHOOK}.get(scheme)
        advice = (
            f"; set {' and '.join(names)}, or name a file of mode 0600 that does: #credentials=FILE" if names else ""
        )
        raise UsageError(
            f"--to {scheme}: takes no user or password in its address, where other users of this machine see it{advice}"
        )
    if not parts.hostname:
        raise UsageError(f"--to {scheme}: names no host; write {example}")
    return parts


def _constructor_arguments(options: Options, *same: str, **renamed: str) -> Options:
    """The options that were given, as arguments of a constructor."""
    names = dict.fromkeys(same) | renamed
    return {names[key] or key: value for key, value in options.items() if key in names}


ANY_OPTIONS: dict[str, Callable[[str], Any]] = {"cooldown": parse_duration}
"""Those of every sink"""
_MQTT_OPTIONS: dict[str, Callable[[str], Any]] = {"discovery": _prefix, "labels": _words, "credentials": _file}
_WEBHOOK_OPTIONS: dict[str, Callable[[str], Any]] = {
    "name": unquote,
    "template": _file,
    "timeout": parse_duration,
    "credentials": _file,
}
KINDS = {
    "jsonl": _Kind("jsonl:events.jsonl#rotate=10MB&keep=5", _jsonl, {"rotate": parse_size, "keep": _count}),
    "sqlite": _Kind("sqlite:history.db", _sqlite, {}),
    "mqtt": _Kind("mqtt://host:1883/flexiast#discovery=homeassistant", _mqtt("mqtt"), _MQTT_OPTIONS),
    "mqtts": _Kind("mqtts://host:8883/flexiast", _mqtt("mqtts"), _MQTT_OPTIONS | {"ca": _file}),
    "https": _Kind("https://host/path#template=body.json", _webhook("https"), _WEBHOOK_OPTIONS),
    "http": _Kind("http://host/path", _webhook("http"), _WEBHOOK_OPTIONS),
    "exec": _Kind("exec:./hook.sh $label#timeout=10s", _exec, {"name": unquote, "timeout": parse_duration}),
    "clips": _Kind(
        "clips:folder#keep=30d&total=2GB",
        _clips,
        {
            "pre": parse_duration,
            "post": parse_duration,
            "keep": parse_duration,
            "keep-reviewed": parse_duration,
            "total": parse_size,
        },
    ),
    "metrics": _Kind("metrics://127.0.0.1:9464", _metrics, {}),
}
"""By the word before the colon"""
