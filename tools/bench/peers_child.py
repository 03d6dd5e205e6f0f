"""One way of training or replying, in a process of its own for `peers.py`: computes a turn, prints a line of JSON, waits for a line.

python tools/bench/peers_child.py WAY JOB      # JOB is JSON that peers.py writes
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

OPENBLAS = "libopenblas.so.0"


def main() -> None:
    """Run the way that the command line names."""
    way, job = sys.argv[1], json.loads(sys.argv[2])
    if way.startswith("mlxtune"):
        (mlxtune_replies if "run" in job else mlxtune_training)(way.partition("-")[2], job)
    elif way == "mlx_lm.lora":
        mlx_lm_training(job)
    elif way.startswith("mlx_lm."):
        mlx_lm_replies(way, job)
    elif way == "transformers":
        transformers_replies(job)
    else:
        (trl_training if way == "TRL" else peft_training)(job)


def turn(event: str, peak_gb: float | None = None, **more: Any) -> None:
    """Say that a turn has ended, and wait for the next; the process ends where there is none."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    process_gb = kib / 1e9 if sys.platform == "darwin" else kib * 1024 / 1e9
    figures = {"peak_gb": peak_gb, "process_gb": process_gb, "cpu_s": time.process_time()}
    print(json.dumps({"event": event, **figures, **more}), flush=True)
    if not sys.stdin.readline():
        os._exit(0)


# mlxtune ---------------------------------------------------------------------------------------------------------------


def mlxtune_training(backend: str, job: dict[str, Any]) -> None:
    """`mlxtune lora`, which waits after each step."""
    from mlxtune.backends import choose
    from mlxtune.recipe.load import load_recipe
    from mlxtune.training.tune import tune

    chosen = choose(backend)

    def on_event(event: Any) -> None:
        if event["event"] == "step":
            counted = backend == "mlx" or chosen.backend.device().kind != "cpu"
            turn("step", event["peak_memory_gb"] if counted else None)

    recipe = load_recipe(Path(job["recipe"]), [*job["sets"], "train.epochs=1000"])
    tune(recipe, chosen, Path(job["work"]) / f"run-{backend}", True, on_event)


def mlxtune_replies(backend: str, job: dict[str, Any]) -> None:
    """`mlxtune evaluate`'s replies, as the recipe decodes."""
    from mlxtune.backends import choose
    from mlxtune.evaluation.predict.predictor import Predictor
    from mlxtune.evaluation.subject import find_subject, load_subject, read_test_rows

    subject = find_subject(Path(job["run"]), ())
    chosen = choose(backend)
    model, tokenizer = load_subject(subject, chosen.backend)
    predictor = Predictor(subject.recipe, model, tokenizer)
    rows = read_test_rows(subject.recipe)[: job["rows"]]
    counted = backend == "mlx" or chosen.backend.device().kind != "cpu"
    turn("ready")
    while True:
        replies = [reply.text for reply in predictor.replies(rows)]
        turn("replies", chosen.backend.peak_memory_bytes() / 1e9 if counted else None, replies=replies)


class Asked(NamedTuple):
    """What a way replies to, and with what.

    Attributes:
        prompts: Token ids of the run's test rows.
        folder: The base model.
        adapter: The run's.
        limit: Tokens of a reply at most, the recipe's own.
        batch: Prompts answered together, likewise.
    """

    prompts: list[list[int]]
    folder: Path
    adapter: Path
    limit: int
    batch: int


def asked_of(job: dict[str, Any]) -> Asked:
    """What the job's run is asked."""
    from mlxtune.data.examples import prompt_ids
    from mlxtune.evaluation.subject import find_subject, read_test_rows
    from mlxtune.models.tokenizer import load_tokenizer

    run = Path(job["run"])
    folder = Path(json.loads((run / "run.json").read_text())["base"]["folder"])
    recipe = find_subject(run, ()).recipe
    rows = read_test_rows(recipe)[: job["rows"]]
    prompts = [[int(token) for token in ids] for ids in prompt_ids(rows, recipe, load_tokenizer(folder))]
    return Asked(prompts, folder, run / "adapter", recipe.evaluate.max_new_tokens, recipe.evaluate.batch_size)


# mlx-lm ------------------------------------------------------------------------------------------------------------------


def mlx() -> Any:
    """mlx.core, computing as fast as mlxtune's backend does: on a CPU with OpenBLAS, and with float32 that is not rounded."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    if sys.platform.startswith("linux"):
        ctypes.CDLL(OPENBLAS, mode=ctypes.RTLD_GLOBAL)
    import mlx.core as mx

    return mx


def mlx_lm_training(job: dict[str, Any]) -> None:
    """`mlx_lm.lora`, which waits after each step."""
    mx = mlx()
    import mlx_lm.lora as lora
    from mlx_lm.tuner.callbacks import TrainingCallback

    class Callback(TrainingCallback):  # type: ignore[misc]
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            turn("step", mx.get_peak_memory() / 1e9)

    # `run` ignores the callback that it is given.
    lora.get_reporting_callbacks = lambda *others, **more: Callback()
    settings = {
        "model": job["model"], "train": True, "data": str(Path(job["work"]) / "chats"), "mask_prompt": True, "optimizer": "adamw",
        "num_layers": job["n_blocks"] - job["blocks"][0], "batch_size": job["batch"], "iters": 10**6, "steps_per_report": 1,
        "learning_rate": job["learning_rate"], "adapter_path": str(Path(job["work"]) / "mlx-lm"), "save_every": 10**6,
        "lora_parameters": {"keys": job["keys"], "rank": job["rank"], "scale": job["scale"], "dropout": 0.0},
    }  # fmt: skip
    sys.stdout, out = sys.stderr, sys.stdout  # its own lines are not for peers.py
    sys.stdout = Filtered(out)
    lora.run(SimpleNamespace(**{**lora.CONFIG_DEFAULTS, **settings}))


class Filtered:
    """stdout without the lines of a library."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Pass on what `turn` prints."""
        return int(self._out.write(text)) if text.startswith('{"event"') or text == "\n" else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


def mlx_lm_replies(way: str, job: dict[str, Any]) -> None:
    """`mlx_lm.batch_generate`, or `mlx_lm.generate` one by one, with the run's adapter."""
    asked = asked_of(job)
    mx = mlx()
    from mlx_lm import batch_generate, generate, load

    model, tokenizer, *_ = load(str(asked.folder), adapter_path=str(asked.adapter))
    if mx.default_device() == mx.Device(mx.cpu):
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    turn("ready")
    while True:
        if way == "mlx_lm.generate":
            replies = [generate(model, tokenizer, prompt, max_tokens=asked.limit) for prompt in asked.prompts]
        else:
            replies = batch_generate(model, tokenizer, asked.prompts, max_tokens=asked.limit).texts
        turn("replies", mx.get_peak_memory() / 1e9, replies=replies)


# PyTorch -----------------------------------------------------------------------------------------------------------------


def torch_device() -> tuple[str, Callable[[], float | None]]:
    """Where PyTorch computes, and what says how much memory its arrays took there."""
    import torch

    if not torch.cuda.is_available():
        return "cpu", lambda: None
    return "cuda", lambda: torch.cuda.max_memory_allocated() / 1e9


def lora_config(job: dict[str, Any]) -> Any:
    """The adapter's shape, as PEFT has it."""
    from peft import LoraConfig

    return LoraConfig(
        r=job["rank"], lora_alpha=job["scale"] * job["rank"], lora_dropout=0.0, layers_to_transform=job["blocks"],
        target_modules=[key.rpartition(".")[2] for key in job["keys"]], task_type="CAUSAL_LM",
    )  # fmt: skip


def tokens_of(job: dict[str, Any]) -> list[dict[str, list[int]]]:
    """Prompt and reply of each row, in random order."""
    import random

    lines = (Path(job["work"]) / "tokens.jsonl").read_text().splitlines()
    random.Random(0).shuffle(lines)
    return [json.loads(line) for line in lines]


def peft_training(job: dict[str, Any]) -> None:
    """The usual loop over a PEFT model: padded batches, labels of the reply, AdamW, gradient norm 1."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    device, peak_gb = torch_device()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).to(device)
    model = get_peft_model(model, lora_config(job))
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job["learning_rate"])
    rows, size = tokens_of(job), job["batch"]
    while True:
        for start in range(0, len(rows) - size + 1, size):
            batch = padded(rows[start : start + size], device)
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            turn("step", peak_gb())


def padded(rows: Sequence[dict[str, list[int]]], device: str) -> dict[str, Any]:
    """Rows as one batch, padded on the right; labels are the reply's."""
    import torch

    ids = [row["prompt"] + row["reply"] for row in rows]
    shape = (len(rows), max(map(len, ids)))
    tokens, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    for place, row in enumerate(rows):
        end = len(ids[place])
        tokens[place, :end], mask[place, :end] = torch.tensor(ids[place]), 1
        labels[place, len(row["prompt"]) : end] = torch.tensor(row["reply"])
    return {"input_ids": tokens.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def trl_training(job: dict[str, Any]) -> None:
    """TRL's SFTTrainer on tokenized rows with a completion mask."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    device, peak_gb = torch_device()

    class Callback(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *others: Any, **more: Any) -> None:
            turn("step", peak_gb())

    rows = [
        {
            "input_ids": row["prompt"] + row["reply"],
            "completion_mask": [0] * len(row["prompt"]) + [1] * len(row["reply"]),
        }
        for row in tokens_of(job)
    ]
    settings = SFTConfig(
        output_dir=str(Path(job["work"]) / "trl"), per_device_train_batch_size=job["batch"], max_steps=10**6, report_to=[],
        learning_rate=job["learning_rate"], save_strategy="no", logging_strategy="no", completion_only_loss=True,
        use_cpu=device == "cpu", bf16=False, gradient_checkpointing=False, max_length=None, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    SFTTrainer(
        model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=lora_config(job), callbacks=[Callback()],
    ).train()  # fmt: skip


def transformers_replies(job: dict[str, Any]) -> None:
    """transformers' `generate` on batches padded on the left, with the run's adapter merged into the weights."""
    import subprocess

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = asked_of(job)
    device, peak_gb = torch_device()
    adapter = Path(job["work"]) / "peft"
    export = [sys.executable, "-m", "mlxtune", "export", job["run"], "--to", "peft", "--out", str(adapter), "--force"]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    model = AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload().to(device)
    tokenizer = AutoTokenizer.from_pretrained(asked.folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    turn("ready")
    while True:
        replies: list[str] = []
        for start in range(0, len(asked.prompts), asked.batch):
            batch = tokenizer.pad({"input_ids": asked.prompts[start : start + asked.batch]}, return_tensors="pt").to(
                device
            )
            with torch.inference_mode():
                said = model.generate(**batch, max_new_tokens=asked.limit, do_sample=False)
            replies += tokenizer.batch_decode(said[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        turn("replies", peak_gb(), replies=replies)


if __name__ == "__main__":
    main()
