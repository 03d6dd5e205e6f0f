"""What scores, comparisons, judges and reviews come to, whole: fixed replies in English and Chinese, compared with files.

Nothing here says what is right. It holds every figure, key and sentence of an evaluation as it was, so that a change of
the code that is not meant to change them can be seen not to. After a change that is: `python -m tests.evaluation.test_golden`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from numpy.typing import NDArray

from mlxtune.backends.base import Constraint, Generation
from mlxtune.cli import cli
from mlxtune.data.rows import read_rows
from mlxtune.evaluation.measure import EvaluationOptions, ask_baselines, evaluate
from mlxtune.evaluation.results import EvaluatedModel, EvaluationResult, FileIdentity
from mlxtune.evaluation.stored import read_result
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.report.terminal.tables import before_after, error_tables, score_tables, to_text
from mlxtune.report.terminal.text_tables import case_tables
from tests.chatting import Request, Sent, answer, serve
from tests.fakes import AnyModel
from tests.made_runs import made_run, validation
from tests.tiny import tiny_tokenizer

GOLDEN = Path(__file__).parent / "golden"
LANGUAGES = ("en", "zh")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
# What differs from run to run: times, and where the files lay.
UNSTABLE = {"evaluated", "speed", "baseline_speed", "made", "read", "written", "url"}


def write_rows(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def stable(value: Any, root: str) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: "..." if key in UNSTABLE else stable(one, root) for key, one in value.items()}
    if isinstance(value, list):
        return [stable(one, root) for one in value]
    return value.replace(root, "ROOT") if isinstance(value, str) else value


def as_text(value: Any, root: str) -> str:
    return json.dumps(stable(value, root), indent=1, ensure_ascii=False) + "\n"


def command(*words: object) -> str:
    """What a command prints on stdout."""
    done = CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


# Cases: each writes what it gives into a mapping, file name -> text --------------------------------------------------


def given_replies(source: Path, folder: Path) -> dict[str, str]:
    """`evaluate --predictions`: scores.json, errors.json, predictions.jsonl and the terminal, of two systems."""
    found: dict[str, str] = {}
    root = str(Path.cwd())
    for name in ("tuned", "base"):
        words = ("evaluate", source / "recipe.yaml", "--predictions", source / f"replies-{name}.jsonl")
        out = folder / name
        printed = json.loads(command(*words, "--out", out, "--json"))
        scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
        assert {key: value for key, value in printed.items() if key in scores} == scores
        found[f"{name}/scores.json"] = as_text(scores, root)
        if name == "base":  # every file of one of them, the one with more mistakes
            errors = json.loads((out / "errors.json").read_text(encoding="utf-8"))
            found[f"{name}/errors.json"] = as_text(errors, root)
        found[f"{name}/predictions.jsonl"] = (out / "predictions.jsonl").read_text(encoding="utf-8").replace(
            root, "ROOT"
        )  # fmt: skip
        found[f"{name}/terminal.txt"] = command(*words, "--errors", 3).replace(root, "ROOT")
    return found


def runs_side_by_side(source: Path, folder: Path) -> dict[str, str]:
    """`compare` of two runs in all its forms, with a judge, and `review` of them out and back in."""
    test = lines(source / "test.jsonl")
    runs = []
    for name, metrics, more in (
        ("base", [validation(10, 0.9, 0.8)], {"lora": {"rank": 4, "alpha": 8}}),
        ("tuned", [validation(10, 0.8, 0.7), validation(20, 0.5, 0.3)], {}),
    ):
        content = yaml.safe_load((source / "recipe.yaml").read_text(encoding="utf-8")) | more
        for file in ("train.jsonl", "test.jsonl"):
            shutil.copy(source / file, folder / file)
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        replies = {one["id"]: one["prediction"] for one in lines(source / f"replies-{name}.jsonl")}
        in_order = [replies[row["id"]] for row in test]
        runs.append(made_run(folder / "runs" / name, recipe, in_order, metrics=metrics, valid_loss=0.5))
    found: dict[str, str] = {}
    root = str(Path.cwd())
    found["compare.json"] = as_text(json.loads(command("compare", *runs, "--json")), root)
    for form in ("markdown", "csv"):
        found[f"compare.{form}"] = command("compare", *runs, f"--{form}").replace(root, "ROOT")
    found["compare.txt"] = command("compare", *runs).replace(root, "ROOT")
    with serve(judging) as server:
        judge = ("--judge", server.url, "--judge-model", "made-up")
        judged = json.loads(command("compare", *runs, *judge, "--json"))["judge"]
        found["judge-pairs.json"] = as_text(judged, root)
        found["judge-pairs.txt"] = command("compare", *runs, *judge).replace(root, "ROOT")
        words = ("evaluate", source / "recipe.yaml", "--predictions", source / "replies-tuned.jsonl", *judge)
        scores = json.loads(command(*words, "--out", folder / "judged", "--json"))
        assert json.loads((folder / "judged" / "scores.json").read_text(encoding="utf-8"))["judge"] == scores["judge"]
        found["judge.json"] = as_text(scores["judge"], root)
        found["judge.jsonl"] = (folder / "judged" / "judge.jsonl").read_text(encoding="utf-8").replace(
            root, "ROOT"
        )  # fmt: skip
        found["judge.txt"] = command(*words, "--errors", 2).replace(root, "ROOT")
    command("review", *runs, "--sample", 9, "--out", folder / "review")
    sheet = folder / "review" / "human_eval_template.csv"
    found["sheet.csv"] = sheet.read_text(encoding="utf-8-sig")
    filled = [filled_sheet(sheet, folder / f"{name}.csv", number) for number, name in enumerate(("anna", "ben"))]
    said = [word for file in filled for word in ("--scores", file)]
    found["review.txt"] = command("review", *runs, *said, "--out", folder / "review").replace(root, "ROOT")
    human = json.loads((folder / "review" / "human_eval.json").read_text(encoding="utf-8"))
    # Hashes are of files that name the folder they were made in.
    found["human_eval.json"] = re.sub(r'"sha256": "\w+"', '"sha256": "..."', as_text(human, root))
    return found


def asked_model(source: Path, folder: Path) -> dict[str, str]:
    """A model asked everything that can be asked: two decodings, probabilities, samples, baselines, and before tuning."""
    content = yaml.safe_load((source / "recipe.yaml").read_text(encoding="utf-8"))
    field = content["output"]["fields"]["intents"]
    content["model"]["path"] = str(tiny_tokenizer(folder / "base"))
    content["output"] = {"template": "{intents}", "fields": {"intents": field}}
    content["data"] = {"train": "train.jsonl", "valid": "valid.jsonl", "test": "test.jsonl"}
    content["evaluate"] |= {
        "baselines": ["majority", "zero_shot", "few_shot"],
        "few_shot": 2,
        "keywords": {},
        "max_new_tokens": 60,
    }
    shutil.copy(source / "test.jsonl", folder / "test.jsonl")
    train = lines(source / "train.jsonl")
    write_rows(folder / "train.jsonl", train[:24])
    write_rows(folder / "valid.jsonl", train[24:])
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    recipe = load_recipe(file)
    rows, valid = (read_rows(Path(str(name)), recipe.data.columns) for name in (recipe.data.test, recipe.data.valid))
    tokenizer = load_tokenizer(folder / "base")
    values = {str(row.fields["text"]): field["separator"].join(row.fields["intents"]) for row in [*rows, *valid]}
    data = FileIdentity("test.jsonl", "0", len(rows))
    untuned_model = EvaluatedModel("a model", None, "2:abc", "the same", None, data, "mlx")
    found: dict[str, str] = {}
    made: dict[str, EvaluationResult] = {}
    for name, skill, before in (("base", 0.4, []), ("tuned", 0.9, [folder / "evaluated-base"])):
        model = MadeUpModel(tokenizer, values, field["labels"], skill)
        out = folder / f"evaluated-{name}"
        asked = None
        if before:
            untuned = MadeUpModel(tokenizer, values, field["labels"], 0.4)
            asked = ask_baselines(
                recipe, untuned, tokenizer, rows, out, ["zero_shot", "few_shot"], "both", untuned_model
            )
        adapter = FileIdentity("adapters.safetensors", "1") if before else None
        result = made[name] = evaluate(
            recipe, model, tokenizer, rows, out, EvaluationOptions("both", True, valid, 3, 0.7),
            replace(untuned_model, adapter=adapter), asked_baselines=asked, before=before,
        ).result  # fmt: skip
        written = json.loads((out / "scores.json").read_text(encoding="utf-8"))
        assert written == result.to_json() and read_result(out) == result
        found[f"{name}/scores.json"] = as_text(written, str(Path.cwd()))
        errors = json.loads((out / "errors.json").read_text(encoding="utf-8"))
        tables = [*score_tables(result), *case_tables(errors, 2), *error_tables(errors, 4)]
        text = re.sub(r"(?m)^.* s a row, .*rows/s.*$", "(speed)", to_text(tables))
        found[f"{name}/terminal.txt"] = text.replace(str(Path.cwd()), "ROOT") + "\n"
        for file in (out / "predictions.jsonl", out / "predictions-free.jsonl"):
            found[f"{name}/{file.name}"] = file.read_text(encoding="utf-8").replace(str(Path.cwd()), "ROOT")
    base, tuned = (replace(one, top=replace(one.top, speed=None)) for one in made.values())
    found["before_after.txt"] = to_text([before_after(base, tuned, tuned.before)]) + "\n"
    return found


CASES: tuple[Callable[[Path, Path], dict[str, str]], ...] = (given_replies, runs_side_by_side, asked_model)


class MadeUpModel(AnyModel):
    """Answers by arithmetic on the prompt's last message: right with a probability of `skill`, else a wrong list."""

    def __init__(self, tokenizer: Tokenizer, right: dict[str, str], labels: Sequence[str], skill: float) -> None:
        self.tokenizer, self.right, self.labels, self.skill = tokenizer, right, labels, skill
        self.config = {"vocab_size": 448}

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        slots: int | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        for number, prompt in enumerate(prompts):
            yield number, self._reply(prompt, max_new_tokens, constraint is not None, seed)

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        found = []
        for prompt in prompts:
            text = self._question(prompt)
            logits = np.random.default_rng(zlib.crc32(text.encode())).normal(size=len(options))
            wanted = (*self.tokenizer.encode([self.right[text]])[0].ids, self.tokenizer.end_of_turn)
            logits += [4 * self.skill * (tuple(option) == wanted) for option in options]
            found.append(logits - np.log(np.exp(logits).sum()))
        return np.array(found, dtype=np.float32)

    def _question(self, prompt: Sequence[int]) -> str:
        last = self.tokenizer.decode(prompt).rsplit("user\n", 1)[1]
        return max((text for text in self.right if text in last), key=len)

    def _reply(self, prompt: Sequence[int], limit: int, constrained: bool, seed: int) -> Generation:
        text = self._question(prompt)
        drawn = np.random.default_rng(zlib.crc32(f"{text}{seed}".encode()))
        said = self.right[text] if drawn.random() < self.skill else str(drawn.choice(self.labels))
        if not constrained and drawn.random() < 0.2:
            said = str(drawn.choice([f"{said}, {said}", "I would say: a bill.", f"{self.labels[0]}, " * 40]))
        ids = self.tokenizer.encode([said])[0].ids
        return Generation(ids[:limit], "length") if len(ids) >= limit else Generation(ids, "stop")


def judging(request: Request, number: int) -> Sent:
    """A judge that marks by arithmetic on the texts it is shown, and sometimes says nothing of use."""
    content = request.body["messages"][-1]["content"]
    drawn = np.random.default_rng(zlib.crc32(content.encode()))
    if drawn.random() < 0.1:
        return answer("It depends.")
    if '"better"' in content:
        return answer(json.dumps({"reason": "clearer", "better": str(drawn.choice(["A", "B", "tie"]))}))
    marks = drawn.integers(1, 6, size=3).tolist()
    names = ("accuracy", "professionalism", "completeness")
    return answer(json.dumps({"reason": f"marks {marks}", **dict(zip(names, marks, strict=True))}))


def filled_sheet(sheet: Path, out: Path, rater: int) -> Path:
    """A copy of a sheet in which a rater has scored most lines, by arithmetic."""
    text = sheet.read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    for position, row in enumerate(rows):
        for place, name in enumerate(key for key in row if key in ("accuracy", "professionalism", "tone", "overall")):
            if (position + rater) % 5:
                row[name] = str(1 + (3 * position + place + rater * (position % 3)) % 5)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out


# Comparing -----------------------------------------------------------------------------------------------------------


def assert_same(name: str, got: str, wanted: str) -> None:
    """Text is the same to the letter, the keys of JSON in their order; numbers in JSON and CSV may differ in their twelfth digit.

    Sums of floats end in other digits on processors with other vector instructions.
    """
    if name.endswith((".json", ".jsonl")):
        parts = [(got, wanted)] if name.endswith(".json") else zip(got.splitlines(), wanted.splitlines(), strict=True)
        for one, other in parts:
            made, expected = json.loads(one), json.loads(other)
            if name.endswith("scores.json"):  # its outermost keys are the one place where the order has changed since
                made = dict(sorted(made.items(), key=lambda item: [*expected, item[0]].index(item[0])))
            problem = difference(made, expected)
            assert problem is None, f"{name}: {problem}"
    elif name.endswith(".csv"):
        assert NUMBER.split(got) == NUMBER.split(wanted), name
        numbers = [list(map(float, NUMBER.findall(text))) for text in (got, wanted)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-12, abs=1e-12), name
    else:
        assert got == wanted, name


def difference(got: Any, wanted: Any, place: str = "") -> str | None:
    """Where two JSON values differ first."""
    if isinstance(got, dict) and isinstance(wanted, dict):
        if list(got) != list(wanted):
            return f"{place}: keys {list(got)}, expected {list(wanted)} in this order"
        found = (difference(got[key], wanted[key], f"{place}.{key}") for key in got)
        return next((one for one in found if one), None)
    if isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        found = (
            difference(one, other, f"{place}[{i}]") for i, (one, other) in enumerate(zip(got, wanted, strict=True))
        )
        return next((one for one in found if one), None)
    if type(got) is float and type(wanted) is float and math.isclose(got, wanted, rel_tol=1e-12, abs_tol=1e-12):
        return None
    return None if type(got) is type(wanted) and got == wanted else f"{place}: {got!r}, expected {wanted!r}"


def test_keys_in_another_order_are_a_difference():
    with pytest.raises(AssertionError, match=r"errors\.json: \.cases: keys \['b', 'a'\]"):
        assert_same("errors.json", '{"cases": {"b": 1, "a": 2}}', '{"cases": {"a": 2, "b": 1}}')


def give(case: Callable[[Path, Path], dict[str, str]], language: str) -> dict[str, str]:
    """What a case gives, made in the current folder: the names in it are as long wherever that is."""
    source, folder = Path("source"), Path("made")
    shutil.copytree(GOLDEN / language, source, ignore=shutil.ignore_patterns("expected"))
    folder.mkdir()
    return case(source, folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_comes_to_the_same(language, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = give(case, language)
    expected = GOLDEN / language / "expected" / case.__name__
    names = sorted(str(file.relative_to(expected)) for file in expected.rglob("*") if file.is_file())
    assert sorted(made) == names
    for name in names:
        assert_same(name, made[name], (expected / name).read_bytes().decode())  # spreadsheets end lines by \r\n


def write_golden() -> None:
    """Write what the cases give today over what they gave."""
    for language in LANGUAGES:
        for case in CASES:
            expected = GOLDEN / language / "expected" / case.__name__
            shutil.rmtree(expected, ignore_errors=True)
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                made = give(case, language)
            for name, text in made.items():
                file = expected / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text.encode())


if __name__ == "__main__":
    write_golden()
