"""What one reply says: loops, truncated replies and thinking, strictly."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from mlxtune.data.template import ReplyTemplate
from mlxtune.evaluation.predict.parsing import MIN_LOOP_CHARS, is_loop, parse_reply
from mlxtune.evaluation.predict.thinking import may_think
from mlxtune.recipe.sections import OutputSection, Recipe

LABELS = {"kind": "labels", "labels": ["payment", "notification", "none"], "exclusive": "none"}


def template(**output: Any) -> ReplyTemplate:
    return ReplyTemplate(OutputSection.model_validate(output or {"template": "{a}", "fields": {"a": LABELS}}))


def test_a_label_said_again_counts_once_and_is_reported():
    parsed = parse_reply(template(), "none, none, none", truncated=False, constrained=False)
    assert (parsed.predicted, parsed.valid, parsed.repeated, parsed.loop) == ({"a": ("none",)}, True, True, False)


def test_a_loop_cut_by_the_limit_is_reported_even_where_it_does_not_parse():
    parsed = parse_reply(template(), "hello hello hello hello hel", truncated=True, constrained=False)
    assert (parsed.predicted, parsed.repeated, parsed.loop) == ({"a": None}, True, True)


def test_a_constrained_reply_that_was_cut_is_invalid():
    assert parse_reply(template(), "payment", truncated=True, constrained=False).valid
    parsed = parse_reply(template(), "payment", truncated=True, constrained=True)
    assert (parsed.predicted, parsed.valid) == ({"a": None}, False)
    assert parsed.problem == "cut at the length limit"


def test_labels_before_a_text_that_was_cut_still_count():
    ticket = template(template="Tags: {a}\nReply: {b}", fields={"a": LABELS, "b": {"kind": "text"}})
    parsed = parse_reply(ticket, "Tags: payment\nReply: Dear cust", truncated=True, constrained=True)
    assert (parsed.predicted, parsed.valid) == ({"a": ("payment",), "b": "Dear cust"}, False)


@pytest.mark.parametrize("text", ["none, none, none, no", "啊啊啊啊啊啊啊啊啊啊啊啊", "so. I am. I am. I am. I am."])
def test_a_loop_is_found(text):
    assert is_loop(text)


@pytest.mark.parametrize("text", ["", "none", "payment, notification", "wait...", "ha ha ha", "1000000"])
def test_an_ordinary_reply_is_no_loop(text):
    assert not is_loop(text)


def test_loops_are_those_of_a_search_over_every_length_of_a_passage():
    def searched(text: str) -> bool:
        for size in range(1, len(text) // 3 + 1):
            tail = text[-max(3 * size, MIN_LOOP_CHARS) :]
            if len(tail) >= MIN_LOOP_CHARS and tail[size:] == tail[:-size]:
                return True
        return False

    generator = random.Random(0)
    texts = ["".join(generator.choices("ab", k=4)) for _ in range(30)]
    texts = ["".join(generator.choices(texts, k=5)) + generator.choice(texts) * 3 + one[:2] for one in texts * 20]
    texts += ["".join(generator.choices("ab", k=generator.randrange(10, 40))) for _ in range(3000)]
    assert [is_loop(text) for text in texts] == [searched(text) for text in texts]
    assert 100 < sum(map(is_loop, texts)) < len(texts) / 2


def test_a_loop_is_looked_for_in_a_megabyte():
    began = time.perf_counter()
    assert not is_loop("".join(random.Random(0).choices("ab", k=1_000_000)))
    assert time.perf_counter() - began < 5, "about 0.4 s"


@pytest.mark.parametrize(
    ("text", "predicted"),
    [
        ("payment", ("payment",)),
        ("hm</think>payment", ("payment",)),  # the prompt began the block
        ("<think>a</think>payment</think>", None),  # one block, not all up to the last
        ("<think>a</think><think>b</think>payment", None),
        ("<think>\npayment", None),
        ("<think> payment, payment, payment, payment", None),
    ],
)
def test_one_block_of_thinking_that_ends_is_left_out(text, predicted):
    parsed = parse_reply(template(), text, truncated=False, constrained=False, thinking=True)
    assert parsed.predicted == {"a": predicted} and parsed.valid == (predicted is not None)


def test_thinking_that_does_not_end_is_no_text():
    reply = template(template="{a}", fields={"a": {"kind": "text"}})
    parsed = parse_reply(
        reply, "<think> Let me see. Let me see. Let me see.", truncated=True, constrained=False, thinking=True
    )
    assert parsed.predicted == {"a": None} and parsed.loop
    assert parsed.problem == "does not follow the template: its thinking does not end"
    problem = parse_reply(reply, "<think> hm", truncated=True, constrained=True, thinking=True).problem
    assert problem is not None and problem.startswith("cut at the length limit")


def thinking_recipe(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"thinking": True})})


def test_a_template_that_writes_the_block_itself_is_followed_as_it_stands(recipe):
    output = {"template": "<think>\n{why}\n</think>\n\n{a}", "fields": {"why": {"kind": "text"}, "a": LABELS}}
    own = thinking_recipe(recipe).model_copy(update={"output": OutputSection.model_validate(output)})
    assert may_think(thinking_recipe(recipe)) and not may_think(own)
    parsed = parse_reply(
        ReplyTemplate(own.output), "<think>\nA bill.\n</think>\n\npayment", False, True, may_think(own)
    )
    assert parsed.predicted == {"why": "A bill.", "a": ("payment",)}
