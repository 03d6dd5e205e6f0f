"""`extends`: what a recipe takes from another, whose folder its files are relative to, and where its mistakes stand."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.errors import RecipeError
from mlxtune.evaluation.subject import find_subject
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import LabelField, LabelsField, Recipe, TextField
from mlxtune.runs.folder import new_run
from tests.conftest import ROOT

BASE = """\
name: the-base
model:
  path: Qwen/Qwen3-0.6B
  quantize: {bits: 4}
data:
  train: rows/train.jsonl
  valid: rows/valid.jsonl
  columns: {text: body}
output:
  template: "{intent}: {reply}"
  fields:
    intent:
      kind: label
      labels: [pay, order, none]
      class_weights: {pay: 2.0, order: 3.0}
    reply: {kind: text, loss_weight: 0.5}
lora:
  rank: 16
  targets: [q_proj, v_proj]
train:
  epochs: 3
  learning_rate: 1.0e-4
evaluate:
  baselines: [majority, keywords]
  keywords: {pay: [bill], order: [parcel]}
"""


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def extended(folder: Path, text: str, *overrides: str) -> Recipe:
    """A recipe that extends BASE, which lies beside it."""
    write(folder / "base.yaml", BASE)
    return load_recipe(write(folder / "child.yaml", "extends: base.yaml\n" + textwrap.dedent(text)), overrides)


def refused(file: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    return str(caught.value)


# Merging -----------------------------------------------------------------------------------------------------------


def test_a_recipe_that_says_nothing_of_its_own_is_its_parent_under_its_own_name(tmp_path: Path) -> None:
    parent = load_recipe(write(tmp_path / "base.yaml", BASE))
    child = extended(tmp_path, "")
    assert (parent.name, child.name) == ("the-base", "child")
    assert child == parent.model_copy(update={"name": "child"})


def test_a_name_that_the_child_gives_is_its_name(tmp_path: Path) -> None:
    assert extended(tmp_path, "name: own").name == "own"


def test_mappings_merge_at_every_depth_and_lists_and_values_replace(tmp_path: Path) -> None:
    recipe = extended(
        tmp_path,
        """\
        output: {fields: {intent: {class_weights: {order: 5.0, none: 1.5}}}}
        lora: {targets: [o_proj]}
        train: {epochs: 1}
        evaluate: {baselines: [majority]}
        """,
    )
    intent = recipe.output.fields["intent"]
    assert isinstance(intent, LabelField)
    assert intent.class_weights == {"pay": 2.0, "order": 5.0, "none": 1.5}
    assert intent.labels == ["pay", "order", "none"]
    assert (recipe.lora.rank, recipe.lora.targets) == (16, ["o_proj"])
    assert (recipe.train.epochs, recipe.train.learning_rate) == (1, 1e-4)
    assert recipe.evaluate.baselines == ["majority"]


def test_null_sets_null_over_a_section_that_may_be_null(tmp_path: Path) -> None:
    assert extended(tmp_path, "").model.quantize is not None
    assert extended(tmp_path, "model: {quantize: null}").model.quantize is None
    assert extended(tmp_path, "data: {valid: null, valid_fraction: 0.1}").data.valid_fraction == 0.1


def test_null_over_a_section_that_may_not_be_null_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE)
    message = refused(write(tmp_path / "child.yaml", "extends: base.yaml\nlora: null\n"))
    assert "  line 2: lora: expected keys with values, got None" in message


def test_null_over_an_entry_that_the_user_named_removes_it(tmp_path: Path) -> None:
    recipe = extended(
        tmp_path,
        """\
        data: {columns: {text: null}}
        output: {template: "{intent}", fields: {reply: null, intent: {class_weights: {pay: null}}}}
        evaluate: {keywords: {order: null}}
        """,
    )
    assert recipe.data.columns == {}
    intent = recipe.output.fields["intent"]
    assert list(recipe.output.fields) == ["intent"] and isinstance(intent, LabelField)
    assert intent.class_weights == {"order": 3.0}
    assert recipe.evaluate.keywords == {"pay": ["bill"]}


def test_null_for_an_entry_that_nothing_is_inherited_of_is_a_mistake(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE)
    message = refused(write(tmp_path / "child.yaml", "extends: base.yaml\nevaluate: {keywords: {ordre: null}}\n"))
    assert "1 problem\n  line 2: evaluate.keywords.ordre: expected a list, got None" in message


def test_a_field_of_another_kind_keeps_what_its_new_kind_has_too(tmp_path: Path) -> None:
    kinds = "output: {fields: {intent: {kind: labels, separator: '; ', exclusive: none}, reply: {kind: text}}}\n"
    first = extended(tmp_path, kinds).output.fields["intent"]
    assert isinstance(first, LabelsField)
    assert first.labels == ["pay", "order", "none"]
    assert isinstance(first.class_weights, dict) and first.class_weights["pay"] == 2.0
    grandchild = write(tmp_path / "grandchild.yaml", "extends: child.yaml\noutput: {fields: {intent: {kind: label}}}\n")
    again = load_recipe(grandchild).output.fields["intent"]
    assert isinstance(again, LabelField) and again.labels == ["pay", "order", "none"]
    text = "output: {fields: {intent: {kind: text}}}\nevaluate: {baselines: [], keywords: {pay: null, order: null}}\n"
    assert extended(tmp_path, text).output.fields["intent"] == TextField(kind="text")


def test_a_key_that_no_kind_has_does_not_go_with_the_old_kind(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE.replace("      kind: label\n", "      kind: label\n      lables: [a]\n"))
    file = write(tmp_path / "child.yaml", "extends: base.yaml\noutput: {fields: {intent: {kind: labels}}}\n")
    assert "base.yaml line 14: output.fields.intent.lables: unknown key; did you mean 'labels'?" in refused(file)


def test_keys_of_the_old_kind_that_the_child_itself_says_are_unknown(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE)
    fields = "{intent: {kind: labels}, reply: {kind: text, labels: [a, b]}}"
    file = write(tmp_path / "child.yaml", f"extends: base.yaml\noutput: {{fields: {fields}}}\n")
    assert "line 2: output.fields.reply.labels: unknown key" in refused(file)


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    recipe = extended(tmp_path, "train: {epochs: 2}", "train.epochs=7", "lora.rank=2")
    assert (recipe.train.epochs, recipe.lora.rank) == (7, 2)
    assert (recipe.train.learning_rate, recipe.lora.targets) == (1e-4, ["q_proj", "v_proj"])


def test_anchors_of_a_parent_are_not_changed_through_one_another(tmp_path: Path) -> None:
    shared = "&it {kind: label, labels: [a, b]}"
    write(
        tmp_path / "base.yaml",
        f"model: {{path: x}}\ndata: {{train: t.jsonl}}\noutput: {{template: '{{a}} {{b}}', fields: {{a: {shared}, b: *it}}}}\n",
    )
    file = write(tmp_path / "child.yaml", "extends: base.yaml\noutput: {fields: {a: {loss_weight: 2.0}}}\n")
    fields = load_recipe(file).output.fields
    assert (fields["a"].loss_weight, fields["b"].loss_weight) == (2.0, 1.0)


# Chains ------------------------------------------------------------------------------------------------------------


def test_chains_work_and_the_nearest_file_wins(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE)
    write(tmp_path / "more" / "middle.yaml", "extends: ../base.yaml\nname: middle\ntrain: {epochs: 5, seed: 5}\n")
    recipe = load_recipe(write(tmp_path / "last.yaml", "extends: more/middle.yaml\ntrain: {seed: 6}\n"))
    assert recipe.name == "last"
    assert (recipe.train.epochs, recipe.train.seed, recipe.train.learning_rate) == (5, 6, 1e-4)


def test_a_circle_is_refused_with_the_way_round_it(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", "extends: two.yaml\n")
    write(tmp_path / "two.yaml", "train: {epochs: 1}\nextends: deep/../three.yaml\n")
    write(tmp_path / "three.yaml", "name: x\n\nextends: ./one.yaml\n")
    (tmp_path / "deep").mkdir()
    message = refused(one)
    way = " -> ".join(str(tmp_path / name) for name in ("one.yaml", "two.yaml", "three.yaml", "one.yaml"))
    assert f"1 problem\n  {tmp_path}/three.yaml line 3: extends: extends itself in a circle: {way}" in message


def test_a_recipe_does_not_extend_itself(tmp_path: Path) -> None:
    assert "extends itself in a circle" in refused(write(tmp_path / "one.yaml", "extends: one.yaml\n"))


# Paths -------------------------------------------------------------------------------------------------------------


def test_each_data_file_is_relative_to_the_recipe_that_says_it(tmp_path: Path) -> None:
    write(tmp_path / "shared" / "base.yaml", BASE)
    child = "extends: ../shared/base.yaml\ndata:\n  valid: own.jsonl\n  test: ./test.jsonl\n"
    data = load_recipe(write(tmp_path / "mine" / "child.yaml", child)).data
    assert data.train == str(tmp_path / "shared" / "rows" / "train.jsonl")
    assert data.valid == str(tmp_path / "mine" / "own.jsonl")
    assert data.test == str(tmp_path / "mine" / "test.jsonl")


def test_a_data_file_that_came_by_an_anchor_is_relative_to_its_own_recipe(tmp_path: Path) -> None:
    text = BASE.replace("data:\n", "data:\n  <<: &rows {test: rows/test.jsonl}\n")
    write(tmp_path / "shared" / "base.yaml", text)
    child = write(tmp_path / "mine" / "child.yaml", "extends: ../shared/base.yaml\ndata: {valid: own.jsonl}\n")
    assert load_recipe(child).data.test == str(tmp_path / "shared" / "rows" / "test.jsonl")


def test_data_named_on_the_command_line_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "shared" / "base.yaml", BASE)
    child = write(tmp_path / "mine" / "child.yaml", "extends: ../shared/base.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(child, ["data.train=here.jsonl"]).data.train == str(tmp_path / "here.jsonl")


@pytest.mark.parametrize(
    ("said", "folder", "expected"),
    [
        ("./base", None, "shared/base"),
        ("models/base", "shared/models/base", "shared/models/base"),
        ("models/base", "mine/models/base", None),  # a folder beside the child is not what the parent meant
        ("Qwen/Qwen3-0.6B", None, None),
    ],
)
def test_a_local_model_is_relative_to_the_recipe_that_says_it(
    tmp_path: Path, said: str, folder: str | None, expected: str | None
) -> None:
    write(tmp_path / "shared" / "base.yaml", BASE.replace("Qwen/Qwen3-0.6B", said))
    child = write(tmp_path / "mine" / "child.yaml", "extends: ../shared/base.yaml\nmodel: {dtype: float32}\n")
    if folder:
        (tmp_path / folder).mkdir(parents=True)
    assert load_recipe(child).model.path == (str(tmp_path / expected) if expected else said)


def test_a_model_named_on_the_command_line_has_nothing_to_do_with_the_parents_folder(tmp_path: Path) -> None:
    write(tmp_path / "shared" / "base.yaml", BASE)
    child = write(tmp_path / "mine" / "child.yaml", "extends: ../shared/base.yaml\n")
    (tmp_path / "shared" / "models" / "base").mkdir(parents=True)
    assert load_recipe(child, ["model.path=models/base"]).model.path == "models/base"


# Mistakes ----------------------------------------------------------------------------------------------------------


def test_every_problem_of_every_file_is_reported_where_it_stands_the_childs_first(tmp_path: Path) -> None:
    text = BASE.replace("  rank: 16\n", "  rnak: 16\n").replace("  epochs: 3\n", "  epochs: many\n  seed: x\n")
    base = write(tmp_path / "base.yaml", text)
    child = "extends: base.yaml\n" + 28 * "\n" + "lora: {alpah: 2}\ntrain:\n  seed: 1\n  batch_size: none\n"
    message = refused(write(tmp_path / "child.yaml", child), "train.max_steps=x")
    assert message.splitlines() == [
        f"{tmp_path}/child.yaml: 5 problems",
        "  line 30: lora.alpah: unknown key; did you mean 'alpha'?",
        "  line 33: train.batch_size: expected a whole number, got 'none'",
        f"  {base} line 18: lora.rnak: unknown key; did you mean 'rank'?",
        f"  {base} line 21: train.epochs: expected a whole number, got 'many'",
        "  --set train.max_steps=x: train.max_steps: expected a whole number, got 'x'",
    ]


def test_what_replaces_a_wrong_value_of_the_parent_cures_it(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE.replace("epochs: 3", "epochs: many"))
    assert load_recipe(write(tmp_path / "child.yaml", "extends: base.yaml\ntrain: {epochs: 2}\n")).train.epochs == 2


def test_a_mistake_inside_a_list_stands_where_the_list_that_counts_stands(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE)
    child = "extends: base.yaml\noutput:\n  fields:\n    intent:\n      labels:\n        - pay\n        - order\n        - pay\n"
    assert "  line 8: output.fields.intent.labels.2: 'pay' is listed twice" in refused(
        write(tmp_path / "c.yaml", child)
    )


def test_what_no_file_says_is_missing_from_the_child(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "model: {path: x}\ndata: {valid: v.jsonl}\n")
    message = refused(write(tmp_path / "child.yaml", "# mine\nextends: base.yaml\n\ndata: {test: t.jsonl}\n"))
    assert "1 problem" in message
    assert "  line 4: data.train: missing; this key has no default" in message


@pytest.mark.parametrize("middle", ["{kind: text}", "null"])
def test_what_a_recipe_between_took_away_is_missing_where_it_is_wanted_again(tmp_path: Path, middle: str) -> None:
    write(tmp_path / "base.yaml", BASE)
    write(tmp_path / "middle.yaml", f"extends: base.yaml\noutput: {{fields: {{intent: {middle}}}}}\n")
    child = "extends: middle.yaml\n\n\noutput: {fields: {intent: {kind: label}}}\n"
    said = "  line 4: output.fields.intent.labels: missing; this key has no default"
    assert said in refused(write(tmp_path / "child.yaml", child))


def test_a_missing_parent_is_named_with_its_line_and_the_one_that_was_meant(tmp_path: Path) -> None:
    write(tmp_path / "recipes" / "qwen3-base.yaml", BASE)
    child = write(tmp_path / "recipes" / "qwen3-bsae2.yaml", "# mine\nextends: qwen3-bsae.yaml\n")
    missing = tmp_path / "recipes" / "qwen3-bsae.yaml"
    message = refused(child)
    assert f"1 problem\n  line 2: extends: {missing}: no such recipe; did you mean 'qwen3-base.yaml'?" in message


def test_a_missing_parent_hides_no_other_problem_and_invents_none(tmp_path: Path) -> None:
    text = (
        "extends: bsae.yaml\nlora: {rnak: 1}\nevaluate: {baselines: [keywords]}\noutput: {fields: {x: {labels: [a]}}}\n"
    )
    message = refused(write(tmp_path / "child.yaml", text))
    assert "2 problems" in message
    assert "line 1: extends:" in message and "line 2: lora.rnak: unknown key" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: 3\n", "line 1: extends: expected the file name of a recipe, got 3"),
        ("extends: ''\n", "line 1: extends: expected the file name of a recipe, got ''"),
        ("extends: null\n", "line 1: extends: expected the file name of a recipe, got None"),
        ("extends: [base.yaml]\n", "line 1: extends: expected the file name of a recipe, got ['base.yaml']"),
        ("extends: .\n", "this is a folder"),
        ("extend: base.yaml\n", "extend: unknown key; did you mean 'extends'?"),
        ("extends: base.yaml\ntrain: {extends: base.yaml}\n", "line 2: train.extends: unknown key"),
        ("extends: empty.yaml\n", "line 1: extends: {folder}/empty.yaml: expected a recipe"),
        ("extends: broken.yaml\n", "{folder}/broken.yaml line 2: not valid YAML"),
        ("extends: twice.yaml\n", "{folder}/twice.yaml line 2: lora: is given twice, first in line 1"),
        ("extends: base.yaml\nextends: base.yaml\n", "line 2: extends: is given twice"),
    ],
)
def test_an_extends_that_cannot_be_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "base.yaml", BASE)
    write(tmp_path / "empty.yaml", "")
    write(tmp_path / "broken.yaml", "lora:\n  {]\n")
    write(tmp_path / "twice.yaml", "lora: {rank: 1}\nlora: {rank: 2}\n")
    assert said.format(folder=tmp_path) in refused(write(tmp_path / "child.yaml", text))


def test_the_command_line_extends_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "base.yaml", BASE)
    assert "--set extends=other.yaml: extends can only be set in the recipe file" in refused(file, "extends=other.yaml")


# Where recipes go --------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_whole_recipe_and_needs_no_parent_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = extended(tmp_path, "train: {epochs: 2}")
    run = new_run(recipe, tmp_path / "run")
    kept = yaml.safe_load(run.recipe_file.read_text(encoding="utf-8"))
    assert "extends" not in kept and set(kept) == set(Recipe.model_fields)
    (tmp_path / "base.yaml").unlink()
    assert run.recipe() == recipe
    monkeypatch.chdir(tmp_path)
    heir = write(tmp_path / "heir.yaml", "extends: run/recipe.yaml\n")  # a run's recipe is one to extend
    assert find_subject(heir, base=True).recipe == recipe.model_copy(update={"name": "heir"})


def test_the_schema_requires_nothing_of_a_recipe_that_extends_another() -> None:
    file = ROOT / "recipes" / "recipe.schema.json"
    schema = json.loads(file.read_text(encoding="utf-8"))

    def required(node: Any) -> list[str]:
        if isinstance(node, list):
            return [key for one in node for key in required(one)]
        if not isinstance(node, dict):
            return []
        return [*node.get("required", []), *(key for one in node.values() for key in required(one))]

    assert schema["properties"]["extends"]["type"] == "string"
    assert schema["if"] == {"required": ["extends"]} and "then" not in schema
    assert required({key: one for key, one in schema.items() if key not in ("if", "else")}) == []
    whole = schema["else"]
    assert whole["required"] == ["model", "data"]
    assert whole["properties"]["model"]["required"] == ["path"]
    assert whole["properties"]["data"]["required"] == ["train"]
    fields = whole["properties"]["output"]["properties"]["fields"]["additionalProperties"]["anyOf"]
    assert {one["properties"]["kind"]["const"]: one["required"] for one in fields} == {
        "label": ["kind", "labels"],
        "labels": ["kind"],
        "text": ["kind"],
    }
