"""What a run's rows were: how many became of how many, their labels and lengths, leaks and conflicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlxtune.recipe.sections import Recipe
from mlxtune.report.blocks import Block, Cell, Column, Folded, Paragraph, Section, Table
from mlxtune.report.charts import Axis, BarChart, Bars, HeatMap
from mlxtune.report.contents.data_account import (
    CollisionAccount,
    ConflictAccount,
    DataAccount,
    LeakAccount,
    LengthAccount,
    PairAccount,
    SplitAccount,
)
from mlxtune.report.sections.pieces import count_cell, left_out, listed, numeric, place, together
from mlxtune.report.values import clipped, count_text
from mlxtune.report.words import Words

MAX_LABELS = 20  # bars that a reader takes in
MAX_TABLE_LABELS = 100
MAX_SETS = 20
MAX_TOGETHER = 12  # labels whose co-occurrence fits as a grid
MAX_PAIRS = 20
MAX_LISTED = 20  # leaks and conflicts that are shown; the rest are counted
MAX_NAMED = 10  # in a sentence
MAX_TEXT_CHARS = 160
UNEVEN = 2.0  # the most frequent label has at least this many times the rows of the rarest: worth a sentence
TRAIN = "train"

Count = Callable[[SplitAccount], int]


def data_section(account: DataAccount, recipe: Recipe, say: Words) -> Section | None:
    """What a run's rows were.

    Args:
        account: The figures.
        recipe: Whose rows they are.
        say: The words.

    Returns:
        None where nothing is known of them, nor why.
    """
    if not account.splits and not account.missing:
        return None
    blocks: list[Block] = [
        Paragraph(say(f"data.missing.{why}", split=say(f"data.split.{split}")), "warning")
        for split, why in account.missing.items()
    ]
    if account.splits:
        blocks += _warnings(account, say)
        blocks += [_rows_table(account.splits, recipe, say), *_several(account.splits, say)]
        for field in _fields(account.splits):
            blocks += _labels(field, account.splits, say)
        blocks += [_length_table(account.splits, recipe, say), *_training_tables(account.splits, say)]
        blocks += [*_leaks(account.leaks, say), *_conflicts(account.conflicts, say)]
        blocks += _collisions(account.first_token_collisions, say)
    return Section("data", say("data.title"), blocks)


# In words ----------------------------------------------------------------------------------------------------------


def _warnings(account: DataAccount, say: Words) -> list[Block]:
    """What is wrong with the data, a paragraph each; that nothing leaks is said where it could have."""
    found: list[Block] = []
    if account.leaks:
        exact = sum(leak.exact for leak in account.leaks)
        found.append(Paragraph(say("data.leaks", n=len(account.leaks), exact=exact), "bad"))
    elif len(account.splits) > 1:
        found.append(Paragraph(say("data.leaks.none"), "good"))
    if account.conflicts:
        found.append(Paragraph(say("data.conflicts", n=len(account.conflicts)), "warning"))
    if account.unseen_labels:
        named = [
            say("data.unseen.nowhere", field=one.field, label=one.label)
            if one.split is None
            else say(
                "data.unseen.one", field=one.field, label=one.label, n=one.rows, split=say(f"data.split.{one.split}")
            )
            for one in account.unseen_labels
        ]
        found.append(Paragraph(say("data.unseen", labels=_some(named, say)), "warning"))
    return found


def _several(splits: Mapping[str, SplitAccount], say: Words) -> list[Block]:
    """The share of rows with several labels, as read and as used."""
    by_field: dict[str, list[str]] = {}
    for name, split in splits.items():
        for field, one in split.several_labels.items():
            key = "data.several.same" if one.before == one.after else "data.several.changed"
            text = say(key, split=say(f"data.split.{name}"), before=one.before, after=one.after)
            by_field.setdefault(field, []).append(text)
    return [Paragraph(say("data.several", field=field, splits=listed(said, say))) for field, said in by_field.items()]


def _balance_text(field: str, counts: Mapping[str, int], n_rows: int, say: Words) -> str:
    """Which label is the most frequent and which the rarest, where that is far apart."""
    present = {label: n for label, n in counts.items() if n}
    if not 2 <= len(present) <= MAX_LABELS:  # of a long open list the rarest is rare in any data
        return ""
    most, rarest = max(present, key=lambda label: present[label]), min(present, key=lambda label: present[label])
    times = present[most] / present[rarest]
    if times < UNEVEN:
        return ""
    rows = {name: count_text(present[label], n_rows) for name, label in (("most_rows", most), ("rarest_rows", rarest))}
    return say("data.uneven", field=field, most=most, rarest=rarest, times=times, **rows)


def _some(items: Sequence[str], say: Words) -> str:
    """The first of some clauses, and how many more there are."""
    text = say("list.clauses").join(items[:MAX_NAMED])
    more = len(items) - MAX_NAMED
    return say("list.more", items=text, n=more) if more > 0 else text


# Rows --------------------------------------------------------------------------------------------------------------


def _rows_table(splits: Mapping[str, SplitAccount], recipe: Recipe, say: Words) -> Table:
    """What became of the rows of each split, in lines that add up."""

    def removed(key: str) -> Count:
        return lambda split: 0 if split.removed is None else -int(getattr(split.removed, key))

    def low_quality(reason: str) -> Count:
        return lambda split: 0 if split.removed is None else -split.removed.low_quality_reasons.get(reason, 0)

    reasons = {reason for split in splits.values() for reason in split.low_quality_reasons}
    changes: dict[str, Count] = {
        "data.rows.duplicates": removed("duplicates"),
        "data.rows.near_duplicates": removed("near_duplicates"),
        **{f"data.rows.{reason}": low_quality(reason) for reason in sorted(reasons)},
        "data.rows.unusable": lambda split: -split.unusable,
        "data.rows.held_out": lambda split: -split.held_out,
        "data.rows.rewritten": lambda split: 0 if split.augment is None else split.augment.made,
        "data.rows.balanced": lambda split: (
            0 if split.balance is None else split.balance.rows_after - split.balance.rows_before
        ),
    }
    rows = [_row("data.rows.read", splits, lambda split: split.read, say)]
    for key, change in changes.items():
        if any(map(change, splits.values())):
            rows.append(_row(key, splits, change, say, signed=True))
    if recipe.train.over_long == "drop":
        too_long = {name: 0 if name == "test" else -split.too_long for name, split in splits.items()}
        if any(too_long.values()):
            cells = [Cell(f"{n:+,}" if n else "") for n in too_long.values()]
            rows.append([Cell(say("data.rows.too_long", limit=recipe.train.max_tokens)), *cells])
    rows.append(_row("data.rows.used", splits, lambda split: split.rows, say))
    left_in: dict[str, Count] = {
        "data.rows.synthetic": lambda split: split.synthetic,
        "data.rows.left.duplicates": lambda split: split.duplicates + removed("duplicates")(split),
        "data.rows.left.near_duplicates": lambda split: split.near_duplicates + removed("near_duplicates")(split),
        "data.rows.left.low_quality": lambda split: split.low_quality + removed("low_quality")(split),
    }
    for key, count in left_in.items():
        if any(count(split) > 0 for split in splits.values()):
            rows.append(_row(key, splits, lambda split, count=count: max(0, count(split)), say))  # type: ignore[misc]
    heads = numeric(*(say(f"data.split.{name}") for name in splits))
    files = [say("data.file", split=say(f"data.split.{name}"), file=split.file) for name, split in splits.items()]
    return Table(say("data.rows"), (Column(say("data.rows.step")), *heads), rows, say("list.clauses").join(files))


def _row(key: str, splits: Mapping[str, SplitAccount], count: Count, say: Words, signed: bool = False) -> list[Cell]:
    """A line of the account: a count a split; a change has its sign, and is empty where there is none."""
    counts = [count(split) for split in splits.values()]
    return [Cell(say(key)), *(Cell((f"{n:+,}" if n else "") if signed else f"{n:,}") for n in counts)]


# Labels ------------------------------------------------------------------------------------------------------------


def _fields(splits: Mapping[str, SplitAccount]) -> list[str]:
    return list(dict.fromkeys(field for split in splits.values() for field in split.labels))


def _labels(field: str, splits: Mapping[str, SplitAccount], say: Words) -> list[Block]:
    """The labels of a field: how often in each split, which sets there are, and which stand together."""
    counts = {name: split.labels.get(field, {}) for name, split in splits.items()}
    labels = list(dict.fromkeys(label for of_split in counts.values() for label in of_split))
    if not labels:
        return []
    first = next(iter(splits))
    blocks: list[Block] = []
    if text := _balance_text(field, counts[first], splits[first].rows, say):
        blocks.append(Paragraph(text))
    blocks.append(_label_chart(field, labels, counts, splits, say))
    shown = labels[:MAX_TABLE_LABELS]
    note = left_out(len(shown), len(labels), say)
    title = say("data.labels.counts", field=field)
    folded: list[Block] = [_count_table(title, say("labels.label"), shown, counts, splits, note, say)]
    sets = {name: split.label_sets.get(field, {}) for name, split in splits.items()}
    if names := list(dict.fromkeys(one for of_split in sets.values() for one in of_split)):
        note = left_out(MAX_SETS, len(names), say)
        title = say("data.sets", field=field)
        folded.append(_count_table(title, say("data.set"), names[:MAX_SETS], sets, splits, note, say))
    blocks.append(Folded(say("data.labels.more", field=field), folded))
    return [*blocks, *_together(field, splits[first], say)]


def _label_chart(
    field: str,
    labels: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
    splits: Mapping[str, SplitAccount],
    say: Words,
) -> BarChart:
    """The share of each split's rows that has each label."""
    first = next(iter(splits))
    frequent = sorted(labels, key=lambda label: -counts[first].get(label, 0))[:MAX_LABELS]
    shown = [label for label in labels if label in set(frequent)]
    groups = [
        Bars(
            say(f"data.split.{name}"),
            [counts[name].get(label, 0) / split.rows if split.rows else 0.0 for label in shown],
        )
        for name, split in splits.items()
    ]
    texts = [count_text(counts[first].get(label, 0), splits[first].rows) for label in shown]
    said = [say("data.labels.one", label=label, rows=text) for label, text in zip(shown, texts, strict=True)]
    description = say("data.labels.description", split=say(f"data.split.{first}"), labels=listed(said, say))
    title = say("data.labels", field=field)
    if len(shown) < len(labels):
        title = say("data.labels.some", field=field, n=len(shown))
    axis = Axis(say("data.labels.share"), low=0.0, share=True)
    return BarChart(f"labels-{field}", title, description, shown, groups, axis, texts)


def _count_table(
    title: str,
    head: str,
    names: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
    splits: Mapping[str, SplitAccount],
    note: str,
    say: Words,
) -> Table:
    rows = [
        [Cell(one), *(count_cell(counts[name].get(one, 0), split.rows) for name, split in splits.items())]
        for one in names
    ]
    heads = numeric(*(say(f"data.split.{name}") for name in splits))
    return Table(title, (Column(head), *heads), rows, note)


def _together(field: str, split: SplitAccount, say: Words) -> list[Block]:
    """Which labels stand in the same rows: a grid, or of many labels the most frequent pairs."""
    pairs = split.cooccurrence.get(field, ())
    if not pairs:
        return []
    labels = list(split.labels[field])
    if len(labels) > MAX_TOGETHER:
        rows = [[Cell(listed(one.labels, say)), count_cell(one.rows, split.rows)] for one in pairs[:MAX_PAIRS]]
        columns = (Column(say("data.pair")), *numeric(say("field.rows")))
        return [Table(say("data.together", field=field), columns, rows, left_out(MAX_PAIRS, len(pairs), say))]
    return [_together_map(field, labels, pairs, say)]


def _together_map(field: str, labels: Sequence[str], pairs: Sequence[PairAccount], say: Words) -> HeatMap:
    """Rows with both of two labels, the cells as dark as their share of the most frequent pair."""
    rows = {frozenset(one.labels): one.rows for one in pairs}
    most = max(rows.values())
    counts = [[None if one == other else rows.get(frozenset((one, other)), 0) for other in labels] for one in labels]
    frequent = pairs[:MAX_NAMED]
    said = [say("data.pair.one", labels=" + ".join(one.labels), rows=say("count.rows", n=one.rows)) for one in frequent]
    return HeatMap(
        f"together-{field}",
        say("data.together", field=field),
        say("list.clauses").join(said),
        labels,
        labels,
        [[None if n is None else n / most for n in row] for row in counts],
        [["" if n is None else f"{n:,}" for n in row] for row in counts],
        Axis(say("labels.label")),
        Axis(say("labels.label")),
    )


# Lengths, balance, weights -----------------------------------------------------------------------------------------


def _length_table(splits: Mapping[str, SplitAccount], recipe: Recipe, say: Words) -> Table:
    """Tokens of whole rows and of their replies."""

    def cells(lengths: LengthAccount) -> list[Cell]:
        return [Cell(f"{n:,.0f}") for n in (lengths.median, lengths.p95, lengths.max)]

    rows = [
        [Cell(say(f"data.lengths.{what}", split=say(f"data.split.{name}"))), *cells(lengths)]
        for name, split in splits.items()
        for what, lengths in (("whole", split.tokens), ("reply", split.reply_tokens))
    ]
    too_long = sum(split.too_long for split in splits.values())
    note = say("data.lengths.note", limit=recipe.train.max_tokens, rows=say("count.rows", n=too_long))
    heads = numeric(say("data.lengths.median"), say("data.lengths.p95"), say("data.lengths.max"))
    return Table(say("data.lengths"), (Column(say("data.lengths.of")), *heads), rows, note)


def _training_tables(splits: Mapping[str, SplitAccount], say: Words) -> list[Block]:
    """What was done to the training rows: rewriting, balancing, class weights."""
    split = splits.get(TRAIN)
    if split is None:
        return []
    blocks: list[Block] = []
    if (made := split.augment) is not None:
        blocks.append(
            Paragraph(
                say(
                    "data.augment",
                    model=made.model,
                    made=say("count.rows", n=made.made),
                    wanted=made.wanted,
                    field=made.field,
                    value=made.value,
                    before=say("count.rows", n=made.rows_before),
                )
            )
        )
    if (balance := split.balance) is not None:
        ratios = say("data.balance.ratio", before=balance.ratio_before, after=balance.ratio_reached)
        rows = [
            [Cell(name), Cell(f"{n:,}"), Cell(f"{balance.after.get(name, 0):,}")]
            for name, n in list(balance.before.items())[:MAX_TABLE_LABELS]
        ]
        note = together([ratios, left_out(MAX_TABLE_LABELS, len(balance.before), say)], say)
        columns = (Column(say("labels.label")), *numeric(say("data.balance.before"), say("data.balance.after")))
        blocks.append(Table(say("data.balance"), columns, rows, note))
    for field, weights in split.class_weights.items():
        rows = [
            [
                Cell(label),
                Cell(f"{one.count:,}"),
                Cell(f"{one.weight:.4g}"),
                Cell(f"{one.weight * weights.loss_weight:.4g}"),
            ]
            for label, one in list(weights.labels.items())[:MAX_TABLE_LABELS]
        ]
        columns = (
            Column(say("labels.label")),
            *numeric(say("field.rows"), say("data.weights.weight"), say("data.weights.product")),
        )
        how = say(
            "data.weights.balanced" if weights.balanced else "data.weights.given", loss_weight=weights.loss_weight
        )
        note = together([how, left_out(MAX_TABLE_LABELS, len(weights.labels), say)], say)
        blocks.append(Table(say("data.weights", field=field), columns, rows, note))
    return blocks


# Leaks and conflicts -----------------------------------------------------------------------------------------------


def _leaks(leaks: Sequence[LeakAccount], say: Words) -> list[Block]:
    """Rows of a split that stand in an earlier one, folded."""
    if not leaks:
        return []
    rows = [
        [
            Cell(_placed(one.split, one.file, one.line, say)),
            Cell(_placed(one.other.split or TRAIN, one.other.file, one.other.line, say)),
            Cell(say("data.same" if one.exact else "data.nearly", similarity=one.similarity)),
            Cell(say("data.labels.same" if one.same_labels else "data.labels.differ")),
            Cell(clipped(one.text, MAX_TEXT_CHARS)),
        ]
        for one in leaks[:MAX_LISTED]
    ]
    heads = ("data.leak.row", "data.leak.other", "data.likeness", "data.leak.labels", "data.text")
    title = say("data.leaks.title", n=len(leaks))
    return [
        Folded(title, [Table(title, [Column(say(one)) for one in heads], rows, left_out(MAX_LISTED, len(leaks), say))])
    ]


def _conflicts(conflicts: Sequence[ConflictAccount], say: Words) -> list[Block]:
    """Rows with one text and different labels, folded."""
    if not conflicts:
        return []
    rows = [
        [
            Cell(_placed(one.split, one.file, one.line, say)),
            Cell(one.labels),
            Cell(place(one.other.file, one.other.line)),
            Cell(one.other_labels),
            Cell(say("data.same" if one.exact else "data.nearly.alike")),
            Cell(clipped(one.text, MAX_TEXT_CHARS)),
        ]
        for one in conflicts[:MAX_LISTED]
    ]
    heads = (
        "data.conflict.row",
        "data.leak.labels",
        "data.conflict.other",
        "data.leak.labels",
        "data.likeness",
        "data.text",
    )
    title = say("data.conflicts.title", n=len(conflicts))
    note = left_out(MAX_LISTED, len(conflicts), say)
    return [Folded(title, [Table(title, [Column(say(one)) for one in heads], rows, note)])]


def _collisions(collisions: Sequence[CollisionAccount], say: Words) -> list[Block]:
    """Labels that begin with the same token, folded."""
    if not collisions:
        return []
    rows = [
        [
            Cell(one.field),
            Cell(repr(one.token)),
            Cell(say("data.collision.first" if one.where == "first" else "data.collision.after")),
            Cell(listed(one.labels, say)),
        ]
        for one in collisions[:MAX_LISTED]
    ]
    heads = ("judge.field", "data.collision.token", "data.collision.where", "data.collision.labels")
    title = say("data.collisions", n=len(collisions))
    note = together([say("data.collisions.note"), left_out(MAX_LISTED, len(collisions), say)], say)
    return [Folded(title, [Table(title, [Column(say(one)) for one in heads], rows, note)])]


def _placed(split: str, file: str, line: int, say: Words) -> str:
    return say("data.placed", split=say(f"data.split.{split}"), place=place(file, line))
