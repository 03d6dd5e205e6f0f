"""Scores of a text field: ROUGE, BLEU, chrF, lengths and placeholders over rows, each with its interval. No model, no files.

Every figure of every resample is exact: what each row adds to BLEU and chrF is counted once, and a resample sums the
counts of the rows that it drew, as if the corpus had been scored anew.

    text_scores(["Please call us."], ["Please write to us."]).rougeL.value
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.evaluation.metrics.estimates import Draws, Estimate, Floats, Means, estimates
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

OVERLAP = (*ROUGE, "bleu", "chrf")  # how far a text is its reference
UNBOUNDED = ("length_ratio",)
_BLEU = slice(0, N_BLEU_COUNTS)
_CHRF = slice(_BLEU.stop, _BLEU.stop + N_CHRF_COUNTS)
_SAID, _RIGHT, _WANTED, _KEPT, _INVENTED, N_COUNTS = range(_CHRF.stop, _CHRF.stop + 6)
BUCKET_SHARES = tuple(f"buckets.{bucket}.share" for bucket in ROUGE_L_BUCKETS)  # as scores.json nests them
_REMEMBERED_ROWS = 1 << 15  # the same replies are scored, and compared with several others, in one command

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Bucket:
    """Rows whose ROUGE-L is in one bucket, and their share of all rows."""

    rows: int
    share: Estimate


@dataclass(frozen=True)
class TextScores:
    """How well texts were written; every figure but the length ratio is 0..1, those of sacrebleu divided by 100.

    Attributes:
        rouge1: Mean over rows of ROUGE-1 F1; a text that could not be read from the reply is empty, here and below.
        rouge2: Of ROUGE-2 F1.
        rougeL: Of ROUGE-L F1.
        bleu: Corpus BLEU.
        chrf: Corpus chrF (chrF2: recall counts twice).
        length_ratio: Words written / words of the references, each summed over rows; words as ROUGE's.
        placeholders_kept: Placeholders such as <name> that were written / those of the references, by different name in
            each row, summed over rows; None where no reference has any.
        placeholders_invented: Rows with a placeholder, or what looks like one ("[Tel Number]"), that their reference has
            not / rows.
        invalid_rate: Rows without a text / rows.
        buckets: Bucket of ROUGE-L -> its rows.
        signatures: What sacrebleu computes under the same settings: "bleu" and "chrf" -> sacrebleu's signature.
        when_right: 'rows', and the first five figures over the rows whose labels are all right; None where the recipe has
            no labels to be right. Only 'rows' where there are none.
        when_wrong: The same over all other rows.
    """

    rouge1: Estimate
    rouge2: Estimate
    rougeL: Estimate
    bleu: Estimate
    chrf: Estimate
    length_ratio: Estimate
    placeholders_kept: Estimate | None
    placeholders_invented: Estimate
    invalid_rate: Estimate
    buckets: dict[str, Bucket]
    signatures: dict[str, str]
    when_right: dict[str, int | Estimate] | None
    when_wrong: dict[str, int | Estimate] | None


@dataclass(frozen=True)
class TextFigures:
    """The figures of one text field's predictions, for any draw of its rows.

    Attributes:
        rows: Figure -> its value at each row, (rows,), for those that are means over rows.
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
        """Every figure of each draw, (draws,). Whole numbers in float64: exact."""
        drawn = draws.astype(np.float64)
        counts, by_row = drawn @ self.counts, drawn @ np.stack(list(self.rows.values()), axis=1)
        found = {name: by_row[:, i] / self.n_rows for i, name in enumerate(self.rows)}
        found["bleu"], found["chrf"] = bleu(counts[:, _BLEU]), chrf(counts[:, _CHRF])
        found["length_ratio"] = self._pooled(counts, _SAID, _RIGHT)
        if self._totals[_WANTED]:
            found["placeholders_kept"] = self._pooled(counts, _KEPT, _WANTED)
        return found

    def part(self, chosen: NDArray[np.bool_]) -> TextFigures:
        """Those of some of the rows."""
        return TextFigures(
            {name: values[chosen] for name, values in self.rows.items()}, self.counts[chosen], self.tokenizer
        )

    def _pooled(self, counts: Floats, numerator: int, denominator: int) -> Floats:
        """A ratio of sums; a draw without anything to divide by says nothing, and gets the ratio over all rows."""
        whole = self._totals[numerator] / self._totals[denominator] if self._totals[denominator] else 0.0
        found = np.full(len(counts), whole)
        np.divide(counts[:, numerator], counts[:, denominator], out=found, where=counts[:, denominator] > 0)
        return found


def text_scores(
    expected: Sequence[str], predicted: Sequence[str | None], labels_right: Sequence[bool] | None = None, seed: int = 0
) -> TextScores:
    """Score texts.

    Args:
        expected: The reference of each row.
        predicted: What was written; None where it could not be read from the reply.
        labels_right: Whether the labels of each row are right; None where there are no labels.
        seed: Of the resampling.

    Returns:
        The scores, over at least one row.

    >>> scores = text_scores(["Call <name> today."], ["Call [Name] today."])
    >>> scores.placeholders_kept.value, scores.placeholders_invented.value, scores.length_ratio.value
    (0.0, 1.0, 1.0)
    """
    figures = text_figures(expected, predicted)
    right = None if labels_right is None else np.asarray(labels_right, dtype=bool)
    found = estimates(figures, seed, UNBOUNDED)
    return TextScores(
        rouge1=found["rouge1"],
        rouge2=found["rouge2"],
        rougeL=found["rougeL"],
        bleu=found["bleu"],
        chrf=found["chrf"],
        length_ratio=found["length_ratio"],
        placeholders_kept=found.get("placeholders_kept"),
        placeholders_invented=found["placeholders_invented"],
        invalid_rate=found["invalid_rate"],
        buckets=_buckets(figures.rows["rougeL"], seed),
        signatures=signatures(figures.tokenizer),
        when_right=None if right is None else _part(figures, right, seed),
        when_wrong=None if right is None else _part(figures, ~right, seed),
    )


def text_figures(expected: Sequence[str], predicted: Sequence[str | None]) -> TextFigures:
    """The figures of `text_scores` over any draw of the rows; arguments as there."""
    name = bleu_tokenizer(expected)
    tokenize = _bleu_metric(name).tokenizer
    rows = [_counts(right, said or "", tokenize) for right, said in zip(expected, predicted, strict=True)]
    counts = np.stack(rows) if rows else np.zeros((0, N_COUNTS), dtype=np.int64)
    by_row = {
        **rouge_rows(expected, predicted),
        "placeholders_invented": counts[:, _INVENTED].astype(np.float64),
        "invalid_rate": np.array([said is None for said in predicted], dtype=np.float64),
    }
    return TextFigures(by_row, counts, name)


def bucket_figures(rouge_l: Floats) -> Means:
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


def _part(figures: TextFigures, chosen: NDArray[np.bool_], seed: int) -> dict[str, int | Estimate]:
    n_rows = int(chosen.sum())
    if not n_rows:
        return {"rows": 0}
    found = estimates(figures.part(chosen), seed, UNBOUNDED)
    return {"rows": n_rows, **{name: found[name] for name in OVERLAP}}


def _buckets(rouge_l: Floats, seed: int) -> dict[str, Bucket]:
    figures = bucket_figures(rouge_l)
    shares = estimates(figures, seed)
    return {
        bucket: Bucket(int(figures.rows[name].sum()), shares[name])
        for bucket, name in zip(ROUGE_L_BUCKETS, BUCKET_SHARES, strict=True)
    }
