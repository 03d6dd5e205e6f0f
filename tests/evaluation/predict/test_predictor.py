"""A model with its recipe answers texts, from Python as from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mlxtune
from mlxtune.errors import Misuse
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.conftest import LABELS, Run, write_recipe
from tests.fakes import FakeModel


def test_replies_come_in_the_order_of_the_texts_whatever_the_batches(recipe: Recipe) -> None:
    tokenizer = load_tokenizer(Path(recipe.model.path))
    texts = [f"message {'x' * n}" for n in (3, 30, 1, 20, 2, 10)]
    model = FakeModel(tokenizer, lambda prompt: "payment" if "xxxxxxxxxx" in prompt else "none")
    small = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"batch_size": 2})})
    predictor = Predictor(
        small.model_copy(update={"prompt": small.prompt.model_copy(update={"thinking": True})}), model, tokenizer
    )
    found = predictor.predict(texts)
    assert [reply.values["intents"] for reply in found] == [
        ("none",), ("payment",), ("none",), ("payment",), ("none",), ("payment",)
    ]  # fmt: skip


def test_a_prompt_of_several_columns_takes_mappings_of_them(tmp_path: Path, base: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path, base, prompt={"user": "{title}: {text}"}, evaluate={"decoding": "free"})
    )
    predictor = Predictor(recipe, FakeModel(load_tokenizer(base), lambda prompt: prompt), load_tokenizer(base))
    with pytest.raises(Misuse, match=r"text 1: prompt\.user needs title, text; expected a mapping of these, got 'hi'"):
        predictor.predict(["hi"])
    with pytest.raises(Misuse, match=r"text 2: prompt\.user needs title, text; got none of title"):
        predictor.predict([{"title": "a", "text": "b"}, {"text": "b"}])


def test_loading_from_python_answers_as_the_command_does(
    tmp_path: Path, base: Path, mlxtune_run: Run, backend_name: str
) -> None:
    file = write_recipe(tmp_path / "recipe", base)
    done = mlxtune_run("predict", file, "--base", "hi", "--json")
    assert done.code == 0, done.err
    line = json.loads(done.out)
    (reply,) = mlxtune.load(file, base=True, backend=backend_name).predict(["hi"])
    assert {name: list(value or ()) for name, value in reply.values.items()} == line["values"]
    assert reply.probabilities == line["probability"] and reply.text == line["prediction"]
    assert reply.distribution is not None and set(reply.distribution.by_label()) == set(LABELS)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, mlxtune; print(sorted({'numpy', 'pydantic', 'torch', 'mlx', 'yaml', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
