"""Where the loss comes from: segments of the reply as a table for the terminal, and as part of a line of progress.

print(to_text([loss_table(info["train"]["segments"], info["valid"]["segments"])]))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlxtune.report.terminal.cells import cell_text, new_table, titled

if TYPE_CHECKING:
    from rich.console import RenderableType

# Segment -> "loss" (mean nats a token), "tokens" and, where the model was scored, "accuracy" and "label_accuracy".
Segments = Mapping[str, Mapping[str, float]]

TITLE = "Where the loss of {of} comes from; losses in nats a token"
TEACHER_FORCED = "Accuracies are teacher-forced: each token after the right ones, not what the model would write"


def loss_table(train: Segments | None, valid: Segments | None) -> RenderableType:
    """Loss, share of the loss and accuracy of each segment of the reply, and of all of it.

    Shares and accuracies are those of the validation rows; without validation those of the training rows.

    Args:
        train: Segments of training rows, scored as validation rows are.
        valid: Segments of the validation rows.

    Raises:
        ValueError: Neither has a segment.
    """
    from rich.console import Group
    from rich.text import Text

    train, valid = train or {}, valid or {}
    shown = valid or train
    if not shown:
        raise ValueError("expected the segments of training or validation rows")
    table = new_table("segment")
    columns = ["tokens"]
    columns += [name for name, segments in (("train loss", train), ("valid loss", valid)) if segments]
    columns += ["valid/train"] if train and valid else []
    columns += ["share of loss", "token accuracy", "label accuracy"]
    for column in columns:
        table.add_column(column, justify="right")
    total_tokens = sum(segment["tokens"] for segment in shown.values())
    total_nats = sum(map(_nats, shown.values()))
    for name in dict.fromkeys([*train, *valid]):
        figures = shown.get(name)
        cells = ["" if figures is None else f"{figures['tokens'] / total_tokens:.1%}"]
        cells += _losses(*(segments.get(name) for segments in (train, valid) if segments))
        cells.append("" if figures is None or not total_nats else f"{_nats(figures) / total_nats:.1%}")
        cells += ["" if figures is None else _share(figures.get(key)) for key in ("accuracy", "label_accuracy")]
        table.add_row(cell_text(name), *cells)
    table.add_section()
    totals = _losses(*(_total(segments) for segments in (train, valid) if segments))
    accuracy = _total(shown).get("accuracy")
    table.add_row("all", "100.0%", *totals, "100.0%" if total_nats else "", _share(accuracy), "")
    of = "validation rows" if valid else "training rows"
    parts: list[RenderableType] = [titled(TITLE.format(of=of), table)]
    if accuracy is not None:
        parts.append(Text(TEACHER_FORCED))
    return Group(*parts)


def segment_line(segments: Segments) -> str:
    """The loss of each segment with the accuracy that says most of it, teacher-forced: of labels, else of tokens.

    >>> segment_line({"type": {"loss": 0.31, "tokens": 9, "accuracy": 0.95, "label_accuracy": 0.854}})
    'type 0.310 (85.4% of labels)'
    """
    said = []
    for name, figures in segments.items():
        found = (
            (figures[key], of) for key, of in (("label_accuracy", "labels"), ("accuracy", "tokens")) if key in figures
        )
        right = next((f" ({share:.1%} of {of})" for share, of in found), "")
        said.append(f"{name} {figures['loss']:.3f}{right}")
    return ", ".join(said)


def _nats(figures: Mapping[str, float]) -> float:
    return figures["loss"] * figures["tokens"]


def _total(segments: Segments) -> dict[str, float]:
    """Mean loss and accuracy over all tokens; no accuracy where a segment has none."""
    tokens = sum(figures["tokens"] for figures in segments.values())
    total = {"loss": sum(map(_nats, segments.values())) / tokens, "tokens": tokens}
    if all("accuracy" in figures for figures in segments.values()):
        total["accuracy"] = sum(figures["accuracy"] * figures["tokens"] for figures in segments.values()) / tokens
    return total


def _losses(*sides: Mapping[str, float] | None) -> list[str]:
    """The loss on each side and, of two, the last divided by the first."""
    cells = ["" if figures is None else f"{figures['loss']:.4f}" for figures in sides]
    if len(sides) == 2:
        train, valid = sides
        cells.append(f"{valid['loss'] / train['loss']:.2f}" if train and valid and train["loss"] > 0 else "")
    return cells


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
