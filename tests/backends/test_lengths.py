"""Windows, positions and weight files: what both backends would not do alike is refused, before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mlxtune.backends.base import Backend, in_order
from mlxtune.backends.supervision import reply_limits
from mlxtune.data.examples import within_positions
from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError, ModelError
from mlxtune.evaluation.limits import position_warnings
from mlxtune.models import hub
from mlxtune.models.positions import max_positions
from mlxtune.models.source import find, weight_files
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.adapted import BACKENDS, backend_named
from tests.conftest import Run, write_recipe
from tests.tiny import tiny_config, tiny_model

TOKENS = list(range(3, 23))
WINDOWED = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


def with_config(folder: Path, **changes: Any) -> Path:
    """The folder, with keys of its config.json changed."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def logits_of(backend: Backend, folder: Path) -> NDArray[np.float32]:
    return backend.load(folder).logits(TOKENS)


# Windows


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("qwen2", WINDOWED, "1 of 2 layers attend to the last 8 tokens only"),
        ("qwen3", WINDOWED, "use_sliding_window to false, .* and set train.max_tokens to that length or less"),
        ("qwen3", {**WINDOWED, "layer_types": ["full_attention", "sliding_attention"]}, "and remove layer_types"),
    ],
)
def test_a_window_that_mlx_lm_does_not_compute_is_refused(family: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        backend_named("mlx").architecture({**tiny_config(family), **changes})


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}),
        ("qwen2", {**WINDOWED, "max_window_layers": 2}),  # as Qwen2.5-7B has it: as many as there are layers
        ("qwen3", {**WINDOWED, "sliding_window": None}),
        ("qwen3", {**WINDOWED, "sliding_window": 4096}),  # all the positions that there are
        ("llama", {"sliding_window": 8}),  # a key that neither library reads for this family
    ],
)
def test_a_window_that_changes_nothing_is_taken_by_both(
    backend: Backend, tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    plain = logits_of(backend, tiny_model(tmp_path / "plain", family))
    windowed = logits_of(backend, with_config(tiny_model(tmp_path / "windowed", family), **changes))
    np.testing.assert_allclose(windowed, plain, atol=1e-5)


def test_a_windowed_model_of_the_hub_is_refused_before_its_weights_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_config(tiny_model(tmp_path / "owner" / "model", "qwen2"), **WINDOWED)
    needs: list[str] = []

    def download(repository: str, *, need: str, **_: Any) -> Path:
        needs.append(need)
        return folder

    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(ModelError, match="sliding_window"):
        find("somebody/model", check=backend_named("mlx").architecture)
    assert needs == ["config"]


# Positions


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({}, 4096),
        ({"max_position_embeddings": None}, None),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}}, 16384),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6}}, 8192),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}}, 4096),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 4096),
    ],
)
def test_positions_are_those_that_rope_scaling_extends_to(changes: dict[str, Any], positions: int | None) -> None:
    assert max_positions({**tiny_config(), **changes}) == positions


def test_more_tokens_than_positions_are_refused_with_both_numbers(tmp_path: Path, mlxtune: Run) -> None:
    base = with_config(tiny_model(tmp_path / "base"), max_position_embeddings=512)
    recipe = write_recipe(tmp_path / "recipe", base)
    for words in (("lora", recipe), ("lora", recipe, "--plan"), ("data", recipe)):
        done = mlxtune(*words, "--set", "train.max_tokens=1000")
        assert done.code == 1
        assert "expected at most 512" in done.err and "got 1,000; set train.max_tokens to 512" in done.err
    assert mlxtune("lora", recipe, "--plan", "--set", "train.max_tokens=512").code == 0


def test_the_default_is_lowered_to_the_positions_and_longer_rows_are_refused(tmp_path: Path, mlxtune: Run) -> None:
    base = with_config(tiny_model(tmp_path / "base"), max_position_embeddings=512)
    recipe = load_recipe(write_recipe(tmp_path / "recipe", base))
    assert within_positions(recipe, {"max_position_embeddings": 512}).train.max_tokens == 512
    assert within_positions(recipe, {"max_position_embeddings": 32768}) is recipe
    short = with_config(tiny_model(tmp_path / "short"), max_position_embeddings=48)
    done = mlxtune("lora", write_recipe(tmp_path / "recipe", short), "--plan")
    assert done.code == 1 and "rows longer than train.max_tokens = 48" in done.err


def evaluated_rows(recipe: Recipe) -> list[Row]:
    return read_rows(Path(str(recipe.data.test)), recipe.data.columns)


def test_prompts_without_room_for_a_reply_are_refused_and_those_with_little_reported(recipe: Recipe) -> None:
    rows, tokenizer = evaluated_rows(recipe), load_tokenizer(Path(recipe.model.path))
    assert position_warnings(rows, recipe, tokenizer, {"max_position_embeddings": 500}) == []
    (said,) = position_warnings(rows, recipe, tokenizer, {"max_position_embeddings": 90})
    assert "leave less room than evaluate.max_new_tokens = 40: the model has 90 positions" in said
    with pytest.raises(DataError, match=r"(?s)no room for a reply: the model has 30 positions.*test.jsonl:1"):
        position_warnings(rows, recipe, tokenizer, {"max_position_embeddings": 30})


def test_a_reply_ends_where_the_models_positions_do(backend: Backend, tmp_path: Path) -> None:
    model = backend.load(with_config(tiny_model(tmp_path / "base"), max_position_embeddings=24))
    prompts = [TOKENS, TOKENS[:10], [9]]
    free = in_order(backend.load(tiny_model(tmp_path / "free")).generate(prompts, 16, []))
    replies = in_order(model.generate(prompts, 16, []))
    assert [len(reply.tokens) for reply in replies] == [4, 14, 16]
    for reply, whole in zip(replies, free, strict=True):
        assert reply.tokens == whole.tokens[: len(reply.tokens)] and reply.stop_reason == "length"
    with pytest.raises(DataError, match="a prompt of 24 tokens leaves no room for a reply: the model has 24 positions"):
        in_order(model.generate([list(range(3, 27))], 16, []))
    assert reply_limits([[1]], 5, {}) == [5]


# Weight files


def sharded(folder: Path) -> Path:
    """The folder with its weights in two files and an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {name: f"model-0000{1 + (place % 2)}-of-00002.safetensors" for place, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: weights[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


@pytest.mark.parametrize("indexed", [True, False])
def test_a_weight_file_that_is_not_the_models_is_not_read(backend: Backend, tmp_path: Path, indexed: bool) -> None:
    """In whatever order a file system lists them: some were there before the model's own files, some come after."""
    folder = tiny_model(tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    expected = logits_of(backend, folder)
    poison = {name: value + 1 for name, value in weights.items()}

    def add_strays(numbers: range) -> None:
        for number in numbers:
            save_file(poison, folder / f"model-{number:05}-of-00002.safetensors")

    add_strays(range(3, 7))
    if indexed:
        sharded(folder)
    else:
        (folder / "model.safetensors").unlink()
        save_file(weights, folder / "model.safetensors")
    add_strays(range(7, 11))
    np.testing.assert_array_equal(logits_of(backend, folder), expected)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/tmp/model.safetensors", "a/b.safetensors", "..", "x.bin", 7]
)
def test_an_index_that_names_files_elsewhere_is_refused(backend: Backend, tmp_path: Path, name: Any) -> None:
    folder = sharded(tiny_model(tmp_path / "base"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for refused in (lambda: weight_files(folder), lambda: find(str(folder)), lambda: backend.load(folder)):
        with pytest.raises(ModelError, match=r"expected the name of a \.safetensors file in the same folder"):
            refused()
