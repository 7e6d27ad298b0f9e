"""The page of affect over time in a real browser: it draws, answers the mouse and the keys, and nothing goes wrong."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from pages import CHROMIUM

from svfap.data.video import write_video
from svfap.predict.page import write_affect_page

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--window-size=1300,1000", "--virtual-time-budget=20000",
         "--dump-dom"]  # fmt: skip
EVIL = "</script><img src=x onerror='window.hacked=1'>"
NAMES = ["neutral", "happy", EVIL]
ONE = np.array([[0.7, 0.2, 0.1], [0.1, 0.85, 0.05], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])
NUM_FRAMES, SPIKE = 20_000, 12_345

# Runs before the page's script: records every error. Virtual time does not promise animation frames, hence the timer.
WATCH = """
window.requestAnimationFrame = draw => setTimeout(draw, 16);
window.faults = [];
window.onerror = message => faults.push(String(message));
console.error = console.warn = (...words) => faults.push(words.join(" "));
document.addEventListener("securitypolicyviolation", event => faults.push(event.violatedDirective + " " + event.blockedURI));
"""
# Runs after it: acts as a reader does and records what the page shows.
PROBE = """
window.addEventListener("load", async () => {
  const seen = {}, rest = () => new Promise(done => setTimeout(done, 300));
  const lanes = [...document.querySelectorAll(".lane")], tip = lane => lane.querySelector(".tip");
  const at = (lane, part) => { const box = lane.querySelector("svg").getBoundingClientRect();
    return { bubbles: true, button: 0, clientX: box.left + 44 + part * (box.width - 45), clientY: box.top + 50 }; };
  const send = (target, kind, lane, part) => target.dispatchEvent(new PointerEvent(kind, at(lane, part)));
  const cells = line => [line.querySelector("b").textContent, line.lastChild.textContent];
  const values = lane => [...tip(lane).querySelectorAll(".value")].map(cells);
  const when = lane => tip(lane).querySelector(".when").textContent;
  const key = (lane, name) =>
    lane.querySelector("svg").dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const axis = lane => [...lane.querySelectorAll(":scope > svg > text")].map(text => text.textContent);
  await rest();
  seen.areas = lanes.map(lane => lane.querySelectorAll("path.area").length);
  seen.legend = [...document.querySelectorAll(".legend")[0].querySelectorAll("[data-label]")].map(button => button.textContent);
  seen.axis = axis(lanes[0]);
  seen.strip = [...lanes[0].querySelectorAll(".strip img")].filter(image => image.style.display === "block").length;
  const [a, b, long] = lanes;
  send(a, "pointermove", a, 0.3);
  seen.hover = [when(a), values(a), a.querySelector(".tip img").src === a.querySelectorAll(".strip img")[1].src];
  seen.together = [a, b].map(lane => [lane.querySelector(".cursor").hidden, tip(lane).hidden]);
  send(a, "pointermove", a, 0.5);
  seen.gap = [when(a), values(a), tip(a).textContent.includes("no face here")];
  send(a, "pointerleave", a, 0.5);
  seen.left = tip(a).hidden;
  send(a, "pointerdown", a, 0.1); send(window, "pointerup", a, 0.1);
  send(a, "pointermove", a, 0.9);
  seen.pinned = [when(a), a.querySelector(".cursor").className];
  key(a, "ArrowRight");
  seen.key = a.querySelector("svg").getAttribute("aria-valuetext");
  key(a, "ArrowRight"); key(a, "ArrowLeft");
  seen.back = when(a);
  key(a, "Escape");
  seen.escaped = tip(a).hidden;
  send(a, "pointerdown", a, 0.2); send(window, "pointermove", a, 0.4); send(window, "pointerup", a, 0.4);
  await rest();
  seen.zoomed = [axis(a), a.parentElement.querySelector(".whole").hidden];
  send(b, "pointermove", b, 0.5);
  seen.middle = when(b);
  a.parentElement.querySelector(".whole").click();
  await rest();
  seen.whole = axis(a);
  a.parentElement.querySelector("[data-goto]").click();
  seen.change = when(a);
  a.parentElement.querySelector(".rows").open = true;
  await rest();
  seen.rows = [...a.parentElement.querySelectorAll(".rows tbody tr")].map(row => [...row.children].map(cell => cell.textContent));
  long.parentElement.querySelector("[data-label='1']").click();
  await rest();
  const heights = long.querySelector("path.area").getAttribute("d").match(/ [0-9.]+/g).map(Number);
  seen.dense = [heights.length, Math.min(...heights)];
  seen.width = long.querySelector("svg").clientWidth;
  seen.faults = faults;
  seen.hacked = window.hacked ?? 0;
  const note = document.createElement("pre");
  note.id = "seen";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
});
"""


def rows(track, starts, values) -> pd.DataFrame:
    table = pd.DataFrame(values, columns=[f"prob_{name}" for name in NAMES])
    return table.assign(video="a.mp4", track=track, start_s=starts, end_s=np.asarray(starts) + 2.0, confidence=0.9)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page is not tried in a browser")
    folder = tmp_path_factory.mktemp("page")
    write_video(folder / "a.mp4", [np.full((48, 48, 3), 4 * i, np.uint8) for i in range(50)], 5)
    starts = np.arange(NUM_FRAMES) * 0.04
    frames = pd.DataFrame({f"prob_{name}": value for name, value in zip(NAMES, (0.8, 0.1, 0.1), strict=True)},
                          index=range(NUM_FRAMES))  # fmt: skip
    frames.loc[SPIKE] = [0.0, 1.0, 0.0]
    frames = frames.assign(video=EVIL, start_s=starts, end_s=starts + 0.04)
    table = pd.concat([rows(1, [0.0, 2.0, 6.0, 8.0], ONE), rows(2, [2.0, 4.0], ONE[2:]), frames])
    table["track"] = table["track"].fillna(1)
    write_affect_page(folder / "page.html", table, {"a.mp4": folder / "a.mp4", EVIL: None})
    text = (folder / "page.html").read_text()
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in (WATCH, PROBE)
    )
    text = text.replace("script-src ", f"script-src {hashes} ", 1).replace(
        "<title>", f"<script>{WATCH}</script><title>", 1
    )
    (folder / "tried.html").write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "tried.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert '<pre id="seen">' in done.stdout, done.stderr[-2000:]
    return json.loads(html.unescape(done.stdout.split('<pre id="seen">')[1].split("</pre>")[0]))


def test_it_draws_without_a_fault(seen):
    assert seen["faults"] == [] and seen["hacked"] == 0
    assert seen["areas"] == [3, 3, 3] and seen["legend"] == NAMES
    assert seen["strip"] == 4
    assert seen["axis"] == ["0%", "50%", "100%", "top", "0:00", "0:02", "0:04", "0:06", "0:08", "0:10"]


def test_hovering_shows_the_values_of_the_row_and_its_picture(seen):
    time, values, picture = seen["hover"]
    assert time == "0:03.0" and values == [["happy", "85.0%"], ["neutral", "10.0%"], [EVIL, "5.0%"]] and picture
    assert seen["together"] == [[False, False], [False, True]]  # the cursor in both, the values in one
    assert seen["gap"] == ["0:05.0", [], True]
    assert seen["left"] is True


def test_clicking_pins_and_keys_step_from_row_to_row(seen):
    assert seen["pinned"] == ["0:01.0", "cursor pinned"]
    assert seen["key"] == f"0:03.0, happy 85.0%, neutral 10.0%, {EVIL} 5.0%"
    assert seen["back"] == "0:03.0" and seen["escaped"] is True


def test_dragging_zooms_all_faces_of_a_video_and_a_button_shows_the_whole(seen):
    labels, hidden = seen["zoomed"]
    assert labels[4] == "0:02.0" and labels[-1] == "0:04.0" and hidden is False
    assert seen["middle"] == "0:03.0"
    assert seen["whole"] == seen["axis"]


def test_changes_and_rows_lead_to_the_numbers(seen):
    assert seen["change"] == "0:02.0"
    assert seen["rows"][1] == ["2.00", "4.00", "0.1000", "0.8500", "0.0500", "0.9000"] and len(seen["rows"]) == 4


def test_many_rows_are_thinned_and_the_extremes_kept(seen):
    number, highest = seen["dense"]
    assert number < 2.2 * seen["width"] < NUM_FRAMES and highest == 0
