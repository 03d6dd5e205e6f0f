"""Constrained decoding: whatever random choices among the allowed tokens write, the template reads back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import ModelError, RecipeError
from mlxtune.evaluation.predict.constraint import TemplateConstraint, TemplateMatcher, constraint_of
from mlxtune.evaluation.predict.parsing import parse_reply
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import OutputSection
from tests.conftest import LABELS, write_recipe
from tests.tiny import tiny_tokenizer

INTENTS = ["user_auth", "payment", "order_management", "none"]
AWKWARD = [
    "C++ (new)",
    "a|b.c*",
    "[x]{2}^$",
    "back\\slash",
    "Sales & Pre-Sales",
    '"quoted"',
    "it's",
    "支付 问题",
    "~#-",
]

TEMPLATES: dict[str, dict[str, Any]] = {
    "one label": {"template": "{a}", "fields": {"a": {"kind": "label", "labels": ["high", "medium", "low"]}}},
    "a label set": {"template": "{a}", "fields": {"a": {"kind": "labels", "labels": INTENTS, "exclusive": "none"}}},
    "awkward labels": {"template": "{a}", "fields": {"a": {"kind": "label", "labels": AWKWARD}}},
    "a set of awkward labels": {
        "template": "[{a}]",
        "fields": {"a": {"kind": "labels", "labels": AWKWARD, "separator": "; "}},
    },
    "Chinese": {
        "template": "意图：{a}。",
        "fields": {"a": {"kind": "labels", "labels": ["查询账户余额", "转账", "挂失银行卡"], "separator": "、"}},
    },
    "an awkward template": {
        "template": '(*) "Type": {a} & more?\n\n- Queue -> {b}\n<end> 100%',
        "fields": {
            "a": {"kind": "label", "labels": ["Incident", "Request"]},
            "b": {"kind": "label", "labels": ["Technical Support", "IT-Support"]},
        },
    },
    "every kind": {
        "template": "Classification:\n- Type: {a}\n- Tags: {b}\n\nResponse:\n{c}",
        "fields": {
            "a": {"kind": "label", "labels": ["Incident", "Request"]},
            "b": {"kind": "labels"},
            "c": {"kind": "text"},
        },
    },
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def make_template(output: dict[str, Any]) -> ReplyTemplate:
    return ReplyTemplate(OutputSection.model_validate(output))


def write(constraint: TemplateConstraint, tokenizer: Tokenizer, text: str) -> TemplateMatcher:
    matcher = constraint.start()
    for token in tokenizer.encode([text])[0].ids:
        matcher.advance(token)
    return matcher


def walk(
    constraint: TemplateConstraint,
    tokenizer: Tokenizer,
    seed: int,
    stop_after: int = 60,
    opening: str = "",
    forces: bool = False,
) -> str:
    """A reply of random allowed tokens, ended at the first chance once it is `stop_after` tokens long.

    Args:
        opening: What it begins with, which must be allowed.
        forces: Write at once what may come next in one way only.
    """
    rng = np.random.default_rng(seed)
    matcher = write(constraint, tokenizer, opening)
    tokens = list(tokenizer.encode([opening])[0].ids)
    while True:
        allowed = np.flatnonzero(matcher.mask())
        stops = set(allowed.tolist()) & set(tokenizer.stop_tokens)
        token = min(stops) if stops and len(tokens) >= stop_after else int(rng.choice(allowed))
        if token in stops:
            return tokenizer.decode(tokens)
        tokens.append(token)
        matcher.advance(token)
        tokens += matcher.forced() if forces else []
        if forces and matcher.is_done():
            return tokenizer.decode(tokens)


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_is_written_with_forced_tokens_parses(name, tokenizer):
    template = make_template(TEMPLATES[name])
    constraint = TemplateConstraint(template, tokenizer, 448)
    for seed in range(20):
        text = walk(constraint, tokenizer, seed, forces=True)
        assert template.parse(text).valid, text


def test_what_is_forced_is_spelled_as_the_tokenizer_spells_it(tokenizer):
    matcher = TemplateConstraint(make_template(TEMPLATES["an awkward template"]), tokenizer, 448).start()
    opening = tokenizer.encode(['(*) "Type": '])[0].ids

    matcher.advance(opening[0])
    forced = matcher.forced()

    assert len(forced) > 3
    assert [opening[0], *forced] == list(opening)[: 1 + len(forced)]


def test_a_label_that_stands_alone_is_done_and_one_that_may_be_joined_is_not(tokenizer):
    constraint = TemplateConstraint(make_template(TEMPLATES["a label set"]), tokenizer, 448)

    assert (write(constraint, tokenizer, "none").is_done(), write(constraint, tokenizer, "payment").is_done()) == (
        True,
        False,
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_is_written_parses(name, tokenizer):
    template = make_template(TEMPLATES[name])
    constraint = TemplateConstraint(template, tokenizer, 448)
    for seed in range(40):
        text = walk(constraint, tokenizer, seed)
        reply = template.parse(text)
        assert reply.valid, (text, reply.problem)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "every kind"])
def test_every_label_can_be_written_and_read_back(name, tokenizer):
    template = make_template(TEMPLATES[name])
    constraint = TemplateConstraint(template, tokenizer, 448)
    for position in range(max(len(field.closed_labels or ()) for field in template.fields.values())):
        values = {}
        for field_name, field in template.fields.items():
            labels = field.closed_labels or []
            label = labels[position % len(labels)]
            values[field_name] = label if field.kind == "label" else (label,)
        text = template.format(values)[0]
        matcher = constraint.start()
        for token in tokenizer.encode([text])[0].ids:
            assert matcher.mask()[token], text
            matcher.advance(token)
        assert all(matcher.mask()[stop] for stop in tokenizer.stop_tokens)
        assert template.parse(text).values == values


def test_a_reply_may_end_exactly_where_the_template_may(tokenizer):
    constraint = TemplateConstraint(make_template(TEMPLATES["a label set"]), tokenizer, 448)
    matcher = constraint.start()
    ends = [bool(matcher.mask()[tokenizer.end_of_turn])]
    for token in tokenizer.encode(["user_auth, payment"])[0].ids:
        matcher.advance(token)
        ends.append(bool(matcher.mask()[tokenizer.end_of_turn]))
    assert sum(ends) == 2  # after "user_auth" and after "user_auth, payment"
    assert ends[-1]


def test_an_exclusive_label_stands_alone_and_order_is_canonical(tokenizer):
    constraint = TemplateConstraint(make_template(TEMPLATES["a label set"]), tokenizer, 448)
    for text in ("none, payment", "payment, none", "payment, user_auth", "payment, payment"):
        with pytest.raises(ModelError, match="does not allow"):
            write(constraint, tokenizer, text)


def test_after_the_end_only_stop_tokens_are_allowed(tokenizer):
    matcher = write(TemplateConstraint(make_template(TEMPLATES["one label"]), tokenizer, 448), tokenizer, "low")
    matcher.advance(tokenizer.end_of_turn)
    assert set(np.flatnonzero(matcher.mask()).tolist()) == set(tokenizer.stop_tokens)


@pytest.mark.parametrize("vocabulary_size", [448, 1000])
def test_the_mask_is_as_wide_as_the_models_logits(vocabulary_size, tokenizer):
    template = make_template(TEMPLATES["every kind"])
    constraint = TemplateConstraint(template, tokenizer, vocabulary_size)
    mask = write(constraint, tokenizer, "Classification:\n- Type: Request\n- Tags: a\n\nResponse:\nx").mask()
    assert mask.shape == (vocabulary_size,)
    assert mask.dtype == np.bool_
    assert mask[: tokenizer.vocabulary_size].sum() > 100
    assert not mask[tokenizer.vocabulary_size :].any()


def test_replies_do_not_disturb_one_another(tokenizer):
    constraint = TemplateConstraint(make_template(TEMPLATES["one label"]), tokenizer, 448)
    first, second = constraint.start(), constraint.start()
    before = second.mask()
    first.advance(tokenizer.encode(["high"])[0].ids[0])
    assert np.array_equal(second.mask(), before)


def test_a_template_beyond_the_engines_limits_is_a_recipe_error(tokenizer, monkeypatch):
    template = make_template(TEMPLATES["one label"])
    monkeypatch.setattr(template, "pattern", lambda: "(?:unclosed")
    with pytest.raises(RecipeError, match="constrained decoding cannot follow"):
        TemplateConstraint(template, tokenizer, 448)


# Thinking ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen3", "qwen2"])
def either_tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """With <think> as a token, and without."""
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param))


def is_allowed(constraint: TemplateConstraint, tokenizer: Tokenizer, text: str) -> bool:
    """Whether a reply may be this text."""
    try:
        matcher = write(constraint, tokenizer, text)
    except ModelError:
        return False
    return bool(matcher.mask()[tokenizer.end_of_turn])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("opening", ["<think>\nIs it < or </b>?\n</think>\n\n", "<think></think>"])
def test_whatever_is_written_with_thinking_parses(name: str, opening: str, either_tokenizer: Tokenizer) -> None:
    template = make_template(TEMPLATES[name])
    constraint = TemplateConstraint(template, either_tokenizer, 448, thinking=True)
    for seed in range(15):
        text = walk(constraint, either_tokenizer, seed, opening=opening)
        parsed = parse_reply(template, text, truncated=False, constrained=True, thinking=True)
        assert parsed.valid, (text, parsed.problem)


@pytest.mark.parametrize(
    ("name", "allowed", "others"),
    [
        (
            "a label set",
            ["payment", "<think>\nA bill.\n</think>\n\npayment", "<think></think>user_auth, payment", "<think>a <b </c></think>none"],
            ["<think>\nA bill.", "<think>payment", "<think></think>", "<think>\n</think>\npay", "A bill. payment", "payment <think>",
             "<think>a</think><think>b</think>payment", "<think>a</think>b</think>payment", "a</think>payment"],
        ),
        (
            "a text",
            ["Dear customer", "<think>\nA bill.\n</think>\n\nDear customer"],
            ["<think>\nA bill.", "<think>\nA bill.</think>\n\n", "<think>a</think>b</think>", "Dear</think>customer"],
        ),
    ],
)  # fmt: skip
def test_a_block_of_thinking_may_come_first_and_must_end(
    name: str, allowed: list[str], others: list[str], either_tokenizer: Tokenizer
) -> None:
    output = TEMPLATES.get(name, {"template": "{a}", "fields": {"a": {"kind": "text"}}})
    template = make_template(output)
    constraint = TemplateConstraint(template, either_tokenizer, 448, thinking=True)
    texts = [*allowed, *others]
    assert [text for text in texts if is_allowed(constraint, either_tokenizer, text)] == allowed
    assert all(parse_reply(template, text, False, True, thinking=True).valid for text in allowed)
    plain = TemplateConstraint(template, either_tokenizer, 448)
    assert name == "a text" or [text for text in texts if is_allowed(plain, either_tokenizer, text)] == allowed[:1]


def test_a_block_that_the_prompt_begins_may_end(either_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    template = make_template(TEMPLATES["a label set"])
    assert not either_tokenizer.opens_thinking
    opening = either_tokenizer.hf.chat_template + "{%- if add_generation_prompt %}{{- '<think>\n' }}{%- endif %}"
    monkeypatch.setattr(either_tokenizer.hf, "chat_template", opening)
    monkeypatch.delitem(either_tokenizer.__dict__, "opens_thinking")
    assert either_tokenizer.opens_thinking
    constraint = TemplateConstraint(template, either_tokenizer, 448, thinking=True)
    texts = [
        "A bill.\n</think>\n\npayment",
        "</think>payment",
        "payment",
        "A bill.",
        "A bill.</think>",
        "<think>a</think>payment",
    ]
    allowed = [text for text in texts if is_allowed(constraint, either_tokenizer, text)]
    assert allowed[:3] == texts[:3] and not {"A bill.", "A bill.</think>"} & set(allowed)
    assert all(parse_reply(template, text, False, True, thinking=True).valid for text in allowed)


def test_a_recipe_with_thinking_lets_the_model_think(tmp_path: Path, either_tokenizer: Tokenizer) -> None:
    model = SimpleNamespace(config={"vocab_size": 448})
    for overrides, may in ((["prompt.thinking=true"], True), ([], False)):
        recipe = load_recipe(write_recipe(tmp_path, Path("/nowhere")), overrides)
        text = "<think>\nhm\n</think>\n\n" + LABELS[0]
        assert is_allowed(constraint_of(recipe, either_tokenizer, model), either_tokenizer, text) is may
