"""Text of runs, data and models made fit to be shown: nothing in it that works unseen, and no more than one can read."""

from __future__ import annotations

import re

from mlxtune.report.words import Words

MAX_CHARACTERS = 20_000  # of one text in the page

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


def shortened(text: str, say: Words, whole: str = "") -> str:
    """The text as the page shows it: visible, and where it is too long its beginning and a note.

    Args:
        text: Any text.
        say: The words of the note.
        whole: Where the whole text is, a sentence.
    """
    if len(text) <= MAX_CHARACTERS:
        return visible(text)
    note = say("page.shortened", shown=MAX_CHARACTERS, total=len(text), whole=f" {whole}" if whole else "")
    return visible(f"{text[:MAX_CHARACTERS]} …\n{note}")
