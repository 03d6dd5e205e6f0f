"""How many replies are written at a time: as many as asked for, or as memory has room for. Plain numbers only."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mlxtune.backends.architecture import Architecture, DeltaNet
from mlxtune.backends.columns import GROWTH, TOKENS_AT_ONCE

log = logging.getLogger(__name__)

# Share of the free memory that caches and passes may take by this estimate: other programs run beside this one.
MEMORY_SHARE = 0.5
LOGITS_COPIES = 4  # of a row's float32 logits: masked, scaled, summed
CHUNK = 64  # tokens, of the rule of a gated delta net
SCORES_COPIES = 2  # of attention's, with what softmax makes of them


def slots_within(
    slots: int | None,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    architecture: Architecture,
    free_bytes: int,
    type_bytes: int,
) -> int:
    """The number of slots that fit into memory, at least one; said where that is fewer than asked for.

    Args:
        slots: As many as are asked for; None is one for each prompt.
        prompts: Token ids.
        limits: Tokens that each reply may have.
        architecture: The model's.
        free_bytes: Memory that nothing holds yet.
        type_bytes: Of a number of the cache.
    """
    wanted = min(len(prompts), slots or len(prompts))
    longest = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
    a_slot = slot_bytes(max(map(len, prompts)), longest, architecture, type_bytes)
    found = max(1, min(wanted, int(MEMORY_SHARE * free_bytes) // a_slot))
    if found < wanted:
        log.info(
            "writing %s replies at a time, not %s: each of up to %s tokens, its prompt included, takes %.2f GB, and %.1f GB are free",
            found, wanted, longest, a_slot / 1e9, free_bytes / 1e9,
        )  # fmt: skip
    return found


def _rule_widths(net: DeltaNet) -> int:
    """Numbers that a gated delta net's rule has of a token at a time."""
    return net.n_value_heads * (5 * CHUNK + 9 * net.key_dim + 5 * net.value_dim) + 2 * net.channels


def slot_bytes(prompt: int, longest: int, architecture: Architecture, type_bytes: int) -> int:
    """Bytes of a slot: its cache, and what a pass over its prompt takes on top, which is most where its last part is computed.

    A gated delta net's state takes the same whatever a slot holds; a pass of it takes about two dozen float32 arrays, a few of them of
    a chunk's length for each head.

    Args:
        prompt: Tokens of the longest prompt.
        longest: Tokens of the longest prompt with its reply.
        architecture: The model's.
        type_bytes: Of a number of the cache and of activations.
    """
    hidden, inner, heads = architecture.hidden_size, architecture.inner_size, architecture.n_heads
    keys = architecture.n_kv_heads * architecture.head_dim
    columns = -(-longest // GROWTH) * GROWTH
    cache = columns * architecture.n_attention_blocks * 2 * keys * type_bytes + architecture.state_bytes(type_bytes)
    width = min(prompt, TOKENS_AT_ONCE)
    of_pass = width * (4 * hidden + 3 * inner + 2 * heads * architecture.head_dim + 2 * keys) * type_bytes
    scores = SCORES_COPIES * heads * width * prompt * 4
    of_rule = max((width * 4 * _rule_widths(net) for net in architecture.delta_nets if net is not None), default=0)
    return cache + of_pass + max(scores, of_rule) + LOGITS_COPIES * architecture.vocabulary * 4
