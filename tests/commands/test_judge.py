"""The judge on the command line: after an evaluation, upon one that is finished, beside another run, and when it is not there."""

from __future__ import annotations

import csv
import io
import json
import socket
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mlxtune.evaluation.judge.pairs import JudgedPairs, JudgedRuns, Outcome, PairScores
from mlxtune.evaluation.judge.ratings import Judgement, Ratings, Status
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.report.terminal.judge_tables import judge_tables, pair_markdown
from mlxtune.report.terminal.tables import to_text
from tests.chatting import Request, Sent, answer, error, serve
from tests.conftest import ROWS, Run, snapshot, write_recipe, write_rows
from tests.evaluation.judge.test_ratings import GOOD, block, prefers, verdict
from tests.made_runs import made_run, replies_of, ticket_recipe, tickets

KEY = "sk-test-0123456789abcdef"
WRITTEN = {"template": "{response}", "fields": {"response": {"kind": "text"}}}


@pytest.fixture
def file(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of replies that are text alone, with a test row for each of `ROWS`; the key is in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLXTUNE_API_KEY", KEY)
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    recipe = write_recipe(
        tmp_path / "recipe", base, output=WRITTEN, evaluate={"max_new_tokens": 6, "decoding": "free", "baselines": []}
    )
    rows = [{"text": row["text"], "response": f"Dear <name>, about {row['text']}: done."} for row in ROWS]
    for name in ("train", "valid", "test"):
        write_rows(recipe.parent / f"{name}.jsonl", rows)
    return recipe


def replies_file(folder: Path, texts: list[str]) -> Path:
    return write_rows(folder / "replies.jsonl", [{"prediction": text} for text in texts])


def nowhere() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def marks(request: Request, number: int) -> Sent:
    return answer(verdict(4, 5, 3))


@pytest.fixture
def evaluated(file: Path, mlxtune: Run) -> dict[str, Any]:
    """The scores of the base model, evaluated into ev/."""
    assert mlxtune("evaluate", file, "--base", "--out", "ev").code == 0
    return read("ev/scores.json")


def read(name: str) -> dict[str, Any]:
    return dict(json.loads(Path(name).read_text()))


def judging(file: Path, url: str) -> tuple[object, ...]:
    return ("evaluate", file, "--base", "--out", "ev", "--judge", url, "--judge-model", "big")


def test_a_finished_evaluation_is_only_judged(file: Path, evaluated: dict[str, Any], mlxtune: Run) -> None:
    with serve(marks) as server:
        judged = mlxtune(*judging(file, server.url))
    assert judged.code == 0, judged.err
    assert "so only the judge is asked" in judged.err and "backend:" not in judged.err
    assert "Judged by big: 7 rows" in judged.out and "4.000 [" in judged.out


def test_a_judges_ratings_are_added_to_the_scores(file: Path, evaluated: dict[str, Any], mlxtune: Run) -> None:
    with serve(marks) as server:
        mlxtune(*judging(file, server.url))
    after = read("ev/scores.json")
    judge = after.pop("judge")
    assert after == evaluated
    assert (judge["model"], judge["url"]) == ("big", f"{server.url}/v1")
    assert judge["judged"] + judge["missing"] == judge["rows"] == 7
    assert [json.loads(line)["row"] for line in Path("ev/judge.jsonl").read_text().splitlines()] == list(range(7))


def test_what_was_judged_is_not_asked_again(file: Path, evaluated: dict[str, Any], mlxtune: Run) -> None:
    with serve(marks) as server:
        mlxtune(*judging(file, server.url))
        n_asked = len(server.requests)
        Path("ev/errors.json").unlink()  # all that it says is in the predictions
        again = mlxtune(*judging(file, server.url), "--json")
    assert len(server.requests) == n_asked > 0
    printed = json.loads(again.out)
    assert printed["judge"] == read("ev/scores.json")["judge"] and printed["files"]["judge"] == "ev/judge.jsonl"


def test_the_key_goes_to_the_judge_and_nowhere_else(file: Path, evaluated: dict[str, Any], mlxtune: Run) -> None:
    with serve(marks) as server:
        judged = mlxtune(*judging(file, server.url))
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    for text in (judged.out, judged.err, *(content.decode("latin-1") for content in snapshot(Path()).values())):
        assert KEY not in text


def test_a_new_evaluation_has_no_ratings_of_the_old_ones_replies(
    file: Path, evaluated: dict[str, Any], mlxtune: Run
) -> None:
    with serve(marks) as server:
        mlxtune(*judging(file, server.url))
    assert "judge" in read("ev/scores.json")
    assert mlxtune("evaluate", file, "--base", "--out", "ev", "--force").code == 0
    assert "judge" not in read("ev/scores.json") and not Path("ev/judge.jsonl").exists()


def test_a_judge_that_is_not_there_loses_nothing(file: Path, mlxtune: Run) -> None:
    command = ("evaluate", file, "--base", "--limit", "3", "--judge-model", "big", "--judge")
    lost = mlxtune(*command, nowhere())
    assert lost.code == 1 and lost.err.count("Error: ") == 1
    assert "cannot connect" in lost.err and "run the same command again without --force" in lost.err
    assert "ROUGE-L" in lost.out and "scores: " in lost.out  # the evaluation itself
    with serve(marks) as server:
        again = mlxtune(*command, server.url)
    assert again.code == 0 and "so only the judge is asked" in again.err, again.err
    as_json = mlxtune(*command, nowhere(), "--json")
    assert as_json.code == 1 and json.loads(as_json.out)["rows"] == 3


def test_another_evaluation_is_not_judged_in_place_of_the_one_asked_for(file: Path, mlxtune: Run) -> None:
    assert mlxtune("evaluate", file, "--base", "--out", "ev").code == 0
    before = snapshot(Path("ev"))
    command = ("evaluate", file, "--base", "--out", "ev", "--judge", nowhere(), "--judge-model", "big")
    for option, what in (
        (("--set", "prompt.system=Be rude."), "another prompt"),
        (("--limit", "3"), "other rows"),
        (("--repeats", "2"), "no 2 samples of each row"),
        (("--decoding", "both"), "another decoding"),
        (("--probabilities",), "no probabilities"),
    ):
        refused = mlxtune(*command, *option)
        assert refused.code == 1 and f"holds another evaluation ({what}" in refused.err, refused.err
        assert refused.out == ""
    assert snapshot(Path("ev")) == before


def test_replies_of_another_system_are_judged_and_nothing_is_written(file: Path, mlxtune: Run) -> None:
    def script(request: Request, number: int) -> Sent:
        said = block(request, "reply")
        if "tie" in said:
            return error(400, "no")
        return answer("well..." if "mumble" in said else verdict(1, 5, 3, reason="so [bold]\x1b[31mbad"))

    replies = replies_file(file.parent, ["one", "two", "=SUM(A1)", "tie", "mumble", "[bold]six", "seven"])
    before = snapshot(file.parent)
    with serve(script) as server:
        command = ("evaluate", file, "--predictions", replies, "--judge", server.url, "--judge-model", "big")
        found = mlxtune(*command)
        assert found.code == 0, found.err
        assert "5 judged; 1 without clear marks; 1 failed" in found.out
        assert "so [bold]\ufffd[31mbad" in found.out and "\x1b" not in found.out
        part = mlxtune(*command, "--judge-sample", "2", "--json")
        assert json.loads(part.out)["judge"]["rows"] == 2
        out = mlxtune(*command, "--out", "ev")
        assert out.code == 0 and Path("ev/judge.jsonl").exists()
    assert snapshot(file.parent) == before


def test_the_rate_spaces_the_questions_to_the_judge(file: Path, mlxtune: Run) -> None:
    asked_at: list[float] = []

    def script(request: Request, number: int) -> Sent:
        asked_at.append(time.monotonic())
        return answer(verdict(4, 5, 3))

    replies = replies_file(file.parent, list("abcdefg"))
    with serve(script) as server:
        command = ("evaluate", file, "--predictions", replies, "--judge", server.url, "--judge-model", "m")
        assert mlxtune(*command, "--judge-sample", "3", "--judge-rate", "200").code == 0
    gaps = [after - before for before, after in pairwise(asked_at)]
    assert len(gaps) == 2 and min(gaps) > 0.25  # 60 s / 200, less what a busy machine delays the first by


def test_a_judge_that_takes_longer_than_the_timeout_counts_as_failed(file: Path, mlxtune: Run) -> None:
    def script(request: Request, number: int) -> Sent:
        slow = replace(answer(verdict(4, 5, 3)), seconds=30)
        return slow if block(request, "reply") == "slow" else answer(verdict(4, 5, 3))

    replies = replies_file(file.parent, ["slow", *"bcdefg"])
    with serve(script) as server:
        command = ("evaluate", file, "--predictions", replies, "--judge", server.url, "--judge-model", "{m}")
        found = mlxtune(*command, "--judge-timeout", "1", "--json")
    assert found.code == 0, found.err
    judge = json.loads(found.out)["judge"]
    assert (judge["judged"], judge["failed"]) == (6, 1)


# Two runs ------------------------------------------------------------------------------------------------------------


def test_the_judges_table_to_paste_is_not_broken_by_odd_names() -> None:
    counts: dict[Outcome, int] = {"win": 1, "loss": 1, "tie": 0, "order_decided": 0}
    pair = PairScores(counts, 2, Estimate(0.5, 0.4, 0.6), 1.0, None, "first\nrun")
    judged = JudgedPairs("big", "http://h/v1", 2, {"res_ponse": pair})
    text = pair_markdown(JudgedRuns("<b>\x1b[2Jbig</b>", "http://h/v1", "first\nrun", {"a|b": judged}))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.replace("\\|", "").count("|") for line in table] == [9, 9, 9]
    assert table[2].startswith("| a\\|b | res\\_ponse | 1 |") and "no real difference from first run" in table[2]
    assert "\x1b" not in text and "<b>" not in text


def test_runs_are_compared_by_a_judge_in_every_form(file: Path, mlxtune: Run) -> None:
    rows = tickets(24, response=True)
    recipe = ticket_recipe(Path("tickets"), rows)
    for name, right in (("a", 0.2), ("b", 0.9)):
        made_run(Path(f"runs/tickets/{name}"), recipe, replies_of(rows, right, seed=1))
    with serve(prefers("Dear <name>")) as server:
        command = ("compare", "runs/tickets/a", "runs/tickets/b", "--judge", server.url, "--judge-model", "big")
        found = mlxtune(*command)
        assert found.code == 0, found.err
        assert "Judged by big: replies beside those of a" in found.out and "better than a: chosen in" in found.out
        n_asked = len(server.requests)
        judged = json.loads(mlxtune(*command, "--json").out)["judge"]
        pair = judged["runs"]["b"]["fields"]["response"]
        assert pair["win"] + pair["loss"] + pair["tie"] == 24 and pair["win"] > 12 and pair["p_value"] < 0.001
        assert "| b | response | " in mlxtune(*command, "--markdown").out
        lines = list(csv.DictReader(io.StringIO(mlxtune(*command, "--csv").out)))
        (line,) = [line for line in lines if line["section"] == "judge"]
        assert (line["run"], line["field"], float(line["value"])) == ("b", "response", pair["win_rate"]["value"])
        few = json.loads(mlxtune(*command, "--json", "--judge-sample", "5").out)
        assert few["judge"]["runs"]["b"]["rows"] == 5
        assert len(server.requests) == n_asked  # all the same questions
    lost = mlxtune(*command[:-3], nowhere(), *command[-2:])
    assert lost.code == 1 and "cannot connect" in lost.err and "Difference to a" in lost.out


# Tables --------------------------------------------------------------------------------------------------------------


def test_the_lowest_marks_are_shown_and_nothing_judged_is_said() -> None:
    estimate = Estimate(4.0, 3.5, 4.5)
    counts: dict[Status, int] = {"judged": 2, "missing": 1, "unparseable": 0, "refused": 0, "failed": 0}
    fields = {"response": {"accuracy": estimate, "overall": None}}
    judge = Ratings("m", "http://h/v1", 3, counts, fields, {"response": {"rougeL": estimate}})
    low = dict.fromkeys(GOOD, 1)
    lines = [
        Judgement(0, "test.jsonl", 1, "response", "judged", GOOD, "well said", "{}"),
        Judgement(1, "test.jsonl", 2, "response", "judged", low, "rude", "{}"),
        Judgement(2, "test.jsonl", 3, "response", "missing", low, "nothing", ""),
    ]
    text = to_text(judge_tables(judge, lines, n_rows=1))
    assert "4.000 [3.500, 4.500]" in text and "nothing judged" in text
    assert "2 judged; 1 without the text, which counts as the lowest marks" in text
    assert "rude" in text and "well said" not in text
    assert "The lowest marks" not in to_text(judge_tables(judge, lines, n_rows=0))
