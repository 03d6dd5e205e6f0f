"""mlx-lm's training configs and rows as recipes: what each key becomes, what is said of the rest, what no recipe can express."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.data.prepare import prepare
from mlxtune.errors import DataError, ExportError, MlxtuneError, RecipeError
from mlxtune.export.import_recipe import ImportedRecipe, import_recipe
from mlxtune.export.import_source import DEFAULTS, LORA_DEFAULTS, RecipeSource, find_source
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.training.loop import Steps
from tests.conftest import snapshot, write_rows

COMPLETIONS = [{"prompt": f"where is order {number}", "completion": f"order {number} is late"} for number in range(10)]
SYSTEM = {"role": "system", "content": "Be brief."}


def chat(number: int, *before: Mapping[str, Any]) -> dict[str, Any]:
    turn = [{"role": "user", "content": f"order {number}?"}, {"role": "assistant", "content": "it is late"}]
    return {"messages": [*before, *turn]}


@pytest.fixture
def folder(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `base` and rows of prompt and completion in `data`."""
    monkeypatch.chdir(tmp_path)
    Path("base").symlink_to(base)
    Path("data").mkdir()
    for split, n_rows in (("train", 10), ("valid", 3), ("test", 2)):
        write_rows(Path("data") / f"{split}.jsonl", COMPLETIONS[:n_rows])
    return tmp_path


def written(config: Mapping[str, Any] | None = None, out: str = "out.yaml", **options: Any) -> ImportedRecipe:
    """Import a config, or the rows alone."""
    source = Path("data")
    if config is not None:
        source = Path("lora_config.yaml")
        source.write_text(yaml.safe_dump({"model": "base", "data": "data", **config}))
    found = find_source(source)
    assert isinstance(found, RecipeSource)
    return import_recipe(found, Path(out), **options)


def recipe_of(config: Mapping[str, Any] | None = None) -> Recipe:
    return load_recipe(written(config).recipe)


def notes_of(config: Mapping[str, Any] | None = None) -> dict[str, str]:
    return dict(written(config).notes)


# Config: what it says -> keys of the recipe.
SAID: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing: mlx-lm's defaults": (
        {},
        {"lora.rank": 8, "lora.alpha": 160.0, "lora.dropout": 0.0, "lora.targets": "all", "train.max_steps": 1000,
         "train.batch_size": 4, "train.gradient_accumulation": 1, "train.learning_rate": 1e-5, "train.schedule": "constant",
         "train.evaluate_every": 200, "train.save_every": 100, "train.max_tokens": 2048, "train.seed": 0,
         "train.weight_decay": 0.0, "train.max_grad_norm": None, "train.gradient_checkpointing": False},
    ),
    "20 at rank 8 is alpha 160": ({"lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.05}},
                                  {"lora.rank": 8, "lora.alpha": 160.0, "lora.dropout": 0.05}),
    "scale x rank": ({"lora_parameters": {"rank": 16, "scale": 0.5, "dropout": 0.0}}, {"lora.alpha": 8.0}),
    "keys": ({"lora_parameters": {"rank": 8, "scale": 1, "dropout": 0, "keys": ["mlp.up_proj", "self_attn.q_proj"]}},
             {"lora.targets": ["q_proj", "up_proj"]}),
    "one block": ({"num_layers": 1}, {"lora.layers": 1}),
    "-1 blocks are all": ({"num_layers": -1}, {"lora.layers": "all"}),
    "0 blocks are all, too": ({"num_layers": 0}, {"lora.layers": "all"}),
    "as many as there are": ({"num_layers": 2}, {"lora.layers": "all"}),
    "iters are optimizer steps": ({"iters": 30}, {"train.max_steps": 30, "train.epochs": 10}),
    "unless gradients are accumulated": (
        {"iters": 40, "grad_accumulation_steps": 4, "batch_size": 1, "steps_per_eval": 8, "save_every": 4},
        {"train.max_steps": 10, "train.gradient_accumulation": 4, "train.epochs": 4, "train.evaluate_every": 2,
         "train.save_every": 1},
    ),
    "a cosine": (
        {"iters": 30, "lr_schedule": {"name": "cosine_decay", "warmup": 3, "arguments": [1e-4, 30, 1e-7]}},
        {"train.schedule": "cosine", "train.learning_rate": 1e-4, "train.warmup_ratio": 0.1},
    ),
    "a line": ({"iters": 30, "lr_schedule": {"name": "linear_schedule", "arguments": [1e-3, 0.0, 30]}},
               {"train.schedule": "linear", "train.learning_rate": 1e-3, "train.warmup_ratio": 0.0}),
    "a rising line": ({"lr_schedule": {"name": "linear_schedule", "arguments": [1e-4, 1e-3, 30]}}, {"train.schedule": "constant"}),
    "steps": ({"lr_schedule": {"name": "step_decay", "arguments": [1e-3, 0.9, 10]}},
              {"train.schedule": "constant", "train.learning_rate": 1e-3}),
    "a float as YAML 1.1 reads none": ({"learning_rate": "2e-5"}, {"train.learning_rate": 2e-5}),
    "adamw": ({"optimizer": "adamw"}, {"train.weight_decay": 0.01}),
    "its weight decay": ({"optimizer": "adamw", "optimizer_config": {"adamw": {"weight_decay": 0.1}}}, {"train.weight_decay": 0.1}),
    "the rest": ({"seed": 7, "max_seq_length": 300, "grad_checkpoint": True, "batch_size": 2},
                 {"train.seed": 7, "train.max_tokens": 300, "train.gradient_checkpointing": True, "train.batch_size": 2,
                  "train.over_long": "drop"}),
    "more tokens than positions": ({"max_seq_length": 100_000}, {"train.max_tokens": 4096}),
    "trackers": ({"report_to": "wandb, swanlab"}, {"track": ["wandb", "swanlab"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_key_of_mlx_lms_becomes_a_key_of_the_recipe(name: str, folder: Path) -> None:
    config, expected = SAID[name]
    text = written(config).recipe.read_text()
    flat = load_recipe(Path("out.yaml")).flat()
    assert {key: flat[key] for key in expected} == expected, text


@pytest.mark.parametrize("passes", [1, 3])
def test_the_recipe_trains_as_many_steps_as_mlx_lm(passes: int, folder: Path) -> None:
    recipe = recipe_of({"iters": 50, "batch_size": 2, "grad_accumulation_steps": passes})
    assert Steps.of(10, recipe).total == 50 // passes


# Config: what it says -> the key that is noted, and a part of the note.
NOTED: dict[str, tuple[dict[str, Any], str, str]] = {
    "the prompt is masked": ({}, "mask_prompt", "here only replies are trained"),
    "scale": ({}, "lora_parameters.scale", "20 at rank 8 is alpha 160"),
    "passes": ({"grad_accumulation_steps": 2}, "iters", "train.max_steps is 500"),
    "passes to a validation": ({"grad_accumulation_steps": 2}, "steps_per_eval", "train.evaluate_every is 100"),
    "long rows": ({}, "max_seq_length", "here they are left out"),
    "Adam": ({}, "optimizer", "does not correct its bias"),
    "another optimizer": ({"optimizer": "sgd"}, "optimizer", "not carried over: sgd"),
    "betas": ({"optimizer_config": {"adam": {"betas": [0.9, 0.98]}}}, "optimizer_config.adam.betas", "it is [0.9, 0.999] here"),
    "a schedule": ({"lr_schedule": {"name": "exponential_decay", "arguments": [1e-4, 0.9]}}, "lr_schedule", "stays at 0.0001"),
    "where a cosine ends": ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-4, 9]}}, "lr_schedule", "reaches zero"),
    "a warm-up's start": (
        {"lr_schedule": {"name": "cosine_decay", "warmup": 1, "warmup_init": 1e-7, "arguments": [1e-4, 9]}},
        "lr_schedule.warmup_init", "rises from zero",
    ),
    "a warm-up without end": (
        {"iters": 2, "lr_schedule": {"name": "cosine_decay", "warmup": 50, "arguments": [1e-4, 9]}},
        "lr_schedule.warmup", "half of it warms up",
    ),
    "keys outside of blocks": (
        {"lora_parameters": {"rank": 8, "scale": 1, "dropout": 0, "keys": ["self_attn.q_proj", "lm_head"]}},
        "lora_parameters.keys", "lm_head",
    ),
    "alpha": ({"lora_parameters": {"rank": 8, "scale": 20, "dropout": 0, "alpha": 16}}, "lora_parameters.alpha", "does not read it"),
    "more blocks than there are": ({}, "num_layers", "16 is more than the model's 2 blocks"),
    "another tracker": ({"report_to": "comet"}, "report_to", "comet"),
    "a tracker that is no name": ({"report_to": [5]}, "report_to", "not carried over: 5"),
    "an unknown key": ({"itres": 3}, "itres", "no key of mlx-lm's"),
    **{
        key: ({key: value}, key, "not carried over")
        for key, value in {
            "steps_per_report": 1, "val_batches": 1, "adapter_path": "x", "resume_adapter_file": "x.safetensors", "test": True,
            "test_batches": 1, "project_name": "x", "clear_cache_threshold": 1, "trust_remote_code": True,
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NOTED)
def test_what_means_something_else_is_noted_and_stands_in_the_recipe(name: str, folder: Path) -> None:
    config, key, text = NOTED[name]
    made = written(config)
    assert text in dict(made.notes)[key]
    assert f"# - {key}: " in made.recipe.read_text()


def test_what_means_the_same_is_not_noted(folder: Path) -> None:
    config = {
        "train": True, "mask_prompt": True, "num_layers": 1, "seed": 1, "batch_size": 2, "iters": 3, "learning_rate": 1e-4,
        "optimizer_config": {"adam": {"bias_correction": True, "betas": [0.9, 0.999], "eps": 1e-8}}, "val_batches": 25, "test": None,
    }  # fmt: skip
    assert set(notes_of(config)) == {"lora_parameters.scale", "max_seq_length"}


# Another value of each key than mlx-lm's default; `train` and `config` say what to do and not how.
OTHER: dict[str, Any] = {
    "model": "Some/Model", "fine_tune_type": "dora", "optimizer": "muon", "optimizer_config": {"adam": {"eps": 1.0}}, "data": "none",
    "lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 0.0}, "hf_dataset": {"path": "a/b"}, "report_to": "wandb",
    "lr_schedule": {"name": "cosine_decay", "arguments": [1.0, 9]}, "num_layers": 1, "seed": 5, "batch_size": 3, "iters": 7,
    "val_batches": 7, "learning_rate": 1.0, "steps_per_report": 7, "steps_per_eval": 7, "resume_adapter_file": "x",
    "adapter_path": "x", "save_every": 7, "test": True, "test_batches": 7, "max_seq_length": 70, "grad_checkpoint": True,
    "grad_accumulation_steps": 7, "clear_cache_threshold": 7, "mask_prompt": True, "project_name": "x", "trust_remote_code": True,
    "prompt_feature": "x", "completion_feature": "x",
}  # fmt: skip
OF_OTHER_ROWS = {"chat_feature", "text_feature"}


def test_every_key_of_mlx_lms_has_another_value_here() -> None:
    assert OTHER.keys() | OF_OTHER_ROWS | {"train", "config"} == DEFAULTS.keys()


@pytest.mark.parametrize("key", OTHER)
def test_no_key_of_mlx_lms_is_read_and_ignored(key: str, folder: Path) -> None:
    """Another value changes the recipe, is noted in it, or is refused."""
    before = written({}).recipe.read_text()
    try:
        after = written({key: OTHER[key]}, force=True).recipe.read_text()
    except MlxtuneError:
        return
    assert after != before


def test_the_defaults_are_mlx_lms() -> None:
    pytest.importorskip("mlx_lm")
    from mlx_lm.lora import CONFIG_DEFAULTS

    common = DEFAULTS.keys() & CONFIG_DEFAULTS.keys()  # other versions may have more
    assert len(common) > 25
    different = {key for key in common if DEFAULTS[key] != CONFIG_DEFAULTS[key]}
    assert different == {
        "model",
        "optimizer_config",
        "lora_parameters",
    }  # its own spelling, and parts that have their own
    assert str(CONFIG_DEFAULTS["model"]).lower() == str(DEFAULTS["model"]).lower()
    assert CONFIG_DEFAULTS["lora_parameters"] == {key: value for key, value in LORA_DEFAULTS.items() if key != "keys"}


# Rows ---------------------------------------------------------------------------------------------------------------


def test_prompt_and_completion_are_read_as_they_are(folder: Path, base: Path) -> None:
    made = written({})
    recipe = load_recipe(made.recipe)
    assert recipe.data.train == str(folder / "data" / "train.jsonl")
    assert recipe.data.valid and recipe.data.test
    assert Path(recipe.model.path) == folder / "base"
    assert (recipe.data.format, recipe.output.template) == ("completions", "{answer}")
    prepared = prepare(recipe, load_tokenizer(base))
    assert len(prepared.training.examples) == 10 and prepared.validation is not None


def test_other_columns_are_named(folder: Path, base: Path) -> None:
    write_rows(Path("data/train.jsonl"), [{"question": "a?", "answer": "b"}])
    Path("data/valid.jsonl").unlink()
    Path("data/test.jsonl").unlink()
    recipe = recipe_of({"prompt_feature": "question", "completion_feature": "answer"})
    assert recipe.data.columns == {"prompt": "question", "completion": "answer"}
    assert recipe.data.valid is None and recipe.train.evaluate_every is None
    assert len(prepare(recipe, load_tokenizer(base)).training.examples) == 1


def test_chats_of_any_number_of_turns_are_read_as_they_are(folder: Path, base: Path) -> None:
    turns = [chat(0), chat(1, SYSTEM), {"messages": [*chat(2)["messages"], *chat(3)["messages"]]}]
    for split in ("train", "valid", "test"):
        write_rows(Path("data") / f"{split}.jsonl", [dict(one) for one in turns])
    recipe = recipe_of({})
    assert (recipe.data.format, recipe.data.train) == ("messages", str(folder / "data" / "train.jsonl"))
    assert recipe.prompt.system is None
    rows = prepare(recipe, load_tokenizer(base)).training.rows
    assert [row.conversation and len(row.conversation.messages) for row in rows] == [1, 2, 3]


def test_texts_are_documents(folder: Path, base: Path) -> None:
    for split in ("train", "valid", "test"):
        write_rows(Path("data") / f"{split}.jsonl", [{"body": "a long story " * 40}])
    made = written({"text_feature": "body", "max_seq_length": 64})
    recipe = load_recipe(made.recipe)
    assert (recipe.data.format, recipe.data.columns, recipe.train.over_long) == ("text", {"text": "body"}, "refuse")
    assert dict(made.notes)["max_seq_length"] == "mlx-lm cuts longer rows; here they are split"
    assert "mask_prompt" not in dict(made.notes)
    assert len(prepare(recipe, load_tokenizer(base)).training.examples) > 1


def test_a_chat_is_tokenized_as_mlx_lm_does(folder: Path, base: Path) -> None:
    """Against mlx-lm's own dataset; what its template puts after the end of turn is not trained here."""
    pytest.importorskip("mlx_lm")
    from mlx_lm.tuner.datasets import ChatDataset

    write_rows(Path("data/train.jsonl"), [chat(1, SYSTEM)])
    for split in ("valid", "test"):
        Path(f"data/{split}.jsonl").unlink()
    tokenizer = load_tokenizer(base)
    (example,) = prepare(recipe_of({}), tokenizer).training.examples
    from transformers import AutoTokenizer

    theirs = ChatDataset([chat(1, SYSTEM)], AutoTokenizer.from_pretrained(base), mask_prompt=True)
    tokens, _ = theirs.process(theirs[0])
    ours = [*example.prompt.tolist(), *example.reply.tolist()]
    assert tokens[: len(ours)] == ours
    assert tokenizer.decode(tokens[len(ours) :]).strip() == ""


def test_rows_alone_are_a_recipe_on_mlx_lms_model(folder: Path) -> None:
    made = written()
    recipe = load_recipe(made.recipe)
    assert recipe.model.path == "Qwen/Qwen3-0.6B"
    assert recipe.lora.alpha == 16.0  # the recipe's own defaults: nobody asked for mlx-lm's
    assert "correct model.path" in dict(made.notes)["model"]


def test_white_space_around_a_completion_is_noted(folder: Path) -> None:
    write_rows(Path("data/train.jsonl"), [{"prompt": "a", "completion": "b\n"}])
    assert notes_of({})["completion"].startswith("white space at the ends of 1 completions")


Rows = Sequence[Mapping[str, Any]]
REFUSED: dict[str, tuple[Rows, str]] = {
    "no assistant": ([{"messages": [{"role": "user", "content": "a"}]}], r"train\.jsonl:1: expected a turn of the assistant"),
    "parts": ([{"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "a"}]}],
              "expected text as its content, got a part of type 'image'"),
    "no list": ([{"messages": "a"}], "expected a list of turns"),
    "another form": ([chat(0), {"text": "a"}], r"train\.jsonl:2: expected the column 'messages'"),
    "none of these": ([{"hello": "a"}], "expected 'prompt' with 'completion', 'messages' or 'text', got 'hello'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_no_recipe_can_express_are_refused_by_place(name: str, folder: Path) -> None:
    rows, message = REFUSED[name]
    write_rows(Path("data/train.jsonl"), [dict(row) for row in rows])
    before = snapshot(folder / "data")
    with pytest.raises(DataError, match=message):
        written({})
    assert snapshot(folder / "data") == before
    assert sorted(path.name for path in folder.iterdir()) == ["base", "data", "lora_config.yaml"]


# Mistakes -----------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "full": ({"fine_tune_type": "full"}, "fine_tune_type is 'full'"),
    "rows on the Hub": ({"data": "mlx-community/wikisql"}, "data: \"mlx-community/wikisql\" is no folder here; .* download them"),
    "rows on the Hub, named in full": ({"hf_dataset": {"path": "a/b"}}, "hf_dataset: .* download them"),
    "no number": ({"iters": "many"}, "iters: expected a whole number of 1 or more, got 'many'"),
    "a switch for a number": ({"batch_size": True}, "batch_size: expected a whole number"),
    "less than none": ({"lora_parameters": {"rank": 0, "scale": 1, "dropout": 0}}, r"lora_parameters\.rank: expected"),
    "a word for parameters": ({"lora_parameters": "x"}, "lora_parameters: expected rank"),
    "no layer of a block": (
        {"lora_parameters": {"rank": 8, "scale": 1, "dropout": 0, "keys": ["lm_head"]}}, r"lora_parameters\.keys: expected linear"
    ),
    "a schedule without arguments": ({"lr_schedule": {"name": "cosine_decay"}}, "lr_schedule: expected a name and arguments"),
    "what no recipe allows": ({"lora_parameters": {"rank": 8, "scale": 0, "dropout": 0}}, "no recipe can be made of it"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_config_that_no_recipe_can_follow_is_refused_by_key(name: str, folder: Path) -> None:
    config, message = WRONG[name]
    with pytest.raises(RecipeError, match=message) as caught:
        written(config)
    assert str(caught.value).startswith("lora_config.yaml")
    assert not Path("out.yaml").exists() and not Path("out-rows").exists()


def test_rows_without_a_train_file_are_refused(folder: Path) -> None:
    Path("data/train.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no train\.jsonl"):
        written()


# Where it goes ------------------------------------------------------------------------------------------------------


def test_a_recipe_that_lies_there_is_kept_without_force(folder: Path) -> None:
    written({})
    with pytest.raises(ExportError, match="already exists"):
        written({"seed": 5})
    assert load_recipe(Path("out.yaml")).train.seed == 0
    assert load_recipe(written({"seed": 5}, force=True).recipe).train.seed == 5


@pytest.mark.parametrize(
    ("config", "expected"),
    [("lora_config.yaml", "lora.yaml"), ("my.yaml", "my-recipe.yaml"), ("x-config.yml", "x.yaml")],
)
def test_the_default_place_is_the_current_folder_and_never_the_config(config: str, expected: str, folder: Path) -> None:
    Path(config).write_text(yaml.safe_dump({"model": "base", "data": "data"}))
    source = find_source(Path(config))
    assert isinstance(source, RecipeSource)
    assert import_recipe(source).recipe == Path(expected)
    with pytest.raises(RecipeError, match="is the config itself"):
        import_recipe(source, Path(config), force=True)


def test_paths_are_found_beside_the_config_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lora_config.yaml").write_text(yaml.safe_dump({"model": "base", "data": "data"}))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    source = find_source(Path("../lora_config.yaml"))
    assert isinstance(source, RecipeSource)
    recipe = load_recipe(import_recipe(source, Path("out.yaml")).recipe)
    assert (recipe.data.train, recipe.model.path) == (str(folder / "data" / "train.jsonl"), str(folder / "base"))


def test_an_adapters_own_configuration_is_a_training_config(folder: Path) -> None:
    """mlx-lm saves all that it trained with beside an adapter."""
    Path("adapters").mkdir()
    file = Path("adapters/adapter_config.json")
    file.write_text(json.dumps({**DEFAULTS, "model": "base", "data": "data", "iters": 12, "lora_parameters": {"rank": 2, "scale": 3.0, "dropout": 0.0}}))  # fmt: skip
    source = find_source(file)
    assert isinstance(source, RecipeSource)
    recipe = load_recipe(import_recipe(source, Path("out.yaml")).recipe)
    assert (recipe.lora.alpha, recipe.train.max_steps) == (6.0, 12)
