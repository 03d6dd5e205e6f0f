"""How far something is: what a long call tells whoever shows it. Shows nothing itself."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what begins, of how many items, and how many of them were just done."""

    def begin(self, what: str, n_items: int) -> None:
        """A part begins."""

    def advance(self, n_items: int) -> None:
        """So many items of it were just done."""


class Silent:
    """Shows nothing."""

    def begin(self, what: str, n_items: int) -> None:
        """Nothing."""

    def advance(self, n_items: int) -> None:
        """Nothing."""


SILENT = Silent()
