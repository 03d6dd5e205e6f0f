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

from mlxtune.backends.experts import EXPERTS, is_expert, number_of, stack_of
from mlxtune.errors import ModelError
from mlxtune.models.text_part import text_config

BLOCKS = "model.layers"
EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
# Of lora.targets -> the modules of a block that hold them. A block has one of those of attention.
GROUPS = {"attention": ("self_attn", "linear_attn"), "mlp": ("mlp",)}
WORDS = ("all", *GROUPS, EXPERTS)  # of lora.targets that stand for several layers
DELTA_NET = "linear_attn"
# Weights of a gated delta net, as Qwen3.5 has it; a layer with others is another one.
DELTA_NET_WEIGHTS = (
    "A_log", "dt_bias", "conv1d.weight", "norm.weight",
    "in_proj_qkv.weight", "in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight", "out_proj.weight",
)  # fmt: skip
# Linear layers in the order in which people name them; what a block has beside these follows.
USUAL_ORDER = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj",
    "gate_proj", "up_proj", "gate_up_proj", "down_proj",
)  # fmt: skip

PROBED_ROWS = 8  # of the head, where a backend compares a network's own logits with its head's product

# What classes of both libraries raise of a config that they cannot do with.
BUILD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError, ZeroDivisionError)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class DeltaNet:
    """A gated delta net, which some blocks have in the place of attention: it carries a state from token to token.

    Attributes:
        n_key_heads: Heads of queries and keys.
        n_value_heads: Heads of values and of the state, a multiple of them.
        key_dim: Width of a head of queries or keys.
        value_dim: Width of a head of values.
        kernel: Tokens that its convolution sees, each one itself and those before it.
    """

    n_key_heads: int
    n_value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @classmethod
    def of(cls, layer: Any) -> DeltaNet:
        """Of a library's layer; both call these the same."""
        return cls(layer.num_k_heads, layer.num_v_heads, layer.head_k_dim, layer.head_v_dim, layer.conv_kernel_size)

    @property
    def channels(self) -> int:
        """Width of queries, keys and values together, over which the convolution goes."""
        return 2 * self.n_key_heads * self.key_dim + self.n_value_heads * self.value_dim

    def state_bytes(self, type_bytes: int) -> int:
        """Bytes of a row's state: a float32 matrix a head, and what the convolution sees of the last tokens."""
        of_heads = self.n_value_heads * self.key_dim * self.value_dim
        return 4 * of_heads + type_bytes * self.channels * (self.kernel - 1)


@dataclass(frozen=True)
class Architecture:
    """A decoder: an embedding, blocks of attention (or a gated delta net) and MLP, a head.

    The MLP of a block may be experts, of which a router gives each token some.

    Attributes:
        model_type: As config.json names the family.
        weights: Name -> shape of every weight, matrices (out, in), those of each expert by themselves; a tied head is not among them.
        linear_layers: Name -> (in, out) of every linear layer of the blocks, in order; embedding, head and routers are not among them.
        n_heads: Attention heads of a block.
        n_kv_heads: Heads of its keys and values.
        windows: Of each block, how many tokens its attention sees, itself and those before it; None where it sees all.
        delta_nets: Of each block, its gated delta net; None where it has attention.
        is_tied: Whether the head is the embedding.
        experts_per_token: Experts of a block that a token goes to; 0 where no block has any.
    """

    model_type: str
    weights: Shapes
    linear_layers: Mapping[str, tuple[int, int]]
    n_heads: int
    n_kv_heads: int
    windows: tuple[int | None, ...]
    delta_nets: tuple[DeltaNet | None, ...]
    is_tied: bool
    experts_per_token: int = 0

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        weights: Shapes,
        linear_layers: Iterable[str],
        n_heads: int,
        n_kv_heads: int,
        blocks: Sequence[Any],
        windows: tuple[int | None, ...],
        is_tied: bool,
        experts_per_token: int = 0,
    ) -> Architecture:
        """Of what a library built for a config.

        Args:
            config: config.json.
            weights: Of the whole model; a tied head may be among them.
            linear_layers: Names of all linear layers; routers may be among them, and experts' layers need not.
            n_heads: As the attribute of that name.
            n_kv_heads: Likewise.
            blocks: The library's modules of the blocks.
            windows: As the attribute of that name.
            is_tied: Likewise.
            experts_per_token: As the library has it of a model with experts.

        Raises:
            ModelError: It is no decoder with the usual parts.
        """
        kept = {name: shape for name, shape in weights.items() if not (is_tied and name.startswith(f"{HEAD}."))}
        of_experts = [name.removesuffix(".weight") for name in kept if is_expert(name)]
        routers = set(_routers(kept, of_experts))
        named = dict.fromkeys((*linear_layers, *of_experts))
        layers = sorted((layer for layer in named if is_in_block(layer) and layer not in routers), key=_place)
        model_type = str(config["model_type"])
        _check_parts(model_type, kept, [*layers, *routers], len(windows))
        shapes = {layer: _in_out(kept[f"{layer}.weight"]) for layer in layers}
        delta_nets = tuple(
            DeltaNet.of(layer) if (layer := getattr(block, DELTA_NET, None)) else None for block in blocks
        )
        per_token = experts_per_token if of_experts else 0
        return cls(model_type, kept, shapes, n_heads, n_kv_heads, windows, delta_nets, is_tied, per_token)

    @property
    def n_blocks(self) -> int:
        """Transformer blocks."""
        return len(self.windows)

    @property
    def n_parameters(self) -> int:
        """Parameters of the model, tied embeddings counted once."""
        return sum(map(math.prod, self.weights.values()))

    @property
    def n_active_parameters(self) -> int:
        """Those that a token is computed with: of the experts of a block, the ones that it goes to."""
        experts: dict[str, list[int]] = {}
        for name, shape in self.weights.items():
            if is_expert(name):
                experts.setdefault(stack_of(name), []).append(math.prod(shape))
        idle = sum(sum(sizes) - self.experts_per_token * sizes[0] for sizes in experts.values())
        return self.n_parameters - idle

    @property
    def routers(self) -> frozenset[str]:
        """Names of the layers that give each token its experts, or weigh what these say of it."""
        return frozenset(_routers(self.weights, (layer for layer in self.linear_layers if is_expert(layer))))

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
        block = self.delta_nets.index(None)
        return self.linear_layers[f"{BLOCKS}.{block}.self_attn.o_proj"][0] // self.n_heads

    @property
    def n_attention_blocks(self) -> int:
        """Blocks that keep keys and values of every token; the others keep a state."""
        return self.delta_nets.count(None)

    @property
    def is_recurrent(self) -> bool:
        """Whether a block carries a state from token to token: then rows cannot lie end to end, nor options as a tree."""
        return self.n_attention_blocks < self.n_blocks

    def state_bytes(self, type_bytes: int) -> int:
        """Bytes of all states of a row, which do not grow with its tokens."""
        return sum(net.state_bytes(type_bytes) for net in self.delta_nets if net is not None)

    @property
    def inner_size(self) -> int:
        """Width of what a token makes in an MLP, the widest of the blocks; of experts, in all that it goes to."""
        return max(self.inner_sizes)

    @property
    def inner_sizes(self) -> tuple[int, ...]:
        """`inner_size` of each block."""
        sizes = [0] * self.n_blocks
        for layer, (n_in, _) in self.linear_layers.items():
            if layer.endswith(".down_proj") and number_of(layer) == 0:
                sizes[block_of(layer)] += n_in * (self.experts_per_token if is_expert(layer) else 1)
        return tuple(sizes)

    def lora_layers(
        self, targets: str | Sequence[str] = "all", layers: Literal["all"] | int = "all"
    ) -> tuple[str, ...]:
        """Names of the linear layers that a recipe's `lora.targets` and `lora.layers` mean, in model order.

        Args:
            targets: A word of WORDS, or several words and last parts of names: ["q_proj", "v_proj"], ["attention", "experts"].
            layers: Transformer blocks to adapt: "all", or that many from the end.

        Raises:
            ModelError: A target that the model does not have, or more layers than it has.
        """
        known = self.targets("all")
        wanted = (targets,) if isinstance(targets, str) else tuple(targets)
        if not wanted:
            raise ModelError(f"lora.targets: names no layer; known: {', '.join(WORDS)}, {', '.join(known)}")
        found: set[str] = set()
        for name in wanted:
            named = self._named(name)
            if not named and name in WORDS:
                raise ModelError(f"lora.targets: the model has no layers of {name!r}; it has {', '.join(known)}")
            if not named:
                raise ModelError(f"lora.targets: the model has no layer named {name!r}; it has {', '.join(known)}")
            found.update(named)
        if layers != "all" and not 1 <= layers <= self.n_blocks:
            raise ModelError(f"lora.layers: expected 1 to {self.n_blocks}, the layers this model has, got {layers}")
        first = 0 if layers == "all" else self.n_blocks - layers
        chosen = tuple(layer for layer in self.linear_layers if layer in found and block_of(layer) >= first)
        if not chosen:
            raise ModelError(
                f"lora.targets and lora.layers: the last {layers} blocks have no layer of {', '.join(wanted)}; adapt more blocks"
            )
        return chosen

    def targets(self, word: str) -> tuple[str, ...]:
        """Last parts of the names of the linear layers that a word of `lora.targets` means, in order."""
        return tuple(in_usual_order(map(last_part, self._named(word))))

    def _named(self, target: str) -> list[str]:
        """The linear layers that a word of WORDS or the last part of a name means."""
        if target == "all":
            return list(self.linear_layers)
        if target == EXPERTS:
            return [layer for layer in self.linear_layers if is_expert(layer)]
        if target in GROUPS:
            return [layer for layer in self.linear_layers if _module_of(layer) in GROUPS[target]]
        return [layer for layer in self.linear_layers if last_part(layer) == target]


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


def _routers(weights: Shapes, of_experts: Iterable[str]) -> list[str]:
    """Layers of matrices that lie beside a block's experts, not in one: they say who computes a token, and how much it counts."""
    beside = {layer.partition(f".{EXPERTS}.")[0] for layer in of_experts}
    matrices = (name.removesuffix(".weight") for name, shape in weights.items() if len(shape) == 2)
    return [name for name in matrices if name.rpartition(".")[0] in beside]


def _check_parts(model_type: str, weights: Shapes, layers: Sequence[str], n_blocks: int) -> None:
    """Refuse what is no such decoder: matrices elsewhere than in embedding, head, attention and MLP, or blocks without these."""
    needed = [f"{EMBEDDING}.weight"]
    for block in range(n_blocks):
        at = f"{BLOCKS}.{block}"
        is_delta_net = any(name.startswith(f"{at}.{DELTA_NET}.") for name in weights)
        mixer = [f"{DELTA_NET}.{part}" for part in DELTA_NET_WEIGHTS] if is_delta_net else ["self_attn.o_proj.weight"]
        expert = f"mlp.{EXPERTS}.0.down_proj.weight"
        mlp = expert if f"{at}.{expert}" in weights else "mlp.down_proj.weight"
        needed += [f"{at}.{part}" for part in (*mixer, mlp)]
    expected = {f"{HEAD}.weight", *needed, *(f"{layer}.weight" for layer in layers)}
    modules = {module for of_group in GROUPS.values() for module in of_group}
    strange = [
        name for name, shape in weights.items() if name not in expected and (len(shape) > 1 or f".{DELTA_NET}." in name)
    ]
    strange += [layer for layer in layers if _module_of(layer) not in modules]
    missing = [name for name in needed if name not in weights]
    has_attention = any(".self_attn." in name for name in needed)
    if strange or missing or not has_attention:
        why = f"has {strange[0]}" if strange else f"lacks {missing[0]}" if missing else "has no blocks of attention"
        raise ModelError(
            f"config.json: model_type {model_type!r} is not supported: it {why}; expected a decoder whose blocks "
            f"({BLOCKS}.0 and so on) have linear layers in mlp, those of experts in mlp.{EXPERTS}, and in self_attn, or in {DELTA_NET} "
            "those of Qwen3.5's gated delta net, and no others"
        )


def _module_of(layer: str) -> str:
    return layer.split(".")[3]


def _place(layer: str) -> tuple[int, bool, int, bool, int]:
    is_mlp = _module_of(layer) not in GROUPS["attention"]
    return block_of(layer), is_mlp, _usual_place(last_part(layer)), is_expert(layer), number_of(layer)


def _usual_place(name: str) -> int:
    return USUAL_ORDER.index(name) if name in USUAL_ORDER else len(USUAL_ORDER)


def _in_out(shape: tuple[int, ...]) -> tuple[int, int]:
    n_out, n_in = shape
    return n_in, n_out
