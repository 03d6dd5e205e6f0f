"""torch's affine quantization is MLX's, bit for bit; MLX is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends.mlx.runtime import import_mlx
from mlxtune.errors import ModelError

torch = pytest.importorskip("torch")
mx = import_mlx()

from mlxtune.backends.torch import affine  # noqa: E402 - needs torch

DTYPES = ("float32", "float16", "bfloat16")


def awkward_weight() -> NDArray[np.float32]:
    """Rows that quantizers stumble over, and random ones, (16, 256)."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((16, 256)).astype(np.float32)
    weight[0] = 0
    weight[1] = 0.37
    weight[2] = -0.37
    weight[3] = -np.abs(weight[3])
    weight[4] = np.abs(weight[4])
    weight[5] = 1e-9 * weight[5]
    weight[6, ::64] = 1000  # an outlier a group
    weight[7] = 5 + 1e-3 * weight[7]  # far from zero, and narrow
    weight[8] = np.tile([1.0, -1.0], 128)  # both ends as far from zero
    weight[9] = np.tile(np.arange(-8, 8), 16)  # halves between steps
    weight[10] = -5 + 1e-3 * weight[10]
    weight[11] *= 1e-5
    return weight


def bytes_of(array: Any) -> NDArray[np.uint8]:
    """The bytes of an MLX array or torch tensor; NumPy has no bfloat16."""
    if isinstance(array, torch.Tensor):
        return array.contiguous().view(torch.uint8).numpy()
    return np.array(mx.contiguous(array).view(mx.uint8))


def as_torch(array: Any) -> Any:
    dtype = getattr(torch, str(array.dtype).removeprefix("mlx.core."))
    return torch.from_numpy(bytes_of(array).copy()).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_quantizing_gives_the_bits_of_mlx(dtype: str, bits: int, group_size: int) -> None:
    weight = mx.array(awkward_weight()).astype(getattr(mx, dtype))
    expected = mx.quantize(weight, group_size, bits)
    packed = affine.quantize(as_torch(weight), group_size, bits)
    got = (affine.to_words(packed.weight), packed.scales, packed.biases)
    for name, one, other in zip(("weight", "scales", "biases"), got, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_array_equal(bytes_of(one), bytes_of(other), err_msg=name)
    assert packed.packing == affine.packing_of(packed.weight, packed.scales, 256) == affine.Packing(group_size, bits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("computed", [None, "float32"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_dequantizing_gives_the_bits_of_mlx(dtype: str, computed: str | None, bits: int, group_size: int) -> None:
    weight, *rest = mx.quantize(mx.array(awkward_weight()).astype(getattr(mx, dtype)), group_size, bits)
    scales, biases = (part if computed is None else part.astype(getattr(mx, computed)) for part in rest)
    expected = mx.dequantize(weight, scales, biases, group_size, bits)
    packed = affine.from_words(as_torch(weight))
    got = affine.dequantize(packed, as_torch(scales), as_torch(biases), group_size, bits)
    np.testing.assert_array_equal(bytes_of(got), bytes_of(expected))


def test_the_type_asked_for_is_cast_to_last_as_by_mlx() -> None:
    parts = mx.quantize(mx.array(awkward_weight()).astype(mx.bfloat16), 64, 4)
    words, scales, biases = map(as_torch, parts)
    got = affine.dequantize(affine.from_words(words), scales, biases, 64, 4, torch.float32)
    np.testing.assert_array_equal(bytes_of(got), bytes_of(mx.dequantize(*parts, 64, 4, dtype=mx.float32)))


def test_rows_can_be_unpacked_alone() -> None:
    packed = affine.quantize(torch.from_numpy(awkward_weight()), 64, 4)
    whole = affine.dequantize(packed.weight, packed.scales, packed.biases, 64, 4)
    some = affine.dequantize(packed.weight[3:9], packed.scales[3:9], packed.biases[3:9], 64, 4)
    assert torch.equal(some, whole[3:9])


def test_blocks_of_rows_are_packed_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.from_numpy(awkward_weight())
    whole = affine.quantize(weight, 64, 4)
    monkeypatch.setattr(affine, "ELEMENTS_AT_ONCE", 3 * 256)
    parts = affine.quantize(weight, 64, 4)
    for name in ("weight", "scales", "biases"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))


@pytest.mark.parametrize(("bits", "steps"), [(4, 15), (8, 255)])
def test_unpacking_comes_back_within_a_step(bits: int, steps: int) -> None:
    original = awkward_weight()
    weight = torch.from_numpy(original)
    packed = affine.quantize(weight, 64, bits)
    again = affine.dequantize(packed.weight, packed.scales, packed.biases, 64, bits).numpy()
    np.testing.assert_array_equal(weight.numpy(), awkward_weight())  # what was packed is untouched
    groups = original.reshape(16, -1, 64)
    step = (groups.max(-1) - groups.min(-1)) / steps + 1e-7
    # Up to one step at the far end: the near end is met exactly, and the step then stretched to meet zero.
    assert (np.abs(again - original).reshape(16, -1, 64) <= 1.01 * step[..., None]).all()
    assert packed.weight.dtype == torch.uint8 and packed.weight.shape == (16, 256 * bits // 8)


# config.json -----------------------------------------------------------------------------------------------------


def test_a_plain_model_has_no_quantization(tmp_path: Path) -> None:
    assert affine.read_quantization({"model_type": "qwen3"}, tmp_path) is None


def test_a_named_layer_has_its_own_packing_or_none(tmp_path: Path) -> None:
    said = {"group_size": 64, "bits": 4, "a": {"group_size": 32, "bits": 8}, "b": False, "c": True}
    quantization = affine.read_quantization({"quantization": said, "quantization_config": said}, tmp_path)
    assert quantization is not None
    packings = {layer: quantization.of(layer) for layer in "abcd"}
    four = affine.Packing(64, 4)
    assert packings == {"a": affine.Packing(32, 8), "b": None, "c": four, "d": four}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, "mxfp4"),
        ({"quantization": {"group_size": 64, "bits": 3}}, "3 bits"),
        ({"quantization": {"group_size": 64, "bits": 4, "x": {"group_size": 64, "bits": 6}}}, "6 bits in x"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"quantization_config": {"bits": 4}}, "without a name"),
    ],
)
def test_another_quantization_is_refused_with_what_to_do(tmp_path: Path, config: dict[str, Any], found: str) -> None:
    with pytest.raises(
        ModelError,
        match=rf"{tmp_path.name}: its quantization is not supported .*{found}; .*mlxtune convert .*--quantize 4",
    ):
        affine.read_quantization(config, tmp_path)


def test_a_quantization_in_a_file_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(ModelError, match="modelopt"):
        affine.read_quantization({}, tmp_path)
