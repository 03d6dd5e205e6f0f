"""The first section: its numbers are those of scores.json, its sentences those of the comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.evaluation.metrics.registry import metric
from mlxtune.files import write_json
from mlxtune.report.blocks import Code, Facts, Folded, Paragraph, Section, Table, Tiles
from mlxtune.report.contents.run import RunContents, read_contents
from mlxtune.report.sections.conditions import conditions_sentence
from mlxtune.report.sections.headline import headline_section
from mlxtune.report.values import estimate_text
from mlxtune.report.words import LANGUAGES, Words
from mlxtune.report.write import build_report
from mlxtune.runs.folder import RunFolder, open_run
from tests.made_runs import made_evaluation, made_run, replies_of, ticket_recipe, tickets

ROWS = tickets(40)


def comparison(difference: float, low: float, high: float, p_value: float) -> dict[str, Any]:
    return {"difference": difference, "low": low, "high": high, "p_value": p_value}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return ticket_recipe(tmp_path / "tickets", ROWS)


@pytest.fixture
def run(tmp_path: Path, recipe_file: Path) -> Path:
    """An evaluated run, worse than one baseline, no different from another, and better than before."""
    run = made_run(tmp_path / "run", recipe_file, replies_of(ROWS, 0.8), step=30, parameters=50_000)
    scores = run / "evaluation" / "tuned" / "scores.json"
    content = json.loads(scores.read_text())
    of_priority = content["fields"]["priority"]
    content["baselines"] = {name: {"priority": of_priority} for name in ("majority", "tfidf")}
    content["comparisons"] = {
        "before": {"priority": {"accuracy": comparison(0.4, 0.2, 0.6, 0.001)}},
        "majority": {"priority": {"accuracy": comparison(-0.1, -0.2, -0.05, 0.01)}},
        "tfidf": {"priority": {"accuracy": comparison(0.01, -0.1, 0.12, 0.9)}},
    }
    content["notes"] = ["<b>2 replies</b> reached the limit"]
    write_json(scores, content)
    made_evaluation(RunFolder(run).evaluation("base"), RunFolder(run).recipe(), replies_of(ROWS, 0.2, 1), adapter=None)
    return run


def section(contents: RunContents, language: str = "en") -> Section:
    return headline_section(contents, Words(language))


def paragraphs(found: Section) -> list[Paragraph]:
    return [block for block in found.blocks if isinstance(block, Paragraph)]


def test_tiles_hold_the_metrics_of_scores_json_before_and_after(run: Path) -> None:
    contents = read_contents(open_run(run))
    (tiles,) = [block for block in section(contents).blocks if isinstance(block, Tiles)]
    scores, before = (json.loads((run / "evaluation" / name / "scores.json").read_text()) for name in ("tuned", "base"))
    assert [tile.title for tile in tiles.tiles] == [
        "all fields right", "priority, accuracy", "tags, exact match",
    ]  # fmt: skip
    for tile, (group, name) in zip(
        tiles.tiles, [("replies", "all_fields_correct"), ("priority", "accuracy"), ("tags", "exact_match")], strict=True
    ):
        one, other = (
            (content["replies"] if group == "replies" else content["fields"][group])[name]
            for content in (scores, before)
        )
        assert tile.value == f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        assert tile.before == f"{other['value']:.3f} [{other['low']:.3f}, {other['high']:.3f}]"
    assert (tiles.tiles[1].tone, tiles.tiles[1].note) == ("good", "better than before: +0.400 [+0.200, +0.600]")


def test_each_system_has_a_sentence(run: Path) -> None:
    said = {one.text: one.tone for one in paragraphs(section(read_contents(open_run(run))))}
    assert said == {
        "priority, accuracy: better than before tuning, by +0.400 [+0.200, +0.600].": "good",
        "priority, accuracy: worse than most frequent answer (majority), by -0.100 [-0.200, -0.050].": "bad",
        "priority, accuracy: no real difference from TF-IDF with logistic regression (tfidf) (+0.010 [-0.100, +0.120]).": "warning",
    }


def test_all_systems_stand_in_one_table(run: Path) -> None:
    contents = read_contents(open_run(run))
    assert contents.tuned is not None and contents.base is not None
    (table,) = [block for block in section(contents).blocks if isinstance(block, Table)]
    assert [one.title for one in table.columns][2:4] == ["after tuning", "before tuning"]
    shown = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in table.rows}
    top, base = contents.tuned.result.top, contents.base.result.top
    accuracy = [estimate_text(one.fields["priority"].metrics["accuracy"]) for one in (top, base, top, top)]
    assert shown["priority", metric("accuracy").title] == accuracy
    assert shown["whole reply", "all fields right"][2:] == ["", ""]  # baselines answer single fields


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_trained_is_said(language: str, run: Path) -> None:
    say = Words(language)
    (facts,) = [block for block in section(read_contents(open_run(run)), language).blocks if isinstance(block, Facts)]
    assert facts.facts[say("headline.base")] == "Some/Model"
    assert facts.facts[say("headline.time")] == say("time.seconds", seconds=12)
    parameters = facts.facts[say("headline.parameters")]
    assert "8,000" in parameters and "16.00%" in parameters and "50,000" in parameters
    assert say("headline.rows.test", n=40) in facts.facts[say("headline.rows")]
    assert say("headline.of", taken=30, planned=30) in facts.facts[say("headline.steps")]


def test_notes_of_the_evaluation_stand_as_they_are(run: Path) -> None:
    (folded,) = [block for block in section(read_contents(open_run(run)), "zh").blocks if isinstance(block, Folded)]
    assert folded.blocks == [Paragraph("<b>2 replies</b> reached the limit")]


def test_a_run_that_was_not_evaluated_says_how_to(tmp_path: Path, recipe_file: Path) -> None:
    run = made_run(tmp_path / "a run", recipe_file)
    found = section(read_contents(open_run(run)))
    assert paragraphs(found)[0].tone == "warning"
    assert [block.text for block in found.blocks if isinstance(block, Code)] == [f"mlxtune evaluate '{run}'"]


def test_a_training_that_did_not_finish_is_a_warning(tmp_path: Path, recipe_file: Path) -> None:
    run = made_run(tmp_path / "run", recipe_file, status="failed", error="the disk is full")
    first = paragraphs(section(read_contents(open_run(run))))[0]
    assert first == Paragraph("Training did not finish (status: failed). The reason: the disk is full", "warning")


def test_scores_of_an_earlier_adapter_are_a_warning(run: Path) -> None:
    assert not read_contents(open_run(run)).outdated
    (run / "adapter" / "adapters.safetensors").write_bytes(b"trained further")
    found = section(read_contents(open_run(run)))
    assert "of an earlier adapter" in paragraphs(found)[0].text and paragraphs(found)[0].tone == "warning"
    assert [block.text for block in found.blocks if isinstance(block, Code)] == [f"mlxtune evaluate {run} --force"]


def test_over_fitting_is_said_at_once(tmp_path: Path, recipe_file: Path) -> None:
    diagnosis = {"verdict": "over-fitting", "evidence": "", "suggestions": {}}
    run = made_run(tmp_path / "run", recipe_file, replies_of(ROWS, 0.8), diagnosis=diagnosis)
    said = paragraphs(section(read_contents(open_run(run))))
    assert Paragraph(Words("en")("training.verdict.over-fitting"), "bad") in said
    healthy = made_run(tmp_path / "other", recipe_file, diagnosis={**diagnosis, "verdict": "healthy"})
    assert len(paragraphs(section(read_contents(open_run(healthy))))) == 1  # that it was not evaluated


def test_without_the_base_model_the_command_is_named(tmp_path: Path, recipe_file: Path) -> None:
    run = made_run(tmp_path / "run", recipe_file, replies_of(ROWS, 0.8))
    assert f"`mlxtune evaluate {run} --base`" in paragraphs(section(read_contents(open_run(run))))[-1].text


def test_a_base_evaluated_after_the_run_is_compared_with_it(tmp_path: Path, recipe_file: Path) -> None:
    run = made_run(tmp_path / "run", recipe_file, replies_of(ROWS, 0.9))
    made_evaluation(RunFolder(run).evaluation("base"), RunFolder(run).recipe(), replies_of(ROWS, 0.1, 1), adapter=None)
    contents = read_contents(open_run(run))
    assert contents.tuned is not None and contents.base is not None and contents.tuned.result.before is not None
    found = contents.tuned.result.before.fields["priority"]["accuracy"]
    values = [one.result.top.fields["priority"].metrics["accuracy"].value for one in (contents.tuned, contents.base)]
    assert found.difference == pytest.approx(values[0] - values[1]) and found.verdict == "better"


@pytest.mark.parametrize(("met", "tone"), [(True, "good"), (False, "bad")])
def test_whether_the_conditions_are_met_is_said_at_once(
    met: bool, tone: str, tmp_path: Path, recipe_file: Path
) -> None:
    run = made_run(tmp_path / "run", recipe_file, replies_of(ROWS, 0.9))
    scores = run / "evaluation" / "tuned" / "scores.json"
    value = {"value": 0.9, "low": 0.8, "high": 1.0}
    expected = {
        "name": "priority.accuracy",
        "condition": ">= 0.8",
        "met": met,
        "value": value,
        "margin": 0.1 if met else -0.1,
    }
    write_json(scores, {**json.loads(scores.read_text()), "expectations": [expected]})
    contents = read_contents(open_run(run))
    assert contents.tuned is not None
    said = conditions_sentence(contents.tuned.result.expectations, Words("en"))
    assert Paragraph(said, tone) in paragraphs(section(contents))  # type: ignore[arg-type]
    assert "conditions" in [one.name for one in build_report(contents).sections]
