"""What transformers' class of a model says of it: built from config.json on no device."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from mlxtune.backends.architecture import PROBED_ROWS, Architecture, described_by, require_plain_head
from mlxtune.backends.transformers_config import read_as_transformers, windows_of
from mlxtune.errors import ModelError

NO_TOKENS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))  # which a small vocabulary lacks


@described_by("transformers")
def architecture(config: dict[str, Any]) -> Architecture:
    """`Backend.architecture` of torch."""
    network = empty_network(config)
    own = network.config
    found = Architecture.of(
        config,
        {name: tuple(value.shape) for name, value in network.named_parameters()},
        [name for name, module in network.named_modules() if isinstance(module, nn.Linear)],
        int(own.num_attention_heads),
        int(getattr(own, "num_key_value_heads", None) or own.num_attention_heads),
        getattr(network.base_model, "layers", ()),
        windows_of(own, config),
        bool(own.tie_word_embeddings),
    )
    require_plain_head(own.model_type, _has_plain_head({**config, "vocab_size": PROBED_ROWS, **NO_TOKENS}))
    return found


@torch.no_grad()
def _has_plain_head(config: dict[str, Any]) -> bool:
    """Whether a network's logits are the product of hidden state and head."""
    network = empty_network(config)
    hidden = 10 * torch.randn(1, 1, network.config.hidden_size, generator=torch.Generator().manual_seed(0))
    network.lm_head = nn.Linear(network.config.hidden_size, PROBED_ROWS, bias=False)
    network.model.forward = lambda *args, **kwargs: BaseModelOutputWithPast(last_hidden_state=hidden)
    logits = network(input_ids=torch.zeros(1, 1, dtype=torch.long)).logits
    return bool(torch.allclose(logits, network.lm_head(hidden), rtol=1e-3, atol=1e-3))


def empty_network(config: dict[str, Any]) -> PreTrainedModel:
    """transformers' network of a config, its parameters on no device; buffers, which no file holds, are real.

    Raises:
        ModelError: transformers does not know the model type.
        ValueError, TypeError, ...: Its class refuses the config (`BUILD_ERRORS`); `architecture` says so as a ModelError.
    """
    own = read_as_transformers({**config, "attention_dropout": 0.0})  # LoRA's is the only dropout, on both backends
    if own is None:
        raise ModelError(
            f"config.json: the installed transformers does not know model_type {config['model_type']!r}; update transformers, or "
            "use the MLX backend where it runs and knows it"
        )
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(own, attn_implementation="sdpa", dtype=torch.float32)
