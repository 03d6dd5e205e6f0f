"""`mlxtune data` as its users meet it: exit code, stdout and stderr apart, files written whole, mistakes in one message."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LABELS, ROOT, ROWS, Result, Run, write_recipe, write_rows
from tests.data.test_splitting import APART
from tests.tiny import tiny_config, tiny_tokenizer

Data = Callable[..., Result]


@pytest.fixture(scope="module")
def config_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with config and tokenizer and no weights: data needs none."""
    folder = tiny_tokenizer(tmp_path_factory.mktemp("config") / "base")
    (folder / "config.json").write_text(json.dumps(tiny_config()))
    return folder


@pytest.fixture
def recipe(tmp_path: Path, config_only: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose splits share no text, in the current folder."""
    file = write_recipe(tmp_path, config_only)
    for start, name in enumerate(("train", "valid", "test")):
        labels = [[LABELS[place % 4]] for place in range(12)]
        texts = APART[start * 30 : start * 30 + 12]
        write_rows(tmp_path / f"{name}.jsonl", [{"text": t, "intents": i} for t, i in zip(texts, labels, strict=True)])
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture
def data(recipe: Path, mlxtune: Run) -> Data:
    """Runs `mlxtune data` on the recipe."""
    return lambda *words: mlxtune("data", recipe, *words)


def test_clean_data_is_reported_on_stdout_and_nothing_on_stderr(data: Data) -> None:
    done = data()
    assert (done.code, done.err) == (0, "")
    assert "12 rows to train on" in done.out and "12 rows to validate with" in done.out
    assert "Leaks between splits: none" in done.out and "\x1b" not in done.out
    assert "user_auth" in done.out and "3 (25.0%)" in done.out


def test_json_is_one_object_of_the_promised_shape(data: Data) -> None:
    done = data("--json", "--preview", "2")
    content = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    for split in ("train", "valid", "test"):
        assert {"read", "duplicates", "near_duplicates", "low_quality", "kept", "labels"} <= set(
            content["splits"][split]
        )
    assert content["leaks"] == [] and content["conflicts"] == [] and content["refusals"] == []
    assert len(content["preview"]) == 2 and content["preview"][0]["tokens"][-1]["supervised"] is True


def test_leaks_and_conflicts_are_findings_not_failures(data: Data, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "test.jsonl", [{"text": APART[0], "intents": ["none"]}, {"text": APART[0], "intents": ["payment"]}]
    )
    done = data()
    assert done.code == 0 and done.err == ""
    assert f"test.jsonl:1 (test) is train.jsonl:1 (train), under other labels: {APART[0]!r}" in done.out
    assert "test.jsonl:2 [payment] and test.jsonl:1 [none]" in done.out


def test_unknown_labels_are_all_named_and_fail_at_the_end(data: Data, tmp_path: Path) -> None:
    rows = [{"text": text, "intents": ["paymnt"]} for text in APART[40:43]]
    write_rows(tmp_path / "train.jsonl", [*ROWS, *rows])
    done = data()
    assert done.code == 1
    assert all(f"train.jsonl:{line}: 'intents': 'paymnt' is not one of" in done.out for line in (8, 9, 10))
    assert done.err.startswith("Error: ") and "3 rows cannot be used" in done.err and "Traceback" not in done.err
    as_json = data("--json")
    assert as_json.code == 1 and json.loads(as_json.out)["splits"]["train"]["unusable"] == 3


def test_a_preview_shows_what_is_trained_on(data: Data) -> None:
    done = data("--preview", "3")
    assert done.code == 0 and done.out.count("[<|im_end|>]") == 3
    assert "intents x1" in done.out and "supervised" in done.out
    assert data("--preview", "99").out.count("[<|im_end|>]") == 12
    assert data("--preview", "0").code == 2


def test_what_is_written_is_what_is_trained_on_and_reads_back_the_same(data: Data, tmp_path: Path) -> None:
    rows = [{"text": text, "intents": ["payment"] if n % 3 else ["none"]} for n, text in enumerate(APART[:40])]
    write_rows(tmp_path / "train.jsonl", [*rows, *rows[:3]])
    settings = ["--set", "data.valid=null", "--set", "data.valid_fraction=0.25", "--set", "data.clean.dedupe=near",
                "--set", "data.balance={field: intents, method: undersample}", "--set", "data.test=null"]  # fmt: skip
    done = data(*settings, "--write", "out", "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content["splits"]["train"]["duplicates"] == 3 and content["splits"]["train"]["held_out"] == 10
    written = {
        name: [json.loads(line) for line in Path(file).read_text().splitlines()]
        for name, file in content["written"].items()
    }
    assert set(written) == {"train", "valid"} == {file.stem for file in (tmp_path / "out").iterdir()}
    assert {name: len(lines) for name, lines in written.items()} == {n: s["rows"] for n, s in content["splits"].items()}
    assert sum(row["intents"] == ["none"] for row in written["train"]) * 2 == len(written["train"])
    again = data(
        "--set",
        "data.train=out/train.jsonl",
        "--set",
        "data.valid=out/valid.jsonl",
        "--set",
        "data.test=null",
        "--json",
    )
    assert json.loads(again.out)["splits"]["train"]["labels"] == content["splits"]["train"]["labels"]
    assert json.loads(again.out)["leaks"] == []


def test_nothing_is_overwritten_without_force_and_the_recipes_own_files_never(data: Data, tmp_path: Path) -> None:
    assert data("--write", "out").code == 0
    (tmp_path / "out" / "train.jsonl").write_text("mine\n")
    refused = data("--write", "out")
    assert refused.code == 1 and "--force" in refused.err and refused.out == ""
    assert (tmp_path / "out" / "train.jsonl").read_text() == "mine\n"
    assert data("--write", "out", "--force").code == 0
    assert len((tmp_path / "out" / "train.jsonl").read_text().splitlines()) == 12
    own = data("--write", ".", "--force")
    assert own.code == 1 and "the recipe reads this file" in own.err
    assert "expected a folder" in data("--write", "recipe.yaml").err


def test_data_that_cannot_be_used_is_not_written(data: Data, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [*ROWS, {"text": "x", "intents": ["paymnt"]}])
    done = data("--write", "out")
    assert done.code == 1 and "nothing was written" in done.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"\n[1]\n', ["2 problems", "train.jsonl:1", "train.jsonl:2"]),
        ("", ["got an empty file"]),
        ('{"body": "x", "intents": ["none"]}\n', ["data.text names 'text', but no row has that column"]),
        ("\n".join("[]" for _ in range(50)), ["50 problems", "... and 30 more"]),
    ],
)
def test_files_that_cannot_be_read_get_one_message(data: Data, tmp_path: Path, content: str, said: list[str]) -> None:
    (tmp_path / "train.jsonl").write_text(content)
    done = data()
    assert done.code == 1 and done.out == "" and done.err.count("Error: ") == 1 and "Traceback" not in done.err
    assert all(part in done.err for part in said)


def test_both_ways_to_validate_are_refused(data: Data) -> None:
    done = data("--set", "data.valid_fraction=0.1")
    assert done.code == 1 and "keep one of the two" in done.err and done.out == ""


def test_a_long_file_takes_seconds(data: Data, tmp_path: Path) -> None:
    """24,000 rows within a minute on two slow cores; here a sixth of that within ten seconds."""
    rows = [{"text": f"{text} {number}", "intents": ["none"]} for number in range(40) for text in APART]
    write_rows(tmp_path / "train.jsonl", rows)
    started = time.perf_counter()
    assert json.loads(data("--json").out)["splits"]["train"]["read"] == 4000
    assert time.perf_counter() - started < 10


# Parquet -----------------------------------------------------------------------------------------------------------


def test_jsonl_csv_and_parquet_say_the_same(data: Data, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_rows(tmp_path / "train.jsonl", ROWS)
    write_table(arrow.Table.from_pylist(ROWS), tmp_path / "train.parquet", row_group_size=3)
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "intents"], *([row["text"], ", ".join(row["intents"])] for row in ROWS)])
    reports = [
        json.loads(data("--json", "--set", f"data.train=train.{kind}").out)["splits"]["train"]
        for kind in ("jsonl", "csv", "parquet")
    ]
    assert [report.pop("file")[-7:] for report in reports] == ["n.jsonl", "ain.csv", "parquet"]
    assert reports[0] == reports[1] == reports[2] and reports[0]["read"] == len(ROWS)


def test_values_of_parquet_arrive_as_text_with_their_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from datetime import date

    from pyarrow.parquet import write_table

    from mlxtune.data.rows import read_rows

    content: list[dict[str, Any]] = [
        {"text": "a", "n": 1, "share": 0.5, "yes": True, "day": date(2026, 1, 2), "tags": ["x", None]},
        {"text": None, "n": None, "share": float("nan"), "yes": None, "day": None, "tags": None},
    ]
    write_table(arrow.Table.from_pylist(content), tmp_path / "a.parquet")
    first, second = read_rows(tmp_path / "a.parquet", {"body": "text"})
    assert dict(first.fields) == {
        "body": "a",
        "n": "1",
        "share": "0.5",
        "yes": "true",
        "day": "2026-01-02",
        "tags": ["x", ""],
    }
    assert set(second.fields.values()) == {""} and (first.line, second.line) == (1, 2)


def test_text_in_parquet_that_is_no_utf_8_is_named_row_by_row(data: Data, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    texts = arrow.array([b"good", b"\xff\xfe", b"fine", b"\x80"]).view(arrow.string())
    write_table(arrow.table({"text": texts, "intents": ["none"] * 4}), tmp_path / "a.parquet")
    done = data("--set", "data.train=a.parquet")
    assert done.code == 1 and "a.parquet:2: expected UTF-8" in done.err and "a.parquet:4:" in done.err
    assert "2 problems" in done.err and "Traceback" not in done.err


def test_a_broken_parquet_file_gets_one_message(data: Data, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    done = data("--set", "data.train=a.parquet")
    assert done.code == 1 and "not a whole Parquet file" in done.err and done.out == ""


def test_without_pyarrow_parquet_says_how_to_get_it(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    done = data("--set", "data.train=a.parquet")
    assert done.code == 1 and "pip install 'mlxtune[parquet]'" in done.err and "Traceback" not in done.err


def test_the_shipped_data_holds_no_leak_and_the_seeds_account(config_only: Path) -> None:
    root = ROOT
    command = [sys.executable, "-m", "mlxtune", "data", str(root / "recipes" / "demo-intent.yaml"), "--json",
               "--set", f"model.path={config_only}", "--set", f"data.train={root}/data/intent/en/raw.jsonl",
               "--set", "train.max_tokens=2048"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    train = content["splits"]["train"]
    assert train["duplicates"] + train["near_duplicates"] == 427 and train["low_quality"] == 137
    assert train["read"] == 1864 and train["kept"] == 1300
    assert round(train["several_labels"]["intents"]["after"], 3) == 0.297
    assert content["leaks"] == [] and content["conflicts"] == []
