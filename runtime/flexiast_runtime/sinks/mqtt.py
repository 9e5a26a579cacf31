"""Events over MQTT, and Home Assistant's discovery.

Topics below the base topic:

    status          online or offline, retained; the broker says offline when the connection breaks
    event           each event as JSON
    sound/LABEL     ON while a sound lasts, else OFF; retained
    source/NAME     ON while a source is lost or has no signal, else OFF; retained
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import SecretStr

from flexiast.errors import SinkUnavailableError, UsageError
from flexiast.extras import require
from flexiast_runtime.records import Event, Record, SourceNotice, Status
from flexiast_runtime.sinks.home_assistant import discovery, discovery_topic, slugs
from flexiast_runtime.sinks.sink import Hearing

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

ACKNOWLEDGED_S = 5.0
"""Seconds that the broker gets to acknowledge a record."""
GOODBYE_S = 0.5
RECONNECT_S = (1, 30)
"""Shortest and longest pause between two attempts to connect."""


class Message(NamedTuple):
    """What is published at once."""

    topic: str
    payload: str
    retain: bool = False


class Mqtt:
    """Publishes with QoS 1; a record is delivered when the broker has acknowledged every message of it."""

    def __init__(
        self,
        host: str,
        port: int,
        topic: str = "flexiast",
        *,
        tls: bool = False,
        ca: Path | None = None,
        home_assistant: bool = False,
        labels: tuple[str, ...] | None = None,
        user: SecretStr | None = None,
        password: SecretStr | None = None,
    ) -> None:
        """``ca``: certificates that the broker's is checked against, the system's for None.

        ``labels``: those with a topic of their own, all for None.
        """
        self.name = f"mqtt{'s' * tls}://{host}:{port}/{topic}"
        self._host, self._port, self._topic, self._tls, self._ca = host, port, topic, tls, ca
        self._home_assistant, self._labels = home_assistant, labels
        self._user, self._password = user, password
        self._active: dict[str, frozenset[str]] = {}  # by source, as last wanted
        self._on: dict[str, frozenset[str]] = {}  # by source, as last published
        self._retaining = threading.Lock()
        self._sent: tuple[Record, list[MQTTMessageInfo]] | None = None
        self._refusal = "it does not answer" + tls * ", or its certificate is not trusted"

    def open(self, hearing: Hearing) -> None:
        """Begin to connect, and go on trying: a broker may start later than this."""
        self._sounds, self._sources = self._topics(hearing.labels), slugs(hearing.sources)
        self._retained = {message.topic: message.payload for message in self._first(hearing)}
        self._client = self._made_client()
        self._client.connect_async(self._host, self._port)
        self._client.loop_start()

    def wants(self, record: Record) -> bool:
        """A status only where a sound began or ended since the last one: others would push events out of the queue."""
        if not isinstance(record, Status):
            return isinstance(record, Event | SourceNotice)
        before, now = self._active.get(record.source), frozenset(record.active)
        self._active[record.source] = now
        return now != (before or frozenset())

    def deliver(self, record: Event | Status | SourceNotice) -> None:
        if not self._client.is_connected():
            raise SinkUnavailableError(f"{self._host}:{self._port} is not connected: {self._refusal}")
        if self._sent is None or self._sent[0] is not record:  # else the client sends it again by itself
            self._sent = record, [self._publish(message) for message in self._messages(record)]
        until = time.monotonic() + ACKNOWLEDGED_S
        for info in self._sent[1]:
            info.wait_for_publish(max(0.001, until - time.monotonic()))
        if not all(info.is_published() for info in self._sent[1]):
            raise SinkUnavailableError(f"{self._host}:{self._port} did not acknowledge within {ACKNOWLEDGED_S:g} s")

    def close(self) -> None:
        """Say that nothing sounds any more and offline, which a clean goodbye would keep the broker from saying."""
        if self._client.is_connected():
            silence = [Message(self._sound(label), "OFF", retain=True) for label in sorted(self._sounding())]
            for message in [*silence, Message(f"{self._topic}/status", "offline", retain=True)]:
                last = self._publish(message)
            last.wait_for_publish(GOODBYE_S)
        self._client.disconnect()
        self._client.loop_stop()

    def _made_client(self) -> Client:
        mqtt = require("paho.mqtt.client", "service")
        self._success, self._no_connection = mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_NO_CONN
        client: Client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(*RECONNECT_S)
        client.on_connect = self._connected
        if self._user is not None:
            password = None if self._password is None else self._password.get_secret_value()
            client.username_pw_set(self._user.get_secret_value(), password)
        if self._tls:
            try:
                client.tls_set(ca_certs=None if self._ca is None else str(self._ca))
            except OSError as error:
                raise UsageError(f"the certificates in {self._ca} cannot be read: {error}") from error
        return client

    def _sounding(self) -> set[str]:
        """Labels with a topic that sound at any source."""
        return set().union(*self._on.values()) & self._sounds.keys()

    def _sound(self, label: str) -> str:
        return f"{self._topic}/sound/{self._sounds[label]}"

    def _topics(self, labels: tuple[str, ...]) -> dict[str, str]:
        """The slugs of the labels that have a topic."""
        chosen = labels if self._labels is None else self._labels
        if unknown := sorted(set(chosen) - set(labels)):
            raise UsageError(f"the model has no label {', '.join(map(repr, unknown))}; it has {', '.join(labels)}")
        return {label: slug for label, slug in slugs(labels).items() if label in chosen}

    def _first(self, hearing: Hearing) -> Iterator[Message]:
        """What is said whenever a connection begins, with the newest values."""
        if self._home_assistant:
            document = discovery(self._topic, hearing.labels, self._sounds, self._sources)
            yield Message(discovery_topic(self._topic), json.dumps(document, ensure_ascii=False))
        for label in self._sounds:
            yield Message(self._sound(label), "OFF")
        for slug in self._sources.values():
            yield Message(f"{self._topic}/source/{slug}", "OFF")
        yield Message(f"{self._topic}/status", "online")

    def _messages(self, record: Event | Status | SourceNotice) -> list[Message]:
        if isinstance(record, Event):
            document = record.document() | {"event_type": record.label}  # named as Home Assistant expects it
            return [Message(f"{self._topic}/event", json.dumps(document, ensure_ascii=False))]
        if isinstance(record, SourceNotice):
            problem = record.state in {"lost", "no signal"}
            topic = f"{self._topic}/source/{self._sources[record.source]}"
            return [Message(topic, "ON" if problem else "OFF", retain=True)]
        before = self._sounding()
        self._on[record.source] = frozenset(record.active)
        now = self._sounding()
        return [
            Message(self._sound(label), "ON" if label in now else "OFF", retain=True) for label in sorted(before ^ now)
        ]

    def _publish(self, message: Message) -> MQTTMessageInfo:
        with self._retaining:
            if message.retain:
                self._retained[message.topic] = message.payload
            info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        if info.rc == self._no_connection:  # the connection broke just now; the client keeps the message for the next
            info.rc = self._success
        return info

    def _connected(self, client: Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        """Called by the client's thread. A broker that was restarted may have forgotten all that was retained."""
        if reason.is_failure:
            self._refusal = f"it answers {reason}"
            return
        self._refusal = "the connection broke"
        with self._retaining:
            for topic, payload in self._retained.items():
                client.publish(topic, payload, qos=1, retain=True)
