"""The page in a real browser: what it hears through Chromium's fake microphone is what flexiast hears."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy import signal

from flexiast.manifest import MANIFEST
from flexiast_cli.commands.demo.soundscape import RATE_HZ, soundscape
from flexiast_cli.commands.export import web
from tests.cli.chromium import Tab, open_tab
from tests.cli.conftest import Run

Serve = Callable[[Path], int]

PATIENCE_S = 240.0
"""A model is loaded and measured, on a machine that may be busy."""
SECONDS = 10
READY = "document.getElementById('connection').dataset.state === 'ready'"
REFUSED = "!document.getElementById('refusal').hidden"
KEEP_SAMPLES = """
    window.received = [];
    const post = Worker.prototype.postMessage;
    Worker.prototype.postMessage = function (message, transfer) {
      if (message.type === 'samples') window.received.push(...message.samples);
      return post.call(this, message, transfer);
    };
"""


KEEP_LOADING = """
    window.loading = [];
    const set = Object.getOwnPropertyDescriptor(Worker.prototype, 'onmessage').set;
    Object.defineProperty(Worker.prototype, 'onmessage', { set(heard) {
      set.call(this, event => {
        if (event.data.type === 'loading') window.loading.push([event.data.loaded, event.data.total]);
        if (!(window.isDeaf && event.data.run)) heard(event);
      });
    } });
"""

MADE_UP_MICROPHONE = """
    navigator.mediaDevices.getUserMedia = async () => {
      const context = new AudioContext(), tone = context.createOscillator();
      const out = context.createMediaStreamDestination();
      tone.connect(out);
      tone.start();
      window.track = out.stream.getTracks()[0];
      return out.stream;
    };
"""


def set_deadline(tab: Tab, place: int) -> None:
    """Move the slider, as a hand would: 0 is 1 ms, 300 is 1 s."""
    tab.value(
        f"(() => {{ const slider = document.getElementById('wanted'); slider.value = {place}; "
        "slider.dispatchEvent(new Event('input')); })()"
    )


def read_cheapest(tab: Tab) -> str:
    """The patch size that the page measured as its fastest: 24 and 48 are so near that a busy machine may swap them."""
    return str(tab.value("document.getElementById('sizes').textContent.match(/measured here: (\\S+)/)[1]"))


def press(tab: Tab, name: str) -> None:
    """As a person does: browsers let no sound begin otherwise."""
    tab.call("Runtime.evaluate", expression=f"document.getElementById('{name}').click()", userGesture=True)


def play(tab: Tab, path: Path) -> None:
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    entry = tab.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    tab.call("DOM.setFileInputFiles", nodeId=entry, files=[str(path)])


def list_events(tab: Tab) -> list[tuple[str, float, float]]:
    items = tab.value(
        "JSON.stringify([...document.querySelectorAll('#events li:not(.none)')].map(line => "
        "[line.dataset.label, Number(line.dataset.start), Number(line.dataset.end)]))"
    )
    return sorted((label, start, end) for label, start, end in json.loads(items))


def read_received(tab: Tab) -> NDArray[np.float32]:
    packed = tab.value(
        "(() => { const bytes = new Uint8Array(new Float32Array(window.received).buffer); let text = ''; "
        "for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192)); "
        "return btoa(text); })()"
    )
    return np.frombuffer(base64.b64decode(packed), "<f4")


def write_scape(path: Path) -> NDArray[np.float32]:
    samples = soundscape()[: SECONDS * RATE_HZ]
    soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")
    return samples


def listen(run: Run, site: Path, path: Path, patch: str) -> list[tuple[str, float, float]]:
    result = run("listen", site / "model", "--input", path, "--pin", patch, "--json")
    assert result.returncode == 0, result.stderr
    records = map(json.loads, result.stdout.splitlines())
    return sorted((each["label"], each["start_s"], each["end_s"]) for each in records if each["type"] == "event")


def assert_same_events(found: list[tuple[str, float, float]], expected: list[tuple[str, float, float]]) -> None:
    assert [label for label, _, _ in found] == [label for label, _, _ in expected]
    np.testing.assert_allclose([each[1:] for each in found], [each[1:] for each in expected], atol=0.1)


def test_what_the_microphone_gives_has_the_events_of_flexiast(
    run: Run, site: Path, serve: Serve, tmp_path: Path
) -> None:
    """At a deadline that only the fastest size may try to meet. A busy machine loses some of the fake microphone's
    sound before the page hears it, so the samples that reached the page are compared, and are the file's."""
    sent = write_scape(tmp_path / "scape.wav")
    options = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with open_tab(tmp_path / "profile", *options, f"--use-file-for-fake-audio-capture={tmp_path}/scape.wav") as tab:
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=KEEP_SAMPLES)
        tab.call("Page.navigate", url=f"http://localhost:{serve(site)}/")
        tab.until(READY, PATIENCE_S)
        cheapest = read_cheapest(tab)
        set_deadline(tab, 0)
        press(tab, "microphone")
        tab.until(f"window.received.length >= {SECONDS * RATE_HZ}", PATIENCE_S)
        press(tab, "stop")
        tab.until("document.getElementById('connection').textContent === 'the sound has ended'", PATIENCE_S)
        received, found = read_received(tab), list_events(tab)
        assert tab.value("document.getElementById('patch').textContent") == cheapest
    soundfile.write(tmp_path / "received.wav", received, RATE_HZ, subtype="FLOAT")
    expected = listen(run, site, tmp_path / "received.wav", cheapest)
    assert expected
    assert_same_events(found, expected)
    # Half a second of what arrived, found again in the file: Chromium resamples on the way.
    energy = np.convolve(received**2, np.ones(RATE_HZ // 2), "valid")
    part = received[int(energy.argmax()) :][: RATE_HZ // 2]
    norms = np.sqrt(np.convolve(sent**2, np.ones(len(part)), "valid") * (part**2).sum())
    assert (np.abs(signal.correlate(sent, part, "valid")) / np.maximum(norms, 1e-9)).max() > 0.8


def test_a_file_plays_without_a_microphone_and_a_squeezed_deadline_switches(
    run: Run, site: Path, serve: Serve, tmp_path: Path
) -> None:
    write_scape(tmp_path / "scape.wav")
    with open_tab(tmp_path / "profile", "--autoplay-policy=no-user-gesture-required") as tab:
        tab.call("Page.navigate", url=f"http://localhost:{serve(site)}/")
        tab.until(READY, PATIENCE_S)
        set_deadline(tab, 300)
        play(tab, tmp_path / "scape.wav")
        cheapest = read_cheapest(tab)
        tab.until(f"!['–', {cheapest!r}].includes(document.getElementById('patch').textContent)", PATIENCE_S)
        set_deadline(tab, 0)
        tab.until(f"document.getElementById('patch').textContent === {cheapest!r}", PATIENCE_S)
        # On a busy machine even a second may have been too short before: then that is the reason.
        reason = tab.value("document.querySelector('#switches li').title")
        assert "the deadline of 1.0 ms" in reason or "the deadline of 1000.0 ms" in reason
        said = tab.value("document.querySelector('#switches li .more').textContent")
        assert "1 ms allowed" in said or "1000 ms allowed" in said
        tab.until("document.getElementById('connection').textContent === 'the sound has ended'", PATIENCE_S)
        assert list_events(tab)
        # The picture is drawn: some of its pixels are far from the ground's colour.
        assert tab.value(
            "(() => { const c = document.getElementById('chart'), d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; return d.some((v, i) => i % 4 === 0 && v > 180); })()"
        )


def read_texts(tab: Tab, *names: str) -> list[str]:
    """What the elements of these ids say."""
    return [str(tab.value(f"document.getElementById('{name}').textContent")) for name in names]


def test_a_file_that_cannot_be_heard_is_refused_before_it_plays(site: Path, serve: Serve, tmp_path: Path) -> None:
    """And nothing that was said of the file before it stays."""
    sound = soundscape()[:RATE_HZ]
    invalid, infinite, empty = sound.copy(), sound.copy(), sound[:0]
    invalid[RATE_HZ // 2], infinite[-1] = np.nan, -np.inf
    for name, samples in {
        "nan": invalid,
        "infinite": infinite,
        "integers": sound * 32768,
        "short": sound[:320],
        "empty": empty,
        "sound": sound,
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ, subtype="FLOAT")
    (tmp_path / "nothing.wav").touch()
    (tmp_path / "text.wav").write_text("no sound")
    with open_tab(tmp_path / "profile", "--autoplay-policy=no-user-gesture-required") as tab:
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=KEEP_SAMPLES)
        tab.call("Page.navigate", url=f"http://localhost:{serve(site)}/")
        tab.until(READY, PATIENCE_S)
        play(tab, tmp_path / "sound.wav")
        tab.until("document.getElementById('connection').textContent === 'the sound has ended'", PATIENCE_S)
        tab.until("document.getElementById('patch').textContent !== '–'")
        for name, said in (
            ("nan", "not numbers (NaN or infinite), the first at 0.5 s"),
            ("infinite", "not numbers (NaN or infinite), the first at 1 s"),
            ("integers", "expected −1 … 1: integers stored as floats?"),
            ("short", "too short: it lasts 0.02 s, and the model needs 0.025 s"),
            ("empty", "holds no samples"),
            ("nothing", "is empty"),
            ("text", "cannot be read as sound"),
        ):
            tab.value("window.received = []; document.getElementById('reason').textContent = ''")
            play(tab, tmp_path / f"{name}.wav")
            tab.until(f"document.getElementById('reason').textContent.startsWith('{name}.wav ')", PATIENCE_S)
            assert said in read_texts(tab, "reason")[0]
            assert read_texts(tab, "refused", "patch", "latency", "level") == ["Cannot play this file", "–", "–", "–"]
            assert tab.value("window.received.length") == 0


def test_a_visitor_reads_what_the_page_hears_and_what_it_waits_for(site: Path, serve: Serve, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(3 * RATE_HZ, np.float32), RATE_HZ)
    with open_tab(tmp_path / "profile", "--autoplay-policy=no-user-gesture-required") as tab:
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=KEEP_LOADING)
        tab.call("Page.navigate", url=f"http://localhost:{serve(site)}/")
        tab.until(READY, PATIENCE_S)
        loaded, total = tab.value("JSON.stringify(window.loading.at(-1))").strip("[]").split(",")
        used = (path for path in (site / "model").iterdir() if path.name != "golden.npz")
        assert int(loaded) == int(total) == sum(p.stat().st_size for p in [*used, site / "ort" / web.ENGINE])
        labels = json.loads((site / "model" / MANIFEST).read_text("utf-8"))["spec"]["labels"]
        examples, count, every = read_texts(tab, "examples", "count", "labels")
        assert examples.endswith(f"and {len(labels) - 3} more")
        assert count == f"All {len(labels)} labels"
        assert every.split(", ") == [label.replace("_", " ") for label in labels]
        assert tab.value("document.title") == "commands – flexiast"
        # A result that the worker never gives: what the page says until the first.
        tab.value("window.isDeaf = true")
        play(tab, tmp_path / "quiet.wav")
        tab.until("document.getElementById('level').textContent === '−100 dBFS'", PATIENCE_S)
        waiting = "first result after 1 s of sound, or at its end"
        assert read_texts(tab, "waiting", "now", "events") == [waiting] * 3
        assert read_texts(tab, "patch", "latency") == ["–", "–"]


def refuse(name: str) -> str:
    return f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('no', '{name}'); }};"


def test_the_page_says_what_is_missing(site: Path, serve: Serve, tmp_path: Path) -> None:
    port = serve(site)
    with open_tab(tmp_path / "profile", "--host-resolver-rules=MAP sounds.test 127.0.0.1") as tab:

        def open_page(script: str = "", host: str = f"localhost:{port}", state: str = REFUSED) -> str:
            added = tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
            tab.call("Page.navigate", url=f"http://{host}/")
            tab.until(f"document.readyState === 'complete' && {state}", PATIENCE_S)
            tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added)
            return str(tab.value("document.getElementById('reason').textContent"))

        assert "not a secure context" in open_page(host=f"sounds.test:{port}")
        assert "no WebAssembly with SIMD" in open_page("WebAssembly.validate = () => false;")
        for error, said in (
            ("NotAllowedError", "was refused"),
            ("NotFoundError", "There is no microphone"),
            ("NotReadableError", "another program may hold it"),
            ("OddError", "cannot be read at 16000 Hz"),
        ):
            open_page(refuse(error), state=READY)
            press(tab, "microphone")
            tab.until(REFUSED)
            assert said in tab.value("document.getElementById('reason').textContent")
            assert "lay a file" in tab.value("document.getElementById('reason').textContent")
        # Unplugged while it listens: what came before still has its result.
        open_page(MADE_UP_MICROPHONE, state=READY)
        press(tab, "microphone")
        tab.until("document.getElementById('level').textContent !== '–'", PATIENCE_S)
        tab.value("window.track.onended()")
        tab.until(REFUSED)
        assert read_texts(tab, "refused", "connection") == ["Stopped", "stopped"]
        assert "microphone was lost" in read_texts(tab, "reason")[0]
        tab.until("document.getElementById('patch').textContent !== '–'", PATIENCE_S)
        assert read_texts(tab, "connection") == ["stopped"]


def test_a_bundle_that_is_not_what_was_exported_is_refused(site: Path, serve: Serve, tmp_path: Path) -> None:
    damaged, old, missing = (shutil.copytree(site, tmp_path / name) for name in ("damaged", "old", "missing"))
    graph = damaged / "model/encoder.onnx"
    graph.chmod(0o644)
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    manifest = old / "model/manifest.json"
    document = json.loads(manifest.read_text("utf-8"))
    del document["frontend"]
    manifest.write_text(json.dumps(document), "utf-8")
    (missing / "model/embed-24x24.onnx").unlink()
    with open_tab(tmp_path / "profile") as tab:
        for folder, said in (
            (damaged, "encoder.onnx differs from what was exported: sha256"),
            (old, "from before frontend.onnx"),
            (missing, "model/embed-24x24.onnx is missing (404)"),
        ):
            tab.call("Page.navigate", url=f"http://localhost:{serve(folder)}/")
            tab.until(f"document.readyState === 'complete' && {REFUSED}", PATIENCE_S)
            refused, reason = read_texts(tab, "refused", "reason")
            assert refused == "Cannot start"
            assert said in reason
            assert tab.value("document.getElementById('microphone').disabled")


# ----- the command


def test_the_page_has_the_models_name_as_text() -> None:
    for name, said in (("sounds", "sounds"), ("/srv/<b>home.bundle", "&lt;b&gt;home")):
        assert web.fill_index("$model $engine_bytes", name, 7) == f"{said} 7"


def test_the_pinned_version_is_named_once_and_hashed(tmp_path: Path) -> None:
    package = json.loads((Path(__file__).parents[3] / "examples/browser/package.json").read_text("utf-8"))
    assert package["dependencies"] == {web.PACKAGE: web.VERSION}
    (tmp_path / "other.tgz").write_bytes(b"another archive")
    with pytest.raises(Exception, match="nothing was written"):
        web.unpack_runtime(tmp_path / "other.tgz")


def test_without_npm_the_command_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("export", "commands", "--web", tmp_path / "site")
    assert (result.returncode, "install Node.js with npm" in result.stderr) == (7, True), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_a_bundle_too_and_only_a_page_is_replaced(run: Run, site: Path, tmp_path: Path) -> None:
    result = run("verify", site / "model")
    assert result.returncode == 0, result.stderr
    (tmp_path / "photos").mkdir()
    result = run("export", "commands", "--web", tmp_path / "photos", "--force")
    assert result.returncode == 2
    assert "not a page of flexiast" in result.stderr
