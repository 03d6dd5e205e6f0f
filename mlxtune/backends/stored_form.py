"""How folders that mlx-lm wrote differ from Hugging Face's, of models with gated delta nets. Names and shapes only.

We write Hugging Face's form, which both libraries read, and read both.
"""

from __future__ import annotations

from mlxtune.backends.architecture import DELTA_NET, Shapes

CONVOLUTION = f"{DELTA_NET}.conv1d.weight"  # (channels, 1, kernel); in mlx-lm's form (channels, kernel, 1)
# Norms to whose weights mlx-lm adds 1, which the class of transformers adds itself: all but the gated one of a delta net.
NORMS = (
    "input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight"
)  # fmt: skip
MORE_TOKENS = "mtp."  # layers that predict further tokens, which neither library's class has


def is_mlx_lm_form(shapes: Shapes) -> bool:
    """Whether weights of such shapes are as mlx-lm writes them; it tells by the convolutions, too."""
    convolutions = [shape for name, shape in shapes.items() if name.endswith(CONVOLUTION)]
    return bool(convolutions) and all(shape[-1] == 1 for shape in convolutions)
