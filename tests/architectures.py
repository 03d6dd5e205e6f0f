"""What models of configs are made of, by the backend that tests of the command line compute with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlxtune.backends import choose
from mlxtune.backends.architecture import Architecture


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a config.json."""
    return choose(os.environ["MLXTUNE_BACKEND"]).backend.architecture(config)


def linear_layers(config: Mapping[str, Any]) -> Mapping[str, tuple[int, int]]:
    """Name -> (in, out) of every linear layer of its blocks."""
    return architecture_of(config).linear_layers


def lora_layers(config: Mapping[str, Any], targets: Any = "all", layers: Any = "all") -> tuple[str, ...]:
    """Names of the layers that a recipe's lora.targets and lora.layers mean."""
    return architecture_of(config).lora_layers(targets, layers)
