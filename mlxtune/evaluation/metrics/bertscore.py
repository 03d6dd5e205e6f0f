"""BERTScore of texts: how near their words' embeddings are, by an encoder that the user names. The extra `bertscore`.

The arithmetic is the package bert-score's own, without idf weights and without rescaling, so that metrics equal those
that `bert-score -m MODEL -l LAYER` prints. They depend on the model and its layer, which is why both are recorded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import BackendError, ModelError

INSTALL = "pip install 'mlxtune[bertscore]'"
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
DEPTH = 0.75  # of a model's layers, where bert-score has not chosen one: 9 of 12, as it did for BERT


class BertScore:
    """An encoder that scores texts against references.

    Args:
        model: A folder of an encoder with its tokenizer, or its name on the Hub.
        batch_size: Texts encoded together.

    Raises:
        BackendError: bert-score is not installed.
        ModelError: The folder holds no model.
    """

    def __init__(self, model: str, batch_size: int = 32) -> None:
        if find_spec("bert_score") is None:
            raise BackendError(f"--bertscore needs the package bert-score: {INSTALL}")
        self.model, self._batch_size = model, batch_size
        self._scorer: Any = None
        if model and Path(model).is_dir():
            config = Path(model) / "config.json"
            try:
                content = json.loads(config.read_text(encoding="utf-8"))
            except FileNotFoundError:
                raise ModelError(f"{model}: not an encoder, as it has no config.json; {_WANTED}") from None
            except (OSError, ValueError) as error:
                raise ModelError(f"{config}: cannot be read: {error}") from error
            if not isinstance(content, dict) or "model_type" not in content:
                raise ModelError(f"{config}: not the config of a model, as it has no model_type; {_WANTED}")
        elif not HUB_ID.fullmatch(model):
            raise ModelError(f"{model}: no such folder; {_WANTED}")

    @property
    def layer(self) -> int:
        """Whose output is compared, counted from 1; loads the model."""
        return int(self._loaded().num_layers)

    @property
    def signature(self) -> str:
        """What the metrics depend on."""
        from bert_score import __version__

        return f"model:{self.model}|layer:{self.layer}|idf:no|rescaled:no|bert-score:{__version__}"

    def rows(self, expected: Sequence[str], predicted: Sequence[str | None]) -> NDArray[np.float64]:
        """F1 of each row, (rows,): a cosine, about -1..1; 0 where nothing was written.

        Raises:
            ModelError: The model cannot be loaded, or has no layers to compare.
        """
        found = np.zeros(len(expected))
        written = [i for i, said in enumerate(predicted) if said and said.strip()]
        if written:
            said, right = [str(predicted[i]) for i in written], [expected[i] for i in written]
            *_, f1 = self._loaded().score(said, right, batch_size=self._batch_size)
            found[written] = f1.numpy()
        return found

    def _loaded(self) -> Any:
        if self._scorer is None:
            from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

            disable_progress_bars()  # as transformers, which the next line imports, then leaves its own out
            from bert_score import BERTScorer
            from bert_score.utils import model2layers

            try:
                layers = model2layers.get(self.model) or _usual_layer(self._config())
                scorer = BERTScorer(model_type=self.model, num_layers=layers, batch_size=self._batch_size)
            except Exception as error:  # whatever a damaged or unfit folder makes transformers and torch raise
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                raise ModelError(f"{self.model}: cannot be loaded as an encoder: {reason}; {_WANTED}") from error
            _prepare(scorer)
            self._scorer = scorer
        return self._scorer

    def _config(self) -> dict[str, Any]:
        file = Path(self.model) / "config.json"
        if not file.is_file():
            from huggingface_hub import hf_hub_download

            file = Path(hf_hub_download(self.model, "config.json"))
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content


_WANTED = "expected a folder of an encoder such as BERT, with its tokenizer, or its name on the Hub"


def _usual_layer(config: dict[str, Any]) -> int:
    """The layer that is compared of a model for which bert-score has chosen none."""
    n_layers = config.get("num_hidden_layers") or config.get("n_layers") or config.get("num_layers")
    if not isinstance(n_layers, int) or n_layers < 1:
        raise ValueError("its config.json names no number of layers")
    return math.ceil(DEPTH * n_layers)


def _prepare(scorer: Any) -> None:
    """Compute in float32, whatever the weights are kept in; cut texts where the model ends.

    A tokenizer that names no limit of its own would let longer texts through.
    """
    scorer._model.float()
    tokenizer, config = scorer._tokenizer, scorer._model.config
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # Some models count positions from 2, after the padding's.
        room = positions - (2 if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else 0)
        tokenizer.model_max_length = min(tokenizer.model_max_length, room)
