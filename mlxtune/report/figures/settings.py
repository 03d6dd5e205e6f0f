"""How matplotlib is called here: quiet, with settings that no user's matplotlibrc changes, and none of which outlives the call."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

# Names of fonts with Chinese characters, on macOS, Linux and Windows; those of the simplified forms first.
CHINESE_FONTS = (
    "PingFang SC", "Hiragino Sans GB", "Heiti SC", "STHeiti", "Songti SC", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC",
    "Source Han Sans CN", "Microsoft YaHei", "SimHei", "SimSun", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Serif CJK SC", "Heiti TC", "PingFang TC", "Arial Unicode MS",
)  # fmt: skip
LATIN_FONT = "DejaVu Sans"  # comes with matplotlib

_ONE_AT_A_TIME = threading.RLock()  # settings, filters and log levels belong to the whole process


@contextlib.contextmanager
def drawing(fonts: Sequence[str] = (LATIN_FONT,)) -> Iterator[None]:
    """Import matplotlib, and set it as charts want it until the block ends.

    The first import may build a cache of fonts and may find no folder to keep it in; it says so on the log, which is silent here.
    A user who sees figures can do nothing about either.

    Args:
        fonts: Names of installed fonts, of which each character takes the first that has it.
    """
    with _ONE_AT_A_TIME, _quiet():
        import matplotlib

        with matplotlib.rc_context():
            settings: Any = matplotlib.rcParams  # its type names every key; ours are tested by drawing
            settings.update({**_defaults(), **_SETTINGS, "font.family": list(fonts)})
            yield


def installed_chinese_font() -> str | None:
    """The first font of `CHINESE_FONTS` that matplotlib finds on this machine; None without any."""
    with _ONE_AT_A_TIME, _quiet():
        from matplotlib.font_manager import fontManager

        installed = {font.name for font in fontManager.ttflist}
    return next((name for name in CHINESE_FONTS if name in installed), None)


_SETTINGS = {
    "text.parse_math": False,  # a label with dollars is a label
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mlxtune",  # the same names of clips and markers each time
    "font.size": 9.0,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "butt",
}


def _defaults() -> dict[str, Any]:
    """matplotlib's own settings, without those of backends, which no figure here takes from them."""
    import matplotlib

    return {
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(("backend", "interactive", "toolbar", "date.epoch", "webagg", "tk.", "macosx"))
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The text of an SVG takes its glyphs from the reader's fonts; of a PNG `files.py` says what is missing, once.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
            yield
    finally:
        log.setLevel(level)
