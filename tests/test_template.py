"""The output template: one definition that formats, marks, parses and constrains."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mlxtune.data.template import ReplyTemplate
from mlxtune.recipe import OutputSection

INTENTS = {"kind": "labels", "labels": ["user_auth", "payment", "none"], "exclusive": "none"}
TICKET = {
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
    values = {"type": "Service Request", "tags": ("VPN", "remote work"), "response": "Dear <name>,\n\nwe look into it."}
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
