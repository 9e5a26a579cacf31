"""What Home Assistant is told so that flexiast appears there as a device.

One retained message describes the whole device (device-based discovery, Home Assistant 2024.11 or newer):
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import flexiast

DISCOVERY_PREFIX = "homeassistant"
"""Where Home Assistant looks, unless it was told otherwise."""


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Each name as letters, digits and underscores, which identifiers and topics are made of; no two are equal."""
    made: dict[str, str] = {}
    for name in names:
        slug = base = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "sound"
        number = 1
        while slug in made.values():
            slug = f"{base}_{(number := number + 1)}"
        made[name] = slug
    return made


def discovery_topic(topic: str) -> str:
    return f"{DISCOVERY_PREFIX}/device/{_device(topic)}/config"


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
            "icon": "mdi:ear-hearing",
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
