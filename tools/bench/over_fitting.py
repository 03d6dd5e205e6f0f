"""Does the ticket recipe over-fit, and do three experiments on it help? Trains each on a few hundred tickets and compares them.

    python tools/bench/over_fitting.py --out runs/over-fitting

The recipes are those of recipes/ as they stand, but for what a small model on few rows needs, which every run shares: a
base that can do the task roughly, which SmolLM2-135M alone cannot (it is taught by one epoch of demo-ticket.yaml on the
training rows that no recipe gets), adapted in its upper half; the first `--rows` training rows, two an optimizer step;
a learning rate `--rate-factor` times as high; a validation an epoch; replies cut after their labels.
A finished run is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlxtune.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = ("qwen2-ticket", "exp-1", "exp-2", "exp-3")


def main() -> None:
    """Train, evaluate and compare; print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=240, help="training rows")
    parser.add_argument("--valid-rows", type=int, default=80)
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--rate-factor", type=float, default=10.0, help="on each recipe's learning rate")
    parser.add_argument("--batch-size", type=int, default=2, help="rows of an optimizer step")
    parser.add_argument("--base", metavar="MODEL", help="start from this one, without teaching it")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    counts = {"train": words.rows, "valid": words.valid_rows, "test": words.test_rows}
    files = {name: rows_of(name, words.out, stop=count) for name, count in counts.items()}
    base = words.base or taught_base(words.out, rows_of("train", words.out, start=words.rows), files["valid"])
    runs = [words.out / name for name in words.recipes]
    for run in runs:
        recipe = ROOT / "recipes" / f"{run.name}.yaml"
        trained(recipe, run, settings(recipe, base, files, words))
    print(table(runs))


def settings(recipe: Path, base: str | Path, files: dict[str, Path], words: argparse.Namespace) -> list[str]:
    """What the small model and its few rows need, as --set words."""
    said = load_recipe(recipe)
    values = {
        "model.path": base,
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
    return overrides(values)


def overrides(values: dict[str, Any]) -> list[str]:
    """The words of a command line that set these keys."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def taught_base(out: Path, train: Path, valid: Path) -> Path:
    """The small model after an epoch on other rows, as a folder; made unless that was done before."""
    run, base = out / "base-run", out / "base"
    if not base.exists():
        sets = {"data.train": train, "data.valid": valid, "train.max_steps": "null", "train.batch_size": 2}
        if not is_finished(run):
            mlxtune("lora", ROOT / "recipes/demo-ticket.yaml", "--out", run, "--force", *overrides(sets))
        mlxtune("fuse", run, "--out", base)
    return base


def trained(recipe: Path, run: Path, sets: list[str]) -> None:
    """Train and evaluate a run, unless that was done before."""
    if not is_finished(run):
        mlxtune("lora", recipe, "--out", run, "--force", *sets)
    if not (run / "evaluation/tuned/scores.json").exists():
        mlxtune("evaluate", run)


def is_finished(run: Path) -> bool:
    """Whether a run was trained to its end."""
    info = run / "run.json"
    return info.exists() and json.loads(info.read_text(encoding="utf-8"))["status"] == "finished"


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


def rows_of(split: str, out: Path, start: int = 0, stop: int | None = None) -> Path:
    """A file of some of a split's rows."""
    lines = (ROOT / f"data/tickets/{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    part = out / f"{split}-{start}-{len(lines) if stop is None else stop}.jsonl"
    part.write_text("".join(lines[start:stop]), encoding="utf-8")
    return part


def mlxtune(*words: object) -> None:
    """Run a command in a process of its own; its result goes to stderr, as its progress does."""
    subprocess.run([sys.executable, "-m", "mlxtune", *map(str, words)], stdout=sys.stderr, check=True)


if __name__ == "__main__":
    main()
