"""The site in a real Chromium, from files, as a reader opens it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import synthetic

from leaderboard.build import pages

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it or name it in CHROMIUM"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def axe_core() -> Path | None:
    """axe-core's script: named by AXE_CORE, or in a node_modules folder above."""
    named = os.environ.get("AXE_CORE")
    places = [Path(named)] if named else []
    places += [p / "node_modules" / "axe-core" / "axe.min.js" for p in (Path.cwd(), *Path(__file__).parents)]
    return next((p for p in places if p.is_file()), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Reader:
    """A page that notes whatever it should not do: errors, dialogs, requests that leave the folder."""

    def __init__(self, chromium: Any, folder: Path, **options: Any):
        self.folder = folder
        self.context = chromium.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.page.on("console", lambda m: self.wrong.append(f"console: {m.text}") if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.wrong.append(f"error: {e}"))
        self.page.on("dialog", lambda d: (self.wrong.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("request", self._request)
        self.page.on("requestfailed", self._failed)

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        inside = parts.scheme == "file" and Path(unquote(parts.path)).is_relative_to(self.folder)
        if not inside and parts.scheme != "data":
            self.wrong.append(f"request: {request.url}")

    def _failed(self, request: Any) -> None:
        if "ABORTED" not in (request.failure or ""):  # given up because the reader went on to another page
            self.wrong.append(f"failed: {request.url}")

    def open(self, path: str) -> Any:
        self.page.goto(f"file://{self.folder}/{path}")
        return self.page

    def scroll_through(self) -> None:
        """Bring every chart into view, so that it is drawn."""
        self.page.evaluate(
            """async () => {
              document.querySelectorAll("details").forEach((d) => { d.open = true; });
              for (let y = 0; y < document.documentElement.scrollHeight; y += 600) {
                scrollTo(0, y);
                await new Promise((done) => setTimeout(done, 30));
              }
            }"""
        )
        self.page.wait_for_function(
            """() => Array.from(document.querySelectorAll("figure.chart:not([hidden]) .plot:not([hidden])"))
                .every((p) => p.dataset.drawn || p.textContent.includes("could not be drawn"))"""
        )


@pytest.fixture
def reader(chromium) -> Iterator[Any]:
    made: list[Reader] = []

    def make(folder: Path, **options: Any) -> Reader:
        made.append(Reader(chromium, folder, **options))
        return made[-1]

    yield make
    wrong = [w for r in made for w in r.wrong]
    for r in made:
        r.context.close()
    assert wrong == []


def names(page: Any) -> list[str]:
    return page.eval_on_selector_all("#papers tbody tr:not([hidden]) .name", "es => es.map(e => e.textContent)")


KINDS = (
    "index.html",
    "costs.html",
    "bench.html",
    "arenas.html",
    "method.html",
    "paper/coe.html",
    "paper/coe/reference-laptop-composition.html",
)


@pytest.mark.parametrize("path", KINDS)
def test_pages_load_without_errors_and_without_leaving_the_folder(reader, site, path):
    r = reader(site)
    page = r.open(path)
    r.scroll_through()
    assert page.title()
    assert not page.locator("text=could not be drawn").count()


def test_charts_are_drawn_under_the_strict_policy(reader, site):
    r = reader(site)
    page = r.open("paper/coe.html")
    r.scroll_through()
    assert page.locator("figure.forest svg").count() >= 8
    for chart in ("curves", "tradeoff", "heat"):
        assert page.locator(f"figure.{chart} svg path").count() > 3, chart
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = 'script'";
          document.body.append(script);
          const picture = document.createElement("img");
          picture.setAttribute("onerror", "window.ran = 'handler'");
          picture.src = "https://example.org/x.png";
          document.body.append(picture);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("() => window.ran") is None
    refused = [w for w in r.wrong if "Content Security Policy" in w]
    assert len(refused) >= 2
    r.wrong.clear()  # these refusals were the point


def test_the_first_paint_is_quick_and_needs_no_chart_library(reader, many):
    r = reader(many)
    loaded: list[str] = []
    r.page.on("request", lambda q: loaded.append(q.url))
    page = r.open("index.html")
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 3000  # lax, for shared machines; well under a second on an idle one
    assert not [u for u in loaded if "vega" in u]


def test_search_and_filters_narrow_the_table_and_live_in_the_address(reader, many):
    page = reader(many).open("index.html")
    assert len(names(page)) == 85
    page.fill("input[name=q]", "chain-of-experts")
    assert names(page) == ["CoE"]
    assert "q=chain-of-experts" in page.url
    page.fill("input[name=q]", "")
    page.select_option("select[name=area]", "distillation")
    narrowed = names(page)
    assert 0 < len(narrowed) < 85
    assert "area=distillation" in page.url
    page.reload()
    assert names(page) == narrowed
    assert page.input_value("select[name=area]") == "distillation"
    page.click("button[type=reset]")
    page.wait_for_function("() => !location.search")
    assert len(names(page)) == 85


def test_filters_on_claims_ask_one_claim_for_all_of_them(reader, many):
    page = reader(many).open("index.html?verdict=contradicted&scale=published&kind=cost")
    shown = names(page)
    assert "CoE" in shown
    assert len(shown) < 85
    marks = page.locator("#papers tbody tr:not([hidden]) [data-mark]:not(.dim)")
    for i in range(marks.count()):
        data = marks.nth(i).evaluate("e => [e.dataset.verdict, e.dataset.scale, e.dataset.kind]")
        assert data == ["contradicted", "published", "cost"]
    page.goto(page.url.split("?")[0] + "?stale=yes")
    assert names(page) == ["MUM-3"]


def test_a_filter_that_fits_nothing_says_so_and_hostile_addresses_do_nothing(reader, many):
    page = reader(many).open("index.html?q=%3Cscript%3Ealert(1)%3C/script%3Enothing&sort=99&area=%22%3E")
    assert names(page) == []
    assert page.locator(".empty").is_visible()
    assert page.input_value("select[name=area]") == ""


def test_sorting_goes_up_down_and_back_and_lives_in_the_address(reader, many):
    page = reader(many).open("index.html")
    before = names(page)
    button = page.locator("th[data-column=paper] button.sort")
    button.focus()
    page.keyboard.press("Enter")
    up = names(page)
    assert page.get_attribute("th[data-column=paper]", "aria-sort") == "ascending"
    assert up == sorted(up, key=str.lower) or len(up) == 85
    page.keyboard.press("Enter")
    assert names(page) == up[::-1]
    assert "sort=-0" in page.url
    page.reload()
    assert names(page) == up[::-1]
    page.locator("th[data-column=paper] button.sort").click()
    assert names(page) == before


def test_sorting_by_number_puts_missing_ones_last(reader, many):
    page = reader(many).open("index.html")
    page.click("th[data-column=time] button.sort")
    values = page.eval_on_selector_all("#papers tbody td[data-column=time]", "es => es.map(e => e.dataset.value)")
    found = [float(v) for v in values if v]
    assert found == sorted(found, reverse=True)
    assert values[-1] == ""


def test_columns_can_be_chosen(reader, many):
    page = reader(many).open("index.html")
    assert not page.locator("th[data-column=area]").is_visible()
    page.click("details.columns summary")
    page.check("details.columns input[value=area]")
    page.uncheck("details.columns input[value=memory]")
    assert page.locator("th[data-column=area]").is_visible()
    assert not page.locator("th[data-column=memory]").is_visible()
    page.reload()
    assert page.locator("th[data-column=area]").is_visible()
    assert not page.locator("th[data-column=memory]").is_visible()


def test_the_counts_lead_to_the_filtered_table(reader, many):
    page = reader(many).open("index.html")
    link = page.locator(".counts td a").first
    count = int(link.text_content())
    with page.expect_navigation():
        link.click()
    assert page.locator("#papers tbody tr:not([hidden]) [data-mark]:not(.dim)").count() == count


def test_the_copy_button_copies_the_command(reader, site):
    r = reader(site, permissions=["clipboard-read", "clipboard-write"])
    page = r.open("index.html")
    page.click("#papers button[data-copy]")
    page.wait_for_function("() => document.getElementById('announce').textContent.startsWith('Copied')")
    assert page.evaluate("() => navigator.clipboard.readText()") == "nox -s reproduce-coe"


def test_the_theme_can_be_chosen_and_stays(reader, site):
    page = reader(site, color_scheme="light").open("index.html")
    colour = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("[data-theme-toggle]")
    assert page.evaluate(colour) == light
    page.click("[data-theme-toggle]")
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == dark


def test_charts_follow_the_theme(reader, site):
    r = reader(site, color_scheme="light")
    page = r.open("paper/coe.html")
    page.locator("figure.forest").first.scroll_into_view_if_needed()
    page.wait_for_selector("figure.forest svg text")
    fill = "() => document.querySelector('figure.forest svg text').getAttribute('fill')"
    before = page.evaluate(fill)
    page.click("[data-theme-toggle]")
    page.click("[data-theme-toggle]")
    page.wait_for_function(f"before => ({fill})() !== before", arg=before)


def test_a_cell_of_the_matrix_opens_its_numbers_and_these_lead_to_the_records(reader, site):
    page = reader(site).open("paper/coe.html")
    page.locator("#C1 table.matrix td.cell a").first.click()
    row = page.locator("article.row.found")
    assert row.is_visible()
    assert "CoE(2 x K/2) against MoE(K)" in row.locator("h3").text_content()
    with page.expect_navigation():
        row.locator("a:has-text('records')").click()
    assert page.locator("tr.chosen").count() == 6
    assert page.locator(".selection").is_visible()


def test_a_link_to_a_row_opens_it(reader, site):
    page = reader(site).open("paper/coe.html#C1-vs-strict-stdlib-laptop")
    assert page.locator("#C1-vs-strict-stdlib-laptop").is_visible()


def test_the_setting_of_the_explorer_lives_in_the_address(reader, site):
    page = reader(site).open("paper/coe.html")
    page.select_option("select[data-place]", "laptop-stdlib")
    assert "setting=laptop-stdlib" in page.url
    assert page.locator("[data-place-id=laptop-stdlib]").is_visible()
    assert not page.locator("[data-place-id=laptop-composition]").is_visible()
    page.reload()
    assert page.locator("[data-place-id=laptop-stdlib]").is_visible()


def test_hostile_records_and_papers_stay_inert(reader, site, many):
    for folder, path in (
        (site, "index.html"),
        (site, "paper/coe.html"),
        (many, "index.html"),
        (many, "paper/hostile.html"),
    ):
        r = reader(folder)
        page = r.open(path)
        r.scroll_through()
        assert page.locator("img").count() == 0
        assert (
            page.evaluate("() => document.querySelectorAll('main script:not([type=\"application/json\"])').length") == 0
        )
    assert synthetic.HOSTILE.split(";")[0][:20] in page.locator("main").inner_text()


def test_hostile_record_pages_stay_inert(reader, site):
    hostile = [p for p in pages(site) if p.parent.name == "coe" and "script" in p.name]
    assert hostile
    for path in hostile:
        page = reader(site).open(str(path.relative_to(site)))
        assert page.locator("img").count() == 0


def test_without_scripts_everything_is_there_to_read(chromium, site):
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(f"file://{site}/paper/coe.html")
    assert page.locator("[data-place-id]").count() == page.locator("[data-place-id]:visible").count() > 3
    assert page.locator("table.matrix").first.is_visible()
    assert not page.locator("figure.chart").first.is_visible()
    page.context.close()


@pytest.mark.parametrize("path", ["index.html", "paper/coe.html", "costs.html", "bench.html", "method.html"])
@pytest.mark.parametrize("width", [360, 768])
def test_nothing_runs_over_the_side(reader, site, path, width):
    r = reader(site, viewport={"width": width, "height": 800})
    page = r.open(path)
    r.scroll_through()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", KINDS)
def test_axe_finds_no_serious_violation(reader, site, path, scheme):
    script = axe_core()
    if script is None:
        pytest.skip("no axe-core: npm install axe-core, or name axe.min.js in AXE_CORE")
    r = reader(site, color_scheme=scheme, bypass_csp=True)
    page = r.open(path)
    r.scroll_through()
    assert r.wrong == []
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate(
        "() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] })"
    )
    r.wrong.clear()  # axe itself asks for the style sheet again, which a page from a file may not
    serious = [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]} ({len(v['nodes'])})"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_printing_shows_what_a_page_holds_and_hides_its_controls(reader, site):
    page = reader(site).open("index.html")
    page.emulate_media(media="print")
    assert not page.locator("form.filters").is_visible()
    assert page.locator("#papers").is_visible()
    assert len(page.pdf()) > 5000
