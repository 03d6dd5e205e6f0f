"""A model's choice between two systems' replies to the same rows, asked in both orders. Computes no ratings of single replies.

A judge that prefers whatever it reads first would find a winner in every row. So each pair is shown twice, in both orders,
and a reply wins only where it is chosen both times; where the order decides, nobody does, and how often the first one was
chosen says how far the judge leans.

    judge_pairs(ours, theirs, recipe, server, "rank-32").fields["response"].sentence
    # 'better than rank-32: chosen in 0.64 [0.55, 0.73] of the rows'
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlxtune.chat.client import Answer, ChatFailure, ChatServer, Question
from mlxtune.evaluation.judge.ratings import (
    MAX_TOKENS,
    JudgeRequest,
    answer_part,
    ask,
    n_judged,
    objects,
    sampled,
    text_fields,
    written,
)
from mlxtune.evaluation.metrics.agreement import mean_rating
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import LEVEL, mcnemar
from mlxtune.evaluation.predict.predictions import Prediction, require_same_rows
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import Recipe

log = logging.getLogger(__name__)

RUBRIC_VERSION = 1  # of the question below
FIRST, SECOND, TIE = "first", "second", "tie"

Choice = Literal["first", "second", "tie"]
Outcome = Literal["win", "loss", "tie", "order_decided", "unparseable", "refused", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("win", "loss", "tie", "order_decided", "unparseable", "refused", "failed")
POINTS: dict[Outcome, float] = {"win": 1.0, "loss": 0.0, "tie": 0.5, "order_decided": 0.5}


@dataclass(frozen=True)
class PairVerdict:
    """One text field of two replies to one row.

    Attributes:
        row: As in predictions.jsonl.
        field: The text field.
        outcome: For ours: 'win' or 'loss' where both orders choose the same reply, or only one of the two is there; 'tie'
            where both orders say so, or the replies are equal; 'order_decided' where they differ; else as for one reply.
        choices: What was chosen with ours first, and with theirs first; empty where nothing had to be asked.
    """

    row: int
    field: str
    outcome: Outcome
    choices: tuple[Choice | None, ...]


@dataclass(frozen=True)
class PairScores:
    """Wins and losses of one text field over rows, and whether they say anything.

    Attributes:
        counts: Outcome -> rows.
        judged: Rows with a win, a loss, a tie or an order that decided.
        win_rate: (Wins + half of the rows that nobody won) / judged; None over no rows.
        p_value: Of the sign test on wins and losses.
        first_chosen: How often the first of two was chosen, where both orders chose one: 0.5 is no leaning; None over no rows.
        other: What theirs is called.
    """

    counts: Mapping[Outcome, int]
    judged: int
    win_rate: Estimate | None
    p_value: float
    first_chosen: Estimate | None
    other: str

    @property
    def sentence(self) -> str:
        """What that means: 'better than rank-32: chosen in 0.64 [0.55, 0.73] of the rows'."""
        return _sentence(self.win_rate, self.p_value, self.other)

    def to_json(self) -> dict[str, Any]:
        """As `compare --judge --json` has it under a field."""
        return {
            **{outcome: self.counts[outcome] for outcome in OUTCOMES},
            "judged": self.judged,
            "win_rate": self.win_rate and self.win_rate.to_json(),
            "p_value": self.p_value,
            "first_chosen": self.first_chosen and self.first_chosen.to_json(),
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class JudgedPairs:
    """A judge's choices between two systems' replies: the judge, the rows that it was shown, text field -> scores."""

    model: str
    url: str
    rows: int
    fields: Mapping[str, PairScores]

    def to_json(self) -> dict[str, Any]:
        """As `compare --judge --json` has it under a run."""
        fields = {name: one.to_json() for name, one in self.fields.items()}
        return {"model": self.model, "url": self.url, "rubric": RUBRIC_VERSION, "rows": self.rows, "fields": fields}


@dataclass(frozen=True)
class JudgedRuns:
    """A judge's choices between each run's replies and the first run's: the judge, the first run, other run -> choices."""

    model: str
    url: str
    first: str
    runs: Mapping[str, JudgedPairs]

    def to_json(self) -> dict[str, Any]:
        """As `compare --judge --json` has it under "judge"."""
        runs = {name: one.to_json() for name, one in self.runs.items()}
        return {"model": self.model, "url": self.url, "first": self.first, "runs": runs}


def judge_pairs(
    ours: Sequence[Prediction],
    theirs: Sequence[Prediction],
    recipe: Recipe,
    server: ChatServer,
    name: str,
    sample: int | None = None,
    on_answer: Callable[[int], None] = lambda n_questions: None,
    max_tokens: int = MAX_TOKENS,
) -> JudgedPairs:
    """Have a model choose between two systems' replies.

    Args:
        ours: Replies of one system.
        theirs: Of the other, to the same rows in the same order.
        recipe: Says which fields are text; its training seed draws the sample and seeds the resampling.
        server: Where the judge answers.
        name: What theirs is called in the sentences.
        sample: Number of rows to judge; None judges all. The same rows as `judge_replies` takes.
        on_answer: Called with the number of questions just answered, two a row and text field; of rows that need none as well.
        max_tokens: Where the judge is truncated.

    Raises:
        RecipeError: The recipe has no text field.
        DataError: The replies are not to the same rows, or there are none.
        ChatServerError: The judge cannot be asked at all.
    """
    verdicts = pair_verdicts(ours, theirs, recipe, server, name, sample, on_answer, max_tokens)
    n_rows = len({one.row for one in verdicts})
    return JudgedPairs(server.model, server.url, n_rows, pair_scores(verdicts, name, recipe.train.seed))


def judge_runs(
    judge: JudgeRequest,
    names: Sequence[str],
    replies: Sequence[Sequence[Prediction]],
    recipe: Recipe,
    progress: Progress = SILENT,
) -> JudgedRuns:
    """Have each run's replies chosen from beside the first run's.

    Args:
        judge: Who chooses, between how many rows' replies.
        names: Of the runs, the first first.
        replies: Theirs, to the same rows in the same order.
        recipe: Says which fields are text.
        progress: Told how far it is.
    """
    n_fields = len(text_fields(recipe))
    progress.begin("judging", 2 * n_judged(replies[0], judge.sample) * n_fields * (len(replies) - 1))
    runs = {}
    try:
        for name, of_run in zip(names[1:], replies[1:], strict=True):
            runs[name] = judge_pairs(of_run, replies[0], recipe, judge.server, names[0], judge.sample, progress.advance)
    except KeyboardInterrupt:
        log.info("The judge's answers so far are kept; run the same command again to continue.")
        raise
    return JudgedRuns(judge.server.model, judge.server.url, names[0], runs)


def pair_verdicts(
    ours: Sequence[Prediction],
    theirs: Sequence[Prediction],
    recipe: Recipe,
    server: ChatServer,
    name: str,
    sample: int | None = None,
    on_answer: Callable[[int], None] = lambda n_questions: None,
    max_tokens: int = MAX_TOKENS,
) -> list[PairVerdict]:
    """The verdict on each row and text field; arguments and errors as for `judge_pairs`."""
    fields = text_fields(recipe)
    require_same_rows(ours, theirs, name)
    chosen = {one.row for one in sampled(ours, sample, recipe.train.seed)}
    pairs = [
        (our, their, field) for our, their in zip(ours, theirs, strict=True) if our.row in chosen for field in fields
    ]
    questions: list[Question] = []
    for our, their, field in pairs:
        mine, other = written(our, field), written(their, field)
        if mine is not None and other is not None and mine != other:
            for one, two in ((mine, other), (other, mine)):
                questions.append(_question(our.whole_input, str(our.expected[field]), one, two, max_tokens))
    if 2 * len(pairs) > len(questions):
        on_answer(2 * len(pairs) - len(questions))
    answers = iter(server.answers(questions, on_answer))
    found = []
    for our, their, field in pairs:
        mine, other = written(our, field), written(their, field)
        if mine is None or other is None or mine == other:
            unasked: Outcome = "tie" if mine == other else "loss" if mine is None else "win"
            found.append(PairVerdict(our.row, field, unasked, ()))
        else:
            found.append(_verdict(our.row, field, next(answers), next(answers)))
    return found


def pair_scores(verdicts: Sequence[PairVerdict], name: str, seed: int = 0) -> dict[str, PairScores]:
    """The scores of each text field.

    Args:
        verdicts: Of `pair_verdicts`.
        name: What theirs is called.
        seed: Of the resampling.
    """
    fields: dict[str, PairScores] = {}
    for field in dict.fromkeys(one.field for one in verdicts):
        of_field = [one for one in verdicts if one.field == field]
        counts = {outcome: sum(one.outcome == outcome for one in of_field) for outcome in OUTCOMES}
        points = np.array([POINTS[one.outcome] for one in of_field if one.outcome in POINTS])
        leaning = np.array(
            [one.choices.count(FIRST) / 2 for one in of_field if one.choices and {*one.choices} <= {FIRST, SECOND}]
        )
        rate, first = mean_rating(points, (0, 1), seed), mean_rating(leaning, (0, 1), seed)
        fields[field] = PairScores(counts, len(points), rate, mcnemar(counts["win"], counts["loss"]), first, name)
    return fields


def read_choice(text: str) -> Choice | None:
    """Which of two replies a judge chose; None unless it says so clearly.

    >>> read_choice('{"reason": "clearer", "better": "A"}'), read_choice("Better: tie"), read_choice("A or B")
    ('first', 'tie', None)
    """
    text = answer_part(text)
    found = [_choice(one["better"]) for one in objects(text) if "better" in one]
    if not found:
        said = re.findall(r"\bbetter\b[\"'*_` ]*[:=][\"'*_` ]*((?:reply )?\w+)(?!\w| *(?:or|and|/|\|) *\w)", text, re.I)
        found = [_choice(one) for one in said]
    return found[0] if len(set(found)) == 1 else None


def _question(request: str, reference: str, one: str, two: str, max_tokens: int) -> Question:
    task = (
        "Two support systems, A and B, replied to the same request. Say which reply is better: more accurate (it agrees with "
        "the reference reply, which is known to be right), more complete, and more professional. Length alone is no merit, "
        "nor is the order in which they stand. Other words than the reference's are no fault, nor are placeholders such as "
        "<name>, which are filled in later."
    )
    form = 'Answer with one JSON object and nothing else: {"reason": "one short sentence", "better": X} where X is "A", "B" or "tie".'
    texts = {"request": request, "reference": reference, "reply A": one, "reply B": two}
    return ask(texts, task, form, max_tokens)


def _verdict(row: int, field: str, ours_first: Answer, theirs_first: Answer) -> PairVerdict:
    both = (ours_first, theirs_first)
    choices = tuple(_read(answer) for answer in both)
    if None in choices:
        kinds = [answer.kind for answer in both if isinstance(answer, ChatFailure)]
        outcome: Outcome = "failed" if "failed" in kinds else "refused" if "refused" in kinds else "unparseable"
    elif choices == (TIE, TIE):
        outcome = "tie"
    elif choices == (FIRST, SECOND):
        outcome = "win"
    elif choices == (SECOND, FIRST):
        outcome = "loss"
    else:
        outcome = "order_decided"
    return PairVerdict(row, field, outcome, choices)


def _read(answer: Answer) -> Choice | None:
    if not isinstance(answer, ChatFailure):
        return read_choice(answer)
    return read_choice(answer.text) if answer.kind == "cut" else None


def _choice(value: Any) -> Choice | None:
    word = re.sub(r"^(reply|answer|system) ", "", value.strip().lower()) if isinstance(value, str) else ""
    words: dict[str, Choice] = {"a": "first", "b": "second", "tie": "tie", "equal": "tie", "draw": "tie"}
    return words.get(word)


def _sentence(rate: Estimate | None, p_value: float, name: str) -> str:
    if rate is None:
        return f"no pair with {name} was judged"
    low, high = rate.low, rate.high
    if low is None or high is None:
        return f"too few rows to tell from {name}"
    shown = f"{name}: chosen in {rate.value:.2f} [{low:.2f}, {high:.2f}] of the rows"
    if low <= 0.5 <= high:
        return f"no real difference from {shown}"
    if p_value >= LEVEL:
        return f"too few rows to tell from {shown}"
    return f"{'better' if low > 0.5 else 'worse'} than {shown}"
