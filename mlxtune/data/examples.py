"""Rows to examples: the tokens of a prompt and its reply, each reply token with its loss weight and segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.field_forms import Value
from mlxtune.data.rows import Row
from mlxtune.data.template import TEMPLATE_SEGMENT, ReplyTemplate, Span
from mlxtune.errors import DataError, ModelError, Problem
from mlxtune.models.architecture import max_positions
from mlxtune.models.tokenizer import Encoded, Tokenizer
from mlxtune.recipe.sections import PLACEHOLDER, Recipe

_BLOCK = 512  # rows that are Python objects at a time; their arrays take a twentieth of that


@dataclass(frozen=True)
class Example:
    """One row as the model sees it.

    Attributes:
        row: Its place among the rows.
        prompt: Token ids of the prompt, (P,), int32.
        reply: Token ids of the reply and its end of turn, (R,), int32.
        weights: Loss weight of each reply token, (R,), float32.
        segments: Segment of each reply token, (R,), int16: an index into `ReplyTemplate.segments`.
    """

    row: int
    prompt: NDArray[np.int32]
    reply: NDArray[np.int32]
    weights: NDArray[np.float32]
    segments: NDArray[np.int16]

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and reply."""
        return len(self.prompt) + len(self.reply)


def build_examples(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> list[Example]:
    """Examples of all rows, in their order.

    Raises:
        DataError: Rows that lack a column, or hold a value that the recipe does not allow; all of them together.
    """
    template = ReplyTemplate(recipe.output)
    values = expected_values(rows, recipe)
    _with_columns(rows, recipe, tokenizer)
    end_segment = template.segments.index(TEMPLATE_SEGMENT)
    examples: list[Example] = []
    problems: list[Problem] = []
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        formatted = [template.format(value) for value in values[block]]
        problems += _unreadable(rows[block], values[block], [text for text, _ in formatted], template, tokenizer)
        if problems:
            continue  # to name them all
        prompts = tokenizer.prompts([messages(row, recipe) for row in rows[block]], recipe.prompt.thinking)
        replies = tokenizer.encode([text for text, _ in formatted])
        for prompt, reply, (_, spans) in zip(prompts, replies, formatted, strict=True):
            weights, segments = mark_tokens(reply, spans, template.segments)
            examples.append(
                Example(
                    row=len(examples),
                    prompt=np.asarray(prompt, np.int32),
                    reply=np.asarray([*reply.ids, tokenizer.end_of_turn], np.int32),
                    weights=np.asarray([*weights, 1.0], np.float32),
                    segments=np.asarray([*segments, end_segment], np.int16),
                )
            )
    if problems:
        raise DataError("rows whose reply cannot be learned", problems)
    return examples


def weigh_examples(
    examples: Sequence[Example],
    rows: Sequence[Row],
    recipe: Recipe,
    tokenizer: Tokenizer,
    class_weights: Mapping[str, Mapping[str, float]],
) -> list[Example]:
    """The examples with these class weights on the labels' own tokens, all else as it is.

    Args:
        examples: Of `build_examples`.
        rows: What they were built of.
        recipe: What they were built by.
        tokenizer: What they were built with.
        class_weights: Field -> label -> weight, in place of the recipe's.
    """
    template = ReplyTemplate(recipe.output, class_weights)
    values = expected_values([rows[example.row] for example in examples], recipe)
    weighed: list[Example] = []
    for start in range(0, len(examples), _BLOCK):
        block = slice(start, start + _BLOCK)
        formatted = [template.format(value) for value in values[block]]
        replies = tokenizer.encode([text for text, _ in formatted])
        for example, reply, (_, spans) in zip(examples[block], replies, formatted, strict=True):
            weights, _ = mark_tokens(reply, spans, template.segments)
            weighed.append(replace(example, weights=np.asarray([*weights, 1.0], np.float32)))
    return weighed


def _unreadable(
    rows: Sequence[Row],
    values: Sequence[Mapping[str, Value]],
    replies: Sequence[str],
    template: ReplyTemplate,
    tokenizer: Tokenizer,
) -> list[Problem]:
    """Replies that would not be read back as what they say: a model that learned them would score wrong."""
    found = [_reply_problem(value, reply, template, tokenizer) for value, reply in zip(values, replies, strict=True)]
    return [Problem(f"{row.file}:{row.line}", text) for row, text in zip(rows, found, strict=True) if text]


def _reply_problem(value: Mapping[str, Value], reply: str, template: ReplyTemplate, tokenizer: Tokenizer) -> str | None:
    problem = _control_problem("reply", reply, tokenizer)
    if problem:
        return problem
    parsed = template.parse(reply)
    if dict(parsed.values) == dict(value):
        return None
    return f"its reply {reply[:60]!r} would be read back as {dict(parsed.values)}; reword the template or the row"


def row_problems(row: Row, recipe: Recipe, template: ReplyTemplate, tokenizer: Tokenizer) -> list[str]:
    """All for which `build_examples` would refuse a row, without refusing it; empty for a row that can be used.

    Args:
        row: Any row.
        template: Of the recipe's `output`.
    """
    needed = dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user))
    columns = [_column_problem(row.fields, name, "prompt.user", tokenizer) for name in needed]
    problems = [problem for problem in columns if problem]
    values, wrong = template.read(row.fields)
    reply = None if wrong else _reply_problem(values, template.format(values)[0], template, tokenizer)
    return [*problems, *wrong, *([reply] if reply else [])]


def mark_tokens(reply: Encoded, spans: Sequence[Span], segments: Sequence[str]) -> tuple[list[float], list[int]]:
    """Loss weight and segment of each token of a reply, from the spans of its text.

    A token that reaches over a border belongs to the span of its last character: byte-level BPE writes the space
    before a word into the word's own token.
    """
    marks = [(span.weight, segments.index(span.segment)) for span in spans]
    ends = [span.end for span in spans]
    weights: list[float] = []
    places: list[int] = []
    at, at_last = 0, len(spans) - 1
    for start, end in reply.offsets:
        last = max(start, end - 1)
        while at < at_last and ends[at] <= last:
            at += 1
        weight, place = marks[at]
        weights.append(weight)
        places.append(place)
    return weights, places


def expected_values(rows: Sequence[Row], recipe: Recipe) -> list[dict[str, Value]]:
    """The output fields of all rows, label sets in canonical order.

    Raises:
        DataError: Rows whose fields are missing or not allowed; all of them together.
    """
    template = ReplyTemplate(recipe.output)
    found: list[dict[str, Value]] = []
    problems: list[Problem] = []
    for row in rows:
        values, wrong = template.read(row.fields)
        found.append(values)
        problems += [Problem(f"{row.file}:{row.line}", text) for text in wrong]
    if problems:
        raise DataError("rows that the recipe's output does not allow", problems)
    return found


def prompt_ids(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, shots: Sequence[Row] = ()) -> list[list[int]]:
    """Prompt ids of all rows, as training and inference both use them.

    Args:
        shots: Rows shown with their replies as earlier turns of every conversation.

    Raises:
        DataError: Rows that lack a column which the user message names; all of them together.
    """
    template = ReplyTemplate(recipe.output)
    replies = [template.format(values)[0] for values in expected_values(shots, recipe)]
    earlier = [
        turn
        for shot, reply in zip(_with_columns(shots, recipe, tokenizer), replies, strict=True)
        for turn in (messages(shot, recipe)[-1], {"role": "assistant", "content": reply})
    ]
    asked = [messages(row, recipe) for row in _with_columns(rows, recipe, tokenizer)]
    return tokenizer.prompts([[*one[:-1], *earlier, one[-1]] for one in asked], recipe.prompt.thinking)


def messages(row: Row, recipe: Recipe) -> list[dict[str, str]]:
    """The conversation that asks the model about one row."""
    user = PLACEHOLDER.sub(lambda found: _text(row.fields[found.group(1)]), recipe.prompt.user)
    system = [{"role": "system", "content": recipe.prompt.system}] if recipe.prompt.system is not None else []
    return [*system, {"role": "user", "content": user}]


def _with_columns(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> Sequence[Row]:
    """The rows, if all have the columns of the prompt, as text that opens and ends no turn of its own.

    Raises:
        DataError: Some do not; all of them together.
    """
    needed = dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user), "prompt.user")
    problems = []
    for row in rows:
        for name, where in needed.items():
            problem = _column_problem(row.fields, name, where, tokenizer)
            if problem:
                problems.append(Problem(f"{row.file}:{row.line}", problem))
    if problems:
        raise DataError("rows that the prompt cannot be built from", problems)
    return rows


def _column_problem(fields: Mapping[str, Any], name: str, where: str, tokenizer: Tokenizer) -> str | None:
    value = fields.get(name)
    if value is None:
        return f"no {name!r}, which {where} needs; the row has {', '.join(map(repr, fields))}"
    if not isinstance(value, (str, list, tuple)):
        return f"{name!r}: expected text, got {value!r}"
    if not _text(value).strip():
        return f"{name!r} is empty"
    return _control_problem(name, _text(value), tokenizer)


def _control_problem(name: str, text: str, tokenizer: Tokenizer) -> str | None:
    """What is wrong with a text that the model would take for the end of a turn, or another control token."""
    found = next((control for control in tokenizer.control_texts if control in text), None)
    return f"{name!r} contains {found!r}, which the model reads as a control token; take it out" if found else None


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def check_lengths(examples: Sequence[Example], rows: Sequence[Row], recipe: Recipe) -> tuple[list[Example], list[str]]:
    """The examples that fit into `train.max_tokens`, and a line for each that does not. None is ever cut.

    Raises:
        DataError: Some do not fit and the recipe says to refuse them.
    """
    limit = recipe.train.max_tokens
    fitting = [example for example in examples if example.n_tokens <= limit]
    long = [
        Problem(f"{rows[example.row].file}:{rows[example.row].line}", f"{example.n_tokens} tokens")
        for example in examples
        if example.n_tokens > limit
    ]
    if long and recipe.train.over_long == "refuse":
        advice = "raise train.max_tokens, shorten the rows, or leave them out with train.over_long: drop"
        raise DataError(f"rows longer than train.max_tokens = {limit}; {advice}", long)
    return fitting, [f"{problem.place}: {problem.message}" for problem in long]


def within_positions(recipe: Recipe, config: Mapping[str, Any]) -> Recipe:
    """The recipe with `train.max_tokens` no larger than the positions that a model has; the default is lowered to them.

    Raises:
        ModelError: The recipe sets it to more than the model has.
    """
    positions, limit = max_positions(config), recipe.train.max_tokens
    if positions is None or limit <= positions:
        return recipe
    if limit != type(recipe.train).model_fields["max_tokens"].default:
        raise ModelError(
            f"train.max_tokens: expected at most {positions:,}, the positions that the model has (max_position_embeddings "
            f"and RoPE scaling in its config.json), got {limit:,}; set train.max_tokens to {positions} and shorten longer rows, "
            "or leave these out with train.over_long: drop"
        )
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_tokens": positions})})
