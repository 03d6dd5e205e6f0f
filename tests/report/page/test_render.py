"""The page as text: escaped, whole, and closed to everything but its own script and style."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from mlxtune.report.blocks import Block, Code, Paragraph, PredictionRow, Predictions, Report, Section
from mlxtune.report.charts import BarChart, Chart, HeatMap, LineChart, ScatterChart
from mlxtune.report.figures.colours import DARK, LIGHT
from mlxtune.report.page import render as module
from mlxtune.report.page.plain_text import MAX_CODE, MAX_NAME, MAX_TEXT, visible
from mlxtune.report.page.render import Anchors, kind, render, script_phrases
from tests.report.made_reports import hostile, one_run, several_systems, ticket_rows

ASSETS = Path(module.__file__).parent / "assets"
TEMPLATES = Path(module.__file__).parent / "templates"
VOID = {"meta", "input", "br", "wbr", "hr", "img", "link"}
MEGABYTE = 2**20


class Elements(HTMLParser):
    """The elements of a page: each tag with its attributes, what is in scripts and styles, and tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.contents: dict[str, list[str]] = {"script": [], "style": []}
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> is left open" for tag in self._open]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if len(dict(attributes)) < len(attributes):
            self.faults.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self._open.append(tag)
        if tag in self.contents:
            self.contents[tag].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing, line {self.getpos()[0]}")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.contents:
            self.contents[self._open[-1]][-1] += data

    def values(self, name: str) -> list[str]:
        """The values of an attribute, wherever it stands."""
        return [value for _, attributes in self.found if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module", params=["one_run", "several_systems", "hostile", "hostile_zh", "empty"])
def page(request: pytest.FixtureRequest) -> str:
    reports = {
        "one_run": one_run, "several_systems": several_systems, "hostile": hostile, "hostile_zh": lambda: hostile("zh"),
        "empty": lambda: Report("empty", "en", [Section("a", "A", []), Section("a", "", [Predictions((), {}, ())])]),
    }  # fmt: skip
    return render(reports[request.param]())


def test_every_element_is_closed_in_order(page: str) -> None:
    assert page.startswith("<!doctype html>")
    elements = Elements(page)
    assert len(elements.found) > 20
    assert elements.faults == []


def test_ids_are_unique_and_what_refers_to_one_finds_it(page: str) -> None:
    elements = Elements(page)
    ids = elements.values("id")
    assert len(ids) == len(set(ids)) > 5
    assert not [name for name in ids if not re.fullmatch(r"[A-Za-z0-9_-]+", name)]
    links = [link.removeprefix("#") for link in elements.values("href")]
    named = [
        name
        for attribute in ("aria-labelledby", "aria-describedby")
        for names in elements.values(attribute)
        for name in names.split()
    ]
    assert len(links) > 1 and named
    assert {*links, *named} <= set(ids)


def test_texts_become_no_element_and_no_attribute_that_acts(page: str) -> None:
    elements = Elements(page)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"img", "iframe", "object", "embed", "link", "base", "form", "a:x", "image", "textarea"}
    names = {name for _, attributes in elements.found for name in attributes}
    assert not [
        name for name in names if name.startswith("on") or name in ("style", "src", "srcdoc", "action", "formaction")
    ]
    assert not [link for link in (*elements.values("href"), *elements.values("xlink:href")) if not link.startswith("#")]


def test_policy_runs_the_pages_own_script_and_style_alone(page: str) -> None:
    elements = Elements(page)
    policies = [
        attributes["content"]
        for _, attributes in elements.found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    directives = dict(part.split(" ", 1) for part in str(policies[0]).split("; "))
    scripts = [attributes for tag, attributes in elements.found if tag == "script"]
    running = [
        text
        for text, attributes in zip(elements.contents["script"], scripts, strict=True)
        if "json" not in str(attributes["type"])
    ]
    assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert directives["script-src"].split() == [_hash(text) for text in running] and len(running) == 1
    assert directives["style-src"].split() == [_hash(text) for text in elements.contents["style"]]
    assert len(elements.contents["style"]) == 2


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_no_text_stands_in_the_page_that_could_not_be_seen() -> None:
    page = render(hostile())
    assert page.encode()  # halves of surrogate pairs would fail
    assert [character for character in page if not character.isprintable() and character not in "\n\u3000"] == []
    assert "right\\u202eto left\\u2066\\u200b\\ufeff\\U000e0041" in page
    assert "controls \\x00\\x07\\x1b[31m" in page


def test_joiners_of_scripts_and_emoji_stay() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert visible(f"{family} می\u200cخواهم\tx\n") == f"{family} می\u200cخواهم\tx\n"


def test_long_texts_are_shortened_with_a_note_that_says_where_the_rest_is() -> None:
    long = "<b>" + "字" * 10_000_000
    row = PredictionRow(7, "test.jsonl:8", long, {"a": long}, {"a": {}}, {"a": long})
    page = render(
        Report(long, "en", [Section("a", long, [Paragraph(long), Code(long), Predictions(("a",), {}, [row])])])
    )
    assert len(page) < MEGABYTE
    for limit in (MAX_NAME, MAX_TEXT, MAX_CODE):
        assert f"[The first {limit:,} of 10,000,003 characters.]" in page
    data = _data(page)["rows"][0]
    assert data[2].endswith("[The first 20,000 of 10,000,003 characters. The whole text: test.jsonl:8.]")
    assert data[3][0].endswith("The whole text: row 7 of the predictions file.]")
    assert all(MAX_TEXT < len(text) < MAX_TEXT + 200 for text in (data[2], data[3][0], data[4][0]))
    assert len(gzip.decompress(base64.b64decode(_packed(render(hostile(long=10_000_000)))))) < MEGABYTE


def test_predictions_stand_in_the_page_as_they_are() -> None:
    rows = ticket_rows(30, ("base", "tuned"))
    data = _data(
        render(Report("a", "en", [Section("a", "A", [Predictions(("base", "tuned"), {"type": ("Incident",)}, rows)])]))
    )
    assert data["systems"] == ["base", "tuned"]
    assert [(field["name"], field["labels"], field["text"]) for field in data["fields"]] == [
        ("type", ["Incident"], False), ("priority", [], False), ("tags", [], False), ("response", [], True),
    ]  # fmt: skip
    for row, (number, place, text, replies, problems, answers) in zip(rows, data["rows"], strict=True):
        assert (number, place, text) == (row.number, row.place, row.input)
        assert replies == [row.replies["base"], row.replies["tuned"]]
        assert problems == [row.problems.get("base"), row.problems.get("tuned")]
        for (reference, said), name in zip(answers, ("type", "priority", "tags", "response"), strict=True):
            for answer, system in zip(said, ("base", "tuned"), strict=True):
                expected = row.answers[system][name]
                assert reference == _json(expected.expected)
                assert answer[:2] == [_json(expected.predicted), expected.right]
                assert answer[2] == (
                    None if expected.probability is None else pytest.approx(expected.probability, abs=1e-4)
                )
                assert answer[3:] == [expected.bucket, expected.closeness]


def test_the_page_of_4240_tickets_is_under_5_megabytes() -> None:
    rows = ticket_rows(4240 // 8, ("tuned",), characters=500)
    assert sum(len(row.input) + len(row.replies["tuned"]) for row in rows) / len(rows) > 1000
    page = render(Report("a", "en", [Section("a", "A", [Predictions(("tuned",), {}, rows)])]))
    empty = render(Report("a", "en", [Section("a", "A", [Predictions(("tuned",), {}, [])])]))
    assert len(empty.encode()) + 8 * (len(page.encode()) - len(empty.encode())) < 5e6


def _json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _packed(page: str) -> str:
    packed = re.findall(r'class="packed">([^<]*)<', page)
    assert len(packed) == 1
    return packed[0]


def _data(page: str) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(_packed(page))))


def test_the_pages_words_are_in_its_language() -> None:
    english, chinese = render(one_run("en")), render(one_run("zh"))
    assert '<html lang="en">' in english and ">Contents<" in english and '"next_row": "Next row"' in english
    assert '<html lang="zh-CN">' in chinese and ">目录<" in chinese and ">Contents<" not in chinese
    assert json.loads(chinese.split('id="words">')[1].split("<")[0])["next_row"] == "下一行"


def test_the_script_says_every_phrase_that_is_for_it_and_no_other() -> None:
    script = "".join((ASSETS / name).read_text(encoding="utf-8") for name in module.SCRIPTS)
    phrases = dict(script_phrases())
    assert len(phrases) > 30
    said = set(re.findall(r'say\(\s*"(\w+)"', script))
    assert said <= set(phrases)
    names = set(re.findall(r'"(\w+)"', script)) | set(
        re.findall(r"^const SIGNS = \{(.*)\}", script, re.M)[0].replace(":", "").split()
    )
    unsaid = {name for name in phrases if name not in said | names and not name.startswith("labelIn_")}
    assert unsaid == set()


def test_the_script_makes_no_markup_from_strings() -> None:
    assert {file.name for file in ASSETS.glob("*.js")} == set(module.SCRIPTS)
    for name in module.SCRIPTS:
        script = (ASSETS / name).read_text(encoding="utf-8")
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|<!--|</?script|fetch\(|\.style\b",
            script,
        )


@pytest.mark.parametrize(("name", "colours"), [("page.css", LIGHT), ("dark.css", DARK)])
def test_series_have_the_same_colours_in_the_page_and_in_files(name: str, colours: dict[str, str]) -> None:
    found = dict(re.findall(r"--(series-\d): (#\w{6});", (ASSETS / name).read_text(encoding="utf-8")))
    assert found == {role: colour for role, colour in colours.items() if role.startswith("series")}
    assert len(found) == 6


def test_every_kind_of_block_has_a_template_of_its_own() -> None:
    kinds = {each for each in get_args(Block) if each is not Chart} | {LineChart, BarChart, HeatMap, ScatterChart}
    names = {kind(object.__new__(each)) for each in kinds}
    assert names == {file.stem for file in (TEMPLATES / "blocks").glob("*.html")}
    assert len(kinds) == 12


def test_anchors_are_given_out_once() -> None:
    anchors = Anchors()
    assert [anchors.take(name) for name in ("losses", "losses", "words", "row-3", "损失", "a b/c")] == [
        "losses", "losses-2", "words-2", "part-row-3", "part", "a-b-c",
    ]  # fmt: skip
