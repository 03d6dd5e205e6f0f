"""LoRA's layer of the PyTorch backend against PEFT's own."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from peft import LoraConfig, inject_adapter_in_model  # noqa: E402
from peft.tuners.lora import Linear  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mlxtune.backends.torch.lora import ADAPTER, LoraLinear  # noqa: E402

N_IN, N_OUT, RANK = 24, 40, 4


def layers(bias: bool, dropout: float, dtype: Any) -> list[Any]:
    """PEFT's layer and ours over the same frozen one, with the same factors."""
    torch.manual_seed(0)
    frozen = nn.Linear(N_IN, N_OUT, bias=bias).to(dtype)
    found = []
    for own in ({}, {nn.Linear: LoraLinear}):
        config = LoraConfig(r=RANK, lora_alpha=6, lora_dropout=dropout, target_modules=["0"], init_lora_weights=False)
        config._register_custom_module(own)
        found.append(inject_adapter_in_model(config, nn.Sequential(frozen), ADAPTER)[0])
    pefts, ours = found
    assert type(pefts) is Linear and type(ours) is LoraLinear
    ours.load_state_dict(pefts.state_dict())
    return found


def results(layer: Any, x: Tensor, is_frozen_before: bool) -> list[Tensor]:
    """What it gives of x, and the gradients of A, B and, where something before it is trained, x."""
    x = x.clone().requires_grad_(not is_frozen_before)
    torch.manual_seed(1)
    out = layer(x)
    (out.float() * torch.arange(N_OUT)).square().sum().backward()
    factors = layer.lora_A[ADAPTER].weight.grad, layer.lora_B[ADAPTER].weight.grad
    return [out.detach(), *factors, *([] if is_frozen_before else [x.grad])]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("is_frozen_before", [False, True])
def test_results_and_gradients_equal_pefts(bias: bool, dropout: float, is_frozen_before: bool) -> None:
    pefts, ours = layers(bias, dropout, torch.float32)
    x = torch.randn(2, 7, N_IN)
    for wanted, found in zip(results(pefts, x, is_frozen_before), results(ours, x, is_frozen_before), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_other_types_than_float32_are_left_to_peft() -> None:
    pefts, ours = layers(bias=True, dropout=0.0, dtype=torch.bfloat16)
    x = torch.randn(2, 7, N_IN, dtype=torch.bfloat16)
    for wanted, found in zip(results(pefts, x, False), results(ours, x, False), strict=True):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
