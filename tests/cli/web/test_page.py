"""The page in a real browser, driven by Chromium's own protocol; skipped where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from flexiast.spec import FrontendSpec
from flexiast_cli.web.server import TOKEN_VARIABLE, WebPage
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.detection.records import EngineFailure, Event, Overload, SourceNotice, Switch
from tests.cli.chromium import Tab, open_tab
from tests.cli.terminal.test_screen import COARSE, FINE, event, status

pytest.importorskip("starlette", reason="the page needs the extra `service`")

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with open_tab(tmp_path) as tab:
        yield tab


def test_what_a_person_sees_and_does(tab: Tab, build_frontend_spec: Callable[..., FrontendSpec]) -> None:
    with WebPage("127.0.0.1", 0, HOSTILE, build_frontend_spec()) as page:
        page.publish(status(HOSTILE, top=((HOSTILE, 0.9),), active=(HOSTILE,)))
        page.publish(event(HOSTILE, HOSTILE))
        page.publish(Switch(HOSTILE, 5.0, COARSE, FINE, HOSTILE))
        page.publish(SourceNotice(HOSTILE, 5.0, "lost", HOSTILE))
        tab.call("Page.navigate", url=page.url)

        # Hostile names are shown as they are, everywhere, and do nothing.
        for place in ("title", "why", "notice", "now", "events", "switches"):
            tab.until(f"document.getElementById('{place}')?.textContent.includes({json.dumps(HOSTILE)})")
        assert tab.value("document.querySelectorAll('img, main script').length") == 0
        assert tab.value("document.title") == HOSTILE
        assert tab.value("document.getElementById('patch').textContent") == "16x16"

        # The picture is drawn: some of its pixels are far from the ground's colour.
        tab.until(
            "(() => { const c = document.getElementById('chart'), d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; return d.some((v, i) => i % 4 === 0 && v > 200); })()"
        )

        # Space pauses and goes on; what came meanwhile is then seen. The arrows read a time.
        tab.press(" ", " ")
        tab.until("document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
        assert tab.value("document.getElementById('faults').textContent") == ""
        page.publish(status(HOSTILE, time_s=6.0, patch=COARSE, signal=Signal(clipped=1234, dc_offset=0.031)))
        tab.press(" ", " ")
        tab.until("document.getElementById('patch').textContent === '48x48'")
        assert tab.value("document.getElementById('faults').textContent") == "1,234 clipped · DC offset +3.1%"
        tab.value("document.getElementById('chart').focus()")
        tab.press("ArrowLeft")
        tab.until("document.getElementById('readout').textContent.includes('patch')")

    tab.until("document.getElementById('connection').textContent === 'the stream has ended'")


def test_every_label_of_the_last_minute_has_a_curve_and_a_name(
    tab: Tab, build_frontend_spec: Callable[..., FrontendSpec]
) -> None:
    """Twelve labels, five at a time: each in the legend, no two of the same colour and line."""
    labels = [f"label number {number}" for number in range(12)]
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec()) as page:
        for time_s in range(12):
            top = tuple((labels[(time_s + place) % 12], 0.9 - place / 10) for place in range(5))
            page.publish(status(time_s=float(time_s + 5), top=top))
        tab.call("Page.navigate", url=page.url)
        tab.until("document.querySelectorAll('#legend li').length === 12")
        assert sorted(tab.value("[...document.querySelectorAll('#legend li')].map(l => l.textContent)")) == sorted(
            labels
        )
        looks = tab.value("[...document.querySelectorAll('#legend i')].map(i => i.style.borderTop)")
        assert len(set(looks)) == 12
        # The next minute has other labels: the old names go, and their looks with them.
        for time_s in range(100, 170):
            page.publish(status(time_s=float(time_s), top=(("rain", 0.9),)))
        tab.until("document.getElementById('legend').textContent === 'rain'")


def test_events_and_switches_do_not_grow_for_ever_and_say_their_day(
    tab: Tab, build_frontend_spec: Callable[..., FrontendSpec]
) -> None:
    """A day of an event and a switch every 100 s; the page keeps as many as it shows."""
    now = datetime.now().replace(hour=0, minute=0, second=30)
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec()) as page:
        tab.call("Page.navigate", url=page.url)
        tab.until("document.body?.dataset.state === 'live'")
        for number in range(300):
            begun = 100 * number * 16_000
            page.publish(status(time_s=100.0 * number + 2, top=(("rain", 0.9),)))
            at_s = (now - timedelta(seconds=100 * (299 - number))).timestamp()
            page.publish(Event("garden", "rain", begun, begun + 16_000, 16_000, 0.8, FINE, at_s))
            page.publish(Switch("garden", 100.0 * number, COARSE, FINE, f"reason {number}."))
        tab.until("document.getElementById('switches').textContent.includes('reason 299.')")
        tab.until("document.querySelectorAll('#events li:not(.day)').length === 100")
        assert tab.value("document.querySelectorAll('#switches li').length") == 100
        # Today's first event has no day above it; yesterday's have theirs once.
        days = tab.value("[...document.querySelectorAll('#events li.day')].map(line => line.textContent)")
        yesterday = now - timedelta(days=1)
        assert len(days) == 1
        assert str(yesterday.day) in days[0]
        assert str(yesterday.year) in days[0]
        assert (
            tab.value("[...document.querySelectorAll('#events li')].findIndex(line => line.className === 'day')") == 1
        )
        assert str(yesterday.year) in tab.value("document.querySelector('#events li:last-child time').title")


def test_failures_and_overloads_are_shown_for_a_minute(
    tab: Tab, build_frontend_spec: Callable[..., FrontendSpec]
) -> None:
    """They are reported once, and the chart goes back as far."""
    with WebPage("127.0.0.1", 0, "two sources", build_frontend_spec()) as page:
        for source in ("kitchen", "yard"):
            page.publish(status(source, time_s=5.0))
        page.publish(EngineFailure("kitchen", 5.0, FINE, HOSTILE))
        page.publish(Overload("yard", 20.0, COARSE, 0.123, 0.1))
        tab.call("Page.navigate", url=page.url)
        notice = "document.getElementById('notice').textContent"
        tab.until(f"{notice}.includes({json.dumps(f'kitchen: {FINE} is not used for now: {HOSTILE}')})")
        tab.until(f"{notice}.includes('yard: even {COARSE} takes 123 ms of 100 ms')")
        page.publish(status("kitchen", time_s=66.0))
        page.publish(status("yard", time_s=66.0))
        tab.until(f"!{notice}.includes('kitchen') && {notice}.includes('yard')")
        page.publish(status("yard", time_s=81.0))
        tab.until("document.getElementById('notice').hidden")


def test_what_a_page_keeps_is_bounded(tab: Tab, build_frontend_spec: Callable[..., FrontendSpec]) -> None:
    """All that is in sight, and the newest hundred of what was, in any order of arrival."""
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec()) as page:
        tab.call("Page.navigate", url=page.url)
        tab.until("document.body?.dataset.state === 'live'")
        found = tab.call(
            "Runtime.evaluate",
            expression="""(async () => {
                const { Source, pruneSwitches } = await import('./source.js');
                const source = new Source('garden', { hop_s: 0.01 }, null, []);
                source.statuses.push({ time_s: 10000 });
                const at = index => (index * 7919) % 1000;
                for (let index = 0; index < 1000; index++) {
                    source.addEvent({ id: String(at(index)), start_s: 9 * at(index), end_s: 9 * at(index) + 5 });
                }
                for (let index = 0; index < 300; index++) {
                    source.addEvent({ id: `new ${index}`, start_s: 9990, end_s: 9995 });
                }
                const switches = Array.from({ length: 500 }, (_, index) => ({ time_s: 20 * index + 20 }));
                pruneSwitches(switches, 10000);
                const oldest = Math.min(...[...source.events.values()].map(event => event.start_s));
                return [source.events.size, oldest, switches.length];
            })()""",
            awaitPromise=True,
            returnByValue=True,
        )
    assert found["result"]["value"] == [400, 9 * 900, 100 + 4]  # four are 70 s old at most


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_loud_is_bright_in_both_themes_and_the_legend_shows_it(
    tab: Tab, build_frontend_spec: Callable[..., FrontendSpec], scheme: str
) -> None:
    sum_of = "(x => x[0] + x[1] + x[2])"
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec()) as page:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        tab.call("Emulation.setEmulatedMedia", features=features)
        frames = np.full((500, 128), -2.0, np.float32)
        frames[:, 64:] = 2.0  # the upper half is loud
        page.publish(status(time_s=5.0, frames=frames))
        tab.call("Page.navigate", url=page.url)
        tab.until("document.body?.dataset.state === 'live' && document.getElementById('scale').width === 256")
        pixel = "document.getElementById('{}').getContext('2d').getImageData({}, {}, 1, 1).data"
        chart = "document.getElementById('chart').width - 30 * devicePixelRatio"
        loud, quiet = (f"{sum_of}({pixel.format('chart', chart, f'{y} * devicePixelRatio')})" for y in (20, 130))
        tab.until(f"{loud} > 500 && {quiet} < 50")
        assert tab.value(f"{sum_of}({pixel.format('scale', 0, 0)})") < 50
        assert tab.value(f"{sum_of}({pixel.format('scale', 255, 0)})") > 500


def test_the_page_says_why_it_cannot_connect(
    tab: Tab, build_frontend_spec: Callable[..., FrontendSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused after a restart with another token, when nothing answers, and connected again by the right token."""
    tab.call("Page.enable")
    monkeypatch.setenv(TOKEN_VARIABLE, "first")
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec()) as page:
        port, address = page._port, page.url
        tab.call("Page.navigate", url=address)
        tab.until("document.body?.dataset.state === 'live' && document.getElementById('refusal').hidden")
        tab.value("window.kept = true")
        page._server.force_exit = True  # killed, not ended: the page would not look for it again
        page._feed._browsers.clear()
    tab.until("document.getElementById('reason')?.textContent.startsWith('nothing answers')")
    monkeypatch.setenv(TOKEN_VARIABLE, "second")
    with WebPage("127.0.0.1", port, "title", build_frontend_spec()) as page:
        tab.until("document.getElementById('reason').textContent.startsWith('a token is needed')")
        assert tab.value("window.kept") is True
        tab.call("Page.navigate", url=page.url)
        tab.until("document.body?.dataset.state === 'live' && document.getElementById('refusal').hidden")
