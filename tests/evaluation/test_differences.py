"""Two systems' predictions are compared on the same rows only, field by field, and as whole replies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from scipy.stats import binomtest

from mlxtune.errors import DataError
from mlxtune.evaluation.differences import compare, compare_replies
from mlxtune.evaluation.metrics.estimates import N_RESAMPLES, resamples
from mlxtune.evaluation.metrics.registry import headline
from mlxtune.evaluation.metrics.texts import text_table
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.recipe.sections import Recipe, TextField


def prediction(row: int, predicted: tuple[str, ...] | None, text: str = "hi") -> Prediction:
    return Prediction(
        row=row, file="test.jsonl", line=row + 1, input=text, expected={"intents": ("none",)},
        predicted={"intents": predicted}, prediction="", valid=predicted is not None, repeated=False, loop=False,
        problem=None, stop="stop", tokens=1, decoding="free",
    )  # fmt: skip


def test_predictions_are_compared_by_field(recipe: Recipe) -> None:
    ours = [prediction(row, ("none",)) for row in range(20)]
    theirs = [prediction(row, ("payment",)) for row in range(20)]
    got = compare(ours, theirs, recipe, "before").fields_json()
    assert set(got["intents"]["exact_match"]) == {"difference", "low", "high", "p_value", "sentence"}
    assert got["intents"]["exact_match"]["sentence"].startswith("better than before by 1.00 [0.68, 1.00]")


def with_response(one: Prediction, row: int, text: str | None) -> Prediction:
    expected, predicted = {**one.expected, "response": REFERENCE}, {**one.predicted, "response": text}
    return replace(one, row=row, expected=expected, predicted=predicted)


def response(one: Prediction) -> str | None:
    said = one.predicted["response"]
    assert said is None or isinstance(said, str)
    return said


REFERENCE = "we are sorry and we will look into the invoice today"


@pytest.fixture
def with_text(recipe: Recipe) -> Recipe:
    fields = {**recipe.output.fields, "response": TextField(kind="text")}
    return recipe.model_copy(update={"output": recipe.output.model_copy(update={"fields": fields})})


def sides(n_rows: int) -> tuple[list[Prediction], list[Prediction]]:
    """Ours writes most words of the reference, theirs fewer, and nothing at all in every fifth row."""
    rng = np.random.default_rng(2)

    def some(share: float) -> str:
        return " ".join(word for word in REFERENCE.split() if rng.random() < share) or "we"

    ours = [with_response(prediction(0, ("none",)), i, some(0.9)) for i in range(n_rows)]
    theirs = [with_response(prediction(0, ("payment",)), i, None if i % 5 == 0 else some(0.7)) for i in range(n_rows)]
    return ours, theirs


def test_texts_are_compared_over_the_same_draws(with_text: Recipe) -> None:
    ours, theirs = sides(30)
    got = compare(ours, theirs, with_text, "before").fields["response"]
    assert "length_ratio" not in got  # neither longer nor shorter is better
    texts = [[response(one) for one in side] for side in (ours, theirs)]
    mine, other = (text_table([REFERENCE] * 30, side).of(next(resamples(30, with_text.train.seed))) for side in texts)
    wanted = mine["bleu"] - other["bleu"]
    assert wanted.shape == (N_RESAMPLES,)
    bleu = [
        BLEU(tokenize="13a").corpus_score([text or "" for text in side], [[REFERENCE] * 30]).score for side in texts
    ]
    assert got["bleu"].difference == pytest.approx((bleu[0] - bleu[1]) / 100, abs=1e-12)
    assert (got["bleu"].low, got["bleu"].high) == pytest.approx(np.percentile(wanted, [2.5, 97.5]).tolist(), abs=1e-12)
    assert got["bleu"].sentence.startswith("better than before by") and headline(got) == "rougeL"
    assert got["invalid_rate"].sentence.startswith("better than before") and got["invalid_rate"].difference == -0.2
    assert got["invalid_rate"].p_value == binomtest(0, 6).pvalue


def test_whole_replies_are_right_where_all_their_labels_are(with_text: Recipe) -> None:
    ours, theirs = sides(12)
    ours = [replace(one, predicted={**one.predicted, "intents": None}) if one.row == 0 else one for one in ours]
    one = compare_replies(ours, theirs, with_text, "before")["all_fields_correct"]
    assert one.difference == pytest.approx(11 / 12) and one.p_value == binomtest(11, 11).pvalue
    only_text = with_text.model_copy(
        update={"output": with_text.output.model_copy(update={"fields": {"response": TextField(kind="text")}})}
    )
    assert compare_replies(ours, theirs, only_text, "before") == {}


def test_predictions_of_other_rows_are_refused(recipe: Recipe) -> None:
    ours = [prediction(row, ("none",)) for row in range(3)]
    with pytest.raises(DataError, match="before: 2 predictions for 3 rows"):
        compare(ours, ours[:2], recipe, "before")
    other = [*ours[:2], prediction(2, ("none",), "something else")]
    with pytest.raises(DataError, match=r"before: its predictions are of other rows.*'something else'"):
        compare(ours, other, recipe, "before")
