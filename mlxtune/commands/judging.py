"""A model judge on the command line: its options, its server, and a bar while it judges. `evaluate` and `compare` share it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.options import Command, on_terminal, say

if TYPE_CHECKING:
    from mlxtune.chat.client import ChatServer
    from mlxtune.evaluation.predict.predictions import Prediction
    from mlxtune.recipe.sections import Recipe


@dataclass(frozen=True)
class Judging:
    """A judge that was asked for: where it answers, and how many rows it gets (None: all)."""

    server: ChatServer
    sample: int | None


def judge_options(command: Command) -> Command:
    """--judge and what belongs to it, handed to the command as one argument `judging`, None without --judge."""

    @functools.wraps(command)
    def with_judge(
        *words: Any,
        judge: str | None,
        judge_model: str | None,
        judge_sample: int | None,
        judge_rate: float | None,
        judge_timeout: float | None,
        **others: Any,
    ) -> Any:
        return command(*words, judging=_judging(judge, judge_model, judge_sample, judge_rate, judge_timeout), **others)

    options = (
        click.option(
            "--judge",
            metavar="URL",
            help="Have written replies judged by a model on this OpenAI-compatible server; its key, if it wants one, is "
            "taken from $MLXTUNE_API_KEY or $OPENAI_API_KEY.",
        ),
        click.option("--judge-model", metavar="NAME", help="Its name there."),
        click.option("--judge-sample", type=click.IntRange(min=1), metavar="N", help="Judge N rows; all without it."),
        click.option(
            "--judge-rate",
            type=click.FloatRange(min=0, min_open=True),
            metavar="N",
            help="At most N requests a minute; as fast as it answers without it.",
        ),
        click.option(
            "--judge-timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="For one answer; 120 without it.",
        ),
    )
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), with_judge)  # type: ignore[return-value]


def judge_evaluation(
    judging: Judging,
    scores: dict[str, Any],
    out: Path | None,
    predictions: Sequence[Prediction],
    recipe: Recipe,
    go_on: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Judge the replies of an evaluation that is finished, and put the marks into its files.

    Args:
        judging: The judge.
        scores: Of the evaluation.
        out: Its folder, where judge.jsonl is written and scores.json gets "judge"; None writes nothing.
        predictions: Its replies.
        recipe: What they were asked by.
        go_on: What to do where the judge cannot be asked.

    Returns:
        The scores with "judge", and the lines of judge.jsonl.

    Raises:
        ChatServerError: The judge cannot be asked; the evaluation is as it was.
    """
    from mlxtune.chat.client import ChatServerError
    from mlxtune.evaluation.judge.ratings import JUDGE_FILE, judge_replies, judge_scores, text_fields, write_judgements
    from mlxtune.evaluation.run import SCORES_FILE
    from mlxtune.files import write_json
    from mlxtune.runs.folder import locked

    n_rows = len(predictions) if judging.sample is None else min(judging.sample, len(predictions))
    with nullcontext() if out is None else locked(out):
        try:
            with _progress(judging, n_rows * len(text_fields(recipe)), go_on) as answered:
                judgements = judge_replies(predictions, recipe, judging.server, judging.sample, answered)
        except ChatServerError as error:
            raise ChatServerError(f"{error}\n  The evaluation itself is finished; {go_on}") from error
        found = {
            "model": judging.server.model,
            "url": judging.server.url,
            **judge_scores(judgements, predictions, recipe.train.seed),
        }
        scores = {**scores, "judge": found}
        if out is not None:
            write_judgements(out / JUDGE_FILE, judgements)
            write_json(out / SCORES_FILE, scores)
    return scores, [asdict(one) for one in judgements]


def judge_runs(
    judging: Judging, names: Sequence[str], replies: Sequence[Sequence[Prediction]], recipe: Recipe
) -> Mapping[str, Any]:
    """Have each run's replies chosen from beside the first run's.

    Args:
        names: Of the runs, the first first.
        replies: Theirs, to the same rows in the same order.

    Returns:
        {"model", "url", "first": its name, "runs": name of another -> `judge_pairs` of its replies with the first one's}.
    """
    from mlxtune.evaluation.judge.pairs import judge_pairs
    from mlxtune.evaluation.judge.ratings import text_fields

    n_rows = len(replies[0]) if judging.sample is None else min(judging.sample, len(replies[0]))
    n_questions = 2 * n_rows * len(text_fields(recipe)) * (len(replies) - 1)
    runs = {}
    with _progress(judging, n_questions, "the same command goes on from there") as answered:
        for name, of_run in zip(names[1:], replies[1:], strict=True):
            runs[name] = judge_pairs(of_run, replies[0], recipe, judging.server, names[0], judging.sample, answered)
    return {"model": judging.server.model, "url": judging.server.url, "first": names[0], "runs": runs}


def _judging(
    url: str | None, model: str | None, sample: int | None, rate: float | None, timeout_s: float | None
) -> Judging | None:
    """The judge asked for; its address is checked before anything takes time.

    Raises:
        click.UsageError: --judge without --judge-model, or an option of it alone.
        Misuse: No address.
    """
    others = {"model": model, "sample": sample, "rate": rate, "timeout": timeout_s}
    if url is None:
        for name, value in others.items():
            if value is not None:
                raise click.UsageError(f"--judge-{name} goes with --judge URL")
        return None
    if model is None:
        raise click.UsageError(
            "--judge goes with --judge-model NAME, as the server calls it; its /v1/models lists them"
        )

    from mlxtune.chat.client import ChatServer, answers_folder, chat_key

    server = ChatServer(
        url, model, cache=answers_folder(), key=chat_key(), timeout_s=timeout_s or 120, requests_per_minute=rate
    )
    return Judging(server, sample)


@contextmanager
def _progress(judging: Judging, n_questions: int, go_on: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of questions answered: a bar on a terminal, else one line."""
    bars: list[Any] = []

    def answered(n: int) -> None:
        for bar in bars:
            bar.update(n)

    try:
        if on_terminal():
            from tqdm import tqdm

            bars.append(tqdm(total=n_questions, unit="question", desc="judging", file=sys.stderr, dynamic_ncols=True))
        else:
            say(f"judging: {n_questions} questions to {judging.server.model} at {judging.server.url}")
        yield answered
    except KeyboardInterrupt:
        say(f"What was judged so far is kept; {go_on}.")
        raise
    finally:
        for bar in bars:
            bar.close()
