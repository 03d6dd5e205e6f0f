"""Asked again and again: agreement and entropy by hand, the same samples for the same seed, and time and memory beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends import choose
from mlxtune.data.rows import Row, read_rows
from mlxtune.evaluation.predict.consistency import consistency, entropy_bits
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.results import DecodingResult, EvaluationResult, Speed
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import Recipe
from mlxtune.report.terminal.tables import before_after, score_tables, to_text
from tests.conftest import ROWS, Run, write_recipe
from tests.fakes import FakeModel, scores_of


class Wavering(FakeModel):
    """Greedy it says 'none'; sampled it says something else on every second draw of a long prompt."""

    seeds: list[int]

    def generate(self, *args: Any, temperature: float = 0.0, seed: int = 0, **keys: Any) -> Any:
        self.seeds = [*getattr(self, "seeds", []), seed] if temperature else getattr(self, "seeds", [])
        odd = temperature > 0 and len(self.seeds) % 2 == 0
        self.answer = lambda prompt: "payment" if odd and "order" in prompt else "none"
        return super().generate(*args, **keys)


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_rows(Path(str(recipe.data.test)))


def all_at_once(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"batch_size": 16})})


def row(text: str) -> Row:
    return Row({"text": text}, "test.jsonl", 1)


def said(*values: Sequence[str] | None) -> list[dict[str, Any]]:
    return [{"intents": None if value is None else tuple(value)} for value in values]


def test_agreement_entropy_and_flips_equal_the_count_by_hand(recipe: Recipe) -> None:
    samples = [
        said(["payment"], ["payment"], ["payment"], ["payment"]),
        said(["payment"], ["none"], ["payment"], None),
        said(["none"], ["payment"], ["none"], ["payment"]),
    ]
    got = consistency(samples, [row("a"), row("b"), row("c")], recipe, 0.7).to_json()
    field = got["fields"]["intents"]
    assert field["agreement"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert field["entropy_bits"]["value"] == pytest.approx((0 + 1.5 + 1) / 3)
    assert field["flip_rate"]["value"] == pytest.approx(2 / 3)
    assert (got["repeats"], got["temperature"]) == (4, 0.7)
    assert [(flip["row"], flip["input"], flip["values"]) for flip in got["flips"]] == [
        (1, "b", {"payment": 2, "none": 1, "": 1}),
        (2, "c", {"none": 2, "payment": 2}),
    ]


def test_entropy_is_that_of_the_frequencies() -> None:
    assert entropy_bits([3, 1]) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert math.copysign(1, entropy_bits([5])) == 1  # no -0.0


def test_every_draw_has_its_own_seed_and_greedy_predictions_stay(
    recipe: Recipe, rows: list[Row], tmp_path: Path
) -> None:
    model = Wavering(load_tokenizer(Path(recipe.model.path)), lambda prompt: "none")
    asked = (all_at_once(recipe), model, model.tokenizer, rows, tmp_path, "free")
    scores = scores_of(*asked, repeats=4, temperature=0.9)
    assert len(set(model.seeds)) == 4
    flips = scores["consistency"]["flips"]
    assert {flip["input"] for flip in flips} == {one.fields["text"] for one in rows if "order" in one.fields["text"]}
    assert all(flip["values"] == {"none": 2, "payment": 2} for flip in flips)
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["prediction"] for line in lines} == {"none"}
    text = to_text(score_tables(EvaluationResult.from_json(scores)))
    assert "Consistency: 4 samples of each row at temperature 0.9" in text and "none (2x); payment (2x)" in text


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_real_samples_are_the_same_for_the_same_seed_and_vary_with_it(
    backend: str, recipe: Recipe, rows: list[Row]
) -> None:
    folder = Path(recipe.model.path)
    model, tokenizer = choose(backend).backend.load(folder), load_tokenizer(folder)

    def drawn(seed: int) -> Any:
        other = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
        return Predictor(other, model, tokenizer, "constrained").samples(rows, 3, temperature=1.0)

    first = drawn(0)
    assert drawn(0) == first != drawn(1)
    assert len(first) == len(rows) and {len(repeats) for repeats in first} == {3}
    assert all(values["intents"] is not None for repeats in first for values in repeats)


def test_before_and_after_show_time_and_memory_side_by_side() -> None:
    def result(seconds: float, peak: float | None) -> EvaluationResult:
        speed = Speed(seconds, 1 / seconds, 8 / seconds, peak)
        return EvaluationResult(DecodingResult(2, "free", {}, {}, speed=speed))

    lines = to_text([before_after(result(0.5, 1.0), result(0.625, 1.25))]).splitlines()

    def cells(title: str) -> list[str]:
        return next(line for line in lines if title in line).split()[-3:]

    assert cells("seconds a row") == ["0.500", "0.625", "+0.125"]
    assert cells("tokens a second") == ["16.0", "12.8", "-3.2"]
    assert cells("peak memory, GB") == ["1.00", "1.25", "+0.25"]
    assert "peak memory" not in to_text([before_after(result(0.5, None), result(0.5, 1.0))])


def test_evaluate_samples_and_says_speed_and_memory(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_recipe(tmp_path / "recipe", base)
    words = ("evaluate", file, "--base", "--repeats", "3", "--temperature", "1.5", "--json", "--force")
    done = mlxtune(*words)
    assert done.code == 0, done.err
    scores = json.loads(done.out)
    assert scores["consistency"]["repeats"] == 3 and scores["consistency"]["temperature"] == 1.5
    assert 1 / 3 <= scores["consistency"]["fields"]["intents"]["agreement"]["value"] <= 1
    assert set(scores["speed"]) == {"seconds_per_row", "rows_per_second", "tokens_per_second", "peak_memory_gb"}
    assert scores["speed"]["peak_memory_gb"] > 0
    assert f"asking {3 * len(ROWS)} rows, 3 samples of each row" in done.err
    assert json.loads(mlxtune(*words).out)["consistency"] == scores["consistency"]


def test_a_temperature_without_repeats_and_a_single_repeat_are_misuse(tmp_path: Path, base: Path, mlxtune: Run) -> None:
    file = write_recipe(tmp_path / "recipe", base)
    for words, told in (
        (["--temperature", "0.5"], "--temperature needs --repeats"),
        (["--repeats", "1"], "x>=2"),
        (["--repeats", "2", "--temperature", "0"], "x>0"),
    ):
        done = mlxtune("evaluate", file, "--base", *words)
        assert (done.code, done.out) == (2, "") and told in done.err
