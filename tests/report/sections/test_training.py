"""The section on training: its lines are the events of metrics.jsonl, its verdict and suggestions those of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxtune.report.blocks import Block, Folded, Paragraph, Table, charts
from mlxtune.report.charts import LineChart, Mark
from mlxtune.report.contents.run import RunContents, read_contents
from mlxtune.report.sections.training import MAX_POINTS, training_section
from mlxtune.report.words import LANGUAGES, Words
from mlxtune.runs.folder import open_run
from mlxtune.training.diagnosis import DIVERGING, HEALTHY, OVER_FITTING, TOO_FEW, UNDER_FITTING
from tests.made_runs import made_run, ticket_recipe, tickets


def step(number: int, loss: float = 1.0, **keys: Any) -> dict[str, Any]:
    facts = {
        "epoch": number / 10,
        "learning_rate": 1e-4 * number,
        "grad_norm": 0.5,
        "tokens": 500,
        "seconds": 0.5,
        "peak_memory_gb": 1.5,
    }
    return {"event": "step", "step": number, "loss": loss, **facts, **keys}  # fmt: skip


def validation(number: int, loss: float, train: float) -> dict[str, Any]:
    segments = {"template": {"loss": loss / 2, "tokens": 10}, "tags": {"loss": loss * 2, "tokens": 10}}
    return {
        "event": "validation", "step": number, "loss": loss, "segments": segments, "ratio": loss / train,
        "train": {"loss": train, "segments": segments},
    }  # fmt: skip


def contents(folder: Path, metrics: Sequence[dict[str, Any]], **info: Any) -> RunContents:
    recipe = ticket_recipe(folder / "tickets", tickets(4))
    return read_contents(open_run(made_run(folder / "run", recipe, metrics=metrics, **info)))


def blocks(found: RunContents, language: str = "en") -> Sequence[Block]:
    section = training_section(found, Words(language))
    assert section is not None
    return section.blocks


def chart(found: RunContents, name: str) -> LineChart:
    (one,) = [one for one in charts(blocks(found)) if one.name == name]
    assert isinstance(one, LineChart)
    return one


EVENTS = [step(1, 2.0), step(2, 1.0), validation(2, 0.9, 0.8), step(3, 0.5), step(4, 0.4), validation(4, 1.2, 0.4)]


def test_the_losses_are_the_events(tmp_path: Path) -> None:
    losses = chart(contents(tmp_path, EVENTS), "losses")
    assert {one.name: (list(one.x), list(one.y)) for one in losses.series} == {
        "training, each step": ([1, 2, 3, 4], [2.0, 1.0, 0.5, 0.4]),
        "training, fixed sample": ([2, 4], [0.8, 0.4]),
        "validation": ([2, 4], [0.9, 1.2]),
    }
    assert "0.9" in losses.description and "1.2" in losses.description


def test_the_best_step_and_an_early_stop_are_marked(tmp_path: Path) -> None:
    best = {"metric": "valid.loss", "value": 0.9, "step": 2}
    found = contents(tmp_path, EVENTS, best=best, step=4, stopped="valid.loss was best at step 2", adapter_step=2)
    assert chart(found, "losses").marks == [Mark(2, "best validation: 0.9"), Mark(4, "stopped")]
    said = [block.text for block in blocks(found) if isinstance(block, Paragraph)]
    assert any("Training stopped early, at step 4: valid.loss was best at step 2 (0.9)" in text for text in said)
    assert any("adapter is that of step 2" in text for text in said)


def test_a_long_training_is_drawn_as_means(tmp_path: Path) -> None:
    n_steps = 3 * MAX_POINTS - 1
    found = contents(tmp_path, [step(number, float(number)) for number in range(1, n_steps + 1)])
    (line,) = chart(found, "losses").series
    assert len(line.x) == MAX_POINTS and line.x[-1] == n_steps
    assert line.y[:2] == [2.0, 5.0] and line.y[-1] == n_steps - 0.5


def test_a_loss_that_is_no_number_breaks_the_line(tmp_path: Path) -> None:
    (line,) = chart(contents(tmp_path, [step(1, 1.0), step(2, math.nan), step(3, math.inf)]), "losses").series
    assert line.y == [1.0, None, None]


def test_speed_memory_learning_rate_and_gradients_are_folded_away(tmp_path: Path) -> None:
    (folded,) = [block for block in blocks(contents(tmp_path, EVENTS)) if isinstance(block, Folded)]
    found = {one.name: one.series[0].y for one in charts([folded]) if isinstance(one, LineChart)}
    assert found["tokens"] == [1000.0] * 4 and found["memory"] == [1.5] * 4 and found["grad-norm"] == [0.5] * 4
    assert found["learning-rate"] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])


def test_parts_of_the_reply_have_their_losses(tmp_path: Path) -> None:
    losses = {
        "train": {"template": {"loss": 0.1, "tokens": 9}, "tags": {"loss": 0.4, "tokens": 9}},
        "valid": {"template": {"loss": 0.2, "tokens": 9, "accuracy": 0.95}, "tags": {"loss": 0.8, "tokens": 9, "label_accuracy": 0.5}},
        "step": 4,
    }  # fmt: skip
    found = contents(tmp_path, EVENTS, losses=losses)
    (table,) = [block for block in blocks(found) if isinstance(block, Table)]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["template", "0.1000", "0.2000", "95.0%", ""],
        ["tags", "0.4000", "0.8000", "", "50.0%"],
    ]
    lines = {one.name: list(one.y) for one in chart(found, "segment-losses").series}
    assert lines == {"template": [0.45, 0.6], "tags": [1.8, 2.4]}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("verdict", [HEALTHY, OVER_FITTING, UNDER_FITTING, DIVERGING, TOO_FEW])
def test_every_verdict_has_words_and_its_numbers(verdict: str, language: str, tmp_path: Path) -> None:
    diagnosis = {"verdict": verdict, "evidence": "as training wrote it", "suggestions": {}}
    first = blocks(contents(tmp_path, EVENTS, diagnosis=diagnosis), language)[0]
    assert isinstance(first, Paragraph) and "as training wrote it" not in first.text
    assert Words(language)(f"training.verdict.{verdict}") in first.text and "3.00" in first.text and "33%" in first.text


def test_suggestions_stand_beside_what_is_set(tmp_path: Path) -> None:
    suggestions = {"train.learning_rate": 5e-5, "lora.dropout": 0.1, "train.early_stopping": {"patience": 3}}
    diagnosis = {"verdict": OVER_FITTING, "evidence": "", "suggestions": suggestions}
    (table,) = [one for one in blocks(contents(tmp_path, EVENTS, diagnosis=diagnosis)) if isinstance(one, Table)]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["train.learning_rate", "2e-4", "5e-5"],
        ["lora.dropout", "0", "0.1"],
        ["train.early_stopping", "null", "{patience: 3}"],
    ]


def test_without_validation_nothing_is_known_of_over_fitting(tmp_path: Path) -> None:
    first = blocks(contents(tmp_path, [step(1)]))[0]
    assert isinstance(first, Paragraph) and first.tone == "warning" and "no validation" in first.text


def test_a_run_without_any_event_has_no_such_section(tmp_path: Path) -> None:
    assert training_section(contents(tmp_path, []), Words("en")) is None
