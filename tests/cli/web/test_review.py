"""The view *Review*: what its server tells and stores, whom it lets in; and reviewing by keyboard in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flexiast.spec import FrontendSpec
from flexiast_cli.web.server import PAGE, TOKEN_VARIABLE, WebPage
from flexiast_runtime.history.verdicts import Judgement, Verdict, give_verdict, read_verdicts
from tests.cli.chromium import PATIENCE_S, Tab, open_tab
from tests.runtime.history.conftest import BUNDLE, fill_history
from tests.runtime.sinks.conftest import event

pytest.importorskip("starlette", reason="the page needs the extra `service`")

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
SCORES = [("dog", 0.9), ("dog", 0.55), ("cat", 0.8), ("rain", 0.6), ("rain", 0.7), (HOSTILE, 0.97)]
EVENTS = [
    event(number, label, score=score, threshold=0.5, bundle_sha256=BUNDLE)
    for number, (label, score) in enumerate(SCORES)
]
LEAST_SURE = [EVENTS[number] for number in (1, 3, 2, 5, 4, 0)]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return fill_history(tmp_path, EVENTS, EVENTS)


@pytest.fixture
def page(database: Path, build_frontend_spec: Callable[..., FrontendSpec]) -> Iterator[WebPage]:
    clips = database.parent / "clips"
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec(), clips, database=database) as page:
        yield page


def ask(
    page: WebPage, path: str, method: str = "GET", body: object = None, **headers: str
) -> tuple[int, Any, http.client.HTTPResponse]:
    """Status, the JSON of the answer or its bytes, and the answer."""
    (port,) = re.findall(r":(\d+)/", page.url)
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=PATIENCE_S)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    given = {"Host": f"127.0.0.1:{port}"} | ({"Content-Type": "application/json"} if content else {})
    connection.request(method, path, content, given | {name.replace("_", "-"): text for name, text in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if content[:1] in {b"{", b"["} else content, response


def list_verdicts(database: Path) -> dict[str, tuple[str, str | None]]:
    return {name: (one.verdict.value, one.label) for name, one in read_verdicts(database).items()}


def test_a_verdict_is_stored_changed_and_withdrawn_over_http(page: WebPage, database: Path) -> None:
    queue = ask(page, "/review/queue")[1]
    assert [one["id"] for one in queue["events"]] == [one.id for one in LEAST_SURE]
    assert (queue["unreviewed"], queue["reviewed"]) == (6, 0)
    assert queue["labels"] == sorted({"cat", "dog", "rain", HOSTILE})
    address = f"/review/verdicts/{EVENTS[0].id}"
    status, first, _ = ask(page, address, "PUT", {"verdict": "wrong", "reviewer": "ann", "instead_of": None})
    assert (status, first["verdict"], first["reviewer"]) == (200, "wrong", "ann")
    status, refused, _ = ask(page, address, "PUT", {"verdict": "right", "instead_of": None})
    assert (status, "meanwhile has the verdict wrong, said by ann" in refused["error"]) == (409, True)
    status, second, _ = ask(page, address, "PUT", {"verdict": "other", "label": "cat", "instead_of": first})
    assert (status, second["reviewer"], list_verdicts(database)) == (200, "page", {EVENTS[0].id: ("other", "cat")})
    assert ask(page, "/review/precision")[1]["total"]["reviewed"] == 1
    assert ask(page, address, "DELETE", {"instead_of": first})[0] == 409
    assert ask(page, address, "DELETE", {"instead_of": second})[0] == 200
    assert list_verdicts(database) == {}


def test_an_event_comes_with_its_neighbours_its_place_and_its_picture(page: WebPage) -> None:
    found = ask(page, f"/review/events/{EVENTS[2].id}")[1]
    assert [one["label"] for one in found["neighbours"]] == ["dog", "dog", "rain", "rain", HOSTILE]
    assert found["span"] == {"start_s": 1.0, "end_s": 1.5}
    status, picture, _ = ask(page, f"/review/pictures/{EVENTS[2].id}")
    assert (status, len(picture)) == (200, 64 * 248)  # frames of 2.5 s
    status, part, response = ask(page, f"/clips/{EVENTS[2].id}", Range="bytes=0-3")
    assert (status, part, response.getheader("Content-Range", "")[:10]) == (206, b"fLaC", "bytes 0-3/")


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("order=oldest", [0, 1, 2, 3, 4, 5]),
        ("order=newest&label=rain", [4, 3]),
        ("order=oldest&min=0.6&max=0.8", [2, 3, 4]),
        ("reviewed=yes", []),
        ("day=2001-01-01", []),
    ],
)
def test_filters_choose_events(page: WebPage, query: str, numbers: list[int]) -> None:
    queue = ask(page, f"/review/queue?{query}")[1]
    assert [one["id"] for one in queue["events"]] == [EVENTS[number].id for number in numbers]


def test_what_cannot_be_answered_is_said_in_words(page: WebPage, database: Path) -> None:
    verdict = f"/review/verdicts/{EVENTS[0].id}"
    wrong = {"verdict": "wrong", "instead_of": None}
    cases = [
        ("/review/queue?order=random", "GET", None, 400, "the filters cannot be used"),
        ("/review/queue?day=yesterday", "GET", None, 400, "the filters cannot be used"),
        (f"/review/events/{'0' * 16}", "GET", None, 404, "holds no event"),
        (f"/review/pictures/{'0' * 16}", "GET", None, 404, "the clip is gone"),
        (f"/review/verdicts/{'0' * 16}", "PUT", wrong, 404, "holds no event"),
        (verdict, "PUT", {"verdict": "maybe"}, 400, "there are right, wrong, other, nothing"),
        (verdict, "PUT", wrong | {"instead_of": "right"}, 400, "the verdict that was seen"),
        (verdict, "PUT", wrong | {"reviewer": "a\x1b[2J"}, 400, "plain text"),
        (verdict, "PUT", {"verdict": "other", "label": "", "instead_of": None}, 400, "label"),
        (verdict, "PUT", [1], 400, "a JSON object"),
        (verdict, "PUT", b"\xff", 400, "a JSON object"),
        (verdict, "PUT", b" " * 20_000, 400, "at most"),
    ]
    for path, method, body, expected, text in cases:
        status, answer, _ = ask(page, path, method, body)
        assert (status, text in answer["error"]) == (expected, True), (path, body, answer)
    assert ask(page, verdict, "PUT", wrong, Content_Type="text/plain")[0] == 400
    assert list_verdicts(database) == {}


def test_a_locked_database_is_worth_another_try(page: WebPage, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexiast_runtime.history.database.LOCKED_S", 0.05)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, answer, _ = ask(
            page, f"/review/verdicts/{EVENTS[0].id}", "PUT", {"verdict": "wrong", "instead_of": None}
        )
    assert (status, "another program is writing" in answer["error"]) == (503, True)


def test_nobody_without_the_token_or_from_another_site_hears_or_says_anything(
    database: Path, build_frontend_spec: Callable[..., FrontendSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    clips, name = database.parent / "clips", EVENTS[0].id
    wrong = {"verdict": "wrong", "instead_of": None}
    requests = [
        ("GET", f"/clips/{name}", None),
        *(("GET", f"/review/{path}", None) for path in ("queue", "precision", f"events/{name}", f"pictures/{name}")),
        ("PUT", f"/review/verdicts/{name}", wrong),
        ("DELETE", f"/review/verdicts/{name}", {"instead_of": None}),
        *(("GET", f"/{file.name}", None) for file in PAGE.iterdir()),
    ]
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec(), clips, database=database) as page:
        for method, path, body in requests:
            assert ask(page, path, method, body)[0] == 401, path
            assert ask(page, f"{path}?token=guess", method, body)[0] == 401, path
            assert ask(page, f"{path}?token=secret", method, body, Origin="https://evil.example")[0] == 403, path
            assert ask(page, f"{path}?token=secret", method, body, Host="evil.example")[0] == 421, path
        assert list_verdicts(database) == {}
        assert ask(page, f"/review/verdicts/{name}?token=secret", "PUT", wrong)[0] == 200


def test_no_file_outside_the_clips_folder_is_served(page: WebPage, database: Path) -> None:
    secret = database.parent / f"20261125T152342Z_dog_{'a' * 16}.flac"
    secret.write_bytes(b"secret")
    (database.parent / "clips" / secret.name).symlink_to(secret)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT OR REPLACE INTO clip_folders VALUES (?)", (str(database.parent),))
        document = json.dumps(EVENTS[0].document() | {"id": "a" * 16, "clip": str(secret)})
        connection.execute("UPDATE events SET id = ?, document = ? WHERE id = ?", ("a" * 16, document, EVENTS[0].id))
    assert "a" * 16 not in [one["id"] for one in ask(page, "/review/queue?order=oldest")[1]["events"]]
    for path in (f"/clips/{'a' * 16}", f"/review/pictures/{'a' * 16}", f"/review/pictures/..%2f{secret.name}"):
        assert ask(page, path)[0] == 404


def test_without_a_database_or_clips_the_view_says_what_to_do(
    build_frontend_spec: Callable[..., FrontendSpec], tmp_path: Path
) -> None:
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec(), tmp_path) as page:
        for path in ("queue", "precision", f"events/{EVENTS[0].id}"):
            status, answer, _ = ask(page, f"/review/{path}")
            assert (status, "--to sqlite and --to clips:FOLDER" in answer["error"]) == (404, True)


# ----------------------------------------------------------------------------------------------------- a real browser


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with open_tab(tmp_path / "profile", "--autoplay-policy=no-user-gesture-required", "--mute-audio") as tab:
        yield tab


def open_review(tab: Tab, page: WebPage) -> None:
    tab.call("Page.navigate", url=f"{page.url}review.html")
    wait_for(tab, "1 of 6")


WATCH = """
window.sounded = [];
const start = HTMLMediaElement.prototype.play;
HTMLMediaElement.prototype.play = function () {
  for (const kind of ['playing', 'ended']) this.addEventListener(kind, () => window.sounded.push(kind), { once: true });
  return start.call(this);
};
"""
"""Writes down what becomes of a sound"""


DRAWN = "document.getElementById('card').ariaBusy === 'false'"


def wait_for(tab: Tab, place: str) -> None:
    """Until this event is on the screen."""
    tab.until(f"document.getElementById('place')?.textContent === '{place}' && {DRAWN}")


def press(tab: Tab, *keys: str) -> None:
    for key in keys:
        tab.press(key, key if len(key) == 1 else "")


def test_reviewing_by_keyboard(tab: Tab, page: WebPage, database: Path) -> None:
    """Play, walk, each verdict, another label, taking back; all is in the database."""
    open_review(tab, page)
    what, message = (f"document.getElementById('{name}').textContent" for name in ("what", "message"))
    assert tab.value(what) == "dog"
    assert tab.value("document.getElementById('count').textContent") == "6 events to listen to · 0 reviewed"
    # The picture is drawn, with both borders of the event; the clip plays and stops.
    tab.until(
        "(() => { const c = document.getElementById('picture'), d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; return d.some((v, i) => i % 4 === 0 && v > 200); })()"
    )
    tab.value(WATCH)
    press(tab, " ")
    tab.until("window.sounded.join() === 'playing,ended'")
    assert tab.value("document.getElementById('play').textContent") == "▶ Play"
    press(tab, "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft")
    wait_for(tab, "1 of 6")
    tab.value("document.getElementById('reviewer').value = 'ann'")

    press(tab, "2")
    wait_for(tab, "2 of 6")
    press(tab, "1")
    wait_for(tab, "3 of 6")
    assert tab.value(what) == "cat"
    press(tab, "3")
    tab.until("document.getElementById('ask').open")
    tab.call("Input.insertText", text="dog")
    tab.press("Enter", "\r")
    wait_for(tab, "4 of 6")
    assert tab.value(what) == HOSTILE  # as it is, and it does nothing
    assert tab.value("document.querySelectorAll('img').length") == 0
    press(tab, "0")
    wait_for(tab, "5 of 6")
    tab.until("document.getElementById('count').textContent === '2 events to listen to · 4 reviewed'")
    assert list_verdicts(database) == {
        EVENTS[1].id: ("wrong", None),
        EVENTS[3].id: ("right", "rain"),
        EVENTS[2].id: ("other", "dog"),
        EVENTS[5].id: ("nothing", None),
    }
    assert {one.reviewer for one in read_verdicts(database).values()} == {"ann"}
    tab.until("document.querySelectorAll('#by-label li').length === 4")

    # A verdict is changed and taken back.
    press(tab, "ArrowLeft")
    wait_for(tab, "4 of 6")
    assert tab.value("document.getElementById('verdict').textContent") == "nothing, said by ann"
    press(tab, "1")
    wait_for(tab, "5 of 6")
    press(tab, "ArrowLeft")
    wait_for(tab, "4 of 6")
    assert list_verdicts(database)[EVENTS[5].id] == ("right", HOSTILE)
    press(tab, "u")
    tab.until("document.getElementById('verdict').textContent === ''")
    assert EVENTS[5].id not in list_verdicts(database)
    assert tab.value(message) == ""

    # Keys in the field of a name are letters.
    tab.value("document.getElementById('reviewer').focus()")
    press(tab, "2")
    assert tab.value("document.getElementById('place').textContent") == "4 of 6"


def test_a_key_says_something_of_the_event_on_the_screen_alone(tab: Tab, page: WebPage, database: Path) -> None:
    """Held keys, keys faster than the screen, and keys where no event is shown store nothing more."""
    open_review(tab, page)
    for _ in range(10):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="1", text="1", autoRepeat=True)
    tab.value("document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '2', bubbles: true }));" * 3)
    press(tab, "ArrowRight")
    wait_for(tab, "3 of 6")
    assert list_verdicts(database) == {EVENTS[1].id: ("wrong", None)}

    # Space presses what the keyboard has reached; a pointer leaves no focus behind.
    for name in ("next", "at-once"):
        tab.value(f"document.getElementById('{name}').focus()")
        press(tab, " ")
    wait_for(tab, "4 of 6")
    assert tab.value("document.getElementById('at-once').checked") is True
    for place in ("#next", "#transport label"):
        box = f"document.querySelector('{place}').getBoundingClientRect()"
        x, y = (tab.value(f"{box}.{side} - 4") for side in ("right", "bottom"))
        for kind in ("mousePressed", "mouseReleased"):
            tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        tab.until("document.activeElement === document.body")
    wait_for(tab, "5 of 6")
    assert tab.value("document.getElementById('at-once').checked") is False

    # A label is asked for again in another dialog.
    for _ in range(2):
        press(tab, "3")
        tab.until("document.getElementById('ask').open")
        tab.call("Input.insertText", text="owl")
        tab.press("Enter", "\r")
        tab.until("document.getElementById('hint').textContent.includes('No model here knows')")
        tab.value("document.getElementById('cancel').click()")
        tab.until("document.activeElement === document.body")

    # A queue that cannot be read shows no event.
    tab.value("min.type = 'text'; min.value = 'x'; min.onchange()")
    tab.until("document.getElementById('message').textContent.includes('the filters cannot be used')")
    press(tab, "1")
    tab.value("min.value = ''; min.onchange()")
    wait_for(tab, "1 of 5")
    assert len(list_verdicts(database)) == 1


def test_two_tabs_a_clip_that_is_gone_and_a_new_label(
    tab: Tab, page: WebPage, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_review(tab, page)
    message = "document.getElementById('message').textContent"
    other = give_verdict(database, EVENTS[1].id, Verdict.WRONG, reviewer="another tab", instead_of=None)
    press(tab, "1")
    tab.until(f"{message}.includes('meanwhile has the verdict wrong, said by another tab; look at it again')")
    tab.until(f"document.getElementById('verdict').textContent === 'wrong, said by another tab' && {DRAWN}")
    assert read_verdicts(database) == {EVENTS[1].id: other}
    press(tab, "1")  # now that it was seen
    wait_for(tab, "2 of 6")
    assert list_verdicts(database) == {EVENTS[1].id: ("right", "dog")}

    monkeypatch.setattr("flexiast_runtime.history.database.LOCKED_S", 0.05)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        press(tab, "1")
        tab.until(f"{message}.includes('another program is writing')")
    assert len(list_verdicts(database)) == 1

    next((database.parent / "clips").glob(f"*_{EVENTS[2].id}.flac")).unlink()
    press(tab, "1")
    wait_for(tab, "3 of 6")
    tab.until("document.getElementById('gone').textContent.includes('the clip is gone')")
    press(tab, "3")
    tab.until("document.getElementById('ask').open")
    tab.call("Input.insertText", text="owl")
    tab.press("Enter", "\r")
    tab.until("document.getElementById('hint').textContent.includes('No model here knows')")
    assert EVENTS[2].id not in list_verdicts(database)
    tab.press("Enter", "\r")
    wait_for(tab, "4 of 6")
    assert list_verdicts(database)[EVENTS[2].id] == ("other", "owl")


def test_the_queue_goes_on_until_nothing_is_left(tab: Tab, page: WebPage, database: Path) -> None:
    """What was passed over comes again; at the end the view says so. All by touch."""
    open_review(tab, page)
    click = "document.querySelector('[data-verdict=\"nothing\"]').click()"
    tab.value("document.getElementById('next').click()")
    for number in range(2, 7):
        wait_for(tab, f"{number} of 6")
        tab.value(click)
    wait_for(tab, "1 of 1")
    tab.value(click)
    tab.until("document.getElementById('done').textContent.startsWith('Nothing is left here')")
    assert len(list_verdicts(database)) == 6
    tab.value("(s => { s.value = 'yes'; s.onchange(); })(document.getElementById('reviewed'))")
    wait_for(tab, "1 of 6")
    tab.value("(d => { d.value = '2001-01-01'; d.onchange(); })(document.getElementById('day'))")
    tab.until("document.getElementById('done').textContent.includes('matches these filters')")


def test_on_a_phone_bounds_stand_side_by_side_and_no_name_breaks(tab: Tab, tmp_path: Path, page: WebPage) -> None:
    long = event(9, "washing_machine_spin", score=0.6, threshold=0.5, bundle_sha256=BUNDLE)
    give_verdict(fill_history(tmp_path, [long]), long.id, Verdict.RIGHT, reviewer="ann", instead_of=None)
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    open_review(tab, page)
    tops = [tab.value(f"document.getElementById('{name}').getBoundingClientRect().top") for name in ("min", "max")]
    tab.until("document.querySelector('#by-label li span')?.textContent === 'washing_machine_spin'")
    tab.value("(window.range = document.createRange()).selectNodeContents(document.querySelector('#by-label li span'))")
    assert (tops[0], tab.value("range.getClientRects().length")) == (tops[1], 1)


def test_a_judgement_survives_its_way_through_json() -> None:
    """``instead_of`` is compared exactly, also the time."""
    judgement = Judgement(Verdict.WRONG, None, 1_795_620_222.123456, "ann")
    assert json.loads(json.dumps(judgement.document()))["decided_at_s"] == judgement.decided_at_s
