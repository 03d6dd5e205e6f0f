"""Cleaning: drops low-quality rows and duplicates, and accounts for every one of them. No reading, no balancing.

Quality is judged first, then duplicates among the rows that are left, so that a row is counted once. A row
is never changed, and a row that says the same as another under other labels is never dropped: that is a conflict
in the labels, which the report lists for a person to settle.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from mlxtune.data.labels import split_labels
from mlxtune.data.near import NearIndex, ShingleSets
from mlxtune.data.rows import Row
from mlxtune.errors import DataError, Problem

if TYPE_CHECKING:
    from mlxtune.recipe.sections import Clean

Reason = Literal["empty", "too_short", "garbled", "missing_label", "unknown_label", "duplicate", "near_duplicate"]
LOW_QUALITY: tuple[Reason, ...] = ("empty", "too_short", "garbled", "missing_label", "unknown_label")


@dataclass(frozen=True)
class Dropped:
    """A row that was left out, and why.

    Args:
        detail: What was seen: the unknown label, the column without one; "" where the reason says it all.
        same_as: "file:line" of the row kept in its stead, for duplicates.
    """

    file: str
    line: int
    reason: Reason
    detail: str = ""
    same_as: str = ""


@dataclass(frozen=True)
class Conflict:
    """A kept row, and the first kept row with the same or nearly the same text under other labels."""

    file: str
    line: int
    conflicts_with: str


@dataclass(frozen=True)
class CleaningReport:
    """Where every row went: read = duplicates + near_duplicates + low_quality + kept.

    Args:
        duplicates: Rows whose text, but for spaces around it, is that of a kept row.
        near_duplicates: Further rows that differ from a kept row in little; zero unless `dedupe` is near.
        low_quality_reasons: Reason -> rows; every reason is listed, also those with none.
        multi_before: Column -> rows with several labels over all rows read, for columns where any row has several.
        multi_after: The same over the rows kept.
        labels: Column -> label -> kept rows that carry it, most frequent first.
    """

    read: int
    duplicates: int
    near_duplicates: int
    low_quality: int
    kept: int
    low_quality_reasons: Mapping[str, int]
    multi_before: Mapping[str, float]
    multi_after: Mapping[str, float]
    labels: Mapping[str, Mapping[str, int]]
    dropped: tuple[Dropped, ...]
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True)
class Cleaned:
    """The rows kept, in their order, and what became of the rest."""

    rows: tuple[Row, ...]
    report: CleaningReport


def clean_rows(
    rows: Sequence[Row],
    *,
    text_column: str,
    label_columns: Mapping[str, Sequence[str] | None],
    settings: Clean,
    free_text: Collection[str] = (),
    separators: Mapping[str, str] | None = None,
) -> Cleaned:
    """The rows worth training on; of duplicates, the first.

    A duplicate is dropped only when its labels are those of the row kept, without regard to their order.

    Args:
        text_column: The column that duplicates and quality are judged by.
        label_columns: Output column -> its labels, or None where any value will do; each must have a value.
        settings: The recipe's `data.clean`. Its `dedupe` exact drops identical texts; near also drops what
            `mlxtune.data.near` calls near-duplicates.
        free_text: Those of label_columns that hold prose (a reply): they need not agree for a row to be a duplicate.

        separators: Output column -> what separates its labels in text; any usual separator does elsewhere.

    Raises:
        DataError: A row lacks the text column, or holds something other than text there: all are listed.
    """
    separators = separators or {}
    texts = _texts(rows, text_column)
    labels = [_labels_of(row, label_columns, free_text, separators) for row in rows]
    dropped: dict[int, Dropped] = {}
    for index, row in enumerate(rows):
        problem = _low_quality(row, texts[index], label_columns, settings, separators)
        if problem:
            dropped[index] = Dropped(row.file, row.line, problem[0], problem[1])
    good = [index for index in range(len(rows)) if index not in dropped]
    duplicates, conflicts = _duplicates(rows, texts, labels, good, settings.dedupe)
    dropped.update(duplicates)
    kept = [index for index in range(len(rows)) if index not in dropped]
    reasons = Counter(drop.reason for drop in dropped.values())
    return Cleaned(
        rows=tuple(rows[index] for index in kept),
        report=CleaningReport(
            read=len(rows),
            duplicates=reasons["duplicate"],
            near_duplicates=reasons["near_duplicate"],
            low_quality=sum(reasons[reason] for reason in LOW_QUALITY),
            kept=len(kept),
            low_quality_reasons={reason: reasons[reason] for reason in LOW_QUALITY},
            multi_before=_multi_shares(labels, labels),
            multi_after=_multi_shares(labels, [labels[index] for index in kept]),
            labels=_label_counts(labels[index] for index in kept),
            dropped=tuple(dropped[index] for index in sorted(dropped)),
            conflicts=tuple(conflicts),
        ),
    )


def is_garbled(text: str) -> bool:
    """Whether no reader could make sense of this text. True when any of these holds:

    - it contains U+FFFD, or text of one encoding read as another (`Ã©`, `â€™`, `鐢ㄦ埛`, `锟斤拷`);
    - it has no letter, or fewer than half of its visible characters are letters, marks or digits, a repeated
      character counting twice at most (`help!!!!!!!!` is fine);
    - runs of six or more of one letter make up half of it;
    - words typed by mashing keys make up half of its letters: five or more ASCII letters without a vowel,
      with six consonants in a row, or with five neighbouring keys in a row.
    """
    visible = "".join(text.split())
    twice_at_most = _REPEATED.sub(r"\1\1", visible)
    kinds: Counter[str] = Counter()
    for character, times in Counter(twice_at_most).items():
        kinds[unicodedata.category(character)[0]] += times
    if not kinds["L"] or 2 * (kinds["L"] + kinds["M"] + kinds["N"]) < kinds.total():
        return True
    if "\ufffd" in text or _is_mojibake(text):
        return True
    if twice_at_most != visible and 2 * sum(len(run.group()) for run in _LETTER_RUN.finditer(visible)) >= len(visible):
        return True
    letters = sum(map(str.isalpha, visible))
    return 2 * sum(len(word) for word in _WORD.findall(text.lower()) if _is_mashed(word)) >= letters


@lru_cache(maxsize=50_000)  # what people write repeats its words
def _is_mashed(word: str) -> bool:
    return _MASHED.search(word) is not None


_REPEATED = re.compile(r"(.)\1{2,}", re.DOTALL)
_LETTER_RUN = re.compile(r"([^\W\d_])\1{5,}")
_WORD = re.compile(r"(?<![^\W\d_])[a-z]{5,}(?![^\W\d_])")
_KEY_ROWS = "qwertyuiop asdfghjkl zxcvbnm"
_KEY_RUNS = sorted({row[i : i + 5] for row in (_KEY_ROWS, _KEY_ROWS[::-1]) for i in range(len(row) - 4)
                    if " " not in row[i : i + 5]})  # fmt: skip
_MASHED = re.compile(rf"^[^aeiouy]+$|[^aeiouy]{{6,}}|{'|'.join(_KEY_RUNS)}")
# The bytes 0x80 to 0xBF as Windows-1252 shows them, and then whole UTF-8 sequences as it shows them.
_TAIL = "[\x80-\xbf" + bytes(range(0x80, 0xA0)).decode("cp1252", errors="ignore") + "]"
_AS_CP1252 = re.compile(f"[\xc2-\xdf]{_TAIL}|[\xe0-\xef]{_TAIL}{{2}}|[\xf0-\xf4]{_TAIL}{{3}}")


def _is_mojibake(text: str) -> bool:
    if text.isascii():
        return False
    if "锟斤拷" in text or "烫烫烫" in text or "â€" in text or len(_AS_CP1252.findall(text)) >= 2:
        return True
    foreign = [character for character in text if ord(character) > 127]
    if len(foreign) < 4:
        return False
    # Chinese in UTF-8, read as GBK, turns back into Chinese; what was written as Chinese turns into scraps.
    back = "".join(foreign).encode("gbk", errors="ignore").decode("utf-8", errors="replace")
    return 2 * sum("\u3000" <= character <= "\uffef" for character in back) >= max(len(back), len(foreign) / 2)


def _texts(rows: Sequence[Row], column: str) -> list[str]:
    problems = []
    texts = []
    for row in rows:
        value = row.compared(column)
        if isinstance(value, str):
            texts.append(value.strip())
        else:
            got = f"{type(value).__name__}" if column in row.fields else ", ".join(map(repr, row.fields)) or "no column"
            problems.append(Problem(f"{row.file}:{row.line}", f"expected text in the column {column!r}, got {got}"))
    if problems:
        raise DataError("rows", problems)
    return texts


# Column -> the labels of one row.
_Labels = Mapping[str, frozenset[str]]


def _labels_of(
    row: Row,
    label_columns: Mapping[str, Sequence[str] | None],
    free_text: Collection[str],
    separators: Mapping[str, str],
) -> _Labels:
    return {
        column: frozenset(split_labels(row.fields.get(column), separators.get(column), allowed))
        for column, allowed in label_columns.items()
        if column not in free_text and not row.is_document
    }


def _low_quality(
    row: Row,
    text: str,
    label_columns: Mapping[str, Sequence[str] | None],
    settings: Clean,
    separators: Mapping[str, str],
) -> tuple[Reason, str] | None:
    if not text:
        return "empty", ""
    if len(text) < settings.min_chars:
        return "too_short", f"{len(text)} characters"
    if settings.drop_garbled and is_garbled(text):
        return "garbled", ""
    for column, allowed in ({} if row.is_document else label_columns).items():
        values = split_labels(row.fields.get(column), separators.get(column), allowed)
        if not values:
            return "missing_label", column
        unknown = [value for value in values if allowed is not None and value not in allowed]
        if unknown:
            return "unknown_label", f"{column}: {', '.join(map(repr, unknown))}"
    return None


def _duplicates(
    rows: Sequence[Row],
    texts: Sequence[str],
    labels: Sequence[_Labels],
    good: Sequence[int],
    dedupe: Literal["none", "exact", "near"],
) -> tuple[dict[int, Dropped], list[Conflict]]:
    """What to drop among `good`, and the conflicts among what stays."""
    dropped: dict[int, Dropped] = {}
    conflicts: list[Conflict] = []
    if dedupe == "none":
        return dropped, conflicts
    near_index = None
    kept_with: dict[object, list[int]] = {}  # text and what is asked of it -> kept rows with exactly that
    if dedupe == "near":
        sets = ShingleSets([texts[index] for index in good])
        numbers: dict[object, int] = {}
        tasks: dict[object, int] = {}
        same_task = [tasks.setdefault(rows[index].task, len(tasks)) for index in good]
        alike = [
            numbers.setdefault((rows[index].task, frozenset(labels[index].items())), len(numbers)) for index in good
        ]
        near_index, near_alike = NearIndex(sets, same_task), NearIndex(sets, alike)
    for position, index in enumerate(good):
        row = rows[index]
        exact = kept_with.setdefault((texts[index], row.task), [])
        same = next((other for other in exact if labels[other] == labels[index]), None)
        if same is not None:
            dropped[index] = Dropped(row.file, row.line, "duplicate", same_as=_place(rows[same]))
            continue
        conflicting = exact[0] if exact else None
        if near_index is not None:
            near = next(near_alike.near(position), None)
            if near is not None:
                dropped[index] = Dropped(row.file, row.line, "near_duplicate", same_as=_place(rows[good[near]]))
                continue
            near = next(near_index.near(position), None)  # its labels differ, or it were the one above
            conflicting = conflicting if near is None else good[near]
            near_index.add(position)
            near_alike.add(position)
        if conflicting is not None:
            conflicts.append(Conflict(row.file, row.line, _place(rows[conflicting])))
        exact.append(index)
    return dropped, conflicts


def _place(row: Row) -> str:
    return f"{row.file}:{row.line}"


def _multi_shares(everything: Sequence[_Labels], some: Sequence[_Labels]) -> dict[str, float]:
    """Share of `some` with several labels, for each column in which any row of `everything` has several."""
    columns = dict.fromkeys(column for row in everything for column, values in row.items() if len(values) > 1)
    return {column: sum(len(row[column]) > 1 for row in some) / max(len(some), 1) for column in columns}


def _label_counts(kept: Iterable[_Labels]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in kept:
        for column, values in row.items():
            counts.setdefault(column, Counter()).update(values)
    return {
        column: dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
        for column, counter in counts.items()
    }
