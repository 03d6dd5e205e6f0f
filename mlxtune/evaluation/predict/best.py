"""The likeliest reply that the template allows, found by scoring instead of writing: field by field, each given the ones before.

Every value of a field is scored behind the prompt, what was chosen before it and the template's own text, as a whole:
greedy decoding goes token by token and may enter a label that it must then finish. Each field's probabilities come with
its value. The first field whose values cannot be listed (text, an open list, more sets than are scored) and all after it
are written token by token, held to the rest of the template.

    BestReplies(recipe, model, tokenizer).answer(prompts)[0].distributions  # of each field that was scored, in order
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlxtune.backends.base import Constraint, Generation, Model
from mlxtune.data.field_forms import Value
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import RecipeError
from mlxtune.evaluation.fields.kinds import scorer_of
from mlxtune.evaluation.fields.label_set import MAX_SETS
from mlxtune.evaluation.predict.constraint import constraint_of_rest
from mlxtune.evaluation.predict.probabilities import Distribution, Options, distributions, field_options, fillers
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class BestReply:
    """A reply, and the distributions of its fields that were scored, in the template's order."""

    generation: Generation
    distributions: tuple[Distribution, ...]

    def to_json(self) -> dict[str, Any]:
        """For another process."""
        written = self.generation
        return {
            "tokens": written.tokens,
            "stop_reason": written.stop_reason,
            "distributions": [[one.field, list(one.probabilities.items())] for one in self.distributions],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BestReply:
        """What `to_json` says, also where JSON has made lists of tuples."""
        distributions = tuple(
            Distribution(field, {value if isinstance(value, str) else tuple(value): share for value, share in shares})
            for field, shares in content["distributions"]
        )
        return cls(Generation(tuple(content["tokens"]), content["stop_reason"]), distributions)


@dataclass(frozen=True)
class ScoredFields:
    """Which fields of a template are scored.

    Attributes:
        names: In the template's order.
        written: Those that are written token by token after them.
        reason: Why the first of these cannot be scored; None without any.
    """

    names: tuple[str, ...]
    written: tuple[str, ...]
    reason: str | None

    @property
    def note(self) -> str | None:
        """What a reader should know; None where every field is scored."""
        if self.reason is None:
            return None
        return f"best decoding: {', '.join(self.written)} written token by token, since {self.reason}"


def scored_fields(recipe: Recipe, tokenizer: Tokenizer) -> ScoredFields:
    """Which fields of a recipe best decoding scores.

    Raises:
        RecipeError: Not even the first; says why, and what to use instead.
    """
    template = ReplyTemplate(recipe.output)
    others = "use evaluate.decoding: constrained, or free"
    if recipe.prompt.thinking:
        raise RecipeError(
            "evaluate.decoding: best scores whole replies, and prompt.thinking: true lets them begin with thinking in any "
            f"words; {others}"
        )
    given: dict[str, Value] = {}
    said: tuple[int, ...] = ()
    reason = None
    for name in template.fields:
        options = field_options(template, name, given, said, tokenizer)
        if options is None:
            reason = _why_not(template, name)
            break
        given[name], said = options.values[0], (*said, *options.tokens[0])
    if not given:
        raise RecipeError(f"evaluate.decoding: best cannot list the replies, since {reason}; {others}")
    return ScoredFields(tuple(given), tuple(name for name in template.fields if name not in given), reason)


class BestReplies:
    """A model that is asked for its likeliest reply.

    Args:
        recipe: Output and limits.
        model: With its adapter, if any.
        tokenizer: The model's.

    Raises:
        RecipeError: Not even the first field can be scored.
    """

    def __init__(self, recipe: Recipe, model: Model, tokenizer: Tokenizer) -> None:
        self.fields = scored_fields(recipe, tokenizer)
        self._recipe, self._model, self._tokenizer = recipe, model, tokenizer
        self._template = ReplyTemplate(recipe.output)
        self._options: dict[tuple[str, tuple[Value, ...]], Options] = {}
        self._constraints: dict[str, Constraint] = {}

    def answer(self, prompts: Sequence[Sequence[int]]) -> list[BestReply]:
        """The likeliest reply to each prompt, all asked as one batch."""
        begun = [_Begun({}, (), ()) for _ in prompts]
        for name in self.fields.names:
            options = [self._options_after(name, one) for one in begun]
            # What was said before seldom changes how a field is spelled, so that all rows are mostly one group.
            for group in _groups(one.tokens for one in options):
                here = options[group[0]]
                asked = [[*prompts[i], *begun[i].tokens] for i in group]
                for i, found in zip(group, distributions(self._model, asked, here), strict=True):
                    begun[i] = begun[i].saying(found, here)
        limit = self._recipe.evaluate.max_new_tokens
        if self.fields.written:
            return self._continued(prompts, begun)
        return [BestReply(_limited(one.tokens[:-1], limit), one.distributions) for one in begun]

    def _options_after(self, name: str, begun: _Begun) -> Options:
        """What a field may say after what was said."""
        key = (name, tuple(begun.values.values()))
        if key not in self._options:
            found = field_options(self._template, name, begun.values, begun.tokens, self._tokenizer)
            if found is None:
                raise RecipeError(
                    f"evaluate.decoding: best cannot go on after {begun.values}, since {_why_not(self._template, name)}; "
                    "use evaluate.decoding: constrained, or free"
                )
            self._options[key] = found
        return self._options[key]

    def _continued(self, prompts: Sequence[Sequence[int]], begun: Sequence[_Begun]) -> list[BestReply]:
        """Replies whose last fields are written token by token."""
        limit, stops = self._recipe.evaluate.max_new_tokens, self._tokenizer.stop_tokens
        found: dict[int, BestReply] = {}
        rests = [self._rest(one) for one in begun]
        for group in _groups(rests):
            room = max(1, max(limit - len(begun[i].tokens) for i in group))
            asked = [[*prompts[i], *begun[i].tokens] for i in group]
            for place, one in self._model.generate(asked, room, stops, self._constraint(rests[group[0]])):
                i = group[place]
                whole = _limited((*begun[i].tokens, *one.tokens), limit)
                cut = one.stop_reason == "length" or whole.stop_reason == "length"
                found[i] = BestReply(Generation(whole.tokens, "length" if cut else "stop"), begun[i].distributions)
        return [found[i] for i in range(len(prompts))]

    def _rest(self, begun: _Begun) -> str:
        """The template's own text that stands between what was said and the first field that is written."""
        first = self.fields.written[0]
        text, spans = self._template.format({**fillers(self._template), **begun.values})
        before = text[: next(span.start for span in spans if span.segment == first)]
        said = self._tokenizer.decode(begun.tokens)
        if not before.startswith(said):
            raise RecipeError(
                f"evaluate.decoding: best cannot go on to {first!r}: the tokens before it read {said!r}, and the template "
                f"has {before!r}; use evaluate.decoding: constrained, or free"
            )
        return before[len(said) :]

    def _constraint(self, rest: str) -> Constraint:
        """What may be written after what was said."""
        if rest not in self._constraints:
            first = self.fields.written[0]
            self._constraints[rest] = constraint_of_rest(self._recipe, self._tokenizer, self._model, first, rest)
        return self._constraints[rest]


@dataclass(frozen=True)
class _Begun:
    """A reply as far as it goes: the values of its fields, its tokens, and their distributions."""

    values: Mapping[str, Value]
    tokens: tuple[int, ...]
    distributions: tuple[Distribution, ...]

    def saying(self, found: Distribution, options: Options) -> _Begun:
        value = found.likeliest
        tokens = options.tokens[options.values.index(value)]
        return replace(
            self,
            values={**self.values, found.field: value},
            tokens=(*self.tokens, *tokens),
            distributions=(*self.distributions, found),
        )


def _limited(tokens: tuple[int, ...], limit: int) -> Generation:
    """A reply as decoding would leave it: its end-of-turn token counts, too."""
    return Generation(tokens[:limit], "stop" if len(tokens) < limit else "length")


def _why_not(template: ReplyTemplate, name: str) -> str:
    """Why the values of a field cannot be scored."""
    scorer = scorer_of(template.fields[name])
    if not scorer.has_labels:
        return f"{name!r} is text"
    if scorer.closed_labels is None:
        return f"{name!r} has an open list of labels"
    if not scorer.options():
        return f"{name!r} allows more than {MAX_SETS} sets of labels"
    return f"the tokenizer does not tell the values of {name!r} apart before the next field begins"


def _groups(keys: Iterable[Key]) -> list[list[int]]:
    """Places of equal keys together, in order of appearance."""
    found: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return list(found.values())
