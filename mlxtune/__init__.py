"""Fine-tune Qwen models from one recipe, with evidence; MLX on a Mac, PyTorch elsewhere, the same numbers.

import mlxtune
model = mlxtune.load("runs/demo-intent/demo")
model.predict(["where is my parcel"])[0].values  # {"intents": ("order_management",)}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.version import __version__ as __version__

if TYPE_CHECKING:
    from mlxtune.evaluation.predict.predictor import Predictor


def load(
    path: str | Path,
    *,
    base: bool = False,
    decoding: str | None = None,
    backend: str = "auto",
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> Predictor:
    """A trained model, ready to be asked.

    Args:
        path: A run folder, or a recipe, which stands for its newest run.
        base: The model before tuning.
        decoding: 'free', 'constrained' or 'best'; None is the recipe's, where 'both' means constrained.
        backend: 'auto', 'mlx' or 'torch'.
        device: 'auto', 'cpu', 'gpu', 'cuda' or 'cuda:N'.
        overrides: "KEY=VALUE" each, as the commands' --set.

    Returns:
        A `Predictor`: `predict(texts)` gives replies with their values and probabilities.

    Raises:
        MlxtuneError: There is no such run, or its model cannot be loaded.
    """
    from mlxtune.backends import choose
    from mlxtune.evaluation.predict.predictor import Predictor
    from mlxtune.evaluation.subject import find_subject, load_subject

    subject = find_subject(Path(path), overrides, base)
    model, tokenizer = load_subject(subject, choose(backend, device).backend)
    return Predictor(subject.recipe, model, tokenizer, decoding)
