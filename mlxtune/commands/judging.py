"""A model judge on the command line: its options, its server, and a bar while it judges. `evaluate` and `compare` share it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.options import Command, RowsProgress

if TYPE_CHECKING:
    from mlxtune.evaluation.judge.ratings import JudgeRequest


def judge_options(command: Command) -> Command:
    """--judge and what belongs to it, handed to the command as one argument `judge_request`, None without --judge."""

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
        return command(
            *words, judge_request=_judge_request(judge, judge_model, judge_sample, judge_rate, judge_timeout), **others
        )

    options = (
        click.option(
            "--judge",
            metavar="URL",
            help="Have written replies judged by a model on this OpenAI-compatible server. Its key, if it needs one, is "
            "taken from $MLXTUNE_API_KEY or $OPENAI_API_KEY.",
        ),
        click.option("--judge-model", metavar="NAME", help="Name of the judge on that server."),
        click.option(
            "--judge-sample", type=click.IntRange(min=1), metavar="N", help="Judge only N rows. Default: all."
        ),
        click.option(
            "--judge-rate",
            type=click.FloatRange(min=0, min_open=True),
            metavar="N",
            help="Send at most N requests a minute. Default: no limit.",
        ),
        click.option(
            "--judge-timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="Seconds to wait for one answer. Default: 120.",
        ),
    )
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), with_judge)  # type: ignore[return-value]


def _judge_request(
    url: str | None, model: str | None, sample: int | None, rate: float | None, timeout_s: float | None
) -> JudgeRequest | None:
    """The judge asked for; its address is checked before anything takes time.

    Raises:
        click.UsageError: --judge without --judge-model, or an option of it alone.
        Misuse: No address.
    """
    others = {"model": model, "sample": sample, "rate": rate, "timeout": timeout_s}
    if url is None:
        for name, value in others.items():
            if value is not None:
                raise click.UsageError(f"--judge-{name} needs --judge URL")
        return None
    if model is None:
        raise click.UsageError(
            "--judge needs --judge-model NAME, the model's name on that server; its /v1/models lists the names"
        )

    from mlxtune.chat.client import ChatServer, answers_folder, chat_key
    from mlxtune.evaluation.judge.ratings import JudgeRequest

    server = ChatServer(
        url, model, cache=answers_folder(), key=chat_key(), timeout_s=timeout_s or 120, requests_per_minute=rate
    )
    return JudgeRequest(server, sample)


def judge_progress(judge: JudgeRequest | None) -> RowsProgress:
    """Shows how many questions a judge has answered: a bar on a terminal, else one line."""
    where = "" if judge is None else f"{judge.server.model} at {judge.server.url}"
    return RowsProgress("question", lambda n, what: f"judging: {n} questions to {where}")
