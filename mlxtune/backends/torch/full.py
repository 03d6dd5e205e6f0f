"""All weights of a network as what is trained: full fine-tuning, in float32."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from mlxtune.backends.architecture import HEAD, Architecture, require_own_weights
from mlxtune.backends.torch.head import Float32Head

OWN_HEAD = "lm_head.own"  # where `Float32Head` keeps the network's


def all_weights(network: PreTrainedModel, architecture: Architecture) -> dict[str, Tensor]:
    """A network's weights, widened to float32 in place, under the names of the model's files; a tied head's is the embedding's.

    Args:
        network: Whose head is a `Float32Head`.
        architecture: What it is made of.

    Raises:
        ModelError: It is quantized, or has other weights than the model's files.
    """
    assert isinstance(network.lm_head, Float32Head)
    network.float()
    found: dict[str, Tensor] = {}
    for name, value in network.named_parameters():  # tied ones once, the embedding first
        assert isinstance(value, nn.Parameter)
        found[name.replace(f"{OWN_HEAD}.", f"{HEAD}.")] = value
    require_own_weights(architecture, {name: tuple(value.shape) for name, value in found.items()})
    return {name: found[name] for name in architecture.weights}
