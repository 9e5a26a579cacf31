"""Marking on the page what no event reported: what its server tells and stores, and doing it in a real browser."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import soundfile

from flexiast.spec import FrontendSpec
from flexiast_cli.web.server import TOKEN_VARIABLE, WebPage
from flexiast_runtime.history.corrections import read_corrections
from flexiast_runtime.history.marks import marks_folder, read_marks
from tests.cli.chromium import open_tab
from tests.cli.commands.test_mark import RATE_HZ, keep, sound
from tests.cli.web.test_review import EVENTS, HOSTILE, ask, database, page

pytest.importorskip("starlette", reason="the page needs the extra `service`")

__all__ = ["database", "page"]  # fixtures
STARTED_AT_S = round(time.time()) - 7200.0
SOURCE = f"kitchen {HOSTILE}"


@pytest.fixture(autouse=True)
def stored(database: Path) -> Iterator[None]:
    keep(database, SOURCE, sound(), STARTED_AT_S)
    yield


def address(kind: str, **values: object) -> str:
    return f"/review/missed/{kind}?{urlencode({'source': SOURCE} | values)}"


def test_a_sound_is_found_heard_marked_and_taken_back_over_http(page: WebPage, database: Path) -> None:
    (source,) = ask(page, "/review/missed")[1]["sources"]
    assert (source["name"], source["start_s"], source["end_s"]) == (SOURCE, STARTED_AT_S, STARTED_AT_S + 50)
    found = ask(page, address("look", at=STARTED_AT_S + 12.5))[1]
    assert (found["started_at_s"], found["seconds"], found["at_s"]) == (STARTED_AT_S + 2.5, 20.0, 10.0)
    frames = len(base64.b64decode(found["shades"])) // 64
    assert frames == pytest.approx(2000, abs=3)  # of 10 ms, less the last window's
    start_s, end_s = STARTED_AT_S + 12.5, STARTED_AT_S + 13.5
    status, content, response = ask(page, address("sound", start=start_s, end=end_s))
    assert (status, response.getheader("Content-Type")) == (200, "audio/flac")
    expected = sound()[round(12.5 * RATE_HZ) : round(13.5 * RATE_HZ)]
    np.testing.assert_allclose(soundfile.read(io.BytesIO(content), dtype="float32")[0], expected, atol=1 / 32_768)

    mark = {"source": SOURCE, "label": "rain", "start_s": start_s, "end_s": end_s, "reviewer": "ann"}
    status, answer, _ = ask(page, "/review/missed", "POST", mark)
    (stored,) = read_marks(database)
    assert (status, answer["id"], stored.label, stored.reviewer) == (200, stored.id, "rain", "ann")
    (correction,) = read_corrections(database).found
    samples, _ = soundfile.read(correction.path, dtype="float32")
    span = slice(*(round(moment_s * RATE_HZ) for moment_s in correction.span))
    np.testing.assert_allclose(samples[span], expected, atol=1 / 32_768)
    assert ask(page, f"/review/missed/{stored.id}", "DELETE")[0] == 200
    assert read_marks(database) == []
    assert ask(page, f"/review/missed/{stored.id}", "DELETE")[0] == 404


def test_what_cannot_be_marked_is_said_in_words(page: WebPage, database: Path) -> None:
    mark = {"source": SOURCE, "label": "rain", "start_s": STARTED_AT_S + 12.5, "end_s": STARTED_AT_S + 13.5}
    cases = [
        (address("look", at="noon"), "GET", None, 400, "is no moment"),
        (address("look", at="nan"), "GET", None, 400, "is no moment"),
        (address("look", at=STARTED_AT_S - 100), "GET", None, 404, "there is what sounded from"),
        ("/review/missed/look?at=1&source=garden", "GET", None, 404, "nothing was kept of garden at "),
        (
            address("sound", start=STARTED_AT_S, end=STARTED_AT_S + 1e6),
            "GET",
            None,
            400,
            "is not marked; choose 0.1 to 60 s",
        ),
        ("/review/missed", "POST", mark | {"end_s": mark["start_s"] - 5}, 400, "the end must come after the beginning"),
        ("/review/missed", "POST", mark | {"label": " "}, 400, "label"),
        ("/review/missed", "POST", mark | {"label": None}, 400, "plain text"),
        ("/review/missed", "POST", mark | {"source": "../../etc"}, 404, "is not kept"),
        ("/review/missed", "POST", mark | {"reviewer": "a\x1b[2J"}, 400, "plain text"),
        ("/review/missed", "POST", [1], 400, "a JSON object"),
    ]
    for path, method, body, expected, text in cases:
        status, answer, _ = ask(page, path, method, body)
        assert (status, text in answer["error"]) == (expected, True), (path, body, answer)
    assert ask(page, "/review/missed", "POST", mark, Content_Type="text/plain")[0] == 400
    assert read_marks(database) == [] and not marks_folder(database).exists()


def test_nobody_without_the_token_or_from_another_site_hears_or_marks(
    database: Path, build_frontend_spec: Callable[..., FrontendSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    requests = [
        ("GET", "/review/missed?", None),
        ("GET", address("look", at=STARTED_AT_S + 10), None),
        ("GET", address("sound", start=STARTED_AT_S, end=STARTED_AT_S + 1), None),
        ("POST", "/review/missed?", {"source": SOURCE, "label": "rain", "start_s": STARTED_AT_S, "end_s": 0}),
        ("DELETE", "/review/missed/0123456789abcdef?", None),
    ]
    clips = database.parent / "clips"
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec(), clips, database=database) as page:
        for method, path, body in requests:
            assert ask(page, path, method, body)[0] == 401, path
            assert ask(page, f"{path}&token=guess", method, body)[0] == 401, path
            assert ask(page, f"{path}&token=secret", method, body, Origin="https://evil.example")[0] == 403, path
            assert ask(page, f"{path}&token=secret", method, body, Host="evil.example")[0] == 421, path
            assert ask(page, f"{path}&token=secret", method, body)[0] in {200, 400, 404}, path


def test_marking_in_a_browser(page: WebPage, database: Path, tmp_path: Path) -> None:
    """By the clock, by dragging, by a label that is new, and back again."""
    with open_tab(tmp_path / "profile", "--autoplay-policy=no-user-gesture-required", "--mute-audio") as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=1000, height=2000, deviceScaleFactor=1, mobile=False)
        tab.call("Page.navigate", url=f"{page.url}review.html")
        tab.until("document.getElementById('missed')?.hidden === false")
        assert tab.value("document.getElementById('source').value") == SOURCE
        assert tab.value("document.querySelectorAll('img').length") == 0
        message = "document.getElementById('missed-message').textContent"
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(STARTED_AT_S + 12))
        tab.value(
            f"document.getElementById('moment').value = '{moment}'; document.getElementById('look').requestSubmit()"
        )
        tab.until("!document.getElementById('stretch').hidden")
        bounds = "[document.getElementById('from').value, document.getElementById('to').value].join()"
        assert tab.value(bounds) == "10.0,12.0"
        # The picture is drawn; dragging over the second half of it chooses 10 to 15 of its 20 s.
        tab.until(
            "(() => { const c = document.getElementById('minute'), d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; return d.some((v, i) => i % 4 === 0 && v > 200); })()"
        )
        box = tab.value(
            "(b => [b.left, b.top, b.width, b.height])(document.getElementById('minute').getBoundingClientRect())"
        )
        left, top, width, height = box
        for kind, share in (("mousePressed", 0.75), ("mouseMoved", 0.6), ("mouseMoved", 0.5), ("mouseReleased", 0.5)):
            at = {"x": left + share * width, "y": top + height / 2}
            tab.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)
        tab.until(f"{bounds} === '10.0,15.0'")

        submit = "document.getElementById('stretch').requestSubmit()"
        tab.value("document.getElementById('from').value = '10.5'; document.getElementById('to').value = '11.5'")
        tab.value(f"document.getElementById('missed-label').value = 'owl'; {submit}")
        tab.until(f"{message}.includes('No model here knows')")
        assert read_marks(database) == []
        tab.value(submit)
        tab.until(f"{message} === 'Marked as owl, 1.0 s.'")
        (mark,) = read_marks(database)
        assert (mark.label, mark.source, mark.reviewer) == ("owl", SOURCE, "page")
        assert mark.started_at_s == pytest.approx(STARTED_AT_S + 12.5)
        tab.value("document.getElementById('unmark').click()")
        tab.until(f"{message} === 'The mark is taken back.'")
        assert read_marks(database) == []
        # Keys in its fields judge no event.
        tab.value("document.getElementById('missed-label').focus()")
        tab.press("2", "2")
        assert tab.value("document.getElementById('place').textContent") == f"1 of {len(EVENTS)}"
