"""A fused model computes what the base with its adapter computes; every adapter here is non-zero."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import ConvertSpec, LoraSpec, WrittenModel
from mlxtune.backends.mlx.runtime import import_mlx
from mlxtune.errors import AdapterError, ModelError
from mlxtune.models.source import read_config
from tests.architectures import linear_layers, lora_layers
from tests.tiny import FAMILIES, stored_tensors, tiny_model

Fuse = Callable[..., WrittenModel]
BACKENDS = ("mlx", "torch")
IDS = [5, 17, 256, 300, 41, 42, 43, 7, 380]
FOUR_BIT = {"bits": 4, "group_size": 32}


def fuse_on(backend: str) -> Fuse:
    """A backend's own fuse; skips the test where its library is not installed."""
    pytest.importorskip(backend)
    return importlib.import_module(f"mlxtune.backends.{backend}.fuse").fuse


@pytest.fixture(params=BACKENDS)
def fuse(request: pytest.FixtureRequest) -> Fuse:
    """Each backend's fuse in turn."""
    return fuse_on(request.param)


def config_of(folder: Path) -> dict[str, Any]:
    return read_config(folder)


def random_adapter(folder: Path, base: Path, targets: Any = "all", layers: Any = "all", size: float = 0.1) -> Path:
    """An adapter of rank 3 with both factors random; `size` scales the update."""
    config = config_of(base)
    names = lora_layers(config, targets, layers)
    shapes = linear_layers(config)
    random = np.random.default_rng(1)
    weights: dict[str, NDArray[np.float32]] = {}
    for name in names:
        n_in, n_out = shapes[name]
        weights[f"{name}.lora_A"] = random.standard_normal((3, n_in)).astype(np.float32)
        weights[f"{name}.lora_B"] = (size / n_in**0.5 * random.standard_normal((n_out, 3))).astype(np.float32)
    write_adapter(folder, Adapter(LoraSpec(3, 2.0, 0.1, names), weights), config["num_hidden_layers"])
    return folder


def logits(folder: Path, adapter: Path | None = None) -> NDArray[np.float32]:
    """Logits of IDS by mlx-lm, which applies the adapter beside the base if one is given, (T, vocabulary)."""
    mx = import_mlx()
    from mlx_lm.utils import load_adapters, load_model

    network, _ = load_model(folder)
    if adapter is not None:
        load_adapters(network, str(adapter))
        network.eval()
    return np.array(network(mx.array([IDS]))[0].astype(mx.float32))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("targets", "layers"), [("all", "all"), (["q_proj", "v_proj"], 1)])
def test_a_fused_model_computes_what_mlx_lm_computes_with_the_adapter(
    fuse: Fuse, tmp_path: Path, family: str, targets: Any, layers: Any
) -> None:
    base = tiny_model(tmp_path / "base", family)
    adapter = random_adapter(tmp_path / "adapter", base, targets, layers)
    expected = logits(base, adapter)
    assert np.abs(expected - logits(base)).max() > 0.1
    written = fuse(base, adapter, tmp_path / "out", requantize=False)
    np.testing.assert_allclose(logits(written.folder), expected, atol=1e-4)


def test_the_update_is_scale_times_b_a(fuse: Fuse, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = random_adapter(tmp_path / "adapter", base, ["down_proj"])
    fuse(base, adapter, tmp_path / "out", requantize=False)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    factors = load_file(adapter / "adapters.safetensors")
    n_changed = 0
    for name, weight in before.items():
        layer = name.removesuffix(".weight")
        expected = weight
        if layer.endswith("down_proj"):
            n_changed += 1
            expected = weight + 2.0 * (factors[f"{layer}.lora_a"] @ factors[f"{layer}.lora_b"]).T
        np.testing.assert_allclose(after[name], expected, atol=1e-6, err_msg=name)
    assert n_changed == 2


def test_a_quantized_base_comes_out_unquantized(fuse: Fuse, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", quantization=FOUR_BIT)
    adapter = random_adapter(tmp_path / "adapter", base)
    written = fuse(base, adapter, tmp_path / "out", requantize=False, dtype="float32")
    assert "quantization" not in config_of(written.folder)
    assert "quantization_config" not in config_of(written.folder)
    np.testing.assert_allclose(logits(written.folder), logits(base, adapter), atol=1e-4)


def test_a_quantized_base_comes_out_in_16_bits_unless_told(fuse: Fuse, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", quantization=FOUR_BIT)
    adapter = random_adapter(tmp_path / "adapter", base)
    written = fuse(base, adapter, tmp_path / "out", requantize=False)
    assert written.bits_per_weight == pytest.approx(16, abs=0.1)
    np.testing.assert_allclose(logits(written.folder), logits(base, adapter), atol=0.1)
    assert written.notes == ()


def test_a_requantized_model_keeps_bits_and_group_size_and_untouched_layers(fuse: Fuse, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", quantization=FOUR_BIT)
    adapter = random_adapter(tmp_path / "adapter", base, ["q_proj"], size=1.0)
    written = fuse(base, adapter, tmp_path / "out", requantize=True)
    assert config_of(written.folder)["quantization"] == config_of(base)["quantization"]
    before, after = load_file(base / "model.safetensors"), load_file(written.folder / "model.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    layers = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
    assert changed == {f"{layer}.{part}" for layer in layers for part in ("weight", "scales", "biases")}
    expected = logits(base, adapter)
    near = np.abs(logits(written.folder) - expected).mean()
    assert near < 0.5 * np.abs(logits(base) - expected).mean()


def test_requantizing_away_a_small_adapter_is_said(fuse: Fuse, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", quantization=FOUR_BIT)
    adapter = random_adapter(tmp_path / "adapter", base, size=0.001)
    (note,) = fuse(base, adapter, tmp_path / "out", requantize=True).notes
    assert "of what the adapter changes" in note


def test_the_fused_folder_is_a_whole_model(fuse: Fuse, tmp_path: Path) -> None:
    import_mlx()
    from mlx_lm import load

    base = tiny_model(tmp_path / "base", quantization=FOUR_BIT)
    written = fuse(
        base, random_adapter(tmp_path / "adapter", base), tmp_path / "out", requantize=False, dtype="bfloat16"
    )
    network, tokenizer = load(str(written.folder))
    mx = import_mlx()
    assert network.model.layers[0].self_attn.q_proj.weight.dtype == mx.bfloat16
    assert config_of(written.folder)["torch_dtype"] == "bfloat16"
    assert written.bits_per_weight == 16
    assert tokenizer.chat_template
    assert not (written.folder / "adapter_config.json").exists()


def test_transformers_computes_the_same_with_the_fused_model(fuse: Fuse, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    base = tiny_model(tmp_path / "base")
    adapter = random_adapter(tmp_path / "adapter", base)
    written = fuse(base, adapter, tmp_path / "out", requantize=False)
    model = AutoModelForCausalLM.from_pretrained(str(written.folder), dtype=torch.float32)
    with torch.no_grad():
        got = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(got, logits(base, adapter), atol=1e-4)


def test_the_wrong_base_is_refused_and_both_are_named(fuse: Fuse, tmp_path: Path) -> None:
    base, wide = tiny_model(tmp_path / "base"), tiny_model(tmp_path / "wide", hidden=128)
    adapter = random_adapter(tmp_path / "adapter", base)
    with pytest.raises(AdapterError, match=r"adapter does not fit .*wide: .*lora_A should be 3 x \d+, got 3 x"):
        fuse(wide, adapter, tmp_path / "out", requantize=False)
    assert not (tmp_path / "out").exists()


def test_a_shallower_base_is_refused(fuse: Fuse, tmp_path: Path) -> None:
    base, shallow = tiny_model(tmp_path / "base"), tiny_model(tmp_path / "shallow", layers=1)
    adapter = random_adapter(tmp_path / "adapter", base)
    with pytest.raises(AdapterError, match=r"the model has no layer model\.layers\.1\."):
        fuse(shallow, adapter, tmp_path / "out", requantize=False)


def test_requantizing_an_unquantized_base_is_refused(fuse: Fuse, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    with pytest.raises(ModelError, match="nothing to requantize"):
        fuse(base, random_adapter(tmp_path / "adapter", base), tmp_path / "out", requantize=True)


def test_a_fused_model_overwrites_nothing(fuse: Fuse, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    with pytest.raises(ModelError, match="already exists"):
        fuse(base, random_adapter(tmp_path / "adapter", base), base, requantize=False)


# Both backends ---------------------------------------------------------------------------------------------------


def values_of(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor as numbers, and packed words as they are; NumPy has no bfloat16."""
    kinds: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "U32": np.uint32}
    values: dict[str, NDArray[np.float32]] = {}
    for name, (kind, shape, content) in stored_tensors(folder).items():
        if kind == "BF16":
            value = (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            value = np.frombuffer(content, kinds[kind])
        values[name] = value.reshape(shape)
    return values


@pytest.mark.parametrize(
    ("stored", "bits", "requantize", "dtype"),
    [
        (None, None, False, None),
        (None, None, False, "bfloat16"),
        ("bfloat16", None, False, None),
        ("float16", None, False, "float32"),
        (None, 4, False, None),
        (None, 8, False, "float32"),
        ("bfloat16", 4, False, None),
        ("bfloat16", 4, True, None),
        (None, 8, True, None),
    ],
)
def test_both_backends_fuse_to_the_same_model(
    tmp_path: Path, stored: str | None, bits: int | None, requantize: bool, dtype: str | None
) -> None:
    from mlxtune.backends.mlx.convert import convert

    plain = tiny_model(tmp_path / "plain", "qwen2", tied=False)
    base = convert(plain, tmp_path / "base", ConvertSpec(bits, 32, stored)).folder
    adapter = random_adapter(tmp_path / "adapter", base, ["q_proj", "down_proj"], layers=1)
    written = [
        fuse_on(backend)(base, adapter, tmp_path / backend, requantize=requantize, dtype=dtype) for backend in BACKENDS
    ]
    assert (written[0].folder / "config.json").read_text() == (written[1].folder / "config.json").read_text()
    one, other = (stored_tensors(model.folder) for model in written)
    assert {name: entry[:2] for name, entry in one.items()} == {name: entry[:2] for name, entry in other.items()}
    adapted = ("model.layers.1.self_attn.q_proj.", "model.layers.1.mlp.down_proj.")
    assert [name for name in one if one[name] != other[name] and not name.startswith(adapted)] == []
    step = {"F32": 1e-6, "F16": 2.0**-10, "BF16": 2.0**-7}  # a sum that another library rounds otherwise
    values, others = (values_of(model.folder) for model in written)
    for name in (name for name in values if name.startswith(adapted)):
        if one[name][0] == "U32":
            assert (values[name] == others[name]).mean() > 0.99
        else:
            np.testing.assert_allclose(values[name], others[name], rtol=step[one[name][0]], atol=1e-6, err_msg=name)
    assert written[0].bits_per_weight == written[1].bits_per_weight
    assert written[0].notes == written[1].notes
