"""The report on a recipe's data as text for the terminal: renders what `data/report.py` found, finds nothing itself.

print(to_text(data_tables(report)))
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.data.balance import Balanced
from mlxtune.data.cleaning import CleaningReport
from mlxtune.data.report import DataReport, Finding, Lengths, SplitReport
from mlxtune.data.rows import Row
from mlxtune.report.terminal.cells import cell_text, new_table, titled
from mlxtune.report.values import count_text

if TYPE_CHECKING:
    from rich.console import RenderableType

LIMIT = 20  # findings of one kind that are shown; the rest are counted
MAX_LEFT_IN = 5  # of those that are only duplicates or of low quality
MAX_LABELS = 40
MAX_SETS = 12
MAX_UNEVEN = 6  # classes that balancing could not even out, the rarest
MAX_TOGETHER = 8  # labels whose co-occurrence fits as a table; of more, the most frequent pairs
MAX_TEXT = 60

REASONS = {
    "empty": "empty",
    "too_short": "too short",
    "garbled": "garbled",
    "missing_label": "without a label",
    "unknown_label": "with an unknown label",
}


def data_tables(report: DataReport) -> list[RenderableType]:
    """Everything worth reading: what became of the rows, their labels and lengths, then what is wrong, worst first."""
    from rich.text import Text

    tables: list[RenderableType] = []
    for name, split in report.splits.items():
        tables.append(Text("\n".join(account_lines(name, split, report))))
    tables += _label_tables(report)
    tables += _set_tables(report)
    tables += _together(report.splits["train"])
    tables += _weight_tables(report)
    for title, lines in _sections(report):
        tables.append(Text("\n".join([title, *(f"  {line}" for line in lines)])))
    return tables


def account_lines(name: str, split: SplitReport, report: DataReport) -> list[str]:
    """What became of a split's rows, in lines that add up."""
    files = ", ".join(map(_file, split.files))
    source = f", held out of {files}" if _held_out(name, report) else f", {files}"
    lines = [f"{name}{source}", f"  format: {split.format}", f"{split.read:>8,} rows read"]
    if split.removed is not None:
        removed = split.removed
        duplicates = removed.duplicates + removed.near_duplicates
        lines.append(
            f"{-duplicates:>8,} duplicates removed ({removed.duplicates:,} exact, {removed.near_duplicates:,} near)"
        )
        lines.append(f"{-removed.low_quality:>8,} low-quality rows removed{_reasons(removed.low_quality_reasons)}")
    if split.unusable:
        lines.append(f"{-split.unusable:>8,} rows that cannot be used")
    if split.held_out:
        lines.append(f"{-split.held_out:>8,} held out to validate with")
    if split.augmented is not None:
        lines.append(f"{len(split.augmented.rows):>+8,} {split.augmented.summary().partition(' ')[2]}")
    if split.too_long and report.recipe.train.over_long == "drop" and name != "test":
        lines.append(f"{-split.too_long:>8,} longer than train.max_tokens")
    if split.balanced is not None:
        change = len(split.rows) - split.balanced.n_before
        how = f"repeated, one row up to {split.balanced.most_repeats} times," if change >= 0 else "left out"
        lines.append(f"{change:>+8,} {how} to balance {getattr(report.recipe.data.balance, 'field', '')}")
        lines += balance_lines(split.balanced, report)
    synthetic = f", {split.synthetic:,} of them synthetic" if split.synthetic else ""
    lines.append(f"{len(split.rows):>8,} rows to {_USES[name]}{synthetic}")
    for field, share in split.several_before.items():
        after = split.several_after[field]
        lines.append(
            f"  {field}: {share:.1%} of the rows read have several labels, {after:.1%} of those to {_USES[name]}"
        )
    limit = f"; train.max_tokens is {report.recipe.train.max_tokens:,}" if name != "test" else ""
    lines.append(f"  tokens: {_lengths(split.lengths)}{limit}")
    all_turns = report.recipe.train.supervise == "all" or any(row.is_document for row in split.rows)
    lines.append(f"  of which {'trained' if all_turns else 'the reply'}: {_lengths(split.reply_lengths)}")
    left_in = _left_in(split)
    if left_in:
        lines.append(f"  left in: {left_in}")
    return lines


def balance_lines(balanced: Balanced, report: DataReport) -> list[str]:
    """How even the rows became, and which labels, or sets of them, balancing could not bring as near as was asked."""
    wanted = report.recipe.data.balance
    assert wanted is not None
    field = report.recipe.output.fields[wanted.field]
    one, several = ("set", "sets") if wanted.by == "sets" and field.kind == "labels" else ("label", "labels")
    reached = f"{balanced.ratio_before:.3g} -> {balanced.ratio_reached:.3g}"
    lines = [f"         rarest {one} / most frequent {one}: {reached}; data.balance.ratio is {wanted.ratio:g}"]
    if balanced.uneven:
        capped = balanced.most_repeats == wanted.max_repeats and wanted.method == "oversample"
        limit = (
            f"; data.balance.max_repeats is {wanted.max_repeats}" if capped else "; they share rows with other labels"
        )
        named = [f"{name} {balanced.before[name]:,} -> {count:,}" for name, count in balanced.uneven.items()]
        more = f", and {len(named) - MAX_UNEVEN:,} more" if len(named) > MAX_UNEVEN else ""
        shown = _limited(["; ".join(named[-MAX_UNEVEN:]) + more], 1)[0]
        lines.append(f"         {len(named):,} {one if len(named) == 1 else several} short of that{limit}: {shown}")
    return lines


_USES = {"train": "train on", "valid": "validate with", "test": "test with"}


def _held_out(name: str, report: DataReport) -> bool:
    return name == "valid" and report.recipe.data.valid_fraction is not None


def _reasons(reasons: Mapping[str, int]) -> str:
    counted = [f"{count:,} {REASONS[reason]}" for reason, count in reasons.items() if count]
    return f" ({', '.join(counted)})" if counted else ""


def _left_in(split: SplitReport) -> str:
    """What cleaning with everything switched on would remove, and this recipe does not."""
    removed = split.removed
    exact = max(0, _less(split.found, removed, "duplicates"))
    near = _less(split.found, removed, "duplicates") + _less(split.found, removed, "near_duplicates") - exact
    reasons = {
        REASONS[reason]: count - (removed.low_quality_reasons[reason] if removed else 0)
        for reason, count in split.found.low_quality_reasons.items()
    }
    found = {"exact duplicates": exact, "near-duplicates": near, **reasons}
    return ", ".join(f"{count:,} {what}" for what, count in found.items() if count > 0)


def _less(found: CleaningReport, removed: CleaningReport | None, name: str) -> int:
    return int(getattr(found, name)) - (int(getattr(removed, name)) if removed else 0)


def _lengths(lengths: Lengths) -> str:
    return f"median {lengths.median:,.0f}, 95% within {lengths.p95:,.0f}, longest {lengths.max:,}"


def _label_tables(report: DataReport) -> list[RenderableType]:
    """Rows by label, a table a field, the splits side by side."""
    tables: list[RenderableType] = []
    for field in report.splits["train"].labels:
        counts = {name: split.labels[field] for name, split in report.splits.items()}
        labels = list(dict.fromkeys(label for of_split in counts.values() for label in of_split))
        shown = labels[:MAX_LABELS]
        title = f"{field}: rows by label" + (
            f", the first {MAX_LABELS} of {len(labels):,}" if len(shown) < len(labels) else ""
        )
        table = new_table("label")
        for name in counts:
            table.add_column(name, justify="right", no_wrap=True)
        for label in shown:
            table.add_row(
                cell_text(label),
                *(count_text(of.get(label, 0), len(report.splits[n].rows)) for n, of in counts.items()),
            )
        tables.append(titled(title, table))
    return tables


def _set_tables(report: DataReport) -> list[RenderableType]:
    """Rows by whole set of labels, the most frequent first."""
    tables: list[RenderableType] = []
    for field in report.splits["train"].label_sets:
        counts = {name: split.label_sets[field] for name, split in report.splits.items()}
        sets = list(dict.fromkeys(labels for of_split in counts.values() for labels in of_split))
        table = new_table("labels")
        for name in counts:
            table.add_column(name, justify="right", no_wrap=True)
        for labels in sets[:MAX_SETS]:
            shares = [count_text(of.get(labels, 0), len(report.splits[name].rows)) for name, of in counts.items()]
            table.add_row(cell_text(labels), *shares)
        more = f", the {MAX_SETS} most frequent of {len(sets):,}" if len(sets) > MAX_SETS else ""
        tables.append(titled(f"{field}: rows by set of labels{more}", table))
    return tables


def _together(train: SplitReport) -> list[RenderableType]:
    """Which labels stand in the same training rows: a table, or of many labels the most frequent pairs."""
    tables: list[RenderableType] = []
    for field, pairs in train.cooccurrence.items():
        if not pairs:
            continue
        labels = list(train.labels[field])
        if len(labels) > MAX_TOGETHER:
            table = new_table("pair")
            table.add_column("rows", justify="right")
            for (one, other), rows in list(pairs.items())[:LIMIT]:
                table.add_row(cell_text(f"{one} + {other}"), f"{rows:,}")
            more = f", the {LIMIT} most frequent of {len(pairs):,}" if len(pairs) > LIMIT else ""
            tables.append(titled(f"{field}: training rows with both{more}", table))
            continue
        table = new_table("")
        for label in labels:
            table.add_column(cell_text(label), justify="right")
        for one in labels:
            cells = [pairs.get((one, other), pairs.get((other, one), 0)) for other in labels]
            table.add_row(
                cell_text(one),
                *("" if one == other else f"{rows:,}" for other, rows in zip(labels, cells, strict=True)),
            )
        tables.append(titled(f"{field}: training rows with both labels", table))
    return tables


def _weight_tables(report: DataReport) -> list[RenderableType]:
    """What labels weigh in the loss, a table a field; fields without class weights in one line, if any weighs not 1."""
    from rich.text import Text

    tables: list[RenderableType] = []
    of_train = report.splits["train"].class_weights
    for name, weights in of_train.items():
        table = new_table("label")
        for column in ("rows to train on", "class weight", "x loss weight"):
            table.add_column(column, justify="right", no_wrap=True)
        for label, count in list(weights.counts.items())[:MAX_LABELS]:
            own = weights.weights[label]
            table.add_row(cell_text(label), f"{count:,}", f"{own:.4g}", f"{own * weights.loss_weight:.4g}")
        how = "balanced" if weights.balanced else "given"
        title = f"{name}: class weights, {how}; loss weight {weights.loss_weight:g}"
        more = f", the first {MAX_LABELS} of {len(weights.counts):,}" if len(weights.counts) > MAX_LABELS else ""
        tables.append(titled(title + more, table))
        if weights.balanced and (nowhere := weights.without_rows):
            tables.append(Text(f"{name}: no row to count, so they weigh 1: {_limited([', '.join(nowhere)], 1)[0]}"))
    others = {name: field.loss_weight for name, field in report.recipe.output.fields.items() if name not in of_train}
    if any(weight != 1 for weight in others.values()):
        tables.append(Text("loss weights: " + ", ".join(f"{name} {weight:g}" for name, weight in others.items())))
    return tables


def _sections(report: DataReport) -> list[tuple[str, list[str]]]:
    """What is wrong, a heading with its lines each; a heading without findings says so where that is good news."""
    text = report.recipe.data.text

    def quoted(row: Row) -> str:
        flat = " ".join(str(row.fields.get(text, "")).split())
        return repr(flat if len(flat) <= MAX_TEXT else flat[: MAX_TEXT - 3] + "...")

    unusable = [f"{place(f.file, f.line)}: {f.detail}" for f in report.findings if f.kind == "unusable"]
    long = [f"{place(f.file, f.line)}: {f.detail}{', left out' if f.removed else ''}"
            for f in report.findings if f.kind == "too_long"]  # fmt: skip
    leaks = [
        f"{place(leak.row.file, leak.row.line)} ({leak.split}) {'is' if leak.exact else 'is nearly'} "
        f"{place(leak.other.file, leak.other.line)} ({leak.other_split})"
        f"{'' if leak.exact else f', similarity {leak.similarity:.2f}'}"
        f"{'' if leak.same_labels else ', under other labels'}: {quoted(leak.row)}"
        for leak in report.leaks
    ]
    conflicts = [
        f"{place(one.row.file, one.row.line)} [{one.labels}] and {place(one.other.file, one.other.line)} "
        f"[{one.other_labels}]{'' if one.exact else ', nearly the same'}: {quoted(one.row)}"
        for one in report.conflicts
    ]
    unseen = [
        f"{one.field}: {one.label!r} "
        + (f"has no row in train, {one.rows:,} in {one.split}, first {place(one.first.file, one.first.line)}"
           if one.first else "has no row at all")
        for one in report.unseen
    ]  # fmt: skip
    collisions = [
        f"{one.field}: {', '.join(one.labels)} begin with {one.token!r}"
        + ("" if one.where == "first" else " after another label")
        for one in report.collisions
    ]
    left = [_described(finding) for finding in report.findings if not finding.removed and finding.kind not in _SHOWN]
    sections = [
        ("Rows that cannot be used", unusable, False),
        ("Rows longer than train.max_tokens", long, False),
        ("Leaks between splits", leaks, len(report.splits) > 1),
        ("The same text under different labels", conflicts, True),
        ("Labels without training rows", unseen, False),
        ("Labels that begin with the same token", collisions, False),
        ("Duplicates and low-quality rows left in", left, False),
    ]
    return [
        (
            f"{title}: {len(lines):,}" if lines else f"{title}: none",
            _limited(lines, MAX_LEFT_IN if lines is left else LIMIT),
        )
        for title, lines, said in sections
        if lines or said
    ]


_SHOWN = ("unusable", "too_long")


def _described(finding: Finding) -> str:
    what = REASONS.get(finding.kind, finding.kind.replace("_", "-"))
    detail = f" ({finding.detail})" if finding.detail else ""
    same = ""
    if finding.same_as:
        file, _, line = finding.same_as.rpartition(":")
        same = f" of {place(file, int(line))}"
    return f"{place(finding.file, finding.line)}: {what}{detail}{same}"


def _limited(lines: Sequence[str], limit: int) -> list[str]:
    more = [f"... and {len(lines) - limit:,} more; --json lists all"] if len(lines) > limit else []
    # Texts and labels of the rows may hold escape codes, which a terminal would obey.
    return ["".join(c if c.isprintable() else "\ufffd" for c in line) for line in [*lines[:limit], *more]]


def place(file: str, line: int) -> str:
    """Where a row was read, for a reader in the current folder."""
    return f"{_file(file)}:{line}"


def _file(file: str) -> str:
    """As seen from the current folder, where that is shorter."""
    try:
        near = os.path.relpath(file)
    except ValueError:  # another drive, on Windows
        return file
    return near if len(near) < len(file) and not near.startswith(str(Path("..") / "..")) else file
