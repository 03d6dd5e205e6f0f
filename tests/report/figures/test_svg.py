"""SVG for a page: what it holds, what it must not hold, and that every chart can be drawn."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

import mlxtune.report.figures as figures
from mlxtune.report.charts import Axis, Chart, HeatMap, Mark, Point, Series
from mlxtune.report.figures.colours import DARK, LIGHT, N_HEATS, N_SERIES, heat_role, heat_text_role
from mlxtune.report.figures.svg import inline_svg, svg_file
from tests.report.figures.made_charts import bars, hard_charts, heat, lines, losses, plain_charts, scatter

ALL = [*plain_charts(), *hard_charts().values()]
ALLOWED = {"svg", "title", "desc", "g", "defs", "clipPath", "rect", "path", "use", "text"}


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Chart, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [(chart, inline_svg(chart)) for chart in ALL]


def shown(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_every_chart_is_well_formed_and_drawn_without_a_warning(drawn: list[tuple[Chart, str]]) -> None:
    assert len(drawn) > 40
    for _, svg in drawn:
        assert ElementTree.fromstring(svg).tag == "svg"


def test_nothing_stands_in_it_that_a_strict_policy_refuses(drawn: list[tuple[Chart, str]]) -> None:
    for _, svg in drawn:
        for element in ElementTree.fromstring(svg).iter():
            assert element.tag in ALLOWED
            assert not [name for name in element.attrib if name == "style" or name.startswith("on")]
            assert element.get("href", "#").startswith("#") and element.get("clip-path", "url(#").startswith("url(#")
        assert "<?xml" not in svg and "<!" not in svg and "http" not in re.sub(r">[^<]*<", "><", svg)


def test_every_colour_is_one_class_that_is_documented(drawn: list[tuple[Chart, str]]) -> None:
    readme = (Path(figures.__file__).parent / "README.md").read_text(encoding="utf-8")
    documented = {"ink", "muted", "grid", "paper"}
    assert all(
        f"`{name}`" in readme for name in (*documented, f"series-{N_SERIES}", f"heat-{N_HEATS - 1}", "chart", "wide")
    )
    documented |= {f"series-{n + 1}" for n in range(N_SERIES)} | {f"heat-{n}" for n in range(N_HEATS)}
    ramp = HeatMap(
        "ramp", "", "", ["a"], list("abcdefghij"), [[n / 10 for n in range(10)]], [["1"] * 10], Axis(""), Axis("")
    )
    used: set[str] = set()
    for svg in [*(svg for _, svg in drawn), inline_svg(ramp)]:
        root, *elements = ElementTree.fromstring(svg).iter()
        assert root.get("class") in ("chart", "chart wide")
        for element in elements:
            paints = [element.get(name) for name in ("fill", "stroke")]
            assert set(paints) <= {None, "none", "currentColor"}
            assert ("class" in element.attrib) == ("currentColor" in paints)
            used |= {element.attrib["class"]} if "class" in element.attrib else set()
    assert used == documented == set(LIGHT) == set(DARK)


def test_a_reader_who_sees_nothing_is_told_title_and_description(drawn: list[tuple[Chart, str]]) -> None:
    root = ElementTree.fromstring(inline_svg(losses()))
    named = {element.get("id"): element.text for element in root.iter() if element.get("id")}
    assert root.get("role") == "img"
    assert named[root.get("aria-labelledby")] == "Losses"
    assert named[root.get("aria-describedby")] == "Training loss falls from 2.4 to 0.5."
    for chart, svg in drawn:
        root = ElementTree.fromstring(svg)
        assert bool(chart.title) == ("aria-labelledby" in root.attrib)
        assert bool(chart.description) == ("aria-describedby" in root.attrib)


def test_all_ids_begin_with_the_charts_own_and_each_reference_has_its_end(drawn: list[tuple[Chart, str]]) -> None:
    for _, svg in drawn:
        elements = list(ElementTree.fromstring(svg).iter())
        ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
        assert len(ids) == len(set(ids))
        assert all(re.fullmatch(r"chart-[A-Za-z0-9-]+", one) for one in ids)
        ends = {e.attrib["href"][1:] for e in elements if "href" in e.attrib} | {
            e.attrib["clip-path"][5:-1] for e in elements if "clip-path" in e.attrib
        }
        assert ends <= set(ids)


def test_charts_of_one_page_share_no_id() -> None:
    names = ["a b", "a-b", "a/b", "类型", "类别", "", "-"]
    ids = [set(re.findall(r' id="([^"]+)"', inline_svg(losses(), identity=name))) for name in names]
    assert all(ids) and len(set.union(*ids)) == sum(map(len, ids))


def test_charts_of_one_name_share_no_id_unless_they_are_equal() -> None:
    one, other, same = (re.findall(r' id="([^"]+)"', inline_svg(bars(["a"], [value]))) for value in (1, 2, 1))
    assert one == same and not {*one} & {*other}


def test_the_same_chart_is_the_same_text_each_time() -> None:
    for chart in plain_charts():
        assert inline_svg(chart) == inline_svg(chart)
        assert svg_file(chart) == svg_file(chart)


def test_a_users_own_settings_of_matplotlib_change_nothing_and_are_left_as_they_are() -> None:
    before = inline_svg(losses())
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "font.family": ["monospace"], "text.usetex": True, "axes.facecolor": "red"}
    ):
        kept = dict(matplotlib.rcParams)
        assert inline_svg(losses()) == before
        assert dict(matplotlib.rcParams) == kept


def test_it_has_a_view_box_and_no_size_and_says_when_it_is_wide() -> None:
    small, large = (
        ElementTree.fromstring(inline_svg(chart)) for chart in (losses(), hard_charts()["a hundred labels"])
    )
    assert small.attrib["viewBox"].startswith("0 0 520 ") and small.attrib["class"] == "chart"
    assert float(large.attrib["viewBox"].split()[2]) > 1000 and large.attrib["class"] == "chart wide"
    assert not {"width", "height"} & {*small.attrib, *large.attrib}


@pytest.mark.parametrize("name", ["$x$", "_a", "\\frac{1}{2}", "支付和订单", "<b>&\"'", "%s {y}"])
def test_names_are_shown_as_they_are(name: str) -> None:
    series = [Series(name, [1, 2], [1, 2]), Series("b", [1, 2], [1, 3])]
    at_ends = shown(inline_svg(lines(*series, marks=[Mark(1, name)], x=Axis(name), y=Axis(name))))
    assert at_ends.count(name) == 4
    early = [*series, Series("ends early", [0, 1], [1, 2])]  # so that there is a legend
    for chart in (lines(*early), bars([name], [1]), scatter(Point(name, 1, 0.5))):
        assert name in shown(inline_svg(chart))
    assert shown(inline_svg(heat([name, "b"]))).count(name) == 2


def test_long_names_keep_their_beginning_and_their_end() -> None:
    names = [f"the queue of technical problems that are reported by telephone, number {n}" for n in (1, 2)]
    found = [text for text in shown(inline_svg(heat(names))) if "…" in text]
    assert len(found) == 4 and len(set(found)) >= 2
    assert all(text.startswith("the queue") and text[-1] in "12" for text in found)


def test_a_chart_without_values_says_so_with_a_dash_and_keeps_its_axes() -> None:
    for name in ("no series", "only gaps", "no points", "points nowhere", "no cells", "bars without values"):
        texts = shown(inline_svg(hard_charts()[name]))
        assert "–" in texts and len([text for text in texts if text]) >= 3, name


def test_a_file_stands_alone_with_colours_title_and_size() -> None:
    for chart in plain_charts():
        root = ElementTree.fromstring(svg_file(chart))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        paints = {element.get(name) for element in root.iter() for name in ("fill", "stroke")}
        assert {LIGHT["paper"], LIGHT["ink"]} <= paints <= {None, "none", *LIGHT.values()}
        assert root.get("width", "").endswith("pt") and root.get("height", "").endswith("pt")
        assert chart.title in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(colours: dict[str, str]) -> None:
    assert all(contrast(colours[f"series-{n + 1}"], colours["paper"]) >= 3 for n in range(N_SERIES))
    assert all(contrast(colours[role], colours["paper"]) >= 4.5 for role in ("ink", "muted"))
    for value in [n / 20 for n in range(21)]:
        assert contrast(colours[heat_text_role(value)], colours[heat_role(value)]) >= 4.5
