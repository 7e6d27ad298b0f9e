"""Pages in a real browser, wide and on a phone: no serious fault of accessibility, nothing wider than the screen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import CHROMIUM
from playwright.sync_api import sync_playwright

from svfap.predict.page import write_affect_page
from svfap.view.page import Section, write_page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
TIMES = np.arange(40) / 10
ROWS = {"video": "a.mp4", "track": np.repeat([1, 2], 20), "start_s": TIMES, "end_s": TIMES + 0.1}
PARTS = {"probabilities": ("prob_happy", "prob_neutral"), "values": ("valence", "a_dimension_with_a_long_name")}


def affect_page(file, names):
    share = np.linspace(0.1, 0.9, 40)
    write_affect_page(file, pd.DataFrame({**ROWS, names[0]: share, names[1]: 1 - share}), {"a.mp4": None})


def report_page(file):
    tables = {
        "Scores": [
            {"": "UAR", "with a long heading": 0.123456, "another": 1.0, "a third one": 2, "fourth": "text " * 9}
        ]
    }
    write_page(file, "A report", [Section("Part", text="Words.", tables=tables), Section("Part two", tables=tables)])


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.mark.parametrize("kind", ["probabilities", "values", "report"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages(browser, tmp_path, kind, width, scheme):
    file = tmp_path / "page.html"
    report_page(file) if kind == "report" else affect_page(file, PARTS[kind])
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_timeout(500)
    found = Axe().run(page).response["violations"]
    assert not [each for each in found if each["impact"] in ("serious", "critical")]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    context.close()
