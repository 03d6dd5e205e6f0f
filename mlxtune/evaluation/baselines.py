"""What a model has to beat, scored and compared on the same rows. Strings, NumPy, scikit-learn; a model only where it is asked.

Three baselines know labels only, and leave text fields out: the most frequent answer of the training rows (`majority`), a
list of words for each label (`keywords`), and logistic regression on TF-IDF (`tfidf`). Two ask the model before tuning:
as the recipe asks (`zero_shot`), and with training rows and their replies as earlier turns (`few_shot`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.examples import expected_values
from mlxtune.data.field_forms import Value
from mlxtune.data.prepare import training_rows
from mlxtune.data.rows import Row
from mlxtune.errors import DataError
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.fields.kinds import scorers
from mlxtune.evaluation.fields.scorer import Column, Scorer
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.paired import compare_tables
from mlxtune.evaluation.metrics.text_overlap import cjk_apart
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.recording import Recorded, record_predictions
from mlxtune.evaluation.results import Against, BaselineResult, Speed
from mlxtune.evaluation.score import column, score
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import PLACEHOLDER, Recipe

ASKED = ("zero_shot", "few_shot")
WORD = r"(?u)\w+|[^\w\s]"  # or a mark that stands alone
MAX_OPEN_LABELS = 100  # of an open set there may be thousands; `tfidf` learns the most frequent

LabelAnswers = dict[str, list[Any]]  # field -> its value at each row


@dataclass(frozen=True)
class AskedBaseline:
    """The model before tuning, asked in the same run: its replies, and how fast they came."""

    predictions: Sequence[Prediction]
    speed: Speed


def label_baselines(recipe: Recipe, rows: Sequence[Row]) -> dict[str, LabelAnswers]:
    """The answers of the recipe's baselines that ask no model.

    Args:
        recipe: Which baselines, the training rows they learn from, and the fields.
        rows: To answer.

    Returns:
        Baseline -> field -> the value at each row; fields that a baseline cannot answer are not in it.

    Raises:
        DataError: Training rows that cannot be read or used, or rows without a column of the prompt.
    """
    names = [name for name in recipe.evaluate.baselines if name not in ASKED]
    if not names:
        return {}
    train = training_rows(recipe, rewritten=False)
    if not train:
        raise DataError(f"{recipe.data.train}: no row is left to make baselines of; cleaning dropped all of them")
    values = expected_values(train, recipe)
    texts, train_texts = _texts(rows, recipe), _texts(train, recipe)
    found: dict[str, LabelAnswers] = {name: {} for name in names}
    features: _Features | None = None
    for field_name, scorer in scorers(recipe).items():
        if not scorer.has_labels:
            continue
        known = [value[field_name] for value in values]
        usual = majority(known)
        for name in names:
            if name == "majority":
                found[name][field_name] = [usual] * len(rows)
            elif name == "tfidf":
                features = features or _features(train_texts, texts)
                found[name][field_name] = tfidf(features, known, scorer, recipe.train.seed)
            elif words := _words_of(recipe, scorer):
                found[name][field_name] = [keywords(text, words, scorer, usual) for text in texts]
    return found


def ask_baseline(
    name: str,
    predictor: Predictor,
    rows: Sequence[Row],
    out: Path,
    model_hash: str | None = None,
    progress: Progress = SILENT,
) -> Recorded:
    """Ask the model before tuning, and keep its replies as predictions-NAME.jsonl.

    Args:
        name: 'zero_shot' or 'few_shot'.
        predictor: Without adapter.
        rows: To ask about.
        out: Folder of the replies.
        model_hash: Of the model; see `record_predictions`.
        progress: Told how far it is.

    Raises:
        DataError: Rows that cannot be used.
    """
    shots = few_shot_rows(predictor.recipe) if name == "few_shot" else []
    progress.begin(name, len(rows))
    file = predictions_file(out, name)
    return record_predictions(file, rows, predictor, progress, model_hash=model_hash, shots=shots)


def baseline_results(
    recipe: Recipe,
    predictions: Sequence[Prediction],
    answers: Mapping[str, LabelAnswers],
    asked: Mapping[str, AskedBaseline],
    bertscore: BertScore | None = None,
) -> tuple[dict[str, BaselineResult] | None, list[str]]:
    """Score baselines on the rows of a model's predictions, and compare the model with each.

    Args:
        recipe: Which baselines, in which order.
        predictions: Of the model that is evaluated.
        answers: Of `label_baselines`.
        asked: Of those that ask a model.
        bertscore: Scores texts as well.

    Returns:
        Baseline -> its result, None where the recipe names none; and sentences on what was left out.
    """
    if not recipe.evaluate.baselines:
        return None, []
    found: dict[str, BaselineResult] = {}
    notes: list[str] = []
    for name in recipe.evaluate.baselines:
        if name in answers:
            found[name] = _label_result(recipe, predictions, answers[name], name)
            missing = [n for n, scorer in scorers(recipe).items() if scorer.has_labels and n not in answers[name]]
            if missing:
                notes.append(f"{name}: evaluate.keywords has no words for {', '.join(missing)}")
        elif name in asked:
            theirs = asked[name]
            fields = score(theirs.predictions, recipe, bertscore).fields
            found[name] = BaselineResult(fields, compare(predictions, theirs.predictions, recipe, name), theirs.speed)
        else:
            notes.append(f"{name}: no model was asked for it here")
    return found, notes


def predictions_file(out: Path, name: str) -> Path:
    """Where the replies to a baseline that asks a model lie."""
    return out / f"predictions-{name}.jsonl"


# The baselines ---------------------------------------------------------------------------------------------------


def majority(values: Sequence[Value]) -> Value:
    """The most frequent of the values; of equally frequent ones the first. Label sets are counted as sets.

    >>> majority([("b",), ("a", "c"), ("a", "c")])
    ('a', 'c')
    """
    return Counter(values).most_common(1)[0][0]


def keywords(text: str, words: Mapping[str, Sequence[str]], scorer: Scorer, usual: Value) -> Value:
    """The labels whose words occur in a text, upper and lower case alike.

    Args:
        text: To answer.
        words: Label -> words, in the labels' order.
        scorer: Of the field; says what hits come to.
        usual: Most frequent value of the training rows.
    """
    folded = text.casefold()
    hits = {label: sum(word.casefold() in folded for word in of_label) for label, of_label in words.items()}
    return scorer.from_words(hits, usual)


@dataclass(frozen=True)
class _Features:
    """TF-IDF of character and word n-grams, one sparse row a text."""

    train: Any
    asked: Any


def tfidf(features: _Features, values: Sequence[Value], scorer: Scorer, seed: int = 0) -> list[Value]:
    """Labels by one logistic regression a label.

    Args:
        features: Of the training rows and of the rows to answer.
        values: Of the training rows.
        scorer: Of the field; says what probabilities come to.
        seed: Of the solver.
    """
    sets = [(value,) if isinstance(value, str) else tuple(value) for value in values]
    frequent = Counter(label for labels in sets for label in labels).most_common(MAX_OPEN_LABELS)
    labels = scorer.closed_labels or [label for label, _ in frequent]
    return [scorer.from_probabilities(labels, row) for row in _probabilities(features, sets, labels, seed)]


def few_shot_rows(recipe: Recipe) -> list[Row]:
    """`evaluate.few_shot` of the training rows that people wrote, drawn by the training seed."""
    rows = training_rows(recipe, rewritten=False)
    drawn = np.random.default_rng(recipe.train.seed).permutation(len(rows))[: recipe.evaluate.few_shot]
    return [rows[index] for index in drawn]


# Pieces ----------------------------------------------------------------------------------------------------------


def _label_result(
    recipe: Recipe, predictions: Sequence[Prediction], answers: LabelAnswers, name: str
) -> BaselineResult:
    """One baseline that asks no model: no reply of it is repeated, and texts are left out."""
    scores, against = {}, {}
    never = [False] * len(predictions)
    by_field = scorers(recipe)
    for field_name, said in answers.items():
        ours = column(predictions, field_name)
        theirs = Column(ours.expected, said, never)
        scorer = by_field[field_name]
        scores[field_name] = scorer.scores(theirs, recipe.train.seed)
        against[field_name] = compare_tables(scorer.table(ours), scorer.table(theirs), name, recipe.train.seed)
    return BaselineResult(scores, Against(against))


def _texts(rows: Sequence[Row], recipe: Recipe) -> list[str]:
    """What the model is told of each row: the columns of the prompt, without the words around them."""
    columns = list(dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user)))
    texts = []
    for row in rows:
        missing = [column for column in columns if column not in row.fields]
        if missing:
            raise DataError(f"{row.file}:{row.line}: no {missing[0]!r}, which prompt.user needs")
        values = [row.fields[column] for column in columns]
        texts.append("\n".join(", ".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in values))
    return texts


def _words_of(recipe: Recipe, scorer: Scorer) -> dict[str, list[str]]:
    """`evaluate.keywords` of a field's labels, in their order; of an open set all that belong to no other field."""
    given = recipe.evaluate.keywords
    if scorer.closed_labels:
        return {label: given[label] for label in scorer.closed_labels if label in given}
    closed = {label for other in scorers(recipe).values() for label in other.closed_labels or []}
    return {label: words for label, words in given.items() if label not in closed}


def _features(train: Sequence[str], asked: Sequence[str]) -> _Features:
    """TF-IDF of texts; each Chinese, Japanese or Korean character counts as a word, since no spaces part their words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    grams = make_union(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True),
        TfidfVectorizer(ngram_range=(1, 2), preprocessor=_words_apart, token_pattern=WORD, sublinear_tf=True),
    )
    return _Features(grams.fit_transform(train), grams.transform(asked))


def _words_apart(text: str) -> str:
    return cjk_apart(text.lower())


def _probabilities(
    features: _Features, sets: Sequence[Sequence[str]], labels: Sequence[str], seed: int
) -> NDArray[np.float64]:
    """Probability of each label at each row that is asked, (rows, labels)."""
    from sklearn.linear_model import LogisticRegression

    found = np.zeros((features.asked.shape[0], len(labels)))
    for position, label in enumerate(labels):
        has = np.asarray([label in labels_of_row for labels_of_row in sets])
        if has.all() or not has.any():  # nothing to tell apart
            found[:, position] = float(has.all())
            continue
        # With more features than rows the dual problem has the same solution a thousand times sooner.
        regression = LogisticRegression(C=10.0, solver="liblinear", dual=True, max_iter=1000, random_state=seed)
        found[:, position] = regression.fit(features.train, has).predict_proba(features.asked)[:, 1]
    return found
