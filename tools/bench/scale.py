"""How preparing ticket data, and scoring replies that are there already, grow with the rows: seconds and peak memory.

    python tools/bench/scale.py                                  # 1,000 to 100,000 rows, both parts
    python tools/bench/scale.py --part prepare --text template   # texts that differ in a few slots only
    python tools/bench/scale.py --part score --rows 4240 --train /tmp/tickets/train.jsonl

Preparing is what comes before the first optimizer step: reading, cleaning (near-duplicates included), tokenizing, and the
batches of one epoch; "again" is a second start, which reads what the first has kept, up to its first step's batches. Scoring is `mlxtune evaluate RECIPE --predictions FILE`: its baselines learn from the recipe's own
training rows, or from those in `--train`, whatever the number of rows scored. Each part runs in a process of its own for
each number of rows, so that its peak memory is its own; the memory of its imports and tokenizer stands beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

ROWS = (1_000, 3_000, 10_000, 30_000, 100_000)
PARTS = ("prepare", "again", "score")
RIGHT = 0.7  # share of the fields that the replies to score have right
MB = 1e6


def main() -> None:
    """Measure and print a table, or one process's figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo-ticket.yaml")
    parser.add_argument("--rows", type=positive, nargs="+", default=ROWS, metavar="N")
    parser.add_argument("--part", choices=PARTS, action="append", help="one of the three; all without it")
    parser.add_argument("--text", choices=("tickets", "template"), default="tickets", help="what the texts are like")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="in place of that of the recipe's model")
    parser.add_argument("--train", type=Path, metavar="FILE", help="training rows of the baselines, when scoring")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        n_rows, part = words.rows[0], words.part[0]
        rows = words.one / "rows.jsonl"
        if part == "prepare":
            print(json.dumps(prepared(words.recipe, rows, words.tokenizer)))
        elif part == "again":
            os.environ["MLXTUNE_CACHE"] = str(words.one / "cache")
            print(json.dumps(prepared_again(words.recipe, rows, words.tokenizer)))
        elif part == "score":
            print(json.dumps(scored(words.recipe, rows, words.one / "replies.jsonl", words.train)))
        return
    results: list[dict[str, Any]] = []
    for n_rows in words.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder), n_rows, words.text)
            for part in dict.fromkeys(words.part or PARTS):
                results.append({"part": part, "rows": n_rows, **run(words, part, n_rows, folder)})
                print(f"{part}: {n_rows:,} rows in {results[-1]['seconds']:.1f} s", file=sys.stderr)
    print(json.dumps({"text": words.text, "results": results}) if words.json else table(results))


def positive(text: str) -> int:
    """A number of rows from the command line."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run(words: argparse.Namespace, part: str, n_rows: int, folder: str) -> dict[str, Any]:
    """The figures of one part and number of rows, from a process of its own."""
    command = [sys.executable, __file__, "--one", folder, "--part", part, "--rows", str(n_rows)]
    for name in ("recipe", "tokenizer", "train"):
        value = getattr(words, name)
        command += [f"--{name}", str(value)] if value else []
    if part == "again":  # the first start, whose figures nobody needs
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} of {n_rows} rows failed; its message stands above")
    return dict(json.loads(done.stdout))


def prepared(recipe_file: Path, rows_file: Path, tokenizer_folder: Path | None) -> dict[str, Any]:
    """Seconds and memory from the file of rows to the batches of an epoch."""
    from mlxtune.data.prepare import RecipeRows, training_split
    from mlxtune.models.base_model import config_and_tokenizer
    from mlxtune.models.tokenizer import load_tokenizer
    from mlxtune.recipe.load import load_recipe
    from mlxtune.training.loop import BatchSampler
    from mlxtune.training.memory import PASS_SIZES

    recipe = load_recipe(recipe_file, [f"data.train={rows_file}", "data.valid=null"])
    tokenizer = load_tokenizer(tokenizer_folder or config_and_tokenizer(recipe.model)[1])
    settings = recipe.train
    figures: dict[str, Any] = {}
    with measured(figures):
        split = training_split(RecipeRows(recipe), tokenizer)
        figures["examples"] = len(split.examples)
        order = BatchSampler(split.examples, settings.rows_per_step, PASS_SIZES[0], settings.seed)
        n_steps = math.ceil(len(split.examples) / settings.rows_per_step)
        begun = time.process_time()
        figures["batches"] = sum(len(order.step(step)) for step in range(1, n_steps + 1))
        figures["ms_of_a_step"] = 1_000 * (time.process_time() - begun) / n_steps
    return figures


def prepared_again(recipe_file: Path, rows_file: Path, tokenizer_folder: Path | None) -> dict[str, Any]:
    """Seconds and memory from the file of rows to the first step's batches, of rows that may have been prepared before."""
    from mlxtune.data.prepared_cache import cached_prepare
    from mlxtune.models.base_model import config_and_tokenizer
    from mlxtune.models.tokenizer import load_tokenizer
    from mlxtune.recipe.load import load_recipe
    from mlxtune.training.loop import BatchSampler
    from mlxtune.training.memory import PASS_SIZES

    recipe = load_recipe(recipe_file, [f"data.train={rows_file}", "data.valid=null"])
    tokenizer = load_tokenizer(tokenizer_folder or config_and_tokenizer(recipe.model)[1])
    settings = recipe.train
    figures: dict[str, Any] = {}
    with measured(figures):
        examples = cached_prepare(recipe, tokenizer).training.examples
        order = BatchSampler(examples, settings.rows_per_step, PASS_SIZES[0], settings.seed)
        figures["examples"], figures["batches"] = len(examples), len(order.step(1))
    return figures


def scored(recipe_file: Path, rows_file: Path, replies: Path, train: Path | None) -> dict[str, Any]:
    """Seconds and memory from two files, of rows and of replies, to the scores in a third."""
    from mlxtune.data.rows import read_rows
    from mlxtune.evaluation.measure import evaluate_replies
    from mlxtune.evaluation.predict.given import read_replies
    from mlxtune.recipe.load import load_recipe

    train_set = [] if train is None else [f"data.train={train.resolve()}"]
    recipe = load_recipe(recipe_file, [f"data.test={rows_file}", *train_set])
    figures: dict[str, Any] = {}
    with measured(figures):
        rows = read_rows(rows_file)
        done = evaluate_replies(recipe, read_replies(replies, rows, recipe), rows, rows_file.parent / "evaluation")
    figures["scored"] = done.result.top.rows
    return figures


@contextmanager
def measured(figures: dict[str, Any]) -> Iterator[None]:
    """Put seconds and the memory before and at its peak into the figures."""
    gc.collect()
    figures["mb_before"] = peak_mb()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    yield
    figures["seconds"] = time.perf_counter() - begun
    figures["cpu_seconds"] = time.process_time() - cpu_begun
    figures["mb_peak"] = peak_mb()


def peak_mb() -> float:
    """Most memory that this process has held so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MB if sys.platform == "darwin" else peak * 1024 / MB  # bytes there, KiB elsewhere


def write_rows(folder: Path, n_rows: int, text: str) -> None:
    """Tickets into rows.jsonl, and replies that a model could have given into replies.jsonl.

    A reply takes each field, also the text, from its own row or, one time in three, from another row.
    """
    from make_tickets import make_rows

    drawn = random.Random(0)
    rows = [json.loads(ticket.line()) for ticket in make_rows(n_rows)]
    if text == "template":
        for row in rows:
            row["text"] = from_template(drawn)
    names = ("type", "queue", "priority", "tags", "response")
    with (folder / "rows.jsonl").open("w") as file, (folder / "replies.jsonl").open("w") as replies:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            said = {name: (row if drawn.random() < RIGHT else drawn.choice(rows))[name] for name in names}
            reply = (
                f"Classification:\n- Type: {said['type']}\n- Queue: {said['queue']}\n- Priority: {said['priority']}\n"
                f"- Tags: {', '.join(said['tags'])}\n\nResponse:\n{said['response']}"
            )
            replies.write(json.dumps({"id": row["id"], "prediction": reply}) + "\n")


def from_template(drawn: random.Random) -> str:
    """A text of the one template: most pairs are no near-duplicates, and nearly all look as if they could be."""
    day = drawn.choice(["Monday", "Tuesday", "Friday", "yesterday", "this morning", "last week", "the update"])
    who = drawn.choice(["a colleague", "somebody", "the finance team", "the night shift", "a customer", "our partner"])
    parts = ["".join(drawn.choices("bdfgklmnprstvaeiou", k=drawn.randint(5, 10))) for _ in range(3)]
    return (
        f"Since {day} the {parts[0]} module of our {parts[1]} system shows error {drawn.randint(100, 9999)} whenever {who} "
        f"opens the {parts[2]} page, and {drawn.randint(2, 400)} people cannot work until it is fixed."
    )


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, a row for each part and number of rows."""
    lines = [
        "| part | rows | s | CPU s | s per 1,000 rows | CPU ms for a step's batches | peak MB | MB before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in PARTS:
        for one in (result for result in results if result["part"] == part):
            each = 1_000 * one["seconds"] / one["rows"]
            batches = f"{one['ms_of_a_step']:.2f}" if "ms_of_a_step" in one else ""
            lines.append(
                f"| {part} | {one['rows']:,} | {one['seconds']:.1f} | {one['cpu_seconds']:.1f} | {each:.2f} | {batches} "
                f"| {one['mb_peak']:,.0f} | {one['mb_before']:,.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
