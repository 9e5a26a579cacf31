"""What a search of folders takes, and what it says of the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from flexiast.data.audio import AUDIO_SUFFIXES, decode_audio
from flexiast.data.media import MEDIA_SUFFIXES
from flexiast.data.search import LeftOut, search_folder

Float = NDArray[np.float32]
WriteAudio = Callable[..., Path]

FORMAT_OF = {
    ".wave": "WAV", ".bwf": "WAV", ".bw64": "RF64", ".rf64": "RF64", ".w64": "W64", ".oga": "OGG", ".caf": "CAF",
    ".aif": "AIFF", ".aifc": "AIFF", ".snd": "AU", ".sph": "NIST", ".nist": "NIST", ".iff": "SVX", ".8svx": "SVX",
    ".sf": "IRCAM", ".ircam": "IRCAM", ".mp2": "MP3",
}  # fmt: skip


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES))
def test_every_kind_that_is_searched_for_is_read(tmp_path: Path, make_tone: Callable[..., Float], suffix: str) -> None:
    format_ = FORMAT_OF.get(suffix, suffix[1:].upper())
    rate_hz = 8_000 if suffix == ".wve" else 48_000  # Psion's has one rate
    path = tmp_path / f"x{suffix}"
    name = {".opus": "OGG"}.get(suffix, format_)
    subtype = {".opus": "OPUS", ".wve": "ALAW"}.get(suffix)
    soundfile.write(path, make_tone(440, 0.5, rate_hz), rate_hz, format=name, subtype=subtype)
    assert search_folder(tmp_path).files == (path,)
    samples, rate = decode_audio(path)
    assert (rate, len(samples)) == (rate_hz, rate_hz // 2)
    rms = np.sqrt(np.mean(samples[rate // 8 : rate // 4] ** 2))  # past what encoders fade in
    assert rms == pytest.approx(0.5 / np.sqrt(2), rel=0.05)  # A-law, MP3 and Opus are not exact


def test_every_format_of_libsndfile_is_searched_for_or_has_a_reason_not_to_be() -> None:
    searched = {FORMAT_OF.get(suffix, suffix[1:].upper()) for suffix in AUDIO_SUFFIXES} | {"WAVEX"}
    others = {"HTK", "MAT4", "MAT5", "MPC2K", "XI", "RAW", "SD2"}  # other things' names, no header, a second file
    assert set(soundfile.available_formats()) - searched == others & set(soundfile.available_formats())
    assert not AUDIO_SUFFIXES & MEDIA_SUFFIXES


def test_links_are_followed_once_and_never_in_a_circle(tmp_path: Path, write_audio: WriteAudio) -> None:
    silence = np.zeros(10, np.float32)
    inside, outside = (write_audio(tmp_path / name, silence) for name in ("set/a/1.wav", "elsewhere/2.wav"))
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "self").symlink_to("self")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "set" / "3.wav").symlink_to(outside)
    found = search_folder(tmp_path / "set")
    assert found.files == tuple(sorted((inside, tmp_path / "set" / "b" / "2.wav", tmp_path / "set" / "3.wav")))
    assert found.left_out == LeftOut(broken=(tmp_path / "set" / "a" / "self",))


def test_what_is_left_out_is_counted_by_kind_with_what_to_do(tmp_path: Path, write_audio: WriteAudio) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(10, np.float32))
    for name in ("1.txt", "2.TXT", "3.jpg", "Makefile", ".hidden.txt"):
        (tmp_path / name).write_text("text")
    (tmp_path / "annex.flac").symlink_to(".git/annex/objects/none")
    os.mkfifo(tmp_path / "pipe.wav")
    found = search_folder(tmp_path)
    assert [path.name for path in found.files] == ["a.wav"]
    assert str(found.left_out) == (
        f"1 broken link, such as {tmp_path / 'annex.flac'} (fetch the target, as with git annex get, or remove the "
        "link); 1 pipe, socket or device (give a pipe by its name); 4 files (2 .txt, 1 .jpg, 1 Makefile) (not read as "
        "audio)"
    )


def test_a_folder_without_permission_is_named(
    tmp_path: Path, write_audio: WriteAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "open" / "a.wav", np.zeros(10, np.float32))
    closed = write_audio(tmp_path / "closed" / "b.wav", np.zeros(10, np.float32)).parent
    scan = os.scandir

    def scandir(path: Path) -> object:  # root may open everything, and tests may run as root
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = search_folder(tmp_path)
    assert [path.name for path in found.files] == ["a.wav"]
    assert str(found.left_out) == f"1 folder without permission, such as {closed} (chmod u+rx)"


def test_sums_keep_every_count() -> None:
    one, two = LeftOut(loose=1, unreadable=2, closed=(Path("a"),)), LeftOut(loose=3, broken=(Path("b"), Path("c")))
    both = one + two + LeftOut(special=2)
    assert (both.loose, both.unreadable, both.lost, both.special) == (4, 2, 5, 2)
