"""The page of `svfap app` in a real browser: videos, timelines beside the player, persons, the camera, and accessibility."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from pages import CHROMIUM
from playwright.sync_api import sync_playwright

from svfap.data.video import write_video
from svfap.serve.api import make_app
from svfap.serve.config import AppConfig

TOKEN = "a token of the tests"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
LATE_MS = 60_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    config = AppConfig(folder=tmp_path_factory.mktemp("app"), token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(make_app(config, TOKEN), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A video of two seconds, and one of two minutes."""
    folder = tmp_path_factory.mktemp("films")
    noise = np.random.default_rng(0).integers(0, 255, (50, 64, 64, 3), np.uint8)
    write_video(folder / "short.mp4", noise, 25)
    write_video(folder / "long.mp4", np.tile(noise, (60, 1, 1, 1)), 25)
    return folder


@pytest.fixture(scope="module")
def camera_film(tmp_path_factory, faces):
    """What the browser's camera shows: a synthetic face."""
    from svfap.data.video import open_video

    file = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with open_video(next((faces / "videos").glob("test*.mp4"))) as video:
        pictures = video.read(np.arange(10))
    with file.open("wb") as out:
        for picture in pictures:
            larger = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (320, 320))
            out.write(cv2.imencode(".jpg", larger)[1].tobytes())
    return file


@pytest.fixture(scope="module")
def browser(camera_film):
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as started:
        yield started.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, f"--use-file-for-fake-video-capture={camera_film}"]
        )


@pytest.fixture(params=["wide and light", "phone and dark"])
def page(browser, address, request):
    """The page, whose every request stays on this machine and which reports no error."""
    size = {"width": 1280, "height": 900} if "wide" in request.param else {"width": 390, "height": 844}
    context = browser.new_context(
        viewport=size, color_scheme=request.param.split()[-1], bypass_csp=True, accept_downloads=True
    )
    page, said, asked = context.new_page(), [], set()

    def on_console(message):
        refused = "status of 422" in message.text  # a video that the server does not take is no error of the page
        if message.type in ("error", "warning") and not refused:
            said.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: asked.add(sent.url))
    page.set_default_timeout(LATE_MS)
    page.goto(f"{address}/?key={TOKEN}")
    page.locator("select[name=model] option").first.wait_for(state="attached")
    yield page
    context.close()
    assert not said
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.split("/")[2]}


def jobs_with(page, state, name):
    return page.locator(f'#jobs li:has-text("{name}"):has(.state:has-text("{state}"))')


def add(page, file):
    page.locator("summary").first.click()
    page.select_option("select[name=faces]", "none")
    page.set_input_files("#files", str(file))
    page.locator("summary").first.click()


def serious(page):
    found = Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")]


def test_a_video_is_read_and_its_timeline_keeps_to_the_player(page, film):
    before = page.locator("#jobs [data-act=open]").count()
    add(page, film / "short.mp4")
    page.locator("#jobs [data-act=open]").nth(before).wait_for()
    assert not serious(page)
    page.locator("#jobs [data-act=open]").first.focus()
    page.keyboard.press("Enter")
    plot = page.frame_locator("#timelines").locator("svg.plot")
    plot.wait_for()
    assert page.frame_locator("#timelines").locator("header").is_hidden()
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.click(box["x"] + 44 + (box["width"] - 45) / 2, box["y"] + 60)  # the middle of the video
    page.wait_for_timeout(500)
    assert page.locator("#player").evaluate("player => player.currentTime") == pytest.approx(1.0, abs=0.15)
    page.locator("#player").evaluate("player => { player.currentTime = 0.5; }")
    page.wait_for_timeout(500)
    cursor = page.frame_locator("#timelines").locator(".cursor").evaluate("cursor => parseFloat(cursor.style.left)")
    assert cursor == pytest.approx(44 + (box["width"] - 45) / 4, rel=0.1)
    assert "SVFAP" in page.inner_text("#methods")
    assert not serious(page)
    with page.expect_download() as download:
        page.click("#downloads a:has-text('Page')")
    assert download.value.suggested_filename == "short.html"
    page.click("#close")
    assert page.locator("#viewer").is_hidden()


def test_a_job_is_cancelled_and_deleted(page, film):
    add(page, film / "long.mp4")
    running = page.locator('#jobs li:has-text("long.mp4") [data-act=cancel]').first
    running.click()
    jobs_with(page, "cancelled", "long.mp4").first.wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator('#jobs li:has-text("long.mp4") [data-act=delete]').first.click()
    jobs_with(page, "cancelled", "long.mp4").first.wait_for(state="detached")


def test_a_file_that_is_no_video_says_why(page, tmp_path):
    file = tmp_path / "letter.mp4"
    file.write_text("Dear all, this is no video.")
    page.set_input_files("#files", str(file))
    failed = jobs_with(page, "failed", "letter.mp4")
    failed.first.wait_for()
    assert "is not a readable video" in failed.first.inner_text()
    failed.locator("[data-act=end]").click()


def test_the_camera_is_read(page):
    page.click("nav.tabs a[href='#camera']")
    page.click("#camera-start")
    page.locator("#camera-status:has-text('readings a second')").wait_for()
    assert not serious(page)
    page.click("#camera-start")
    assert page.inner_text("#camera-status") == ""
