"""The version of our JSON, and how documents of an earlier version are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

SCHEMA_VERSION = "2.0"
"""Of every JSON document and JSONL record printed; the major number changes when a reader must."""


def rename_keys(document: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The document with new names for its keys, in the same order; nested ones stay."""
    return {renamed.get(key, key): value for key, value in document.items()}


def upgrade_json(content: bytes, upgrade: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """The text of a JSON object after ``upgrade``; what is no object stays, for its reader to refuse."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps(upgrade(document)).encode() if isinstance(document, dict) else content
