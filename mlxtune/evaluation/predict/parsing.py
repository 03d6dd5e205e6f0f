"""What a model's reply says: its thinking left out, the rest read by the template. Strings only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.data.field_forms import Value
from mlxtune.data.template import ReplyTemplate, TemplateReading
from mlxtune.evaluation.predict.thinking import without_thinking

MIN_LOOP_CHARS = 12  # shorter repetition at a reply's end is "..." or "haha", not a loop


@dataclass(frozen=True)
class ParsedReply:
    """What one reply says.

    Attributes:
        predicted: Field -> value; None where the reply holds none that the field allows.
        valid: Every field has a value; a constrained reply was not truncated.
        repeated: The reply says a label again, or loops.
        loop: The reply was truncated by the length limit while it repeated one passage over and over.
        problem: Why it is not valid, or None.
    """

    predicted: Mapping[str, Value | None]
    valid: bool
    repeated: bool
    loop: bool
    problem: str | None


def parse_reply(
    template: ReplyTemplate, text: str, truncated: bool, constrained: bool, thinking: bool = False
) -> ParsedReply:
    """Read one reply, without the thinking that it may begin with.

    A constrained reply that was truncated is not valid even where its beginning parses: "payment" may have been about to
    become "payment, notification". Its last field is where it ends, so labels of that field do not count; text
    does, as far as it goes. Free replies are read as they stand.
    """
    answer = without_thinking(text) if thinking else text
    if answer is None:
        reply = TemplateReading(
            dict.fromkeys(template.fields), False, "does not follow the template: its thinking does not end"
        )
    else:
        reply, text = template.parse(answer), answer
    values, problem = dict(reply.values), reply.problem
    if truncated and constrained:
        *_, last = template.fields
        if last in template.label_fields:
            values[last] = None
        problem = "cut at the length limit" + (f"; {problem}" if problem else "")
    loop = truncated and is_loop(text)
    return ParsedReply(values, problem is None, reply.repeated or loop, loop, problem)


def is_loop(text: str) -> bool:
    """Whether a text ends in one passage three times over, the last perhaps cut short.

    >>> is_loop("none, none, none, none, no"), is_loop("none, payment, none")
    (True, False)
    """
    backwards = text[::-1]
    # Of each beginning of it, the longest piece that it both begins and ends with (Knuth, Morris and Pratt, 1977): the
    # rest of the beginning is the shortest passage that it repeats.
    borders = [0] if text else []
    border = 0
    for position in range(1, len(text)):
        character = backwards[position]
        while border and character != backwards[border]:
            border = borders[border - 1]
        border += character == backwards[border]
        borders.append(border)
        length = position + 1
        if length >= MIN_LOOP_CHARS and 3 * (length - border) <= length:
            return True
    return False
