"""No key of a recipe is accepted and ignored: each is changed here, and something that a user would see changes with it."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from mlxtune.chat.client import Question
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import MlxtuneError
from mlxtune.evaluation.baselines import ASKED
from mlxtune.evaluation.measure import ask_baselines, evaluate
from mlxtune.evaluation.subject import Subject, load_subject, read_test_rows
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Augment, LabelField, LabelsField, Quantize, Recipe, TextField
from mlxtune.training.tune import tune
from tests.conftest import ROWS, chosen, heard, write_recipe, write_rows
from tests.fakes import Told
from tests.tiny import tiny_model

AUGMENT = {"field": "intents", "value": "payment", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
# Key -> another value than the recipe of `written` has.
CHANGES: dict[str, Any] = {
    "name": "other",
    "model.path": "OTHER",
    "model.revision": "main",
    "model.quantize": {"bits": 4, "group_size": 32},
    "model.quantize.bits": 8,
    "model.quantize.group_size": 64,
    "model.dtype": "bfloat16",
    "model.shard": True,
    "data.train": "short.jsonl",
    "data.more": ["short.jsonl"],
    "data.valid": "short.jsonl",
    "data.valid_fraction": 0.3,
    "data.test": "short.jsonl",
    "data.format": "messages",
    "data.text": "note",
    "data.columns": {"text": "note"},
    "data.clean.dedupe": "near",
    "data.clean.min_chars": 5,
    "data.clean.drop_garbled": True,
    "data.balance": {"field": "intents", "method": "oversample"},
    "data.balance.field": "note",
    "data.balance.method": "undersample",
    "data.balance.ratio": 0.5,
    "data.balance.by": "labels",
    "data.balance.max_repeats": 2,
    "data.augment": AUGMENT,
    "data.augment.field": "note",
    "data.augment.value": "user_auth",
    "data.augment.factor": 3.0,
    "data.augment.endpoint": "http://127.0.0.1:10/v1",
    "data.augment.model": "other",
    "data.augment.temperature": 0.1,
    "data.augment.tries": 1,
    "prompt.system": None,
    "prompt.user": "Message: {text}",
    "prompt.thinking": True,
    "output.template": "Intents: {intents}",
    "output.fields.intents.labels": ["payment", "user_auth", "order_management", "none"],
    "output.fields.intents.kind": "text",
    "output.fields.intents.separator": "; ",
    "output.fields.intents.exclusive": None,
    "output.fields.intents.class_weights": {"payment": 3.0},
    "output.fields.intents.loss_weight": 0.5,
    "lora.type": "dora",
    "lora.rank": 2,
    "lora.alpha": 1,
    "lora.dropout": 0.3,
    "lora.targets": "mlp",
    "lora.layers": 1,
    "lora.rslora": True,
    "train.epochs": 1,
    "train.max_steps": 1,
    "train.batch_size": 3,
    "train.gradient_accumulation": 1,
    "train.tokens_per_pass": 1,
    "train.gradient_checkpointing": True,
    "train.fit": "ignore",
    "train.learning_rate": 1e-3,
    "train.schedule": "constant",
    "train.warmup_ratio": 0.5,
    "train.weight_decay": 0.5,
    "train.max_grad_norm": 0.01,
    "train.max_tokens": 60,
    "train.over_long": "refuse",
    "train.pack_documents": False,
    "train.supervise": "all",
    "train.evaluate_every": 1,
    "train.save_every": 1,
    "train.best_metric": "intents.partial_match",
    "train.metric_rows": 1,
    "train.early_stopping": {"patience": 1, "min_delta": 100.0},
    "train.early_stopping.metric": "intents.exact_match",
    "train.early_stopping.patience": 2,
    "train.early_stopping.min_delta": 100.0,
    "train.load_best": True,
    "train.seed": 1,
    "evaluate.decoding": "free",
    "evaluate.max_new_tokens": 1,
    "evaluate.batch_size": 2,
    "evaluate.baselines": ["majority"],
    "evaluate.keywords": {"payment": ["bill"]},
    "evaluate.few_shot": 1,
    "evaluate.expect": {"intents.exact_match": ">= 0.5"},
    "track": ["tensorboard"],
}
# Other forms that the value of a key may have.
FORMS: dict[str, Any] = {
    "output.fields.intents.class_weights": "balanced",
    "evaluate.expect": {"intents.exact_match": [">= 0.5", "better than before"]},
}
# Where a key counts only beside another one, that is set first.
BESIDE: dict[str, dict[str, Any]] = {
    "model.quantize.bits": {"model.quantize": {"bits": 4, "group_size": 32}},
    "model.quantize.group_size": {"model.quantize": {"bits": 4, "group_size": 32}},
    "train.over_long": {"train.max_tokens": 60},
    "train.fit": {"train.fit": "refuse"},
    "data.text": {"data.clean.min_chars": 5},
    "evaluate.keywords": {"evaluate.baselines": ["keywords"], "evaluate.keywords": {"payment": ["pay"]}},
    "evaluate.few_shot": {"evaluate.baselines": ["few_shot"]},
    "data.valid_fraction": {"data.valid": None},
    "train.metric_rows": {"train.best_metric": "intents.partial_match", "train.epochs": 6, "train.learning_rate": 0.03},
    "train.early_stopping.metric": {"train.early_stopping": {"patience": 1, "min_delta": 0.0}},
    "train.early_stopping.patience": {"train.early_stopping": {"patience": 1, "min_delta": 100.0}, "train.epochs": 4},
    "train.early_stopping.min_delta": {"train.early_stopping": {"patience": 1}, "train.epochs": 4},
    "train.load_best": {
        "train.best_metric": "intents.partial_match",
        "train.learning_rate": 1e-9,
    },  # the first of equals
    "data.balance.field": {"data.balance": {"field": "intents", "method": "oversample"}},
    "data.balance.method": {"data.balance": {"field": "intents", "method": "oversample"}},
    "data.balance.ratio": {"data.balance": {"field": "intents", "method": "oversample"}},
    "data.balance.by": {"data.balance": {"field": "intents", "method": "oversample"}},
    "data.balance.max_repeats": {"data.balance": {"field": "intents", "method": "oversample"}},
    **{f"data.augment.{name}": {"data.augment": AUGMENT} for name in Augment.model_fields},
}


class Rewriter:
    """A chat server that answers every question in words of its own, and those of the first round with nothing."""

    def __init__(self, settings: Augment, cache: Path) -> None:
        self._settings, self._n_rounds = settings, 0

    def answers(self, questions: Sequence[Question], on_answer: Callable[[int], None]) -> list[str]:
        self._n_rounds += 1
        return [self._answer(question) if self._n_rounds > 1 else "" for question in questions]

    def _answer(self, question: Question) -> str:
        asked = f"{self._settings.endpoint} {question.temperature} {question.seed} {self._settings.model}"
        digest = hashlib.sha256(asked.encode()).digest()[:20]
        return "".join("bdgklmnprstvwzfh"[byte % 16] + "aeiou"[byte % 5] + " " * (byte % 3 == 0) for byte in digest)


def leaves(section: Any, prefix: str = "") -> set[str]:
    """Every key that holds a value, from the recipe's own classes."""
    found: set[str] = set()
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if is_section(kind)]
        if not inner:
            found.add(prefix + name)
        for kind in inner:
            found |= leaves(kind, f"{prefix}{name}.")
            if isinstance(field.annotation, types.UnionType):
                found.add(prefix + name)
    return found


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_every_key_of_the_recipes_classes_is_changed_here() -> None:
    keys = leaves(Recipe) - {"output.fields"}
    for kind in (LabelField, LabelsField, TextField):
        keys |= {f"output.fields.intents.{name}" for name in kind.model_fields}
    assert {"model.quantize.bits", "lora.rank"} <= keys and Quantize.model_fields.keys() == {"bits", "group_size"}
    assert keys == set(CHANGES)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose data holds something for every key to act on."""
    folder = tmp_path_factory.mktemp("every-key")
    base = tiny_model(folder / "base", "qwen3", hidden=64)
    tiny_model(folder / "other", "qwen3", hidden=64, seed=5)
    file = write_recipe(
        folder, base, train={"epochs": 2, "over_long": "drop"}, evaluate={"max_new_tokens": 12, "batch_size": 4}
    )
    extra = [
        {"text": "Cancel the payment!", "intents": ["payment"]},
        {"text": "###???***%%%", "intents": ["none"]},
        {"text": "我想登录我的账号", "intents": ["user_auth"]},
    ]
    rows = [{**row, "note": f"note {number}"} for number, row in enumerate([*ROWS, *extra])]
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "short.jsonl", [{**row, "note": "short"} for row in ROWS[:3]])
    return file


def footprint(file: Path, overrides: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything a user sees of training and evaluating, times and paths left out; or the refusal."""
    monkeypatch.chdir(folder)
    seen: list[Any] = []
    try:
        recipe = load_recipe(file, [f"{key}={json.dumps(value)}" for key, value in overrides.items()])
        with heard("mlxtune.training") as said_of_training:
            tuned = tune(
                recipe, chosen(), None, on_event=lambda event: seen.append(dict(event)), measures=reply_metrics
            )
        seen += said_of_training
        model, tokenizer = load_subject(Subject(recipe, tuned.run, base=False), chosen().backend)
        told = Told()
        asked = (recipe, model, tokenizer, read_test_rows(recipe), folder / "evaluation")
        names = [name for name in recipe.evaluate.baselines if name in ASKED]
        generate, slots = type(model).generate, set()

        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            slots.add(kwargs["slots"])  # how many replies at a time: who looks at memory sees it
            return generate(self, *args, **kwargs)

        with monkeypatch.context() as watching:
            watching.setattr(type(model), "generate", watched)
            replies = ask_baselines(*asked, names, progress=told)
            scores = evaluate(*asked, asked_baselines=replies, progress=told).result.to_json()
        seen += told.advanced
    except MlxtuneError as error:
        return f"{type(error).__name__}: {error}".replace(str(folder), "")
    events = [{key: value for key, value in event.items() if key not in ("seconds", "peak_memory_gb", "cache_memory_gb")}
              for event in seen if isinstance(event, dict)]  # fmt: skip
    said = [item for item in seen if not isinstance(item, dict)]
    weights = hashlib.sha256((tuned.run.adapter / "adapters.safetensors").read_bytes()).hexdigest()
    where = tuned.run.path.parent.name
    pattern = ReplyTemplate(recipe.output).pattern()
    shown = [scores["fields"], scores["decoding"], scores.get("baselines"), scores.get("expectations")]
    shown.append({name: [one.prediction for one in one_of.predictions] for name, one_of in replies.items()})
    return json.dumps([events, said, sorted(slots), weights, where, pattern, *shown], sort_keys=True)


@pytest.fixture(scope="module")
def footprints() -> dict[str, str]:
    """What recipes without a change leave, by what stands beside the key: most keys are compared with the same one."""
    return {}


@pytest.mark.parametrize(("key", "value"), [*CHANGES.items(), *FORMS.items()])
def test_changing_a_key_changes_something(
    key: str, value: Any, written: Path, footprints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == "model.path":
        value = str(written.parent / "other")
    elif isinstance(value, str) and value.endswith(".jsonl"):
        value = str(written.parent / value)
    beside = BESIDE.get(key, {})
    if key.startswith("data.augment"):  # each time as on another machine, where nothing was rewritten yet
        monkeypatch.setattr("mlxtune.data.augment._open", Rewriter)
        monkeypatch.setattr("mlxtune.data.prepare.cache_folder", lambda: Path.cwd() / "cache")
    if key == "train.fit":  # as where the model is too large
        monkeypatch.setattr("mlxtune.training.memory.ADAPTER_BYTES", 10**12)
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    unchanged = json.dumps(beside)
    if unchanged not in footprints:
        footprints[unchanged] = footprint(written, beside, tmp_path / "before", monkeypatch)
    before = footprints[unchanged]
    again = footprint(written, {**beside, key: value}, tmp_path / "after", monkeypatch)
    assert before != again
    assert not before.startswith("ModelError")


def test_the_same_recipe_leaves_the_same_footprint(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every test above would pass for nothing."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = footprint(written, {}, tmp_path / "one", monkeypatch)
    two = footprint(written, {}, tmp_path / "two", monkeypatch)
    assert one == two and '"event": "validation"' in one
