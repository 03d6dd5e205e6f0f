"""Rows to examples: the tokens of a prompt and its reply, each reply token with its loss weight and segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import UNSUPERVISED
from mlxtune.data.conversation import ASSISTANT, SYSTEM, THINKING_BEGIN, THINKING_END, USER, Message
from mlxtune.data.field_forms import Value
from mlxtune.data.rows import Row
from mlxtune.data.template import TEMPLATE_SEGMENT, ReplyTemplate, Span
from mlxtune.data.turns import Turn, find_turns, written_turn
from mlxtune.errors import DataError, ModelError, Problem
from mlxtune.models.positions import max_positions
from mlxtune.models.tokenizer import Encoded, Tokenizer
from mlxtune.recipe.sections import PLACEHOLDER, Recipe

_BLOCK = 512  # rows that are Python objects at a time; their arrays take a twentieth of that


@dataclass(frozen=True)
class Example:
    """One row as the model sees it.

    Attributes:
        row: Its place among the rows.
        prompt: Token ids of the prompt, (P,), int32.
        reply: Token ids from the first that is trained on to the last, (R,), int32: the reply and its end of turn; with
            `train.supervise: all` all that stands between the first reply and the last, too.
        weights: Loss weight of each of these, (R,), float32.
        segments: Segment of each of these, (R,), int16: an index into `ReplyTemplate.segments`, or UNSUPERVISED.
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

    @property
    def is_document(self) -> bool:
        """Whether it is a document, or a piece of one: all but its first token is trained on."""
        return self.n_supervised == self.n_tokens - 1

    @property
    def n_supervised(self) -> int:
        """Tokens that are trained on."""
        return int(np.count_nonzero(self.segments != UNSUPERVISED))


def build_examples(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> list[Example]:
    """Examples of all rows, in their order; a document of more than `train.max_tokens` has several.

    Raises:
        DataError: Rows that lack a column, or hold a value that the recipe does not allow; all of them together.
    """
    if any(row.is_document for row in rows):
        return _document_examples(rows, recipe, tokenizer)
    template = ReplyTemplate(recipe.output)
    values = expected_values(rows, recipe)
    _with_columns(rows, recipe, tokenizer)
    end_segment = template.segments.index(TEMPLATE_SEGMENT)
    examples: list[Example] = []
    problems: list[Problem] = []
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        problems += _unreadable(rows[block], values[block], recipe, template, tokenizer)
        prompts, refused = _prompts(rows[block], recipe, tokenizer)
        problems += refused
        if problems:
            continue  # to name them all
        formatted = _written(rows[block], values[block], recipe, template, tokenizer)
        replies = tokenizer.encode([text for text, _ in formatted])
        for prompt, reply, (_, spans) in zip(prompts, replies, formatted, strict=True):
            weights, segments = mark_tokens(reply, spans, template.segments)
            earlier = prompt.trained(template)
            examples.append(
                Example(
                    row=len(examples),
                    prompt=np.asarray(prompt.ids[: prompt.first], np.int32),
                    reply=np.asarray([*prompt.ids[prompt.first :], *reply.ids, tokenizer.end_of_turn], np.int32),
                    weights=np.asarray([*(one[0] for one in earlier), *weights, 1.0], np.float32),
                    segments=np.asarray([*(one[1] for one in earlier), *segments, end_segment], np.int16),
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
    of_examples = [rows[example.row] for example in examples]
    values = expected_values(of_examples, recipe)
    weighed: list[Example] = []
    for start in range(0, len(examples), _BLOCK):
        block = slice(start, start + _BLOCK)
        formatted = _written(of_examples[block], values[block], recipe, template, tokenizer)
        replies = tokenizer.encode([text for text, _ in formatted])
        for example, reply, (_, spans) in zip(examples[block], replies, formatted, strict=True):
            weights, _ = mark_tokens(reply, spans, template.segments)
            earlier = example.weights[: len(example.weights) - len(weights) - 1]
            weighed.append(replace(example, weights=np.asarray([*earlier, *weights, 1.0], np.float32)))
    return weighed


# Documents ---------------------------------------------------------------------------------------------------------


def _document_examples(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> list[Example]:
    """Documents as pieces of up to `train.max_tokens`; every token but a document's very first is supervised, in one piece."""
    problems = [
        Problem(f"{row.file}:{row.line}", problem)
        for row in rows
        if (problem := _document_problem(row, recipe, tokenizer))
    ]
    if problems:
        raise DataError("documents that cannot be learned", problems)
    template = ReplyTemplate(recipe.output)
    (name,) = template.fields
    segment, weight = template.segments.index(name), template.fields[name].loss_weight
    examples: list[Example] = []
    for start in range(0, len(rows), _BLOCK):
        for at, tokens in enumerate(document_tokens(rows[start : start + _BLOCK], recipe, tokenizer), start):
            for piece in document_pieces(tokens, recipe.train.max_tokens):
                n_supervised = len(piece) - 1
                examples.append(
                    Example(
                        row=at,
                        prompt=np.asarray(piece[:1], np.int32),
                        reply=np.asarray(piece[1:], np.int32),
                        weights=np.full(n_supervised, weight, np.float32),
                        segments=np.full(n_supervised, segment, np.int16),
                    )
                )
    return examples


def document_tokens(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of documents, each with the beginning-of-text token where the tokenizer has one, and an end of text."""
    opening = [int(tokenizer.hf.bos_token_id)] if tokenizer.adds_bos else []
    texts = [str(row.fields[recipe.data.text]) for row in rows]
    return [[*opening, *ids, tokenizer.end_of_text] for ids in tokenizer.ids(texts)]


def document_pieces(tokens: Sequence[int], limit: int) -> list[Sequence[int]]:
    """A document in pieces of at most `limit` tokens. A piece goes on where the one before it ended, and opens with its last token.

    That token is not supervised again: it predicts the next one, so that no token of the document goes untrained.

    >>> document_pieces([1, 2, 3, 4, 5, 6], 3)
    [[1, 2, 3], [3, 4, 5], [5, 6]]
    """
    return [tokens[start : start + limit] for start in range(0, max(1, len(tokens) - 1), limit - 1)]


def _document_problem(row: Row, recipe: Recipe, tokenizer: Tokenizer) -> str | None:
    text = str(row.fields[recipe.data.text])
    name = repr(recipe.data.text)
    return f"{name} is empty" if not text.strip() else _control_problem(name, text, tokenizer.special_texts)


# Prompts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prompt:
    """A prompt's tokens, and the assistant's turns in it that are trained on.

    Attributes:
        ids: All of them.
        said: Which were said by the assistant; empty where none is trained on.
        ended: Which end a turn of the assistant's.
    """

    ids: Sequence[int]
    said: Sequence[bool] = ()
    ended: Sequence[bool] = ()

    @property
    def first(self) -> int:
        """The first token that is trained on; the length where none is."""
        marks = (at for at, pair in enumerate(zip(self.said, self.ended, strict=True)) if any(pair))
        return next(marks, len(self.ids))

    def trained(self, template: ReplyTemplate) -> list[tuple[float, int]]:
        """Loss weight and segment of each token from `first` on.

        What was said counts as the reply's text where that is one field; ends of turns, and turns beside a template of
        several fields, as the template's own words.
        """
        own = template.segments.index(TEMPLATE_SEGMENT)
        field = template.whole_text
        said = (1.0, own) if field is None else (template.fields[field].loss_weight, template.segments.index(field))
        return [
            said if is_said else (1.0, own) if is_end else (0.0, UNSUPERVISED)
            for is_said, is_end in zip(self.said[self.first :], self.ended[self.first :], strict=True)
        ]


def _prompts(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> tuple[list[_Prompt], list[Problem]]:
    """The prompts of rows, or what the chat template will not write."""
    texts, turns, problems = _prompt_texts(rows, recipe, tokenizer)
    if problems:
        return [], problems
    if not any(turns):
        return [_Prompt(ids) for ids in tokenizer.ids(texts)], []
    return [_marked(one, found) for one, found in zip(tokenizer.encode(texts), turns, strict=True)], []


def _prompt_texts(
    rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer
) -> tuple[list[str], list[list[Turn]], list[Problem]]:
    """The prompts' texts, the turns in each that are trained on, and the rows that the chat template will not write."""
    thinking = recipe.prompt.thinking
    texts: list[str] = []
    turns: list[list[Turn]] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            if row.conversation is not None and recipe.train.supervise == "all":
                text, found = find_turns(messages(row, recipe), row.conversation, tokenizer, thinking)
            else:
                text, found = tokenizer.prompt_text(messages(row, recipe), thinking, _tools(row)), []
        except (ModelError, ValueError) as error:
            if row.conversation is None:  # of no single row
                raise
            problems.append(Problem(f"{row.file}:{row.line}", str(error)))
        else:
            texts.append(text)
            turns.append(found)
    return texts, turns, problems


def _marked(prompt: Encoded, turns: Sequence[Turn]) -> _Prompt:
    """A prompt with the tokens of turns marked; one that reaches over a border belongs to where its last character is."""
    last = np.maximum([end - 1 for _, end in prompt.offsets], [start for start, _ in prompt.offsets])
    said, ended = np.zeros(len(last), np.bool_), np.zeros(len(last), np.bool_)
    for turn in turns:
        said |= (last >= turn.start) & (last < turn.end)
        ended |= (last >= turn.end) & (last < turn.closed)
    return _Prompt(prompt.ids, said.tolist(), ended.tolist())


def prompt_ids(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, shots: Sequence[Row] = ()) -> list[list[int]]:
    """Prompt ids of all rows, as training and inference both use them; of a document, its first piece.

    Args:
        shots: Rows shown with their replies as earlier turns of every conversation.

    Raises:
        DataError: Rows that lack a column which the user message names; all of them together.
    """
    if any(row.is_document for row in rows):
        return [list(ids[: recipe.train.max_tokens]) for ids in document_tokens(rows, recipe, tokenizer)]
    template = ReplyTemplate(recipe.output)
    replies = [template.format(values)[0] for values in expected_values(shots, recipe)]
    earlier = [
        turn
        for shot, reply in zip(_with_columns(shots, recipe, tokenizer), replies, strict=True)
        for turn in (*_without_system(messages(shot, recipe)), {"role": ASSISTANT, "content": reply})
    ]
    texts = []
    for row in _with_columns(rows, recipe, tokenizer):
        asked = messages(row, recipe)
        later = _without_system(asked)
        conversation = [*asked[: len(asked) - len(later)], *earlier, *later]
        texts.append(tokenizer.prompt_text(conversation, recipe.prompt.thinking, _tools(row)))
    return tokenizer.ids(texts)


def messages(row: Row, recipe: Recipe) -> list[Message]:
    """The conversation that asks the model about one row."""
    if row.conversation is None:
        user = PLACEHOLDER.sub(lambda found: _text(row.fields[found.group(1)]), recipe.prompt.user)
        asked: Sequence[Message] = [{"role": USER, "content": user}]
    else:
        asked = row.conversation.messages
    has_system = recipe.prompt.system is None or (row.conversation is not None and row.conversation.system is not None)
    return [*asked] if has_system else [{"role": SYSTEM, "content": recipe.prompt.system}, *asked]


def _without_system(conversation: Sequence[Message]) -> Sequence[Message]:
    return conversation[1:] if conversation[0]["role"] == SYSTEM else conversation


def _tools(row: Row) -> Sequence[Mapping[str, Any]]:
    return () if row.conversation is None else row.conversation.tools


# Replies -----------------------------------------------------------------------------------------------------------


def _written(
    rows: Sequence[Row],
    values: Sequence[Mapping[str, Value]],
    recipe: Recipe,
    template: ReplyTemplate,
    tokenizer: Tokenizer,
) -> list[tuple[str, list[Span]]]:
    """The replies' texts and their spans, with the thinking before them where the recipe thinks and the row does."""
    written = []
    for row, value in zip(rows, values, strict=True):
        text, spans = template.format(value)
        thought = "" if row.conversation is None or not recipe.prompt.thinking else row.conversation.thinking
        if thought:
            opening = "" if tokenizer.opens_thinking else f"{THINKING_BEGIN}\n"
            before = f"{opening}{thought}\n{THINKING_END}\n\n"
            shifted = [replace(span, start=span.start + len(before), end=span.end + len(before)) for span in spans]
            text, spans = before + text, [Span(0, len(before), TEMPLATE_SEGMENT, 1.0), *shifted]
        written.append((text, spans))
    return written


def _unreadable(
    rows: Sequence[Row],
    values: Sequence[Mapping[str, Value]],
    recipe: Recipe,
    template: ReplyTemplate,
    tokenizer: Tokenizer,
) -> list[Problem]:
    """Replies that would not be read back as what they say: a model that learned them would score wrong."""
    found = [_reply_problem(row, value, recipe, template, tokenizer) for row, value in zip(rows, values, strict=True)]
    return [Problem(f"{row.file}:{row.line}", text) for row, text in zip(rows, found, strict=True) if text]


def _reply_problem(
    row: Row, value: Mapping[str, Value], recipe: Recipe, template: ReplyTemplate, tokenizer: Tokenizer
) -> str | None:
    reply = template.format(value)[0]
    if problem := _control_problem("'reply'", reply, _controls(row, tokenizer)):
        return problem
    if row.conversation is not None and row.conversation.called is not None:
        called, tools = row.conversation.called, row.conversation.tools
        try:
            own = written_turn(messages(row, recipe), called, tools, tokenizer, recipe.prompt.thinking)
        except ModelError as error:
            return str(error)
        if own.strip() != reply:
            return (
                f"its last turn calls tools, which are read as {reply[:60]!r}, and this model's chat template writes "
                f"{own.strip()[:60]!r}; write the calls as the text of the turn, as the model is to write them"
            )
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
    if row.is_document:
        return [problem] if (problem := _document_problem(row, recipe, tokenizer)) else []
    problems = _prompt_problems(row, recipe, tokenizer)
    values, wrong = template.read(row.fields)
    reply = None if wrong else _reply_problem(row, values, recipe, template, tokenizer)
    if row.conversation is not None and not problems:
        problems = [problem.message for problem in _prompt_texts([row], recipe, tokenizer)[2]]
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
    """The output fields of all rows, label sets in canonical order; none of documents.

    Raises:
        DataError: Rows whose fields are missing or not allowed; all of them together.
    """
    template = ReplyTemplate(recipe.output)
    found: list[dict[str, Value]] = []
    problems: list[Problem] = []
    for row in rows:
        values, wrong = ({}, []) if row.is_document else template.read(row.fields)
        found.append(values)
        problems += [Problem(f"{row.file}:{row.line}", text) for text in wrong]
    if problems:
        raise DataError("rows that the recipe's output does not allow", problems)
    return found


def _with_columns(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> Sequence[Row]:
    """The rows, if all have the columns of the prompt, as text that opens and ends no turn of its own.

    Raises:
        DataError: Some do not; all of them together.
    """
    problems = [
        Problem(f"{row.file}:{row.line}", problem)
        for row in rows
        for problem in _prompt_problems(row, recipe, tokenizer)
    ]
    if problems:
        raise DataError("rows that the prompt cannot be built from", problems)
    return rows


def _prompt_problems(row: Row, recipe: Recipe, tokenizer: Tokenizer) -> list[str]:
    """What is wrong with a row's columns that the prompt shows, or with the messages that it brings."""
    if row.conversation is None:
        needed = dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user))
        found = [_column_problem(row.fields, name, "prompt.user", tokenizer) for name in needed]
    else:
        found = [
            f"message {at}: {one['role']} says nothing"
            if not one["content"].strip() and not one.get("tool_calls") and one["role"] == USER
            else _control_problem(f"message {at}", one["content"], tokenizer.special_texts)
            for at, one in enumerate(row.conversation.messages, start=1)
        ]
    return [problem for problem in found if problem]


def _column_problem(fields: Mapping[str, Any], name: str, where: str, tokenizer: Tokenizer) -> str | None:
    value = fields.get(name)
    if value is None:
        return f"no {name!r}, which {where} needs; the row has {', '.join(map(repr, fields))}"
    if not isinstance(value, (str, list, tuple)):
        return f"{name!r}: expected text, got {value!r}"
    if not _text(value).strip():
        return f"{name!r} is empty"
    return _control_problem(repr(name), _text(value), tokenizer.control_texts)


def _controls(row: Row, tokenizer: Tokenizer) -> Sequence[str]:
    """The texts that a row's reply may not hold; calls of tools are part of conversations."""
    return tokenizer.control_texts if row.conversation is None else tokenizer.special_texts


def _control_problem(what: str, text: str, controls: Sequence[str]) -> str | None:
    """What is wrong with a text that the model would take for the end of a turn, or another control token."""
    found = next((control for control in controls if control in text), None)
    return f"{what} contains {found!r}, which the model reads as a control token; take it out" if found else None


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
