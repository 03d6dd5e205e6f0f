"""One of the processes that `test_sharded.py` starts with torchrun; not a test.

It trains the recipes of a folder together with the other, on base models of which each holds a part, writes what it saw to FOLDER/rank-N.json,
and then trains until it is ended.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from mlxtune.backends import choose
from mlxtune.backends.torch.model import TorchModel
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import open_run
from mlxtune.training.tune import tune
from tests.training.processes import said

SHARD = "model.shard=true"
TOKENS = list(range(2, 12))


@dataclass(frozen=True)
class Case:
    """A short training, and what is special about its base model or its steps."""

    name: str
    family: str
    overrides: tuple[str, ...] = ()
    tied: bool = True

    def settings(self, folder: Path) -> list[str]:
        """Overrides of the recipe of a folder."""
        return [
            f"model.path={folder / self.name}",
            "train.max_steps=3",
            "train.best_metric=valid.loss",
            *self.overrides,
        ]


CASES = (
    Case("several-passes", "llama", ("train.tokens_per_pass=40", "train.gradient_checkpointing=true", "train.batch_size=7"), tied=False),
    Case("delta-nets", "qwen3_5_text"),
    Case("experts", "qwen3_moe", tied=False),
    Case("packed-experts", "qwen3_moe", ("model.quantize={bits: 4, group_size: 32}",)),
)  # fmt: skip


def main(folder: Path) -> None:
    """Train, resume, look at what is held, be refused, and train on."""
    choice = choose("auto", "cpu")
    group = choice.backend.group()
    recipe = load_recipe(folder / "recipe.yaml", [SHARD])
    found: dict[str, Any] = {"size": group.size}
    tune(recipe, choice, folder / "sharded", measures=reply_metrics)
    tune(recipe, choice, resume=open_run(folder / "begun"), measures=reply_metrics)
    for case in CASES:
        settings = [*case.settings(folder), SHARD]
        tune(load_recipe(folder / "recipe.yaml", settings), choice, folder / f"{case.name}-sharded")
    model = choice.backend.load(folder / "base", shard=True)
    assert isinstance(model, TorchModel)
    parameters = list(model._network.parameters())
    found["parts"] = sum(isinstance(one, DTensor) for one in parameters)
    found["held"] = sum(one.to_local().numel() if isinstance(one, DTensor) else one.numel() for one in parameters)
    found["logits"] = model.logits(TOKENS).tolist()
    found["parameters"] = model.architecture.n_parameters
    dora = load_recipe(folder / "recipe.yaml", [SHARD, "lora.type=dora"])
    found["dora"] = said(lambda: tune(dora, choice, folder / "dora"))
    (folder / f"rank-{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    endless = ["train.epochs=100000", "train.max_steps=null", "train.best_metric=valid.loss", "train.save_every=2"]
    tune(load_recipe(folder / "recipe.yaml", [SHARD, *endless]), choice, folder / "endless")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
