"""What transformers' class of a model says of it: built from config.json on no device."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter
from transformers.modeling_outputs import MoeModelOutputWithPast

from mlxtune.backends.architecture import PROBED_ROWS, Architecture, described_by, require_plain_head
from mlxtune.backends.experts import EXPERTS
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
        _weights(network),
        [name for name, module in network.named_modules() if isinstance(module, nn.Linear)],
        int(own.num_attention_heads),
        int(getattr(own, "num_key_value_heads", None) or own.num_attention_heads),
        getattr(network.base_model, "layers", ()),
        windows_of(own, config),
        bool(own.tie_word_embeddings),
        int(getattr(own, "num_experts_per_tok", None) or 0),
    )
    require_plain_head(own.model_type, _has_plain_head({**config, "vocab_size": PROBED_ROWS, **NO_TOKENS}))
    return found


def _weights(network: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, under the names of Hugging Face's files, which have each expert's layers by themselves.

    How transformers makes its own stacks of them is a list of its converters, which is read here.

    Raises:
        ModelError: It makes them otherwise, or computes experts in another way.
    """
    found: dict[str, tuple[int, ...]] = {}
    converters = list(get_checkpoint_conversion_mapping(network.config.model_type) or ())
    for name, value in network.named_parameters():
        shape = tuple(value.shape)
        sources = _sources(name, converters) if len(shape) == 3 and is_plain(network, name) else []
        if not sources:
            if len(shape) == 3 and f".{EXPERTS}." in name:
                raise ModelError(
                    f"config.json: model_type {network.config.model_type!r} is not supported: transformers reads or computes its experts "
                    f"({name}) in another way than gate_proj, up_proj and down_proj of each"
                )
            found[name] = shape
            continue
        n_experts, n_out, n_in = shape
        for source in sources:
            each = (n_out // len(sources), n_in)
            found |= {source.replace("*", str(number)): each for number in range(n_experts)}
    return found


def _sources(name: str, converters: list[Any]) -> list[str]:
    """Names of files, with * for an expert's number, whose tensors are concatenated and stacked to a parameter; none if made otherwise."""
    for one in converters:
        if not isinstance(one, WeightConverter):
            return []  # files of this family have other names in other places, too
        target = one.target_patterns[0]
        operations = [type(operation) for operation in one.operations]
        if len(one.target_patterns) == 1 and name.endswith(target) and operations in _STACKING:
            return [f"{name.removesuffix(target)}{source}" for source in one.source_patterns]
    return []


_STACKING = ([MergeModulelist], [MergeModulelist, Concatenate])


def is_plain(network: PreTrainedModel, name: str) -> bool:
    """Whether experts compute down(act(gate) x up), each (out, in) and without bias: what `experts.py` computes in their place."""
    own = network.get_submodule(name.rpartition(".")[0])
    wanted = {
        "has_gate": True,
        "is_concatenated": True,
        "has_bias": False,
        "is_transposed": False,
        "has_post_expert_norm": False,
    }
    gate: Any = getattr(type(own), "_apply_gate", None)
    is_default = getattr(gate, "__name__", "") == "_default_apply_gate"
    return is_default and all(getattr(own, key, value) == value for key, value in wanted.items())


@torch.no_grad()
def _has_plain_head(config: dict[str, Any]) -> bool:
    """Whether a network's logits are the product of hidden state and head."""
    network = empty_network(config)
    hidden = 10 * torch.randn(1, 1, network.config.hidden_size, generator=torch.Generator().manual_seed(0))
    network.lm_head = nn.Linear(network.config.hidden_size, PROBED_ROWS, bias=False)
    network.model.forward = lambda *args, **kwargs: MoeModelOutputWithPast(last_hidden_state=hidden)
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
