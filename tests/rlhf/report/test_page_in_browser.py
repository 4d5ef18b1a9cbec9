"""The report in Chromium, opened from disk: no requests, search and order work, hostile text has no effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rlhf.report.plot_images import image_uri
from rlhf.results.schema import ReportData, Results
from rlhf.runs.published import write_with_stage_times
from rlhf.stages.aggregate_results import aggregate_results
from tests.support.results_fixture import fake_config, fake_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    inputs = fake_run(root, prompts=30)
    output = root / "results"
    output.mkdir()
    aggregate_results(fake_config(), inputs, output)
    return output / "report.html"


@dataclass
class Visit:
    """An open report with its requests and its console messages."""

    page: Page
    requested: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Browser, report: Path) -> Iterator[Visit]:
    """The report on a phone."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    visit = Visit(context.new_page())
    visit.page.on("request", lambda request: visit.requested.append(request.url))
    visit.page.on("console", lambda message: visit.messages.append(message.text))
    visit.page.on("pageerror", lambda error: visit.messages.append(str(error)))
    visit.page.goto(report.as_uri())
    yield visit
    context.close()


def test_it_needs_no_other_file_and_fits_a_phone(visit: Visit, report: Path) -> None:
    assert visit.requested == [report.as_uri()]
    assert visit.messages == []
    assert visit.page.title() == "fake: RLHF report"  # a script in a response would have changed it
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390


def test_responses_can_be_searched_and_ordered(visit: Visit) -> None:
    page = visit.page
    shown = page.locator("#list > li:visible")
    assert shown.count() == 10
    page.get_by_role("button", name="Show all 30").click()
    assert shown.count() == 30
    page.get_by_role("searchbox").fill("SKY blue")
    assert shown.count() == 7  # every fourth of the prompts 3, 7, ... 27
    assert page.locator("output").text_content() == "7 of 30 shown"
    page.get_by_role("searchbox").fill("<script>")
    assert shown.count() == 1
    page.get_by_role("searchbox").fill("")
    page.get_by_role("combobox").select_option("loss")
    gains = page.eval_on_selector_all("#list > li", "items => items.map(item => Number(item.dataset.gain))")
    assert gains == sorted(gains)
    page.get_by_role("combobox").select_option("index")
    assert str(page.locator("#list h3").first.text_content()).startswith("Prompt 1 ")
    assert visit.messages == []


def test_toxic_text_is_hidden_until_it_is_opened(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Show all 30").click()
    text = page.locator("#responses details.toxic .text").first
    assert not text.is_visible()
    summary = page.get_by_text("Hidden response, toxicity 0.83")
    summary.focus()
    page.keyboard.press("Enter")  # one of them, by keyboard
    assert text.is_visible()
    page.keyboard.press("Enter")
    assert not text.is_visible()
    switch = page.locator("#responses").get_by_role("switch", name="Show toxic text")
    switch.focus()
    page.keyboard.press("Space")  # all of them
    folded = page.locator("details.toxic")
    assert folded.count() > 3
    assert page.eval_on_selector_all("details.toxic", "all => all.every(one => one.open)")
    assert page.eval_on_selector_all(".reveal", "all => all.every(one => one.checked)")
    page.get_by_role("searchbox").fill("gladly (rlhf_responses)")
    assert page.eval_on_selector_all("details.toxic", "all => all.every(one => one.open)")
    switch.click()
    assert page.eval_on_selector_all("details.toxic", "all => all.every(one => !one.open)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.messages == []


def test_hidden_text_stays_hidden_in_print(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 794, "height": 1123})
    page = context.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert not page.locator("#responses details.toxic .text").first.is_visible()
    assert page.locator("nav").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    context.close()


def test_plots_are_complete_images_on_other_pages(browser: Browser, report: Path) -> None:
    report_data = ReportData.model_validate_json((report.parent / "report_data.json").read_bytes())
    plots = report_data.plots
    page = browser.new_page()
    page.set_content("".join(f'<img src="{image_uri(plot)}">' for plot in plots))
    widths = page.eval_on_selector_all("img", "all => Promise.all(all.map(one => one.decode().then(() => one.width)))")
    assert widths == [640] * 7  # decode fails on anything but an image
    page.close()


def test_without_scripts_everything_is_shown(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#list > li:visible").count() == 30
    assert page.locator(".tools:visible").count() == 0
    context.close()


def test_the_table_of_times_keeps_every_cell_apart(browser: Browser, report: Path, tmp_path: Path) -> None:
    """Cached stages, planned times and costs: no content reaches outside its cell, and 'cached' is not in 'device'."""
    results = Results.model_validate_json((report.parent / "results.json").read_bytes())
    stages = [
        row.model_copy(update={"cached": row.name != "train_ppo", "dollars": 12.5, "planned_seconds": 90.0})
        for row in results.stages
    ]
    page_path = tmp_path / "report.html"
    write_with_stage_times(report.parent, stages, tmp_path / "results.json", page_path)
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(page_path.as_uri())
    columns = page.locator("#cost thead tr > *").all_text_contents()
    assert columns == ["Stage", "Time", "Planned", "Cost", "", "Cached", "Device"]
    rows = page.locator("#cost tbody tr").all()
    cells = {str(row.locator("th").text_content()): row.locator("td").all_text_contents() for row in rows}
    assert cells["train_ppo"][-2:] == ["no", "2 x cpu"]
    assert cells["train_sft"][-2:] == ["yes", "cpu"]
    outside = page.eval_on_selector_all(
        "#cost tr > *",
        """cells => cells.filter(cell => {
          const range = document.createRange();
          range.selectNodeContents(cell);
          const content = range.getBoundingClientRect(), box = cell.getBoundingClientRect();
          return content.width > 0 && (content.left < box.left - 1 || content.right > box.right + 1);
        }).map(cell => cell.textContent)""",
    )
    assert outside == []
    page.close()
