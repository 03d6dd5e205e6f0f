"""Fused folders as other tools load them: transformers for `hf`, mlx-lm for `mlx`; each answers as the recipe asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.errors import ExportError, ModelError
from mlxtune.export.exported import Exported
from mlxtune.export.fused_folder import export_hf, export_mlx
from mlxtune.export.source import open_source
from mlxtune.models.source import weight_files
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.runs.folder import RunFolder
from tests.adapted import BACKENDS, backend_named
from tests.adapter_runs import adapter_run, our_logits, torch_logits

MESSAGES = [{"role": "user", "content": "cancel the payment"}]


def hf(run: RunFolder, out: Path, backend: str = "mlx", **options: Any) -> Exported:
    found = backend_named(backend)
    return export_hf(open_source(run, found), found, out, **options)


def mlx(run: RunFolder, out: Path, backend: str = "mlx", **options: Any) -> Exported:
    found = backend_named(backend)
    return export_mlx(open_source(run, found), found, out, **options)


def transformers_logits(folder: Path) -> NDArray[np.float32]:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    return torch_logits(transformers.AutoModelForCausalLM.from_pretrained(folder).eval())


def json_of(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on a tiny Qwen3 whose adapter is not zero."""
    return adapter_run(tmp_path_factory.mktemp("run"), base)


@pytest.fixture(scope="module")
def folder(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its Hugging Face folder."""
    return hf(run, tmp_path_factory.mktemp("hf") / "fused").path


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformers_computes_the_runs_logits(backend: str, any_base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, any_base)
    expected = our_logits(backend_named("mlx"), any_base, run.adapter)

    found = transformers_logits(hf(run, tmp_path / "fused", backend).path)

    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_of_several_files_has_an_index_that_transformers_follows(
    backend: str, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_bytes = 200_000  # in place of 5 GiB
    if backend == "torch":
        monkeypatch.setattr("mlxtune.backends.torch.checkpoint.MAX_FILE_BYTES", n_bytes)
    else:
        monkeypatch.setattr("mlx_lm.utils.make_shards", in_shards_of(n_bytes))

    out = hf(run, tmp_path / "fused", backend).path

    assert len(weight_files(out)) > 1
    assert {file.name for file in weight_files(out)} == {file.name for file in out.glob("*.safetensors")}
    expected = our_logits(backend_named("mlx"), Path(run.recipe().model.path), run.adapter)
    np.testing.assert_allclose(transformers_logits(out), expected, atol=1e-4)


def in_shards_of(n_bytes: int) -> Callable[[Mapping[str, Any]], list[dict[str, Any]]]:
    """mlx-lm's make_shards, which counts in whole GiB, with another size."""

    def make_shards(weights: Mapping[str, Any]) -> list[dict[str, Any]]:
        shards: list[dict[str, Any]] = [{}]
        for name, value in weights.items():
            if shards[-1] and sum(one.nbytes for one in shards[-1].values()) + value.nbytes > n_bytes:
                shards.append({})
            shards[-1][name] = value
        return shards

    return make_shards


def test_the_weights_say_that_they_are_pytorchs(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(weight_files(folder)[0], framework="numpy") as weights:
        assert weights.metadata() == {"format": "pt"}


def test_generation_is_greedy_and_ends_at_every_stop(folder: Path) -> None:
    settings = json_of(folder / "generation_config.json")

    stops = list(load_tokenizer(folder).stop_tokens)
    assert (settings["do_sample"], settings["eos_token_id"], settings["max_new_tokens"]) == (False, stops, 40)


@pytest.mark.parametrize("thinking", [False, True])
def test_the_chat_template_opens_a_reply_as_the_recipe_does(thinking: bool, base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base, prompt={"user": "{text}", "thinking": thinking})

    exported = load_tokenizer(hf(run, tmp_path / "fused").path)

    unasked = exported.hf.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert unasked == load_tokenizer(base).prompt_text(MESSAGES, thinking)


def test_an_unquantized_mlx_folder_computes_the_runs_logits(run: RunFolder, base: Path, tmp_path: Path) -> None:
    found = our_logits(backend_named("mlx"), mlx(run, tmp_path / "mlx").path)

    np.testing.assert_allclose(found, our_logits(backend_named("mlx"), base, run.adapter), atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mlx_lm_loads_a_quantized_folder(backend: str, run: RunFolder, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model

    out = mlx(run, tmp_path / "mlx", backend, bits=4, group_size=32).path

    _, config = load_model(out)
    assert config["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"}


def test_a_group_size_that_does_not_fit_leaves_nothing(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a group size of 128 does not divide"):
        mlx(run, tmp_path / "mlx", bits=4, group_size=128)

    assert list(tmp_path.iterdir()) == []


def test_an_export_that_lies_there_is_kept_without_force(run: RunFolder, folder: Path) -> None:
    before = folder.stat().st_ino

    with pytest.raises(ExportError, match="already exists; choose another --out, or replace it with --force"):
        hf(run, folder)

    assert folder.stat().st_ino == before


def test_force_replaces_no_folder_of_another_kind(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(ExportError, match=r"holds something else \(it has no config.json\)"):
        hf(run, tmp_path, force=True)


def test_a_full_disk_is_one_message_and_leaves_nothing(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlxtune.export.fused_folder.finish_folder", full)

    with pytest.raises(ExportError, match=r"cannot be written: No space left on device; .* GB are free there"):
        hf(run, tmp_path / "fused")
    assert list(tmp_path.iterdir()) == []
