"""The output template: one definition that formats, marks, parses and constrains."""

from __future__ import annotations

import random
import re
import time
import unicodedata
from typing import Any

import pytest

from mlxtune.data import field_forms
from mlxtune.data.template import ReplyTemplate
from mlxtune.recipe.sections import OutputSection

INTENTS = {"kind": "labels", "labels": ["user_auth", "payment", "none"], "exclusive": "none"}
TICKET: dict[str, Any] = {
    "template": "Classification:\n- Type: {type}\n- Tags: {tags}\n\nResponse:\n{response}",
    "fields": {
        "type": {"kind": "label", "labels": ["Incident", "Service Request"], "class_weights": {"Incident": 2.0}},
        "tags": {"kind": "labels"},
        "response": {"kind": "text", "loss_weight": 0.5},
    },
}


def template(output: dict[str, Any]) -> ReplyTemplate:
    return ReplyTemplate(OutputSection.model_validate(output))


def intents() -> ReplyTemplate:
    return template({"template": "{intents}", "fields": {"intents": INTENTS}})


@pytest.mark.parametrize(
    ("text", "value", "repeated"),
    [
        ("payment, user_auth", ("user_auth", "payment"), False),
        ("payment", ("payment",), False),
        ("Payment.", ("payment",), False),
        ("  payment ,user_auth\n", ("user_auth", "payment"), False),
        ("user_auth；payment", ("user_auth", "payment"), False),
        ("none, none, none", ("none",), True),
        ("none\nnone\nnone", ("none",), True),
        ("payment, user_auth, payment", ("user_auth", "payment"), True),
        ("payment, none", None, False),
        ("payment, payment, pay", None, True),
        ("the intent is payment", None, False),
        ("", None, False),
    ],
)
def test_a_label_set_is_read_without_regard_to_order_case_and_repetition(
    text: str, value: tuple[str, ...] | None, repeated: bool
) -> None:
    reply = intents().parse(text)
    assert reply.values == {"intents": value}
    assert reply.repeated is repeated
    assert reply.valid is (value is not None)


def test_what_is_formatted_parses_back_and_matches_the_pattern() -> None:
    ticket = template(TICKET)
    values: dict[str, str | tuple[str, ...]] = {
        "type": "Service Request",
        "tags": ("VPN", "remote work"),
        "response": "Dear <name>,\n\nwe look into it.",
    }
    text, spans = ticket.format(values)
    assert ticket.parse(text).values == values
    assert re.fullmatch(ticket.pattern(), text)
    assert [span.start for span in spans] == [0, *[span.end for span in spans[:-1]]] and spans[-1].end == len(text)


def test_spans_carry_class_and_loss_weights() -> None:
    text, spans = template(TICKET).format({"type": "Incident", "tags": ("a",), "response": "ok"})
    weights = {text[span.start : span.end]: (span.segment, span.weight) for span in spans}
    assert weights["Incident"] == ("type", 2.0)
    assert weights["ok"] == ("response", 0.5)
    assert weights["\n- Tags: "] == ("template", 1.0)


def test_a_label_outside_the_list_makes_its_own_field_wrong_only() -> None:
    reply = template(TICKET).parse("Classification:\n- Type: Nonsense\n- Tags: x\n\nResponse:\nhello")
    assert reply.values == {"type": None, "tags": ("x",), "response": "hello"}
    assert not reply.valid and "type: 'Nonsense' is not allowed" in str(reply.problem)


def test_a_reply_without_the_templates_words_has_no_values() -> None:
    reply = template(TICKET).parse("Incident, x, hello")
    assert set(reply.values.values()) == {None} and reply.problem == "does not follow the template"


def test_rows_are_read_as_lists_or_text_into_canonical_order() -> None:
    assert intents().read({"intents": ["payment", "user_auth"]})[0] == {"intents": ("user_auth", "payment")}
    assert intents().read({"intents": "payment, user_auth"})[0] == {"intents": ("user_auth", "payment")}
    assert intents().read({"intents": "payment|user_auth"})[0] == {"intents": ("user_auth", "payment")}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"intent": "payment"}, "no 'intents'; the row has 'intent'; did you mean 'intent'?"),
        ({"intents": []}, "'intents' has no label"),
        ({"intents": ["pament"]}, "'pament' is not one of user_auth, payment, none; did you mean 'payment'?"),
        ({"intents": ["none", "payment"]}, "'none' must stand alone"),
        ({"intents": 3}, "expected a list of labels or text, got 3"),
        ({"intents": " "}, "'intents' is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: dict[str, Any], said: str) -> None:
    assert said in intents().read(row)[1][0]


@pytest.mark.parametrize("text", ["user_auth", "payment", "user_auth, payment", "none"])
def test_the_pattern_allows_every_set_in_canonical_order(text: str) -> None:
    assert re.fullmatch(intents().pattern(), text)


@pytest.mark.parametrize("text", ["payment, user_auth", "none, payment", "payment, payment", "", "pay", "payment, "])
def test_the_pattern_allows_nothing_else(text: str) -> None:
    assert not re.fullmatch(intents().pattern(), text)


@pytest.mark.parametrize("between", ["\n", " ", "\n\n"])
def test_white_space_alone_keeps_two_fields_apart(between: str) -> None:
    fields = {"a": {"kind": "labels"}, "b": {"kind": "text"}}
    two = template({"template": "Tags: {a}" + between + "{b}", "fields": fields})
    assert two.parse("Tags: payment\nDear customer").values == {"a": ("payment",), "b": "Dear customer"}


def test_labels_of_an_open_set_keep_their_full_stop() -> None:
    tags = template({"template": "{tags}", "fields": {"tags": {"kind": "labels"}}})
    assert tags.parse("U.S., a.b.").values == {"tags": ("U.S.", "a.b.")}
    assert re.fullmatch(tags.pattern(), "U.S., a.b.")


def test_control_characters_are_no_text() -> None:
    text = template({"template": "{r}", "fields": {"r": {"kind": "text"}}})
    assert not text.parse("\x1e").valid and not re.fullmatch(text.pattern(), "\x1e")


# Where fields lie in a reply ---------------------------------------------------------------------------------------

_LABELS, _TEXT = {"kind": "labels"}, {"kind": "text"}


@pytest.mark.parametrize("outer", ["{a}\n", "\n{a}", " \n{a} "])
def test_white_space_at_the_templates_own_ends_may_be_missing(outer: str) -> None:
    text = template({"template": outer, "fields": {"a": _TEXT}})
    assert text.parse(text.format({"a": "hi"})[0]).values == text.parse("hi").values == {"a": "hi"}


def written_by_regex(reply_template: ReplyTemplate, text: str) -> list[str] | None:
    """What stands in each field's place, by backtracking: exponential, and plainly what `parse` says of white space."""

    def loose(literal: str) -> str:
        if literal and not literal.strip():
            return r"\s+"
        return r"\s*".join(re.escape(part) for part in re.split(r"\s+", literal))

    first, *rest = (loose(literal) for literal in reply_template._literals)
    takes_all = [name not in reply_template.label_fields for name in reply_template.fields]
    takes_all[-1] = True
    groups = [
        ("([\\s\\S]*)" if one else "([\\s\\S]*?)") + literal for one, literal in zip(takes_all, rest, strict=True)
    ]
    found = re.fullmatch(first + "".join(groups), text)
    return list(found.groups()) if found else None


@pytest.mark.parametrize(
    "words",
    [
        "{L}", "{T}", "A: {L}", "{T}.", "A {T} B", "ab{L}ba", " A: {L} .",
        "{L} {L}", "{L}\n{T}", "{T} {L}", "{T}\n\n{T}", "A {L} {L}", "{L}\n{L} {T}",
        "{L}-{L}", "{L}--{T}", "{T}-{L}", "{T}aba{T}", "A: {T} aa {L}", "{L} - {T} - {L}", "{T} -{L}- {T}",
        "A: {L}\nA: {L}", "- A {L}\n- B {T}\n- A {L}", "{L} a a {L} a {T} a", "{T} {L} {T}", "{L} {T} {L} {L}",
    ],
)  # fmt: skip
def test_fields_lie_where_a_backtracking_regex_finds_them(words: str) -> None:
    fields: dict[str, Any] = {}
    while found := re.search(r"\{([LT])\}", words):
        name = f"field{len(fields)}"
        fields[name] = _LABELS if found[1] == "L" else _TEXT
        words = words.replace(found[0], "{" + name + "}", 1)
    reply_template = template({"template": words, "fields": fields})
    generator = random.Random(words)
    literals = "".join(reply_template._literals)
    pieces = [*reply_template._literals, *literals, *literals.split(), " ", "\n", "\x1c\u3000", *"abba"]
    n_found = 0
    for _ in range(1500):
        text = "".join(generator.choices(pieces, k=generator.randrange(10)))
        if generator.random() < 0.5:  # a reply of the template's own shape
            text = reply_template._literals[0]
            for literal in reply_template._literals[1:]:
                text += "".join(generator.choices(pieces, k=generator.randrange(1, 4))) + literal
        written = written_by_regex(reply_template, text.strip())
        assert reply_template._written(text.strip()) == written, text
        n_found += written is not None
    assert n_found > 300


def megabyte(*repeated: str) -> str:
    return "".join(text * (1_000_000 // len(repeated) // len(text)) for text in repeated)


WHOLE_TICKET = {
    "template": TICKET["template"].replace("- Tags", "- Queue: {queue}\n- Priority: {priority}\n- Tags"),
    "fields": {**TICKET["fields"], "queue": _LABELS, "priority": _LABELS},
}
BLOCK = "Classification:\n- Type: Incident\n- Queue: it\n- Priority: low\n- Tags: a, b\n\n"
MEGABYTES = {
    "labels over and over": BLOCK * 40,  # time of a backtracking search: the fourth power of this
    "a megabyte of them": megabyte(BLOCK),
    "noise": "".join(random.Random(0).choices("- Type:\nTags", k=1_000_000)),
    "nothing": megabyte(" \n"),
    "one line of a literal": BLOCK + megabyte("\n- Tags: "),
    "part of a literal": BLOCK + megabyte("- \n"),
    "new lines": "Classification:" + megabyte("\n") + "Type",
    "tags": BLOCK.strip() + megabyte(", tag") + "\n\nResponse:\nhello",
    "tags of their own": BLOCK.strip() + ", ".join(map(str, range(140_000))) + "\n\nResponse:\nhello",
    "the last literal": BLOCK + megabyte("Response:\n"),
    "Chinese": BLOCK + "Response:\n" + megabyte("你好，世界。"),
    "accents": BLOCK.replace("Incident", megabyte("\u0315", "\u0300")) + "Response:\nhello",  # NFKC sorts each run of them
    "full stops": BLOCK.replace("Incident", "Incident" + megabyte(".")) + "Response:\nhello",
}  # fmt: skip


@pytest.mark.parametrize("name", MEGABYTES)
def test_a_megabyte_of_anything_is_read_in_a_moment(name: str) -> None:
    began = time.perf_counter()
    template(WHOLE_TICKET).parse(MEGABYTES[name])
    assert time.perf_counter() - began < 1.5, "about 0.1 s"


@pytest.mark.parametrize("repeated", [("none, ",), ("无、",), ("\u0315", "\u0300"), ("\u0315\u0300，",)], ids=ascii)
def test_a_megabyte_of_labels_is_read_in_a_moment(repeated: tuple[str, ...]) -> None:
    text = megabyte(*repeated)
    began = time.perf_counter()
    intents().parse(text)
    assert time.perf_counter() - began < 1.5, "about 0.1 s"


def test_a_label_is_read_in_whatever_width_and_with_whatever_full_stops() -> None:
    texts = ["ＰＡＹＭＥＮＴ", "payment...", "payment…", "payment。", "payment．", "ｐayment" + "." * 999]
    assert [intents().parse(text).values["intents"] for text in texts] == [("payment",)] * len(texts)
    levels = template({"template": "{a}", "fields": {"a": {"kind": "label", "labels": ["Level 1", "ᾌ"]}}})
    texts = ["level ⒈", "ᾄ", unicodedata.normalize("NFD", "ᾌ")]
    assert [levels.parse(text).values["a"] for text in texts] == ["Level 1", "ᾌ", "ᾌ"]


def test_the_full_stops_forgiven_are_all_that_nfkc_makes_full_stops() -> None:
    everything = (chr(code) for code in range(0x110000))
    stops = {one for one in everything if set(unicodedata.normalize("NFKC", one)) <= set(".。")}
    assert set(field_forms._FULL_STOPS) == stops
