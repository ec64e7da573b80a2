"""The documentation's pages in a real browser: `make test-site`, after `make docs`.

Each page is seen as on a desk in the light and as on a phone in the dark. With SCREENSHOTS in the
environment, that is put into build/docs/screenshots.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).parent.parent.parent
SITE = ROOT / "build" / "docs" / "site"
SCREENSHOTS = ROOT / "build" / "docs" / "screenshots"
PAGES = sorted(str(p.relative_to(SITE).parent) for p in SITE.rglob("index.html"))
SCREENS: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "dark",
        "is_mobile": True,
        "has_touch": True,
    },
}

# WCAG's contrast of each text with what is behind it, of all that are seen; the least, and where.
# https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio
LEAST_CONTRAST = """() => {
  const parsed = colour => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const [r, g, b, a = 1] = parsed(getComputedStyle(element).backgroundColor);
      if (a > 0.5) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const luminance = rgb => rgb.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let least = {ratio: 21, text: ""};
  for (const element of document.querySelectorAll(".md-content :is(p, li, td, th, h1, h2, h3, a, code, span)")) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join("");
    if (!text || element.matches(".headerlink, .md-clipboard *") || !element.getClientRects().length) continue;
    const back = behind(element), [r, g, b, a = 1] = parsed(getComputedStyle(element).color);
    const fore = [r, g, b].map((c, i) => a * c + (1 - a) * back[i]);
    const [light, dark] = [luminance(fore), luminance(back)].sort((x, y) => y - x);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < least.ratio) least = {ratio, text: text.slice(0, 60), tag: element.outerHTML.slice(0, 120)};
  }
  return least;
}"""


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the site is served."""
    handler = functools.partial(QuietHandler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=SCREENS)
def screen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(**SCREENS[request.param]) as context:
        context.set_default_timeout(100_000)  # beside compilers
        yield context


@pytest.fixture
def page(screen: BrowserContext) -> Iterator[Page]:
    with screen.new_page() as page:
        yield page


def test_the_site_has_its_pages() -> None:
    assert len(PAGES) > 20


@pytest.mark.parametrize("path", PAGES)
def test_page(page: Page, address: str, path: str, request: pytest.FixtureRequest) -> None:
    wrong: list[str] = []

    def only_from_here(route: Any) -> None:
        if route.request.url.startswith(address):
            route.continue_()
        else:
            wrong.append(f"fetches {route.request.url}")
            route.abort()

    page.route("**/*", only_from_here)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    here = urljoin(address, "" if path == "." else path + "/")
    page.goto(here)

    # The theme puts a `div` of its own in the place of each diagram that it has drawn.
    source = (SITE / path / "index.html").read_text()
    diagrams = source.count('<pre class="mermaid">')
    page.wait_for_function("() => !document.querySelector('pre.mermaid')")
    drawn = page.locator("div.mermaid")
    assert drawn.count() == diagrams
    for diagram in drawn.all():
        box = diagram.bounding_box()
        assert box is not None
        assert box["height"] > 60, box
        assert box["width"] > 100, box

    for image in page.locator(".md-content img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window, f"{wide} px wide in a window of {window}"
    least = page.evaluate(LEAST_CONTRAST)
    assert least["ratio"] >= 4.5, least

    assert not wrong
    if "SCREENSHOTS" in os.environ:
        SCREENSHOTS.mkdir(exist_ok=True)
        screen = request.node.callspec.params["screen"]
        name = "index" if path == "." else path.replace("/", "-")
        page.screenshot(path=SCREENSHOTS / f"{name}-{screen}.png", full_page=True)


def test_diagrams_are_without_mistakes(browser: Browser, address: str) -> None:
    """A mistake would be drawn as one, in a shadow that nobody can look into."""
    page = browser.new_page()
    page.goto(urljoin(address, "architecture/"))
    for markdown in sorted((ROOT / "docs").rglob("*.md")):
        for text in markdown.read_text().split("```mermaid\n")[1:]:
            page.evaluate("text => window.mermaid.parse(text)", text.split("```")[0])
    with pytest.raises(Exception, match="Parse error"):
        page.evaluate("window.mermaid.parse('flowchart LR\\n a --')")


def test_links_lead_somewhere(browser: Browser, address: str) -> None:
    page = browser.new_page()
    links: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for path in PAGES:
        here = urljoin(address, "" if path == "." else path + "/")
        page.goto(here, wait_until="domcontentloaded")
        hrefs = page.eval_on_selector_all("a[href]", "found => found.map(a => a.href)")
        links[here] = {href for href in hrefs if href.startswith(address)}
        names[here] = set(page.eval_on_selector_all("[id]", "found => found.map(e => e.id)"))
    for here, hrefs in links.items():
        for href in hrefs:
            target, name = urldefrag(href)
            if target in names:
                assert not name or name in names[target], f"{here} names {href}"
            else:
                assert (SITE / target.removeprefix(address)).is_file(), f"{here} names {href}"


def test_search_finds(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address, wait_until="networkidle")
    page.keyboard.press("/")
    page.keyboard.type("create_readable")
    page.locator(".md-search-result__item").first.wait_for()
