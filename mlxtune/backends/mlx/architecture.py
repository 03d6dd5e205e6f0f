"""What mlx-lm's class of a model says of it: built from config.json, weights lazy and never computed."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.models.rope_utils import SuScaledRoPE
from mlx_lm.models.switch_layers import SwiGLU, SwitchGLU
from mlx_lm.utils import _get_classes

from mlxtune.backends.architecture import PROBED_ROWS, Architecture, described_by, require_plain_head
from mlxtune.backends.experts import STACKED, parts_of
from mlxtune.backends.transformers_config import LINEAR, reachable, read_as_transformers, windows_of
from mlxtune.errors import ModelError
from mlxtune.models.source import as_mlx_lm_reads

TEXT = "_text"  # what Hugging Face adds to a family's model_type for its text part
CONVOLUTION_DIMS = 3


@described_by("mlx-lm")
def architecture(config: dict[str, Any]) -> Architecture:
    """`Backend.architecture` of MLX."""
    model_type = config["model_type"]
    own = read_as_transformers(config)
    is_tied = config.get("tie_word_embeddings")
    if is_tied is None and own is not None:
        is_tied = own.tie_word_embeddings
    settled = as_mlx_lm_reads({**config, "tie_word_embeddings": is_tied})
    network = _build(settled)
    n_heads = int(network.args.num_attention_heads)
    found = Architecture.of(
        config,
        _weights(network, model_type),
        [name for name, module in network.named_modules() if isinstance(module, nn.Linear)],
        n_heads,
        int(network.args.num_key_value_heads or n_heads),
        getattr(network, "layers", ()),
        reachable(_windows(network, model_type), config),
        bool(is_tied),
        int(getattr(network.args, "num_experts_per_tok", 0)),
    )
    _check_rope(network, own, model_type)
    if own is not None:
        wanted = windows_of(own, config)
        _check_windows(found.windows, wanted)
        _check_kinds(found, own)
        found = replace(found, windows=wanted)
    require_plain_head(model_type, _has_plain_head(_build({**settled, "vocab_size": PROBED_ROWS})))
    return found


def classes_of(config: dict[str, Any]) -> tuple[Any, Any]:
    """mlx-lm's class of a config and that of its arguments.

    Where it has none for the text part of a family under that part's own name, it is the family's, which reads both configs.
    """
    try:
        return _get_classes(config)  # type: ignore[no-any-return]
    except ValueError:
        family = str(config["model_type"]).removesuffix(TEXT)
        if family == config["model_type"]:
            raise
        return _get_classes({**config, "model_type": family})  # type: ignore[no-any-return]


def text_network(network: nn.Module) -> nn.Module:
    """The part of a network that has `model`, a head and `args` of text: itself, unless the family has other parts as well."""
    return getattr(network, "language_model", network)


def _build(config: dict[str, Any]) -> nn.Module:
    """mlx-lm's network of a config, its weights never computed unless they are used."""
    model_class, arguments_class = classes_of(config)
    return text_network(
        model_class(arguments_class.from_dict(copy.deepcopy(config)))
    )  # some change what they are given


def file_shape(value: mx.array) -> tuple[int, ...]:
    """Shape of a weight in Hugging Face's files: MLX has the channels of a convolution last."""
    shape = tuple(value.shape)
    return (shape[0], shape[2], shape[1]) if len(shape) == CONVOLUTION_DIMS else shape


def _has_plain_head(network: nn.Module) -> bool:
    """Whether a network's logits are the product of hidden state and head, which is what `Head` computes."""
    head = network.lm_head if "lm_head" in network else network.model.embed_tokens.as_linear
    hidden = 10 * mx.random.normal((1, 1, network.model.embed_tokens.weight.shape[-1]), key=mx.random.key(0))
    product = head(hidden)
    network.model = _Given(network.model, hidden)
    return bool(mx.allclose(network(mx.array([[0]])), product, rtol=1e-3, atol=1e-3))


class _Given(nn.Module):  # type: ignore[misc]
    """In the place of a network's inner model: the same hidden state for any tokens."""

    def __init__(self, own: nn.Module, hidden: mx.array) -> None:
        super().__init__()
        self.embed_tokens, self.args, self._hidden = own.embed_tokens, getattr(own, "args", None), hidden

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        return self._hidden


def _weights(network: nn.Module, model_type: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, under the names of Hugging Face's files.

    Raises:
        ModelError: mlx-lm's class reads the layers of experts from files under other names, or computes them in another way.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, value in tree_flatten(network.parameters()):
        parts = parts_of(name, value.shape[0])
        found |= dict.fromkeys(parts, file_shape(value) if parts == [name] else tuple(value.shape[1:]))
    _check_experts(network, found, model_type)
    return found


def _check_experts(network: nn.Module, weights: dict[str, tuple[int, ...]], model_type: str) -> None:
    """Ask the class itself: of weights under these names it must make its own, and its experts must be a SwiGLU's three layers."""
    experts = {name: module for name, module in network.named_modules() if name.endswith(f".{STACKED}")}
    if not experts:
        return
    own = {name: tuple(value.shape) for name, value in tree_flatten(network.parameters())}
    try:
        read = network.sanitize({name: mx.zeros(shape) for name, shape in weights.items()})
        is_read = {name: tuple(value.shape) for name, value in read.items()} == own
    except (KeyError, ValueError, AttributeError):
        is_read = False
    is_plain = all(type(one) is SwitchGLU and type(one.activation) is SwiGLU for one in experts.values())
    if not (is_read and is_plain and not any("bias" in name for name in own if f".{STACKED}." in name)):
        raise ModelError(
            f"config.json: model_type {model_type!r} is not supported: mlx-lm reads or computes its experts in another way than "
            f"gate_proj, up_proj and down_proj of each, in files as {next(iter(experts)).replace(STACKED, 'experts.0')}.gate_proj"
        )


def _check_rope(network: nn.Module, own: Any | None, model_type: str) -> None:
    """Refuse RoPE scaling that mlx-lm does not compute: longrope, of which it has the factors for long sequences alone, and any where
    its class of the model type takes none."""
    scaling = (getattr(own, "rope_parameters", None) or {}).get("rope_type", "default")
    ropes = [module for name, module in network.named_modules() if name.endswith(".rope")]
    if scaling != "default" and ropes and all(type(rope) is nn.RoPE and rope.scale == 1.0 for rope in ropes):
        raise ModelError(
            f"config.json: model_type {model_type!r} with RoPE scaling of kind {scaling}: mlx-lm does not compute it for this model type; "
            "use --backend torch; or, for prompts and replies that together need none, remove it from config.json"
        )
    if any(isinstance(module, SuScaledRoPE) for module in network.modules()):
        raise ModelError(
            f"config.json: model_type {model_type!r} with RoPE scaling of kind longrope (or su): mlx-lm computes it with the "
            "factors for long sequences alone, also where short ones have others; use --backend torch"
        )


def _windows(network: nn.Module, model_type: str) -> tuple[int | None, ...]:
    """Of each block, as its own kind of cache says it."""
    found: list[int | None] = []
    for cache in make_prompt_cache(network):
        if not isinstance(cache, KVCache | RotatingKVCache | ArraysCache):
            raise ModelError(
                f"config.json: model_type {model_type!r} is not supported: mlx-lm keeps a {type(cache).__name__} of a block; "
                "expected keys and values of attention, or the arrays of a gated delta net"
            )
        found.append(cache.max_size if isinstance(cache, RotatingKVCache) else None)
    return tuple(found)


def _check_kinds(found: Architecture, own: Any) -> None:
    """Refuse a model whose gated delta nets are in other blocks than mlx-lm, which counts them off, puts them in."""
    kinds = getattr(own, "layer_types", None) or ()
    wanted = [block for block, kind in enumerate(kinds) if kind == LINEAR]
    has = [block for block, net in enumerate(found.delta_nets) if net is not None]
    if wanted != has:
        raise ModelError(
            f"config.json: layer_types has {LINEAR} in blocks {wanted}, and mlx-lm in {has}: it knows one block of attention "
            "in every few (full_attention_interval); use --backend torch"
        )


def _check_windows(own: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> None:
    """Refuse a model whose windows neither mlx-lm's class nor our caches compute as transformers does.

    Our caches give every layer the same mask where the class asks for one mask, so a window that all layers have is computed.
    """
    different = [pair for pair in zip(own, wanted, strict=True) if pair[0] != pair[1]]
    if not different or (len(set(wanted)) == 1 and not any(own)):
        return
    size = next(window for pair in different for window in pair if window is not None)
    raise ModelError(
        f"config.json: {len(different)} of {len(wanted)} layers attend to the last {size:,} tokens only (sliding_window), which "
        "mlx-lm does not compute for this model type. Use --backend torch; or, for prompts and replies that together are no "
        "longer than that, where full attention gives the same result, set sliding_window to null (for Qwen use_sliding_window "
        "to false, and remove layer_types) in config.json, and set train.max_tokens to that length or less"
    )
