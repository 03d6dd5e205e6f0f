"""The page in a browser: what readers see, search and print, with eyes, keyboard or screen reader; and that no text of it acts.

Needs playwright and Chromium or Chrome: the one that MLXTUNE_CHROMIUM names, else /usr/bin/chromium, `chromium` or `google-chrome`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxtune.report.blocks import Code, FieldAnswer, PredictionRow, Predictions, Report, Section
from mlxtune.report.page.render import render
from tests.report.made_reports import hostile, one_run, several_systems, ticket_rows

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install mlxtune[dev]")

REPORTS: dict[str, Callable[[], Report]] = {
    "one_run": one_run,
    "one_run_zh": lambda: one_run("zh"),
    "several_systems": several_systems,
    "hostile": lambda: hostile(long=10_000_000),
    "many_rows": lambda: Report(
        "many", "en", [Section("a", "A", [Predictions(("tuned",), {}, ticket_rows(2000, ("tuned",)))])]
    ),
}


def browser_program() -> str | None:
    """A browser of this machine."""
    named = os.environ.get("MLXTUNE_CHROMIUM")
    candidates = [named] if named else ["/usr/bin/chromium", "chromium", "google-chrome"]
    return next((found for name in candidates if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = browser_program()
    if program is None:
        pytest.skip("no browser: install Chromium, or name one in MLXTUNE_CHROMIUM")
    sync_api.expect.set_options(timeout=20_000)  # machines may be busy; what is there is not waited for
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | Report], Path]:
    """Writes a report's page, each of REPORTS once."""
    folder = tmp_path_factory.mktemp("pages")

    def write(report: str | Report) -> Path:
        file = folder / f"{report if isinstance(report, str) else 'made'}.html"
        if not file.exists() or not isinstance(report, str):
            file.write_text(render(REPORTS[report]() if isinstance(report, str) else report), encoding="utf-8")
        return file

    return write


@pytest.fixture
def show(browser: Any, file_of: Callable[[str | Report], Path]) -> Iterator[Callable[..., Any]]:
    """Opens a report from disk. At the end the page must have asked for nothing, and its console must be empty."""
    contexts, said, requested = [], [], []

    def open_page(report: str | Report = "one_run", address: str = "", width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(file_of(report).as_uri() + address)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("tr.row")
        return page

    yield open_page
    assert said == []
    assert requested and [url for url in requested if not (url.startswith("file:") and url.endswith(".html"))] == []
    for context in contexts:
        context.close()


def numbers(page: Any) -> list[int]:
    """The numbers of the rows that the table shows."""
    return [int(text) for text in page.locator("tr.row > th").all_inner_texts()]


def has_rows(page: Any, count: int) -> None:
    """Waits until the table shows so many rows."""
    sync_api.expect(page.locator("tr.row")).to_have_count(count)


def choose(page: Any, name: str, option: str) -> None:
    page.get_by_label(name, exact=True).select_option(label=option)


def cells(page: Any, column: int) -> list[str]:
    """A column of the table's rows; 0 is the row's number."""
    return [text.replace("\n", " ") for text in page.locator(f"tr.row > :nth-child({column + 1})").all_inner_texts()]


# -- Nothing acts --


def test_hostile_texts_run_nothing_and_ask_for_nothing(show: Callable[..., Any]) -> None:
    page = show("hostile", "#row-1")
    page.get_by_role("button", name="Close", exact=True).wait_for()
    for _ in range(12):
        page.keyboard.press("j")
    assert page.locator("tr.opened strong").inner_text() == "Row 12"
    page.locator("summary").first.click()
    for name in ("System", "Label", "Label is in", "ROUGE-L", "Result", "Field"):
        select = page.get_by_label(name, exact=True)
        select.select_option(index=select.locator("option").count() - 1)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, [onclick], [onload], [style]").count() == 0


def test_a_script_that_was_put_into_the_page_would_not_run(
    show: Callable[..., Any], file_of: Callable, tmp_path: Path, browser: Any
) -> None:
    """What the policy holds back where escaping failed."""
    file = tmp_path / "broken.html"
    inserted = "<script>window.pwned = 1</script><img src='https://example.com/x.png' onerror='window.pwned = 2'><p id='p' style='color: red'>x</p>"
    file.write_text(
        file_of("one_run").read_text(encoding="utf-8").replace("<main", inserted + "<main"), encoding="utf-8"
    )
    show()
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(file.as_uri())
    page.wait_for_selector("tr.row")
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
    assert len([text for text in refused if "Content Security Policy" in text]) >= 3
    page.close()


# -- What is shown --


def test_charts_are_drawn_in_the_colours_of_the_page(show: Callable[..., Any]) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = show(color_scheme=scheme)
        charts = page.locator("figure.chart svg")
        assert charts.count() == 3
        for chart in charts.all():
            box = chart.bounding_box()
            assert box["width"] > 400 and box["height"] > 80
            assert chart.get_attribute("role") == "img" and chart.locator("title").text_content()
            assert chart.locator("text").count() > 3
        colours[scheme] = page.locator("figure.chart .series-1").first.evaluate(
            "(line) => getComputedStyle(line).color"
        )
        assert page.locator("figure.heat-map").count() == 2
    assert colours == {"light": "rgb(0, 114, 178)", "dark": "rgb(86, 180, 233)"}


def test_the_reader_can_choose_the_colours(show: Callable[..., Any]) -> None:
    page = show(color_scheme="light")
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = ground()
    page.get_by_text("Dark", exact=True).click()
    dark = ground()
    assert light == "rgb(255, 255, 255)" and dark != light
    page.reload()
    page.wait_for_selector("tr.row")
    assert ground() == dark
    page.get_by_text("Light", exact=True).click()
    assert ground() == light


def test_one_version_of_a_choice_is_shown(show: Callable[..., Any]) -> None:
    page = show()
    assert page.get_by_text("Against majority").is_visible() and page.get_by_text("Against TF-IDF").is_hidden()
    choose(page, "Compared with", "TF-IDF")
    assert page.get_by_text("Against majority").is_hidden() and page.get_by_text("Against TF-IDF").is_visible()


def test_code_can_be_copied(show: Callable[..., Any]) -> None:
    page = show(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("mlxtune lora recipe.yaml")


def test_controls_speak_the_language_of_the_page(show: Callable[..., Any]) -> None:
    page = show("one_run_zh")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    choose(page, "结果", "错误")
    assert "68 行中的" in page.get_by_role("status").inner_text()
    page.locator("tr.row button").first.click()
    assert page.get_by_text("原始回复").is_visible()


def test_everything_but_the_predictions_can_be_read_without_javascript(show: Callable[..., Any]) -> None:
    page = show(java_script_enabled=False)
    notes = page.locator("noscript p").all_inner_texts()
    assert notes[0].startswith("JavaScript is off.") and notes[1:] == ["The 68 predictions need JavaScript."]
    for text in ("Against majority", "Against TF-IDF", "macro F1"):
        assert page.get_by_text(text).first.is_visible(), text
    assert page.locator("figure.chart svg").first.is_visible()
    assert page.locator("select, button, input").filter(visible=True).count() == 0


@pytest.mark.parametrize("report", ["one_run", "one_run_zh", "several_systems", "hostile"])
def test_the_page_itself_never_scrolls_sideways(show: Callable[..., Any], report: str) -> None:
    page = show(report, "#row-3")
    page.wait_for_selector("tr.opened")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    for width in (360, 768, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        opened = page.locator(".opened-content").bounding_box()
        assert opened["x"] >= 0 and opened["x"] + opened["width"] <= width


@pytest.mark.parametrize("report", [one_run(n_rows=5), several_systems(n_rows=5)], ids=["one run", "several systems"])
def test_axe_finds_no_serious_fault(show: Callable[..., Any], report: Report) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = show(report, "#row-3")
    page.wait_for_selector("tr.opened")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    everything, contrast = {"resultTypes": ["violations"]}, {"runOnly": ["color-contrast"]}
    for scheme, options in (("light", everything), ("dark", contrast)):
        page.emulate_media(color_scheme=scheme)
        results = axe.Axe().run(page, options=options).response
        assert results["passes"]
        faults = [fault for fault in results["violations"] if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], [node["html"][:120] for node in fault["nodes"]][:3]) for fault in faults] == []


# -- Paper --


def test_paper_is_light_has_everything_open_and_cuts_no_table(show: Callable[..., Any]) -> None:
    page = show(width=680, color_scheme="dark")  # about a sheet's width
    assert page.locator("details:not([open])").count() == 2
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    sync_api.expect(page.locator("details:not([open])")).to_have_count(0)
    assert page.locator(".contents, .filters, .bar, .switch").filter(visible=True).count() == 0
    assert "current page. Filters: none." in page.locator(".predictions .print-only").inner_text()
    cut = "(box) => box.scrollWidth > box.clientWidth + 1 ? box.innerText : ''"
    boxes = page.locator(".scroll")
    upright = page.locator("figure:not(.many) > .scroll")  # the others stand on sheets that lie on their side
    assert boxes.count() == upright.count() + 2 > 8
    assert [text for box in upright.all() if (text := box.evaluate(cut))] == []
    page.set_viewport_size({"width": 1010, "height": 680})
    assert [text for box in boxes.all() if (text := box.evaluate(cut))] == []
    page.emulate_media(media="screen")
    sync_api.expect(page.locator("details:not([open])")).to_have_count(2)


def test_a_pdf_of_the_page_can_be_made(show: Callable[..., Any]) -> None:
    page = show()
    pdf = page.pdf(format="A4", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 4
    assert page.locator("details:not([open])").count() == 2  # as they were


# -- Predictions --


def test_search_finds_rows_by_their_texts_and_marks_what_it_found(show: Callable[..., Any]) -> None:
    page = show()
    page.get_by_label("Search").fill("SUBSCRIPTION in march")
    has_rows(page, 14)
    assert numbers(page) == list(range(1, 68, 5))
    assert page.get_by_role("status").inner_text() == "14 of 68 rows"
    assert page.locator("tr.row mark").first.inner_text() == "subscription in March"
    page.get_by_label("Search").fill("no such text")
    page.get_by_text("No row fits these filters.").wait_for()
    page.get_by_role("button", name="Reset").click()
    assert page.get_by_role("status").inner_text() == "68 of 68 rows"
    assert page.get_by_label("Search").input_value() == ""


def test_rows_can_be_filtered_by_field_result_label_and_bucket(show: Callable[..., Any]) -> None:
    rows = {row.number: row.answers["tuned"] for row in ticket_rows(68, ("base model", "tuned"))}
    page = show()
    choose(page, "Rows a page", "100")
    choose(page, "Field", "priority")
    choose(page, "Result", "wrong")
    assert numbers(page) == [number for number, answers in rows.items() if not answers["priority"].right] != []
    assert page.locator(".predictions thead tr").first.locator("th").all_inner_texts()[2:] == ["priority"]
    choose(page, "Result", "right")
    assert numbers(page) == [number for number, answers in rows.items() if answers["priority"].right]
    choose(page, "Result", "unreadable")
    assert numbers(page) == [number for number, answers in rows.items() if answers["priority"].predicted is None] != []
    choose(page, "Result", "any")
    choose(page, "Label", "low")
    expected = [n for n, answers in rows.items() if answers["priority"].expected == "low"]
    predicted = [n for n, answers in rows.items() if answers["priority"].predicted == "low"]
    assert numbers(page) == sorted({*expected, *predicted})
    choose(page, "Label is in", "reference")
    assert numbers(page) == expected
    choose(page, "Label is in", "answer")
    assert numbers(page) == predicted
    choose(page, "Label is in", "one, not the other")
    assert numbers(page) == sorted({*expected} ^ {*predicted}) != []
    choose(page, "Field", "response")
    choose(page, "ROUGE-L", "<0.3")
    assert numbers(page) == [number for number, answers in rows.items() if answers["response"].bucket == "<0.3"] != []
    choose(page, "Field", "all fields")
    choose(page, "ROUGE-L", "any")
    choose(page, "Result", "right")
    judged = ("type", "priority", "tags")
    assert numbers(page) == [number for number, answers in rows.items() if all(answers[name].right for name in judged)]


def test_a_heading_sorts_by_its_column_up_and_down(show: Callable[..., Any]) -> None:
    page = show()
    choose(page, "Rows a page", "100")
    choose(page, "Field", "response")
    heading = page.locator("th", has=page.get_by_role("button", name="ROUGE-L"))
    assert heading.get_attribute("aria-sort") == "none"
    heading.get_by_role("button").click()
    closeness = [float(text.split()[0]) for text in cells(page, 4)]
    assert (
        heading.get_attribute("aria-sort") == "ascending" and closeness == sorted(closeness) and len(set(closeness)) > 5
    )
    page.keyboard.press("Enter")  # the heading kept the keyboard
    assert [float(text.split()[0]) for text in cells(page, 4)] == closeness[::-1]
    assert heading.get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="Row", exact=True).click()
    assert numbers(page) == list(range(68))


def test_systems_can_be_chosen_and_compared(show: Callable[..., Any]) -> None:
    rows = ticket_rows(60, ("base model", "rank 32", "rank 64"))
    page = show("several_systems")
    choose(page, "Rows a page", "100")
    choose(page, "Field", "type")
    for system in ("base model", "rank 64"):
        choose(page, "System", system)
        said = [row.answers[system]["type"].predicted or "nothing could be read" for row in rows]
        assert [text[1:].strip() for text in cells(page, 3)] == said
    page.get_by_label("Systems disagree").check()
    disagree = [row.number for row in rows if len({answers["type"].predicted for answers in row.answers.values()}) > 1]
    assert numbers(page) == disagree and 0 < len(disagree) < 60
    page.locator("tr.row button").first.click()
    assert page.locator(".opened-content h3").all_inner_texts() == ["rank 64", "base model", "rank 32"]


def test_j_and_k_step_through_the_rows_and_enter_opens_them(show: Callable[..., Any]) -> None:
    page = show()
    current = page.locator("tr[aria-current]")
    page.keyboard.press("j")
    assert current.get_attribute("id") == "row-0"
    for _ in range(26):
        page.keyboard.press("j")
    assert current.get_attribute("id") == "row-26"  # on the second page
    page.keyboard.press("Enter")
    assert page.locator("tr.opened").is_visible()
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert current.get_attribute("id") == "row-24" and page.locator("tr.opened").count() == 1
    page.keyboard.press("Enter")
    assert page.locator("tr.opened").count() == 0
    page.get_by_label("Search").press_sequentially("jk")
    assert current.get_attribute("id") == "row-24" or current.count() == 0


def test_the_mouse_opens_rows_and_steps_through_the_filtered_ones(show: Callable[..., Any]) -> None:
    page = show()
    choose(page, "Result", "wrong")
    first, second = numbers(page)[:2]
    page.locator(f"#row-{first} td").first.click()
    assert page.locator("tr.opened strong").inner_text() == f"Row {first}"
    page.locator("tr.opened").get_by_role("button", name="Next row").click()
    assert page.locator("tr.opened strong").inner_text() == f"Row {second}"
    page.get_by_role("button", name="Previous row").first.click()
    assert page.locator("tr.opened strong").inner_text() == f"Row {first}"
    page.get_by_role("button", name="Close", exact=True).click()
    assert page.locator("tr.opened").count() == 0


def test_a_link_opens_its_row_and_can_be_copied(show: Callable[..., Any]) -> None:
    page = show("one_run", "#row-60", permissions=["clipboard-read", "clipboard-write"])
    opened = page.locator("tr.opened")
    opened.wait_for()
    assert opened.locator("strong").inner_text() == "Row 60" and page.locator("#row-60").is_visible()
    opened.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.get_by_label("Search").fill("subscription in March")
    has_rows(page, 14)
    page.evaluate("location.hash = '#row-17'")  # which the search leaves out
    page.wait_for_selector("#row-17.current")
    assert opened.locator("strong").inner_text() == "Row 17"


def test_an_open_row_shows_the_raw_reply_apart_and_marks_differences(show: Callable[..., Any]) -> None:
    answers = {
        "words": FieldAnswer("Please call us today.", "Please write to us today!", None, None, ">0.5", 0.75),
        "chinese": FieldAnswer("请尽快联系客服。", "请立即联系客服。", None, None, ">0.5", 0.8),
        "labels": FieldAnswer(("a", "b"), ("b", "c"), False),
        "label": FieldAnswer("high", None, False),
    }
    row = PredictionRow(0, "t:1", "in", {"s": "the reply\nas it came"}, {"s": answers}, {"s": "no line “label:”"})
    page = show(Report("a", "en", [Section("a", "A", [Predictions(("s",), {}, [row])])]), "#row-0")
    page.wait_for_selector("tr.opened")
    deleted, inserted = (
        [each.locator(tag).all_inner_texts() for each in page.locator(".answers tbody tr").all()]
        for tag in ("del", "ins")
    )
    assert deleted == [["call", "."], ["尽快"], ["a"], []]
    assert inserted == [["write to", "!"], ["立即"], ["c"], []] or inserted == [
        ["write", "to ", "!"],
        ["立即"],
        ["c"],
        [],
    ]
    assert page.locator(".answers td:nth-child(3)").all_inner_texts() == [
        "Please write to us today!", "请立即联系客服。", "b, c", "nothing could be read",
    ]  # fmt: skip
    assert page.locator(".raw").inner_text() == "the reply\nas it came"
    assert page.get_by_text("Why it cannot be read: no line “label:”").is_visible()
    lines = [
        page.locator(tag).first.evaluate("(part) => getComputedStyle(part).textDecorationLine")
        for tag in ("del", "ins")
    ]
    assert lines == ["line-through", "underline"]


def test_a_link_to_a_section_finds_it_below_a_table_of_predictions(show: Callable[..., Any]) -> None:
    predictions = Predictions(("tuned",), {}, ticket_rows(25, ("tuned",)))
    sections = [Section("first", "First", [predictions]), Section("second", "Second", [Code("line\n" * 30)] * 3)]
    page = show(Report("a", "en", sections), "#second")
    sync_api.expect(page.locator("#second h2")).to_be_in_viewport()
    assert 0 <= page.locator("#second").bounding_box()["y"] < 60


def test_an_old_browser_is_told_which_ones_can_unpack_the_predictions(browser: Any, file_of: Callable) -> None:
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(file_of("one_run").as_uri())
    page.get_by_text("Chrome 87, Firefox 113, Safari 16.4 or newer can").wait_for()
    page.close()


def test_of_many_rows_only_one_page_is_in_the_document(show: Callable[..., Any]) -> None:
    page = show("many_rows")
    assert numbers(page) == list(range(25))
    page.get_by_role("button", name="Last page").click()
    assert numbers(page) == list(range(1975, 2000))
    assert page.get_by_role("button", name="Next page").is_disabled()
    page.get_by_role("button", name="Previous page").click()
    assert numbers(page) == list(range(1950, 1975)) and page.get_by_text("Page 79 of 80").is_visible()
