"""How matplotlib is called here: quiet, with settings that no user's matplotlibrc changes, and none of which outlives the call."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

LATIN_FONT = "DejaVu Sans"  # comes with matplotlib

_ONE_AT_A_TIME = threading.RLock()  # settings, filters and log levels belong to the whole process


@contextlib.contextmanager
def drawing(fonts: Sequence[str] = (LATIN_FONT,)) -> Iterator[None]:
    """Import matplotlib, and set it as charts want it until the block ends.

    Args:
        fonts: Names of installed fonts, of which each character takes the first that has it.
    """
    with quiet_matplotlib():
        import matplotlib

        with matplotlib.rc_context():
            settings: Any = matplotlib.rcParams  # its type names every key; ours are tested by drawing
            settings.update({**_defaults(), **_SETTINGS, "font.family": list(fonts)})
            yield


@contextlib.contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """matplotlib without its messages, for as long as the block runs.

    Its first import may build a cache of fonts, or find no folder to keep it in, and says so on its log; a user who wants a figure
    can do nothing about either.
    """
    log = logging.getLogger("matplotlib")
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            # The text of an SVG takes its glyphs from the reader's fonts; of a PNG `files.py` says what is missing, once.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
            yield
        finally:
            log.setLevel(level)


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
