"""The page's dialog *Model*: what may take over, who may ask for it, and a swap in a real browser."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flexiast.spec import FrontendSpec
from flexiast_cli.web.server import TOKEN_VARIABLE, WebPage
from tests.cli.chromium import PATIENCE_S, open_tab
from tests.cli.web.test_review import ask

pytest.importorskip("starlette", reason="the page needs the extra `service`")

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


class FakeModels:
    """Answers as a listener does, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.running, self.before = "home.bundle", None
        self.may_answer = threading.Event()
        self.may_answer.set()

    def describe(self) -> dict[str, Any]:
        before = None if self.before is None else {"name": self.before, "sha256": "b" * 64}
        return {"running": {"name": self.running, "sha256": "a" * 64}, "before": before, "choices": [HOSTILE, "new"]}

    def answer_page(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        assert self.may_answer.wait(PATIENCE_S)
        if request.get("model") == HOSTILE:
            return {"error": f"its labels differ ({HOSTILE}). {self.running} goes on", "code": 2}
        self.running, self.before = str(request.get("model", "home.bundle")), self.running
        return {"text": f"{self.running} runs now"}


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def page(models: FakeModels, build_frontend_spec: Callable[..., FrontendSpec]) -> Iterator[WebPage]:
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec(), models=models) as page:
        yield page


def test_a_model_is_asked_for_over_http(page: WebPage, models: FakeModels) -> None:
    assert ask(page, "/model")[1]["choices"] == [HOSTILE, "new"]
    status, answer, _ = ask(page, "/model", "POST", {"action": "swap", "model": "new"})
    assert (status, answer) == (200, {"text": "new runs now"})
    status, answer, _ = ask(page, "/model", "POST", {"action": "swap", "model": HOSTILE})
    assert (status, "its labels differ" in answer["error"]) == (400, True)
    assert ask(page, "/model", "POST", b"action=swap&model=new", Content_Type="text/plain")[0] == 400
    assert ask(page, "/model", "POST", b" " * 20_000)[0] == 400
    assert [one["model"] for one in models.asked] == ["new", HOSTILE]


def test_nobody_without_the_token_or_from_another_site_swaps(
    models: FakeModels, build_frontend_spec: Callable[..., FrontendSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec(), models=models) as page:
        for method, body in (("GET", None), ("POST", {"action": "reload"})):
            assert ask(page, "/model", method, body)[0] == 401
            assert ask(page, "/model?token=guess", method, body)[0] == 401
            assert ask(page, "/model?token=secret", method, body, Origin="https://evil.example")[0] == 403
            assert ask(page, "/model?token=secret", method, body, Host="evil.example")[0] == 421
        assert models.asked == []
        assert ask(page, "/model?token=secret", "POST", {"action": "reload"})[0] == 200


def test_the_page_ends_although_a_model_is_still_being_loaded(
    models: FakeModels, build_frontend_spec: Callable[..., FrontendSpec]
) -> None:
    """The listener is not held up; whoever waits is told, if he is still there."""
    models.may_answer.clear()
    answers: list[tuple[int, str]] = []

    def wait() -> None:
        with suppress(OSError, http.client.HTTPException):
            status, answer, _ = ask(page, "/model", "POST", {"action": "reload"})
            answers.append((status, answer["error"]))

    with WebPage("127.0.0.1", 0, "title", build_frontend_spec(), models=models) as page:
        browser = threading.Thread(target=wait, daemon=True)
        browser.start()
        while not models.asked:
            browser.join(0.01)
    browser.join(PATIENCE_S)
    assert answers in ([], [(503, "listening has ended")])
    models.may_answer.set()


def test_a_recording_has_no_other_model(build_frontend_spec: Callable[..., FrontendSpec]) -> None:
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec()) as page:
        for method, body in (("GET", None), ("POST", {"action": "reload"})):
            status, answer, _ = ask(page, "/model", method, body)
            assert (status, "live sound may get another" in answer["error"]) == (404, True)


def test_swapping_in_a_browser(page: WebPage, models: FakeModels, tmp_path: Path) -> None:
    with open_tab(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=page.url)
        tab.until("document.getElementById('model')?.hidden === false")
        tab.value("document.getElementById('model').click()")
        tab.until("document.getElementById('models').open")
        shown = "document.getElementById('{}').textContent".format
        assert tab.value(shown("running")) == "home.bundle (aaaaaaaa) listens."
        options = "[...document.getElementById('choice').options].map(option => option.text)"
        assert tab.value(options) == [HOSTILE, "new", "the same, read again from its path"]
        tab.value("document.getElementById('swap').click()")
        tab.until(f"{shown('swapped')}.includes('its labels differ')")
        assert tab.value("document.querySelectorAll('img').length") == 0

        tab.until("!document.getElementById('swap').disabled")
        models.may_answer.clear()
        tab.value("document.getElementById('choice').selectedIndex = 1; document.getElementById('swap').click()")
        tab.until("document.getElementById('swap').disabled")
        tab.until(f"{shown('swapped')}.includes('The one that listens goes on')")
        models.may_answer.set()
        tab.until(f"{shown('swapped')} === 'new runs now'")
        tab.until(f"{shown('running')} === 'new (aaaaaaaa) listens.'")
        tab.until(f"{options}.includes('back to home.bundle (bbbbbbbb)')")
        page.rename("new · kitchen")
        tab.until("document.title === 'new · kitchen'")
        tab.press(" ", " ")  # which pauses nothing while the dialog has the keys
        assert tab.value("document.getElementById('pause').getAttribute('aria-pressed')") == "false"
        assert [one.get("model") for one in models.asked] == [HOSTILE, "new"]
