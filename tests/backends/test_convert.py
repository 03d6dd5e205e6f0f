"""Converted models compute what their source computes, in the layout that mlx-lm and transformers read."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mlxtune.backends.base import ConvertSpec, WrittenModel
from mlxtune.backends.mlx.runtime import import_mlx
from mlxtune.errors import ModelError
from tests.tiny import FAMILIES, stored_tensors, tiny_gguf, tiny_model

Convert = Callable[[Path, Path, ConvertSpec], WrittenModel]
BACKENDS = ("mlx", "torch")
MISFIT = r"MLX cannot load this model|do not fit config\.json: .*gate_proj\.weight should be 96 x 64, got 128 x 64"
IDS = [5, 17, 256, 300, 41, 42, 43, 7, 380]


def convert_on(backend: str) -> Convert:
    """A backend's own convert; skips the test where its library is not installed."""
    pytest.importorskip(backend)
    return importlib.import_module(f"mlxtune.backends.{backend}.convert").convert


@pytest.fixture(params=BACKENDS)
def convert(request: pytest.FixtureRequest) -> Convert:
    """Each backend's convert in turn."""
    return convert_on(request.param)


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
def test_logits_are_those_of_transformers(
    convert: Convert, tmp_path: Path, family: str, tied: bool, max_shard_size: str
) -> None:
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
def test_transformers_reads_what_was_converted(convert: Convert, tmp_path: Path, family: str) -> None:
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
def test_a_folder_computes_as_before(convert: Convert, tmp_path: Path, family: str, tied: bool) -> None:
    base = tiny_model(tmp_path / "base", family, tied=tied)
    written = convert(base, tmp_path / "out", ConvertSpec())
    np.testing.assert_array_equal(logits(written.folder), logits(base))
    assert written.bits_per_weight == 32
    assert written.n_bytes == sum(file.stat().st_size for file in written.folder.iterdir())


def test_a_converted_folder_has_its_tokenizer_and_template(convert: Convert, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    written = convert(base, tmp_path / "out", ConvertSpec(bits=4, group_size=32))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (written.folder / name).read_bytes() == (base / name).read_bytes()


def test_mlx_lm_loads_model_and_tokenizer(convert: Convert, tmp_path: Path) -> None:
    import_mlx()
    from mlx_lm import load

    _, tokenizer = load(str(convert(tiny_model(tmp_path / "base"), tmp_path / "out", ConvertSpec(bits=4)).folder))
    assert {tokenizer.decode([token]) for token in tokenizer.eos_token_ids} == {"<|im_end|>", "<|endoftext|>"}


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_dtype_is_that_of_every_weight(convert: Convert, tmp_path: Path, dtype: str, stored: str) -> None:
    written = convert(tiny_model(tmp_path / "base"), tmp_path / "out", ConvertSpec(dtype=dtype))
    assert types_of(written.folder) == {stored}
    assert config_of(written.folder)["torch_dtype"] == dtype


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_logits_are_near_the_models(convert: Convert, tmp_path: Path, bits: int, tied: bool) -> None:
    base = tiny_model(tmp_path / "base", tied=tied)
    written = convert(base, tmp_path / "out", ConvertSpec(bits=bits, group_size=32))
    assert config_of(written.folder)["quantization"]["bits"] == bits
    assert bits < written.bits_per_weight < bits + 2.5
    error = np.abs(logits(written.folder) - logits(base)).mean() / np.abs(logits(base)).mean()
    assert 0 < error < (0.5 if bits == 4 else 0.05)


def test_a_group_size_that_leaves_layers_unquantized_is_refused_before_writing(
    convert: Convert, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", hidden=96)
    message = r"64 does not divide the width of 13 of 15 layers.*model\.embed_tokens \(96\), .* and 10 more; use 32"
    with pytest.raises(ModelError, match=message):
        convert(base, tmp_path / "out", ConvertSpec(bits=4, group_size=64))
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("spec", [ConvertSpec(3), ConvertSpec(4, 48), ConvertSpec(dtype="int8")])
def test_an_impossible_spec_is_refused(convert: Convert, tmp_path: Path, spec: ConvertSpec) -> None:
    with pytest.raises(ModelError, match="expected"):
        convert(tiny_model(tmp_path / "base"), tmp_path / "out", spec)


@pytest.mark.parametrize(
    ("spec", "option"), [(ConvertSpec(8, 32), "--quantize"), (ConvertSpec(dtype="float16"), "--dtype")]
)
def test_a_quantized_model_is_not_converted_again(
    convert: Convert, tmp_path: Path, spec: ConvertSpec, option: str
) -> None:
    base = tiny_model(tmp_path / "base", quantization={"bits": 4, "group_size": 32})
    with pytest.raises(ModelError, match=rf"already quantized \(4 bits, group size 32\), so {option}"):
        convert(base, tmp_path / "out", spec)


def test_a_quantized_model_can_be_copied(convert: Convert, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", quantization={"bits": 4, "group_size": 32})
    np.testing.assert_array_equal(logits(convert(base, tmp_path / "out", ConvertSpec()).folder), logits(base))


@pytest.mark.parametrize("quantization", [None, {"bits": 4, "group_size": 32}])
def test_a_tied_model_may_still_carry_a_head(
    convert: Convert, tmp_path: Path, quantization: dict[str, int] | None
) -> None:
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
    convert: Convert, tmp_path: Path, family: str, tied: bool
) -> None:
    base = tiny_model(tmp_path / "base", family, tied=tied)
    expected = logits(base)
    config = config_of(base)
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config))
    written = convert(base, tmp_path / "out", ConvertSpec())
    assert config_of(written.folder)["tie_word_embeddings"] == tied
    np.testing.assert_array_equal(logits(written.folder), expected)


def test_weights_that_do_not_fit_the_config_are_refused(convert: Convert, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    (base / "config.json").write_text(json.dumps({**config_of(base), "intermediate_size": 96}))
    with pytest.raises(ModelError, match=MISFIT):
        convert(base, tmp_path / "out", ConvertSpec())
    assert not (tmp_path / "out").exists()


# GGUF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_float32_gguf_computes_what_its_source_computes(
    convert: Convert, tmp_path: Path, family: str, tied: bool
) -> None:
    base = tiny_model(tmp_path / "base", family, tied=tied)
    file = tiny_gguf(tmp_path / "model.gguf", base)
    written = convert(file, tmp_path / "out", ConvertSpec())
    np.testing.assert_allclose(logits(written.folder), logits(base), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("quantization", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_a_quantized_gguf_computes_what_its_rounded_source_computes(
    convert: Convert, tmp_path: Path, family: str, quantization: str
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
def test_a_gguf_keeps_its_type_or_becomes_float16(
    convert: Convert, tmp_path: Path, quantization: str, stored: set[str]
) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"), quantization)
    written = convert(file, tmp_path / "out", ConvertSpec())
    assert types_of(written.folder) == stored
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "model.gguf", "out"]


def test_a_gguf_can_be_quantized_for_mlx(convert: Convert, tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"), "Q8_0")
    written = convert(file, tmp_path / "out", ConvertSpec(bits=4, group_size=32))
    assert config_of(written.folder)["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert logits(written.folder).shape == (len(IDS), 448)


def test_a_truncated_gguf_leaves_nothing_behind(convert: Convert, tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="truncated or damaged"):
        convert(file, tmp_path / "out", ConvertSpec())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "model.gguf"]


# Both backends ---------------------------------------------------------------------------------------------------

since_mlx_lm_0_32 = pytest.mark.skipif(
    importlib.metadata.version("mlx-lm").startswith("0.31."), reason="mlx-lm 0.31, of Python 3.10, does it otherwise"
)
SPECS = [ConvertSpec(), ConvertSpec(dtype="bfloat16"), ConvertSpec(4, 32), ConvertSpec(8, 64, "float16")]


def assert_both_write_the_same_tensors(source: Path, out: Path, spec: ConvertSpec) -> list[WrittenModel]:
    """To the last bit; what was written."""
    written = [convert_on(backend)(source, out / backend, spec) for backend in BACKENDS]
    one, other = (stored_tensors(model.folder) for model in written)
    assert len(one) > 10
    assert list(one.keys() - other.keys()) == list(other.keys() - one.keys()) == []
    assert [name for name in one if one[name] != other[name]] == []
    return written


def assert_both_write_the_same(source: Path, out: Path, spec: ConvertSpec) -> None:
    """Every tensor to the last bit, config.json and index to the last character, and the files beside them."""
    written = assert_both_write_the_same_tensors(source, out, spec)
    beside = [
        {file.name: file.read_text() for file in model.folder.iterdir() if file.suffix != ".safetensors"}
        for model in written
    ]
    assert beside[0] == beside[1]
    assert written[0].n_parameters == written[1].n_parameters
    assert written[0].bits_per_weight == written[1].bits_per_weight


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_both_backends_write_the_same_model(tmp_path: Path, family: str, tied: bool, spec: ConvertSpec) -> None:
    assert_both_write_the_same(tiny_model(tmp_path / "base", family, tied=tied), tmp_path, spec)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_both_backends_write_the_same_tensors_of_gated_delta_nets(tmp_path: Path, spec: ConvertSpec) -> None:
    """The index says otherwise how many parameters there are: mlx-lm counts none that lie outside of layers."""
    mlx, torch = assert_both_write_the_same_tensors(tiny_model(tmp_path / "base", "qwen3_5_text"), tmp_path, spec)
    assert mlx.n_parameters == torch.n_parameters


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_both_backends_write_the_same_from_16_bits(tmp_path: Path, stored: str, spec: ConvertSpec) -> None:
    base = convert_on("mlx")(tiny_model(tmp_path / "plain"), tmp_path / "base", ConvertSpec(dtype=stored)).folder
    assert_both_write_the_same(base, tmp_path, spec)


@pytest.mark.parametrize("quantization", ["F32", "BF16", "Q8_0"])
@pytest.mark.parametrize("spec", [ConvertSpec(), ConvertSpec(dtype="bfloat16"), ConvertSpec(4, 32)], ids=str)
def test_both_backends_write_the_same_from_a_gguf(tmp_path: Path, quantization: str, spec: ConvertSpec) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base", tied=False), quantization)
    assert_both_write_the_same(file, tmp_path, spec)


def test_both_backends_settle_a_config_in_the_same_way(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "llama", tied=False)
    config = config_of(base)
    del config["tie_word_embeddings"], config["rope_theta"]
    newer = {"rope_type": "linear", "factor": 2.0, "rope_theta": 20000.0}
    config |= {"rope_parameters": newer, "_name_or_path": "x", "dtype": "float32"}
    (base / "config.json").write_text(json.dumps(config))
    assert_both_write_the_same(base, tmp_path, ConvertSpec(dtype="float16"))
    written = config_of(tmp_path / "torch")
    assert written["rope_scaling"] == newer
    assert written["torch_dtype"] == "float16" and not {"_name_or_path", "dtype"} & set(written)


@since_mlx_lm_0_32
def test_both_backends_write_an_infinite_number_of_a_config_in_the_same_way(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "llama")
    (base / "config.json").write_text(json.dumps(config_of(base) | {"odd": [{"limit": float("-inf")}]}))
    assert_both_write_the_same(base, tmp_path, ConvertSpec())
    assert config_of(tmp_path / "torch")["odd"] == [{"limit": {"__float__": "-Infinity"}}]


def mixed_model(folder: Path, named: bool) -> Path:
    """4 bits, but 8 bits in one layer, which the config names or not, and one layer left alone, which it names."""
    plain = tiny_model(folder.parent / "plain", "qwen2", tied=False)
    tensors: dict[str, Any] = load_file(plain / "model.safetensors")
    eight, alone = "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"
    for bits in (4, 8):
        packed = convert_on("mlx")(plain, folder.parent / f"packed{bits}", ConvertSpec(bits, 32)).folder
        for name, value in load_file(packed / "model.safetensors").items():
            if not name.startswith(f"{alone}.") and (bits == 4 or name.startswith(f"{eight}.")):
                tensors[name] = value
    packed.rename(folder)
    (folder / "model.safetensors.index.json").unlink()
    save_file(tensors, folder / "model.safetensors")
    quantization: dict[str, Any] = {"group_size": 32, "bits": 4, "mode": "affine", alone: False}
    if named:
        quantization[eight] = {"group_size": 32, "bits": 8}
    config = {**config_of(folder), "quantization": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("named", [True, pytest.param(False, marks=since_mlx_lm_0_32)])
def test_both_backends_copy_a_model_of_mixed_bits(tmp_path: Path, named: bool) -> None:
    base = mixed_model(tmp_path / "base", named)
    assert_both_write_the_same(base, tmp_path, ConvertSpec())
    assert stored_tensors(tmp_path / "torch") == stored_tensors(base)


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # mlx-lm's qwen3 refuses them
def test_precomputed_rotary_frequencies_are_dropped(convert: Convert, tmp_path: Path, family: str) -> None:
    base = tiny_model(tmp_path / "base", family)
    weights = load_file(base / "model.safetensors")
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    save_file({**weights, **more}, base / "model.safetensors")
    assert stored_tensors(convert(base, tmp_path / "out", ConvertSpec()).folder).keys() == weights.keys()


# What only torch does by itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [None, 4])
def test_a_large_model_is_written_as_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int | None
) -> None:
    convert = convert_on("torch")
    from mlxtune.backends.torch import checkpoint

    base = tiny_model(tmp_path / "base", tied=False)
    whole = convert(base, tmp_path / "whole", ConvertSpec(bits, 32)).folder
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 50_000)
    parts = convert(base, tmp_path / "parts", ConvertSpec(bits, 32)).folder
    files = sorted(file.name for file in parts.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert stored_tensors(parts) == stored_tensors(whole)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    np.testing.assert_array_equal(logits(parts), logits(whole))
    assert stored_tensors(convert(parts, tmp_path / "again", ConvertSpec()).folder) == stored_tensors(whole)


def test_every_tensor_lies_where_it_can_be_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = convert_on("torch")
    from mlxtune.backends.torch import checkpoint

    base = tiny_model(tmp_path / "base", tied=False)
    config = {**config_of(base), "vocab_size": 383}  # odd, so that 16-bit scales end between two words
    weights = load_file(base / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:383].copy()
    save_file(weights, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 383 * 32 + 383 * 2)  # the embedding's weight and its scales
    folder = convert(base, tmp_path / "out", ConvertSpec(4, 64, "float16")).folder
    sizes, n_tensors = {"U32": 4, "F16": 2}, 0
    for file in folder.glob("*.safetensors"):
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        entries = [entry for name, entry in json.loads(content[8:start]).items() if name != "__metadata__"]
        n_tensors += len(entries)
        assert all((start + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0 for entry in entries)
    assert n_tensors == len(stored_tensors(folder)) > 30
    assert logits(folder).shape == (len(IDS), 383)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, r"model\.norm\.weight is missing"),
        ({"model.more.weight": np.ones(3, np.float32)}, r"model\.more\.weight is not a weight of this kind of model"),
        ({"model.norm.weight": np.ones(32, np.float32)}, r"model\.norm\.weight should be 64, got 32"),
        ({"model.norm.weight": np.ones(64, np.int64)}, r"model\.norm\.weight is of type I64; expected F32, F16, BF16"),
        (
            {"model.norm.weight": np.ones(64, np.uint32)},
            r"model\.norm\.weight: expected floating-point numbers, got U32",
        ),
        ({"model.layers.0.mlp.up_proj.scales": np.ones((128, 2), np.float32)}, r"up_proj\.scales is not a weight of"),
    ],
)
def test_torch_names_the_first_weight_that_does_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    base = tiny_model(tmp_path / "base")
    weights = {**load_file(base / "model.safetensors"), **change}
    save_file({name: value for name, value in weights.items() if value is not None}, base / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        convert_on("torch")(base, tmp_path / "out", ConvertSpec())
    assert not (tmp_path / "out").exists()


def test_torch_refuses_packed_weights_that_do_not_fit(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", quantization={"bits": 4, "group_size": 32})
    weights = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    for part, value, message in (
        ("weight", weights[f"{name}.weight"][:, :6].copy(), "up_proj is packed in 3 bits"),
        ("biases", weights[f"{name}.biases"][:, :1].copy(), r"up_proj\.biases should be 128 x 2, got 128 x 1"),
        ("weight", weights[f"{name}.weight"].astype(np.float32), "up_proj has scales, but no packed weight"),
    ):
        save_file({**weights, f"{name}.{part}": value}, base / "model.safetensors")
        with pytest.raises(ModelError, match=message):
            convert_on("torch")(base, tmp_path / "out", ConvertSpec())


def test_torch_refuses_a_layer_that_is_packed_otherwise_than_the_config_says(tmp_path: Path) -> None:
    base = mixed_model(tmp_path / "base", named=True)
    eight = "model.layers.0.mlp.down_proj"
    for said, message in (
        ({"group_size": 32, "bits": 4}, r"down_proj\.weight should be 64 x 16, got 64 x 32"),
        (False, r"down_proj\.weight should be 64 x 128, got 64 x 32"),
    ):
        config = config_of(base)
        config["quantization"][eight] = said
        (base / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=message):
            convert_on("torch")(base, tmp_path / "out", ConvertSpec())


def test_torch_refuses_another_quantization_as_what_it_is(tmp_path: Path) -> None:
    convert = convert_on("torch")
    base = tiny_model(tmp_path / "base")
    config = {**config_of(base), "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"not supported by the PyTorch backend: gptq.*mlxtune convert"):
        convert(base, tmp_path / "out", ConvertSpec())
    with pytest.raises(ModelError, match=r"already quantized \(4 bits, group size 128\), so --quantize cannot be used"):
        convert(base, tmp_path / "out", ConvertSpec(4))


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
