"""Where a training's time went, as a table for the terminal.

print(to_text([profile_table(info["profile"])]))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlxtune.report.terminal.cells import new_table, titled

if TYPE_CHECKING:
    from rich.console import RenderableType

TITLE = "Where the time of {steps} went"


def profile_table(profile: Mapping[str, Any]) -> RenderableType:
    """Seconds and share of each part, and of all.

    Args:
        profile: run.json's "profile".
    """
    table = new_table("part")
    for column in ("seconds", "share"):
        table.add_column(column, justify="right")
    total = profile["total_seconds"]
    for part, seconds in profile["seconds"].items():
        table.add_row(part, f"{seconds:.2f}", f"{seconds / total:.1%}")
    table.add_section()
    table.add_row("all", f"{total:.2f}", "100.0%")
    steps = profile["steps"]
    return titled(TITLE.format(steps="1 step" if steps == 1 else f"{steps:,} steps"), table)
