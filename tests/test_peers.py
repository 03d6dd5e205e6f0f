"""The program that sets mlxtune beside other tools: each way trains or replies when it is its turn, and the table compares turn by turn."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT, write_recipe

PROGRAM = ROOT / "tools" / "bench" / "peers.py"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def printed(peers: ModuleType, capsys: pytest.CaptureFixture[str], words: Sequence[object]) -> list[list[str]]:
    """The cells of the table that a command line prints."""
    sys_argv, sys.argv = sys.argv, ["peers.py", *map(str, words)]
    try:
        peers.main()
    finally:
        sys.argv = sys_argv
    return [cells(line) for line in capsys.readouterr().out.splitlines() if "---" not in line]


def test_times_are_compared_turn_by_turn(peers: ModuleType) -> None:
    # The machine was ten times as slow in the second turn: the medians' ratio would be 1.75.
    figures = [peers.Figures("a", (1.0, 10.0, 3.0)), peers.Figures("b", (2.0, 20.0, 5.0), 0.5, 2.0, 0.75)]
    lines = peers.table(figures, "s a step").splitlines()
    assert cells(lines[0])[:4] == ["way", "s a step", "time, a = 1", "peak GB of arrays"]
    assert cells(lines[2]) == ["a", "3.00", "1.00", "", "", ""]
    assert cells(lines[3]) == ["b", "5.00", "2.00", "0.50", "2.00", "75%"]


def test_columns_that_nobody_fills_are_left_out(peers: ModuleType) -> None:
    assert cells(peers.table([peers.Figures("a", (1.0,))], "s").splitlines()[0]) == ["way", "s", "time, a = 1"]


def test_replies_are_the_same_but_for_white_space(peers: ModuleType) -> None:
    assert peers.share_of_same(["a ", "b", "c", "d"], ["a", "b\n", "x", ""]) == 0.5


def test_a_way_that_is_none_is_misuse(peers: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--ways", "mlxtune-mlx,none"], ["generate"], ["fly"]):
        with pytest.raises(SystemExit) as stopped:
            printed(peers, capsys, words)
        assert stopped.value.code == 2


def test_a_way_that_fails_says_why(peers: ModuleType, tmp_path: Path, base: Path) -> None:
    job = {"model": str(tmp_path / "nothing"), "work": str(tmp_path)}
    with pytest.raises(SystemExit, match=r"PEFT loop(?s:.)*nothing"):
        peers.in_turn(["PEFT loop"], job, "step", 1, 0, peers.environment_with(None, tmp_path))


def test_each_way_trains_the_same_layers_and_rows_in_turn(
    peers: ModuleType, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("mlx_lm", "peft"):
        pytest.importorskip(module)
    file = write_recipe(tmp_path / "recipe", base, lora={"rank": 2, "alpha": 4, "targets": "attention", "layers": 1})
    ways = "mlxtune-mlx,mlx_lm.lora,PEFT loop"
    words = ["train", "--recipe", file, "--batch", 2, "--turns", 1, "--ways", ways, "--work", tmp_path / "work"]
    header, *rows = printed(peers, capsys, words)
    assert header[:3] == ["way", "s a step", "time, mlxtune-mlx = 1"] and header[-1] == "peak GB of the process"
    assert [row[0] for row in rows] == ways.split(",")
    assert rows[0][2] == "1.00" and all(float(row[-1]) > 0.01 for row in rows)
    chats = (tmp_path / "work" / "chats" / "train.jsonl").read_text().splitlines()
    assert len(chats) == len((tmp_path / "work" / "tokens.jsonl").read_text().splitlines()) > 4
    assert [turn["role"] for turn in json.loads(chats[0])["messages"]] == ["system", "user", "assistant"]
