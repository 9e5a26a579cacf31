"""The page behind a reverse proxy: the recipes of docs/how-to/web.md and the usual others, by the real nginx."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flexiast.errors import UsageError
from flexiast.spec import FrontendSpec
from flexiast_cli.web import hosts
from flexiast_cli.web.guard import PublicUrl
from flexiast_cli.web.hosts import own_names
from flexiast_cli.web.server import TOKEN_VARIABLE, WebPage, public_urls
from tests.cli.conftest import Run
from tests.cli.web.test_web import documents, get, port_of

pytest.importorskip("starlette", reason="the page needs the extra `service`")
client = pytest.importorskip("websockets.sync.client", reason="the page needs the extra `service`")

DOCS = (Path(__file__).parents[3] / "docs" / "how-to" / "web.md").read_text(encoding="utf-8")
TOKEN = "open-sesame"
PAUSE_S = 20.0


def block(language: str) -> str:
    (found,) = re.findall(rf"<!-- run by tests/cli/web/test_proxy.py -->\n```{language}\n(.*?)```", DOCS, re.DOTALL)
    return str(found)


@pytest.fixture
def serve(build_frontend_spec: Callable[..., FrontendSpec], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @contextmanager
    def serve(*urls: str, host: str = "127.0.0.1") -> Iterator[WebPage]:
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        public = [PublicUrl.parse(url) for url in urls]
        with WebPage(host, 0, "title", build_frontend_spec(), public=public) as page:
            yield page

    return serve


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
    return port


def certificate(folder: Path) -> tuple[Path, Path]:
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is absent")
    paths = folder / "site.pem", folder / "site.key"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-out", str(paths[0]), "-keyout", str(paths[1]), "-days", "1", "-subj", "/CN=home.example.org"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return paths


@contextmanager
def nginx(server: str, folder: Path, port: int) -> Iterator[None]:
    """The real nginx with one `server` block, until it answers."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is absent")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    text = f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n"
    (folder / "nginx.conf").write_text(f"{text}{places}{server}\n}}\n")
    command = [program, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
    with running(command, port):
        yield


@contextmanager
def running(command: list[str], port: int, **options: Any) -> Iterator[None]:
    """A proxy, once it answers."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            end = time.monotonic() + PAUSE_S
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end, "the proxy does not answer"
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


class Site:
    """A browser's view of a proxy on this machine that goes by another name."""

    def __init__(self, origin: str, port: int) -> None:
        self._origin, self._port = origin, port
        self._tls = ssl._create_unverified_context() if origin.startswith("https") else None
        self.name = origin.partition("://")[2]

    def get(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        kind = http.client.HTTPConnection if self._tls is None else http.client.HTTPSConnection
        options: dict[str, Any] = {} if self._tls is None else {"context": self._tls}
        connection = kind("127.0.0.1", self._port, timeout=PAUSE_S, **options)
        own = {"Origin": self._origin} if method == "POST" else {}
        connection.request(method, path, headers={"Host": self.name} | own | headers)
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        connection.close()
        return response

    def browse(self, path: str, cookie: str) -> Any:
        raw = socket.create_connection(("127.0.0.1", self._port))
        scheme = "ws" if self._tls is None else "wss"
        options: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        headers = {"Cookie": cookie}
        address = f"{scheme}://{self.name}{path}"
        return client.connect(address, sock=raw, origin=self._origin, additional_headers=headers, **options)


def assert_shown(site: Site, folder: str, *, secure: bool, kept_to: str) -> None:
    """The page as a person opens it: the address with its token, then the parts and the records by cookie alone."""
    assert site.get(folder).status == 401
    first = site.get(f"{folder}?token={TOKEN}")
    assert first.status == 200, first.content  # type: ignore[attr-defined]
    cookie = first.getheader("Set-Cookie", "").split("; ")
    assert ("Secure" in cookie) is secure
    assert f"Path={kept_to}" in cookie
    held = cookie[0]
    for name in ("page.js", "page.css", "icon.svg"):
        assert site.get(folder + name, Cookie=held).status == 200
    assert site.get(f"{folder}clips/{'0' * 16}", Cookie=held).status == 404
    with site.browse(f"{folder}records", held) as browser:
        assert documents(browser, 1)[0]["type"] == "hello"


def test_the_documented_nginx_shows_the_page(serve: Any, tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    port = free_port()
    with serve("https://home.example.org/kitchen/") as page:
        assert page.url == f"https://home.example.org/kitchen/?token={TOKEN}"
        text = block("nginx").replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        text = text.replace("/etc/ssl/home.example.org.pem", str(pem)).replace(
            "/etc/ssl/home.example.org.key", str(key)
        )
        with nginx(text.replace("127.0.0.1:8642", f"127.0.0.1:{port_of_(page)}"), tmp_path, port):
            site = Site("https://home.example.org", port)
            assert_shown(site, "/kitchen/", secure=True, kept_to="/kitchen/")
            assert site.get("/kitchen").status == 301  # nginx's own


@pytest.mark.parametrize(
    ("url", "location", "headers", "kept_to"),
    [
        ("http://sounds.example.org/", "location / { proxy_pass http://PAGE;", "proxy_set_header Host $host;", "/"),
        ("http://sounds.example.org/", "location / { proxy_pass http://PAGE;", "", "/"),  # asks as 127.0.0.1
        (
            "http://sounds.example.org/a/b",
            "location /a/b { proxy_pass http://PAGE;",
            "proxy_set_header Host $host;",
            "/a/b/",
        ),
        ("http://sounds.example.org/a/b", "location /a/b { proxy_pass http://PAGE;", "", "/"),
    ],
)
def test_usual_recipes_of_nginx_show_it_too(
    serve: Any, tmp_path: Path, url: str, location: str, headers: str, kept_to: str
) -> None:
    upgrade = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
    port = free_port()
    with serve(url) as page:
        whole = f"server {{ listen 127.0.0.1:{port}; {location} {headers} {upgrade} }} }}"
        with nginx(whole.replace("PAGE", f"127.0.0.1:{port_of_(page)}"), tmp_path, port):
            site = Site("http://sounds.example.org", port)
            path = PublicUrl.parse(url).path
            assert_shown(site, f"{path}/", secure=False, kept_to=kept_to)
            if path and headers:
                found = site.get(f"{path}?token={TOKEN}")
                assert (found.status, found.getheader("Location")) == (308, f"b/?token={TOKEN}")


def test_a_proxy_that_passes_no_websocket_on_is_said(serve: Any, tmp_path: Path) -> None:
    import websockets

    port = free_port()
    with serve("http://sounds.example.org/") as page:
        text = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{port_of_(page)}; }} }}"
        with nginx(text, tmp_path, port):
            site = Site("http://sounds.example.org", port)
            held = site.get(f"/?token={TOKEN}").getheader("Set-Cookie", "").split("; ")[0]
            with pytest.raises(websockets.InvalidStatus, match="426"):
                site.browse("/records", held)
            told = site.get("/records", "POST", Cookie=held)
            assert (told.status, b"Upgrade" in told.content) == (426, True)  # type: ignore[attr-defined]


def test_the_documented_caddy_shows_the_page(serve: Any, tmp_path: Path) -> None:
    """Without its certificates, which only a public name gets."""
    if (caddy := shutil.which("caddy")) is None:
        pytest.skip("caddy is absent")
    port = free_port()
    names = [f"http://{name}.example.org:{port}" for name in ("sounds", "home")]
    with serve(f"{names[0]}/", f"{names[1]}/kitchen/") as page:
        text = block("caddy").replace("127.0.0.1:8642", f"127.0.0.1:{port_of_(page)}")
        text = re.sub(r"^(\w+)\.example\.org", rf"http://\1.example.org:{port}", text, flags=re.MULTILINE)
        (tmp_path / "Caddyfile").write_text(f"{{\nadmin off\n}}\n{text}")
        command = [caddy, "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
        with running(command, port, env={"HOME": str(tmp_path)}):
            assert_shown(Site(names[0], port), "/", secure=False, kept_to="/")
            assert_shown(Site(names[1], port), "/kitchen/", secure=False, kept_to="/kitchen/")
            assert Site(names[1], port).get("/kitchen").getheader("Location") == "/kitchen/"


def test_what_caddy_sends_is_let_in(serve: Any) -> None:
    """`reverse_proxy` keeps Host and Origin and adds X-Forwarded-…; `handle_path` takes the folder off."""
    forwarded = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "home.example.org"}
    with serve("https://sounds.example.org", "https://home.example.org/kitchen") as page:
        for name, kept_to in (("sounds.example.org", "/"), ("home.example.org", "/kitchen/")):
            site = Site(f"https://{name}", port_of_(page))
            site._tls = None  # which ends at the proxy
            for headers in ({}, forwarded):
                first = site.get(f"/?token={TOKEN}", **headers)
                cookie = first.getheader("Set-Cookie", "").split("; ")
                assert {"Secure", f"Path={kept_to}"} <= set(cookie)
                with site.browse("/records", cookie[0]) as browser:
                    assert documents(browser, 1)[0]["type"] == "hello"


def test_only_what_was_named_is_let_in_and_the_others_are_told_why(serve: Any) -> None:
    with serve("https://home.example.org/kitchen/") as page:
        port = port_of_(page)
        forged = {"X-Forwarded-Host": "home.example.org", "Forwarded": "host=home.example.org"}
        evil = Site("https://evil.example", port)
        evil._tls = None
        answer = evil.get(f"/?token={TOKEN}", **forged)
        assert (answer.status, b"--web-url" in answer.content) == (421, True)  # type: ignore[attr-defined]
        for origin in (
            "https://evil.example",
            "http://home.example.org",
            "https://home.example.org:444",
            "null",
            "://",
            "http://[",
        ):
            answer = evil.get(f"/records?token={TOKEN}", "POST", Host=f"127.0.0.1:{port}", Origin=origin)
            assert (answer.status, b"--web-url" in answer.content) == (403, True)  # type: ignore[attr-defined]
        local = evil.get("/records", "POST", Host=f"127.0.0.1:{port}", Origin=f"http://127.0.0.1:{port}")
        assert (local.status, b"token" in local.content) == (401, True)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://Sounds.Example.org", PublicUrl("https://sounds.example.org", "sounds.example.org", "")),
        ("https://a.b:443/", PublicUrl("https://a.b", "a.b", "")),
        ("http://a.b:8080/x/y/", PublicUrl("http://a.b:8080", "a.b", "/x/y")),
        ("http://[2001:db8::1]:81/x", PublicUrl("http://[2001:db8::1]:81", "2001:db8::1", "/x")),
    ],
)
def test_addresses_of_proxies(text: str, expected: PublicUrl) -> None:
    assert PublicUrl.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a.b", "ftp://a.b/", "https://", "https://u:p@a.b/", "https://a.b/?x", "https://a.b/#x", "https://a.b/clips/",
     "https://a.b/records", "https://a.b/x;y", "https://a.b//x", "https://a.b:x/", "https://é.b/", "http://["],
)  # fmt: skip
def test_other_addresses_of_proxies_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--web-url"):
        PublicUrl.parse(text)


def test_an_address_of_a_proxy_needs_a_page(run: Run) -> None:
    with pytest.raises(UsageError, match="--web PORT"):
        public_urls(None, ["https://a.b/"])
    refused = run("listen", "commands", "--web", "0", "--web-url", "a.b")
    assert (refused.returncode, "https://sounds.example.org/" in refused.stderr) == (2, True)


def test_the_page_answers_to_the_names_that_the_machine_has(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resolv.conf").write_text("# a router's\nnameserver 192.0.2.1\nsearch Fritz.Box. lan\nsearch\n")
    monkeypatch.setattr(socket, "gethostname", lambda: "Pi.example.net")
    names = {"pi.example.net", "pi", "pi.local", "pi.fritz.box", "pi.lan"}
    assert own_names(tmp_path / "resolv.conf") == names
    assert own_names(tmp_path / "absent") == {"pi.example.net", "pi", "pi.local"}

    asked = []

    def resolve(place: str) -> tuple[str, list[str], list[str]]:
        asked.append(place)
        if place == "Pi.example.net":
            raise socket.gaierror(-2, "Name or service not known")
        return "kitchen.home.arpa", ["kitchen"], [place]

    monkeypatch.setattr(hosts.socket, "gethostbyaddr", resolve)
    with serve(host="0.0.0.0") as page:
        for name in ("PI", "pi.local", "pi.local.", "kitchen", "Kitchen.home.arpa", "192.0.2.9"):
            assert get(page, f"/?token={TOKEN}", Host=f"{name}:{port_of(page)}").status == 200, name
        for name in ("evil.example", "kitchen.evil.example", ""):
            assert get(page, f"/?token={TOKEN}", Host=name).status == 421, name
    assert asked == ["Pi.example.net", "127.0.0.1"]  # once, and never what a stranger claims to be called
    with serve() as page:
        assert get(page, f"/?token={TOKEN}", Host="kitchen").status == 421


def test_what_the_page_says_is_in_its_table() -> None:
    sources = Path(hosts.__file__).parent
    said = "".join(
        (sources / name).read_text(encoding="utf-8") for name in ("guard.py", "application.py", "page/page.js")
    )
    rows = [row.split("|")[1] for row in DOCS.split("|---|---|\n")[1].splitlines()]
    for part in (part.strip() for row in rows for part in re.split("…|502", row)):
        assert part in said


def port_of_(page: WebPage) -> int:
    """Where it listens, whatever address it prints."""
    return page._port
