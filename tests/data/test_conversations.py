"""Conversations as tokens: what is trained on in them, against transformers' own mask and against what a regular expression finds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import UNSUPERVISED
from mlxtune.data.examples import Example, build_examples, prompt_ids
from mlxtune.data.prepare import prepare
from mlxtune.data.reading import read_recipe_rows
from mlxtune.data.report import read_splits, report_data
from mlxtune.data.rows import Row
from mlxtune.data.saving import write_splits
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.tiny import CHATML, CHATML_THINKING, tiny_tokenizer

CHATML_GENERATION = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message.content + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3's: content is trimmed, headers are closed, a beginning of text comes first; system only as such.
HEADERS = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|header|>' + message.role + '<|end_header|>\n\n' + message.content | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|end_header|>\n\n' }}{% endif %}"
)
# As Qwen3's: thinking is shown after the last user message only, an empty block in the last turn; tools, calls and results as there.
STRIPPING = (
    "{%- if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{%- set ns = namespace(last=0) %}{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}{%- set said = message.content.split('</think>')[-1].lstrip('\n') %}"
    "{%- set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in message.content else '' %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}{{- '<think>\n' + thought + '\n</think>\n\n' }}{%- endif %}{{- said }}"
    "{%- for call in message.tool_calls or [] %}{%- if said or not loop.first %}{{- '\n' }}{%- endif %}"
    "{{- '<tool_call>\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + call.function.arguments | tojson + '}\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
SAID_IN_CHATML = r"<\|im_start\|>assistant\n(?:<think>\n\n</think>\n\n)?(.*?<\|im_end\|>)"
SAID_IN_HEADERS = r"<\|header\|>assistant<\|end_header\|>\n\n(.*?<\|eot\|>)"
TEMPLATES = {
    "generation": (CHATML_GENERATION, SAID_IN_CHATML),
    "chatml": (CHATML, SAID_IN_CHATML),
    "thinking": (CHATML_THINKING, SAID_IN_CHATML),
    "stripping": (STRIPPING, SAID_IN_CHATML),
    "headers": (HEADERS, SAID_IN_HEADERS),
}
_CHATS = [
    [("user", "hello"), ("assistant", "pay the bill")],
    [("system", "Be brief."), ("user", "hello there"), ("assistant", "the bill"), ("user", "the bill"), ("assistant", "the bill")],
    [("user", "查询账户余额"), ("assistant", " 你好! 请问 "), ("user", "assistant\nhello"), ("assistant", "user\n\n1234.50")],
    [("user", "a"), ("assistant", "a"), ("user", "a"), ("assistant", "aa"), ("user", "a"), ("assistant", "a")],
    [("user", "x"), ("assistant", "<think>\nhm\n</think>\n\nthe bill is paid"), ("user", "y"), ("assistant", "we will help")],
]  # fmt: skip
CHATS = [[{"role": role, "content": content} for role, content in chat] for chat in _CHATS]


def tokenizer_of(folder: Path, name: str) -> Tokenizer:
    tokenizer = load_tokenizer(tiny_tokenizer(folder / name))
    tokenizer.hf.chat_template = TEMPLATES[name][0]
    if name == "headers":
        tokenizer.hf.add_special_tokens(
            {"additional_special_tokens": ["<|begin_of_text|>", "<|header|>", "<|end_header|>", "<|eot|>"]}
        )
    return tokenizer


def recipe_of(folder: Path, **sections: Any) -> Recipe:
    content: dict[str, Any] = {"name": "chat", "model": {"path": "./base"}, "data": {"train": "train.jsonl"}}
    for section, keys in sections.items():
        content[section] = {**content.get(section, {}), **keys}
    (folder / "recipe.yaml").write_text(json.dumps(content), encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


def rows_of(folder: Path, recipe: Recipe, *records: Any) -> list[Row]:
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_recipe_rows(file, recipe)


def tokens_and_mask(example: Example) -> tuple[list[int], list[bool]]:
    trained = [False] * len(example.prompt) + (example.segments != UNSUPERVISED).tolist()
    return [*example.prompt.tolist(), *example.reply.tolist()], trained


def test_every_turn_is_trained_where_transformers_says_the_assistant_writes(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "generation")
    recipe = recipe_of(tmp_path, train={"supervise": "all"})
    chats = [[{**one, "content": one["content"].strip()} for one in chat] for chat in CHATS]
    rows = rows_of(tmp_path, recipe, *({"messages": chat} for chat in chats))
    n_turns = 0
    for chat, example in zip(chats, build_examples(rows, recipe, tokenizer), strict=True):
        if "<think>" in chat[1]["content"]:
            continue  # of these the last turn is trained without thinking, which this template leaves in
        theirs = tokenizer.hf.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        tokens, mask = tokens_and_mask(example)
        assert tokens == theirs["input_ids"][:-1]  # the newline after the last turn is nobody's
        assert mask == [bool(one) for one in theirs["assistant_masks"][:-1]]
        n_turns += sum(one["role"] == "assistant" for one in chat)
    assert n_turns == 8


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_turn_is_trained_where_its_own_words_and_its_end_stand(tmp_path: Path, name: str) -> None:
    tokenizer = tokenizer_of(tmp_path, name)
    recipe = recipe_of(tmp_path, train={"supervise": "all"})
    rows = rows_of(tmp_path, recipe, *({"messages": chat} for chat in CHATS))
    for chat, example in zip(CHATS, build_examples(rows, recipe, tokenizer), strict=True):
        tokens, mask = tokens_and_mask(example)
        text = tokenizer.hf.decode(tokens)
        whole = tokenizer.hf(text, add_special_tokens=False, return_offsets_mapping=True)
        assert whole["input_ids"] == tokens
        spans = [found.span(1) for found in re.finditer(TEMPLATES[name][1], text, re.DOTALL)]
        assert len(spans) == sum(one["role"] == "assistant" for one in chat)
        inside = [any(start < end_ <= stop for start, stop in spans) for _, end_ in whole["offset_mapping"]]
        assert mask == inside


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("thinking", [False, True])
def test_the_last_turn_follows_the_prompt_of_inference(tmp_path: Path, name: str, thinking: bool) -> None:
    tokenizer = tokenizer_of(tmp_path, name)
    recipe = recipe_of(tmp_path, prompt={"thinking": thinking})
    rows = rows_of(tmp_path, recipe, *({"messages": chat} for chat in CHATS))
    prompts = prompt_ids(rows, recipe, tokenizer)
    for chat, prompt, example in zip(CHATS, prompts, build_examples(rows, recipe, tokenizer), strict=True):
        theirs = tokenizer.hf.apply_chat_template(
            chat[:-1], tokenize=True, add_generation_prompt=True, enable_thinking=thinking, return_dict=True
        )["input_ids"]
        assert example.prompt.tolist() == prompt == theirs
        reply = tokenizer.hf(chat[-1]["content"].strip(), add_special_tokens=False)["input_ids"]
        assert example.reply.tolist() == [*reply, tokenizer.end_of_turn]


def test_all_trains_the_last_turn_as_last_does(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "stripping")
    last, every = recipe_of(tmp_path), recipe_of(tmp_path, train={"supervise": "all"})
    rows = rows_of(tmp_path, last, *({"messages": chat} for chat in CHATS))
    for one, other in zip(build_examples(rows, last, tokenizer), build_examples(rows, every, tokenizer), strict=True):
        assert tokens_and_mask(one)[0] == tokens_and_mask(other)[0]
        n = len(one.reply)
        np.testing.assert_array_equal(one.segments, other.segments[-n:])
        np.testing.assert_array_equal(one.weights, other.weights[-n:])


def test_thinking_of_the_last_turn_is_trained_where_the_recipe_thinks(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "stripping")
    chat = [CHATS[0][0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nthe bill is paid"}]
    own = [CHATS[0][0], {"role": "assistant", "content": "the bill is paid", "reasoning_content": "hm"}]
    for thinking, said in ((True, "<think>\nhm\n</think>\n\nthe bill is paid"), (False, "the bill is paid")):
        recipe = recipe_of(tmp_path, prompt={"thinking": thinking})
        rows = rows_of(tmp_path, recipe, {"messages": chat}, {"messages": own})
        for example in build_examples(rows, recipe, tokenizer):
            assert tokenizer.hf.decode(example.reply) == f"{said}<|im_end|>"
        whole = tokenizer.conversation_text(chat, thinking)
        if thinking:
            assert tokenizer.hf.decode(tokens_and_mask(example)[0]) + "\n" == whole


def test_a_turn_of_weight_0_is_shown_and_not_trained(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "chatml")
    recipe = recipe_of(tmp_path, train={"supervise": "all"})
    chat = [dict(one) for one in CHATS[3]]
    weighed = [*chat[:3], {**chat[3], "weight": 0}, *chat[4:]]
    one, other = build_examples(rows_of(tmp_path, recipe, {"messages": chat}, {"messages": weighed}), recipe, tokenizer)
    assert tokens_and_mask(one)[0] == tokens_and_mask(other)[0]
    assert sum(tokens_and_mask(one)[1]) - sum(tokens_and_mask(other)[1]) == 3  # a, a and its end


def test_tools_and_their_calls_are_written_by_the_template(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "stripping")
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}
    call = {"type": "function", "function": {"name": "track", "arguments": {"number": "12"}}}
    chat = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "today"},
        {"role": "assistant", "content": "It comes today."},
    ]
    recipe = recipe_of(tmp_path, train={"supervise": "all"})
    rows = rows_of(tmp_path, recipe, {"messages": chat, "tools": [tool]}, {"messages": chat[:2], "tools": [tool]})
    whole, calling = build_examples(rows, recipe, tokenizer)
    tokens, mask = tokens_and_mask(whole)
    text = tokenizer.hf.decode(tokens)
    assert json.dumps(tool) in text
    written = '<tool_call>\n{"name": "track", "arguments": {"number": "12"}}\n</tool_call><|im_end|>'
    trained = "".join(tokenizer.hf.decode([one]) for one, is_trained in zip(tokens, mask, strict=True) if is_trained)
    assert trained == f"{written}It comes today.<|im_end|>"
    assert tokenizer.hf.decode(calling.reply) == written


def test_calls_that_a_template_writes_otherwise_are_refused_by_line(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "stripping")
    tokenizer.hf.chat_template = STRIPPING.replace("<tool_call>", "[call]").replace("</tool_call>", "[/call]")
    call = {"type": "function", "function": {"name": "track", "arguments": {}}}
    chat = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    recipe = recipe_of(tmp_path)
    with pytest.raises(DataError, match=r"train\.jsonl:1: its last turn calls tools, which are read as '<tool_call>"):
        build_examples(rows_of(tmp_path, recipe, {"messages": chat}), recipe, tokenizer)


def test_a_conversation_that_a_template_refuses_is_named_by_line(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "chatml")
    tokenizer.hf.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    recipe = recipe_of(tmp_path)
    rows = rows_of(tmp_path, recipe, *({"messages": chat} for chat in CHATS))
    with pytest.raises(DataError, match=r"train\.jsonl:2: .*its chat template refuses the prompt: no system"):
        build_examples(rows, recipe, tokenizer)


def test_a_system_message_of_its_own_comes_before_the_recipes(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "chatml")
    recipe = recipe_of(tmp_path, prompt={"system": "Classify."}, train={"supervise": "all"})
    examples = build_examples(rows_of(tmp_path, recipe, *({"messages": chat} for chat in CHATS)), recipe, tokenizer)
    texts = [tokenizer.hf.decode(tokens_and_mask(example)[0]) for example in examples]
    assert [text.startswith("<|im_start|>system\nClassify.<|im_end|>") for text in texts] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert texts[1].startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_control_tokens_in_any_message_are_refused_and_thinking_is_not(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "thinking")
    recipe = recipe_of(tmp_path)
    chat = [{"role": "user", "content": "x<|im_end|>"}, CHATS[0][1]]
    with pytest.raises(DataError, match=r"train\.jsonl:2: message 1 contains '<\|im_end\|>'"):
        build_examples(rows_of(tmp_path, recipe, {"messages": CHATS[4]}, {"messages": chat}), recipe, tokenizer)


def test_shots_are_earlier_turns_after_the_system_message(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "chatml")
    recipe = recipe_of(tmp_path)
    rows = rows_of(tmp_path, recipe, {"messages": CHATS[0]}, {"messages": CHATS[1]})
    (ids,) = prompt_ids(rows[1:], recipe, tokenizer, shots=rows[:1])
    assert ids == tokenizer.prompt([CHATS[1][0], *CHATS[0], *CHATS[1][1:-1]])


def test_the_weight_of_the_text_counts_for_every_turn(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "chatml")
    output = {"template": "{answer}", "fields": {"answer": {"kind": "text", "loss_weight": 0.5}}}
    recipe = recipe_of(tmp_path, train={"supervise": "all"}, output=output)
    (example,) = build_examples(rows_of(tmp_path, recipe, {"messages": CHATS[3]}), recipe, tokenizer)
    names = ReplyTemplate(recipe.output).segments
    marks = zip(example.segments.tolist(), example.weights.tolist(), strict=True)
    said = [(names[at], weight) for at, weight in marks if at != UNSUPERVISED]
    text, end = ("answer", 0.5), ("template", 1.0)
    n_said = len(tokenizer.hf("aa", add_special_tokens=False)["input_ids"])
    assert said == [text, end, *[text] * n_said, end, text, end]


# The same tasks, and what is reported of them -----------------------------------------------------------------------


def test_the_same_turns_under_another_system_message_or_tools_are_no_duplicates(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, data={"clean": {"dedupe": "near"}})
    chat = CHATS[0]
    tool = {"type": "function", "function": {"name": "track"}}
    records = [
        {"messages": chat},
        {"messages": [{"role": "system", "content": "Be brief."}, *chat]},
        {"messages": chat, "tools": [tool]},
        {"messages": [*chat[:1], {"role": "assistant", "content": "no"}]},  # the same question again
        {"messages": [*chat, *chat]},  # asked again after an answer
    ]
    rows_of(tmp_path, recipe, *records)
    training = prepare(recipe, tokenizer_of(tmp_path, "chatml")).training
    assert [row.line for row in training.rows] == [1, 2, 3, 5]


def test_the_report_names_format_lengths_and_leaks(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, data={"test": "test.jsonl"}, train={"max_tokens": 100, "over_long": "drop"})
    long = {"messages": [{"role": "user", "content": "pay " * 200}, CHATS[0][1]]}
    rows_of(tmp_path, recipe, *({"messages": chat} for chat in CHATS[:4]), long)
    record = {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "x"}]}
    other = {**record, "system": "Be brief."}  # asks for another reply, so that it is no leak
    (tmp_path / "test.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(other) + "\n", encoding="utf-8")
    found = report_data(recipe, read_splits(recipe), tokenizer_of(tmp_path, "chatml")).as_json()
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert train["format"] == {"name": "messages", "reason": "a column 'messages' of turns with role and content"}
    assert test["format"]["name"] == "sharegpt"
    assert (train["read"], train["rows"], train["too_long"]) == (5, 4, 1)
    assert [(leak["line"], leak["other"]["line"], leak["text"]) for leak in found["leaks"]] == [(1, 1, "hello")]


def test_splits_are_written_as_messages_that_read_back_as_the_same(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "track", "arguments": {"number": "12"}}}
    tool = {"type": "function", "function": {"name": "track"}}
    calling = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Wait.", "tool_calls": [call]}]
    thinking = [CHATS[0][0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nthe bill is paid"}]
    records = [{"messages": CHATS[1], "id": "7"}, {"messages": calling, "tools": [tool]}, {"messages": thinking}]
    tokenizer, recipe = tokenizer_of(tmp_path, "stripping"), recipe_of(tmp_path, prompt={"thinking": True})
    rows = rows_of(tmp_path, recipe, *records)
    (file,) = write_splits(report_data(recipe, read_splits(recipe), tokenizer), tmp_path / "out").values()
    again = read_recipe_rows(file, recipe)
    assert [row.fields for row in again] == [row.fields for row in rows]
    for one, other in zip(
        build_examples(rows, recipe, tokenizer), build_examples(again, recipe, tokenizer), strict=True
    ):
        assert tokens_and_mask(one) == tokens_and_mask(other)
