"""A page in a real browser: headless Chromium, driven through a pipe, and axe-core, which finds what shuts people out.

Why: what a report looks like on a phone, and whether it asks the network for anything, only a browser knows. axe-core
is an npm package; `make test` puts it into .venv where there is npm.

    with Browser() as browser:
        seen = browser.open(path, width=390, dark=True)
        assert not seen.console and not seen.requests and seen.overflow <= 0
        assert not browser.violations()
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cookbook.runs import ROOT

AXE = ROOT / ".venv/node_modules/axe-core/axe.min.js"
LOOKS = [(width, dark) for width in (390, 1200) for dark in (False, True)]  # a phone and a desk, by day and by night
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars")  # fmt: skip


def find() -> str | None:
    """Returns the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


needs_browser = pytest.mark.skipif(find() is None, reason="no Chromium here (Debian: apt install chromium)")
needs_axe = pytest.mark.skipif(not (find() and AXE.is_file()), reason=f"needs Chromium, and {AXE}: see `make test`")


@dataclass
class Seen:
    """What the browser saw of a page: messages of its console, addresses asked for, pixels too wide, pictures."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # but for the page itself and what it holds
    overflow: int = 0
    broken: int = 0  # pictures that could not be drawn
    picture: bytes = b""


class Browser:
    """One Chromium, started on entering and ended on leaving."""

    def __enter__(self) -> "Browser":
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (theirs_in, self.to), (self.back, theirs_out) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]

        def ends() -> None:  # Chromium reads commands from 3 and writes answers to 4
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [find(), *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=ends,
        )
        for end in (theirs_in, theirs_out, *high):
            os.close(end)
        self.number, self.rest, self.events = 0, b"", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.to)
        os.close(self.back)
        self.profile.cleanup()

    def call(self, method: str, **params) -> dict:
        """Returns the result of one command of the DevTools protocol; events that come meanwhile are kept."""
        self.number += 1
        session = {"sessionId": self.session} if hasattr(self, "session") else {}
        os.write(
            self.to, json.dumps({"id": self.number, "method": method, "params": params} | session).encode() + b"\0"
        )
        while (said := self._next()).get("id") != self.number:
            self.events.append(said)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']['message']}")
        return said["result"]

    def _next(self) -> dict:
        while b"\0" not in self.rest:
            if not (more := os.read(self.back, 1 << 20)):
                raise RuntimeError("Chromium has ended")
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def open(self, path: Path, width: int, dark: bool = False) -> Seen:
        """Open a file at a width in pixels, and wait until it is drawn. Returns what was seen of it."""
        self.events, address = [], path.resolve().as_uri()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                  mobile=width < 700)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        self.value("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn))).then(() => 0)")
        seen = Seen(
            overflow=self.value("document.scrollingElement.scrollWidth") - width,
            broken=self.value("[...document.images].filter(i => !i.complete || !i.naturalWidth).length"),
        )
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=self._whole(width))
        seen.picture = base64.b64decode(shot["data"])
        for event in self.events:
            told = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled":
                seen.console.append(str(told["args"]))
            elif event.get("method") == "Runtime.exceptionThrown":
                seen.console.append(str(told["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded":
                seen.console.append(told["entry"]["text"])
            elif event.get("method") == "Network.requestWillBeSent":
                seen.requests.append(told["request"]["url"])
        seen.requests = [url for url in seen.requests if url != address and not url.startswith("data:")]
        return seen

    def printed(self) -> bytes:
        """Returns the open page as a PDF, as it would be printed."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=False)["data"])

    def value(self, expression: str):
        """Returns what an expression of JavaScript is in the open page, as if somebody had clicked; waits for it."""
        how = {"awaitPromise": True, "userGesture": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", expression=expression, **how)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression[:80]}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, such as "Tab", in the open page."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def violations(self) -> list[str]:
        """Returns what axe-core finds wrong in the open page: rule, how grave, where first, and its reason."""
        self.value(AXE.read_text(encoding="utf-8") + "; 0")
        words = "v.id + ' (' + v.impact + '): ' + v.nodes[0].html + ' ' + v.nodes[0].failureSummary"
        return self.value(f"axe.run().then(found => found.violations.map(v => {words}))")

    def _whole(self, width: int) -> dict:
        height = self.value("document.scrollingElement.scrollHeight")
        return {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
