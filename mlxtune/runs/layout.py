"""The names of a run's files and the states that it can be in; nothing else in the package spells them. Opens no file.

runs/RECIPE/RUN/
  recipe.yaml        as resolved, every default spelled out
  run.json           versions, backend, seed, hashes of data and base model, status
  metrics.jsonl      one event a line
  checkpoints/       step-000020/, ..., and index.json: which is the last and which the best
  adapter/           in mlx-lm's layout; its two files are named in backends/adapter.py
  model/             in its place where all weights were trained (lora.type: full): a model folder, float32
  evaluation/NAME/   predictions.jsonl, scores.json, errors.json, judge.jsonl
  fused/, exports/   models and adapters in the forms that other tools read
  verify.json        the recipe's scores on each of these; verify/ holds their replies
  data.json          what the rows were, as `mlxtune data` shows it, for the report
  report.html        the report; report-NAME.html that of another evaluation than the tuned one
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

RUNS = Path("runs")  # where they lie, under the current folder

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = ".lock"
TRACKERS_FILE = "trackers.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"  # which every adapter has; its folder's layout is backends/adapter.py's
ADAPTER_WEIGHTS = "adapters.safetensors"
MODEL = "model"
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
EVALUATIONS = "evaluation"
FUSED = "fused"
EXPORTS = "exports"
VERIFY = "verify"
VERIFY_FILE = "verify.json"
DATA_FILE = "data.json"

# Of an evaluation.
TUNED, BASE = "tuned", "base"  # with and without the adapter
SCORES_FILE = "scores.json"
PREDICTIONS_FILE = "predictions.jsonl"
FREE_PREDICTIONS_FILE = "predictions-free.jsonl"
ERRORS_FILE = "errors.json"
JUDGE_FILE = "judge.jsonl"
PERPLEXITY_FILE = "perplexity.json"  # of documents, which have no replies

# Of the checkpoints.
CHECKPOINT_INDEX = "index.json"
CHECKPOINT_STATE = "state.json"
_CHECKPOINT = "step-"

# What run.json says.
RunStatus = Literal["training", "finished", "interrupted", "failed"]
TRAINING: Final = "training"
FINISHED: Final = "finished"
INTERRUPTED: Final = "interrupted"
FAILED: Final = "failed"
# What is found of a run besides: it says "training", and no process holds it; run.json cannot be read.
CRASHED: Final = "died"
CORRUPT: Final = "damaged"


def report_file(evaluation: str = TUNED, kind: str = "html") -> str:
    """Name of the report of one of a run's evaluations, so that a report of the base model leaves the run's own alone.

    >>> report_file(), report_file("base", "md")
    ('report.html', 'report-base.md')
    """
    return f"report.{kind}" if evaluation == TUNED else f"report-{evaluation}.{kind}"


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint after a step.

    >>> checkpoint_name(20)
    'step-000020'
    """
    return f"{_CHECKPOINT}{step:06d}"


def checkpoint_step(name: str) -> int:
    """The step of a checkpoint's name; -1 where it is none."""
    number = name.removeprefix(_CHECKPOINT)
    return int(number) if number.isdigit() else -1


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in a run's checkpoints/, the last first."""
    found = (path for path in folder.glob(f"{_CHECKPOINT}*") if path.is_dir())
    return sorted(found, key=lambda path: checkpoint_step(path.name), reverse=True)
