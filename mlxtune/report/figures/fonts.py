"""Which installed fonts a picture's text takes, and which of its characters none has. Only pictures of pixels need to know."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from mlxtune.report.figures.settings import LATIN_FONT, quiet_matplotlib

# Names of fonts with Chinese characters, on macOS, Linux and Windows; those of the simplified forms first.
CHINESE_FONTS = (
    "PingFang SC", "Hiragino Sans GB", "Heiti SC", "STHeiti", "Songti SC", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC",
    "Source Han Sans CN", "Microsoft YaHei", "SimHei", "SimSun", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Serif CJK SC", "Heiti TC", "PingFang TC", "Arial Unicode MS",
)  # fmt: skip


@cache
def installed_fonts() -> tuple[str, ...]:
    """The fonts to draw with, in the order in which a character looks for its glyph: matplotlib's own, then a Chinese one if there is any."""
    with quiet_matplotlib():
        from matplotlib.font_manager import fontManager

        chinese = _first_chinese(fontManager)
        if chinese is None:
            _add_new_fonts(fontManager)
            chinese = _first_chinese(fontManager)
    return (LATIN_FONT,) if chinese is None else (LATIN_FONT, chinese)


def missing_characters(texts: Iterable[str], fonts: Iterable[str]) -> str:
    """The characters of some texts that none of the fonts has, each once, in the order of their code points."""
    with quiet_matplotlib():
        from matplotlib.font_manager import FontProperties, findfont, get_font

        known = {code for font in fonts for code in get_font(findfont(FontProperties(family=font))).get_charmap()}
    wanted = {character for text in texts for character in text if not character.isspace()}
    return "".join(sorted(character for character in wanted if ord(character) not in known))


def _first_chinese(manager: Any) -> str | None:
    names = {font.name for font in manager.ttflist}
    return next((name for name in CHINESE_FONTS if name in names), None)


def _add_new_fonts(manager: Any) -> None:
    """Fonts that were installed after matplotlib wrote its list of them, which it never looks through again."""
    from matplotlib.font_manager import findSystemFonts

    known = {font.fname for font in manager.ttflist}
    for path in sorted(set(findSystemFonts()) - known):
        try:
            manager.addfont(path)
        except Exception:  # noqa: S112  whatever the parser says of a broken font: it is not used
            continue
