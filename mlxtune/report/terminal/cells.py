"""What every table is made of: the table itself, its title, and texts as a terminal may show them. No scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a third of a second that commands without tables do not spend
    from rich.console import RenderableType
    from rich.table import Table


def new_table(*columns: str) -> Table:
    """A table with these columns and no rows, as plain as print."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def titled(title: str, table: Table) -> RenderableType:
    """A table under its title, which may be wider: rich would fold a title of the table's own."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(title, style="bold"), table)


def cell_text(text: str) -> Any:
    """Text that shows as it is: a label such as [b] is no markup, and one with escape codes commands no terminal."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "\ufffd" for c in text))


def shown_metrics() -> list[tuple[str, str]]:
    """Name and title of the metrics that are a field's own, in the order in which tables show them."""
    from mlxtune.evaluation.metrics.registry import METRICS

    return [(one.name, one.title) for one in METRICS.values() if "." not in one.name]
