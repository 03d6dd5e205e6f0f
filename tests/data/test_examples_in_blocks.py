"""Rows in blocks: nothing depends on where one ends; and the program that measures how the work grows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mlxtune.data import examples
from mlxtune.data.examples import build_examples, weigh_examples
from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError
from mlxtune.models import tokenizer as tokenizers
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import Recipe
from tests.conftest import ROOT
from tests.tiny import tiny_tokenizer

PROGRAM = ROOT / "tools" / "bench" / "scale.py"


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_do_not_depend_on_the_size_of_blocks(
    recipe: Recipe, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, rows = load_tokenizer(base), read_rows(Path(recipe.data.train))
    weights = {"intents": {"payment": 3.0}}
    whole = build_examples(rows, recipe, tokenizer)
    heavy = weigh_examples(whole, rows, recipe, tokenizer, weights)
    monkeypatch.setattr(examples, "_BLOCK", 3)
    monkeypatch.setattr(tokenizers, "_BLOCK", 2)
    assert len(rows) > 6 and len(rows) % 3
    parts = build_examples(rows, recipe, tokenizer)
    assert [one.row for one in parts] == list(range(len(rows)))
    for some, others in ((whole, parts), (heavy, weigh_examples(parts, rows, recipe, tokenizer, weights))):
        for one, other in zip(some, others, strict=True):
            for name in ("prompt", "reply", "weights", "segments"):
                assert np.array_equal(getattr(one, name), getattr(other, name))
    assert any((one.weights == 3.0).any() for one in heavy)


def test_unlearnable_replies_of_all_blocks_are_named_together(
    recipe: Recipe, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "_BLOCK", 2)
    template = "{intents}<|im_end|>"
    output = recipe.output.model_copy(update={"template": template})
    rows = [Row({"text": "pay me", "intents": ["payment"]}, "x.jsonl", line) for line in range(1, 6)]
    with pytest.raises(DataError) as caught:
        build_examples(rows, recipe.model_copy(update={"output": output}), load_tokenizer(base))
    assert all(f"x.jsonl:{line}: " in str(caught.value) for line in range(1, 6))


@pytest.mark.parametrize("text", ["tickets", "template"])
def test_the_rows_to_measure_with_can_be_prepared_and_scored(scale: ModuleType, tmp_path: Path, text: str) -> None:
    recipe = PROGRAM.parents[2] / "recipes" / "demo-ticket.yaml"
    scale.write_rows(tmp_path, 60, text)
    rows, replies = tmp_path / "rows.jsonl", tmp_path / "replies.jsonl"
    figures = scale.prepared(recipe, rows, tiny_tokenizer(tmp_path / "base"))
    assert figures["examples"] == 60 and 8 <= figures["batches"] <= 60
    assert figures["seconds"] > 0 and 0 < figures["mb_before"] <= figures["mb_peak"] < 4000
    said = [json.loads(line)["prediction"] for line in replies.read_text().splitlines()]
    assert len(said) == 60 and all("Response:\n" in reply for reply in said)


def test_figures_are_printed_as_json_and_make_a_table(
    scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_tokenizer(tmp_path / "base")
    command = ["--part", "prepare", "--rows", "20", "--json", "--tokenizer", str(folder)]
    monkeypatch.setattr(sys, "argv", ["scale.py", *command])
    scale.main()
    printed = capsys.readouterr()
    (figures,) = json.loads(printed.out)["results"]
    assert (figures["part"], figures["rows"], figures["examples"]) == ("prepare", 20, 20)
    assert "20 rows" in printed.err and scale.table([figures]).count("| prepare | 20 |") == 1


def test_a_number_of_rows_that_is_none_is_misuse(scale: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("0", "many"):
        monkeypatch.setattr(sys, "argv", ["scale.py", "--rows", number])
        with pytest.raises(SystemExit) as stopped:
            scale.main()
        assert stopped.value.code == 2
