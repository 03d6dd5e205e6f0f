"""Scores as tables for the terminal: rich renderables, and their text. Reads scores.json's shape, computes no metric.

print(to_text([*score_tables(scores), before_after(base_scores, scores)]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Scores = Mapping[str, Any]  # the content of scores.json

WIDTH = 100
MAX_LABELS = 40  # of an open set there may be thousands
MAX_CONFUSED = 8  # columns of a confusion table that fit beside one another
# What is shown of each kind of field, in this order, where the scores have it.
HEADLINES = {
    "exact_match": "exact match",
    "accuracy": "accuracy",
    "partial_match": "partial match",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "sample_f1": "sample F1",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "invalid_rate": "invalid",
    "repeated_rate": "repeated",
}


def score_tables(scores: Scores) -> list[RenderableType]:
    """Everything worth reading of one evaluation: headlines, then labels and groups of each field, then speed."""
    from rich.text import Text

    decodings = {name: scores["decodings"][name] for name in scores.get("decodings", {})}
    columns = decodings or {scores["decoding"]: scores}
    tables: list[RenderableType] = [headlines(columns, f"{scores['rows']} rows; 95% intervals over rows in brackets")]
    for name, field in scores["fields"].items():
        if field.get("labels"):
            tables.append(label_table(name, field["labels"]))
        if len(field.get("by_count", {})) > 1:
            tables.append(count_table(name, field["by_count"]))
        if 2 <= len(field.get("confusion", {}).get("labels", [])) <= MAX_CONFUSED:
            tables.append(confusion_table(name, field["confusion"]))
    tables += [Text(note) for note in scores.get("notes", [])]
    tables += [Text(_speed(name, column["speed"])) for name, column in columns.items() if column.get("speed")]
    return tables


def before_after(base_scores: Scores, tuned_scores: Scores) -> RenderableType:
    """The model before and after tuning, in a decoding that both were evaluated in, if there is one."""
    before, after = _same_decoding(base_scores, tuned_scores)
    decoding = before["decoding"] if before["decoding"] == after["decoding"] else None
    how = f"{decoding} decoding" if decoding else f"{before['decoding']} against {after['decoding']} decoding"
    rows = str(after["rows"]) if before["rows"] == after["rows"] else f"{before['rows']} and {after['rows']}"
    return headlines({"before": before, "after": after}, f"Before and after tuning: {rows} rows, {how}", change=True)


def headlines(columns: Mapping[str, Scores], title: str, change: bool = False) -> RenderableType:
    """The main figures of several scores side by side; with `change`, the last less the first."""
    table = _table("field", "metric")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    if change:
        table.add_column("change", justify="right", no_wrap=True)
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores["fields"]))
    for name in names:
        fields = [scores["fields"].get(name, {}) for scores in columns.values()]
        first = True
        for metric, title_of_metric in HEADLINES.items():
            estimates = [field.get(metric) for field in fields]
            if not any(estimates):
                continue
            cells = [_estimate(estimate) for estimate in estimates]
            if change:
                known = estimates[0] is not None and estimates[-1] is not None
                cells.append(f"{estimates[-1]['value'] - estimates[0]['value']:+.3f}" if known else "")
            table.add_row(_text(name if first else ""), title_of_metric, *cells)
            first = False
        if name != names[-1]:
            table.add_section()
    return _titled(title, table)


def label_table(name: str, labels: Mapping[str, Mapping[str, float]]) -> RenderableType:
    """Precision, recall and F1 of each label of a field, the commonest first where there are too many to show."""
    shown = list(labels)
    if len(shown) > MAX_LABELS:
        shown = sorted(shown, key=lambda label: -labels[label]["support"])[:MAX_LABELS]
    title = f"{name}: by label" + (f", the commonest {MAX_LABELS} of {len(labels)}" if len(shown) < len(labels) else "")
    table = _table("label")
    for column in ("precision", "recall", "F1", "support"):
        table.add_column(column, justify="right", no_wrap=True)
    for label in shown:
        got = labels[label]
        figures = [f"{got[key]:.3f}" for key in ("precision", "recall", "f1")]
        table.add_row(_text(label), *figures, str(got["support"]))
    return _titled(title, table)


def count_table(name: str, by_count: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Exact match by the number of labels that a row expects."""
    table = _table("labels")
    for column in ("rows", "exact match"):
        table.add_column(column, justify="right", no_wrap=True)
    for count, group in by_count.items():
        table.add_row(count, str(group["rows"]), _estimate(group["exact_match"]))
    return _titled(f"{name}: by number of expected labels", table)


def confusion_table(name: str, confusion: Mapping[str, Any]) -> RenderableType:
    """Rows by expected and predicted label, and those without a valid prediction."""
    table = _table("")
    for label in confusion["labels"]:
        table.add_column(_text(label), justify="right")
    table.add_column("invalid", justify="right")
    for position, label in enumerate(confusion["labels"]):
        table.add_row(_text(label), *map(str, confusion["counts"][position]), str(confusion["invalid"][position]))
    return _titled(f"{name}: rows by expected (down) and predicted (across) label", table)


def to_text(renderables: Sequence[RenderableType], width: int = WIDTH, color: bool = False) -> str:
    """What a terminal of that width would show, a blank line between two; plain text without `color`."""
    import io

    from rich.console import Console

    out = io.StringIO()
    colors: dict[str, Any] = {
        "force_terminal": color,
        "no_color": not color,
        "_environ": {},
    }  # the environment decides nothing
    console = Console(file=out, width=width, highlight=False, legacy_windows=False, **colors)
    for position, renderable in enumerate(renderables):
        if position:
            console.print()
        console.print(renderable)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(line for line, next_line in zip(lines, [*lines[1:], ""], strict=True) if line or next_line)


def _titled(title: str, table: Table) -> RenderableType:
    """A table under its title, which may be wider: rich would fold a title of the table's own."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(title, style="bold"), table)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _text(text: str) -> Any:
    """Text that shows as it is: a label such as [b] is no markup, and one with escape codes commands no terminal."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "\ufffd" for c in text))


def _estimate(estimate: Mapping[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _same_decoding(base_scores: Scores, tuned_scores: Scores) -> tuple[Scores, Scores]:
    if base_scores["decoding"] == tuned_scores["decoding"]:
        return base_scores, tuned_scores
    ours = {scores["decoding"]: scores for scores in (tuned_scores, *tuned_scores.get("decodings", {}).values())}
    theirs = {scores["decoding"]: scores for scores in (base_scores, *base_scores.get("decodings", {}).values())}
    common = next((name for name in ours if name in theirs), None)
    return (theirs[common], ours[common]) if common else (base_scores, tuned_scores)


def _speed(decoding: str, speed: Mapping[str, float]) -> str:
    return (
        f"{decoding}: {speed['seconds_per_row']:.3f} s a row, {speed['rows_per_second']:.2f} rows/s, "
        f"{speed['tokens_per_second']:.1f} tokens/s"
    )
