"""Texts with ``$label``, ``$score`` and the other fields of an event."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template

from flexiast.errors import UsageError
from flexiast.spec import PatchSize
from flexiast_runtime.detection.records import Event

FIELDS = tuple(Event("", "", 0, 1, 1, 0.0, PatchSize(1, 1)).document())


def check_template(text: str, where: str) -> Template:
    """The template; raises UsageError for a field that no event has."""
    template = Template(text)
    try:
        template.substitute(dict.fromkeys(FIELDS, ""))
    except (KeyError, ValueError) as error:
        known = ", ".join(f"${name}" for name in FIELDS)
        raise UsageError(f"{where} cannot be used as a template: {error}; there are {known}, and $$ for $") from None
    return template


def event_fields(event: Event) -> dict[str, str]:
    """The event's fields as text; empty where a recording has none."""
    return {name: "" if value is None else str(value) for name, value in event.document().items()}


class BodyTemplate:
    """A file whose text becomes the body; in one that ends in .json the fields are escaped as in JSON strings."""

    def __init__(self, path: Path) -> None:
        try:
            self._template = check_template(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the template {path} cannot be read: {error}; name a text file") from error
        self._json = path.suffix == ".json"

    def body(self, event: Event) -> tuple[str, bytes]:
        """Content type and body for one event."""
        values = event_fields(event)
        if self._json:
            values = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in values.items()}
        content_type = "application/json" if self._json else "text/plain; charset=utf-8"
        return content_type, self._template.substitute(values).encode()
