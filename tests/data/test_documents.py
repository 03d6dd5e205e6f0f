"""Documents: every token is trained once, none sees another document, and long ones go on where they were split."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends.base import UNSUPERVISED
from mlxtune.data.batches import collate, shared_prefix
from mlxtune.data.examples import Example, build_examples
from mlxtune.data.packing import packed, step_rows
from mlxtune.data.prepare import prepare
from mlxtune.data.report import read_splits, report_data
from mlxtune.errors import DataError, RecipeError
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.training.loop import BatchSampler, Steps
from tests.adapted import assert_close, backend_named, gradient_of, loaded, numpy_nats
from tests.data.test_conversations import CHATS, recipe_of, rows_of
from tests.tiny import tiny_model, tiny_tokenizer

TEXTS = ["pay the bill", "hello there, we will help. " * 3, "x"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("documents") / "base"))


def whole(text: str, tokenizer: Tokenizer) -> list[int]:
    end = tokenizer.hf.convert_tokens_to_ids("<|endoftext|>")  # and not the end of turn, which eos_token is
    return [*tokenizer.hf(text, add_special_tokens=False)["input_ids"], end]


def tokens_of(example: Example) -> list[int]:
    return [*example.prompt.tolist(), *example.reply.tolist()]


def test_a_document_is_trained_whole_to_its_end_of_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_of(tmp_path)
    rows = rows_of(tmp_path, recipe, *({"text": text} for text in TEXTS))
    for text, example in zip(TEXTS, build_examples(rows, recipe, tokenizer), strict=True):
        assert tokens_of(example) == whole(text, tokenizer)
        assert len(example.prompt) == 1 and example.n_supervised == len(example.reply)  # nothing predicts the first


def test_pieces_go_on_where_the_one_before_ended_and_train_each_token_once(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    recipe = recipe_of(tmp_path, train={"max_tokens": 8})
    rows = rows_of(tmp_path, recipe, *({"text": text} for text in TEXTS))
    examples = build_examples(rows, recipe, tokenizer)
    assert max(example.n_tokens for example in examples) == 8
    for index, text in enumerate(TEXTS):
        pieces = [example for example in examples if example.row == index]
        trained = [token for piece in pieces for token in piece.reply.tolist()]
        assert [int(pieces[0].prompt[0]), *trained] == whole(text, tokenizer)
        for before, after in pairwise(pieces):
            assert after.prompt.tolist() == before.reply.tolist()[-1:]


def test_a_beginning_of_text_is_kept_where_the_tokenizer_writes_one(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(tiny_tokenizer(tmp_path / "base"))
    tokenizer.hf.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.hf.bos_token_id
    tokenizer.hf._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    recipe = recipe_of(tmp_path)
    (example,) = build_examples(rows_of(tmp_path, recipe, {"text": "pay"}), recipe, tokenizer)
    assert tokens_of(example) == [bos, *whole("pay", tokenizer)]


def test_a_document_of_100_000_tokens_is_split_and_none_is_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_of(tmp_path)
    rows_of(tmp_path, recipe, {"text": "7 " * 50_000})
    training = prepare(recipe, tokenizer).training
    assert len(training.rows) == 1 and not training.left_out
    assert sum(example.n_supervised for example in training.examples) == len(whole("7 " * 50_000, tokenizer)) - 1


def test_control_tokens_and_empty_documents_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_of(tmp_path)
    rows = rows_of(tmp_path, recipe, {"text": "pay"}, {"text": "a<|im_end|>b"}, {"text": " "})
    with pytest.raises(DataError) as error:
        build_examples(rows, recipe, tokenizer)
    assert "train.jsonl:2: 'text' contains '<|im_end|>'" in str(error.value)
    assert "train.jsonl:3: 'text' is empty" in str(error.value)


def test_the_report_counts_documents_and_not_pieces(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_of(tmp_path, data={"clean": {"dedupe": "exact"}}, train={"max_tokens": 8})
    rows_of(tmp_path, recipe, *({"text": text} for text in [*TEXTS, TEXTS[0]]))
    report = report_data(recipe, read_splits(recipe), tokenizer)
    train = report.as_json()["splits"]["train"]
    assert (train["read"], train["rows"], train["unusable"], train["too_long"]) == (4, 3, 0, 0)
    assert train["removed"]["duplicates"] == 1
    assert train["format"]["name"] == "text"
    assert len(report.train_examples) > 3


@pytest.mark.parametrize("records", ["documents", "conversations"])
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_step_over_rows_together_has_the_gradient_of_each_alone(tmp_path: Path, backend: str, records: str) -> None:
    """A token that saw another row's, or one of a gap between two turns that counted, would change it."""
    folder = tiny_model(tmp_path / "base")
    of_documents = records == "documents"
    recipe = recipe_of(tmp_path, train={"max_tokens": 24} if of_documents else {"supervise": "all"})
    given = [{"text": text} for text in TEXTS] if of_documents else [{"messages": chat} for chat in CHATS[:4]]
    examples = build_examples(rows_of(tmp_path, recipe, *given), recipe, load_tokenizer(folder))
    prefix = shared_prefix(examples)
    model, _ = loaded(backend_named(backend), folder)
    scores = model.score(collate(examples, prefix))
    for example, nats in zip(examples, scores.nats, strict=True):
        expected = numpy_nats(model, example.prompt.tolist(), example.reply.tolist())
        expected[example.segments == UNSUPERVISED] = 0
        own = nats[example.n_tokens - len(prefix) - len(example.reply) : example.n_tokens - len(prefix)]
        np.testing.assert_allclose(own, expected, atol=3e-4)
    together = gradient_of(model, [collate(examples, prefix)])
    alone = [(example.weights.sum(), gradient_of(model, [collate([example], prefix)])) for example in examples]
    total = sum(weight for weight, _ in alone)
    expected_gradient = {name: sum(w * gradient[name] for w, gradient in alone) / total for name in together}
    assert_close(together, expected_gradient, 1e-3)


def test_short_documents_are_joined_into_rows_of_up_to_max_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = ["pay " * n for n in (3, 9, 4, 20, 7, 2, 50)]
    for joined in (True, False):
        recipe = recipe_of(tmp_path, train={"max_tokens": 24, "pack_documents": joined, "batch_size": 2})
        examples = build_examples(rows_of(tmp_path, recipe, *({"text": text} for text in texts)), recipe, tokenizer)
        train = recipe.train
        rows = step_rows(examples, train.pack_to)
        assert sorted(place for row in rows for place in row) == list(range(len(examples)))
        sizes = [sum(examples[place].n_tokens for place in row) for row in rows]
        assert max(sizes) <= 24 and (len(rows) < len(examples)) == joined
        sampler = BatchSampler(examples, train.rows_per_step, 4096, train.seed, train.pack_to)
        steps = Steps.of(len(rows), recipe)
        trained = [one for step in range(1, steps.per_epoch + 1) for one in sampler.step(step)]
        assert sum(int(one.supervised.sum()) for one in trained) == sum(one.n_supervised for one in examples)
        assert sum(size <= 12 for size in sizes) <= 1 or not joined  # but for one, rows are at least half full


def test_rows_and_conversations_are_never_joined(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_of(tmp_path, train={"supervise": "all"})
    examples = build_examples(rows_of(tmp_path, recipe, *({"messages": chat} for chat in CHATS)), recipe, tokenizer)
    assert step_rows(examples, recipe.train.pack_to) == [[place] for place in range(len(examples))]
    with pytest.raises(RecipeError, match=r"train\.pack_documents: only documents"):
        recipe_of(tmp_path, data={"format": "messages"}, train={"pack_documents": False})


@pytest.mark.parametrize("seed", range(20))
def test_packs_hold_each_piece_once_and_no_two_could_be_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 17, draw.integers(0, 40)).tolist()
    packs = packed(lengths, 16)
    assert sorted(place for pack in packs for place in pack) == list(range(len(lengths)))
    sizes = sorted(sum(lengths[place] for place in pack) for pack in packs)
    assert not sizes or sizes[-1] <= 16
    assert len(sizes) < 2 or sizes[0] + sizes[1] > 16
