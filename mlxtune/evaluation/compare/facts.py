"""What is known of runs besides their metrics, side by side: settings that differ, how they trained, what each cost.
Reads run folders; scores nothing.

    [fact.name for fact in differing_settings(evaluations)]  # ["lora.rank", "lora.alpha"]
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.evaluation.results import Speed
from mlxtune.evaluation.stored import StoredEvaluation
from mlxtune.recipe.sections import EXPECT
from mlxtune.runs.events import read_events
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import FINISHED

# Keys that change no metric.
NO_SETTINGS = ("name", "track", EXPECT)
# What an evaluation of the model before tuning depends on; the rest of a recipe says nothing of it.
OF_ANY_MODEL = ("model.", "prompt.", "output.", "evaluate.", "data.test", "data.format", "data.text", "data.columns.")


@dataclass(frozen=True)
class Fact:
    """One setting, loss or cost, by run; None where it is not known or does not apply."""

    name: str
    values: tuple[Any, ...]


def differing_settings(evaluations: Sequence[StoredEvaluation]) -> Iterator[Fact]:
    """What was set differently; the same content under another file name is no difference."""
    recipes = [one.recipe.flat() if one.recipe else {} for one in evaluations]
    recipes = [
        {key: value for key, value in flat.items() if not one.before_tuning or key.startswith(OF_ANY_MODEL)}
        for one, flat in zip(evaluations, recipes, strict=True)
    ]
    contents = {
        "model.path": [_base(one) for one in evaluations],
        "data.test": [_test_rows(one) for one in evaluations],
        **{
            f"data.{split}": [((one.info.get("data") or {}).get(split) or {}).get("sha256") for one in evaluations]
            for split in ("train", "valid")
        },
    }
    for key in dict.fromkeys(key for flat in recipes for key in flat):
        if key in NO_SETTINGS or key.startswith(("track.", f"{EXPECT}.")):
            continue
        # An empty mapping, beside another recipe's that holds something: the keys in that one say it.
        if all(flat.get(key, {}) == {} for flat in recipes) and any(
            k.startswith(f"{key}.") for f in recipes for k in f
        ):
            continue
        # A run's recipe says everything: a key that is missing there (patience, without early stopping) is a difference.
        applies = [
            i for i, one in enumerate(evaluations) if key in recipes[i] or (one.recipe and not one.before_tuning)
        ]
        values = [flat.get(key) for flat in recipes]
        content = [contents[key][i] for i in applies] if key in contents else []
        if content and all(content):
            if len(set(content)) > 1 and len({values[i] for i in applies}) == 1:  # one name, and other content by now
                values = [value and f"{value} ({str(contents[key][i])[:12]})" for i, value in enumerate(values)]
            differ = len(set(content)) > 1
        else:
            differ = len({json.dumps(values[i], sort_keys=True) for i in applies}) > 1
        if differ:
            yield Fact(key, tuple(values))
    trained = [{} if one.before_tuning else one.info for one in evaluations]
    models = [one.model for one in evaluations]
    judges = [one.result and one.result.judge for one in evaluations]
    for name, facts in (
        ("trained with", [info.get("backend") for info in trained]),
        ("trained on", [(info.get("device") or {}).get("description") for info in trained]),
        ("mlxtune", [info.get("mlxtune") for info in trained]),
        ("begun from", [info.get("begun_from") for info in trained]),
        ("evaluated with", [model and model.backend for model in models]),
        ("evaluation judged by", [judge and judge.model for judge in judges]),
        ("evaluated with --set", [" ".join(model.overrides if model else ()) or None for model in models]),
    ):
        applying = [
            fact
            for fact, one in zip(facts, evaluations, strict=True)
            if name.startswith("evaluat") or not one.before_tuning
        ]
        if len(set(applying)) > 1:
            yield Fact(name, tuple(facts))


def training_facts(evaluations: Sequence[StoredEvaluation]) -> Iterator[Fact]:
    """Steps, losses and what they say, of the adapter that each run has."""
    columns = [_of_training(one) for one in evaluations]
    for name in dict.fromkeys(name for column in columns for name in column):
        values = tuple(column.get(name) for column in columns)
        if any(value is not None for value in values):
            yield Fact(name, values)


def cost_facts(evaluations: Sequence[StoredEvaluation], speeds: Sequence[Speed | None]) -> Iterator[Fact]:
    """Time, memory and size; `speeds` are the evaluations'."""
    columns = []
    for one, speed in zip(evaluations, speeds, strict=True):
        info = {} if one.before_tuning else one.info
        columns.append(
            {
                "training seconds": info.get("seconds"),
                "training tokens/s": info.get("tokens_per_second"),
                "training peak memory, GB": info.get("peak_memory_gb"),
                "trainable parameters": info.get("trainable_parameters"),
                "adapter bytes": None if one.before_tuning or one.run is None else _adapter_bytes(one.run),
                "evaluation seconds a row": speed and speed.seconds_per_row,
                "evaluation peak memory, GB": speed and speed.peak_memory_gb,
            }
        )
    for name in columns[0]:
        values = tuple(column[name] for column in columns)
        if any(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            yield Fact(name, values)


def _base(one: StoredEvaluation) -> str | None:
    """Fingerprint of the base model."""
    found = one.model.base if one.model is not None else (one.info.get("base") or {}).get("fingerprint")
    return None if found is None else str(found)


def _test_rows(one: StoredEvaluation) -> str | None:
    """SHA-256 of the test rows."""
    evaluated = None if one.result is None else one.result.evaluated
    return None if evaluated is None else evaluated.data.sha256


def _of_training(one: StoredEvaluation) -> dict[str, Any]:
    if one.before_tuning or one.run is None:
        return {}
    info = one.info
    steps, best, diagnosis = (info.get(name) or {} for name in ("steps", "best", "diagnosis"))
    validations = _validations(one.run)
    at = info.get("adapter_step")
    kept: dict[str, Any] = next((event for event in reversed(validations) if at is None or event["step"] <= at), {})
    last = validations[-1] if validations else {}
    status = info.get("status")
    return {
        "status": None if status == FINISHED else status,
        "steps": info.get("step"),
        "steps planned": steps.get("total"),
        "adapter of step": at,
        "train loss": (kept.get("train") or {}).get("loss", None if validations else info.get("train_loss")),
        "valid loss": kept.get("loss", info.get("valid_loss")),
        "valid/train": kept.get("ratio"),
        "valid/train at the end": last.get("ratio") if last.get("step") != kept.get("step") else kept.get("ratio"),
        "best metric": best.get("metric"),
        "best value": best.get("value"),
        "best step": best.get("step"),
        "diagnosis": diagnosis.get("verdict"),
        "stopped": info.get("stopped"),
    }


def _validations(run: RunFolder) -> list[dict[str, Any]]:
    """The validations of metrics.jsonl."""
    return [event for event in read_events(run.metrics_file, "validation") if isinstance(event.get("step"), int)]


def _adapter_bytes(run: RunFolder) -> int | None:
    file = run.trained_file
    return file.stat().st_size if file.is_file() else None
