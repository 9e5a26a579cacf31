"""The links of an Ogg file: streams that were joined follow each other, and decoders end with the first one.

Each page names its stream and says whether it begins or ends it (RFC 3533, section 6).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO

MAGIC = b"OggS"
BEGINS, ENDS = 2, 4
"""Flags of a page"""
CHUNK_BYTES = 1 << 16


@dataclass
class Link:
    """One stream, or several that lie side by side; it reaches to where the next link begins."""

    begin: int
    end: int = 0
    opened: set[bytes] = field(default_factory=set)
    """Serial numbers of streams whose last page has not come"""

    @property
    def complete(self) -> bool:
        """Its last page is there, and says that it is the last one."""
        return not self.opened


def find_links(file: BinaryIO) -> list[Link]:
    """The links of an Ogg file in the order in which they sound; none for any other file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != MAGIC:
        return []
    links: list[Link] = []
    place, began = 0, False
    while place + 27 <= size:
        file.seek(place)
        head = file.read(27)
        lengths = file.read(head[26]) if head[:4] == MAGIC else b""
        if head[:4] != MAGIC or len(lengths) < head[26]:
            place = _next_page(file, place + 1, size)
            continue
        flags, serial = head[5], head[14:18]
        if flags & BEGINS and not began:
            links.append(Link(place))
        if not links:  # the beginning of the first stream is missing
            return []
        began = bool(flags & BEGINS)
        if began:
            links[-1].opened.add(serial)
        after = place + 27 + len(lengths) + sum(lengths)
        if flags & ENDS and after <= size:
            links[-1].opened.discard(serial)
        place = links[-1].end = min(after, size)
    for link, following in pairwise(links):
        link.end = following.begin
    return links


def _next_page(file: BinaryIO, place: int, size: int) -> int:
    while place < size:
        file.seek(place)
        found = file.read(CHUNK_BYTES + len(MAGIC) - 1).find(MAGIC)
        if found >= 0:
            return place + found
        place += CHUNK_BYTES
    return size
