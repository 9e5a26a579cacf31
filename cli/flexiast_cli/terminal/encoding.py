"""Output on terminals, and in locales, that cannot show every character.

Signs of ours become the nearest ASCII of the same width, so that tables and bars keep their shape; any other character
that cannot be shown is written out by its number, as in Python. Lone surrogates, which stand for the bytes of a file
name that is not UTF-8, are written out everywhere. Data stays exact: JSON is escaped by its own rules.
"""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNS = str.maketrans(
    "→←▸…–−×·±÷²³µ°∞≈Δ━─╸┃▀▁▂▃▄▅▆▇█░▒▓",
    "><>.--x-~/23udo~d=--|#_..::++#.:+",
)
ESCAPED, SAME_WIDTH = "flexiast.escaped", "flexiast.same_width"
ASCII = "flexiast-ascii"


def adapt_streams() -> None:
    """Make stdout and stderr write whatever they are given, as well as their encoding can."""
    codecs.register_error(ESCAPED, _handler(_escape))
    codecs.register_error(SAME_WIDTH, _handler(_replace_same_width))
    codecs.register(_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a shell may close it
            # click takes plain ASCII for a mistake and would write UTF-8.
            plain = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=ASCII if plain else None, errors=ESCAPED)


@contextmanager
def preserve_widths() -> Iterator[None]:
    """Within the block, a character that cannot be shown becomes a ? for each of its cells: pictures keep shape."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != ESCAPED:
        yield
        return
    stream.reconfigure(errors=SAME_WIDTH)
    try:
        yield
    finally:
        stream.reconfigure(errors=ESCAPED)


def shows_unicode(stream: object) -> bool:
    """Whether the stream's encoding has every character; a stream without an encoding, such as StringIO, has."""
    encoding: str | None = getattr(stream, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


def _handler(write: Callable[[str], str]) -> Callable[[UnicodeError], tuple[str, int]]:
    def handle(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return write(error.object[error.start : error.end].translate(SIGNS)), error.end

    return handle


def _escape(missing: str) -> str:
    return "".join(
        character if (code := ord(character)) < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        for character in missing
    )


def _replace_same_width(missing: str) -> str:
    from rich.cells import cell_len

    width = cell_len(missing)  # of them together: joined emoji are narrower than each alone
    plain = (unicodedata.normalize("NFKD", character)[0] for character in missing)  # é without its accent
    replaced = (character if ord(character) < 0x80 else "?" * cell_len(character) for character in plain)
    return "".join(replaced)[:width].ljust(width, "?")


def _ascii(name: str) -> codecs.CodecInfo | None:
    if name.replace("_", "-") != ASCII:
        return None
    plain = codecs.lookup("ascii")
    return codecs.CodecInfo(
        plain.encode,
        plain.decode,
        plain.streamreader,
        plain.streamwriter,
        plain.incrementalencoder,
        plain.incrementaldecoder,
        ASCII,
    )
