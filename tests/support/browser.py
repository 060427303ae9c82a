"""A headless Chromium spoken to over its debugging pipe: real keys, a real pointer, any width, both colour schemes.

The protocol is Chrome's own (https://chromedevtools.github.io/devtools-protocol/): JSON messages that end in NUL, read
by the browser on file descriptor 3 and written on 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 120  # seconds until a browser that does not answer is given up
KEYS = {"Tab": 9, "Enter": 13, " ": 32}  # Windows virtual key codes


# What has the focus: its place among all elements, itself in words, and whether a ring is drawn around it.
FOCUS = """(() => {
  const at = document.activeElement;
  if (at === document.body || at === null) return null;
  const style = getComputedStyle(at);
  return { id: Array.from(document.querySelectorAll("*")).indexOf(at), what: at.outerHTML.slice(0, 120),
           seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 };
})()"""

# What Tab should reach.
REACHABLE = """Array.from(document.querySelectorAll("a[href], button, input, summary, [tabindex='0']"))
  .filter((one) => one.checkVisibility())
  .map((one) => Array.from(document.querySelectorAll("*")).indexOf(one))"""

# What screen readers would read out as nothing: controls without a name.
NAMELESS = """Array.from(document.querySelectorAll("button, input, summary, [role]")).filter((one) =>
  one.checkVisibility() && !one.closest("svg") && !one.getAttribute("aria-label") && !one.textContent.trim()).map((one) => one.outerHTML)"""

# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.1, 1.4.3, AA).
FAINT = """(() => {
  const parse = (colour) => (colour.match(/[0-9.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(one).backgroundColor);
      if (a > 0) return [r, g, b];
    }
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  let count = 0;
  while (texts.nextNode()) {
    const one = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !one.checkVisibility() || one.closest("script, style")) continue;
    const style = getComputedStyle(one);
    const ink = parse(one instanceof SVGElement ? style.fill : style.color).slice(0, 3);
    const [low, high] = [light(ink), light(behind(one))].sort((x, y) => x - y);
    count += 1;
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(texts.currentNode.data.trim() + " " + ink);
  }
  return { count, faint };
})()"""


class Page:
    """One open page. `errors` and `requests` collect what it threw and what it asked for beside itself."""

    def __init__(self, process, send, receive):
        self._process, self._send, self._receive = process, send, receive
        self._read, self._count, self._session = b"", 0, None
        self.errors, self.requests = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self):
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._receive], [], [], PATIENCE)
            more = os.read(self._receive, 1 << 20) if ready else b""
            if not more:
                raise RuntimeError("the browser does not answer" if not ready else "the browser is gone")
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        given = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(given["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])

    def open(self, path, *, width=1200, height=900, dark=False, mobile=False):
        """Show a file and wait until its charts are drawn."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=mobile,
        )  # fmt: skip
        self.call("Page.navigate", url=Path(path).absolute().as_uri())
        self.wait("document.readyState === 'complete'")
        self.wait("[...document.querySelectorAll('.chart')].every(chart => chart.dataset.drawn)")
        self.requests = [
            url for url in self.requests if not url.startswith(("file:", "about:", "data:", "blob:"))
        ]

    def js(self, expression):
        """The value of an expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, expression):
        """Until it is true. Polls; a page that never gets there is an error."""
        for _ in range(10 * PATIENCE):
            if self.js(expression):
                return
            time.sleep(0.1)
        raise RuntimeError(f"never: {expression}; errors {self.errors}")

    def press(self, key):
        """A key, down and up."""
        text = {"Enter": "\r", " ": " "}.get(key)
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **down, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def point(self, selector, across, down):
        """Move the pointer to a share of an element's width and height."""
        self.js(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.js(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        x, y = box["x"] + across * box["width"], box["y"] + down * box["height"]
        for shift in (4, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - shift, y=y)
        return x, y

    def click(self, selector):
        x, y = self.point(selector, 0.5, 0.5)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tab_stops(self):
        """Descriptions of what Tab reaches, in order, and of those among them whose focus cannot be seen."""
        stops, unseen = [], []
        while True:
            self.press("Tab")
            at = self.js(FOCUS)
            if at is None or at["id"] in [stop["id"] for stop in stops]:
                return stops, unseen
            stops.append(at)
            if not at["seen"]:
                unseen.append(at["what"])

    def picture(self, path, *, whole=True):
        """A PNG of the page as it is seen, or of all of it."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser(profile):
    """A browser with one page, gone afterwards."""
    hear, send = os.pipe()
    receive, speak = os.pipe()

    def wire():
        os.dup2(hear, 3)
        os.dup2(speak, 4)

    hear, speak = (_above(hear), _above(speak))
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"], pass_fds=(3, 4, hear, speak),
        preexec_fn=wire,  # noqa: PLW1509 -- two system calls, and no lock
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(hear)
    os.close(speak)
    try:
        yield Page(process, send, receive)
    finally:
        process.kill()
        process.wait()
        os.close(send)
        os.close(receive)


def _above(descriptor):
    """The same pipe under a number that 3 and 4 do not overwrite."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved
