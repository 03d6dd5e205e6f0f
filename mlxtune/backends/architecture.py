"""What a model's own class says of it: its weights, the linear layers of its blocks, heads and windows. Values; no library is imported.

A backend makes an `Architecture` from config.json by building the class of its library without memory, so that a family that the
library knows needs no code here. Names are those of Hugging Face's files.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlxtune.errors import ModelError
from mlxtune.models.text_part import text_config

BLOCKS = "model.layers"
EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
GROUPS = {"attention": "self_attn", "mlp": "mlp"}  # of lora.targets -> the module of a block that holds them
# Linear layers in the order in which people name them; what a block has beside these follows.
USUAL_ORDER = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"
)  # fmt: skip

PROBED_ROWS = 8  # of the head, where a backend compares a network's own logits with its head's product

# What classes of both libraries raise of a config that they cannot do with.
BUILD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError, ZeroDivisionError)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """A dense decoder: an embedding, blocks of attention and MLP, a head.

    Attributes:
        model_type: As config.json names the family.
        weights: Name -> shape of every weight, matrices (out, in); a tied head is not among them.
        linear_layers: Name -> (in, out) of every linear layer of the blocks, in order; embedding and head are not among them.
        n_heads: Attention heads of a block.
        n_kv_heads: Heads of its keys and values.
        windows: Of each block, how many tokens its attention sees, itself and those before it; None where it sees all.
        is_tied: Whether the head is the embedding.
    """

    model_type: str
    weights: Shapes
    linear_layers: Mapping[str, tuple[int, int]]
    n_heads: int
    n_kv_heads: int
    windows: tuple[int | None, ...]
    is_tied: bool

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        weights: Shapes,
        linear_layers: Iterable[str],
        n_heads: int,
        n_kv_heads: int,
        windows: tuple[int | None, ...],
        is_tied: bool,
    ) -> Architecture:
        """Of what a library built for a config.

        Args:
            config: config.json.
            weights: Of the whole model; a tied head may be among them.
            linear_layers: Names of all linear layers.
            n_heads: As the attribute of that name.
            n_kv_heads: Likewise.
            windows: Likewise.
            is_tied: Likewise.

        Raises:
            ModelError: It is no dense decoder with the usual parts.
        """
        kept = {name: shape for name, shape in weights.items() if not (is_tied and name.startswith(f"{HEAD}."))}
        layers = sorted(filter(is_in_block, linear_layers), key=_place)
        model_type = str(config["model_type"])
        _check_parts(model_type, kept, layers, len(windows))
        shapes = {layer: _in_out(kept[f"{layer}.weight"]) for layer in layers}
        return cls(model_type, kept, shapes, n_heads, n_kv_heads, windows, is_tied)

    @property
    def n_blocks(self) -> int:
        """Transformer blocks."""
        return len(self.windows)

    @property
    def n_parameters(self) -> int:
        """Parameters of the model, tied embeddings counted once."""
        return sum(map(math.prod, self.weights.values()))

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.weights[f"{EMBEDDING}.weight"][0]

    @property
    def hidden_size(self) -> int:
        """Width of what goes from block to block."""
        return self.weights[f"{EMBEDDING}.weight"][1]

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.linear_layers[f"{BLOCKS}.0.self_attn.o_proj"][0] // self.n_heads

    @property
    def inner_size(self) -> int:
        """Width of the MLP."""
        return self.linear_layers[f"{BLOCKS}.0.mlp.down_proj"][0]

    def lora_layers(
        self, targets: Literal["all", "attention", "mlp"] | Sequence[str] = "all", layers: Literal["all"] | int = "all"
    ) -> tuple[str, ...]:
        """Names of the linear layers that a recipe's `lora.targets` and `lora.layers` mean, in model order.

        Args:
            targets: "all", "attention", "mlp", or last parts of names: ["q_proj", "v_proj"].
            layers: Transformer blocks to adapt: "all", or that many from the end.

        Raises:
            ModelError: A target that the model does not have, or more layers than it has.
        """
        known = self.targets("all")
        wanted = self.targets(targets) if targets in ("all", "attention", "mlp") else tuple(targets)
        if not wanted:
            raise ModelError(f"lora.targets: names no layer; known: all, attention, mlp, {', '.join(known)}")
        for name in wanted:
            if name not in known:
                raise ModelError(f"lora.targets: the model has no layer named {name!r}; it has {', '.join(known)}")
        if layers != "all" and not 1 <= layers <= self.n_blocks:
            raise ModelError(f"lora.layers: expected 1 to {self.n_blocks}, the layers this model has, got {layers}")
        first = 0 if layers == "all" else self.n_blocks - layers
        return tuple(layer for layer in self.linear_layers if last_part(layer) in wanted and block_of(layer) >= first)

    def targets(self, group: Literal["all", "attention", "mlp"]) -> tuple[str, ...]:
        """Last parts of the names of the linear layers that a word of `lora.targets` means, in order."""
        modules = GROUPS.values() if group == "all" else (GROUPS[group],)
        return tuple(dict.fromkeys(last_part(layer) for layer in self.linear_layers if layer.split(".")[3] in modules))


ArchitectureOf = Callable[[Mapping[str, Any]], Architecture]


def described_by(library: str) -> Callable[[Callable[[dict[str, Any]], Architecture]], ArchitectureOf]:
    """Make a backend's `architecture` of a function that builds a library's class: it runs once for a config of the same content.

    Of a multimodal model's config.json, the function gets that of its text part.

    Args:
        library: What messages call it.

    Raises:
        ModelError: By what this makes; also where the library's class refuses the config, in whatever way.
    """

    def decorator(make: Callable[[dict[str, Any]], Architecture]) -> ArchitectureOf:
        @functools.lru_cache(maxsize=32)
        def of_text(text: str) -> Architecture:
            config = text_config(json.loads(text))
            model_type = config.get("model_type")
            if not isinstance(model_type, str):
                raise ModelError(
                    f"config.json: expected the name of a model family under 'model_type', got {model_type!r}"
                )
            try:
                return make(config)
            except BUILD_ERRORS as error:
                raise ModelError(
                    f"config.json: {library} cannot build a model of model_type {model_type!r} from it: {error}"
                ) from error

        return lambda config: of_text(json.dumps(dict(config), sort_keys=True))

    return decorator


def require_plain_head(model_type: str, is_plain: bool) -> None:
    """Refuse a family whose logits are not the product of hidden state and head: training and scoring compute just that.

    Raises:
        ModelError: It caps or scales them.
    """
    if not is_plain:
        raise ModelError(
            f"config.json: model_type {model_type!r} is not supported: its logits are capped or scaled after the head "
            "(as by final_logit_softcapping)"
        )


def require_own_weights(architecture: Architecture, found: Shapes) -> None:
    """Refuse to train a whole network whose weights, as its library keeps them, are not those of the model's files.

    Raises:
        ModelError: It is quantized, or keeps a weight in another form.
    """
    if found == dict(architecture.weights):
        return
    strange = sorted(found.items() ^ architecture.weights.items())[0][0]
    raise ModelError(
        f"lora.type: full trains the weights of the model's files, and {strange} is not kept as it is there: the model is quantized, "
        "or its family has another layout in memory; use lora.type: lora, or an unquantized model"
    )


def in_usual_order(names: Iterable[str]) -> list[str]:
    """Last parts of layers' names, each once, in the order in which people name them.

    >>> in_usual_order(["down_proj", "v_proj", "q_proj", "other"])
    ['q_proj', 'v_proj', 'down_proj', 'other']
    """
    return sorted(dict.fromkeys(names), key=_usual_place)


def is_in_block(name: str) -> bool:
    """Whether a layer or weight lies in a transformer block."""
    return name.startswith(f"{BLOCKS}.")


def block_of(name: str) -> int:
    """Number of the block that a layer or weight lies in.

    >>> block_of("model.layers.11.mlp.up_proj")
    11
    """
    return int(name.split(".")[2])


def last_part(name: str) -> str:
    """What `lora.targets` calls a layer.

    >>> last_part("model.layers.11.mlp.up_proj")
    'up_proj'
    """
    return name.rpartition(".")[2]


def _check_parts(model_type: str, weights: Shapes, layers: Sequence[str], n_blocks: int) -> None:
    """Refuse what is no dense decoder: matrices elsewhere than in embedding, head, attention and MLP, or blocks without these."""
    expected = {f"{EMBEDDING}.weight", f"{HEAD}.weight", *(f"{layer}.weight" for layer in layers)}
    modules = set(GROUPS.values())
    strange = [name for name, shape in weights.items() if len(shape) > 1 and name not in expected]
    strange += [layer for layer in layers if layer.split(".")[3] not in modules]
    needed = [f"{EMBEDDING}.weight"]
    needed += [
        f"{BLOCKS}.{block}.{part}.weight" for block in range(n_blocks) for part in ("self_attn.o_proj", "mlp.down_proj")
    ]
    missing = [name for name in needed if name not in weights]
    if strange or missing or not n_blocks:
        why = f"has {strange[0]}" if strange else f"lacks {missing[0]}" if missing else "has no blocks"
        raise ModelError(
            f"config.json: model_type {model_type!r} is not supported: it {why}; expected a dense decoder, whose blocks "
            f"({BLOCKS}.0 and so on) have linear layers in self_attn and mlp and no others"
        )


def _place(layer: str) -> tuple[int, bool, int]:
    return block_of(layer), layer.split(".")[3] != GROUPS["attention"], _usual_place(last_part(layer))


def _usual_place(name: str) -> int:
    return USUAL_ORDER.index(name) if name in USUAL_ORDER else len(USUAL_ORDER)


def _in_out(shape: tuple[int, ...]) -> tuple[int, int]:
    n_out, n_in = shape
    return n_in, n_out
