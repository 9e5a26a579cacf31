"""The names that this machine goes by on its networks."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from pathlib import Path

RESOLVER = Path("/etc/resolv.conf")
CACHE_S = 60.0
"""How long an answer of the resolver is cached: a network may come up, or assign another name, later."""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    return name.lower() == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def own_names(resolver: Path = RESOLVER) -> set[str]:
    """The host's name: short, in multicast DNS, and in each domain that the network searches; without a query."""
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
    """Names of the host, and of its addresses, in /etc/hosts and at the network's name server; cached."""

    def __init__(self) -> None:
        self._cache: dict[str, tuple[float, frozenset[str]]] = {}

    async def look_up(self, address: str) -> frozenset[str]:
        """Names of one of this machine's addresses; queried in a thread, because the resolver may take seconds."""
        found = self._cache.get(address)
        if found is None or found[0] < time.monotonic():
            names = await asyncio.to_thread(_resolve, address)
            found = self._cache[address] = (time.monotonic() + CACHE_S, names)
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
