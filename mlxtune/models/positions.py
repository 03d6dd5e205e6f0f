"""How many tokens a sequence of a model may have, from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that a sequence may have, as far as RoPE scaling extends them; None where the config does not say.

    >>> max_positions({"max_position_embeddings": 32768, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}})
    131072
    """
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("linear", "dynamic", "yarn"):  # llama3 and longrope state the extended number
        return positions
    original = scaling.get("original_max_position_embeddings") or positions
    return max(positions, int(original * float(scaling.get("factor") or 1)))
