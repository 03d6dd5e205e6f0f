"""Patterns of file names, as README.md of a data set on the Hub writes them. Strings only.

A pattern is a stranger's text, so it does not become a regular expression, which may take years to say no: it is followed
character by character, along all ways through it at once.
"""

from __future__ import annotations

import re

MAX_CHARS = 1000
MAX_WILDCARDS = 50

_PIECES = re.compile(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", re.DOTALL)
_MAX_STEPS = 10_000  # that are remembered


class Glob:
    """A pattern: * stays inside a folder, ** does not, ? is one character, [a-z] and [!a-z] are one of some.

    >>> Glob("en/*.csv").fits("en/train.csv"), Glob("*.csv").fits("en/train.csv"), Glob("**/*.csv").fits("train.csv")
    (True, False, True)

    Raises:
        ValueError: It is longer than any that is meant, or has more wildcards.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_CHARS:
            raise ValueError(f"{len(pattern):,} characters, at most {MAX_CHARS:,} are read")
        self._pieces: list[str] = []  # each takes one character, and those that stay may take more
        self._stays = 0  # a bit for each piece that does
        self._stars: list[tuple[int, bool]] = []  # places of these, and whether it is that of **/
        n_wildcards = 0
        for piece in _PIECES.findall(pattern):
            n_wildcards += piece[0] in "*?["
            if piece[0] == "*":
                self._stays |= 1 << len(self._pieces)
                self._stars.append((len(self._pieces), piece == "**/"))
                self._pieces += ["**", "/"] if piece == "**/" else [piece]
            else:
                self._pieces.append(piece)
        if n_wildcards > MAX_WILDCARDS:
            raise ValueError(f"{n_wildcards:,} wildcards, at most {MAX_WILDCARDS} are read")
        self._opening = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        self._begin = self._with_skips(1)
        self._steps: dict[tuple[int, str], int] = {}

    def fits(self, path: str) -> bool:
        """Whether a path is one that is meant, in time that its length bounds."""
        if not path.startswith(self._opening):
            return False
        waiting = self._begin  # a bit for each piece that may take the next character
        for character in path:
            step = (waiting, character)
            if step not in self._steps:
                if len(self._steps) >= _MAX_STEPS:
                    self._steps.clear()
                self._steps[step] = self._after(waiting, character)
            waiting = self._steps[step]
            if not waiting:
                return False
        return waiting >> len(self._pieces) == 1

    def _after(self, waiting: int, character: str) -> int:
        taking = 0
        for place, piece in enumerate(self._pieces):
            if waiting >> place & 1 and _takes(piece, character):
                taking |= 1 << place
        return self._with_skips((taking & ~self._stays) << 1, taking & self._stays)

    def _with_skips(self, reached: int, staying: int = 0) -> int:
        """Pieces that were reached or stayed at, and those behind pieces of them that need no character."""
        for place, is_folders in self._stars:
            if (reached | staying) >> place & 1:
                reached |= 1 << place + 1
            if is_folders and reached >> place & 1:  # no folder at all, unless it has begun
                reached |= 1 << place + 2
        return reached | staying


def _takes(piece: str, character: str) -> bool:
    if piece in ("*", "?"):
        return character != "/"
    if len(piece) == 1:
        return character == piece
    if piece == "**":
        return True
    is_negated = piece[1] in "!^"
    ranges = re.findall(r"(.)-(.)|(.)", piece[1 + is_negated : -1], re.DOTALL)
    return bool(ranges) and is_negated != any(
        low <= character <= high if low else character == single for low, high, single in ranges
    )
