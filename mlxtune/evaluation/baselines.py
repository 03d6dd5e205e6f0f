"""What a model has to beat, scored and compared on the same rows. Strings, NumPy, scikit-learn; a model only where it is asked.

Three baselines know labels only, and leave text fields out: the commonest answer of the training rows (`majority`), a
list of words for each label (`keywords`), and logistic regression on TF-IDF (`tfidf`). Two ask the model before tuning:
as the recipe asks (`zero_shot`), and with training rows and their replies as earlier turns (`few_shot`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Constraint, Model
from mlxtune.data.examples import expected_values
from mlxtune.data.prepare import training_rows
from mlxtune.data.rows import Row
from mlxtune.data.template import Value
from mlxtune.errors import DataError
from mlxtune.evaluation.metrics.labels import label_figures, label_scores, label_set_figures, label_set_scores
from mlxtune.evaluation.metrics.paired import compare_figures, plain
from mlxtune.evaluation.paired_predictions import compare
from mlxtune.evaluation.predict.predictions import Answers, Prediction, write_predictions
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import PLACEHOLDER, LabelField, LabelsField, Recipe, TextField

ASKED = ("zero_shot", "few_shot")
THRESHOLD = 0.5  # of a label's probability, from which on `tfidf` gives it
WORD = r"(?u)\w+|[^\w\s]"  # or a mark that stands alone
MAX_OPEN_LABELS = 100  # of an open set there may be thousands; `tfidf` learns the commonest

LabelAnswers = dict[str, list[Any]]  # field -> its value at each row


@dataclass(frozen=True)
class Measured:
    """What scores.json holds of baselines.

    Attributes:
        scores: Baseline -> field -> metrics.
        comparisons: Baseline -> field -> figure -> the model less the baseline.
        notes: Sentences on what was left out.
    """

    scores: dict[str, Any] = field(default_factory=dict)
    comparisons: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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
    for field_name, kind in recipe.output.fields.items():
        if isinstance(kind, TextField):
            continue
        known = [value[field_name] for value in values]
        usual = majority(known)
        for name in names:
            if name == "majority":
                found[name][field_name] = [usual] * len(rows)
            elif name == "tfidf":
                features = features or _features(train_texts, texts)
                found[name][field_name] = tfidf(features, known, kind, recipe.train.seed)
            elif words := _words_of(recipe, kind):
                found[name][field_name] = [keywords(text, words, kind, usual) for text in texts]
    return found


def ask_baselines(
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    out: Path,
    names: Sequence[str],
    constraint: Constraint | None = None,
    identity: str | None = None,
    begin: Callable[[str, int], None] = lambda name, n_rows: None,
    on_rows: Callable[[int], None] = lambda n_rows: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Answers]:
    """Ask the model before tuning, and keep its replies as predictions-NAME.jsonl.

    Args:
        recipe: Prompt, output, limits and seed.
        model: Without adapter.
        tokenizer: The model's.
        rows: To ask about.
        out: Folder of the replies.
        names: 'zero_shot', 'few_shot' or both.
        constraint: What may be written; as for the model that is evaluated.
        identity: Of the model; see `write_predictions`.
        begin: Called with a baseline and the number of rows before they are asked.
        on_rows: Called with the number of rows just answered.
        say: Told what a user should know.

    Raises:
        DataError: Rows that cannot be used.
    """
    found = {}
    for name in names:
        shots = few_shot_rows(recipe) if name == "few_shot" else []
        begin(name, len(rows))
        found[name] = write_predictions(
            predictions_file(out, name), rows, recipe, model, tokenizer, constraint, on_rows,
            identity=identity, shots=shots, say=say,
        )  # fmt: skip
    return found


def measure(
    recipe: Recipe,
    predictions: Sequence[Prediction],
    answers: Mapping[str, LabelAnswers],
    asked: Mapping[str, Sequence[Prediction]],
    score: Callable[[Sequence[Prediction], Recipe], Mapping[str, Any]],
) -> Measured:
    """Score baselines on the rows of a model's predictions, and compare the model with each.

    Args:
        recipe: Which baselines, in which order.
        predictions: Of the model that is evaluated.
        answers: Of `label_baselines`.
        asked: Of `ask_baselines`.
        score: Scores predictions; its "fields" are taken.
    """
    measured = Measured()
    for name in recipe.evaluate.baselines:
        if name in answers:
            measured.scores[name], measured.comparisons[name] = _label_results(recipe, predictions, answers[name], name)
            missing = [
                field_name
                for field_name, kind in recipe.output.fields.items()
                if field_name not in answers[name] and not isinstance(kind, TextField)
            ]
            if missing:
                measured.notes.append(f"{name}: evaluate.keywords has no words for {', '.join(missing)}")
        elif name in asked:
            measured.scores[name] = score(asked[name], recipe)["fields"]
            measured.comparisons[name] = plain(compare(predictions, asked[name], recipe, name))
        else:
            measured.notes.append(f"{name}: no model was asked for it here")
    return measured


def predictions_file(out: Path, name: str) -> Path:
    """Where the replies to a baseline that asks a model lie."""
    return out / f"predictions-{name}.jsonl"


# The baselines ---------------------------------------------------------------------------------------------------


def majority(values: Sequence[Value]) -> Value:
    """The commonest of the values; of equally common ones the first. Label sets are counted as sets.

    >>> majority([("b",), ("a", "c"), ("a", "c")])
    ('a', 'c')
    """
    return Counter(values).most_common(1)[0][0]


def keywords(text: str, words: Mapping[str, Sequence[str]], kind: LabelField | LabelsField, usual: Value) -> Value:
    """The labels whose words occur in a text, upper and lower case alike.

    A label set without a hit is its exclusive label, where it has one. One label a row is the one with most words in the
    text, of equal ones the first. Whatever else has no hit is the usual value.

    Args:
        words: Label -> words, in the labels' order.
        kind: The field.
        usual: Commonest value of the training rows.
    """
    folded = text.casefold()
    hits = {label: sum(word.casefold() in folded for word in of_label) for label, of_label in words.items()}
    found = [label for label, n_hits in hits.items() if n_hits]
    if isinstance(kind, LabelField):
        return max(found, key=lambda label: hits[label]) if found else usual
    found = [label for label in found if label != kind.exclusive] or found
    if not found:
        return usual if kind.exclusive is None else (kind.exclusive,)
    return tuple(found)


@dataclass(frozen=True)
class _Features:
    """TF-IDF of character and word n-grams, one sparse row a text."""

    train: Any
    asked: Any


def tfidf(features: _Features, values: Sequence[Value], kind: LabelField | LabelsField, seed: int = 0) -> list[Value]:
    """Labels by one logistic regression a label.

    A label of a set is given from a probability of 0.5; where none reaches it, the likeliest is. The exclusive label stands
    alone if it is the likeliest, and falls away beside a likelier one.

    Args:
        features: Of the training rows and of the rows to answer.
        values: Of the training rows.
        kind: The field.
        seed: Of the solver.
    """
    if isinstance(kind, LabelField):
        singles = [(str(value),) for value in values]
        probabilities = _probabilities(features, singles, kind.labels, seed)
        return [kind.labels[best] for best in probabilities.argmax(1)]
    sets = [tuple(value) for value in values]
    common = Counter(label for labels in sets for label in labels).most_common(MAX_OPEN_LABELS)
    labels = kind.labels or [label for label, _ in common]
    return [_chosen(row, labels, kind.exclusive) for row in _probabilities(features, sets, labels, seed)]


def few_shot_rows(recipe: Recipe) -> list[Row]:
    """`evaluate.few_shot` of the training rows that people wrote, drawn by the training seed."""
    rows = training_rows(recipe, rewritten=False)
    drawn = np.random.default_rng(recipe.train.seed).permutation(len(rows))[: recipe.evaluate.few_shot]
    return [rows[index] for index in drawn]


# Pieces ----------------------------------------------------------------------------------------------------------


def _label_results(
    recipe: Recipe, predictions: Sequence[Prediction], answers: LabelAnswers, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and comparisons of one baseline, by field."""
    scores: dict[str, Any] = {}
    comparisons: dict[str, Any] = {}
    never = [False] * len(predictions)
    repeated = [prediction.repeated for prediction in predictions]
    seed = recipe.train.seed
    for field_name, said in answers.items():
        kind = recipe.output.fields[field_name]
        expected: list[Any] = [prediction.expected[field_name] for prediction in predictions]
        predicted: list[Any] = [prediction.predicted[field_name] for prediction in predictions]
        if isinstance(kind, LabelsField):
            scores[field_name] = asdict(label_set_scores(expected, said, never, kind.labels, seed))
            ours = label_set_figures(expected, predicted, repeated, kind.labels)
            theirs = label_set_figures(expected, said, never, kind.labels)
        elif isinstance(kind, LabelField):
            scores[field_name] = asdict(label_scores(expected, said, never, kind.labels, seed))
            ours = label_figures(expected, predicted, repeated, kind.labels)
            theirs = label_figures(expected, said, never, kind.labels)
        compared = compare_figures(ours, theirs, name, seed)
        comparisons[field_name] = {figure: asdict(one) for figure, one in compared.items()}
    return scores, comparisons


def _texts(rows: Sequence[Row], recipe: Recipe) -> list[str]:
    """What the model is told of each row: the columns of the prompt, without the words around them."""
    columns = list(dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user)))
    texts = []
    for row in rows:
        missing = [column for column in columns if column not in row.fields]
        if missing:
            raise DataError(f"{row.file}:{row.line}: no {missing[0]!r}, which prompt.user names")
        values = [row.fields[column] for column in columns]
        texts.append("\n".join(", ".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in values))
    return texts


def _words_of(recipe: Recipe, kind: LabelField | LabelsField) -> dict[str, list[str]]:
    """`evaluate.keywords` of a field's labels, in their order; of an open set all that belong to no other field."""
    given = recipe.evaluate.keywords
    if kind.labels:
        return {label: given[label] for label in kind.labels if label in given}
    closed = {
        label
        for other in recipe.output.fields.values()
        if not isinstance(other, TextField)
        for label in other.labels or []
    }
    return {label: words for label, words in given.items() if label not in closed}


def _features(train: Sequence[str], asked: Sequence[str]) -> _Features:
    """Character n-grams serve languages that put no spaces between words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    grams = make_union(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True),
        TfidfVectorizer(analyzer="word", ngram_range=(1, 2), token_pattern=WORD, sublinear_tf=True),
    )
    return _Features(grams.fit_transform(train), grams.transform(asked))


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


def _chosen(probabilities: NDArray[np.float64], labels: Sequence[str], exclusive: str | None) -> tuple[str, ...]:
    best = labels[int(probabilities.argmax())]
    chosen = [label for label, p in zip(labels, probabilities, strict=True) if p >= THRESHOLD] or [best]
    if best == exclusive:
        return (best,)
    return tuple(label for label in chosen if label != exclusive)
