"""MQTT against a real Mosquitto, with mosquitto's broker stopped and started as it happens at home."""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from flexiast.errors import UsageError
from flexiast_runtime.detection.records import SourceNotice
from flexiast_runtime.sinks import mqtt
from flexiast_runtime.sinks.home_assistant import discovery, slugs
from flexiast_runtime.sinks.mqtt import Mqtt
from flexiast_runtime.sinks.outbox import BackOff, Outbox
from flexiast_runtime.sinks.sink import RunContext
from tests.runtime.sinks.conftest import event, status

client = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
Eventually = Callable[[Callable[[], Any]], Any]
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
HEARING = RunContext(labels=("Dog bark", "rain"), sources=("kitchen",))
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


class Broker:
    """Mosquitto on a port of its own, which keeps nothing over a restart unless told otherwise."""

    def __init__(self, folder: Path, eventually: Eventually, *lines: str) -> None:
        self._eventually = eventually
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        # As root it would become another user, who cannot read the folder.
        settings = (f"listener {self.port} 127.0.0.1", f"user {getpass.getuser()}", *lines)
        self._config.write_text("\n".join(settings) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stderr=subprocess.DEVNULL)
        self._eventually(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None


class Subscriber:
    """Everything that the broker passes on, through restarts, as another program sees it."""

    def __init__(self, port: int, session: str = "") -> None:
        self.got: list[tuple[str, str, bool]] = []
        self._subscribed = False
        self._client = client.Client(client.CallbackAPIVersion.VERSION2, session, clean_session=not session)
        self._client.on_connect = lambda *_: self._client.subscribe("#", qos=1)
        self._client.on_subscribe = self._acknowledged
        self._client.on_message = lambda _, __, m: self.got.append((m.topic, m.payload.decode(), m.retain))
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def _acknowledged(self, *_: Any) -> None:
        self._subscribed = True

    def subscribed(self) -> bool:
        return self._subscribed

    def of(self, topic: str) -> list[str]:
        return [payload for name, payload, _ in self.got if name == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def make_broker(tmp_path: Path, eventually: Eventually) -> Iterator[Callable[..., Broker]]:
    brokers: list[Broker] = []

    def make(*lines: str) -> Broker:
        brokers.append(Broker(tmp_path, eventually, *lines))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    return make_broker("allow_anonymous true")


@pytest.fixture
def subscriber(broker: Broker, eventually: Eventually) -> Iterator[Subscriber]:
    broker.start()
    subscriber = Subscriber(broker.port)
    eventually(subscriber.subscribed)
    yield subscriber
    subscriber.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_S", (1, 1))


def outbox(broker: Broker, **options: Any) -> Outbox:
    box = Outbox(Mqtt("127.0.0.1", broker.port, "home/ears", **options), back_off=BackOff(0.05, 0.05))
    box.open(HEARING)
    return box


@needs_broker
def test_events_arrive_as_json_and_the_device_comes_and_goes(
    broker: Broker, subscriber: Subscriber, eventually: Eventually
) -> None:
    box = outbox(broker)
    for number in range(3):
        box.put(event(number, "Dog bark"))
    eventually(lambda: box.counts.delivered == 3)
    box.end()
    assert box.join().lost == 0
    eventually(lambda: len(subscriber.of("home/ears/event")) == 3)
    documents = [json.loads(payload) for payload in subscriber.of("home/ears/event")]
    assert documents == [event(n, "Dog bark").document() | {"event_type": "Dog bark"} for n in range(3)]
    assert eventually(lambda: subscriber.of("home/ears/status")[1:]) == ["offline"]
    assert subscriber.of("home/ears/status")[0] == "online"


@needs_broker
def test_a_sound_is_on_while_it_lasts_at_any_source(
    broker: Broker, subscriber: Subscriber, eventually: Eventually
) -> None:
    box = outbox(broker)
    steps = [("kitchen", ("rain",)), ("yard", ("rain", "Dog bark")), ("kitchen", ()), ("yard", ("Dog bark",))]
    for source, active in steps:
        for _ in range(3):
            box.put(status(active, source=source))
    box.put(SourceNotice("kitchen", 1.0, "lost", "unplugged"))
    eventually(lambda: box.counts.delivered == len(steps) + 1)
    box.end()
    box.join()
    eventually(lambda: "offline" in subscriber.of("home/ears/status"))
    assert subscriber.of("home/ears/sound/rain") == ["OFF", "ON", "OFF"]
    assert subscriber.of("home/ears/sound/dog_bark") == ["OFF", "ON", "OFF"]  # the last one as it leaves
    assert subscriber.of("home/ears/source/kitchen") == ["OFF", "ON"]


def restarted(broker: Broker, box: Outbox, eventually: Eventually) -> None:
    """Down while five events are put, then up again."""
    broker.stop()
    eventually(lambda: not box._sink._client.is_connected())  # type: ignore[attr-defined]
    for number in range(1, 6):
        box.put(event(number))
    eventually(lambda: box.counts.retried)
    assert "is not connected" in (box.counts.last_error or "")
    broker.start()


@needs_broker
@pytest.mark.usefixtures("quick")
def test_over_a_restart_of_the_broker_each_event_arrives_in_its_order(
    make_broker: Callable[..., Broker], tmp_path: Path, eventually: Eventually
) -> None:
    """The broker keeps its subscriber's session, so that what that one sees is all that was published."""
    broker = make_broker("allow_anonymous true", "persistence true", f"persistence_location {tmp_path}/")
    broker.start()
    subscriber = Subscriber(broker.port, session="kept")
    eventually(subscriber.subscribed)
    box = outbox(broker)
    box.put(event(0))
    eventually(lambda: box.counts.delivered == 1)
    restarted(broker, box, eventually)
    eventually(lambda: box.counts.delivered == 6)
    box.end()
    assert box.join().lost == 0
    eventually(lambda: "offline" in subscriber.of("home/ears/status"))
    ids = [json.loads(payload)["id"] for payload in subscriber.of("home/ears/event")]
    # At least once (QoS 1): what the broker had not yet confirmed when it went comes again, under the same id.
    assert list(dict.fromkeys(ids)) == [event(number).id for number in range(6)]
    subscriber.close()


@needs_broker
@pytest.mark.usefixtures("quick")
def test_a_broker_that_forgot_everything_is_told_again(
    broker: Broker, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.start()
    monkeypatch.setattr(mqtt, "REPEAT_S", 0.2)
    box = outbox(broker, discovery="homeassistant")
    box.put(status(("rain",)))
    eventually(lambda: box.counts.delivered == 1)
    restarted(broker, box, eventually)
    eventually(lambda: box.counts.delivered == 6)
    subscriber = Subscriber(broker.port)
    eventually(lambda: ("home/ears/sound/rain", "ON", False) in subscriber.got)  # not retained, but repeated
    eventually(lambda: ("home/ears/status", "online", True) in subscriber.got)
    eventually(lambda: subscriber.of("homeassistant/device/flexiast_home_ears/config"))
    subscriber.close()
    box.end()
    assert box.join().lost == 0


@needs_broker
@pytest.mark.usefixtures("quick")
def test_a_broker_that_starts_late_gets_all_in_order(broker: Broker, eventually: Eventually) -> None:
    box = outbox(broker)
    for number in range(5):
        box.put(event(number))
    eventually(lambda: box.counts.retried)
    broker.start()
    eventually(lambda: box.counts.delivered == 5)
    box.end()
    assert box.join().lost == 0


@needs_broker
def test_a_client_that_dies_is_called_offline_by_the_broker(
    broker: Broker, subscriber: Subscriber, eventually: Eventually
) -> None:
    code = (
        "import os, sys; from flexiast_runtime.sinks.mqtt import Mqtt;"
        "from flexiast_runtime.sinks.sink import RunContext;"
        "s = Mqtt('127.0.0.1', int(sys.argv[1]), 'home/ears'); s.open(RunContext()); sys.stdin.read(1); os._exit(1)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(broker.port)], stdin=subprocess.PIPE)
    eventually(lambda: subscriber.of("home/ears/status") == ["online"])
    child.kill()
    child.communicate()
    eventually(lambda: subscriber.of("home/ears/status") == ["online", "offline"])


@needs_broker
def test_a_wrong_password_is_said_and_shown_nowhere(
    make_broker: Callable[..., Broker], tmp_path: Path, eventually: Eventually
) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch()
    subprocess.run(["mosquitto_passwd", "-b", passwords, "me", "right"], check=True, capture_output=True)
    broker = make_broker("allow_anonymous false", f"password_file {passwords}")
    broker.start()
    wrong = outbox(broker, user=SecretStr("me"), password=SecretStr("hunter2"))
    right = outbox(broker, user=SecretStr("me"), password=SecretStr("right"))
    for box in (wrong, right):
        box.put(event())
    eventually(lambda: "Not authorized" in (wrong.counts.last_error or ""))
    eventually(lambda: right.counts.delivered == 1)
    assert "hunter2" not in repr(wrong.counts) + repr(wrong) + repr(vars(wrong._sink))
    for box in (wrong, right):
        box.end(0.0)
        box.join()


@needs_broker
# The client library leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_over_tls_only_a_certificate_that_is_trusted_is_spoken_to(
    make_broker: Callable[..., Broker], tmp_path: Path, eventually: Eventually
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=broker"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *made.split(), *names], check=True, capture_output=True)
    broker = make_broker("allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    broker.start()
    trusting, suspicious = outbox(broker, tls=True, ca=certificate), outbox(broker, tls=True)
    for box in (trusting, suspicious):
        box.put(event())
    eventually(lambda: trusting.counts.delivered == 1)
    eventually(lambda: "its certificate is not trusted" in (suspicious.counts.last_error or ""))
    for box in (trusting, suspicious):
        box.end(0.0)
    assert [box.join().lost for box in (trusting, suspicious)] == [0, 1]
    broker.stop()
    with pytest.raises(UsageError, match=r"none\.pem cannot be read"):
        outbox(broker, tls=True, ca=tmp_path / "none.pem")


def test_a_label_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="the model has no label 'cat'; it has Dog bark, rain"):
        Mqtt("127.0.0.1", 1, labels=("rain", "cat")).open(HEARING)


def test_slugs_are_plain_and_latin_letters_keep_theirs() -> None:
    names = ["Dog bark", "Türklingel", "a/b+c#", "sirène 2"]
    assert list(slugs(names).values()) == ["dog_bark", "turklingel", "a_b_c", "sirene_2"]
    for name, slug in slugs(["犬", "猫 Katze", "dog-bark", "DOG BARK", "", "ß"]).items():
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*_[0-9a-f]{8}", slug), name


ALIKE = ("Dog bark", "dog-bark", "dog_bark", "犬", "猫", "Hund", "Hünd")
NAMES = st.one_of(st.text(max_size=6), st.sampled_from(ALIKE))


@given(st.sets(NAMES, max_size=8), st.sets(NAMES, max_size=8))
def test_no_slug_passes_to_another_sound(before: set[str], after: set[str]) -> None:
    """Whatever labels come and go; names that differ by case, accents and punctuation alone are of one sound."""
    first, then = slugs(sorted(before)), slugs(sorted(after, reverse=True))
    assert len(set(first.values())) == len(first)
    owners = {slug: name for name, slug in first.items()}

    def letters(name: str) -> str:
        decomposed = unicodedata.normalize("NFKD", name.lower())
        return "".join(one for one in decomposed if unicodedata.category(one)[0] in "LN")

    assert all(letters(owners.get(slug, name)) == letters(name) for name, slug in then.items())


def test_what_a_broker_refuses_by_its_rules_is_known(
    make_broker: Callable[..., Broker], tmp_path: Path, eventually: Eventually
) -> None:
    """MQTT 3.1.1 would acknowledge it all the same."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite home/ears/status\ntopic readwrite home/ears/sound/#\n")
    broker = make_broker("allow_anonymous true", f"acl_file {rules}")
    broker.start()
    said: list[str] = []
    box = Outbox(Mqtt("127.0.0.1", broker.port, "home/ears"), back_off=BackOff(0.05, 0.05))
    box.open(replace(HEARING, log=said.append))
    box.put(event(0))
    box.put(status(("rain",)))
    eventually(lambda: box.counts.refused == 1 and box.counts.delivered == 1)
    assert "refuses it: Not authorized" in (box.counts.last_error or "")
    eventually(lambda: any("refuses home/ears/source/kitchen: Not authorized" in line for line in said))
    box.end()
    assert box.join().lost == 1


class OldBroker(threading.Thread):
    """Stands before a broker and knows MQTT 3.1.1 only: what it answers to MQTT 5 is given; nothing ends it."""

    def __init__(self, broker: Broker, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._target, self._answer = broker.port, answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.versions: list[int] = []
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._serve(self._server.accept()[0])

    def _serve(self, connection: socket.socket) -> None:
        hello = connection.recv(4096)
        version = hello[hello.index(b"MQTT") + 4]
        self.versions.append(version)
        if version == 5:
            connection.sendall(self._answer)
            connection.close()
            return
        onward = socket.create_connection(("127.0.0.1", self._target))
        onward.sendall(hello)
        for one, other in ((connection, onward), (onward, connection)):
            threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(4096):
                other.sendall(content)
        for end in (one, other):
            end.close()

    def close(self) -> None:
        self._server.close()


@needs_broker
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""], ids=["3.1.1", "5", "none"])
def test_a_broker_that_knows_no_mqtt_5_is_spoken_to_as_it_can(
    broker: Broker, subscriber: Subscriber, eventually: Eventually, answer: bytes
) -> None:
    old = OldBroker(broker, answer)
    box = Outbox(Mqtt("127.0.0.1", old.port, "home/ears"), back_off=BackOff(0.05, 0.05))
    box.open(HEARING)
    for number in range(3):
        box.put(event(number))
    eventually(lambda: box.counts.delivered == 3)
    box.end()
    assert box.join().lost == 0
    assert old.versions == [5] * (1 if answer else mqtt.DROPS) + [4]
    eventually(lambda: "offline" in subscriber.of("home/ears/status"))
    old.close()


@needs_broker
def test_components_that_left_the_label_set_are_taken_away(broker: Broker, eventually: Eventually) -> None:
    broker.start()
    config = "ha/x/device/flexiast_home_ears/config"

    def run(labels: tuple[str, ...]) -> dict[str, Any]:
        """What a Home Assistant that starts after this run finds: the components, and nothing of other topics."""
        box = Outbox(Mqtt("127.0.0.1", broker.port, "home/ears", discovery="ha/x"), back_off=BackOff(0.05, 0.05))
        box.open(RunContext(labels=labels, sources=("kitchen",)))
        box.put(event(0))
        eventually(lambda: box.counts.delivered == 1)
        expected = {f"sound_{slug}" for slug in slugs(labels).values()} | ({"sound_rain"} if first else set())
        found: dict[str, Any] = {}

        def is_reported() -> bool:
            subscriber = Subscriber(broker.port)
            eventually(lambda: subscriber.of(config))
            found.update(
                json.loads(subscriber.of(config)[-1])["components"], topics={name for name, *_ in subscriber.got}
            )
            subscriber.close()
            return expected <= found.keys()

        eventually(is_reported)
        box.end()
        box.join()
        return found

    first: dict[str, Any] = {}
    first = run(("rain", "犬"))
    assert first["sound_rain"]["state_topic"] == "home/ears/sound/rain"
    then = run(("犬", "猫"))
    assert then["sound_rain"] == {"platform": "binary_sensor"}
    assert "home/ears/sound/rain" not in then["topics"]
    (dog,) = (key for key, one in first.items() if key != "topics" and one.get("name") == "犬")
    assert then[dog]["name"] == "犬"  # it did not change its owner
    assert run(("犬", "猫"))["sound_rain"] == {"platform": "binary_sensor"}  # for one that was off meanwhile
    assert run(("rain",))["sound_rain"]["state_topic"] == "home/ears/sound/rain"


@needs_broker
def test_nothing_is_on_after_a_process_that_was_killed(broker: Broker, eventually: Eventually) -> None:
    broker.start()
    code = (
        "import sys; from tests.runtime.sinks.conftest import status; from flexiast_runtime.sinks.mqtt import Mqtt;"
        "from flexiast_runtime.sinks.sink import RunContext; from flexiast_runtime.sinks.outbox import Outbox;"
        "from flexiast_runtime.detection.records import SourceNotice;"
        "box = Outbox(Mqtt('127.0.0.1', int(sys.argv[1]), 'home/ears'));"
        "box.open(RunContext(labels=('rain',), sources=('kitchen',)));"
        "box.put(status(('rain',))); box.put(SourceNotice('kitchen', 1.0, 'lost', 'unplugged')); sys.stdin.read(1)"
    )
    before = Subscriber(broker.port)
    eventually(before.subscribed)
    child = subprocess.Popen([sys.executable, "-c", code, str(broker.port)], stdin=subprocess.PIPE)
    eventually(lambda: before.of("home/ears/sound/rain") == ["OFF", "ON"])
    eventually(lambda: before.of("home/ears/source/kitchen") == ["OFF", "ON"])
    child.kill()
    child.communicate()
    eventually(lambda: before.of("home/ears/status") == ["online", "offline"])
    before.close()
    after = Subscriber(broker.port)
    eventually(lambda: len(after.got) == 3)
    assert {(topic.removeprefix("home/ears/"), payload) for topic, payload, _ in after.got} == {
        ("status", "offline"),
        ("sound/rain", "OFF"),
        ("source/kitchen", "OFF"),
    }
    after.close()


def test_discovery_names_what_home_assistant_requires() -> None:
    """Its documents: device and origin at the top; platform and unique_id in each component, and one key more."""
    labels = ("Dog bark", "rain")
    document = discovery("home/ears", labels, {"rain": "rain"}, {"kitchen": "kitchen"})
    assert document["device"]["identifiers"] and document["origin"]["name"]
    assert document["availability_topic"] == "home/ears/status"
    components = document["components"]
    assert {key: value["platform"] for key, value in components.items()} == {
        "event": "event",
        "last": "sensor",
        "sound_rain": "binary_sensor",
        "source_kitchen": "binary_sensor",
    }
    assert components["event"]["event_types"] == ["Dog bark", "rain"]
    identifiers = [component["unique_id"] for component in components.values()]
    assert len(set(identifiers)) == len(components)
    assert all(component["state_topic"].startswith("home/ears/") for component in components.values())
