"""Best decoding takes the likeliest reply that the template allows, as scoring every one of them on its own finds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxtune
from mlxtune.backends.base import Backend, Matcher, in_order
from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import RecipeError
from mlxtune.evaluation.fields.kinds import scorer_of
from mlxtune.evaluation.predict.best import BestReplies, scored_fields
from mlxtune.evaluation.predict.constraint import constraint_of
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.probabilities import distributions, options_of
from mlxtune.evaluation.subject import read_test_rows
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.adapted import BACKENDS, backend_named, loaded, numpy_log_probability
from tests.conftest import LABELS, Run, write_recipe
from tests.fakes import Chooser, right_answer, scores_of

TEXTS = ["pay the bill and open an account", "hi", "where is my order, it has been 3 days", "你好", "cancel it"]
PRIORITIES = ["high", "low", "very low"]
TYPE: dict[str, Any] = {"kind": "label", "labels": ["Incident", "Request", "Request Change"]}
PRIORITY: dict[str, Any] = {"kind": "label", "labels": PRIORITIES}
SET: dict[str, Any] = {"kind": "labels", "labels": ["bill", "card", "none"], "exclusive": "none"}
SEVERAL = {
    "template": "Type: {type}\nAbout: {about}\nPriority: {priority}.",
    "fields": {"type": TYPE, "about": SET, "priority": PRIORITY},
}
WITH_TEXT = {
    "template": "Type: {type}\nPriority: {priority}\n\nResponse:\n{response}",
    "fields": {"type": TYPE, "priority": PRIORITY, "response": {"kind": "text"}},
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


@pytest.fixture
def tokenizer(base: Path) -> Tokenizer:
    return load_tokenizer(base)


def with_output(tmp_path: Path, base: Path, output: dict[str, Any], **sections: Any) -> Recipe:
    return load_recipe(write_recipe(tmp_path / "recipe", base, output=output, **sections))


def prompts_of(recipe: Recipe, tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    rows = [Row({"text": text}, "rows", 1) for text in texts]
    return [list(ids) for ids in prompt_ids(rows, recipe, tokenizer)]


# The likeliest reply


def test_the_reply_is_the_likeliest_of_all_scored_alone(
    backend: Backend, tmp_path: Path, base: Path, tokenizer: Tokenizer
) -> None:
    labels = ["account", "bill", "card", "delivery", "none"]
    fields = {"intents": {"kind": "labels", "labels": labels, "exclusive": "none"}}
    recipe = with_output(tmp_path, base, {"template": "{intents}", "fields": fields})
    model, _ = loaded(backend, base)
    prompts = prompts_of(recipe, tokenizer)
    template = ReplyTemplate(recipe.output)
    sets = scorer_of(template.fields["intents"]).options()
    replies = [template.format({"intents": value})[0] for value in sets]
    found = BestReplies(recipe, model, tokenizer).answer(prompts)
    for prompt, one in zip(prompts, found, strict=True):
        logs = [
            numpy_log_probability(model, prompt, [*text.ids, tokenizer.end_of_turn])
            for text in tokenizer.encode(replies)
        ]
        assert tokenizer.decode(one.generation.tokens) == replies[int(np.argmax(logs))]
        assert one.generation.stop_reason == "stop"
        shares = np.exp(np.array(logs) - max(logs)) / np.exp(np.array(logs) - max(logs)).sum()
        (distribution,) = one.distributions
        np.testing.assert_allclose(list(distribution.probabilities.values()), shares, rtol=1e-3, atol=1e-6)


def test_several_fields_are_answered_in_turn_each_given_the_ones_before(
    backend: Backend, tmp_path: Path, base: Path, tokenizer: Tokenizer
) -> None:
    recipe = with_output(tmp_path, base, SEVERAL)
    model, _ = loaded(backend, base, seed=12)  # whose replies to the texts differ
    prompts = prompts_of(recipe, tokenizer)
    template = ReplyTemplate(recipe.output)
    found = BestReplies(recipe, model, tokenizer).answer(prompts)
    assert len({one.generation.tokens for one in found}) > 1
    for prompt, one in zip(prompts, found, strict=True):
        text = tokenizer.decode(one.generation.tokens)
        values = template.parse(text).values
        assert text == template.format({name: value for name, value in values.items() if value is not None})[0]
        assert [distribution.field for distribution in one.distributions] == ["type", "about", "priority"]
        for name, distribution in zip(values, one.distributions, strict=True):
            options = scorer_of(template.fields[name]).options()
            # What opens every reply with these values up to this field, found by writing all replies that there are.
            spelled = [opening(template, {**values, name: option}, name, tokenizer) for option in options]
            logs = np.array([numpy_log_probability(model, prompt, tokens) for tokens in spelled])
            assert values[name] == options[int(logs.argmax())] == distribution.likeliest
            shares = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
            np.testing.assert_allclose(list(distribution.probabilities.values()), shares, rtol=2e-3, atol=1e-6)


def opening(template: ReplyTemplate, values: dict[str, Any], name: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens that all replies begin with that say these values up to a field."""
    names = list(template.fields)
    wholes = [{key: values[key] for key in names[: names.index(name) + 1]}]
    for later in names[names.index(name) + 1 :]:
        wholes = [{**one, later: value} for one in wholes for value in scorer_of(template.fields[later]).options()]
    ids = [[*one.ids, tokenizer.end_of_turn] for one in tokenizer.encode([template.format(one)[0] for one in wholes])]
    n_same = next((at for at, tokens in enumerate(zip(*ids, strict=False)) if len(set(tokens)) > 1), min(map(len, ids)))
    return ids[0][:n_same]


def test_a_text_after_the_labels_is_written_as_constrained_decoding_goes_on(
    backend: Backend, tmp_path: Path, base: Path, tokenizer: Tokenizer
) -> None:
    recipe = with_output(tmp_path, base, WITH_TEXT)
    model, _ = loaded(backend, base)
    prompts = prompts_of(recipe, tokenizer)
    best = BestReplies(recipe, model, tokenizer)
    assert best.fields.names == ("type", "priority")
    assert best.fields.note == "best decoding: response written token by token, since 'response' is text"
    whole = constraint_of(recipe, tokenizer, model)
    limit = recipe.evaluate.max_new_tokens
    for prompt, one in zip(prompts, best.answer(prompts), strict=True):
        tokens = one.generation.tokens
        values = {distribution.field: distribution.likeliest for distribution in one.distributions}
        written = tokenizer.decode(tokens)
        assert written.startswith(f"Type: {values['type']}\nPriority: {values['priority']}\n\nResponse:\n")
        begun = next(n for n in range(len(tokens)) if "Response" in tokenizer.decode(tokens[:n]))

        class Begun:
            """The whole template's constraint, after the reply's beginning."""

            def start(self, said: Sequence[int] = tokens[:begun]) -> Matcher:
                matcher = whole.start()
                for token in said:
                    matcher.advance(token)
                return matcher

        (wanted,) = in_order(
            model.generate([[*prompt, *tokens[:begun]]], limit - begun, tokenizer.stop_tokens, Begun())
        )
        assert tokens[begun:] == wanted.tokens and one.generation.stop_reason == wanted.stop_reason
        assert len(tokens) <= limit


# What cannot be scored


@pytest.mark.parametrize(
    ("output", "sections", "said"),
    [
        ({"template": "{a}", "fields": {"a": {"kind": "text"}}}, {}, "since 'a' is text; use evaluate.decoding"),
        ({"template": "{a}", "fields": {"a": {"kind": "labels"}}}, {}, "'a' has an open list of labels"),
        (
            {"template": "{a}", "fields": {"a": {"kind": "labels", "labels": [f"l{i}" for i in range(7)]}}},
            {},
            "'a' allows more than 64 sets of labels",
        ),
        (SEVERAL, {"prompt": {"thinking": True}}, "prompt.thinking: true"),
    ],
)
def test_replies_that_cannot_be_listed_are_refused_by_the_fields_name(
    output: dict[str, Any], sections: dict[str, Any], said: str, tmp_path: Path, base: Path, tokenizer: Tokenizer
) -> None:
    recipe = with_output(tmp_path, base, output, evaluate={"decoding": "best"}, **sections)
    with pytest.raises(RecipeError, match=said):
        scored_fields(recipe, tokenizer)
    with pytest.raises(RecipeError, match=said):
        reply_metrics(recipe, tokenizer)  # before a training has run to its first validation


def test_fields_after_an_open_list_are_written_and_named(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    fields = {"type": TYPE, "tags": {"kind": "labels"}, "priority": PRIORITY}
    recipe = with_output(tmp_path, base, {"template": "{type}: {tags} ({priority})", "fields": fields})
    found = scored_fields(recipe, tokenizer)
    assert (found.names, found.written) == (("type",), ("tags", "priority"))
    assert found.note is not None and "'tags' has an open list of labels" in found.note
    model, _ = loaded(backend_named("mlx"), base)
    template = ReplyTemplate(recipe.output)
    for one in BestReplies(recipe, model, tokenizer).answer(prompts_of(recipe, tokenizer)):
        values = template.parse(tokenizer.decode(one.generation.tokens)).values
        assert one.generation.stop_reason == "length" or all(values.values())


def test_a_reply_beyond_the_limit_is_truncated_as_in_every_decoding(recipe: Recipe, tokenizer: Tokenizer) -> None:
    model, _ = loaded(backend_named("mlx"), Path(recipe.model.path))
    (whole,) = BestReplies(recipe, model, tokenizer).answer(prompts_of(recipe, tokenizer, TEXTS[:1]))
    n_tokens = len(whole.generation.tokens)
    for limit, stop in ((n_tokens + 1, "stop"), (n_tokens, "length"), (n_tokens - 1, "length")):
        short = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"max_new_tokens": limit})})
        (reply,) = Predictor(short, model, tokenizer, "best").predict(TEXTS[:1])
        assert (reply.stop, reply.n_tokens, reply.parsed.valid) == (stop, min(limit, n_tokens), stop == "stop")


# In an evaluation


def test_an_evaluation_asks_once_a_row_and_has_its_probabilities(recipe: Recipe, tmp_path: Path) -> None:
    rows, tokenizer = read_test_rows(recipe), load_tokenizer(Path(recipe.model.path))
    sure = {str(row.fields["text"]): 0.9 for row in rows}
    model = Chooser(tokenizer, right_answer(rows), sure=sure)
    scores = scores_of(recipe, model, tokenizer, rows, tmp_path, "best", probabilities=True, validation=rows[:4])
    assert scores["decoding"] == "best" and scores["fields"]["intents"]["exact_match"]["value"] == 1.0
    assert sum(model.chosen) == len(rows) + 4 and model.asked == []
    assert scores["fields"]["intents"]["calibration"]["expected_calibration_error"] == pytest.approx(0.1, abs=1e-5)
    for one in read_predictions(tmp_path / "predictions.jsonl"):
        assert one.valid and one.decoding == "best"
        assert (one.probability or {})["intents"] == pytest.approx(0.9, abs=1e-5)


def test_an_interrupted_evaluation_resumes_with_its_probabilities(recipe: Recipe, tmp_path: Path) -> None:
    from tests.fakes import record

    rows, tokenizer = read_test_rows(recipe), load_tokenizer(Path(recipe.model.path))
    sure = {str(row.fields["text"]): 0.9 for row in rows}

    class Stopped(Chooser):
        def choose(self, prompts: Any, options: Any) -> Any:
            if self.chosen:
                raise KeyboardInterrupt
            return super().choose(prompts, options)

    path = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        record(path, rows, recipe, Stopped(tokenizer, right_answer(rows), sure=sure), tokenizer, "best", model_hash="a")
    model = Chooser(tokenizer, right_answer(rows), sure=sure)
    resumed = record(path, rows, recipe, model, tokenizer, "best", model_hash="a").predictions
    assert model.chosen == [3]
    whole = record(
        tmp_path / "whole.jsonl", rows, recipe, Chooser(tokenizer, right_answer(rows), sure=sure), tokenizer, "best"
    )
    assert [replace(one, row=0) for one in resumed] == [replace(one, row=0) for one in whole.predictions]


def test_every_way_to_ask_answers_alike(tmp_path: Path, base: Path, mlxtune_run: Run, backend_name: str) -> None:
    file = write_recipe(tmp_path / "recipe", base, evaluate={"decoding": "best"})
    done = mlxtune_run("predict", file, "--base", "hi", "--json")
    assert done.code == 0, done.err
    line = json.loads(done.out)
    asked = mlxtune.load(file, base=True, backend=backend_name)
    assert asked.decoding == "best"
    (reply,) = asked.predict(["hi"])
    assert {name: list(value or ()) for name, value in reply.values.items()} == line["values"]
    assert reply.text == line["prediction"] and set(line["probabilities"]["intents"]) == set(LABELS)
    assert reply.distribution is not None and reply.values["intents"] == reply.distribution.likeliest
    constrained = mlxtune.load(file, base=True, decoding="constrained", backend=backend_name)
    (other,) = constrained.predict(["hi"])
    assert reply.probabilities["intents"] >= (other.probabilities["intents"] or 0)  # type: ignore[operator]
    options = options_of(asked.recipe, asked.tokenizer)
    assert options is not None
    (distribution,) = distributions(asked.model, prompts_of(asked.recipe, asked.tokenizer, ["hi"]), options)
    assert distribution.likeliest == reply.values["intents"]


def test_best_decoding_is_evaluated_compared_and_noted(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_recipe(tmp_path / "recipe", base)
    for decoding in ("best", "constrained"):
        words = ["--base", "--decoding", decoding, "--out", f"runs/{decoding}", "--repeats", "2"]
        done = mlxtune("evaluate", file, *words)
        assert done.code == 0, done.err
        assert f"asking 7 rows, {decoding} decoding" in done.err and f"{decoding}: " in done.out
    done = mlxtune("compare", "runs/best", "runs/constrained", "--recipe", file)
    assert done.code == 0, done.err
    assert "the decoding differs: best, constrained" in done.out


def test_a_template_that_best_decoding_cannot_list_is_refused_with_the_alternatives(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = {"template": "{intents}", "fields": {"intents": {"kind": "labels"}}}
    file = write_recipe(tmp_path / "recipe", base, output=output)
    done = mlxtune("evaluate", file, "--base", "--decoding", "best")
    assert (done.code, done.out) == (1, "")
    assert "'intents' has an open list of labels; use evaluate.decoding: constrained, or free" in done.err
