"""Addresses that callers give: only http and https, only of the public network, each name resolved once."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("httpcore")

from svfap.errors import UserError
from svfap.serve import fetch as module
from svfap.serve.fetch import check_address, check_public, fetch, is_public, name_of

PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")
PRIVATE = (
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
    *("192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *(
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "fd00::1",
        "fc00::1",
        "fe80::1%eth0",
        "fec0::1",
    ),
    *(
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2001:0:7f00:1::",
        "ff02::1",
    ),
    *("2001:db8::1", "100::1"),
)


class Site(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/large":
            self.send_header("Content-Length", str(10**9))
        self.end_headers()
        try:
            if self.path == "/endless":
                while True:
                    self.wfile.write(bytes(50_000))
            elif self.path == "/slow":
                for _ in range(50):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            else:
                self.wfile.write(b"video")
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def known(monkeypatch, site):
    """Names of hosts, which are resolved one after another; `127.0.0.1` counts as public, for the site."""
    names, asked = (
        {"site.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"], "both.example": ["8.8.8.8", "10.0.0.1"]},
        [],
    )

    def resolve(host, port, *args, **kwargs):
        asked.append(host)
        found = names.get(host)
        if callable(found):
            found = found()
        return real(host, port, *args, **kwargs) if found is None else [(0, 0, 0, "", (each, port)) for each in found]

    real = socket.getaddrinfo
    monkeypatch.setattr(module, "getaddrinfo", resolve)
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    return names, asked


def at(site, path, host="site.example"):
    return f"http://{host}:{site.server_address[1]}{path}"


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "::1", "169.254.169.254"]
)
def test_other_ways_to_write_a_private_host(host):
    with pytest.raises(UserError, match="no public address|no such host"):
        check_public(host)


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc/passwd", "ftp://example.org/a.mp4", "rtsp://example.org/a", "gopher://example.org", "example.org/a.mp4"),
        *("http://user:password@example.org/a.mp4", "http://user@example.org/a.mp4", "http://@example.org/a.mp4"),
        *("http:///a.mp4", "http://", "http://example.org:99999/a.mp4", "http://[::1/a.mp4", "", "data:video/mp4;base64,AA=="),
        *("http://example.org/a b.mp4", "http://example.org/a\r\nHost: x", "http://exämple.org/a.mp4", "http://a\\b/a.mp4"),
        "http://example.org/" + "a" * 5000,
    ],
)  # fmt: skip
def test_addresses_that_are_none(address):
    with pytest.raises(UserError, match="^address: "):
        check_address(address)


def test_names():
    assert name_of("https://example.org/films/a%20b.mp4?x=1#2") == "a b.mp4"
    assert name_of("https://example.org/..%2f..%2fpasswd.mp4") == "passwd.mp4"
    with pytest.raises(UserError, match="by its suffix"):
        name_of("https://example.org/")


class TestFetch:
    def fetch(self, address, tmp_path, max_bytes=10**6, timeout_s=2.0, **kwargs):
        fetch(address, tmp_path / "file", max_bytes, timeout_s, **kwargs)
        return (tmp_path / "file").read_bytes()

    def test_a_file(self, site, known, tmp_path):
        assert self.fetch(at(site, "/a.mp4"), tmp_path) == b"video"
        assert self.fetch(at(site, f"/to/{at(site, '/b.mp4')}"), tmp_path) == b"video"
        assert self.fetch(at(site, "/to//c.mp4"), tmp_path) == b"video"

    @pytest.mark.parametrize(
        "target, reason",
        [
            ("http://10.0.0.1/a.mp4", "no public address"),
            ("http://inside.example/a.mp4", "inside.example: is 10.0.0.1"),
            ("http://both.example/a.mp4", "no public address"),
            ("http://[::ffff:10.0.0.1]/a.mp4", "no public address"),
            ("file:///etc/passwd", "must begin with http"),
            ("http://user:x@site.example/", "password"),
            ("http://[::1/a.mp4", "."),
            ("http://exämple.org/", "."),
        ],
    )
    def test_redirects_to_what_is_refused(self, site, known, tmp_path, target, reason):
        with pytest.raises(UserError, match=reason):
            self.fetch(at(site, f"/to/{target}").encode().decode("ascii", "replace").replace("\ufffd", "%C3"), tmp_path)
        with pytest.raises(UserError, match=reason):
            self.fetch(target, tmp_path)

    def test_a_name_is_resolved_once(self, site, known, tmp_path):
        names, asked = known
        answers = iter([["127.0.0.1"], ["10.0.0.1"]])
        names["rebinding.example"] = lambda: next(answers)
        assert self.fetch(at(site, "/a.mp4", "rebinding.example"), tmp_path) == b"video"
        assert asked == ["rebinding.example"]

    def test_what_is_too_much_slow_or_missing(self, site, known, tmp_path):
        for path, reason in (
            ("/large", "1000 MB, and at most 1 are taken"),
            ("/endless", "more than 1 MB"),
            ("/none", "status 404"),
        ):
            with pytest.raises(UserError, match=reason):
                self.fetch(at(site, path), tmp_path)
        with pytest.raises(UserError, match="cannot be read|kilobyte"):
            self.fetch(at(site, "/slow"), tmp_path, timeout_s=0.3)
        with pytest.raises(UserError, match="more than 5 others"):
            loop = at(site, "/a.mp4")
            for _ in range(6):
                loop = at(site, f"/to/{loop}")
            self.fetch(loop, tmp_path)
        with pytest.raises(UserError, match="not wanted"):
            self.fetch(at(site, "/endless"), tmp_path, wanted=lambda: False)
