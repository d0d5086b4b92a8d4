"""A headless Chromium on a leash: two pipes, no network, no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 60  # seconds for one answer


class Browser:
    """Opens pages from files and records what they ask for and complain about.

    Commands and events of the DevTools protocol are JSON ended by a zero byte, on file descriptors 3 and 4.
    """

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]

        def place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        command = [str(CHROMIUM), *options, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, preexec_fn=place, pass_fds=(3, 4), **quiet)
        for end in (theirs_in, theirs_out, *high):
            os.close(end)
        os.set_blocking(self._in, False)
        self._rest, self._last, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.call("Network.emulateNetworkConditions", **offline)

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda found: found.get("id") == self._last)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path) -> None:
        """Open a file and wait until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        if not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self._until(lambda found: found.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return what an expression in the page's JavaScript is."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self) -> bytes:
        """Return what is seen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself left out, and data that it holds."""
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        urls = [event["request"]["url"] for event in sent if event.get("type") != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """Errors, warnings and whatever else a page wrote to its console."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Keep events until the wanted message arrives, and return that."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            while b"\0" in self._rest:
                text, _, self._rest = self._rest.partition(b"\0")
                found = json.loads(text)
                self.events.append(found)
                if wanted(found):
                    return found
            try:
                self._rest += os.read(self._in, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        raise TimeoutError("Chromium does not answer")


PAPER = 718  # pixels of CSS across an A4 page between Chromium's margins
VIEWS: dict[str, dict[str, Any]] = {
    "wide": {"width": 1280, "height": 900},
    "phone": {"width": 390, "height": 844, "mobile": True},
    "dark": {"width": 1280, "height": 900, "scheme": "dark"},
    "paper": {"width": PAPER, "height": 1000, "media": "print"},
}
# What is wrong with a page as it is shown, as sentences.
_FAULTS = """
(() => {
  const said = [];
  const name = (element) => `${element.tagName.toLowerCase()}.${element.className?.baseVal ?? element.className}`;
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) said.push(`it is ${wide} wide`);
  const start = (element) => `${name(element)} "${element.textContent.trim().slice(0, 30)}"`;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.endsWith(", 0)") && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = "h1, h2, p, td, th, figcaption, li, summary, pre, .note, button, select";
  for (const element of document.querySelectorAll(texts)) {
    if (!element.checkVisibility() || !element.textContent.trim()) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) said.push(`${start(element)} has contrast ${contrast.toFixed(1)}`);
  }
  const cards = "body, .card, details, table, td, th, .story, pre, select, button";
  for (const element of DARK ? document.querySelectorAll(cards) : [])
    if (element.checkVisibility() && light(behind(element)) > 0.2) said.push(`${name(element)} is white`);
  for (const element of PRINTED ? document.querySelectorAll(".scroll, pre") : [])
    if (element.scrollWidth > element.clientWidth + 1 || element.getBoundingClientRect().right > innerWidth + 1)
      said.push(`${start(element)} is cut: ${element.scrollWidth} of ${element.clientWidth}`);
  for (const drawing of document.querySelectorAll("svg.plot")) {
    if (!drawing.checkVisibility()) continue;
    const label = drawing.getAttribute("aria-label");
    const words = [...drawing.querySelectorAll(":scope > text:not(.name):not(.word)")];
    const box = drawing.getBoundingClientRect();
    const [across, up] = [words.filter((word) => word.getAttribute("text-anchor") === "middle"),
                          words.filter((word) => word.getAttribute("text-anchor") !== "middle")];
    if (across.length < 2) said.push(`${label}: ${across.length} words below the axis`);
    const enough = up[0]?.classList.contains("inside") ? 1 : 2;
    if (up.length < enough) said.push(`${label}: ${up.length} words beside the axis`);
    for (const line of [across, up]) {
      const boxes = line.map((word) => word.getBoundingClientRect());
      for (let place = 0; place + 1 < boxes.length; place++) {
        const [a, b] = [boxes[place], boxes[place + 1]];
        const [one, other] = [line[place].textContent, line[place + 1].textContent];
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
          said.push(`${label}: "${one}" and "${other}" overlap`);
      }
    }
    for (const word of drawing.querySelectorAll("text")) {
      const at = word.getBoundingClientRect();
      if (at.left < -1 || at.right > innerWidth + 1) said.push(`${label}: "${word.textContent}" is cut`);
      if (at.top < box.top - 2 || at.bottom > box.bottom + 2)
        said.push(`${label}: "${word.textContent}" leaves its drawing`);
    }
  }
  for (const picture of document.images) if (!picture.naturalWidth) said.push("a picture is not shown");
  return said;
})()
"""


def show(browser: Browser, page: Path, view: str, **more: Any) -> None:
    """Open a page as a screen of a desk, as a phone, in the dark or as paper shows it; ``more`` changes the view."""
    how = {"height": 900, "mobile": False, "scheme": "light", "media": "screen", **VIEWS[view], **more}
    size = {"width": how["width"], "height": how["height"], "deviceScaleFactor": 1, "mobile": how["mobile"]}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    features = [{"name": "prefers-color-scheme", "value": how["scheme"]}]
    browser.call("Emulation.setEmulatedMedia", media=how["media"], features=features)
    browser.call("Emulation.setScrollbarsHidden", hidden=True)
    browser.open(page)
    if how["media"] == "print":
        browser.value("dispatchEvent(new Event('beforeprint'))")


def faults(browser: Browser, page: Path) -> list[str]:
    """Return what is wrong with a page in any of ``VIEWS``; each fault says in which."""
    found = []
    for view, how in VIEWS.items():
        show(browser, page, view)
        flags = f"const DARK = {str('scheme' in how).lower()}, PRINTED = {str('media' in how).lower()};"
        said = browser.value(f"(() => {{ {flags} return {_FAULTS.strip()}; }})()")
        if not browser.value("document.querySelector('main h1') !== null"):
            said = [*said, "it is no page of ours"]
        said += [f"asks for {address}" for address in browser.requests] + browser.complaints
        found += [f"{view}: {one}" for one in dict.fromkeys(said)]
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    browser.call("Emulation.setScrollbarsHidden", hidden=False)
    browser.call("Emulation.clearDeviceMetricsOverride")
    return found


# Heads of tables that are broken inside a word, and tables that need scrolling, as sentences.
_CRUSHED = r"""
(() => {
  const said = [];
  const range = document.createRange();
  for (const head of document.querySelectorAll("thead th")) {
    if (!head.checkVisibility()) continue;
    const walker = document.createTreeWalker(head, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode())
      for (const word of node.data.matchAll(/\S+/g)) {
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
        if (lines.size > 1) said.push(`"${word[0]}" is broken`);
      }
  }
  for (const box of document.querySelectorAll(".scroll:has(table)"))
    if (box.checkVisibility() && box.scrollWidth > box.clientWidth + 1)
      said.push(`"${box.textContent.trim().slice(0, 30)}" is cut: ${box.scrollWidth} of ${box.clientWidth}`);
  return said;
})()
"""


def crushed(browser: Browser, page: Path) -> list[str]:
    """Return the heads of tables that are broken inside a word, and tables that are cut, on a desk and on paper."""
    found = []
    for view in ("wide", "paper"):
        show(browser, page, view)
        assert browser.value("document.querySelectorAll('thead th').length") > 0
        found += [f"{view}: {one}" for one in browser.value(_CRUSHED.strip())]
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    browser.call("Emulation.setScrollbarsHidden", hidden=False)
    browser.call("Emulation.clearDeviceMetricsOverride")
    return found
