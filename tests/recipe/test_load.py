"""The recipe: what it accepts, how it says what is wrong, and that every key does something."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.errors import RecipeError
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import LabelField, LabelsField, Recipe
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
GOOD: dict[str, Any] = {
    "model": {"path": "Qwen/Qwen3-0.6B"},
    "data": {"train": "train.jsonl"},
    "output": {"template": "{kind}", "fields": {"kind": {"kind": "label", "labels": ["a", "b"]}}},
}


def write(folder: Path, content: Any) -> Path:
    file = folder / "some.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def refused(folder: Path, content: Any, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, content), overrides)
    return str(caught.value)


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {**GOOD, **{name: {**GOOD.get(name, {}), **keys} for name, keys in sections.items()}}


def test_every_recipe_that_ships_is_valid_and_names_data_that_ships() -> None:
    assert len(RECIPES) >= 3
    for file in RECIPES:
        recipe = load_recipe(file)
        assert recipe.name == file.stem
        assert all(Path(name).is_file() for name in (recipe.data.train, recipe.data.valid, recipe.data.test) if name)
        assert "schema=recipe.schema.json" in file.read_text(encoding="utf-8").splitlines()[0]


def test_the_chinese_recipe_holds_the_settings_of_the_report() -> None:
    recipe = load_recipe(next(file for file in RECIPES if file.name == "qwen3-intent.yaml"))
    assert recipe.model.path == "Qwen/Qwen3-0.6B"
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.targets) == (8, 16, 0.1, "attention")
    assert (recipe.train.learning_rate, recipe.train.schedule, recipe.train.epochs) == (2e-4, "linear", 2)
    assert (recipe.train.batch_size, recipe.train.gradient_accumulation) == (1, 8)


def test_all_problems_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        "model:\n  path: Qwen/Qwen3-0.6B\n  quantize: {bits: 5}\ndata: {train: a.jsonl, epochs: 3}\n"
        "output:\n  template: '{kind}'\n  fields: {kind: {kind: label, labels: [a, b]}}\n"
        "lora:\n  rnak: 3\ntrain:\n  learning_rate: fast\n  epochs: 1.5\n",
    )
    assert "5 problems" in message
    assert "line 3: model.quantize.bits: expected 4 or 8, got 5" in message
    assert "line 4: data.epochs: unknown key; it belongs under train:" in message
    assert "line 9: lora.rnak: unknown key; did you mean 'rank'?" in message
    assert "line 11: train.learning_rate: expected a number, got 'fast'" in message
    assert "line 12: train.epochs: expected a whole number, got 1.5" in message


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"train": 3}}, "data.train: expected text, got 3; put it in quotes"),
        ({"lora": {"rank": 0}}, "lora.rank: expected at least 1, got 0"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout: expected less than 1"),
        ({"lora": {"targets": "every"}}, "expected 'all', 'attention', 'mlp' or 'experts', or a list, got 'every'"),
        ({"train": {"schedule": "liner"}}, "did you mean 'linear'?"),
        ({"train": {"batch_size": True}}, "train.batch_size: expected a whole number, got True"),
        ({"prompt": {"user": "hello"}}, "prompt.user: it names no column"),
        ({"prompt": {"user": "{kind}"}}, "would give the answer away"),
        ({"data": {"columns": {"txet": "body"}}}, "data.columns.txet: nothing uses this column; did you mean 'text'?"),
        ({"output": {"template": "{knid}"}}, "output.template: {knid} is not one of the fields; did you mean 'kind'?"),
        ({"output": {"template": "none"}}, "output.fields.kind: the template has no {kind}"),
        ({"output": {"template": "{kind}{kind}"}}, "stands in it twice"),
        ({"output": {"fields": {"kind": {"kind": "lable"}}}}, "kind must be 'label'"),
        ({"output": {"fields": {"kind": {"kind": "label", "labels": ["a"]}}}}, "at least 2 entries"),
        ({"output": {"fields": {"kind": {"kind": "label", "labels": ["a", "a"]}}}}, "'a' is listed twice"),
        ({"output": {"fields": {"kind": {"kind": "label", "labels": ["a", True]}}}}, "expected text, got True; put it in quotes"),
        ({"output": {"fields": {"kind": {"kind": "label", "labels": ["a", "b"], "class_weights": {"c": 2.0}}}}}, "class_weights.c: not one of the labels"),
        ({"output": {"fields": {"kind": {"kind": "labels", "labels": ["a", "b"], "exclusive": "c"}}}}, "exclusive: 'c' is not one of the labels"),
        ({"output": {"fields": {"kind": {"kind": "labels", "labels": ["a,b", "c"]}}}}, "contains the separator"),
        ({"name": "../up"}, "name: expected letters, digits"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path: Path, sections: dict[str, Any], said: str) -> None:
    content = {**GOOD, **sections} if "name" in sections else changed(**sections)
    assert said in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a recipe"),
        ("- a\n- b\n", "got a list"),
        ("model: {path: [\n", "not valid YAML"),
        ("model: {path: x}\nmodel: {path: y}\n", "line 2: model: is given twice, first in line 1"),
        ("a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_missing_recipe_suggests_the_one_beside_it(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(RecipeError, match=r"no such recipe; did you mean 'some.yaml'"):
        load_recipe(tmp_path / "soem.yaml")


def test_overrides_win_and_their_errors_name_them(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD), ["train.epochs=7", "lora.targets=[q_proj]"]).train.epochs == 7
    message = refused(tmp_path, GOOD, "train.epochs=x", "lora.rnak=2", "nonsense", "model.path.x=1")
    assert "--set train.epochs=x: train.epochs: expected a whole number, got 'x'" in message
    assert "--set lora.rnak=2: lora.rnak: unknown key; did you mean 'rank'?" in message
    assert "--set nonsense: expected KEY=VALUE" in message
    assert "--set model.path.x=1: 'path' holds a value, not keys" in message


def test_numbers_without_a_dot_and_words_like_no_are_what_they_look_like(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD).replace("[a, b]", "[yes, no]").replace("- a\n", "- yes\n").replace("- b\n", "- no\n")
    recipe = load_recipe(write(tmp_path, text + "train: {learning_rate: 2e-4}\n"))
    assert recipe.train.learning_rate == 2e-4
    assert recipe.output.fields["kind"].labels == ["yes", "no"]  # type: ignore[union-attr]


def test_paths_are_relative_to_the_recipe_and_in_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    file = write(tmp_path / "recipes", changed(data={"train": "../data/train.jsonl"}, model={"path": "./base"}))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(file.relative_to(tmp_path), ["data.test=here/test.jsonl"])
    assert recipe.data.train == str(tmp_path / "data" / "train.jsonl")
    assert recipe.data.test == str(tmp_path / "here" / "test.jsonl")
    assert recipe.model.path == str(tmp_path / "recipes" / "base")


def test_further_training_rows_are_found_as_the_first_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    file = write(tmp_path / "recipes", changed(data={"more": ["../data/a.jsonl", "hub:o/n", "b.csv"]}))
    monkeypatch.chdir(tmp_path)
    recipes = tmp_path / "recipes"
    train, *more = load_recipe(file).data.training_files
    assert more == [str(tmp_path / "data" / "a.jsonl"), "hub:o/n:train", str(recipes / "b.csv")]
    assert load_recipe(file, ["data.more=[here.jsonl]"]).data.training_files == [train, str(tmp_path / "here.jsonl")]
    with pytest.raises(RecipeError, match=r"data.more: expected hub:OWNER/NAME.*, got 'hub:n'"):
        load_recipe(file, ["data.more=['hub:n']"])
    with pytest.raises(RecipeError, match=r"data.more: .*a.jsonl is named twice among the training rows"):
        load_recipe(file, ["data.more=[a.jsonl, a.jsonl]"])


def test_a_resolved_recipe_loads_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    (tmp_path / "elsewhere").mkdir()
    again = tmp_path / "elsewhere" / "recipe.yaml"
    again.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(again) == recipe


def test_the_schema_knows_every_key_of_every_recipe_that_ships() -> None:
    schema = json.loads((RECIPES[0].parent / "recipe.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == {*Recipe.model_fields, "extends"}
    definitions = schema["$defs"]
    for section in ("ModelSection", "DataSection", "LoraSection", "TrainSection", "EvaluateSection", "LabelsField"):
        assert all("description" in key for key in definitions[section]["properties"].values() if "const" not in key)


def test_the_updates_scale_is_alpha_over_rank_or_over_its_root(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, changed(lora={"rank": 4, "alpha": 8}))).lora.scale == 2
    assert load_recipe(write(tmp_path, changed(lora={"rank": 4, "alpha": 8, "rslora": True}))).lora.scale == 4


# Aliases -----------------------------------------------------------------------------------------------------------


def bomb(*, merged: bool = False) -> str:
    """Lines of which each names the one before ten times: ten billion values in 400 characters."""
    lines = ["a: &a {k: 1}" if merged else "a: &a [x]"]
    for one, other in zip("abcdefghij", "bcdefghijk", strict=True):
        named = ",".join([f"*{one}"] * 10)
        lines.append(f"{other}: &{other} {{<<: [{named}]}}" if merged else f"{other}: &{other} [{named}]")
    return "\n".join(lines)


@pytest.mark.parametrize("merged", [False, True])
def test_aliases_that_multiply_are_refused_with_their_line_in_a_moment(tmp_path: Path, merged: bool) -> None:
    began = time.perf_counter()
    said = refused(tmp_path, yaml.safe_dump(GOOD) + bomb(merged=merged))
    assert "its aliases expand to more than 20,000 values" in said
    line = int(said.split("line ")[1].split(":")[0])
    assert yaml.safe_dump(GOOD).count("\n") + 4 <= line <= yaml.safe_dump(GOOD).count("\n") + 7
    assert time.perf_counter() - began < 1, "some milliseconds"


def test_aliases_on_the_command_line_are_held_to_the_same(tmp_path: Path) -> None:
    inline = "[" + bomb().replace("\n", ", ").replace(": &", "0: &") + "]"
    said = refused(tmp_path, GOOD, f"name={inline}")
    assert "the value: its aliases expand to more than" in said


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: {<<: *a}}\n", "a: &a {? *a : 1}\n"])
def test_an_alias_inside_what_it_names_is_refused(tmp_path: Path, text: str) -> None:
    assert "line 1: an alias is part of the value that it refers to" in refused(tmp_path, text)


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    labels = ", ".join(f"label {n}" for n in range(500))
    text = f"""
model: {{path: Qwen/Qwen3-0.6B}}
data: {{train: train.jsonl}}
output:
  template: "{{one}} {{two}} {{three}}"
  fields:
    one: &one {{kind: label, labels: &labels [{labels}], loss_weight: 2.0}}
    two: {{<<: *one, loss_weight: 3.0}}
    three: {{kind: labels, labels: *labels}}
"""
    fields = load_recipe(write(tmp_path, text)).output.fields
    assert [field.loss_weight for field in fields.values()] == [2.0, 3.0, 1.0]
    listed = [field.labels for field in fields.values() if isinstance(field, (LabelField, LabelsField))]
    assert len(listed) == 3 and listed[0] == listed[1] == listed[2]


def test_a_recipe_with_thousands_of_keys_is_read_in_a_moment(tmp_path: Path) -> None:
    labels = [f"label {n}" for n in range(4000)]
    write(
        tmp_path, changed(output={"fields": {"kind": {"kind": "labels", "class_weights": dict.fromkeys(labels, 1.0)}}})
    )
    weights = {"output": {"fields": {"kind": {"class_weights": dict.fromkeys(labels, 2.0)}}}}
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"extends": "some.yaml", **weights}))
    began = time.perf_counter()
    recipe = load_recipe(tmp_path / "child.yaml")
    assert time.perf_counter() - began < 10, "about 1.5 s"
    field = recipe.output.fields["kind"]
    assert isinstance(field, LabelsField) and isinstance(field.class_weights, dict)
    assert set(field.class_weights.values()) == {2.0}
