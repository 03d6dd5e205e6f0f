"""Scores as tables for the terminal: rich renderables, and their text. Computes no metric.

print(to_text([*score_tables(result), before_after(before, result)]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlxtune.evaluation.metrics.metric import OF_SPEED
from mlxtune.evaluation.metrics.registry import METRICS, headline
from mlxtune.report.terminal.cells import cell_text, new_table, shown_metrics, titled
from mlxtune.report.values import clipped, estimate_text, value_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mlxtune.evaluation.fields.scorer import Scores
    from mlxtune.evaluation.metrics.estimates import Estimate
    from mlxtune.evaluation.metrics.labels import Confusion, GroupScore, LabelScore
    from mlxtune.evaluation.metrics.paired import Comparison
    from mlxtune.evaluation.predict.consistency import Consistency, Flip
    from mlxtune.evaluation.predict.probabilities import FieldCalibration
    from mlxtune.evaluation.results import Against, DecodingResult, EvaluationResult, FieldThresholds, Speed

WIDTH = 100
MAX_LABELS = 40  # of an open set there may be thousands
MAX_FLIPS = 20  # rows shown whose samples do not agree
MAX_FLIP_CHARS = 60
MAX_CONFUSED = 10  # columns of a confusion table that fit beside one another
MAX_HEAD_CHARS = 60  # of the labels above them; longer ones are numbered
SPEEDS = {one.name: (one.title, form) for one, form in zip(OF_SPEED, (".3f", ".2f", ".1f", ".2f"), strict=True)}


def score_tables(result: EvaluationResult) -> list[RenderableType]:
    """Everything worth reading of one evaluation: headlines, then labels, groups and texts of each field, then speed."""
    from rich.text import Text

    top, columns = result.top, result.decodings or {result.top.decoding: result.top}
    tables: list[RenderableType] = [headlines(columns, f"{top.rows} rows; 95% intervals over rows in brackets")]
    for name, scores in top.fields.items():
        tables += field_tables(name, scores)
        if name in top.calibration and top.calibration[name].calibration.rows:
            tables.append(calibration_table(name, top.calibration[name]))
        if name in top.thresholds:
            tables += threshold_tables(name, scores, top.thresholds[name])
    if top.consistency is not None:
        tables.append(consistency_table(top.consistency))
        if top.consistency.flips:
            tables.append(flip_table(top.consistency.flips))
    tables += baseline_tables(result)
    tables += [Text(note) for note in top.notes]
    tables += [Text(_speed(name, column.speed)) for name, column in columns.items() if column.speed]
    tables += [
        Text(_speed(f"{name}, before tuning", baseline.speed))
        for name, baseline in (result.baselines or {}).items()
        if baseline.speed
    ]
    return tables


def field_tables(name: str, scores: Scores) -> list[RenderableType]:
    """What one field has besides its main metrics: labels and groups, or texts by ROUGE-L and by whether labels are right."""
    from mlxtune.evaluation.metrics.texts import TextScores
    from mlxtune.report.terminal.text_tables import text_tables

    if isinstance(scores, TextScores):
        return text_tables(name, scores)
    tables = [label_table(name, scores.labels)] if scores.labels else []
    if scores.by_count is not None and len(scores.by_count) > 1:
        tables.append(count_table(name, scores.by_count))
    if scores.confusion is not None and 2 <= len(scores.confusion.labels) <= MAX_CONFUSED:
        tables += confusion_tables(name, scores.confusion)
    return tables


def before_after(base: EvaluationResult, tuned: EvaluationResult, changes: Against | None = None) -> RenderableType:
    """The model before and after tuning, in a decoding that both were evaluated in, if there is one.

    Args:
        base: Before.
        tuned: After.
        changes: After compared with before; gives each change its interval.
    """
    from mlxtune.evaluation.stored import common_decoding

    after, before = common_decoding(tuned, base)
    same = before.decoding == after.decoding
    how = f"{before.decoding} decoding" if same else f"{before.decoding} against {after.decoding} decoding"
    rows = str(after.rows) if before.rows == after.rows else f"{before.rows} and {after.rows}"
    title = f"Before and after tuning: {rows} rows, {how}"
    return headlines({"before": before, "after": after}, title, change=True, changes=changes)


def baseline_tables(result: EvaluationResult) -> list[RenderableType]:
    """The baselines of each field beside the model, and what the comparison with each says."""
    tables = []
    for name, scores in result.top.fields.items():
        compared = {
            baseline: one
            for baseline, one in (result.baselines or {}).items()
            if name in one.fields and name in one.against.fields
        }
        headline_name = headline(next(iter(compared.values())).against.fields[name]) if compared else None
        if headline_name is None:
            continue
        shown = METRICS[headline_name]
        best, beside = shown.name, shown.beside
        table = new_table("")
        table.padding = (0, 1, 0, 0)  # closer than elsewhere: the sentences are long
        for column in (shown.title, METRICS[beside].title):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column(f"the model, by {shown.title}", overflow="fold")
        table.add_row("the model", estimate_text(scores[best]), f"{scores[beside].value:.3f}", "")
        for baseline, one in compared.items():
            got, sentence = one.fields[name], one.against.fields[name][best].sentence
            table.add_row(baseline, estimate_text(got[best]), f"{got[beside].value:.3f}", sentence)
        tables.append(titled(f"{name}: the model against baselines on the same {result.top.rows} rows", table))
    return tables


def error_tables(errors: Mapping[str, Any], n_rows: int) -> list[RenderableType]:
    """The most frequent errors of each field and the worst rows, up to `n_rows` of each; nothing where all is right."""
    if not errors["wrong"] or not n_rows:
        return []
    tables = []
    for name, field in errors["fields"].items():
        said = [
            *(f"{one['label']} missed {_beside(one)}" for one in field.get("missed", [])[:n_rows]),
            *(f"{one['label']} added {_beside(one)}" for one in field.get("added", [])[:n_rows]),
            *(f"{one['label']} taken for {one['taken_for']}" for one in field.get("confused", [])[:n_rows]),
        ]
        counts = [one for kind in ("missed", "added", "confused") for one in field.get(kind, [])[:n_rows]]
        if said:
            table = new_table("error")
            table.add_column("rows", justify="right", no_wrap=True)
            for sentence, one in zip(said, counts, strict=True):
                table.add_row(cell_text(sentence), f"{one['rows']} of {one['of']}")
            tables.append(titled(f"{name}: the commonest errors", table))
    table = new_table("row", "text", "expected", "predicted")
    shown = errors["worst"][:n_rows]
    for row in shown:
        labels = [name for name in errors["fields"] if _differ(row["expected"][name], row["predicted"][name])]
        expected = "; ".join(value_text(row["expected"][name]) for name in labels)
        got = "; ".join(dict.fromkeys(_predicted(row, name) for name in labels))  # an unreadable reply once
        table.add_row(str(row["row"]), *(cell_text(clipped(text)) for text in (row["input"], expected, got)))
    counted = "the worst row" if len(shown) == 1 else f"the {len(shown)} worst rows"
    more = [f"{len(errors[kind])} {kind}" for kind in ("unparseable", "loops") if errors[kind]]
    wrong = f"{errors['wrong']} of {errors['rows']} rows are wrong" + "".join(f", {one}" for one in more)
    tables.append(titled(f"{wrong}; {counted}", table))
    return tables


def headlines(
    columns: Mapping[str, DecodingResult], title: str, change: bool = False, changes: Against | None = None
) -> RenderableType:
    """The main metrics of several results side by side; with `change`, the last less the first, with its interval."""
    from mlxtune.evaluation.metrics.labels import LabelScores

    table = new_table("field", "metric")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    if change:
        table.add_column("change", justify="right", no_wrap=True)
    results = list(columns.values())
    by_field = {name: [one.fields.get(name) for one in results] for one in results for name in one.fields}
    parts = {name: [_shown(one) for one in scores] for name, scores in by_field.items()}
    every: dict[str, Mapping[str, Comparison]] = dict(changes.fields) if changes else {}
    if sum(any(isinstance(one, LabelScores) and one.labels for one in scores) for scores in by_field.values()) > 1:
        replies = [one.replies.get("all_fields_correct") for one in results]
        if any(replies):  # last, under a name that no field can have
            parts["(reply)"] = [{"all_fields_correct": reply} if reply else {} for reply in replies]
            every["(reply)"] = changes.replies if changes else {}
    for name, fields in parts.items():
        first = True
        for metric, title_of_metric in shown_metrics():
            estimates = [metrics.get(metric) for metrics in fields]
            if not any(estimates):
                continue
            cells = [estimate_text(estimate) for estimate in estimates]
            if change:
                before, after = estimates[0], estimates[-1]
                compared = every.get(name, {}).get(metric)
                cells.append("" if before is None or after is None else _change(after.value - before.value, compared))
            table.add_row(cell_text(name if first else ""), title_of_metric, *cells)
            first = False
        if name != list(parts)[-1]:
            table.add_section()
    if change:
        _add_speed(table, [one.speed for one in results])
    return titled(title, table)


def label_table(name: str, labels: Mapping[str, LabelScore]) -> RenderableType:
    """Precision, recall and F1 of each label of a field, the most frequent first where there are too many to show."""
    from mlxtune.evaluation.metrics.estimates import Estimate

    shown = list(labels)
    if len(shown) > MAX_LABELS:
        shown = sorted(shown, key=lambda label: -labels[label].support)[:MAX_LABELS]
    title = f"{name}: by label" + (f", the commonest {MAX_LABELS} of {len(labels)}" if len(shown) < len(labels) else "")
    table = new_table("label")
    for column in ("precision", "recall", "F1", "support"):
        table.add_column(column, justify="right", no_wrap=True)
    for label in shown:
        got = labels[label]
        recall = estimate_text(Estimate(got.recall, *(got.recall_interval or (None, None))))
        table.add_row(cell_text(label), f"{got.precision:.3f}", recall, f"{got.f1:.3f}", str(got.support))
    return titled(title, table)


def count_table(name: str, by_count: Mapping[str, GroupScore]) -> RenderableType:
    """Exact match by the number of labels that a row expects."""
    table = new_table("labels")
    for column in ("rows", "exact match"):
        table.add_column(column, justify="right", no_wrap=True)
    for count, group in by_count.items():
        table.add_row(count, str(group.rows), estimate_text(group.exact_match))
    return titled(f"{name}: by number of expected labels", table)


def confusion_tables(name: str, confusion: Confusion) -> list[RenderableType]:
    """Rows by expected and predicted label, and those without a valid prediction; then the same in percent of each row."""
    labels = confusion.labels
    counts = zip(confusion.counts, confusion.invalid, strict=True)
    percents = zip(confusion.percent, confusion.invalid_percent, strict=True)
    sign = "" if _numbered(labels) else "%"  # many columns: the title has to do
    rows = [[str(n) for n in (*of_label, none)] for of_label, none in counts]
    shares = [[f"{percent:.1f}{sign}" for percent in (*of_label, none)] for of_label, none in percents]
    return [
        _confusion(f"{name}: rows by expected (down) and predicted (across) label", labels, rows),
        _confusion(f"{name}: the same in percent of the rows that expect each label", labels, shares),
    ]


def _confusion(title: str, labels: Sequence[str], cells: Sequence[Sequence[str]]) -> RenderableType:
    """A square of labels; where their names are too long to stand above the columns, they are numbered."""
    numbered = _numbered(labels)
    names = [f"{number} {label}" for number, label in enumerate(labels, start=1)] if numbered else list(labels)
    table = new_table("")
    if numbered:
        table.padding = (0, 1, 0, 0)
    for number, label in enumerate(labels, start=1):
        table.add_column(str(number) if numbered else cell_text(label), justify="right", no_wrap=numbered)
    table.add_column("invalid", justify="right", no_wrap=True)
    for label, row in zip(names, cells, strict=True):
        table.add_row(cell_text(label), *row)
    return titled(title, table)


def _numbered(labels: Sequence[str]) -> bool:
    return sum(map(len, labels)) > MAX_HEAD_CHARS


def calibration_table(name: str, calibration: FieldCalibration) -> RenderableType:
    """Whether a field's probabilities hold: rows by probability of what was predicted, and how many were right."""
    table = new_table("probability")
    for column in ("rows", "mean", "right"):
        table.add_column(column, justify="right", no_wrap=True)
    found, covered = calibration.calibration, calibration.coverage
    for one in found.reliability:
        if one.rows:
            table.add_row(
                f"{one.low:.1f} to {one.high:.1f}", str(one.rows), f"{one.confidence:.3f}", f"{one.accuracy:.3f}"
            )
    title = f"{name}: probabilities; expected calibration error {found.expected_calibration_error:.3f}"
    if covered is not None:
        at = "at no probability" if covered.threshold is None else f"at probability {covered.threshold:.3f} or more"
        right = "" if covered.precision is None else f", {covered.precision:.3f} of them right"
        title += f"\n95% right on validation rows {at}: answers {covered.coverage:.3f} of the rows here{right}"
    return titled(title, table)


def threshold_tables(name: str, scores: Scores, found: FieldThresholds) -> list[RenderableType]:
    """The metrics of a field with thresholds beside those without, and the threshold of each label."""
    table = new_table("metric")
    for column in ("without", "with", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    for metric, title_of_metric in shown_metrics():
        if metric in found.gain:
            plain, tuned = scores[metric], found.scores[metric]
            change = _change(tuned.value - plain.value, found.gain[metric])
            table.add_row(title_of_metric, estimate_text(plain), estimate_text(tuned), change)
    best = headline(found.gain)
    sentence = "" if best is None else f"; by {METRICS[best].title} {found.gain[best].sentence}"
    tables = [titled(f"{name}: with a threshold for each label{sentence}", table)]
    labels = new_table("label")
    for column in ("threshold", "F1 there", "F1 at 0.5", "support"):
        labels.add_column(column, justify="right", no_wrap=True)
    for label, one in found.labels.items():
        labels.add_row(
            cell_text(label), f"{one.threshold:.3f}", f"{one.f1:.3f}", f"{one.default_f1:.3f}", str(one.support)
        )
    return [*tables, titled(f"{name}: thresholds, chosen on {found.validation_rows} validation rows", labels)]


def consistency_table(consistency: Consistency) -> RenderableType:
    """How far the samples of a row agree, and the rows that flip."""
    table = new_table("field", "metric")
    table.add_column("mean over rows", justify="right", no_wrap=True)
    for name, one in consistency.fields.items():
        table.add_row(cell_text(name), "agreement", estimate_text(one.agreement))
        table.add_row("", "entropy, bits", estimate_text(one.entropy_bits))
        table.add_row("", "rows that flip", estimate_text(one.flip_rate))
    how = f"{consistency.repeats} samples of each row at temperature {consistency.temperature:g}"
    return titled(f"Consistency: {how}", table)


def flip_table(flips: Sequence[Flip]) -> RenderableType:
    """Rows whose samples do not agree, and what each said how often."""
    table = new_table("row", "field", "text", "samples")
    for flip in flips[:MAX_FLIPS]:
        said = "; ".join(f"{value or 'not valid'} ({times}x)" for value, times in flip.values.items())
        text = " ".join(flip.input.split())
        table.add_row(str(flip.row), cell_text(flip.field), cell_text(text[:MAX_FLIP_CHARS]), cell_text(said))
    left_out = len(flips) - MAX_FLIPS
    return titled(f"Rows that flip{f'; {left_out} more are in scores.json' if left_out > 0 else ''}", table)


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


def _shown(scores: Scores | None) -> dict[str, Estimate]:
    """A field's metrics; of texts BERTScore too, where it was asked for."""
    from mlxtune.evaluation.metrics.texts import TextScores

    if scores is None:
        return {}
    further = {"bertscore": scores.bertscore} if isinstance(scores, TextScores) and scores.bertscore else {}
    return {**scores.metrics, **further}


def _add_speed(table: Table, of_results: Sequence[Speed | None]) -> None:
    """Time and memory below the metrics, where all have them."""
    speeds = [{} if speed is None else speed.to_json() for speed in of_results]
    shown = [key for key in SPEEDS if all(key in speed for speed in speeds)]
    for key in shown:
        if key == shown[0]:
            table.add_section()
        title, form = SPEEDS[key]
        cells = [format(speed[key], form) for speed in speeds]
        change = format(speeds[-1][key] - speeds[0][key], f"+{form}")
        table.add_row("speed" if key == shown[0] else "", title, *cells, change)


def _change(difference: float, compared: Comparison | None) -> str:
    if compared is None or compared.low is None or compared.high is None:
        return f"{difference:+.3f}"
    return f"{difference:+.3f} [{compared.low:+.3f}, {compared.high:+.3f}]"


def _beside(error: Mapping[str, Any]) -> str:
    return "alone" if error["beside"] is None else f"beside {error['beside']}"


def _predicted(row: Mapping[str, Any], name: str) -> str:
    """What was said in a field of a wrong row, with its probability where that was asked for."""
    if row["predicted"][name] is None:
        return f"(invalid) {row['prediction']!r}"
    probability = row.get("probability", {}).get(name)
    return value_text(row["predicted"][name]) + ("" if probability is None else f" ({probability:.2f})")


def _differ(right: Any, said: Any) -> bool:
    """Whether two values of a field differ; labels of an open set stand in the order in which they were written."""
    if isinstance(right, (list, tuple)) and isinstance(said, (list, tuple)):
        return set(right) != set(said)
    return bool(right != said)


def _speed(decoding: str, speed: Speed) -> str:
    return (
        f"{decoding}: {speed.seconds_per_row:.3f} s a row, {speed.rows_per_second:.2f} rows/s, "
        f"{speed.tokens_per_second:.1f} tokens/s"
        + ("" if speed.peak_memory_gb is None else f", peak memory {speed.peak_memory_gb:.2f} GB")
    )
