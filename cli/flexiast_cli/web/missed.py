"""What the view *Review* shows and stores of sounds that no event reported, in the audio that a listener keeps."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexiast.errors import UsageError
from flexiast_cli.web.review import draw_sound, parse_reviewer
from flexiast_runtime.audio.flac import encode_flac
from flexiast_runtime.history.marks import CONTEXT_S, LONGEST_S, SHORTEST_S, mark_sound, remove_mark
from flexiast_runtime.history.stored_audio import (
    audio_folder,
    cut_stretch,
    find_stored_span,
    list_sources,
    render_source,
)

if TYPE_CHECKING:
    from flexiast.spec import FrontendSpec

LOOK_S = 10.0
"""Seconds before and after a moment that are shown"""


class MissedDesk:
    """Answers the view's questions from the audio beside one database, and stores marks there. For any thread."""

    def __init__(self, database: Path, frontend: FrontendSpec) -> None:
        self._database, self._folder, self._frontend = database, audio_folder(database), frontend

    def list_sources(self) -> dict[str, Any]:
        """The sources of which sound is kept, each with the Unix seconds between which it is."""
        spans = {source: find_stored_span(self._folder, source) for source in list_sources(self._folder)}
        found = [{"name": name, "start_s": span[0], "end_s": span[1]} for name, span in spans.items() if span]
        return {"sources": found, "longest_s": LONGEST_S}

    def look(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """The sound around a moment: when it begins, how long it is, and its picture in base64.

        Raises UsageError for what is no moment, DataError where nothing is kept of it.
        """
        at_s = _parse_second(parameters.get("at"))
        stretch = cut_stretch(self._folder, parameters.get("source", ""), at_s, at_s, context_s=LOOK_S)
        return {
            "started_at_s": at_s - stretch.start_s,
            "seconds": len(stretch.samples) / stretch.rate_hz,
            "at_s": stretch.start_s,
            "shades": base64.b64encode(draw_sound(stretch.samples, stretch.rate_hz, self._frontend)).decode("ascii"),
        }

    def encode(self, parameters: Mapping[str, str]) -> bytes:
        """The sound between two moments as FLAC; raises as ``look``."""
        source = parameters.get("source", "")
        start_s, end_s = _check_length(parameters.get("start"), parameters.get("end"))
        stretch = cut_stretch(self._folder, source, start_s, end_s, context_s=0.0)
        return encode_flac(stretch.samples, stretch.rate_hz, render_source(source))

    def mark(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Store that a label sounded between two moments; raises as ``look`` and ``mark_sound``."""
        label, source = document.get("label"), document.get("source")
        if not isinstance(label, str) or not isinstance(source, str):
            raise UsageError("label and source are plain text")
        start_s, end_s = _check_length(document.get("start_s"), document.get("end_s"))
        reviewer = parse_reviewer(document)
        stretch = cut_stretch(self._folder, source, start_s, end_s, context_s=CONTEXT_S)
        return {"id": mark_sound(self._database, label.strip(), stretch, reviewer=reviewer).id}

    def withdraw(self, mark_id: str) -> dict[str, Any]:
        """Take a mark back; raises DataError for one that is not there."""
        remove_mark(self._database, mark_id)
        return {}


def _parse_second(value: object) -> float:
    try:
        second = float(str(value))
    except ValueError:
        second = math.nan
    if not 0 <= second < 1e11:
        raise UsageError(f"{value!r} is no moment; expected seconds since 1970")
    return second


def _check_length(start: object, end: object) -> tuple[float, float]:
    start_s, end_s = _parse_second(start), _parse_second(end)
    if end_s <= start_s:
        raise UsageError("the end must come after the beginning")
    if not SHORTEST_S <= end_s - start_s <= LONGEST_S:
        raise UsageError(f"a sound of {end_s - start_s:.1f} s is not marked; choose {SHORTEST_S:g} to {LONGEST_S:g} s")
    return start_s, end_s
