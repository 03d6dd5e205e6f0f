"""`render`: a report -> one HTML file. Escapes every text, draws nothing itself, knows no run and no metric.

    Path("report.html").write_text(render(report), encoding="utf-8")

The page asks nobody for anything: style, script, charts and predictions are in it, and its policy (CSP) allows its own style and
script alone, by their hashes, so that text which was escaped wrongly still could not run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mlxtune.report.blocks import Block, Report
from mlxtune.report.charts import Chart, HeatMap
from mlxtune.report.figures.svg import inline_svg
from mlxtune.report.page.plain_text import MAX_CODE, MAX_NAME, MAX_TEXT, shortened, visible
from mlxtune.report.page.prediction_data import packed
from mlxtune.report.words import PHRASES, Words

LANGUAGE_TAGS = {"en": "en", "zh": "zh-CN"}  # "zh" alone leaves the shapes of the characters open
STYLES = ("page.css", "dark.css")  # apart: the switch of colours turns the second one on and off
SCRIPTS = (  # one script, in this order
    "elements.js", "page.js", "differences.js", "prediction_query.js", "prediction_filters.js", "prediction_row.js", "predictions.js",
)  # fmt: skip


def render(report: Report) -> str:
    """The report as HTML, in UTF-8, for a file or for any server."""
    say = Words(report.language)
    page, dark = (_asset(name) for name in STYLES)
    script = "\n".join(_asset(name) for name in SCRIPTS)
    anchors = Anchors()
    template = _environment(say).get_template("page.html")
    return template.render(
        report=report,
        language=LANGUAGE_TAGS[report.language],
        sections=[(anchors.take(section.name), section) for section in report.sections],
        policy=policy(script, [page, dark]),
        style=_markup(page),
        dark_style=_markup(dark),
        script=_markup(script),
        script_words={key: getattr(phrase, report.language) for key, phrase in script_phrases()},
        say=say,
        new_id=anchors.take,
        kind=kind,
        draw=draw,
        long_text=lambda text: escape(shortened(text, say, MAX_TEXT)),
        long_code=lambda text: escape(shortened(text, say, MAX_CODE)),
        pack=lambda predictions: _markup(packed(predictions, say)),
        value_and_interval=value_and_interval,
        share=share,
    )


def policy(script: str, styles: Iterable[str]) -> str:
    """The content security policy of a page with this script and these styles: these, and nothing else."""
    hashes = " ".join(_hash(style) for style in styles)
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {hashes}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def kind(block: Block) -> str:
    """The name of a block's template: "paragraph", "table", "chart", "heat_map"."""
    if isinstance(block, Chart) and not isinstance(block, HeatMap):
        return "chart"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(block).__name__).lower()


def draw(chart: Chart, identity: str) -> Markup:
    """A chart as SVG in the page; the ids in it begin with `identity`."""
    return _markup(visible(inline_svg(chart, identity)))


def value_and_interval(text: str) -> tuple[str, str]:
    """A metric's value apart from its interval, which the page sets smaller.

    >>> value_and_interval("0.809 [0.706, 0.897]")
    ('0.809', '[0.706, 0.897]')
    """
    value, bracket, rest = text.partition(" [")
    return value, "[" + rest if bracket else ""


def share(value: float) -> float:
    """A share as a bar or a shade shows it: 0..1, also where it is a little outside or not a number.

    >>> share(0.25), share(1.2), share(float("nan"))
    (0.25, 1.0, 0.0)
    """
    return round(min(max(value, 0.0), 1.0), 3) if value == value else 0.0


def script_phrases() -> Iterable[tuple[str, Any]]:
    """The phrases that the script says, by the names it has for them."""
    prefix = "page_script."
    return ((key.removeprefix(prefix), phrase) for key, phrase in PHRASES.items() if key.startswith(prefix))


class Anchors:
    """The ids of a page, each given out once, and none of those that the page itself has."""

    def __init__(self) -> None:
        self._taken = {"dark", "colors", "content", "contents-title", "words"}

    def take(self, name: str) -> str:
        """The name if it is free and fit to be an id, else one like it."""
        name = re.sub(r"[^a-zA-Z0-9_-]+", "-", name[:80]).strip("-") or "part"
        # `#row-17` opens a prediction
        free = f"part-{name}" if re.fullmatch(r"row-\d+", name) else name
        number = 1
        while free in self._taken:
            number += 1
            free = f"{name}-{number}"
        self._taken.add(free)
        return free


def _shown(value: Any, say: Words) -> Any:
    """What a template writes for a value: text is made visible and is shortened where it is too long; markup stays."""
    return shortened(value, say, MAX_NAME) if isinstance(value, str) and not isinstance(value, Markup) else value


def _markup(text: str) -> Markup:
    """What goes into the page as it stands: our own style and script, a drawn chart, base64. Never a text of a run."""
    return Markup(text)  # noqa: S704


def _asset(name: str) -> str:
    return files("mlxtune.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def _environment(say: Words) -> Environment:
    return Environment(
        finalize=lambda value: _shown(value, say),
        loader=PackageLoader("mlxtune.report.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
