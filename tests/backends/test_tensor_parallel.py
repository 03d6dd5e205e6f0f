"""Which part of a model one of several processes has, against the sizes of the whole and against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxtune.backends.architecture import Architecture
from mlxtune.backends.tensor_parallel import FAMILIES, factor_part, part_of, require_parts, splits_inputs
from mlxtune.errors import BackendError, ModelError
from tests.architectures import architecture_of
from tests.tiny import tiny_config


def tiny(family: str, **keys: Any) -> Architecture:
    """The architecture of a tiny model."""
    return architecture_of({**tiny_config(family), **keys})


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_all_processes_are_the_whole(family: str) -> None:
    whole = tiny(family)
    part = part_of(whole, 2)
    assert (2 * part.n_heads, 2 * part.n_kv_heads, part.head_dim) == (whole.n_heads, whole.n_kv_heads, whole.head_dim)
    assert [2 * size for size in part.inner_sizes] == list(whole.inner_sizes)
    for layer, (n_in, n_out) in whole.linear_layers.items():
        expected = (n_in // 2, n_out) if splits_inputs(layer) else (n_in, n_out // 2)
        assert part.linear_layers[layer] == expected
        assert part.weights[f"{layer}.weight"] == expected[::-1]
        places = [factor_part(whole, layer, rank, 2) for rank in range(2)]
        inputs = [np.arange(n_in)[one.inputs or slice(None)] for one in places]
        outputs = [np.concatenate([np.arange(n_out)[own] for own in one.outputs or (slice(None),)]) for one in places]
        assert [(len(one), len(other)) for one, other in zip(inputs, outputs, strict=True)] == [expected] * 2
        split = inputs if splits_inputs(layer) else outputs
        assert sorted(np.concatenate(split).tolist()) == list(range(max(map(len, split)) * 2))


def test_what_is_not_of_heads_or_mlps_is_whole_on_each() -> None:
    whole = tiny("qwen3_moe", tie_word_embeddings=False)
    part = part_of(whole, 2)
    kept = [name for name, shape in whole.weights.items() if part.weights[name] == shape]
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= set(kept)
    assert all(f"{router}.weight" in kept for router in whole.routers) and whole.routers
    assert part.n_parameters < whole.n_parameters


def test_biases_follow_outputs() -> None:
    part = part_of(tiny("qwen2"), 2)
    assert part.weights["model.layers.0.self_attn.q_proj.bias"] == (
        part.linear_layers["model.layers.0.self_attn.q_proj"][1],
    )


def test_a_fused_layer_of_a_gated_delta_net_gives_each_process_of_each_kind() -> None:
    whole = tiny("qwen3_5_text")
    net = whole.delta_nets[0]
    assert net is not None
    keys, values = net.n_key_heads * net.key_dim, net.n_value_heads * net.value_dim
    found = factor_part(whole, "model.layers.0.linear_attn.in_proj_qkv", 1, 2).outputs
    assert found == (
        slice(keys // 2, keys), slice(keys + keys // 2, 2 * keys), slice(2 * keys + values // 2, 2 * keys + values),
    )  # fmt: skip
    half = part_of(whole, 2)
    assert half.weights["model.layers.0.linear_attn.conv1d.weight"][0] == net.channels // 2
    assert half.weights["model.layers.0.linear_attn.A_log"] == (net.n_value_heads // 2,)
    own = half.delta_nets[0]
    assert own is not None and 2 * own.channels == net.channels


@pytest.mark.parametrize(
    ("keys", "size", "message"),
    [
        ({}, 4, "4 processes cannot share the model's 2 heads of keys and values evenly; start 2 processes"),
        (
            {"num_key_value_heads": 1},
            2,
            "2 processes cannot share the model's 1 heads of keys and values evenly; set model.shard",
        ),
        (
            {"intermediate_size": 129},
            2,
            "2 processes cannot share the model's 129 inputs of down_proj evenly; set model.shard",
        ),
    ],
)
def test_a_number_of_processes_that_divides_no_heads_is_refused_with_those_that_do(
    keys: dict[str, int], size: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        require_parts(tiny("qwen3", **keys), size)


def test_groups_of_packed_weights_stay_whole() -> None:
    require_parts(tiny("qwen3"), 2, group_size=64)
    with pytest.raises(ModelError, match="1 groups of 128 inputs of o_proj"):
        require_parts(tiny("qwen3"), 2, group_size=128)


def test_other_families_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="base of model_type 'phi3', only llama"):
        require_parts(tiny("phi3"), 2)


def test_mlx_refuses_dora_by_name() -> None:
    pytest.importorskip("mlx")
    from mlxtune.backends.mlx.sharding import require_shardable

    with pytest.raises(BackendError, match="got dora"):
        require_shardable(tiny_config("qwen3"), "dora", tiny("qwen3"), 2)


def test_the_families_that_are_shared_are_compared_with_one_process() -> None:
    from tests.training.sharded_mlx import CASES

    assert set(FAMILIES) == {case.name.partition("-")[0] for case in CASES}
