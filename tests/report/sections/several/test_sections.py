"""Several runs in one report: numbers are those of `compare_runs`, whichever run is the baseline; runs with less say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mlxtune.errors import DataError
from mlxtune.evaluation.compare.runs import compare_runs
from mlxtune.evaluation.metrics.metric import REPLY
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.stored import open_evaluations
from mlxtune.files import write_json
from mlxtune.report.blocks import Block, Choice, Folded, Paragraph, Predictions, Section, Table
from mlxtune.report.charts import BarChart, LineChart, ScatterChart
from mlxtune.report.contents.run import RunContents, read_contents
from mlxtune.report.sections.several import metrics as metrics_file
from mlxtune.report.sections.several.metrics import title_of
from mlxtune.report.sections.several.runs import MAX_DRAWN, several_runs
from mlxtune.report.sections.several.sections import comparison_sections
from mlxtune.report.sections.several.summary import summary_section
from mlxtune.report.values import difference_text, estimate_text
from mlxtune.report.words import LANGUAGES, Words
from mlxtune.runs.folder import RunFolder, open_run
from tests.made_runs import made_evaluation, made_run, replies_of, ticket_recipe, tickets, validation
from tests.report.sections.made import texts

ROWS = tickets(60)
SAY = Words("en")
B = TypeVar("B", bound=Block)


def steps(
    n_steps: int, loss: float = 1.0, rate: float = 1e-3, epoch: float = 0.1, tokens: int = 100
) -> list[dict[str, Any]]:
    return [
        {"event": "step", "step": i, "loss": loss, "learning_rate": rate, "epoch": epoch * i, "tokens": tokens}
        for i in range(1, n_steps + 1)
    ]


def curve(valid: float, **about: Any) -> list[dict[str, Any]]:
    return [*steps(20, **about), validation(10, valid + 0.5, 0.9), validation(20, valid, 0.5)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return ticket_recipe(tmp_path / "recipe", ROWS)


@pytest.fixture
def runs(file: Path) -> list[Path]:
    """The best, the worst, and one that is nearly as good as the best."""
    return [
        made_run(Path("runs/t/a"), file, replies_of(ROWS, 0.9, 1), metrics=curve(0.4), seconds=100.0),
        made_run(Path("runs/t/b"), file, replies_of(ROWS, 0.3, 2), ["lora.rank=4"], curve(0.9), seconds=30.0),
        made_run(Path("runs/t/c"), file, replies_of(ROWS, 0.87, 1), ["lora.rank=32"], curve(0.5), seconds=300.0),
    ]


def contents(*paths: Path) -> list[RunContents]:
    found = open_evaluations(paths, evaluated=False)
    return [read_contents(one.run, one.folder.name) for one in found if one.run is not None]


def sections(*paths: Path, language: str = "en") -> dict[str, Section]:
    return {one.name: one for one in comparison_sections(contents(*paths), Words(language))}


def within(blocks: Any) -> Iterator[Block]:
    """Blocks, with those that are folded or one of several versions."""
    for block in blocks:
        yield block
        if isinstance(block, Folded):
            yield from within(block.blocks)
        elif isinstance(block, Choice):
            for option in block.options.values():
                yield from within(option)


def every(section: Section, kind: type[B]) -> list[B]:
    return [block for block in within(section.blocks) if isinstance(block, kind)]


def cells(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


# Metrics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [0, 1, 2])
def test_differences_to_each_baseline_are_those_that_compare_runs_finds(runs: list[Path], baseline: int) -> None:
    """All of them, of every metric, in a table of the baseline's own."""
    order = [runs[baseline], *(run for run in runs if run != runs[baseline])]
    expected = compare_runs(open_evaluations(order))
    (choice,) = every(sections(*runs)["compared"], Choice)
    assert list(choice.options) == ["a", "b", "c"]
    (table,) = [
        block
        for block in within(choice.options[runs[baseline].name])
        if isinstance(block, Table) and "all" in block.title
    ]
    names = [column.title for column in table.columns[2:]]
    found = {(row[0], row[1]): dict(zip(names, row[2:], strict=True)) for row in cells(table)}
    tested = [one for one in expected.metrics if any(one.comparisons)]
    assert len(tested) == len(found) > 10
    for one in tested:
        row = found["whole reply" if one.field == REPLY else one.field, title_of(one.name, SAY)]
        for name, compared in zip(expected.names[1:], one.comparisons[1:], strict=True):
            assert row[name].startswith(difference_text(compared))
            assert compared is None or compared.mark is None or SAY(f"verdict.{compared.verdict}") in row[name]


def test_tables_of_a_field_show_each_run_with_its_interval_and_its_verdict(runs: list[Path]) -> None:
    expected = compare_runs(open_evaluations(runs))
    (accuracy,) = [one for one in expected.metrics if (one.field, one.name) == ("priority", "accuracy")]
    (choice,) = every(sections(*runs)["compared"], Choice)
    (table,) = [one for one in choice.options["a"] if isinstance(one, Table) and one.title.startswith("priority")]
    shown = [row for row in cells(table) if row[0] == "accuracy"]
    assert [row[1:3] for row in shown] == [
        [name, estimate_text(value)] for name, value in zip("abc", accuracy.values, strict=True)
    ]
    assert shown[0][3:] == ["baseline", ""]
    assert [row[3] for row in shown[1:]] == [difference_text(one) for one in accuracy.comparisons[1:]]
    assert shown[1][4] == "worse"


def test_all_values_are_those_of_compare_runs(runs: list[Path]) -> None:
    expected = compare_runs(open_evaluations(runs))
    table = next(one for one in every(sections(*runs)["compared"], Table) if one.title == "All metrics")
    shown = [row[2:] for row in cells(table)]
    assert shown == [[estimate_text(value) or "–" for value in one.values] for one in expected.metrics]


def test_of_many_runs_the_first_alone_is_the_baseline_and_that_is_said(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "MAX_BASELINES", 2)
    compared = sections(*runs)["compared"]
    assert not every(compared, Choice)
    assert any("only the first is a baseline" in one.text for one in every(compared, Paragraph))
    assert all("compared with a" in one.title for one in compared.blocks if isinstance(one, Table))


def test_runs_of_other_rows_are_refused_unless_the_rows_in_common_are_asked_for(runs: list[Path], file: Path) -> None:
    half = ticket_recipe(file.parent.parent / "half", ROWS[:30])
    other = made_run(Path("runs/t/d"), half, replies_of(ROWS[:30], 0.9, 1))
    found = contents(runs[0], other)
    with pytest.raises(DataError, match="--intersection compares on the 30 rows"):
        comparison_sections(found, SAY)
    compared = {one.name: one for one in comparison_sections(found, SAY, intersection=True)}["compared"]
    said = texts(compared)
    assert "30 rows" in said and "a 60 rows, d 30 rows" in said


def test_runs_of_other_fields_are_refused(runs: list[Path], file: Path) -> None:
    rows = tickets(60, response=True)
    other = made_run(Path("runs/t/d"), ticket_recipe(file.parent.parent / "texts", rows), replies_of(rows, 0.9, 1))
    with pytest.raises(DataError, match="'response'"):
        comparison_sections(contents(runs[0], other), SAY)


# Summary -----------------------------------------------------------------------------------------------------------


def test_the_summary_names_the_best_run_and_whether_the_next_is_significantly_worse(runs: list[Path]) -> None:
    expected = compare_runs(open_evaluations([runs[2], runs[0], runs[1]]))
    (accuracy,) = [one for one in expected.metrics if (one.field, one.name) == ("priority", "accuracy")]
    said = next(one.text for one in every(sections(*runs)["summary"], Paragraph) if "priority" in one.text)
    assert said.startswith(f"priority, accuracy: a is best with {estimate_text(accuracy.values[1])}.")
    assert f"no significant difference to the next, c with {estimate_text(accuracy.values[0])}" in said
    assert difference_text(accuracy.comparisons[1]) in said
    assert said.endswith("Significantly worse than a: b.")
    of_two = next(one for one in every(sections(*runs[:2])["summary"], Paragraph) if "priority" in one.text)
    assert "significantly better than the next, b" in of_two.text and of_two.tone == "good"


def test_runs_with_the_same_value_are_best_together(file: Path) -> None:
    alike = [made_run(Path("runs/t") / name, file, replies_of(ROWS, 0.8, 1)) for name in "ab"]
    said = [one.text for one in every(sections(*alike)["summary"], Paragraph)]
    assert any(text.startswith("priority, accuracy: a, b are best, all with") for text in said)


def test_the_table_of_runs_has_the_best_first_with_what_was_set_and_what_it_took(runs: list[Path]) -> None:
    (table,) = every(sections(runs[1], runs[0])["summary"], Table)
    titles = [column.title for column in table.columns]
    assert titles[:2] == ["run", "lora.rank"] and titles[-2:] == ["validation loss", "training time"]
    first, second = cells(table)
    assert (first[0], second[0]) == ("a", "b")
    assert first[1] == "8" and second[1] == "4" and first[-2:] == ["0.4000", "1 min 40 s"]
    assert any(text.endswith(", best") for text in first) and not any(text.endswith(", best") for text in second)


def test_a_run_that_was_not_evaluated_has_its_curves_and_the_others_are_compared(runs: list[Path], file: Path) -> None:
    new = made_run(Path("runs/t/new"), file, metrics=curve(0.7), status="interrupted")
    found = sections(*runs, new)
    warned = [one.text for one in every(found["summary"], Paragraph) if one.tone == "warning"]
    assert any("Not evaluated" in text and "new" in text for text in warned)
    assert any("new (status: interrupted)" in text for text in warned)
    (choice,) = every(found["compared"], Choice)
    assert list(choice.options) == ["a", "b", "c"]
    assert "new" in [one.name for one in every(found["curves"], LineChart)[0].series]


def test_runs_none_of_which_was_evaluated_have_curves_and_settings_alone(file: Path) -> None:
    new = [
        made_run(Path("runs/t") / name, file, None, [f"lora.rank={rank}"], curve(0.7))
        for name, rank in (("a", 4), ("b", 8))
    ]
    assert list(sections(*new)) == ["summary", "curves", "facts", "each"]


def test_a_base_model_stands_beside_its_run_and_has_no_curve(runs: list[Path]) -> None:
    folder = RunFolder(runs[0]).evaluation("base")
    made_evaluation(folder, RunFolder(runs[0]).recipe(), replies_of(ROWS, 0.2, 4), adapter=None)
    found = sections(folder, runs[0], runs[1])
    (table,) = every(found["summary"], Table)
    rows = {row[0]: row for row in cells(table)}
    assert set(rows) == {"a/base", "a/tuned", "b/tuned"} and rows["a/base"][-1] == rows["a/base"][1] == "–"
    assert [one.name for one in every(found["curves"], LineChart)[0].series] == ["a/tuned", "b/tuned"]
    assert not any("Without recorded steps" in one.text for one in every(found["curves"], Paragraph))


def test_bars_are_drawn_of_few_runs_alone(file: Path) -> None:
    many = [made_run(Path("runs/t") / f"r{i}", file, replies_of(ROWS, 0.5, i)) for i in range(MAX_DRAWN + 1)]
    few = several_runs(contents(*many[:MAX_DRAWN]))
    assert len(every(summary_section(few, SAY), BarChart)) == 1
    assert not every(summary_section(several_runs(contents(*many)), SAY), BarChart)


def test_of_many_runs_the_worse_ones_are_counted_and_headlines_alone_are_in_the_tables(file: Path) -> None:
    many = [
        made_run(Path("runs/t") / f"r{i}", file, replies_of(ROWS, 0.97 if i == 3 else 0.1, i))
        for i in range(MAX_DRAWN + 1)
    ]
    found = sections(*many)
    said = next(one.text for one in every(found["summary"], Paragraph) if "tags" in one.text)
    assert "r3 is best" in said and said.endswith(f"The {MAX_DRAWN - 1} others are significantly worse.")
    (choice,) = every(found["compared"], Choice)
    shown = [one for one in choice.options["r0"] if isinstance(one, Table) and one.title.startswith("priority")]
    assert {row[0] for row in cells(shown[0])} == {"accuracy"}


# Curves ------------------------------------------------------------------------------------------------------------


def test_curves_are_the_recorded_losses_over_steps(runs: list[Path]) -> None:
    valid, train = every(sections(*runs)["curves"], LineChart)
    assert [(one.name, list(one.x), list(one.y)) for one in valid.series] == [
        ("a", [10, 20], [0.9, 0.4]), ("b", [10, 20], [1.4, 0.9]), ("c", [10, 20], [1.0, 0.5])
    ]  # fmt: skip
    assert valid.x.title == "step" and list(train.series[0].x) == list(range(1, 21))


@pytest.mark.parametrize("rate", [1e-3, 5e-4])
def test_the_learning_rate_is_drawn_where_it_differs(file: Path, rate: float) -> None:
    a = made_run(Path("runs/t/a"), file, metrics=steps(10))
    b = made_run(Path("runs/t/b"), file, metrics=steps(20, rate=rate))
    drawn = [one.name for one in every(sections(a, b)["curves"], LineChart)]
    assert ("runs-learning-rate" in drawn) == (rate != 1e-3)


def test_curves_are_over_epochs_where_a_step_is_not_as_many_rows(file: Path) -> None:
    a = made_run(Path("runs/t/a"), file, metrics=curve(0.4, epoch=0.1))
    b = made_run(Path("runs/t/b"), file, metrics=curve(0.4, epoch=0.05))
    valid, *_ = every(sections(a, b)["curves"], LineChart)
    assert valid.x.title == "epoch"
    assert [list(one.x) for one in valid.series] == [pytest.approx([1.0, 2.0]), pytest.approx([0.5, 1.0])]


def test_curves_are_over_tokens_where_the_data_differ(file: Path) -> None:
    a = made_run(Path("runs/t/a"), file, metrics=curve(0.4, tokens=100))
    b = made_run(Path("runs/t/b"), file, metrics=curve(0.4, tokens=300))
    info = json.loads((b / "run.json").read_text())
    info["data"]["train"]["sha256"] = "other"
    write_json(b / "run.json", info)
    valid, *_ = every(sections(a, b)["curves"], LineChart)
    assert valid.x.title == "tokens trained on"
    assert [list(one.x) for one in valid.series] == [[1000, 2000], [3000, 6000]]


def test_of_many_curves_those_with_the_lowest_loss_are_drawn(file: Path) -> None:
    losses = [0.9, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.1]
    many = [made_run(Path("runs/t") / f"r{i}", file, metrics=curve(loss)) for i, loss in enumerate(losses)]
    found = sections(*many)["curves"]
    assert [one.name for one in every(found, LineChart)[0].series] == ["r1", "r2", "r3", "r4", "r5", "r7"]
    assert any("6 runs with the lowest validation loss of 8" in one.text for one in every(found, Paragraph))


# Costs and settings ------------------------------------------------------------------------------------------------


def test_each_metric_stands_against_the_costs_that_differ(runs: list[Path]) -> None:
    expected = compare_runs(open_evaluations(runs))
    (accuracy,) = [one for one in expected.metrics if (one.field, one.name) == ("priority", "accuracy")]
    charts = every(sections(*runs)["cost"], ScatterChart)
    names = {one.name for one in charts}
    assert "cost-training-seconds-priority-accuracy" in names and "cost-adapter-bytes-tags-exact_match" in names
    assert len(names) == len(charts)
    assert not any("memory" in name for name in names)  # all runs took as much
    chart = next(one for one in charts if one.name == "cost-training-seconds-priority-accuracy")
    assert [(one.name, one.x, one.y, one.low, one.high) for one in chart.points] == [
        (name, seconds, value.value, value.low, value.high)
        for name, seconds, value in zip("abc", (100, 30, 300), accuracy.values, strict=True)
        if value is not None
    ]


def test_facts_show_what_differs_and_what_each_run_cost(runs: list[Path]) -> None:
    settings, training, cost = (cells(one) for one in every(sections(*runs)["facts"], Table))
    assert ["lora.rank", "8", "4", "32"] in settings
    assert ["validation loss", "0.4000", "0.9000", "0.5000"] in training
    assert ["training, seconds", "100", "30", "300"] in cost


# Rows --------------------------------------------------------------------------------------------------------------


def test_rows_are_counted_by_which_runs_have_them_right(runs: list[Path]) -> None:
    predictions = [read_predictions(RunFolder(run).evaluation("tuned") / "predictions.jsonl") for run in runs[:2]]
    right = [[one.expected["priority"] == one.predicted["priority"] for one in of_run] for of_run in predictions]
    pairs = list(zip(*right, strict=True))
    (table,) = every(sections(*runs[:2])["disagreement"], Table)
    row = next(row for row in cells(table) if row[0] == "priority")
    counts = [int(text.split()[0]) for text in row[1:]]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    assert counts == [pairs.count((True, True)), only_a + only_b, pairs.count((False, False)), only_a, only_b]
    assert only_a > only_b > 0


def test_predictions_hold_the_answers_of_every_run_the_best_last(runs: list[Path]) -> None:
    (block,) = every(sections(*runs)["disagreement"], Predictions)
    assert block.systems == ["b", "c", "a"] and len(block.rows) == 60
    stored = read_predictions(RunFolder(runs[1]).evaluation("tuned") / "predictions.jsonl")
    assert [row.replies["b"] for row in block.rows] == [one.prediction for one in stored]
    assert any(row.answers["a"]["priority"].right != row.answers["b"]["priority"].right for row in block.rows)


# Words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_run_is_named_and_every_section_has_a_title_in_each_language(runs: list[Path], language: str) -> None:
    found = sections(*runs, language=language)
    assert list(found) == ["summary", "compared", "curves", "facts", "cost", "disagreement", "each"]
    assert [one.title for one in every(found["each"], Folded)][:3] != []
    said = "\n".join(one.title + texts(one) for one in found.values() if one.name != "each")
    assert "{" not in said.replace("{'", "")
    if language == "zh":
        assert "no real difference" not in said and "Significantly" not in said and "validation" not in said


def test_a_metric_of_part_of_the_rows_is_named_in_words() -> None:
    names = (
        "recall.a.b",
        "by_count.1.exact_match",
        "by_count.2.exact_match",
        "buckets.>0.5.share",
        "when_right.rougeL",
    )
    assert [title_of(name, SAY) for name in names] == [
        "recall of a.b", "exact match, rows with 1 label", "exact match, rows with 2 labels",
        "share of replies: close (ROUGE-L over 0.5)", "ROUGE-L where labels are right",
    ]  # fmt: skip


def test_runs_of_the_same_folder_name_are_told_apart(file: Path) -> None:
    found = [made_run(Path(f"runs/{name}/run"), file, replies_of(ROWS, 0.8, 1)) for name in ("x", "y")]
    assert several_runs([read_contents(open_run(run)) for run in found]).names == ["x", "y"]
