"""Charts as files: SVG, which stays sharp and whose text can be searched, and PNG, which everything shows."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mlxtune.errors import RunError
from mlxtune.files import whole_file
from mlxtune.report.charts import Chart
from mlxtune.report.figures.fonts import installed_fonts, missing_characters
from mlxtune.report.figures.settings import drawing
from mlxtune.report.figures.svg import svg_file
from mlxtune.report.figures.text import plain

log = logging.getLogger(__name__)

PNG_DPI = 200
_LONGEST_NAME = 80
_MAX_SHOWN = 20  # characters that no font has


def write_figures(charts: Iterable[Chart], folder: Path, force: bool = False) -> list[Path]:
    """Write each chart as NAME.svg and NAME.png, with its title in it.

    All are drawn before the first is written, and each appears whole or not at all. Equal charts are written once; charts that
    differ and have one name get numbers: losses, losses-2.

    Args:
        charts: What to draw.
        folder: Where; it is made if need be, and other files in it stay.
        force: Replace files that are there.

    Returns:
        The files, in the order of the charts.

    Raises:
        RunError: One of the files is there already, the folder is a file, or it cannot be written.
    """
    named = {folder / name: chart for name, chart in _named(charts).items()}
    _refuse_existing([_with(place, kind) for place in named for kind in (".svg", ".png")], folder, force)
    drawn: dict[Path, bytes] = {}
    missing: set[str] = set()
    for place, chart in named.items():
        png, lacking = _png(chart)
        missing.update(lacking)
        drawn[_with(place, ".svg")] = svg_file(chart).encode("utf-8")
        drawn[_with(place, ".png")] = png
    if missing:
        _warn_of("".join(sorted(missing)))
    try:
        for file, content in drawn.items():
            with whole_file(file) as new:
                new.write_bytes(content)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}; choose another folder") from error
    return list(drawn)


def _named(charts: Iterable[Chart]) -> Mapping[str, Chart]:
    """Each chart that differs from those before, by the name of its files."""
    named: dict[str, Chart] = {}
    taken: set[str] = set()
    for chart in charts:
        if any(chart == other for other in named.values()):
            continue
        first = _file_name(chart.name)
        name, number = first, 1
        while name.casefold() in taken:  # file systems of macOS and Windows see no difference of case
            number += 1
            name = f"{first}-{number}"
        taken.add(name.casefold())
        named[name] = chart
    return named


def _file_name(name: str) -> str:
    """A name that every file system takes."""
    clean = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", plain(name))).strip("-.")
    return clean[:_LONGEST_NAME] or "figure"


def _with(place: Path, kind: str) -> Path:
    return place.with_name(place.name + kind)


def _refuse_existing(files: Sequence[Path], folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose a folder for the figures")
    existing = [file.name for file in files if file.exists()]
    if existing and not force:
        others = f" and {len(existing) - 1} more figures" if len(existing) > 1 else ""
        raise RunError(
            f"{folder}: holds {existing[0]}{others} already; replace them with --force, or choose another folder"
        )


def _png(chart: Chart) -> tuple[bytes, str]:
    """A chart's picture, and the characters in it that no installed font has."""
    fonts = installed_fonts()
    written = io.BytesIO()
    with drawing(fonts):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.text import Text

        from mlxtune.report.figures.draw import draw

        figure = draw(chart, titled=True)
        figure.set_dpi(PNG_DPI)
        about = {"Title": plain(chart.title), "Description": plain(chart.description), "Software": None}
        FigureCanvasAgg(figure).print_png(written, metadata=about)  # type: ignore[no-untyped-call]
        texts = [found.get_text() for found in figure.findobj(Text) if isinstance(found, Text)]
    return written.getvalue(), missing_characters(texts, fonts)


def _warn_of(missing: str) -> None:
    more = f" and {len(missing) - _MAX_SHOWN} more" if len(missing) > _MAX_SHOWN else ""
    log.warning(
        "PNG figures show boxes in the place of %s%s, since no installed font was found that has them; install Noto Sans CJK, "
        "or use the SVG figures, which take the fonts of whoever opens them",
        missing[:_MAX_SHOWN], more,
    )  # fmt: skip
