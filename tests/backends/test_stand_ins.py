"""Our objects that stand in for a library's take every argument that the library's own take, in the version installed.

A new release that passes one more fails here, with a sentence that names the difference, and not in the middle of a
training.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from tests.tiny import FAMILIES, MORE_FAMILIES, tiny_config

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
GUARDED = {"bits", "group_size", "is_sliding", "is_linear", "is_dummy"}  # asked of caches that have them only


def check(ours: Callable[..., Any], theirs: Callable[..., Any], library: str, names_too: bool = True) -> None:
    """Fail, with a sentence, where `ours` does not take what `theirs` takes, or asks for more.

    Args:
        ours: Ours.
        theirs: The library's.
        library: Its distribution.
        names_too: Arguments may be passed by name; else by position only.
    """
    version = importlib.metadata.version(library)
    lacking = list(differences(inspect.signature(ours), inspect.signature(theirs), names_too))
    assert not lacking, (
        f"{ours.__module__}.{ours.__qualname__} stands in for {theirs.__module__}.{theirs.__qualname__} of {library} "
        f"{version}, and {'; '.join(lacking)}"
    )


def differences(ours: inspect.Signature, theirs: inspect.Signature, names_too: bool = True) -> Iterable[str]:
    """Calls that fit `theirs` and not `ours`, each as the end of a sentence."""
    own = list(ours.parameters.values())
    kinds = {parameter.kind for parameter in own}
    any_name, any_place = inspect.Parameter.VAR_KEYWORD in kinds, inspect.Parameter.VAR_POSITIONAL in kinds
    own_places = [parameter for parameter in own if parameter.kind in POSITIONAL]
    own_names = {parameter.name for parameter in own if parameter.kind in KEYWORD}
    answered = set()
    for place, parameter in enumerate(theirs.parameters.values()):
        name = parameter.name
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL and not any_place:
            yield f"does not take *{name}"
        if parameter.kind is inspect.Parameter.VAR_KEYWORD and not any_name:
            yield f"does not take **{name}"
        if parameter.kind in POSITIONAL:
            if place < len(own_places):
                answered.add(own_places[place].name)
                if names_too and own_places[place].name != name:
                    yield f"calls its argument {place} {own_places[place].name!r}, not {name!r}"
            elif not any_place:
                yield f"does not take {name!r} as argument {place}"
        if names_too and parameter.kind in KEYWORD:
            answered.add(name)
            if name not in own_names and not any_name:
                yield f"does not take {name!r} by name"
    for parameter in own:
        may_be_asked = parameter.kind in (*POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        if may_be_asked and parameter.default is parameter.empty and parameter.name not in answered:
            yield f"asks for {parameter.name!r}, which is not passed"


def asked_of(variables: set[str], code: Any) -> set[str]:
    """Attributes that the source of a module or function reads of a variable with one of these names."""
    return {
        node.attr
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(code))))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in variables
    }


def check_has(stand_in: object, asked: set[str], who: str, library: str) -> None:
    lacking = sorted(asked - GUARDED - set(dir(stand_in)))
    version = importlib.metadata.version(library)
    assert not lacking, (
        f"{who} of {library} {version} asks a cache for {lacking}, which {type(stand_in).__name__} lacks"
    )


# The check itself


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (lambda a, b: 0, lambda a, b, c=None: 0, "does not take 'c' as argument 2"),
        (lambda a: 0, lambda a, *rest: 0, "does not take *rest"),
        (lambda a: 0, lambda a, **more: 0, "does not take **more"),
        (lambda a: 0, lambda a, *, c=1: 0, "does not take 'c' by name"),
        (lambda a, b: 0, lambda a, c: 0, "calls its argument 1 'b', not 'c'"),
        (lambda a, b: 0, lambda a: 0, "asks for 'b', which is not passed"),
    ],
)
def test_a_difference_is_said_in_a_sentence(ours: Any, theirs: Any, said: str) -> None:
    assert said in "; ".join(differences(inspect.signature(ours), inspect.signature(theirs)))
    with pytest.raises(AssertionError, match=r"stands in for .* of pytest "):
        check(ours, theirs, "pytest")
    assert not list(differences(inspect.signature(lambda a, *b, **c: 0), inspect.signature(lambda a, *b, **c: 0)))


# mlx


def mlx_blocks() -> list[Any]:
    """The first two blocks of mlx-lm's model of each family."""
    from mlxtune.backends.mlx.architecture import classes_of

    blocks: list[Any] = []
    for family in (*FAMILIES, *MORE_FAMILIES):
        model, arguments = classes_of(tiny_config(family))
        blocks += model(arguments.from_dict({**tiny_config(family), "layer_types": None})).layers[:2]
    return blocks


def torch_networks() -> list[Any]:
    """transformers' model of each family, without weights."""
    from mlxtune.backends.torch.architecture import empty_network

    return [empty_network(tiny_config(family)).model for family in (*FAMILIES, *MORE_FAMILIES)]


def test_mlx_caches_take_what_mlx_lms_own_take() -> None:
    from mlxtune.backends.mlx.prefix_cache import PrefixCache
    from mlxtune.backends.mlx.session import RowsCache
    from mlxtune.backends.mlx.tree_cache import TreeCache

    cache = importlib.import_module("mlx_lm.models.cache").KVCache
    for ours in (PrefixCache, RowsCache, TreeCache):
        for name in ("make_mask", "update_and_fetch"):
            check(getattr(ours, name), getattr(cache, name), "mlx-lm")


def test_mlx_caches_have_what_the_models_ask_for() -> None:

    from mlxtune.backends.mlx.prefix_cache import PrefixCache
    from mlxtune.backends.mlx.session import RowsCache
    from mlxtune.backends.mlx.tree_cache import tree_caches
    from mlxtune.backends.option_tree import option_pass, option_trees

    (of_tree,) = tree_caches([PrefixCache()], option_pass([[3, 4]], 1, next(iter(option_trees([[1, 2]])))))
    base = importlib.import_module("mlx_lm.models.base")
    codes = [base.create_attention_mask, base.scaled_dot_product_attention]
    codes += [type(module) for block in mlx_blocks() if "self_attn" in block for module in (block, block.self_attn)]
    assert "update_and_fetch" in asked_of({"cache"}, codes[-1])
    for code in codes:
        for stand_in in (PrefixCache(), RowsCache, of_tree):
            check_has(stand_in, asked_of({"cache", "c"}, code), f"{code.__name__}", "mlx-lm")


def test_a_delta_net_of_mlx_takes_what_the_librarys_own_takes_and_its_caches_have_what_it_asks_for() -> None:
    from mlxtune.backends.mlx.delta_net import ChunkedDeltaNet
    from mlxtune.backends.mlx.session import RowsStateCache, _Pass
    from mlxtune.backends.mlx.state_cache import PrefixStateCache, TreePaths, TreeStateCache

    own = [type(block.linear_attn) for block in mlx_blocks() if "linear_attn" in block]
    assert own
    for layer in own:
        check(ChunkedDeltaNet.__call__, layer.__call__, "mlx-lm")
    base, caches = (importlib.import_module(f"mlx_lm.models.{name}") for name in ("base", "cache"))
    asked = asked_of({"cache"}, base.create_ssm_mask)
    assert asked == {"make_mask"}
    for stand_in in (
        PrefixStateCache(),
        RowsStateCache(_Pass()),
        TreeStateCache(None, TreePaths(np.eye(2, dtype=bool))),
    ):
        check(type(stand_in).make_mask, caches.ArraysCache.make_mask, "mlx-lm")
        check_has(stand_in, {"before", *asked}, "a delta net", "mlx-lm")
    for cache in (PrefixStateCache, RowsStateCache):
        check_has(cache, {"before", "carry"}, "a delta net", "mlxtune")


def test_the_rope_of_mlx_takes_what_the_librarys_own_take() -> None:
    from mlx import nn
    from mlx_lm.models import rope_utils

    from mlxtune.backends.mlx.token_rope import TokenRope

    own = [nn.RoPE, *(one for name, one in vars(rope_utils).items() if name.endswith("RoPE"))]
    assert len(own) >= 3
    for one in own:
        check(TokenRope.__call__, one.__call__, "mlx-lm")


def test_a_checkpointed_block_of_mlx_takes_what_the_block_takes() -> None:
    from mlxtune.backends.mlx.dropout import DropoutKeys
    from mlxtune.backends.mlx.recompute import _checkpointed

    for block in map(type, mlx_blocks()):
        check(_checkpointed(block, DropoutKeys()).__call__, block.__call__, "mlx-lm")


def test_a_checkpointed_block_of_mlx_passes_on_what_it_does_not_know() -> None:
    from mlxtune.backends.mlx.runtime import import_mlx

    mx = import_mlx()
    from mlx import nn

    from mlxtune.backends.mlx.dropout import DropoutKeys
    from mlxtune.backends.mlx.recompute import checkpoint_blocks

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = mx.array(2.0)

        def __call__(self, x: Any, mask: Any = None, cache: Any = None, shift: Any = None, *, factor: Any) -> Any:
            return self.weight * factor * x + shift

    block = Block()

    def gradients() -> list[float]:
        def loss(x: Any, shift: Any, factor: Any) -> Any:
            return block(x, None, None, shift, factor=factor)

        return [found.item() for found in mx.grad(loss, argnums=[0, 1, 2])(mx.array(3.0), mx.array(5.0), mx.array(7.0))]

    expected = gradients()
    checkpoint_blocks([block], DropoutKeys())
    block.train()
    assert gradients() == expected == [14.0, 1.0, 6.0]


def test_mlx_layers_take_what_the_librarys_own_take() -> None:
    from mlx import nn

    from mlxtune.backends.mlx.dropout import KeyedDropout

    check(KeyedDropout.__call__, nn.Dropout.__call__, "mlx", names_too=False)


# torch


def test_torchs_cache_takes_what_transformers_own_takes() -> None:
    pytest.importorskip("torch")
    from transformers.cache_utils import Cache

    from mlxtune.backends.torch.prefix_cache import PrefixCache
    from mlxtune.backends.torch.session import RowsCache

    for ours in (PrefixCache, RowsCache):
        shared = sorted(name for name in vars(ours) if hasattr(Cache, name) and not name.startswith("_"))
        assert {"update", "get_seq_length", "get_mask_sizes"} <= set(shared)
        for name in shared:
            # Models pass the arguments of get_mask_sizes by position; transformers has named its first one in two ways.
            check(getattr(ours, name), getattr(Cache, name), "transformers", names_too=name != "get_mask_sizes")


def test_torchs_cache_has_what_the_models_ask_for() -> None:
    pytest.importorskip("torch")
    from mlxtune.backends.torch.prefix_cache import PrefixCache
    from mlxtune.backends.torch.session import RowsCache

    codes: list[Any] = [importlib.import_module("transformers.masking_utils")]
    for network in torch_networks():
        attention = next(block.self_attn for block in network.layers if hasattr(block, "self_attn"))
        codes += [type(attention), type(network.layers[0]), type(network)]
    variables = {"cache", "past_key_values", "past_key_value"}
    assert "get_seq_length" in asked_of(variables, codes[-1])
    for code in codes:
        for stand_in in (PrefixCache(), RowsCache(1)):
            check_has(stand_in, asked_of(variables, code), f"{code.__name__}", "transformers")


def test_a_delta_net_of_torch_takes_what_the_librarys_own_takes_and_its_cache_has_what_it_asks_for() -> None:
    pytest.importorskip("torch")
    from mlxtune.backends.torch.delta_net import DeltaNet, States
    from mlxtune.backends.torch.prefix_cache import PrefixCache
    from mlxtune.backends.torch.session import RowsCache

    own = [
        type(block.linear_attn)
        for network in torch_networks()
        for block in network.layers
        if hasattr(block, "linear_attn")
    ]
    assert own
    for layer in own:
        check(DeltaNet.forward, layer.forward, "transformers")
    for stand_in in (PrefixCache(), RowsCache(1)):
        check_has(stand_in, asked_of({"cache"}, DeltaNet) | set(States.__annotations__), "DeltaNet", "mlxtune")


def test_a_checkpointed_block_of_torch_takes_what_the_block_takes() -> None:
    """`torch.utils.checkpoint` passes everything on, but for names that it takes for its own."""
    pytest.importorskip("torch")
    from torch.utils.checkpoint import checkpoint

    own = {name for name, one in inspect.signature(checkpoint).parameters.items() if one.kind in KEYWORD}
    own |= {"preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop", "use_reentrant"}
    version = importlib.metadata.version("transformers")
    for network in torch_networks():
        block = type(network.layers[0])
        taken = own & set(inspect.signature(block.forward).parameters)
        assert not taken, (
            f"{block.__name__}.forward of transformers {version} takes {taken}, as torch's checkpoint does"
        )


def test_packed_layers_take_what_torchs_own_take() -> None:
    pytest.importorskip("torch")
    from torch import nn

    from mlxtune.backends.torch.quantized_linear import QuantizedEmbedding, QuantizedLinear

    check(QuantizedLinear.forward, nn.Linear.forward, "torch", names_too=False)
    check(QuantizedEmbedding.forward, nn.Embedding.forward, "torch", names_too=False)
