"""Scores of a text field: ROUGE, BLEU, chrF, lengths and placeholders over rows, each with its interval. No model, no files.

Every metric of every resample is exact: what each row adds to BLEU and chrF is counted once, and a resample sums the
counts of the rows that it drew, as if the corpus had been scored anew.

    text_scores(["Please call us."], ["Please write to us."]).rougeL.value
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.evaluation.metrics.estimates import Draws, Estimate, Floats, Means, estimates, mean_estimate
from mlxtune.evaluation.metrics.metric import Direction, Metric
from mlxtune.evaluation.metrics.text_overlap import (
    N_BLEU_COUNTS,
    N_CHRF_COUNTS,
    ROUGE,
    ROUGE_L_BUCKETS,
    bleu,
    bleu_counts,
    bleu_tokenizer,
    bucket_of,
    chrf,
    chrf_counts,
    placeholders,
    rouge_rows,
    tokens,
)
from mlxtune.json_values import read_dataclass

OVERLAP = (*ROUGE, "bleu", "chrf")  # how far a text is its reference
_BLEU = slice(0, N_BLEU_COUNTS)
_CHRF = slice(_BLEU.stop, _BLEU.stop + N_CHRF_COUNTS)
_SAID, _RIGHT, _WANTED, _KEPT, _INVENTED, N_COUNTS = range(_CHRF.stop, _CHRF.stop + 6)
BUCKET_SHARES = tuple(f"buckets.{bucket}.share" for bucket in ROUGE_L_BUCKETS)  # as scores.json nests them
# More rows in the middle bucket is neither better nor worse: they come from above or from below.
_BUCKET_DIRECTIONS: tuple[Direction, ...] = ("higher", "neither", "lower")
_REMEMBERED_ROWS = 1 << 15  # the same replies are scored, and compared with several others, in one command

Counts = NDArray[np.int64]


TEXT_METRICS = (
    Metric("rouge1", "ROUGE-1", kinds=("text",), selects=("text",)),
    Metric("rouge2", "ROUGE-2", kinds=("text",), selects=("text",)),
    Metric("rougeL", "ROUGE-L", headline=True, beside="bleu", kinds=("text",), selects=("text",)),
    Metric("bleu", "BLEU", kinds=("text",), selects=("text",)),
    Metric("chrf", "chrF", kinds=("text",), selects=("text",)),
    Metric("bertscore", "BERTScore", kinds=("text",)),
    Metric("length_ratio", "length ratio", "neither", None, kinds=("text",), may_exceed_one=True),
    Metric("placeholders_kept", "placeholders kept", kinds=("text",)),
    Metric("placeholders_invented", "placeholders invented", "lower", "mcnemar", kinds=("text",)),
    *(
        Metric(name, f"rows with ROUGE-L {bucket}", direction, "mcnemar", kinds=("text",))
        for name, bucket, direction in zip(BUCKET_SHARES, ROUGE_L_BUCKETS, _BUCKET_DIRECTIONS, strict=True)
    ),
)
_UNBOUNDED = [one.name for one in TEXT_METRICS if one.may_exceed_one]


@dataclass(frozen=True)
class Bucket:
    """Rows whose ROUGE-L is in one bucket, and their share of all rows."""

    rows: int
    share: Estimate


@dataclass(frozen=True)
class TextScores:
    """How well texts were written.

    Attributes:
        metrics: Metric -> its value; all but the length ratio are 0..1, those of sacrebleu divided by 100. A text that could
            not be read from the reply counts as empty.
            rouge1, rouge2, rougeL: Means over rows of the F1.
            bleu, chrf: Of the corpus (chrF2: recall counts twice).
            length_ratio: Words written / words of the references, each summed over rows; words as ROUGE's.
            placeholders_kept: Placeholders such as <name> that were written / those of the references, by different name
            in each row, summed over rows; missing where no reference has any.
            placeholders_invented: Rows with a placeholder, or what looks like one ("[Tel Number]"), that their reference
            has not / rows.
            invalid_rate: Rows without a text / rows.
        buckets: Bucket of ROUGE-L -> its rows.
        signatures: What sacrebleu computes under the same settings: "bleu" and "chrf" -> sacrebleu's signature.
        when_right: Of the rows whose labels are all right; None where the recipe has no labels to be right.
        when_wrong: The same of all other rows.
        bertscore: Mean over rows of BERTScore's F1; None where it was not asked for.
    """

    metrics: Mapping[str, Estimate]
    buckets: Mapping[str, Bucket]
    signatures: Mapping[str, str]
    when_right: TextPart | None = None
    when_wrong: TextPart | None = None
    bertscore: Estimate | None = None

    def __getitem__(self, metric: str) -> Estimate:
        """One of the metrics."""
        return self.metrics[metric]

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it; without what does not apply."""
        content: dict[str, Any] = {name: one.to_json() for name, one in self.metrics.items()}
        content["buckets"] = {bucket: asdict(rows) for bucket, rows in self.buckets.items()}
        content["signatures"] = dict(self.signatures)
        if self.when_right is not None and self.when_wrong is not None:
            content["when_right"], content["when_wrong"] = self.when_right.to_json(), self.when_wrong.to_json()
        if self.bertscore is not None:
            content["bertscore"] = self.bertscore.to_json()
        return content

    @classmethod
    def from_json(cls, content: Any) -> TextScores:
        """What `to_json` says."""
        return read_dataclass(cls, content, rest="metrics")


@dataclass(frozen=True)
class TextPart:
    """The metrics of `OVERLAP` over some of the rows; none where there are no such rows."""

    rows: int
    metrics: Mapping[str, Estimate]

    def __getitem__(self, metric: str) -> Estimate:
        """One of the metrics."""
        return self.metrics[metric]

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it."""
        return {"rows": self.rows, **{name: one.to_json() for name, one in self.metrics.items()}}

    @classmethod
    def from_json(cls, content: Any) -> TextPart:
        """What `to_json` says."""
        return read_dataclass(cls, content, rest="metrics")


@dataclass(frozen=True)
class RowScores:
    """What an encoder or another model makes of each text, (rows,), and what that depends on."""

    values: NDArray[np.float64]
    signature: str


@dataclass(frozen=True)
class TextTable:
    """The metrics of one text field's predictions, for any draw of its rows.

    Attributes:
        rows: Metric -> its value at each row, (rows,), for those that are means over rows.
        counts: What each row adds to the others, (rows, `N_COUNTS`).
        tokenizer: Name of the tokenizer of BLEU's counts.
    """

    rows: dict[str, Floats]
    counts: Counts
    tokenizer: str

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.counts)

    @cached_property
    def _totals(self) -> Floats:
        totals: Floats = self.counts.sum(0).astype(np.float64)
        return totals

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Every metric of each draw, (draws,). Whole numbers in float64: exact."""
        drawn = draws.astype(np.float64)
        counts, by_row = drawn @ self.counts, drawn @ np.stack(list(self.rows.values()), axis=1)
        found = {name: by_row[:, i] / self.n_rows for i, name in enumerate(self.rows)}
        found["bleu"], found["chrf"] = bleu(counts[:, _BLEU]), chrf(counts[:, _CHRF])
        found["length_ratio"] = self._pooled(counts, _SAID, _RIGHT)
        if self._totals[_WANTED]:
            found["placeholders_kept"] = self._pooled(counts, _KEPT, _WANTED)
        return found

    def part(self, chosen: NDArray[np.bool_]) -> TextTable:
        """Those of some of the rows."""
        return TextTable(
            {name: values[chosen] for name, values in self.rows.items()}, self.counts[chosen], self.tokenizer
        )

    def _pooled(self, counts: Floats, numerator: int, denominator: int) -> Floats:
        """A ratio of sums; a draw without anything to divide by says nothing, and gets the ratio over all rows."""
        whole = self._totals[numerator] / self._totals[denominator] if self._totals[denominator] else 0.0
        found = np.full(len(counts), whole)
        np.divide(counts[:, numerator], counts[:, denominator], out=found, where=counts[:, denominator] > 0)
        return found


def text_scores(
    expected: Sequence[str],
    predicted: Sequence[str | None],
    labels_right: Sequence[bool] | None = None,
    seed: int = 0,
    bertscore: RowScores | None = None,
) -> TextScores:
    """Score texts.

    Args:
        expected: The reference of each row.
        predicted: What was written; None where it could not be read from the reply.
        labels_right: Whether the labels of each row are right; None where there are no labels.
        seed: Of the resampling.
        bertscore: BERTScore of each row, where it was asked for.

    Returns:
        The scores, over at least one row.

    >>> scores = text_scores(["Call <name> today."], ["Call [Name] today."])
    >>> scores["placeholders_kept"].value, scores["placeholders_invented"].value, scores["length_ratio"].value
    (0.0, 1.0, 1.0)
    """
    table = text_table(expected, predicted)
    right = None if labels_right is None else np.asarray(labels_right, dtype=bool)
    found = estimates(table, seed, _UNBOUNDED)
    order = [one.name for one in TEXT_METRICS if one.name in found]
    more = {} if bertscore is None else {"bertscore": bertscore.signature}
    return TextScores(
        {name: found[name] for name in (*order, "invalid_rate")},
        _buckets(table.rows["rougeL"], seed),
        {**signatures(table.tokenizer), **more},
        when_right=None if right is None else _part(table, right, seed),
        when_wrong=None if right is None else _part(table, ~right, seed),
        bertscore=None if bertscore is None else mean_estimate(bertscore.values, seed),
    )


def text_table(expected: Sequence[str], predicted: Sequence[str | None]) -> TextTable:
    """The metrics of `text_scores` over any draw of the rows; arguments as there."""
    name = bleu_tokenizer(expected)
    tokenize = _bleu_metric(name).tokenizer
    rows = [_counts(right, said or "", tokenize) for right, said in zip(expected, predicted, strict=True)]
    counts = np.stack(rows) if rows else np.zeros((0, N_COUNTS), dtype=np.int64)
    by_row = {
        **rouge_rows(expected, predicted),
        "placeholders_invented": counts[:, _INVENTED].astype(np.float64),
        "invalid_rate": np.array([said is None for said in predicted], dtype=np.float64),
    }
    return TextTable(by_row, counts, name)


def bucket_table(rouge_l: Floats) -> Means:
    """`BUCKET_SHARES` over any draw of the rows: which bucket each is in, from its ROUGE-L, (rows,)."""
    of_rows = np.array([bucket_of(value) for value in rouge_l.tolist()])
    inside = [(of_rows == bucket).astype(np.float64) for bucket in ROUGE_L_BUCKETS]
    return Means(dict(zip(BUCKET_SHARES, inside, strict=True)))


@lru_cache(maxsize=8)
def signatures(tokenizer: str) -> dict[str, str]:
    """sacrebleu's signatures of BLEU, under a tokenizer of that name, and of chrF: what to ask it for to get the same."""
    from sacrebleu.metrics.chrf import CHRF

    found = {}
    for name, metric in (("bleu", _bleu_metric(tokenizer)), ("chrf", CHRF())):
        metric.corpus_score(["one"], [["one"]])  # a signature is known once something was scored
        found[name] = str(metric.get_signature())
    return found


# Details ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _bleu_metric(tokenizer: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenizer)


@lru_cache(maxsize=_REMEMBERED_ROWS)
def _counts(right: str, said: str, tokenize: Callable[[str], str]) -> Counts:
    wanted, kept, invented = placeholders(right, said)
    return np.array(
        [
            *bleu_counts(right, said, tokenize),
            *chrf_counts(right, said),
            len(tokens(said)),
            len(tokens(right)),
            wanted,
            kept,
            invented,
        ],
        dtype=np.int64,
    )


def _part(table: TextTable, chosen: NDArray[np.bool_], seed: int) -> TextPart:
    n_rows = int(chosen.sum())
    if not n_rows:
        return TextPart(0, {})
    found = estimates(table.part(chosen), seed, _UNBOUNDED)
    return TextPart(n_rows, {name: found[name] for name in OVERLAP})


def _buckets(rouge_l: Floats, seed: int) -> dict[str, Bucket]:
    table = bucket_table(rouge_l)
    shares = estimates(table, seed)
    return {
        bucket: Bucket(int(table.rows[name].sum()), shares[name])
        for bucket, name in zip(ROUGE_L_BUCKETS, BUCKET_SHARES, strict=True)
    }
