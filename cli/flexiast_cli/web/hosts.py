"""The names that this machine goes by on its networks."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from pathlib import Path

RESOLVER = Path("/etc/resolv.conf")
KEPT_S = 60.0
"""How long the answer of the resolver holds: a network may come up, or give another name, later."""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    return name.lower() == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def own_names(resolver: Path = RESOLVER) -> set[str]:
    """The host's name: short, in multicast DNS, and in each domain that the network searches; asks nobody."""
    whole = socket.gethostname().lower()
    short = whole.partition(".")[0]
    return {whole, short, *(f"{short}.{domain}" for domain in ("local", *_search_domains(resolver)))}


def _search_domains(resolver: Path) -> list[str]:
    try:
        lines = resolver.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    listed = [line.split()[1:] for line in lines if line.split()[:1] in (["search"], ["domain"])]
    return [domain.lower().strip(".") for domains in listed for domain in domains if domain.strip(".")]


class ResolvedNames:
    """What /etc/hosts and the network's name server call the host and those of its addresses that were asked for."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, frozenset[str]]] = {}

    async def of(self, address: str) -> frozenset[str]:
        """Names of one of this machine's addresses; the resolver, which may take seconds, is asked in a thread."""
        found = self._kept.get(address)
        if found is None or found[0] < time.monotonic():
            names = await asyncio.to_thread(_resolve, address)
            found = self._kept[address] = (time.monotonic() + KEPT_S, names)
        return found[1]


def _resolve(address: str) -> frozenset[str]:
    names: set[str] = set()
    for place in (socket.gethostname(), address):
        try:
            name, aliases, _ = socket.gethostbyaddr(place)
        except (OSError, UnicodeError):
            continue
        names |= {name.lower().rstrip("."), *(alias.lower().rstrip(".") for alias in aliases)}
    return frozenset(name for name in names if not is_address(name))
