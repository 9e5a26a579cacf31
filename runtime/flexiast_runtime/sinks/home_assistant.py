"""Discovery messages, by which flexiast appears in Home Assistant as a device.

One retained message describes the whole device (device-based discovery, Home Assistant 2024.11 or newer):
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import flexiast

DISCOVERY_PREFIX = "homeassistant"
"""Home Assistant's default discovery prefix"""


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Each name as letters, digits and underscores, which identifiers and topics are made of; no two are equal.

    A slug never passes to another sound, whatever names come and go: where a letter has no Latin counterpart, and where
    two names would get the same slug, a part of the name's hash stands at the end.
    """
    names = list(names)
    plain = {name: _make_slug(name) for name in names}
    shared = Counter(plain.values())
    return {
        name: slug if slug and shared[slug] == 1 and not _loses_letters(name) else f"{slug or 'sound'}_{_hash(name)}"
        for name, slug in plain.items()
    }


def _make_slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", _strip_accents(name).lower()).strip("_")


def _strip_accents(name: str) -> str:
    """Letters without their accents: ü becomes u."""
    return "".join(one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one))


def _loses_letters(name: str) -> bool:
    return any(one.isalnum() and not one.isascii() for one in _strip_accents(name))


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]


def discovery_topic(prefix: str, topic: str) -> str:
    return f"{prefix}/device/{_device(topic)}/config"


def tombstones(published: Any, current: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Components of an earlier message that the current one lacks, in the form that makes Home Assistant remove them.

    They stay in the message: a Home Assistant that is off today reads it at its next start.
    """
    components = published.get("components") if isinstance(published, dict) else None
    if not isinstance(components, dict):
        return {}
    return {
        key: {"platform": component["platform"]}
        for key, component in components.items()
        if key not in current["components"] and isinstance(component, dict) and "platform" in component
    }


def discovery(
    topic: str, labels: Iterable[str], sounds: Mapping[str, str], sources: Mapping[str, str]
) -> dict[str, Any]:
    """The device behind a base topic.

    It has an event entity that fires for each of the labels, a sensor with the last sound, a binary sensor for each of
    ``sounds`` that is on while the sound lasts, and one for each of ``sources`` that is on while the source has a
    problem. The last two give slugs by name.
    """
    device = _device(topic)
    components: dict[str, dict[str, Any]] = {
        "event": {
            "platform": "event",
            "name": "Sound",
            "state_topic": f"{topic}/event",
            "event_types": list(labels),
            "icon": "mdi:ear-context",
        },
        "last": {
            "platform": "sensor",
            "name": "Last sound",
            "state_topic": f"{topic}/event",
            "value_template": "{{ value_json.label }}",
            "json_attributes_topic": f"{topic}/event",
            "icon": "mdi:waveform",
        },
    }
    for name, slug in sounds.items():
        components[f"sound_{slug}"] = {
            "platform": "binary_sensor",
            "name": name,
            "state_topic": f"{topic}/sound/{slug}",
            "device_class": "sound",
        }
    for name, slug in sources.items():
        components[f"source_{slug}"] = {
            "platform": "binary_sensor",
            "name": name,
            "state_topic": f"{topic}/source/{slug}",
            "device_class": "problem",
            "entity_category": "diagnostic",
        }
    for key, component in components.items():
        component["unique_id"] = f"{device}_{key}"
    return {
        "device": {
            "identifiers": [device],
            "name": topic,
            "manufacturer": "flexiast",
            "sw_version": flexiast.__version__,
        },
        "origin": {"name": "flexiast", "sw_version": flexiast.__version__},
        "availability_topic": f"{topic}/status",
        "qos": 1,
        "components": components,
    }


def _device(topic: str) -> str:
    return f"flexiast_{slugs([topic])[topic]}"
