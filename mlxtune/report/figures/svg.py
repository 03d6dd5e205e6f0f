"""A chart as SVG: inside an HTML page, whose CSS gives it colours and a font, or as a file of its own.

    page_svg = inline_svg(chart)

matplotlib's SVG is parsed and written anew, without all that a page with a strict content security policy refuses, or that changes
from one writing to the next: style sheets and attributes, metadata, comments, names that nothing refers to.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from mlxtune.report.charts import Chart
from mlxtune.report.figures.colours import LIGHT
from mlxtune.report.figures.settings import drawing
from mlxtune.report.figures.text import plain

# Of a file of its own; whoever opens it takes the first that is installed.
_FONTS = "system-ui, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', 'Noto Sans', 'DejaVu Sans', sans-serif"

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_ROLES = {colour: role for role, colour in LIGHT.items()}
_STYLE = (  # what may be an attribute as well; the rest, such as the font, is the page's
    "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "opacity",
    "fill-opacity", "stroke-opacity", "font-size", "font-weight", "text-anchor",
)  # fmt: skip
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(chart: Chart, identity: str | None = None) -> str:
    """A chart as an SVG element to stand in an HTML page.

    Its colours are classes (README.md), its font is the page's. It has a viewBox and no size: it becomes as wide as it is let. At
    a width of 693 pixels its text is 12 pixels high, a page's small print.

    Args:
        chart: What to draw.
        identity: What the ids in it begin with, one of its own for each chart of a page; None takes the chart's name and a hash of
            what is drawn, so that only equal charts have equal ids.

    Returns:
        The element, without an XML declaration; the same each time.
    """
    written = _written(chart, titled=False)
    prefix = _identity(f"{chart.name} {_hash(written)}" if identity is None else identity)
    root = _reduced(written, prefix, chart)
    for element in root.iter():
        _colours_to_classes(element)
    root.set("class", "chart wide" if _width(root) > _usual_width() else "chart")
    return ElementTree.tostring(root, encoding="unicode")


def svg_file(chart: Chart) -> str:
    """A chart as the text of an SVG file that stands alone: with its title, in the light colours, on paper."""
    root = _reduced(_written(chart, titled=True), "chart", chart)
    root.set("xmlns", _SVG)
    for name, size in zip(("width", "height"), root.get("viewBox", "").split()[2:], strict=True):
        root.set(name, f"{size}pt")
    root.set("font-family", _FONTS)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _written(chart: Chart, titled: bool) -> bytes:
    """What matplotlib writes."""
    with drawing():
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        from mlxtune.report.figures.draw import draw

        figure = draw(chart, titled=titled)
        figure.patch.set_visible(titled)
        written = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return written.getvalue()


def _reduced(written: bytes, prefix: str, chart: Chart) -> Element:
    """The same picture in as few elements and attributes as it needs, with a text alternative."""
    drawn = ElementTree.fromstring(written)  # noqa: S314  our own
    root = Element("svg", viewBox=drawn.get("viewBox", ""), role="img")
    root.set("stroke-linejoin", "round")
    root.set("stroke-linecap", "butt")
    for name, text, relation in (("title", chart.title, "labelledby"), ("desc", chart.description, "describedby")):
        if plain(text):
            root.set(f"aria-{relation}", f"{prefix}-{name}")
            ElementTree.SubElement(root, name, id=f"{prefix}-{name}").text = plain(text)
    root.extend(kept for child in drawn for kept in _kept(child))
    _rename(root, prefix)
    return root


def _kept(element: Element) -> Iterator[Element]:
    """An element as it is written anew; the content of a group that says nothing of it stands without the group."""
    element.tag = element.tag.rpartition("}")[2]
    children = [kept for child in element for kept in _kept(child)]
    if element.tag in ("metadata", "style") or (element.tag in ("g", "defs") and not children):
        return
    _style_to_attributes(element)
    if element.tag == "g" and not set(element.attrib) - {"id"}:
        yield from children
        return
    element[:] = children
    element.tail = None
    if element.tag != "text":
        element.text = None
    yield element


def _style_to_attributes(element: Element) -> None:
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in _STYLE:
            element.set(name, value.removesuffix("px"))
    if _HREF in element.attrib:
        element.set("href", element.attrib.pop(_HREF))
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for name in ("d", "x", "y", "width", "height", "transform"):
        if name in element.attrib:
            short = _NUMBER.sub(lambda found: f"{round(float(found[0]), 2):g}", element.attrib[name])
            element.set(name, " ".join(short.split()))


def _rename(root: Element, prefix: str) -> None:
    """Ids begin with the prefix and are counted; those that nothing refers to go."""
    references = [element.get("href", "#")[1:] for element in root.iter()]
    references += [name for element in root.iter() for name in _REFERENCE.findall(element.get("clip-path", ""))]
    new = {old: f"{prefix}-{number}" for number, old in enumerate(dict.fromkeys(filter(None, references)), start=1)}
    for element in root.iter():
        if element.tag in ("title", "desc") and element in root[:2]:
            continue
        if "id" in element.attrib and (name := new.get(element.attrib.pop("id"))):
            element.set("id", name)
        if "href" in element.attrib:
            element.set("href", f"#{new[element.attrib['href'][1:]]}")
        if "clip-path" in element.attrib:
            element.set(
                "clip-path", _REFERENCE.sub(lambda found: f"url(#{new[found[1]]})", element.attrib["clip-path"])
            )


def _colours_to_classes(element: Element) -> None:
    roles = set()
    for name in ("fill", "stroke"):
        if element.get(name, "none") != "none":
            roles.add(_ROLES[element.attrib[name]])
            element.set(name, "currentColor")
    if roles:
        element.set("class", " ".join(sorted(roles)))


def _identity(name: str) -> str:
    """A name as the beginning of ids; two names never become one."""
    clean = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    return f"chart-{clean}" if clean == name else f"chart-{clean}-{_hash(name.encode('utf-8', 'replace'))}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _width(root: Element) -> float:
    return float(root.get("viewBox", "").split()[2])


def _usual_width() -> float:
    from mlxtune.report.figures.frame import WIDTH

    return WIDTH
