"""Markdown of text that anybody may have written: as it stands in a line, in a table's cell, or in a block of code."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence


def markdown_text(text: str) -> str:
    r"""Text that Markdown shows as it is, in a table's cell or a line of its own.

    >>> print(markdown_text("a|b <i>"))
    a\|b \<i\>
    """
    return re.sub(r"([\\`*_|<>\[\]~#])", r"\\\1", _on_one_line(text))


def html_text(text: str) -> str:
    """Text in a line of HTML within Markdown, where Markdown itself is not read.

    >>> html_text("a <b>\\n\\n# c")
    'a &lt;b&gt; # c'
    """
    return html.escape(_on_one_line(text))


def markdown_row(cells: Sequence[str]) -> str:
    """A line of a Markdown table; its cells are Markdown already."""
    return f"| {' | '.join(cells)} |"


def markdown_code(text: str) -> str:
    """Text as code within a line, outside of tables, whatever backticks are in it.

    >>> markdown_code("ab"), markdown_code("a`b")
    ('`ab`', '`` a`b ``')
    """
    plain = _on_one_line(text)
    mark = "`" * (_longest(r"`+", plain) + 1)
    return f"{mark} {plain} {mark}" if "`" in plain else f"{mark}{plain}{mark}"


def markdown_block(text: str, language: str = "") -> str:
    """Text as a block of code that nothing in it can end.

    >>> print(markdown_block("```", "text"))
    ````text
    ```
    ````
    """
    fence = "`" * max(3, _longest(r"`+", text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest(pattern: str, text: str) -> int:
    return max((len(one) for one in re.findall(pattern, text)), default=0)


def _on_one_line(text: str) -> str:
    """Runs of white space as one space, and what cannot be printed likewise."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
