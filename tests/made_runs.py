"""Run folders as training and evaluation leave them, made in a moment: real recipes, predictions and scores, no model.

run = made_run(tmp_path / "a", recipe_file, replies=REPLIES)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mlxtune.data.rows import read_rows
from mlxtune.evaluation.predict.given import read_replies
from mlxtune.evaluation.predict.predictions import replace_predictions
from mlxtune.evaluation.results import EvaluatedModel, EvaluationResult, FileIdentity, Speed
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import identity, task_hash
from mlxtune.files import write_json
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder, new_run
from tests.conftest import write_rows

PRIORITIES = ["high", "medium", "low"]
TAGS = ["Bug", "IT", "Billing"]


def tickets(n_rows: int, seed: int = 0, response: bool = False) -> list[dict[str, Any]]:
    """Rows with a label, a set of labels and, if wanted, a text, whose metrics take time; no two alike."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "text": f"ticket {seed}-{i}: the printer of room {rng.integers(100)} fails",
            "priority": str(rng.choice(PRIORITIES)),
            "tags": [str(tag) for tag in rng.choice(TAGS, size=rng.integers(1, 3), replace=False)],
            "response": f"Dear <name>, we look at room {rng.integers(100)} today.",
        }
        for i in range(n_rows)
    ]
    return rows if response else [{name: row[name] for name in ("text", "priority", "tags")} for row in rows]


def ticket_recipe(folder: Path, test: Sequence[Mapping[str, Any]], name: str = "tickets", **sections: Any) -> Path:
    """A recipe of these rows; `sections` override keys: lora={"rank": 4}."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "response" in test[0]
    write_rows(folder / "train.jsonl", tickets(5, 1, text))
    write_rows(folder / "test.jsonl", [dict(row) for row in test])
    content: dict[str, Any] = {
        "name": name,
        "model": {"path": "Some/Model"},
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "prompt": {"user": "{text}"},
        "output": {
            "template": "- {priority}\n- {tags}" + ("\n\n{response}" if text else ""),
            "fields": {
                "priority": {"kind": "label", "labels": PRIORITIES},
                "tags": {"kind": "labels", "labels": TAGS},
                **({"response": {"kind": "text"}} if text else {}),
            },
        },
    }
    for section, keys in sections.items():
        content[section] = {**content.get(section, {}), **keys} if isinstance(keys, dict) else keys
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def replies_of(rows: Sequence[Mapping[str, Any]], right: float, seed: int = 0) -> list[str]:
    """Replies to tickets whose every field is the right one with this probability."""
    rng = np.random.default_rng(seed)
    replies = []
    for row in rows:
        priority = row["priority"] if rng.random() < right else str(rng.choice(PRIORITIES))
        tags = row["tags"] if rng.random() < right else [str(rng.choice(TAGS))]
        reply = f"- {priority}\n- {', '.join(sorted(tags, key=TAGS.index))}"
        if "response" in row:
            reply += f"\n\n{row['response'] if rng.random() < right else 'We do not know.'}"
        replies.append(reply)
    return replies


def made_evaluation(folder: Path, recipe: Recipe, replies: Sequence[str], **about: Any) -> Path:
    """An evaluation folder of these replies to the recipe's test rows; `about` is added to its scores.json."""
    folder.mkdir(parents=True, exist_ok=True)
    test = Path(str(recipe.data.test))
    rows = read_rows(test, recipe.data.columns)
    file = write_rows(folder / "replies.jsonl", [{"prediction": reply} for reply in replies])
    predictions = read_replies(file, rows, recipe)
    file.unlink()
    replace_predictions(folder / "predictions.jsonl", predictions)
    weights = folder.parent.parent / "adapter" / "adapters.safetensors"  # of the run that it lies in, if it does
    adapter = identity(weights) if weights.is_file() else FileIdentity("adapters.safetensors", "0")
    evaluated = EvaluatedModel(
        recipe.model.path, None, "2:abc", task_hash(recipe), adapter, identity(test, len(rows)), "mlx"
    )
    top = replace(score(predictions, recipe), speed=Speed(0.5, 2.0, 20.0), predictions="predictions.jsonl")
    write_json(folder / "scores.json", {**EvaluationResult(top, evaluated).to_json(), **about})
    return folder


def validation(step: int, valid: float, train: float) -> dict[str, Any]:
    """An event of metrics.jsonl."""
    return {"event": "validation", "step": step, "loss": valid, "train": {"loss": train}, "ratio": valid / train}


def made_run(
    folder: Path,
    recipe_file: Path,
    replies: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
    **info: Any,
) -> Path:
    """A finished run of a recipe, evaluated with these replies; `info` is added to its run.json."""
    recipe = load_recipe(recipe_file, overrides)
    run = new_run(recipe, folder, force=True)
    run.adapter.mkdir()
    (run.adapter / "adapters.safetensors").write_bytes(b"A" * 1000 * recipe.lora.rank)
    (run.adapter / "adapter_config.json").write_text("{}")
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in metrics), encoding="utf-8")
    facts = {
        "status": "finished",
        "mlxtune": "0.1.0",
        "backend": "mlx",
        "device": {"description": "the CPU"},
        "steps": {"per_epoch": 10, "total": 30},
        "base": {"fingerprint": "2:abc"},
        "data": {"train": {"file": recipe.data.train, **identity(Path(recipe.data.train), 5).to_json()}},
        "step": 30,
        "adapter_step": 30,
        "train_loss": 0.5,
        "valid_loss": None,
        "best": None,
        "seconds": 12.0,
        "tokens_per_second": 100.0,
        "peak_memory_gb": 1.5,
        "trainable_parameters": 1000 * recipe.lora.rank,
        "diagnosis": None,
    }
    write_json(run.run_file, {**facts, **info})
    if replies is not None:
        made_evaluation(RunFolder(folder).evaluation("tuned"), recipe, replies)
    return folder
