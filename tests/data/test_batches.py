"""Examples and batches: every row once an epoch, a pure order, the right prefix and padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlxtune.data.batches import collate, epoch_order, shared_prefix
from mlxtune.data.examples import Example, build_examples, check_lengths, mark_tokens, prompt_ids
from mlxtune.data.rows import Row, read_rows
from mlxtune.data.template import Span
from mlxtune.errors import DataError
from mlxtune.models.tokenizer import Encoded, load_tokenizer
from mlxtune.recipe.sections import Recipe
from mlxtune.training.loop import BatchSampler, Steps


def example(row: int, prompt: list[int], reply: list[int]) -> Example:
    n = len(reply)
    return Example(
        row, np.asarray(prompt, np.int32), np.asarray(reply, np.int32), np.ones(n, np.float32), np.zeros(n, np.int16)
    )


@pytest.mark.parametrize(("rows", "rows_per_step"), [(1, 4), (7, 4), (11, 8), (163, 24), (300, 8)])
def test_each_epoch_holds_each_row_exactly_once(rows: int, rows_per_step: int) -> None:
    for epoch in range(3):
        order = epoch_order(rows, rows_per_step, seed=3, epoch=epoch)
        assert sorted(row for step in order for row in step) == list(range(rows))
        assert all(len(step) == rows_per_step for step in order[:-1]) and 0 < len(order[-1]) <= rows_per_step


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert epoch_order(100, 8, 0, 1) == epoch_order(100, 8, 0, 1)
    assert epoch_order(100, 8, 0, 1) != epoch_order(100, 8, 0, 2)
    assert epoch_order(100, 8, 0, 1) != epoch_order(100, 8, 1, 1)


def test_rows_meet_other_rows_in_the_next_epoch() -> None:
    pairs = [{tuple(sorted(step)) for step in epoch_order(64, 2, 0, epoch)} for epoch in range(2)]
    assert len(pairs[0] & pairs[1]) < 5


def test_steps_mix_lengths() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 1024)
    means = [np.mean(lengths[step]) for step in epoch_order(1024, 64, 0, 0)]
    assert max(abs(mean - np.mean(lengths)) for mean in means) < 4 * np.std(lengths) / 64**0.5


def test_steps_take_every_row_of_every_epoch_in_passes_that_fit(recipe: Recipe) -> None:
    examples = [example(index, [1, 2, *[7] * (index % 5), index], [3]) for index in range(11)]
    order = BatchSampler(examples, rows_per_step=8, tokens_per_pass=16, seed=0)
    seen: list[list[int]] = []
    for step in (1, 2, 3, 4):
        passes = order.step(step)
        assert all(one.tokens.size <= 16 for one in passes) and (len(passes) > 1 or step % 2 == 0)  # even: 3 rows
        seen.append(sorted(row for one in passes for row in one.rows))
    assert sorted(seen[0] + seen[1]) == list(range(11)) == sorted(seen[2] + seen[3])
    again = BatchSampler(examples, 8, 16, 0).step(3)
    assert [one.rows for one in again] == [one.rows for one in order.step(3)]
    steps = Steps.of(
        11, recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 3, "max_steps": 4})})
    )
    assert (steps.per_epoch, steps.total, steps.planned) == (3, 4, 9)


def test_the_shared_prefix_stops_at_the_first_difference_and_leaves_a_prompt_token() -> None:
    assert shared_prefix([example(0, [1, 2, 3, 4], [9]), example(1, [1, 2, 5], [9])]).tolist() == [1, 2]
    assert shared_prefix([example(0, [1, 2, 3], [9]), example(1, [1, 2, 3], [8])]).tolist() == [1, 2]
    assert shared_prefix([example(0, [1], [9]), example(1, [1, 2], [9])]).tolist() == []
    assert shared_prefix([]).tolist() == []


def test_weights_stand_on_the_token_they_weigh() -> None:
    batch = collate([example(5, [1, 2, 3], [7, 8]), example(6, [1, 2], [9])], np.asarray([1], np.int32))
    assert batch.tokens.tolist() == [[2, 3, 7, 8], [2, 9, 0, 0]]
    assert batch.lengths.tolist() == [4, 2]
    assert batch.tokens[batch.supervised].tolist() == [7, 8, 9]
    assert batch.weights.sum() == 3 and batch.rows == (5, 6)


def test_a_token_belongs_to_the_span_of_its_last_character() -> None:
    spans = [Span(0, 6, "template", 1.0), Span(6, 9, "kind", 3.0), Span(9, 10, "template", 1.0)]
    encoded = Encoded((1, 2, 3, 4), ((0, 5), (5, 9), (9, 10), (10, 10)))  # "Kind:" " pay" "." and an empty token
    assert mark_tokens(encoded, spans, ("template", "kind")) == ([1.0, 3.0, 1.0, 1.0], [0, 1, 0, 0])


def test_the_prompt_is_the_one_inference_builds(recipe: Recipe, base: Path) -> None:
    tokenizer = load_tokenizer(base)
    rows = read_rows(Path(recipe.data.train))
    for built, row, prompt in zip(
        build_examples(rows, recipe, tokenizer), rows, prompt_ids(rows, recipe, tokenizer), strict=True
    ):
        assert built.prompt.tolist() == prompt
        text = tokenizer.hf.decode(prompt)
        assert row.fields["text"] in text and text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert built.reply[-1] == tokenizer.end_of_turn == tokenizer.hf.convert_tokens_to_ids("<|im_end|>")
        assert "<think>" not in tokenizer.hf.decode(built.reply)


def test_every_bad_row_is_named_at_once(recipe: Recipe, base: Path) -> None:
    rows = [Row({"text": "a", "intents": ["nope"]}, "x.jsonl", 1), Row({"text": "b"}, "x.jsonl", 2)]
    with pytest.raises(DataError, match="2 problems") as caught:
        build_examples(rows, recipe, load_tokenizer(base))
    assert "x.jsonl:1: 'intents': 'nope' is not one of" in str(caught.value)
    assert "x.jsonl:2: no 'intents'" in str(caught.value)
    with pytest.raises(DataError, match=r"x.jsonl:3: no 'text', which prompt.user needs"):
        build_examples([Row({"body": "a", "intents": ["none"]}, "x.jsonl", 3)], recipe, load_tokenizer(base))


def test_long_rows_are_refused_or_dropped_by_name_and_never_cut(recipe: Recipe, base: Path) -> None:
    tokenizer = load_tokenizer(base)
    rows = read_rows(Path(recipe.data.train))
    examples = build_examples(rows, recipe, tokenizer)
    limit = sorted(built.n_tokens for built in examples)[-2]
    train = recipe.train.model_copy(update={"max_tokens": limit})
    with pytest.raises(DataError, match=rf"train.max_tokens = {limit}.*\n.*train.jsonl:4"):
        check_lengths(examples, rows, recipe.model_copy(update={"train": train}))
    dropping = recipe.model_copy(update={"train": train.model_copy(update={"over_long": "drop"})})
    kept, left_out = check_lengths(examples, rows, dropping)
    assert len(kept) == len(examples) - 1 and "train.jsonl:4" in left_out[0]
    assert all(np.array_equal(one.reply, examples[one.row].reply) for one in kept)
