"""Adapters that become runs, against mlx-lm's and PEFT's own logits; what comes back bit for bit, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mlxtune.backends.adapter import read_adapter
from mlxtune.backends.mlx.runtime import import_mlx
from mlxtune.data.rows import content_hash
from mlxtune.errors import AdapterError, ExportError, ModelError, RunError
from mlxtune.export.gguf_adapter import export_gguf_lora
from mlxtune.export.import_adapter import ImportedRun, import_adapter
from mlxtune.export.import_source import AdapterSource, find_source
from mlxtune.export.peft_adapter import export_peft
from mlxtune.export.source import open_source
from mlxtune.models.base_model import fingerprint
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import locked, open_run
from tests.adapted import assert_equal, backend_named
from tests.adapter_runs import IDS, adapter_run, our_logits
from tests.conftest import snapshot
from tests.tiny import tiny_gguf, tiny_model


def imported(source: Path, recipe: Recipe, out: Path, **options: Any) -> ImportedRun:
    found = find_source(source)
    assert isinstance(found, AdapterSource)
    return import_adapter(found, recipe, backend_named("mlx"), out, **options)


def made_by_mlx_lm(
    base: Path, out: Path, num_layers: int = 1, dtype: str = "float32", **parameters: Any
) -> tuple[Path, NDArray[np.float32]]:
    """An adapter folder as mlx-lm's trainer leaves it, its B random, and the logits that mlx-lm has with it."""
    mx = import_mlx()
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model, save_config

    out.mkdir()
    network, _ = load_model(base)
    network.freeze()
    said = {"rank": 8, "scale": 20.0, "dropout": 0.0, **parameters}
    linear_to_lora_layers(network, num_layers, said)
    mx.random.seed(0)
    drawn = tree_map(
        lambda value: (0.1 * mx.random.normal(value.shape)).astype(getattr(mx, dtype)), network.trainable_parameters()
    )
    network.update(drawn)
    network.eval()
    mx.save_safetensors(str(out / "adapters.safetensors"), dict(tree_flatten(network.trainable_parameters())))
    save_config(
        {"fine_tune_type": "lora", "num_layers": num_layers, "lora_parameters": said, "model": str(base), "iters": 1},
        out / "adapter_config.json",
    )
    return out, np.array(network(mx.array([IDS]))[0].astype(mx.float32))


MADE: dict[str, dict[str, Any]] = {
    "all linear layers of the last block": {},
    "all blocks": {"num_layers": -1},
    "keys": {"num_layers": 2, "keys": ["self_attn.q_proj", "mlp.down_proj"], "rank": 3, "scale": 1.7},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("name", MADE)
def test_an_adapter_of_mlx_lms_has_mlx_lms_logits(
    name: str, backend: str, recipe: Recipe, base: Path, tmp_path: Path
) -> None:
    folder, expected = made_by_mlx_lm(base, tmp_path / "theirs", **MADE[name])
    run = imported(folder, recipe, tmp_path / "run").run
    got = our_logits(backend_named(backend), base, run.adapter)
    assert np.abs(got - our_logits(backend_named(backend), base)).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-4 if MADE[name].get("dtype") is None else 0.2)


def test_bfloat16_values_are_widened_exactly(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    mx = import_mlx()
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs", dtype="bfloat16")
    theirs = mx.load(str(folder / "adapters.safetensors"))
    ours = load_file(imported(folder, recipe, tmp_path / "run").run.adapter / "adapters.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], np.array(theirs[name].astype(mx.float32))) for name in ours)


# Round trips --------------------------------------------------------------------------------------------------------

LORA: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4, "alpha": 8},
    "rsLoRA of some layers": {"rank": 5, "alpha": 3, "rslora": True, "layers": 1, "targets": ["v_proj", "q_proj"]},
    "dropout": {"rank": 7, "alpha": 20, "dropout": 0.05, "targets": "mlp"},
}


@pytest.mark.parametrize("form", ["mlx-lm", "peft"])
@pytest.mark.parametrize("name", LORA)
def test_a_run_comes_back_bit_for_bit(name: str, form: str, base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base, lora=LORA[name])
    folder = run.adapter
    if form == "peft":
        folder = export_peft(open_source(run, backend_named("mlx")), tmp_path / "peft").path
    made = imported(folder, run.recipe(), tmp_path / "again")
    before, after = read_adapter(run.adapter), read_adapter(made.run.adapter)
    assert_equal(after.weights, before.weights)
    assert (after.spec, after.base) == (before.spec, before.base)
    assert (made.run.adapter / "adapters.safetensors").read_bytes() == (
        run.adapter / "adapters.safetensors"
    ).read_bytes()
    assert made.run.recipe() == run.recipe()
    assert (made.format, made.notes) == (form, ())


@pytest.mark.parametrize("name", LORA)
def test_a_run_comes_back_from_a_gguf_but_for_its_dropout(name: str, base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base, lora=LORA[name])
    file = export_gguf_lora(open_source(run, backend_named("mlx")), tmp_path / "lora.gguf").path
    made = imported(file, run.recipe(), tmp_path / "again")
    before, after = read_adapter(run.adapter), read_adapter(made.run.adapter)
    assert_equal(after.weights, before.weights)
    assert after.spec.scale == pytest.approx(before.spec.scale, rel=1e-7)  # alpha is a float32 there
    assert (after.spec.rank, after.spec.layers, after.spec.dropout) == (before.spec.rank, before.spec.layers, 0.0)
    assert made.format == "gguf-lora"


def test_a_gguf_that_is_a_whole_model_is_refused(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="expected a LoRA adapter"):
        imported(tiny_gguf(tmp_path / "model.gguf", base), recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What a run says ----------------------------------------------------------------------------------------------------

OF_THE_ADAPTER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a block": ({}, {"rank": 8, "alpha": 160.0, "targets": "all", "layers": 1}),
    "all blocks": ({"num_layers": 2}, {"layers": "all"}),
    "attention": ({"keys": [f"self_attn.{name}_proj" for name in "qkvo"]}, {"targets": "attention", "layers": 1}),
    "some": ({"keys": ["mlp.up_proj", "self_attn.q_proj"], "rank": 3, "scale": 0.5, "dropout": 0.2},
             {"targets": ["q_proj", "up_proj"], "rank": 3, "alpha": 1.5, "dropout": 0.2, "rslora": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_ADAPTER)
def test_the_runs_lora_section_is_the_adapters(name: str, recipe: Recipe, base: Path, tmp_path: Path) -> None:
    made, expected = OF_THE_ADAPTER[name]
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs", **made)
    lora = imported(folder, recipe, tmp_path / "run").run.recipe().lora
    assert expected.items() <= lora.model_dump().items()
    assert lora.scale == made.get("scale", 20.0)


def test_run_json_says_where_the_adapter_came_from(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs")
    info = open_run(imported(folder, recipe, tmp_path / "run").run.path).info()
    weights = (folder / "adapters.safetensors").read_bytes()
    assert info["status"] == "finished"
    assert info["imported"]["from"] == str(folder)
    assert info["imported"]["format"] == "mlx-lm"
    assert info["imported"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert info["base"]["fingerprint"] == fingerprint(base)
    for split in ("train", "valid"):
        assert info["data"][split]["sha256"] == content_hash(Path(getattr(recipe.data, split)))


def test_rows_that_are_gone_are_no_obstacle_and_named(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs")
    Path(recipe.data.train).unlink()
    made = imported(folder, recipe, tmp_path / "run")
    assert list(made.run.info()["data"]) == ["valid"]
    assert any("data.train cannot be read" in note for note in made.notes)


def test_another_base_than_the_adapter_names_is_said(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs")
    edit(folder, lambda config: config.update(model="Qwen/Qwen3-0.6B"))
    (note,) = imported(folder, recipe, tmp_path / "run").notes
    assert note.startswith("the adapter was trained on Qwen/Qwen3-0.6B")


def test_layers_that_no_recipe_can_name_are_kept_as_they_are(base: Path, tmp_path: Path) -> None:
    layers = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj")
    run = adapter_run(tmp_path, base, layers)
    made = imported(run.adapter, run.recipe(), tmp_path / "again")
    assert_equal(read_adapter(made.run.adapter).weights, read_adapter(run.adapter).weights)
    assert made.recipe.lora.targets == ["q_proj", "up_proj"]
    assert "names 2 more, which the adapter leaves as they are" in made.notes[0]
    expected = our_logits(backend_named("mlx"), base, run.adapter)
    np.testing.assert_array_equal(our_logits(backend_named("mlx"), base, made.run.adapter), expected)


# Refusals -----------------------------------------------------------------------------------------------------------


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change an adapter's configuration."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change an adapter's weights."""
    file = folder / "adapters.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


LAYER = "model.layers.0.self_attn.q_proj"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "DoRA without magnitudes": (
        lambda folder: edit(folder, lambda config: config.update(fine_tune_type="dora")), r"magnitude should be \d+, got nothing"
    ),
    "full": (
        lambda folder: edit(folder, lambda config: config.update(fine_tune_type="full", lora_parameters=None)),
        "got fine_tune_type 'full'",
    ),
    "no scale": (lambda folder: edit(folder, lambda config: config["lora_parameters"].pop("scale")), r"rank, \.scale and \.dropout"),
    "no number as dropout": (
        lambda folder: edit(folder, lambda config: config["lora_parameters"].update(dropout="x")), r"\.scale and \.dropout"
    ),
    "an infinite rank": (
        lambda folder: edit(folder, lambda config: config["lora_parameters"].update(rank=float("inf"))), "OverflowError"
    ),
    "a scale of zero": (
        lambda folder: edit(folder, lambda config: config["lora_parameters"].update(scale=0)), "expected a scale above 0"
    ),
    "a magnitude": (
        lambda folder: change_weights(folder, lambda weights: weights.update({f"{LAYER}.m": np.ones(4, np.float32)})),
        "expected tensors named",
    ),
    "an embedding": (
        lambda folder: change_weights(
            folder, lambda weights: weights.update({"model.embed_tokens.lora_a": np.ones((4, 4), np.float32)})
        ),
        "the model has no layer model.embed_tokens",
    ),
    "another width": (
        lambda folder: change_weights(folder, lambda weights: weights.update({f"{LAYER}.lora_a": np.ones((9, 4), np.float32)})),
        "should be 4 x 64, got 4 x 9",
    ),
    "half a pair": (lambda folder: change_weights(folder, lambda weights: weights.pop(f"{LAYER}.lora_b")), "got nothing"),
    "not finite": (
        lambda folder: change_weights(folder, lambda weights: weights[f"{LAYER}.lora_a"].fill(np.nan)), "no finite numbers"
    ),
    "cut off": (
        lambda folder: (folder / "adapters.safetensors").write_bytes((folder / "adapters.safetensors").read_bytes()[:-9]),
        "damaged",
    ),
    "no weights": (lambda folder: (folder / "adapters.safetensors").unlink(), "adapters.safetensors is missing"),
}  # fmt: skip


def test_a_base_that_is_no_name_is_none(base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path / "made", base)
    folder = shutil.copytree(run.adapter, tmp_path / "theirs")
    edit(folder, lambda config: config.update(model={"path": "x"}))
    assert imported(folder, run.recipe(), tmp_path / "run").run.info()["imported"]["base"] is None


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_lora_of_this_base_is_refused_and_leaves_nothing(name: str, base: Path, tmp_path: Path) -> None:
    break_it, message = BROKEN[name]
    run = adapter_run(tmp_path / "made", base)
    folder = shutil.copytree(run.adapter, tmp_path / "theirs")
    break_it(folder)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AdapterError, match=message):
        imported(folder, run.recipe(), tmp_path / "run")
    assert sorted(tmp_path.iterdir()) == before


def test_layers_that_the_base_lacks_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    deeper = tiny_model(tmp_path / "deeper", "qwen3", layers=3)
    folder, _ = made_by_mlx_lm(deeper, tmp_path / "theirs")
    with pytest.raises(AdapterError, match=r"the model has no layer model\.layers\.2"):
        imported(folder, recipe, tmp_path / "run")


def test_a_base_that_is_not_there_is_refused(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs")
    model = recipe.model.model_copy(update={"path": str(tmp_path / "none")})
    with pytest.raises(ModelError, match="none"):
        imported(folder, recipe.model_copy(update={"model": model}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_lies_there_is_replaced_with_force_only(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs")
    run = adapter_run(tmp_path, base)
    before = snapshot(run.path)
    with pytest.raises(ExportError, match="already exists"):
        imported(folder, recipe, run.path)
    assert snapshot(run.path) == before
    imported(folder, recipe, run.path, force=True)
    assert run.info()["imported"]["format"] == "mlx-lm"


def test_a_folder_that_is_no_run_is_never_replaced(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs")
    with pytest.raises(ExportError, match="holds something else"):
        imported(folder, recipe, folder, force=True)


def test_a_run_in_use_is_not_replaced(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_mlx_lm(base, tmp_path / "theirs")
    run = adapter_run(tmp_path, base)
    with locked(run.path), pytest.raises(RunError, match="another process is writing"):
        imported(folder, recipe, run.path, force=True)


# What a source is ---------------------------------------------------------------------------------------------------


def test_a_source_is_told_by_what_it_holds(base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base)
    peft = export_peft(open_source(run, backend_named("mlx")), tmp_path / "any").path
    gguf = tmp_path / "lora"
    gguf.write_bytes(b"GGUF" + bytes(20))
    for path, expected in (
        (run.adapter, "mlx-lm"),
        (run.adapter / "adapters.safetensors", "mlx-lm"),
        (peft, "peft"),
        (peft / "adapter_model.safetensors", "peft"),
        (gguf, "gguf-lora"),
        (run.path.parent / "recipe" / "train.jsonl", None),
    ):
        if expected is None:
            with pytest.raises(Exception, match=r"is one file of rows; name its folder"):
                find_source(path)
        else:
            assert find_source(path).format == expected, path
    assert find_source(tmp_path / "recipe").format == "rows"


UNKNOWN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "no such file or folder; expected an adapter folder"),
    "an empty folder": (lambda path: path.mkdir(), "holds nothing that can be imported"),
    "a recipe": (lambda path: path.write_text("output: {}\n"), "is a recipe of mlxtune already"),
    "other YAML": (lambda path: path.write_text("hello: world\n"), "has no key of mlx-lm's training config"),
    "no YAML": (lambda path: path.write_text("{"), "cannot be read as YAML"),
    "binary": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read as YAML"),
    "a pickle alone": (lambda path: (path.mkdir(), (path / "adapter_model.bin").touch()), "has no adapter_config.json"),
    "another config": (lambda path: (path.mkdir(), (path / "adapter_config.json").write_text("{}")), "neither mlx-lm's"),
    "a broken config": (lambda path: (path.mkdir(), (path / "adapter_config.json").write_text("{")), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_imported_is_said(name: str, tmp_path: Path) -> None:
    make, message = UNKNOWN[name]
    make(tmp_path / "x")
    with pytest.raises(Exception, match=message) as caught:
        find_source(tmp_path / "x")
    assert type(caught.value).__name__ in ("AdapterError", "RecipeError")
