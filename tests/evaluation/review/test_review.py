"""Human evaluation: sheets that say nothing of whose reply they show, and ratings read back whatever a spreadsheet saved."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mlxtune.errors import DataError, Misuse, RunError
from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.agreement import Correlation
from mlxtune.evaluation.metrics.labels import LabelScores
from mlxtune.evaluation.metrics.paired import Verdict
from mlxtune.evaluation.metrics.text_overlap import bucket_of, rouge_rows
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import DecodingResult, EvaluationResult
from mlxtune.evaluation.review.draw import (
    KEY_FILE,
    RESULT_FILE,
    SHEET_FILE,
    Case,
    Key,
    draw,
    make_review,
    read_key,
    write_review,
)
from mlxtune.evaluation.review.human_evaluation import HumanEvaluation
from mlxtune.evaluation.review.results import paired_difference, summarise
from mlxtune.evaluation.review.sheet import COLUMNS, DIMENSIONS, Line, fingerprint, read_sheets, sheet_text
from tests.conftest import Run

TEXT = "we are sorry please contact us at <tel_num> about the billing issue <name> your account 您好 退款"
WORDS = TEXT.split()
OUTPUT = {
    "template": "Priority: {priority}\n\n{response}",
    "fields": {"priority": {"kind": "label", "labels": ["high", "low"]}, "response": {"kind": "text"}},
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prediction(row: int, reference: str, reply: str | None, **changed: Any) -> Prediction:
    about: dict[str, Any] = {
        "row": row, "file": "test.jsonl", "line": row + 1, "input": f"Ticket {row}: it broke, \"again\"\n=HELP()",
        "expected": {"priority": "high", "response": reference},
        "predicted": {"priority": "high", "response": reply},
        "prediction": "mumble" if reply is None else f"Priority: high\n\n{reply}",
        "valid": reply is not None, "repeated": False, "loop": False, "problem": None, "stop": "stop", "tokens": 9,
        "decoding": "constrained",
    }  # fmt: skip
    return Prediction(**{**about, **changed})


def replies(seed: int, skill: float, n_rows: int) -> list[Prediction]:
    """Replies that have about a share `skill` of the reference's words, which are the same for every seed."""
    rng, same = np.random.default_rng(seed), np.random.default_rng(0)
    found = []
    for row in range(n_rows):
        reference = [str(word) for word in same.choice(WORDS, 20)]
        kept = float(np.clip(rng.normal(skill, 0.3), 0, 1))
        reply = [word if rng.random() < kept else "other" for word in reference]
        found.append(prediction(row, " ".join(reference), " ".join(reply) if row % 25 else None))
    return found


def write_evaluation(folder: Path, predictions: Sequence[Prediction]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in predictions]
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def made_run(name: str, predictions: Sequence[Prediction], output: dict[str, Any] = OUTPUT) -> Path:
    """A run folder with an evaluation, as far as a review looks at it."""
    run = Path("runs") / name
    write_evaluation(run / "evaluation" / "tuned", predictions)
    (run / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
    recipe = {
        "name": "ticket", "model": {"path": "x"}, "data": {"train": "t.jsonl", "valid": "v.jsonl"},
        "prompt": {"user": "{text}"}, "output": output,
    }  # fmt: skip
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return run


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [made_run("ticket/a", replies(1, 0.4, 120)), made_run("ticket/b", replies(2, 0.7, 120))]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


Score = Callable[[str, str], object]


def filled(sheet: Path, path: Path, score: Score, comment: str = "") -> Path:
    """A copy of a sheet that a rater filled in: `score` of case id and dimension."""
    rows = read_csv(sheet)
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row in rows:
            scores = {name: str(score(row["case_id"], name)) for name in DIMENSIONS}
            writer.writerow({**row, **scores, "comment": comment})
    return path


# Drawing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "sample", "wanted"),
    [
        ((600, 300, 100), 100, (60, 30, 10)),
        ((996, 3, 1), 100, (98, 1, 1)),
        ((2, 2, 996), 3, (1, 1, 1)),
        ((10, 20, 30), 2, (0, 1, 1)),
        ((10, 20, 30), 1, (0, 0, 1)),
        ((5, 0, 3), 100, (5, 0, 3)),
        ((1, 1, 50), 51, (1, 1, 49)),
        ((0, 7, 0), 4, (0, 4, 0)),
    ],
)
def test_cases_are_drawn_in_proportion_and_at_least_one_of_each_bucket(
    sizes: tuple[int, int, int], sample: int, wanted: tuple[int, int, int]
) -> None:
    names = (">0.5", "0.3-0.5", "<0.3")
    buckets = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
    rows = draw(buckets, sample, seed=3)
    assert len(set(rows)) == len(rows) and rows == sorted(rows)
    assert tuple(Counter(buckets[row] for row in rows)[name] for name in names) == wanted


def test_the_seed_decides_the_draw() -> None:
    buckets = ["<0.3"] * 500
    assert draw(buckets, 50, 1) == draw(buckets, 50, 1) != draw(buckets, 50, 2)
    assert np.mean([np.mean(draw(buckets, 50, seed)) for seed in range(40)]) == pytest.approx(249.5, abs=10)


# Sheets ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrittenSheet:
    """A sheet of one run as written: the lines that raters see, and the key that they do not."""

    rows: list[dict[str, str]]
    key: Key

    def pairs(self) -> list[tuple[dict[str, str], Case, Prediction]]:
        """Each line, its case, and the prediction that it was made of."""
        by_row = {one.row: one for one in replies(1, 0.4, 120)}
        cases = [self.key.cases[row["case_id"]] for row in self.rows]
        return [(row, case, by_row[case.row]) for row, case in zip(self.rows, cases, strict=True)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenSheet:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("written"))
        write_review(make_review([made_run("ticket/a", replies(1, 0.4, 120))], sample=30), Path("out"))
        return WrittenSheet(read_csv(Path("out") / SHEET_FILE), read_key(Path("out") / KEY_FILE))


def test_a_sheet_lies_in_the_folder_of_the_evaluation(two: list[Path], mlxtune: Run) -> None:
    done = mlxtune("review", two[0], "--sample", 30, "--json")
    assert done.code == 0, done.err
    facts, sheet = json.loads(done.out), two[0] / "evaluation" / "tuned" / SHEET_FILE
    assert (facts["sheet"], facts["cases"], facts["lines"]) == (str(sheet), 30, 30)
    assert len(read_csv(sheet)) == 30 and (sheet.parent / KEY_FILE).is_file()


def test_a_sheet_has_a_line_a_case_and_nothing_filled_in(written: WrittenSheet) -> None:
    assert tuple(written.rows[0]) == COLUMNS and len(written.rows) == 30
    assert all(not row[name] for row in written.rows for name in (*DIMENSIONS, "comment"))


def test_a_line_shows_the_request_the_reference_and_the_reply(written: WrittenSheet) -> None:
    for row, _, one in written.pairs():
        reply = one.predicted["response"]
        shown = "mumble" if reply is None else reply  # a reply that does not follow the template is shown whole
        assert (row["input"], row["reference"], row["prediction"]) == (one.input, one.expected["response"], shown)


def test_the_key_has_the_rouge_l_and_the_bucket_of_each_case(written: WrittenSheet) -> None:
    for _, case, one in written.pairs():
        reply = one.predicted["response"]
        rouge_l = rouge_rows([str(one.expected["response"])], [None if reply is None else str(reply)])["rougeL"][0]
        assert (case.rouge_l, case.bucket) == (rouge_l, bucket_of(float(rouge_l)))


def test_the_lines_of_a_sheet_are_not_in_the_order_of_the_rows(written: WrittenSheet) -> None:
    rows = [case.row for _, case, _ in written.pairs()]
    assert rows != sorted(rows)


def test_the_key_counts_rows_and_cases_by_bucket(written: WrittenSheet) -> None:
    buckets = written.key.buckets
    assert sum(one["rows"] for one in buckets.values()) == 120
    drawn = Counter(case.bucket for case in written.key.cases.values())
    assert drawn == {name: one["cases"] for name, one in buckets.items() if one["cases"]}


def test_several_runs_are_blinded_shuffled_and_on_the_same_cases(two: list[Path]) -> None:
    review = make_review(two, sample=40, seed=1)
    write_review(review, Path("out"))
    text = (Path("out") / SHEET_FILE).read_text(encoding="utf-8-sig")
    assert "runs/" not in text and "ticket/a" not in text
    cases = review.key.cases
    by_run = [sorted(case.row for case in cases.values() if case.run == run) for run in (0, 1)]
    assert by_run[0] == by_run[1] and len(by_run[0]) == 40
    order = [cases[line.case].run for line in review.lines]
    assert 20 < sum(a != b for a, b in pairwise(order)) < 60  # neither in turns nor in blocks
    assert [line.case for line in review.lines] == sorted(cases)  # ids number the lines, and say no more
    assert all(re.fullmatch(rf"{review.key.tag}-\d\d", name) for name in cases)
    apart = [
        abs(i - j)
        for i, a in enumerate(order)
        for j in range(i)
        if list(cases.values())[i].row == list(cases.values())[j].row
    ]
    assert len(apart) == 40 and np.median(apart) > 10  # nor are two replies to one case side by side
    told = [replies(1, 0.4, 120), replies(2, 0.7, 120)]
    for line in review.lines:
        one = told[cases[line.case].run][cases[line.case].row]
        assert line.prediction == (one.predicted["response"] or "mumble")


def test_a_sheet_is_the_same_for_the_same_seed_and_another_for_another(two: list[Path]) -> None:
    one, again, other = (make_review(two, 20, seed) for seed in (0, 0, 1))
    assert sheet_text(one.lines) == sheet_text(again.lines) != sheet_text(other.lines)
    assert one.key.tag != other.key.tag


def test_several_runs_are_drawn_by_their_mean_rouge(two: list[Path]) -> None:
    review = make_review(two, sample=500)
    assert review.n_cases == 120
    rows: dict[int, list[float]] = {}
    for case in review.key.cases.values():
        rows.setdefault(case.row, []).append(case.rouge_l)
    counts = Counter(bucket_of(float(np.mean(both))) for both in rows.values())
    assert {name: one["rows"] for name, one in review.key.buckets.items()} == dict(counts)


def test_runs_of_other_rows_are_refused(two: list[Path]) -> None:
    other = made_run("ticket/c", replies(2, 0.7, 100))
    with pytest.raises(DataError, match="100 predictions for 120 rows"):
        make_review([two[0], other])
    with pytest.raises(Misuse, match="the same replies as"):
        make_review([two[0], two[0] / "evaluation" / "tuned"])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2 kg", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1", "＝1"])
def test_no_cell_is_a_formula_and_none_loses_its_text(text: str, tmp_path: Path) -> None:
    line = Line("bcdf-1", text, "plain", 'two\nlines, "quoted"; 你好')
    path = tmp_path / "sheet.csv"
    path.write_bytes(sheet_text([line]).encode())
    assert path.read_bytes().startswith(b"\xef\xbb\xbf") and b"comment\r\n" in path.read_bytes()
    row = read_csv(path)[0]
    assert row["input"].startswith("'") and row["input"][1:].split() == text.split()
    assert (row["reference"], row["prediction"]) == (line.reference, line.prediction)
    prints = {name: fingerprint(shown) for name, shown in line.texts().items()}
    _, warnings = read_sheets([path], {"bcdf-1": prints})
    assert warnings == []


def test_characters_that_no_spreadsheet_takes_are_replaced() -> None:
    text = sheet_text([Line("bcdf-1", "a\0b\x1b[31m\ud800", "r", "p")])
    assert "a\ufffdb\ufffd[31m\ufffd" in text
    text.encode()


# Which replies -------------------------------------------------------------------------------------------------------


def test_an_evaluation_folder_is_reviewed_as_a_run_is(two: list[Path], mlxtune: Run) -> None:
    base = write_evaluation(two[0] / "evaluation" / "base", replies(3, 0.2, 120))
    assert mlxtune("review", base, "--sample", 5).code == 0
    assert (base / SHEET_FILE).is_file() and not (base.parent / "tuned" / SHEET_FILE).exists()
    both = json.loads(mlxtune("review", two[0], base, "--sample", 5, "--json").out)
    assert both["sheet"] == str(two[0] / "evaluation" / "with-base" / SHEET_FILE)
    turned = json.loads(mlxtune("review", base, two[1], "--sample", 5, "--json").out)
    assert turned["sheet"] == str(two[0] / "evaluation" / "base-with-b" / SHEET_FILE)
    three = json.loads(mlxtune("review", two[0], two[1], base, "--sample", 5, "--json").out)
    assert three["sheet"] == str(two[0] / "evaluation" / "with-b-base" / SHEET_FILE) and three["lines"] == 15


def test_a_run_without_replies_is_told_what_to_do(two: list[Path]) -> None:
    (two[0] / "evaluation" / "tuned" / "predictions.jsonl").unlink()
    with pytest.raises(RunError, match=r"mlxtune evaluate runs/ticket/a"):
        make_review(two[:1])
    base = write_evaluation(two[0] / "evaluation" / "base", replies(3, 0.2, 10))
    with pytest.raises(RunError, match=f"or name one of {base}"):
        make_review(two[:1])
    with pytest.raises(RunError, match="no such run folder"):
        make_review([Path("runs/none")])


def test_without_a_text_field_the_whole_reply_is_judged() -> None:
    fields = {"intents": {"kind": "labels", "labels": ["payment", "none"]}}
    rows = [
        prediction(0, "", "", expected={"intents": ("payment",)}, predicted={"intents": None}, prediction="no idea"),
        prediction(1, "", "", expected={"intents": ("payment", "none")}, predicted={"intents": ()}, prediction="  "),
    ]
    run = made_run("intent/a", rows, {"template": "Intents: {intents}.", "fields": fields})
    review = make_review([run])
    assert review.key.field is None
    assert {(line.reference, line.prediction) for line in review.lines} == {
        ("Intents: payment.", "no idea"),
        ("Intents: payment, none.", "(empty reply)"),
    }
    with pytest.raises(Misuse, match="there is no text field; leave --field out"):
        make_review([run], field="intents")


def test_replies_of_another_system_need_no_recipe(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "theirs", replies(1, 0.5, 10))
    assert make_review([folder]).lines[0].reference.startswith("priority: high\nresponse: ")
    fields: dict[str, Scores] = {"priority": LabelScores({}, {}), "response": TextScores({}, {}, {})}
    result = EvaluationResult(DecodingResult(1, "free", {}, fields))
    (folder / "scores.json").write_text(json.dumps(result.to_json()))
    assert make_review([folder]).key.field == "response"


def test_of_several_text_fields_one_must_be_named() -> None:
    fields = {"title": {"kind": "text"}, "body": {"kind": "text"}}
    both = {"title": "a", "body": "b"}
    run = made_run(
        "x/a", [prediction(0, "", "", expected=both, predicted=both)], {"template": "{title}\n{body}", "fields": fields}
    )
    with pytest.raises(Misuse, match="say which with --field: title, body"):
        make_review([run])
    assert make_review([run], field="body").lines[0].reference == "b"
    with pytest.raises(Misuse, match="did you mean 'title'"):
        make_review([run], field="titel")


# What is never lost ----------------------------------------------------------------------------------------------------


def test_a_sheet_is_replaced_with_force_alone_and_a_filled_one_never(two: list[Path], mlxtune: Run) -> None:
    folder = two[0] / "evaluation" / "tuned"
    assert mlxtune("review", two[0], "--sample", 5).code == 0
    before = (folder / SHEET_FILE).read_bytes(), (folder / KEY_FILE).read_bytes()
    refused = mlxtune("review", two[0], "--sample", 6)
    assert (refused.code, refused.out) == (1, "") and "replace it with --force" in refused.err
    assert ((folder / SHEET_FILE).read_bytes(), (folder / KEY_FILE).read_bytes()) == before
    assert mlxtune("review", two[0], "--sample", 6, "--force").code == 0
    assert len(read_csv(folder / SHEET_FILE)) == 6
    filled(folder / SHEET_FILE, folder / SHEET_FILE, lambda case, name: "", comment="hm")
    rated = (folder / SHEET_FILE).read_bytes(), (folder / KEY_FILE).read_bytes()
    refused = mlxtune("review", two[0], "--force")
    assert refused.code == 1 and "is filled in, and is not replaced even with --force" in refused.err
    assert ((folder / SHEET_FILE).read_bytes(), (folder / KEY_FILE).read_bytes()) == rated
    (folder / SHEET_FILE).unlink()
    (folder / RESULT_FILE).write_text("{}")
    assert "the result of filled sheets" in mlxtune("review", two[0], "--force").err
    assert (folder / KEY_FILE).read_bytes() == rated[1]


def test_a_file_of_the_users_own_is_not_replaced(two: list[Path], mlxtune: Run) -> None:
    file = Path("mine") / SHEET_FILE
    file.parent.mkdir()
    file.write_text("my notes\n")
    assert mlxtune("review", two[0], "--out", "mine", "--force").code == 1
    assert file.read_text() == "my notes\n" and not (Path("mine") / KEY_FILE).exists()


# Reading back --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sheet(two: list[Path]) -> Path:
    write_review(make_review(two, sample=20, seed=2), Path("out"))
    return Path("out") / SHEET_FILE


@pytest.fixture
def key(sheet: Path) -> Key:
    return read_key(sheet.parent / KEY_FILE)


def saved(path: Path, rows: Sequence[Sequence[str]], separator: str, encoding: str, before: str = "") -> Path:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows(rows)
    path.write_bytes((before + out.getvalue()).encode(encoding, errors="replace"))
    return path


@pytest.mark.parametrize(
    ("separator", "encoding", "before"),
    [
        (",", "utf-8-sig", ""), (",", "utf-8", ""), (";", "utf-8-sig", ""), ("\t", "utf-16", ""), (";", "gb18030", ""),
        ("\t", "utf-8", ""), (",", "utf-8-sig", "sep=,\r\n"), (";", "cp1252", "sep=;\r\n"),
    ],
)  # fmt: skip
def test_a_sheet_is_read_however_a_spreadsheet_saved_it(
    separator: str, encoding: str, before: str, sheet: Path, key: Key
) -> None:
    with sheet.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.reader(stream))
    for row in rows[1:]:
        row[4], row[8], row[9] = "4", "2", 'naïve; "so", he said\nand' if encoding == "cp1252" else '好; "so",\nand'
    path = saved(Path("anna.csv"), rows, separator, encoding, before)
    (read,), warnings = read_sheets([path], key.fingerprints())
    assert len(read.ratings) == 40 and read.rater == "anna"
    assert all(rating.scores == {"relevance": 4, "overall": 2} for rating in read.ratings)
    assert {rating.comment for rating in read.ratings} == {rows[1][9]}
    # A Western code page has no Chinese; everything else comes back as it was.
    assert bool(warnings) == (encoding == "cp1252")


@pytest.mark.parametrize(("comment", "encoding"), [("回复很好，语气礼貌", "gb18030"), ("naïve, déjà vu", "cp1252")])
def test_a_comment_is_read_where_the_texts_do_not_tell_the_code_page(comment: str, encoding: str) -> None:
    line = Line("bcdf-1", "a ticket", "an answer", "a reply")
    saved(Path("anna.csv"), [COLUMNS, [line.case, *line.texts().values(), *"33333", comment]], ";", encoding)
    prints = {"bcdf-1": {name: fingerprint(text) for name, text in line.texts().items()}}
    (read,), _ = read_sheets([Path("anna.csv")], prints)
    assert read.ratings[0].comment == comment


def test_rows_may_be_sorted_left_out_and_left_empty(sheet: Path, key: Key) -> None:
    path = filled(sheet, Path("anna.csv"), lambda case, name: 3 if name == "tone" else "")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head, *rows = list(csv.reader(stream))
    saved(path, [[name.upper().replace("_", " ") + " " for name in head], *rows[:9:-1], [], [""] * 10], ";", "utf-8")
    (read,), warnings = read_sheets([path], key.fingerprints())
    assert len(read.ratings) == 30 and read.n_scores == 30
    gone = ", ".join(row[0] for row in rows[:5])
    assert warnings == [f"anna.csv: does not hold 10 cases ({gone}, ...) of 40"]


@pytest.mark.parametrize(
    ("written", "score"), [("4", 4), (" 4 ", 4), ("4.0", 4), ("4,0", 4), ("４", 4), ("'4", 4), ("1", 1), ("5.00", 5)]
)
def test_a_whole_number_counts_in_every_spelling(written: str, score: int, sheet: Path, key: Key) -> None:
    path = filled(sheet, Path("anna.csv"), lambda case, name: written)
    (read,), _ = read_sheets([path], key.fingerprints())
    assert {value for rating in read.ratings for value in rating.scores.values()} == {score}


@pytest.mark.parametrize("written", ["6", "0", "-1", "3.5", "4,5", "good", "4/5", "1e0", "4 5", "nan"])
def test_what_is_no_score_is_named_by_file_row_and_column(written: str, sheet: Path, key: Key) -> None:
    bad = list(key.cases)[5]
    path = filled(sheet, Path("scores-anna.csv"), lambda case, name: written if (case, name) == (bad, "tone") else 3)
    with pytest.raises(DataError) as caught:
        read_sheets([path], key.fingerprints())
    row = [row["case_id"] for row in read_csv(path)].index(bad) + 2
    wanted = f"scores-anna.csv row {row} column tone: expected a whole number 1 to 5"
    assert wanted in str(caught.value) and f"got {written!r}" in str(caught.value)
    assert str(caught.value).startswith("filled sheets: 1 problem\n")


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(two: list[Path], sheet: Path, mlxtune: Run) -> None:
    with sheet.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.reader(stream))
    rows[1][4] = rows[2][8] = "9"
    rows[4][0], rows[5][0] = rows[3][0], rows[5][0][:-2] + "99"
    rows[6][0] = ""
    rows[7].append("a comma too many")
    saved(Path("anna.csv"), rows, ",", "utf-8")
    saved(Path("ben.csv"), [["case_id", "tonne", *DIMENSIONS[:3], "overall", "overall"]], ",", "utf-8")
    Path("book.csv").write_bytes(b"PK\x03\x04...")
    Path("empty.csv").write_bytes(b"")
    Path("notes.csv").write_text("hello\n")
    Path("cut.csv").write_text(",".join(COLUMNS) + f'\n{rows[1][0]},"never closed\n')
    names = ["anna.csv", "ben.csv", "book.csv", "empty.csv", "notes.csv", "cut.csv", "gone.csv"]
    before = sorted(Path().rglob("*"))
    result = mlxtune("review", *two, "--out", "out", "--scores", *names)
    assert (result.code, result.out) == (1, "") and result.err.count("Error: ") == 1
    for said in (
        "filled sheets: 13 problems", "anna.csv row 2 column relevance", "anna.csv row 3 column overall",
        f"anna.csv row 5 column case_id: {rows[3][0]} is already in row 4; keep one", "anna.csv row 6 column case_id: no case",
        "anna.csv row 7 column case_id: empty", "anna.csv row 8: 11 cells under 10 columns",
        "ben.csv row 1: two columns 'overall'", "ben.csv row 1: no column 'tone'; did you mean 'tonne'?",
        "book.csv: a spreadsheet program's own format", "empty.csv: empty", "notes.csv: expected the columns case_id",
        "cut.csv: row 2: not CSV", "gone.csv: no such file",
    ):  # fmt: skip
        assert said in result.err, said
    assert sorted(Path().rglob("*")) == before


def test_a_changed_text_is_a_warning_and_another_sheet_an_error(two: list[Path], sheet: Path, key: Key) -> None:
    rows = [list(row.values()) for row in read_csv(filled(sheet, Path("anna.csv"), lambda case, name: 3))]
    rows[0][3] += " And something that nobody wrote."
    rows[1][1] = rows[1][1].replace("\n", "\r\n") + "  "
    path = saved(Path("anna.csv"), [COLUMNS, *rows], ",", "utf-8")
    _, warnings = read_sheets([path], key.fingerprints())
    assert warnings == [
        f"anna.csv: the prediction was changed since the sheet was written, in case {rows[0][0]}; the scores are used all the same"
    ]
    other = make_review(two[:1], sample=5)
    with pytest.raises(DataError, match=f"anna.csv: of another sheet: its case ids begin with '{key.tag}'"):
        read_sheets([path], other.key.fingerprints())


def test_the_same_ratings_given_twice_do_not_agree_with_themselves(sheet: Path, key: Key) -> None:
    anna = filled(sheet, Path("anna.csv"), lambda case, name: 3)
    Path("copy.csv").write_bytes(anna.read_bytes())
    for again, said in ((anna, "given twice"), (Path("copy.csv"), "the same content as anna.csv")):
        with pytest.raises(DataError, match=said):
            read_sheets([anna, again], key.fingerprints())
    Path("ben").mkdir()
    ben = filled(sheet, Path("ben") / "anna.csv", lambda case, name: 2)
    sheets, _ = read_sheets([anna, ben], key.fingerprints())
    assert [one.rater for one in sheets] == ["anna.csv", "ben/anna.csv"]


# Results -------------------------------------------------------------------------------------------------------------


def rated(sheet: Path, key: Key) -> tuple[list[Path], np.ndarray]:
    """Two raters, Ben a point harsher and half done; and what they gave, (dimensions, raters, lines)."""
    rng = np.random.default_rng(0)
    names = list(key.cases)
    given = np.full((len(DIMENSIONS), 2, len(names)), np.nan)
    for i, case in enumerate(key.cases.values()):
        true = 1.5 + 3 * case.rouge_l + case.run
        for rater in range(2):
            if rater == 0 or i % 2:
                given[:, rater, i] = np.clip(np.round(true - rater + rng.normal(0, 0.4, len(DIMENSIONS))), 1, 5)

    def score(rater: int) -> Score:
        def of(case: str, name: str) -> str:
            value = given[DIMENSIONS.index(name), rater, names.index(case)]
            return "" if np.isnan(value) else f"{value:.0f}"

        return of

    return [filled(sheet, Path(f"{name}.csv"), score(i)) for i, name in enumerate(("anna", "ben"))], given


@dataclass(frozen=True)
class Rated:
    """Two runs, rated by two: the result, the cases, and what was given, (dimensions, raters, lines)."""

    result: dict[str, Any]
    cases: list[Case]
    given: np.ndarray

    @property
    def tone(self) -> np.ndarray:
        """What was given for tone, (raters, lines)."""
        return np.asarray(self.given[DIMENSIONS.index("tone")])

    @property
    def tone_means(self) -> np.ndarray:
        """Mean over the raters of each line, (lines,)."""
        with np.testing.suppress_warnings() as quiet:
            quiet.filter(RuntimeWarning)
            return np.asarray(np.nanmean(self.tone, axis=0))

    def runs(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """The result of each run, with which lines are its own, (lines,)."""
        return [
            (run, np.array([case.run == number for case in self.cases]))
            for number, run in enumerate(self.result["runs"])
        ]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Rated:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("rated"))
        runs = [made_run("ticket/a", replies(1, 0.4, 120)), made_run("ticket/b", replies(2, 0.7, 120))]
        write_review(make_review(runs, sample=20, seed=2), Path("out"))
        key = read_key(Path("out") / KEY_FILE)
        paths, given = rated(Path("out") / SHEET_FILE, key)
        sheets, _ = read_sheets(paths, key.fingerprints())
        return Rated(summarise(key, sheets).to_json(), list(key.cases.values()), given)


def test_a_result_is_read_back_as_it_was_written(by_two: Rated) -> None:
    content = json.loads(json.dumps(by_two.result))
    assert content["differences"][0]["dimensions"]["tone"]["sentence"]
    assert HumanEvaluation.from_json(content).to_json() == content


def test_a_runs_mean_is_over_its_cases_within_an_interval(by_two: Rated) -> None:
    for run, mine in by_two.runs():
        one = run["dimensions"]["tone"]
        assert one["mean"]["value"] == pytest.approx(by_two.tone_means[mine].mean()) and one["cases"] == 20
        assert one["mean"]["low"] < one["mean"]["value"] < one["mean"]["high"]


def test_a_run_counts_its_scores(by_two: Rated) -> None:
    for run, mine in by_two.runs():
        one = run["dimensions"]["tone"]
        assert one["scores"] == (~np.isnan(by_two.tone[:, mine])).sum() == sum(one["counts"].values())


def test_a_buckets_mean_is_over_its_cases(by_two: Rated) -> None:
    for run, mine in by_two.runs():
        for bucket, dimensions in run["buckets"].items():
            inside = mine & np.array([case.bucket == bucket for case in by_two.cases])
            assert dimensions["tone"]["mean"]["value"] == pytest.approx(by_two.tone_means[inside].mean())


def test_ratings_are_correlated_with_rouge_l(by_two: Rated) -> None:
    for run, mine in by_two.runs():
        rouge_l = np.array([case.rouge_l for case in by_two.cases])[mine]
        wanted = np.corrcoef(by_two.tone_means[mine], rouge_l)[0, 1]
        assert run["rouge"]["tone"]["pearson"]["value"] == pytest.approx(wanted)


def test_agreement_is_over_the_lines_that_both_rated(by_two: Rated) -> None:
    agreement, tone = by_two.result["agreement"]["tone"], by_two.tone
    both = int((~np.isnan(tone)).all(0).sum())
    assert agreement["lines"] == both == 20
    assert agreement["exact"]["value"] == pytest.approx((tone[0] == tone[1]).sum() / both)


def test_the_result_counts_cases_and_scores(by_two: Rated) -> None:
    result = by_two.result
    assert (result["cases"], result["rated"], result["scores"]) == (20, 20, (~np.isnan(by_two.given)).sum())


def test_the_result_shows_how_harsh_each_rater_is(by_two: Rated) -> None:
    anna, ben = by_two.result["raters"]
    assert (anna["name"], ben["name"]) == ("anna", "ben") and anna["means"]["tone"] > ben["means"]["tone"]


def test_a_difference_is_within_raters_so_that_a_harsh_one_counts_against_no_run(sheet: Path, key: Key) -> None:
    """Anna rates both runs alike; Ben, who rates one run only and low, changes the means and not the difference."""
    names, by_run = list(key.cases), [case.run for case in key.cases.values()]
    anna = filled(sheet, Path("anna.csv"), lambda case, name: 4)
    ben = filled(sheet, Path("ben.csv"), lambda case, name: 1 if by_run[names.index(case)] else "")
    result = summarise(key, read_sheets([anna, ben], key.fingerprints())[0])
    means = [run.dimensions["tone"].mean for run in result.runs]
    assert [mean and mean.value for mean in means] == [4.0, 2.5]
    (difference,) = result.differences
    tone = difference.dimensions["tone"]
    assert tone.compared is not None
    assert (tone.compared.difference, tone.cases, tone.compared.p_value) == (0.0, 20, 1.0)
    assert tone.compared.sentence.startswith("no real difference from runs/ticket/a")
    assert result.runs[0].rouge["tone"] == Correlation(None, None)


def test_the_better_run_is_found(sheet: Path, key: Key) -> None:
    paths, given = rated(sheet, key)
    result = summarise(key, read_sheets(paths, key.fingerprints())[0])
    overall = result.differences[0].dimensions["overall"].compared
    assert overall is not None and overall.low is not None
    assert result.differences[0].against == "runs/ticket/a" and overall.low > 0
    assert overall.sentence.startswith("better than runs/ticket/a by ")
    rows = {case.row for case in key.cases.values()}
    line = {(case.run, case.row): i for i, case in enumerate(key.cases.values())}
    per_case = []
    for row in rows:
        apart = (
            given[DIMENSIONS.index("overall"), :, line[1, row]] - given[DIMENSIONS.index("overall"), :, line[0, row]]
        )
        per_case.append(np.mean([one for one in apart if not np.isnan(one)]))
    assert overall.difference == pytest.approx(np.mean(per_case))


@pytest.mark.parametrize(
    ("differences", "verdict", "sentence"),
    [
        ([1.0] * 30 + [2.0] * 10, "better", "better than a by 1.25 [1.12, 1.38]"),
        ([-1.0] * 30 + [-2.0] * 10, "worse", "worse than a by 1.25 [1.12, 1.38]"),
        ([1.0, -1.0] * 20, "no real difference", "no real difference from a: 0.00 [-0.30, 0.30]"),
        ([1.0, 2.0], "too few cases", "too few cases to tell from a: +1.50 [1.00, 2.00]"),
        ([1.0], "too few cases", "too few cases to tell from a"),
    ],
)
def test_a_difference_over_cases_has_its_verdict_in_words(
    differences: list[float], verdict: Verdict, sentence: str
) -> None:
    one = paired_difference(np.array(differences), 4.0, "a")
    assert one is not None and (one.verdict, one.sentence) == (verdict, sentence)
    assert one.difference == pytest.approx(np.mean(differences)) and one.to_json()["sentence"] == sentence


def test_no_case_in_common_has_no_difference() -> None:
    assert paired_difference(np.array([]), 4.0, "a") is None


def test_filled_sheets_become_tables_json_and_a_file(two: list[Path], sheet: Path, key: Key, mlxtune: Run) -> None:
    paths, _ = rated(sheet, key)
    shown = mlxtune("review", *two, "--out", "out", "--scores", *paths)
    assert shown.code == 0 and shown.err == "", shown.err
    for words in ("20 of 20 cases rated by 2 raters", "runs/ticket/b less runs/ticket/a", "alpha, ordinal", "Spearman",
                  "ROUGE-L >0.5", "anna", "result: out/human_eval.json"):  # fmt: skip
        assert words in shown.out, words
    on_disk = json.loads((Path("out") / RESULT_FILE).read_text(encoding="utf-8"))
    again = json.loads(mlxtune("review", "--out", "out", "--json", "--scores", paths[0], "--scores", paths[1]).out)
    assert {name: again[name] for name in on_disk if name != "read"} == {
        name: on_disk[name] for name in on_disk if name != "read"
    }
    fewer = mlxtune("review", "--out", "out", "--scores", paths[0])
    assert (fewer.code, fewer.out) == (1, "") and "was made with the sheets of ben too" in fewer.err
    assert json.loads((Path("out") / RESULT_FILE).read_text(encoding="utf-8"))["raters"] == on_disk["raters"]
    alone = mlxtune("review", "--out", "out", "--force", "--scores", paths[0], sheet)
    assert alone.code == 0 and "it takes two who rate the same cases" in alone.out
    assert alone.err == f"{sheet}: contains no score, so it is left out\n"


def test_the_key_is_found_where_the_runs_or_the_sheets_are(two: list[Path], mlxtune: Run) -> None:
    made = json.loads(mlxtune("review", *two, "--sample", 4, "--json").out)
    elsewhere = filled(Path(made["sheet"]), Path("anna.csv"), lambda case, name: 3)
    beside = filled(Path(made["sheet"]), Path(made["sheet"]).with_name("ben.csv"), lambda case, name: 4)
    assert mlxtune("review", *two, "--scores", elsewhere).code == 0
    assert mlxtune("review", *two[::-1], "--scores", elsewhere).code == 0  # in whatever order they are named
    assert mlxtune("review", "--scores", beside, elsewhere).code == 0
    lost = mlxtune("review", "--scores", elsewhere)
    assert lost.code == 1 and "name the RUN, or that folder with --out" in lost.err
    assert mlxtune("review", Path(made["sheet"]).parent, "--scores", beside, elsewhere).code == 0
    (two[0] / "evaluation" / "tuned" / "predictions.jsonl").unlink()  # the key is enough
    assert mlxtune("review", Path(made["sheet"]).parent, "--scores", beside, elsewhere).code == 0
    other = mlxtune("review", two[1], "--scores", beside)
    assert other.code == 1 and "is the key of other runs than runs/ticket/b" in other.err


def test_scores_of_replies_that_have_changed_since_are_said_to_be(two: list[Path], mlxtune: Run) -> None:
    made = json.loads(mlxtune("review", two[0], "--sample", 4, "--json").out)
    anna = filled(Path(made["sheet"]), Path("anna.csv"), lambda case, name: 3)
    write_evaluation(two[0] / "evaluation" / "tuned", replies(9, 0.9, 120))
    result = mlxtune("review", two[0], "--scores", anna)
    assert result.code == 0 and "runs/ticket/a: was evaluated again since the sheet was written" in result.err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cases": {}}', '{"runs": [], "cases": {"a": {"run": 0}}}'])
def test_a_damaged_key_is_said_to_be_one(content: str, sheet: Path, mlxtune: Run) -> None:
    (sheet.parent / KEY_FILE).write_text(content)
    result = mlxtune("review", "--out", sheet.parent, "--scores", sheet)
    assert result.code == 1 and "not the key of a sheet, or damaged" in result.err


def test_what_a_rater_wrote_commands_no_terminal(two: list[Path], sheet: Path, mlxtune: Run) -> None:
    anna = filled(sheet, Path("anna.csv"), lambda case, name: 2, comment="\x1b[31m[bold]bad[/]")
    shown = mlxtune("review", "--out", "out", "--scores", anna)
    assert shown.code == 0 and "\x1b" not in shown.out and "[bold]bad[/]" in shown.out
    assert "The lowest overall scores below 3" in shown.out


@pytest.mark.parametrize("words", [["--sample", "3"], ["--seed", "1"], ["--field", "response"]])
def test_options_of_writing_do_not_go_with_reading(words: list[str], two: list[Path], mlxtune: Run) -> None:
    result = mlxtune("review", two[0], "--scores", "anna.csv", *words)
    assert result.code == 2 and f"{words[0]} is for writing a sheet" in result.err
    assert mlxtune("review").code == 2
