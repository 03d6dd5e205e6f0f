"""What an evaluation may ask beyond one reply a row: probabilities and their calibration, and repeated samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.backends.base import Constraint, Model
from mlxtune.data.rows import Row
from mlxtune.evaluation.predict import probabilities
from mlxtune.evaluation.predict.consistency import consistency_scores, sample
from mlxtune.evaluation.predict.predictions import Prediction, replace_predictions, write_predictions
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe

NO_OPTIONS = (
    "probabilities: none; they need a first field with a closed list (label sets: at most "
    f"{probabilities.MAX_SETS} allowed ones), and prompt.thinking: false"
)
NO_VALIDATION = "coverage at 95% precision: none; its threshold is chosen on validation rows, and the recipe has neither data.valid nor data.valid_fraction"


@dataclass(frozen=True)
class Further:
    """What else to ask.

    Attributes:
        probabilities: Of every option of the first field.
        validation: Rows that choose the threshold of coverage; None if there are none.
        repeats: Samples of each row; None for none.
        temperature: Of the samples.
    """

    probabilities: bool = False
    validation: Sequence[Row] | None = None
    repeats: int | None = None
    temperature: float = 0.7


@dataclass(frozen=True)
class Answered:
    """One decoding of an evaluation: its predictions, where they lie, and what they were held to."""

    decoding: str
    path: Path
    constraint: Constraint | None
    predictions: list[Prediction]


def validation_file(path: Path) -> Path:
    """Where the predictions of validation rows lie, beside those of the test rows."""
    return path.with_name(path.name.replace("predictions", "predictions-valid", 1))


def forget_validation(out: Path, answered: Sequence[Answered]) -> None:
    """Delete what an earlier evaluation asked about validation rows and this one did not."""
    now = {validation_file(one.path) for one in answered}
    for file in out.glob("predictions-valid*.jsonl"):
        if file not in now:
            file.unlink()


class Asking:
    """The model and rows of an evaluation, for asking further.

    Args:
        recipe: Prompt, output, limits and seed.
        model: With its adapter, if any.
        tokenizer: The model's.
        rows: The test rows.
        begin: Told what is asked next, and of how many rows.
        on_rows: Told how many rows were just answered.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        tokenizer: Tokenizer,
        rows: Sequence[Row],
        begin: Callable[[str, int], None] = lambda what, n_rows: None,
        on_rows: Callable[[int], None] = lambda n_rows: None,
    ) -> None:
        self._recipe, self._model, self._tokenizer, self._rows = recipe, model, tokenizer, rows
        self._begin, self._on_rows = begin, on_rows

    def add(self, further: Further, answered: Sequence[Answered], scores: Mapping[str, dict[str, Any]]) -> None:
        """Ask, and put what is found into the scores of each decoding and into its predictions.

        Predictions are written anew after everything was asked, so that an interruption leaves them as they were.

        Args:
            further: What to ask.
            answered: The decodings, the headline one last.
            scores: Decoding -> its part of scores.json.
        """
        if further.repeats:
            last = answered[-1]
            scores[last.decoding]["consistency"] = self._consistency(last.constraint, further)
        if further.probabilities:
            self._probabilities(further.validation, answered, scores)

    def _consistency(self, constraint: Constraint | None, further: Further) -> dict[str, Any]:
        repeats = further.repeats or 0
        self._begin(f"{repeats} samples of each row", repeats * len(self._rows))
        asked = (self._rows, self._recipe, self._model, self._tokenizer, constraint)
        samples = sample(*asked, repeats, further.temperature, self._on_rows)
        return consistency_scores(samples, self._rows, self._recipe, further.temperature)

    def _probabilities(
        self, validation: Sequence[Row] | None, answered: Sequence[Answered], scores: Mapping[str, dict[str, Any]]
    ) -> None:
        options = probabilities.options_of(self._recipe, self._tokenizer)
        if options is None:
            for one in answered:
                scores[one.decoding]["notes"].append(NO_OPTIONS)
            return
        found = self._distributions("probabilities", self._rows, options)
        of_valid = self._distributions("validation probabilities", validation, options) if validation else None
        for one in answered:
            valid: list[Prediction] | None = None
            if validation and of_valid:
                valid_path = validation_file(one.path)
                self._begin(f"{one.decoding}, validation rows", len(validation))
                asked = (validation, self._recipe, self._model, self._tokenizer, one.constraint)
                answers = write_predictions(valid_path, *asked, self._on_rows)
                valid = probabilities.with_probabilities(answers.predictions, of_valid)
                replace_predictions(valid_path, valid)
            else:
                scores[one.decoding]["notes"].append(NO_VALIDATION)
            predictions = probabilities.with_probabilities(one.predictions, found)
            calibrated = probabilities.calibration_scores(options.field, predictions, valid)
            scores[one.decoding]["fields"][options.field]["calibration"] = calibrated
            replace_predictions(one.path, predictions)

    def _distributions(
        self, what: str, rows: Sequence[Row], options: probabilities.Options
    ) -> list[probabilities.Distribution]:
        self._begin(what, len(rows))
        return probabilities.of_rows(rows, self._recipe, self._model, self._tokenizer, options, self._on_rows)
