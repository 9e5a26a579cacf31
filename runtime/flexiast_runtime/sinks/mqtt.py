"""Events over MQTT, and Home Assistant's discovery.

Topics below the base topic:

    status          online or offline, retained; the broker publishes offline when the connection breaks
    event           each event as JSON
    sound/LABEL     ON while a sound lasts, else OFF
    source/NAME     ON while a source is lost or has no signal, else OFF

OFF is retained. ON is not, so that none is left behind by a process that was killed; it is repeated instead.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import SecretStr

from flexiast.errors import SinkDownError, SinkError, SinkUnavailableError, UsageError
from flexiast.extras import require
from flexiast_runtime.detection.records import Event, Record, SourceNotice, Status
from flexiast_runtime.sinks.home_assistant import discovery, discovery_topic, slugs, tombstones
from flexiast_runtime.sinks.sink import RunContext

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

ACKNOWLEDGED_S = 5.0
"""Seconds that the broker gets to acknowledge a record."""
OFFLINE_S = 0.5
"""Seconds that the broker gets to acknowledge the last message"""
RECONNECT_S = (1, 30)
"""Shortest and longest pause between two attempts to connect."""
REPEAT_S = 30.0
"""Seconds between two messages ON of a sound that lasts: a new subscriber waits no longer"""
DROPS = 3
"""Connections that a broker ends without an answer to MQTT 5, before it is spoken to as MQTT 3.1.1"""
UNSUPPORTED_VERSION = 0x84
PASSING = {0x80, 0x83, 0x97}
"""Reason codes of a refusal that may pass: unspecified, the broker's own, quota exceeded"""
MOST_SENT = 100
"""Records that the broker has not acknowledged yet, of which is known what was published"""


class Message(NamedTuple):
    """What is published at once."""

    topic: str
    payload: str
    retain: bool = False


@dataclass
class _Sent:
    """A record on its way: what is published of it, and what the client knows of that."""

    record: Record
    messages: list[Message]
    infos: list[MQTTMessageInfo] | None = None
    published_s: float = 0.0
    """Monotonic time"""


class Mqtt:
    """Publishes with QoS 1; a record is delivered when the broker has acknowledged every message of it.

    Speaks MQTT 5, in which a broker reports what it refuses, and 3.1.1 with a broker that supports no other.
    """

    def __init__(
        self,
        host: str,
        port: int,
        topic: str = "flexiast",
        *,
        tls: bool = False,
        ca: Path | None = None,
        discovery: str | None = None,
        labels: tuple[str, ...] | None = None,
        user: SecretStr | None = None,
        password: SecretStr | None = None,
    ) -> None:
        """``ca``: certificates that the broker's is checked against, the system's for None.

        ``discovery``: the prefix of Home Assistant's discovery topics, None for no Home Assistant.
        ``labels``: those with a topic of their own, all for None.
        """
        scheme = "mqtts" if tls else "mqtt"
        self.name = f"{scheme}://{host}:{port}/{topic}"
        self._host, self._port, self._topic, self._tls, self._ca = host, port, topic, tls, ca
        self._prefix, self._labels = discovery, labels
        self._user, self._password = user, password
        self._active: dict[str, frozenset[str]] = {}  # by source, as last wanted
        self._on: dict[str, frozenset[str]] = {}  # by source, as last published
        self._sent: dict[int, _Sent] = {}  # by the record's identity: not yet acknowledged
        self._newest: dict[str, Message] = {}  # of each topic whose newest value counts
        self._publishing = threading.Lock()  # held from a newest value's change until it is published
        self._refusals: dict[int, tuple[float, Any]] = {}  # when and why, by message number
        self._stated: dict[int, str] = {}  # topic by message number, of newest values sent on a new connection
        self._largest: int | None = None  # bytes of a message that the broker takes
        self._closing = threading.Event()
        self._refusal = "it does not answer, or its certificate is not trusted" if tls else "it does not answer"

    def open(self, context: RunContext) -> None:
        """Start to connect, and keep trying: the broker may start later."""
        self._log = context.log
        self._sounds, self._sources = self._topics(context.labels), slugs(context.sources)
        if self._prefix is not None:
            self._document = discovery(self._topic, context.labels, self._sounds, self._sources)
        self._newest = {message.topic: message for message in self._initial_messages()}
        self._mqtt = require("paho.mqtt.client", "service")
        self._start(self._mqtt.MQTTv5)
        threading.Thread(target=self._repeat, name="flexiast-mqtt-repeat", daemon=True).start()

    def wants(self, record: Record) -> bool:
        """A status only where a sound began or ended since the last one: others would push events out of the queue."""
        if not isinstance(record, Status):
            return isinstance(record, Event | SourceNotice)
        before, now = self._active.get(record.source), frozenset(record.active)
        self._active[record.source] = now
        return now != (before or frozenset())

    def deliver(self, record: Event | Status | SourceNotice) -> None:
        if not self._client.is_connected():
            raise SinkDownError(f"{self._host}:{self._port} is not connected: {self._refusal}")
        sent = self._sent.pop(id(record), None) or _Sent(record, self._messages(record))
        if sent.infos is None:
            sent.published_s = time.monotonic()
            sent.infos = [self._publish(message) for message in sent.messages]
        until = time.monotonic() + ACKNOWLEDGED_S
        for info in sent.infos:
            info.wait_for_publish(max(0.001, until - time.monotonic()))
        if not all(info.is_published() for info in sent.infos):  # the client sends it again by itself
            self._keep(sent)
            kind = SinkUnavailableError if isinstance(record, Event) else SinkDownError  # OFF must not pass ON
            raise kind(f"{self._host}:{self._port} did not acknowledge within {ACKNOWLEDGED_S:g} s")
        reason = self._refusal_of(sent)
        if reason is not None and reason.value in PASSING:
            sent.infos = None
            self._keep(sent)
            raise SinkUnavailableError(f"{self._host}:{self._port} refuses it for now: {reason}")
        if reason is not None:
            raise SinkError(f"{self._host}:{self._port} refuses it: {reason}")

    def close(self) -> None:
        """Publish that nothing sounds, and offline: after a clean disconnect the broker does not publish the will."""
        self._closing.set()
        if self._client.is_connected():
            silence = [Message(self._sound(label), "OFF", retain=True) for label in sorted(self._list_active_labels())]
            for message in [*silence, Message(f"{self._topic}/status", "offline", retain=True)]:
                last = self._publish(message)
            last.wait_for_publish(OFFLINE_S)
        self._client.disconnect()
        self._client.loop_stop()

    def _keep(self, sent: _Sent) -> None:
        """Until its record comes again; the oldest ones were given up meanwhile."""
        self._sent[id(sent.record)] = sent
        if len(self._sent) > MOST_SENT:
            self._sent.pop(next(iter(self._sent)), None)

    def _refusal_of(self, sent: _Sent) -> Any:
        """The broker's reason code, if it refused a message of it; numbers of messages are used again and again."""
        answers = [self._refusals.pop(info.mid, None) for info in sent.infos or ()]
        return next((reason for at_s, reason in filter(None, answers) if at_s >= sent.published_s), None)

    def _start(self, protocol: int) -> None:
        """A client of its own for each protocol: it cannot change it."""
        mqtt = self._mqtt
        client: Client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol)
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(*RECONNECT_S)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_message = self._on_publish, self._on_message
        if self._user is not None:
            password = None if self._password is None else self._password.get_secret_value()
            client.username_pw_set(self._user.get_secret_value(), password)
        if self._tls:
            try:
                client.tls_set(ca_certs=None if self._ca is None else str(self._ca))
            except OSError as error:
                raise UsageError(f"the certificates in {self._ca} cannot be read: {error}") from error
        self._client, self._protocol, self._drops, self._is_answered = client, protocol, 0, False
        self._sent.clear()
        client.connect_async(self._host, self._port)
        client.loop_start()

    def _list_active_labels(self) -> set[str]:
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

    def _initial_messages(self) -> Iterator[Message]:
        """Messages of every new connection, before any value has changed."""
        if self._prefix is not None:
            yield self._discovery(self._document)
        for label in self._sounds:
            yield Message(self._sound(label), "OFF", retain=True)
        for slug in self._sources.values():
            yield Message(f"{self._topic}/source/{slug}", "OFF", retain=True)
        yield Message(f"{self._topic}/status", "online", retain=True)

    def _discovery(self, document: dict[str, Any]) -> Message:
        topic = discovery_topic(self._prefix or "", self._topic)
        return Message(topic, json.dumps(document, ensure_ascii=False), retain=True)

    def _messages(self, record: Event | Status | SourceNotice) -> list[Message]:
        if isinstance(record, Event):
            document = record.document() | {"event_type": record.label}  # named as Home Assistant expects it
            return [Message(f"{self._topic}/event", json.dumps(document, ensure_ascii=False))]
        if isinstance(record, SourceNotice):
            problem = record.state in {"lost", "no signal"}
            topic = f"{self._topic}/source/{self._sources[record.source]}"
            return [_state(topic, on=problem)]
        before = self._list_active_labels()
        self._on[record.source] = frozenset(record.active)
        now = self._list_active_labels()
        return [_state(self._sound(label), on=label in now) for label in sorted(before ^ now)]

    def _publish(self, message: Message) -> MQTTMessageInfo:
        """Raises SinkError for what is larger than the broker takes: it would end the connection."""
        if self._is_too_large(message):
            raise SinkError(f"{message.topic} has more than the {self._largest:,} bytes that the broker takes")
        with self._publishing:
            if message.topic in self._newest:
                self._newest[message.topic] = message
            info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        if info.rc == self._mqtt.MQTT_ERR_NO_CONN:  # it broke just now; the client keeps the message for the next one
            info.rc = self._mqtt.MQTT_ERR_SUCCESS
        return info

    def _is_too_large(self, message: Message) -> bool:
        frame = 16  # header, lengths, message number and properties
        size = len(message.topic.encode()) + len(message.payload.encode()) + frame
        return self._largest is not None and size > self._largest

    def _repeat(self) -> None:
        """Repeat each ON in a thread of its own: it is not retained, and a client may subscribe while a sound lasts."""
        while not self._closing.wait(REPEAT_S):
            if self._client.is_connected():
                with self._publishing:
                    for message in self._newest.values():
                        if message.payload == "ON":
                            self._client.publish(message.topic, message.payload, qos=1)

    # -------------------------------------------------------------------------- called by the client, in its own thread

    def _on_connect(self, client: Client, _: Any, __: Any, reason: Any, properties: Any) -> None:
        """Publish all newest values: a restarted broker may have lost what was retained."""
        self._is_answered = True
        if reason.is_failure:
            self._refusal = f"it answers {reason}"
            if reason.value == UNSUPPORTED_VERSION and self._protocol == self._mqtt.MQTTv5:
                self._restart(client, self._mqtt.MQTTv311)
            return
        self._refusal, self._drops = "the connection broke", -1
        self._largest = getattr(properties, "MaximumPacketSize", None)
        if self._prefix is not None:  # first: what an earlier run left there comes back before it is replaced
            client.subscribe(discovery_topic(self._prefix, self._topic), qos=1)
        with self._publishing:
            for message in self._newest.values():
                if self._is_too_large(message):
                    self._log(f"{self.name}: {message.topic} is larger than the broker takes, {self._largest:,} bytes")
                else:
                    info = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
                    self._stated[info.mid] = message.topic

    def _on_disconnect(self, client: Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        """Fall back to MQTT 3.1.1. Brokers without MQTT 5 should refuse it; some just end the connection."""
        answered, self._is_answered = self._is_answered, False
        if client is not self._client or self._closing.is_set():
            return
        if answered:
            if reason.is_failure and self._drops < 0 and reason.getName() != "Unspecified error":
                self._refusal = f"it ended the connection: {reason}"
            return
        if self._drops < 0:  # this protocol has worked before
            return
        self._drops += 1
        self._refusal = "it ends the connection without an answer"
        mqtt = self._mqtt
        if self._protocol != mqtt.MQTTv5:
            self._restart(client, mqtt.MQTTv5, RECONNECT_S[0])
        elif self._drops >= DROPS:
            self._restart(client, mqtt.MQTTv311, RECONNECT_S[0])

    def _restart(self, client: Client, protocol: int, pause_s: float = 0.0) -> None:
        client.disconnect()
        client.loop_stop()  # ends with the callback that this is called from
        if not self._closing.wait(pause_s):
            self._start(protocol)

    def _on_publish(self, _: Client, __: Any, number: int, reason: Any, ___: Any) -> None:
        topic = self._stated.pop(number, None)
        if reason.is_failure and topic is None:
            self._refusals[number] = time.monotonic(), reason
        elif reason.is_failure:
            self._log(f"{self.name}: the broker refuses {topic}: {reason}")

    def _on_message(self, client: Client, _: Any, message: Any) -> None:
        """Take the discovery message of an earlier run, and remove its components that no longer exist."""
        if not message.retain or self._prefix is None:
            return
        try:
            published = json.loads(message.payload)
        except ValueError:
            return
        gone = tombstones(published, self._document)
        if not gone:
            return
        components = self._document["components"] | gone
        update = self._discovery(self._document | {"components": components})
        with self._publishing:
            self._newest[update.topic] = update
            left = [published["components"][key].get("state_topic", "") for key in gone]
            empty = [Message(topic, "", retain=True) for topic in left if f"{topic}".startswith(f"{self._topic}/")]
            for each in (update, *empty):
                self._stated[client.publish(each.topic, each.payload, qos=1, retain=True).mid] = each.topic


def _state(topic: str, *, on: bool) -> Message:
    return Message(topic, "ON" if on else "OFF", retain=not on)
