"""Text of runs, data and models made fit to be shown: nothing in it that works unseen, and no more than one can read."""

from __future__ import annotations

import re

from mlxtune.report.words import Words

# Characters of one text in the page. Browsers take long to lay out much text in narrow columns.
MAX_NAME = 2_000  # titles, labels, cells
MAX_TEXT = 20_000  # paragraphs, inputs, replies
MAX_CODE = 100_000

# What has no picture of its own: controls but tab and line feed, direction marks and overrides, other invisible formatting
# (tags, soft hyphens), line and paragraph separators, and halves of surrogate pairs, which UTF-8 cannot hold. The joiners
# U+200C and U+200D stay: emoji and several scripts are written with them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with its invisible characters as escapes.

    >>> visible("a\u202eb\x00c\n")
    'a\\u202eb\\x00c\n'
    """
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shortened(text: str, say: Words, limit: int, whole: str = "") -> str:
    """The text as the page shows it: visible, and where it is too long its beginning and a note.

    Args:
        text: Any text.
        say: The words of the note.
        limit: Characters that are kept.
        whole: Where the whole text is, a sentence.
    """
    if len(text) <= limit:
        return visible(text)
    note = say("page.shortened", shown=limit, total=len(text), whole=f" {whole}" if whole else "")
    return visible(f"{text[:limit]} …\n{note}")
