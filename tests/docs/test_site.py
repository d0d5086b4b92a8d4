"""The documentation as a site, in a browser: on a desk and on a phone, by day and in the dark, from the disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, show
from PIL import Image
from snippets import ROOT

HOME, TABLES = "index.html", ("results.html", "reference/metrics.html")
ENTRIES = ("reference/configuration/dataset.html", "tutorials/index.html")
# What is seen beyond the edge of the page: what scrolls or is cut by something around it is not.
BEYOND = """
[...document.querySelectorAll("article *")].filter(element => {
  if (!element.checkVisibility() || element.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let at = element.parentElement; at; at = at.parentElement)
    if (getComputedStyle(at).overflowX !== "visible") return false;
  return true;
}).map(element => element.outerHTML.slice(0, 80))
"""
# Where the second columns of tables begin, as shares of the screen's width.
SECOND = """
[...document.querySelectorAll("article table:not([class])")]
  .map(table => table.rows[0].cells[1].getBoundingClientRect().left / innerWidth)
"""

# How many lines each piece of code takes in the first columns.
LINES = "[...document.querySelectorAll('article tr > td:first-child > code')].map(code => code.getClientRects().length)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, as ``make docs`` does, into a folder of its own."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "true"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["wide", "phone"])
@pytest.mark.parametrize("name", [HOME, *TABLES])
def test_a_page_is_whole_and_quiet(site: Path, browser: Browser, name: str, view: str, scheme: str):
    show(browser, site / name, view, scheme=scheme)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert browser.value(BEYOND) == []
    assert [address for address in browser.requests if not address.startswith(site.as_uri())] == []
    assert browser.complaints == []
    assert (brightness(browser) < 0.3) == (scheme == "dark")


@pytest.mark.parametrize("name", [*TABLES, *ENTRIES])
def test_on_a_phone_meanings_begin_on_the_screen(site: Path, browser: Browser, name: str):
    show(browser, site / name, "phone")
    begins = browser.value(SECOND)
    assert begins
    assert max(begins) < 0.75


@pytest.mark.parametrize("name", TABLES)
def test_on_a_desk_a_key_stays_in_one_line(site: Path, browser: Browser, name: str):
    show(browser, site / name, "wide")
    assert set(browser.value(LINES)) == {1}


def test_the_drawing_follows_the_system_and_the_reader(site: Path, browser: Browser):
    for scheme in ("dark", "light"):
        show(browser, site / HOME, "wide", scheme=scheme)
        for place, wanted in enumerate((scheme, "light", "dark")):  # as the system, light, dark
            browser.value(f"document.querySelectorAll('[data-md-component=palette] input')[{place}].click()")
            seen = until(lambda: drawing(browser), lambda found, wanted=wanted: (found < 0.5) == (wanted == "dark"))
            assert (seen < 0.35) == (wanted == "dark"), (scheme, wanted)
    browser.value("document.querySelector('[data-md-component=palette] input').click()")


def test_every_page_of_the_site_opens_from_the_disk(site: Path):
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert len(pages) > 40
    assert [page.name for page, text in pages.items() if 'href="/' in text or 'src="/' in text] == []


def brightness(browser: Browser) -> float:
    """Return how bright the page is, in [0, 1]."""
    return float(pixels(browser).mean())


def drawing(browser: Browser) -> float:
    """Return how bright the drawing on the page is, in [0, 1]."""
    place = "(({left, top, right, bottom}) => [left, top, right, bottom])"
    left, top, right, bottom = map(int, browser.value(f"{place}(document.images[0].getBoundingClientRect())"))
    return float(pixels(browser)[top:bottom, left:right].mean())


def pixels(browser: Browser) -> np.ndarray:
    """Return what is seen, ``[height, width]`` in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(browser.picture())).convert("L")) / 255


def until(get: Callable[[], float], holds: Callable[[float], bool]) -> float:
    """Get a value until it is as wanted, since colours change slowly, or for two seconds."""
    end = time.monotonic() + 2
    while not holds(found := get()) and time.monotonic() < end:
        time.sleep(0.1)
    return found
