"""Converted models compute what their source computes, in the layout that mlx-lm and transformers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mlxtune.backends.base import ConvertSpec
from mlxtune.backends.mlx.convert import convert
from mlxtune.backends.mlx.runtime import import_mlx
from mlxtune.errors import ModelError
from tests.tiny import FAMILIES, tiny_gguf, tiny_model

IDS = [5, 17, 256, 300, 41, 42, 43, 7, 380]


def logits(folder: Path) -> NDArray[np.float32]:
    """Logits of IDS by mlx_lm's own loader, (T, vocabulary)."""
    mx = import_mlx()
    from mlx_lm.utils import load_model

    network, _ = load_model(folder)
    return np.array(network(mx.array([IDS]))[0].astype(mx.float32))


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def types_of(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        return {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118


# transformers as the oracle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("max_shard_size", ["1GB", "100KB"])
def test_logits_are_those_of_transformers(tmp_path: Path, family: str, tied: bool, max_shard_size: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(
        str(tiny_model(tmp_path / "base", family, tied=tied)), dtype=torch.float32
    )
    saved = tmp_path / "saved"
    oracle.save_pretrained(str(saved), max_shard_size=max_shard_size)
    assert (len(list(saved.glob("*.safetensors"))) > 1) == (max_shard_size == "100KB")
    for file in (tmp_path / "base").glob("tokenizer*"):
        (saved / file.name).write_bytes(file.read_bytes())
    with torch.no_grad():
        expected = oracle(torch.tensor([IDS])).logits[0].numpy()
    written = convert(saved, tmp_path / "out", ConvertSpec())
    np.testing.assert_allclose(logits(written.folder), expected, atol=1e-4)
    assert written.n_parameters == oracle.num_parameters()
    again = AutoModelForCausalLM.from_pretrained(str(written.folder), dtype=torch.float32)
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.tensor([IDS])).logits[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_what_was_converted(tmp_path: Path, family: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base", family, tied=False))
    written = convert(file, tmp_path / "out", ConvertSpec())
    model = AutoModelForCausalLM.from_pretrained(str(written.folder), dtype=torch.float32)
    with torch.no_grad():
        got = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(got, logits(tmp_path / "base"), atol=1e-4)


# Folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_computes_as_before(tmp_path: Path, family: str, tied: bool) -> None:
    base = tiny_model(tmp_path / "base", family, tied=tied)
    written = convert(base, tmp_path / "out", ConvertSpec())
    np.testing.assert_array_equal(logits(written.folder), logits(base))
    assert written.bits_per_weight == 32
    assert written.n_bytes == sum(file.stat().st_size for file in written.folder.iterdir())


def test_a_converted_folder_has_its_tokenizer_and_template(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    written = convert(base, tmp_path / "out", ConvertSpec(bits=4, group_size=32))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (written.folder / name).read_bytes() == (base / name).read_bytes()


def test_mlx_lm_loads_model_and_tokenizer(tmp_path: Path) -> None:
    import_mlx()
    from mlx_lm import load

    _, tokenizer = load(str(convert(tiny_model(tmp_path / "base"), tmp_path / "out", ConvertSpec(bits=4)).folder))
    assert {tokenizer.decode([token]) for token in tokenizer.eos_token_ids} == {"<|im_end|>", "<|endoftext|>"}


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_dtype_is_that_of_every_weight(tmp_path: Path, dtype: str, stored: str) -> None:
    written = convert(tiny_model(tmp_path / "base"), tmp_path / "out", ConvertSpec(dtype=dtype))
    assert types_of(written.folder) == {stored}
    assert config_of(written.folder)["torch_dtype"] == dtype


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_logits_are_near_the_models(tmp_path: Path, bits: int, tied: bool) -> None:
    base = tiny_model(tmp_path / "base", tied=tied)
    written = convert(base, tmp_path / "out", ConvertSpec(bits=bits, group_size=32))
    assert config_of(written.folder)["quantization"]["bits"] == bits
    assert bits < written.bits_per_weight < bits + 2.5
    error = np.abs(logits(written.folder) - logits(base)).mean() / np.abs(logits(base)).mean()
    assert 0 < error < (0.5 if bits == 4 else 0.05)


def test_a_group_size_that_leaves_layers_unquantized_is_refused_before_writing(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", hidden=96)
    message = r"64 does not divide the width of 13 of 15 layers.*model\.embed_tokens \(96\), .* and 10 more; use 32"
    with pytest.raises(ModelError, match=message):
        convert(base, tmp_path / "out", ConvertSpec(bits=4, group_size=64))
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("spec", [ConvertSpec(3), ConvertSpec(4, 48), ConvertSpec(dtype="int8")])
def test_an_impossible_spec_is_refused(tmp_path: Path, spec: ConvertSpec) -> None:
    with pytest.raises(ModelError, match="expected"):
        convert(tiny_model(tmp_path / "base"), tmp_path / "out", spec)


@pytest.mark.parametrize(
    ("spec", "option"), [(ConvertSpec(8, 32), "--quantize"), (ConvertSpec(dtype="float16"), "--dtype")]
)
def test_a_quantized_model_is_not_converted_again(tmp_path: Path, spec: ConvertSpec, option: str) -> None:
    base = tiny_model(tmp_path / "base", quantization={"bits": 4, "group_size": 32})
    with pytest.raises(ModelError, match=rf"quantized already \(4 bits, group size 32\), so {option}"):
        convert(base, tmp_path / "out", spec)


def test_a_quantized_model_can_be_copied(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", quantization={"bits": 4, "group_size": 32})
    np.testing.assert_array_equal(logits(convert(base, tmp_path / "out", ConvertSpec()).folder), logits(base))


@pytest.mark.parametrize("quantization", [None, {"bits": 4, "group_size": 32}])
def test_a_tied_model_may_still_carry_a_head(tmp_path: Path, quantization: dict[str, int] | None) -> None:
    base = tiny_model(tmp_path / "base", tied=True, quantization=quantization)
    expected = logits(base)
    weights = load_file(base / "model.safetensors")
    for name in [name for name in weights if name.startswith("model.embed_tokens.")]:
        weights[name.replace("model.embed_tokens", "lm_head")] = weights[name] * 0
    save_file(weights, base / "model.safetensors")
    (base / "model.safetensors.index.json").unlink(missing_ok=True)
    np.testing.assert_array_equal(logits(convert(base, tmp_path / "out", ConvertSpec()).folder), expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_where_the_config_is_silent_the_weights_say_whether_the_head_is_tied(
    tmp_path: Path, family: str, tied: bool
) -> None:
    base = tiny_model(tmp_path / "base", family, tied=tied)
    expected = logits(base)
    config = config_of(base)
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config))
    written = convert(base, tmp_path / "out", ConvertSpec())
    assert config_of(written.folder)["tie_word_embeddings"] == tied
    np.testing.assert_array_equal(logits(written.folder), expected)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    (base / "config.json").write_text(json.dumps({**config_of(base), "intermediate_size": 96}))
    with pytest.raises(ModelError, match="MLX cannot load this model"):
        convert(base, tmp_path / "out", ConvertSpec())
    assert not (tmp_path / "out").exists()


# GGUF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_float32_gguf_computes_what_its_source_computes(tmp_path: Path, family: str, tied: bool) -> None:
    base = tiny_model(tmp_path / "base", family, tied=tied)
    file = tiny_gguf(tmp_path / "model.gguf", base)
    written = convert(file, tmp_path / "out", ConvertSpec())
    np.testing.assert_allclose(logits(written.folder), logits(base), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("quantization", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_a_quantized_gguf_computes_what_its_rounded_source_computes(
    tmp_path: Path, family: str, quantization: str
) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    base = tiny_model(tmp_path / "base", family)
    file = tiny_gguf(tmp_path / "model.gguf", base, quantization)
    kind = GGMLQuantizationType[quantization]
    weights = {
        name: weight if weight.ndim == 1 else dequantize(quantize(weight, kind), kind)
        for name, weight in load_file(base / "model.safetensors").items()
    }
    save_file(weights, base / "model.safetensors")
    written = convert(file, tmp_path / "out", ConvertSpec(dtype="float32"))
    np.testing.assert_allclose(logits(written.folder), logits(base), atol=1e-4)


@pytest.mark.parametrize(
    ("quantization", "stored"),
    [("F32", {"F32"}), ("BF16", {"BF16"}), ("F16", {"F16"}), ("Q8_0", {"F16"}), ("Q4_0", {"F16"})],
)
def test_a_gguf_keeps_its_type_or_becomes_float16(tmp_path: Path, quantization: str, stored: set[str]) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"), quantization)
    written = convert(file, tmp_path / "out", ConvertSpec())
    assert types_of(written.folder) == stored
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "model.gguf", "out"]


def test_a_gguf_can_be_quantized_for_mlx(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"), "Q8_0")
    written = convert(file, tmp_path / "out", ConvertSpec(bits=4, group_size=32))
    assert config_of(written.folder)["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert logits(written.folder).shape == (len(IDS), 448)


def test_a_truncated_gguf_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="truncated or damaged"):
        convert(file, tmp_path / "out", ConvertSpec())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "model.gguf"]


# The command -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    from mlxtune.commands.convert import convert as command

    return CliRunner().invoke(command, list(arguments))


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    result = run(str(base), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'out'}: ")
    assert "32.00 bits a weight" in result.stdout
    assert "backend" in result.stderr


def test_the_command_prints_one_object_with_json(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    result = run(str(base), "--out", str(tmp_path / "out"), "--quantize", "4", "--group-size", "32", "--json")
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert written["model"] == str(tmp_path / "out")
    assert 4 < written["bits_per_weight"] < 6.5


def test_without_out_the_folder_is_named_after_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert run(str(base), "--quantize", "8").exit_code == 0
    assert (tmp_path / "models" / "base-8bit" / "config.json").exists()


def test_force_replaces_a_converted_model(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    out = tmp_path / "out"
    assert run(str(base), "--out", str(out)).exit_code == 0
    refused = run(str(base), "--out", str(out), "--dtype", "float16")
    assert isinstance(refused.exception, ModelError)
    assert types_of(out) == {"F32"}
    assert run(str(base), "--out", str(out), "--dtype", "float16", "--force").exit_code == 0
    assert types_of(out) == {"F16"}


def test_a_group_size_without_quantize_is_misuse(tmp_path: Path) -> None:
    result = run(str(tmp_path), "--group-size", "32")
    assert result.exit_code == 2
    assert "--quantize" in result.stderr
