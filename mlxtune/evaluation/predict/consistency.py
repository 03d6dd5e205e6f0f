"""Does a model say the same each time it is asked? Rows sampled several times; agreement, entropy and the rows that flip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mlxtune.backends.base import Constraint, Model
from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate, Value
from mlxtune.evaluation.metrics.estimates import mean_estimate
from mlxtune.evaluation.predict.predictions import batches, judge
from mlxtune.evaluation.predict.thinking import may_think
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe, TextField

Values = Mapping[str, Value | None]  # of one reply; None where it could not be parsed


def sample(
    rows: Sequence[Row],
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    constraint: Constraint | None,
    repeats: int,
    temperature: float,
    on_rows: Callable[[int], None] = lambda n_rows: None,
) -> list[list[Values]]:
    """What each row's reply says, each of `repeats` times: [row][repeat].

    The draws are a function of the recipe's seed, the repeat and the batch, so the same evaluation finds the same.

    Raises:
        DataError: Rows that lack a column of the prompt.
    """
    prompts = prompt_ids(rows, recipe, tokenizer)
    template = ReplyTemplate(recipe.output)
    found: list[list[Values]] = [[] for _ in rows]
    for repeat in range(repeats):
        for number, batch in enumerate(batches(prompts, recipe.evaluate.batch_size)):
            replies = model.generate(
                [prompts[i] for i in batch],
                recipe.evaluate.max_new_tokens,
                tokenizer.stop_tokens,
                constraint,
                temperature=temperature,
                seed=_seed(recipe.train.seed, repeat, number),
            )
            for i, reply in zip(batch, replies, strict=True):
                text, cut = tokenizer.decode(reply.tokens), reply.stop_reason == "length"
                verdict = judge(template, text, cut, constraint is not None, may_think(recipe))
                found[i].append(verdict.predicted)
            on_rows(len(batch))
    return found


def consistency_scores(
    samples: Sequence[Sequence[Values]], rows: Sequence[Row], recipe: Recipe, temperature: float
) -> dict[str, Any]:
    """What scores.json says under "consistency".

    Returns:
        {"repeats", "temperature", "fields": {name: {"agreement", "entropy_bits", "flip_rate"}}, "flips": [...]}. Of
        each row: agreement is the share of its repeats that say what most of them say, entropy that of its values'
        frequencies (`entropy_bits`), and it flips if not all say the same. The figures are means over rows with their
        95% intervals; a reply that could not be parsed is a value of its own. Text fields are left out: no two are alike.
        A flip is {"row", "file", "line", "input", "field", "values": {value: times}}, values as text, the commonest
        first; one that could not be parsed is "".
    """
    figures: dict[str, Any] = {}
    flips: list[dict[str, Any]] = []
    for name, field in ReplyTemplate(recipe.output).fields.items():
        if isinstance(field, TextField):
            continue
        counts = [Counter(_text(values[name]) for values in repeats) for repeats in samples]
        per_row = {
            "agreement": [max(count.values()) / count.total() for count in counts],
            "entropy_bits": [entropy_bits(list(count.values())) for count in counts],
            "flip_rate": [float(len(count) > 1) for count in counts],
        }
        figures[name] = {key: asdict(mean_estimate(values, recipe.train.seed)) for key, values in per_row.items()}
        for index, (row, count) in enumerate(zip(rows, counts, strict=True)):
            if len(count) > 1:
                shown = next((row.fields[column] for column in recipe.prompt_columns if column in row.fields), "")
                place = {"row": index, "file": row.file, "line": row.line, "input": str(shown)}
                flips.append({**place, "field": name, "values": dict(count.most_common())})
    repeats = len(samples[0]) if samples else 0
    return {"repeats": repeats, "temperature": temperature, "fields": figures, "flips": flips}


def entropy_bits(counts: Sequence[int]) -> float:
    """Entropy of the frequencies, -sum p log2 p: 0 where all are the same.

    >>> entropy_bits([4]), entropy_bits([2, 2]), entropy_bits([1, 1, 1, 1])
    (0.0, 1.0, 2.0)
    """
    shares = np.array(counts, np.float64) / sum(counts)
    return abs(float(-(shares * np.log2(shares)).sum()))  # abs: -0.0


def _text(value: Value | None) -> str:
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, tuple) else value


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
