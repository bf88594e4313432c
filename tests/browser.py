"""A page in a real browser: this machine's Chromium, headless, driven by Playwright, and asked by axe-core.

Why: what a report looks like on a phone, whether it asks the network for anything, and whom it shuts out, only a
browser knows. Playwright is given the Chromium that is there, and fetches none of its own.

    with Browser() as browser:
        seen = browser.open(path, width=390, dark=True)
        assert not seen.console and not seen.requests and seen.overflow <= 0
        assert not browser.violations()
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
HEIGHT = 900  # pixels
LOOKS = [(width, dark) for width in (390, 1200) for dark in (False, True)]  # a phone and a desk, by day and by night


def find() -> str | None:
    """Returns the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


needs_browser = pytest.mark.skipif(find() is None, reason="no Chromium here (Debian: apt install chromium)")


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
        self.driver = sync_playwright().start()
        self.chromium = self.driver.chromium.launch(executable_path=find(), args=FLAGS)
        return self

    def __exit__(self, *_) -> None:
        self.chromium.close()
        self.driver.stop()

    def open(self, path: Path, width: int, dark: bool = False) -> Seen:
        """Open a file at a width in pixels, and wait until it is drawn. Returns what was seen of it."""
        self.page = self.chromium.new_page(
            viewport={"width": width, "height": HEIGHT}, is_mobile=width < 700, color_scheme="dark" if dark else "light"
        )
        seen, address = Seen(), path.resolve().as_uri()
        self.page.on("console", lambda message: seen.console.append(message.text))
        self.page.on("pageerror", lambda error: seen.console.append(str(error)))
        self.page.on("request", lambda request: seen.requests.append(request.url))
        self.page.goto(address)
        seen.overflow = self.page.evaluate("document.scrollingElement.scrollWidth") - width
        seen.broken = self.page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
        seen.picture = self.page.screenshot(full_page=True)
        seen.requests = [url for url in seen.requests if url != address and not url.startswith("data:")]
        return seen

    def violations(self) -> list[str]:
        """Returns what axe-core finds wrong in the open page: rule, how grave, where first, and why."""
        found = Axe().run(self.page).response["violations"]
        first = [(rule["id"], rule["impact"], rule["nodes"][0]) for rule in found]
        return [f"{name} ({grave}): {node['html']}: {node['failureSummary']}" for name, grave, node in first]

    def printed(self) -> bytes:
        """Returns the open page as a PDF, as it would be printed."""
        return self.page.pdf()
