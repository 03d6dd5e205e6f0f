"""Rewritten rows: which are asked for, which answers are refused and why, and that every command sees the same ones."""

from __future__ import annotations

import http.server
import json
import random
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends import choose
from mlxtune.chat.client import Answer, ChatFailure, ChatServerError, Question
from mlxtune.data import augment as augmenting
from mlxtune.data.augment import TAG, Augmented, read_answer
from mlxtune.data.prepare import RecipeRows, training_rows, training_split, validation_rows
from mlxtune.data.report import read_splits, report_data
from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError, RecipeError
from mlxtune.evaluation.baselines import few_shot_rows, label_baselines
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.report.terminal.data_tables import account_lines
from mlxtune.training.plan import plan
from tests.conftest import Run, write_recipe, write_rows
from tests.data.test_cleaning import oracle_near
from tests.tiny import tiny_config, tiny_tokenizer

AUGMENT = {"field": "priority", "value": "low", "factor": 3.0, "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
OUTPUT = {
    "template": "{priority}\nTags: {tags}\nReply: {reply}",
    "fields": {
        "priority": {"kind": "label", "labels": ["high", "low"]},
        "tags": {"kind": "labels"},
        "reply": {"kind": "text"},
    },
}
KEY = "sk-secret-of-the-test-0123456789"


def words(seed: int, n_words: int = 9) -> str:
    """A text that is near to none of another seed."""
    random_ = random.Random(seed)
    return " ".join("".join(random_.choice("abdegiklmnoprstu") for _ in range(6)) for _ in range(n_words))


SOURCES = [f"{words(number)} <name>" for number in range(10)]
HIGH, VALID, TEST = ([words(number) for number in range(start, start + 20)] for start in (100, 200, 300))


def message_of(question: Question) -> str:
    """What a question asks to rewrite."""
    found = re.search(r"<message>\n(.*)\n</message>\Z", question.messages[-1]["content"], re.DOTALL)
    assert found is not None
    return found[1]


def other_words(question: Question) -> str:
    """A rewrite with nothing wrong: other words, the same tags."""
    return " ".join([words(10_000 + (question.seed or 0)), *sorted(set(TAG.findall(message_of(question))))])


class Fake:
    """A server that answers by a function, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Question], Answer] = other_words) -> None:
        self.answer, self.asked = answer, list[Question]()

    def answers(self, questions: Sequence[Question], on_answer: Callable[[int], None]) -> list[Answer]:
        self.asked += questions
        return [self.answer(question) for question in questions]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def ticket(text: str, priority: str) -> dict[str, Any]:
    return {"id": "7", "text": text, "priority": priority, "tags": ["a", "b"], "reply": f"About {text}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten rows of low priority, twenty of high; validation and test rows apart from them."""
    base = tiny_tokenizer(tmp_path / "base")
    (base / "config.json").write_text(json.dumps(tiny_config()))
    file = write_recipe(tmp_path, base, data={"augment": AUGMENT}, output=OUTPUT, train={"max_tokens": 4096})
    write_rows(tmp_path / "train.jsonl", [*(ticket(text, "low") for text in SOURCES),
                                          *(ticket(text, "high") for text in HIGH)])  # fmt: skip
    write_rows(tmp_path / "valid.jsonl", [ticket(text, "low") for text in VALID])
    write_rows(tmp_path / "test.jsonl", [ticket(text, "low") for text in TEST])
    return file


@pytest.fixture
def recipe(file: Path) -> Recipe:
    return load_recipe(file)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    """Makes a fake the server that recipes ask."""

    def by(answer: Callable[[Question], Answer] = other_words) -> Fake:
        fake = Fake(answer)
        monkeypatch.setattr(augmenting, "_open", lambda settings, cache: fake)
        return fake

    return by


Serve = Callable[..., Fake]


def synthetic(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.synthetic]


def made(recipe: Recipe, tokenizer: Tokenizer) -> Augmented:
    augmented = training_split(RecipeRows(recipe), tokenizer).augmented
    assert augmented is not None
    assert augmented.asked == len(augmented.rows) + sum(augmented.refused.values())
    return augmented


# What is made


def test_the_class_has_factor_times_its_rows_and_only_the_text_is_other(
    recipe: Recipe, tokenizer: Tokenizer, serve: Serve
) -> None:
    fake = serve()
    split = training_split(RecipeRows(recipe), tokenizer)
    own, new = split.rows[:30], split.rows[30:]
    assert Counter(row.fields["priority"] for row in split.rows) == {"low": 30, "high": 20}
    assert own == read_rows(Path(recipe.data.train)) and not synthetic(own) and synthetic(split.rows) == list(new)
    for row in new:
        source = next(one for one in own if f"{one.file} (rewritten)" == row.file and one.line == row.line)
        assert source.fields["priority"] == "low" and row.fields["text"] != source.fields["text"]
        assert {**row.fields, "text": ""} == {**source.fields, "text": ""}
    assert Counter(row.line for row in new) == dict.fromkeys(range(1, 11), 2)  # every row of the class, equally often
    assert len(fake.asked) == 20 and len({question.seed for question in fake.asked}) == 20
    assert all(question.temperature == 0.9 for question in fake.asked)


def test_a_question_shows_text_labels_and_what_to_keep_and_not_the_reply(
    recipe: Recipe, tokenizer: Tokenizer, serve: Serve
) -> None:
    fake = serve()
    training_split(RecipeRows(recipe), tokenizer)
    assert {message_of(question) for question in fake.asked} == set(SOURCES)
    asked = fake.asked[0].messages[-1]["content"]
    assert "priority: low; tags: a, b" in asked and "Keep <name> exactly" in asked and "About" not in asked


def test_the_seed_decides_which_rows_in_which_order(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    asked = []
    for seed in (0, 0, 1):
        fake = serve()
        made(load_recipe(file, [f"train.seed={seed}", "data.augment.factor=1.3"]), tokenizer)
        asked.append(fake.asked)
        shutil.rmtree(file.parent / "cache")
    assert asked[0] == asked[1] and len(asked[0]) == 3
    assert [message_of(one) for one in asked[0]] != [message_of(one) for one in asked[2]]


def test_a_label_of_a_set_is_augmented_too(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    serve()
    recipe = load_recipe(file, ["data.augment.field=tags", "data.augment.value=b", "data.augment.factor=1.5"])
    assert (made(recipe, tokenizer).before, len(made(recipe, tokenizer).rows)) == (30, 15)


def test_rows_held_out_are_never_rewritten_nor_neared(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    recipe = load_recipe(file, ["data.valid=null", "data.valid_fraction=0.3"])
    held_out = [str(row.fields["text"]) for row in validation_rows(recipe) or ()]
    low = [text for text in held_out if text in SOURCES]
    fake = serve(lambda question: low[0] if question.seed == 0 else other_words(question))
    augmented = made(recipe, tokenizer)
    assert low and not set(held_out) & {message_of(question) for question in fake.asked}
    assert augmented.refused == {"near_valid": 1} and len(augmented.rows) == augmented.wanted
    assert [row.fields["text"] for row in validation_rows(recipe) or ()] == held_out


def test_balancing_counts_the_rewritten_rows(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    serve()
    balance = "data.balance={field: priority, method: oversample}"
    split = training_split(RecipeRows(load_recipe(file, ["data.augment.factor=1.5", balance])), tokenizer)
    assert split.balanced is not None
    assert split.balanced.before == {"high": 20, "low": 15} and split.balanced.after == {"high": 20, "low": 20}


# What is refused


def near_copy(question: Question) -> str:
    return message_of(question).replace(" ", ", ", 2).capitalize() + "!"


REFUSED: list[tuple[str, Callable[[Question], Answer]]] = [
    ("near_train", near_copy),
    ("near_train", lambda question: f"{HIGH[3].upper()} <name>"),
    ("near_valid", lambda question: f"{VALID[1]}! <name>"),
    ("near_test", lambda question: f"{TEST[1]}. <name>"),
    ("near_rewritten", lambda question: f"{words(99)} <name>"),
    ("empty", lambda question: "<think>I am still thinking"),
    ("empty", lambda question: " \n"),
    ("length", lambda question: words(question.seed or 0, 60) + " <name>"),
    ("length", lambda question: "Help <name>"),
    ("placeholders", lambda question: other_words(question).replace(" <name>", "")),
    ("placeholders", lambda question: f"{other_words(question)} <tel_num>"),
    ("placeholders", lambda question: f"{other_words(question)}<|im_end|>"),
    ("low_quality", lambda question: "### ??? *** %%% ### ??? *** %%% ### ??? *** <name>"),
    ("no_answer", lambda question: ChatFailure("refused", "I cannot do that")),
    ("no_answer", lambda question: ChatFailure("cut", "cut at 9 tokens", other_words(question))),
    ("failed", lambda question: ChatFailure("failed", "status 400: too long")),
]


@pytest.mark.parametrize(("reason", "answer"), REFUSED)
def test_what_is_no_row_is_refused_for_its_reason(
    reason: str, answer: Callable[[Question], Answer], file: Path, tokenizer: Tokenizer, serve: Serve
) -> None:
    serve(answer)
    augmented = made(load_recipe(file, ["data.augment.factor=1.3"]), tokenizer)
    n_made = 1 if reason == "near_rewritten" else 0  # the first to say it
    assert augmented.wanted == 3 and len(augmented.rows) == n_made
    assert augmented.refused == {reason: 3 * (3 - n_made)}
    assert f"{n_made} rewritten from the 10 rows with priority low, 3 were wanted" in augmented.summary()
    assert augmenting.REASONS[reason] in augmented.summary()


def test_the_recipes_least_length_holds_for_rewrites(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    serve(lambda question: f"{words(question.seed or 0, 6)} <name>")
    short = ["data.augment.factor=1.3", "data.clean.min_chars=60"]
    assert made(load_recipe(file, short), tokenizer).refused == {"low_quality": 9}
    assert not made(load_recipe(file, short[:1]), tokenizer).refused


def test_an_answer_refused_is_asked_for_again_of_another_row(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    bad: list[str] = []

    def answer(question: Question) -> str:
        if message_of(question) in bad[:1] or not bad:
            bad.append(message_of(question))
            return ""
        return other_words(question)

    fake = serve(answer)
    augmented = made(load_recipe(file, ["data.augment.factor=1.1"]), tokenizer)
    assert len(augmented.rows) == 1 and augmented.refused == {"empty": 1}
    assert message_of(fake.asked[0]) != message_of(fake.asked[1])


def test_tries_bounds_the_answers(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    for tries in (1, 5):
        fake = serve(lambda question: "")
        made(load_recipe(file, ["data.augment.factor=1.2", f"data.augment.tries={tries}"]), tokenizer)
        assert len(fake.asked) == 2 * tries


def test_no_rewrite_is_near_to_any_other_row_by_brute_force(file: Path, tokenizer: Tokenizer, serve: Serve) -> None:
    """Answers of which many are near to something, against shingle sets counted in Python."""
    pool = [*SOURCES, *HIGH, *VALID, *TEST]

    def answer(question: Question) -> str:
        random_ = random.Random(question.seed)
        if random_.random() < 0.4:
            text = random_.choice(pool)
            return f"{random_.choice(['Well', 'Hi', 'So'])}: {text.removesuffix(' <name>')} <name>"
        return f"{words(400 + random_.randrange(12), 8)} {words(random_.randrange(10**6), 1)} <name>"

    serve(answer)
    augmented = made(load_recipe(file, ["data.augment.tries=2"]), tokenizer)
    new = [str(row.fields["text"]) for row in augmented.rows]
    assert 3 < len(new) < 20 and sum(augmented.refused.values()) > 5
    assert not [(one, other) for one in new for other in pool if oracle_near(one, other)]
    assert not [(new[a], new[b]) for a in range(len(new)) for b in range(a) if oracle_near(new[a], new[b])]


@pytest.mark.parametrize(
    ("answer", "source", "message"),
    [
        ('<think>Hm.</think>Here is the rewritten message:\n"My card fails."', "The card", "My card fails."),
        ("so I think.</think>\n\nYes", "x", "Yes"),
        ("```text\nMy card\n```", "x", "My card"),
        ("<message>\nMy card <name>\n</message>", "x", "My card <name>"),
        ("“你好吗”", "你好", "你好吗"),
        ('"Pay" and "go"', "x", '"Pay" and "go"'),
        ('"Pay"', '"Buy"', '"Pay"'),
        ("Here is my problem: it fails", "It breaks", "Here is my problem: it fails"),
        ("Rewritten notes: all", "Rewritten text: some", "Rewritten notes: all"),
    ],
)
def test_the_message_is_taken_out_of_what_stands_around_it(answer: str, source: str, message: str) -> None:
    assert read_answer(answer, source) == message


# The same rows for all, and once


def test_every_command_sees_the_same_rows_and_the_server_is_asked_once(
    recipe: Recipe, file: Path, tokenizer: Tokenizer, serve: Serve
) -> None:
    serve()
    first = training_split(RecipeRows(recipe), tokenizer)
    again = serve(lambda question: pytest.fail("asked again"))
    assert training_split(RecipeRows(recipe), tokenizer).rows == first.rows == training_rows(recipe)
    report = report_data(recipe, read_splits(recipe), tokenizer)
    assert report.train_rows == first.rows and report.splits["train"].augmented == first.augmented
    moved = load_recipe(file, ["data.augment.endpoint=https://elsewhere/v1"])
    assert training_rows(moved) == first.rows and not again.asked


def test_baselines_learn_from_the_rows_that_people_wrote_and_ask_no_server(file: Path, serve: Serve) -> None:
    serve(lambda question: pytest.fail("asked"))
    recipe = load_recipe(file, ["evaluate.baselines=[majority, tfidf]", "evaluate.few_shot=1000"])
    plain = load_recipe(file, ["evaluate.baselines=[majority, tfidf]", "evaluate.few_shot=1000", "data.augment=null"])
    rows = read_rows(Path(str(recipe.data.test)))
    assert label_baselines(recipe, rows) == label_baselines(plain, rows) != {}
    assert few_shot_rows(recipe) == few_shot_rows(plain)


@pytest.mark.parametrize(
    "change", ["data.augment.model=n", "data.augment.temperature=0.5", "train.seed=3", "data.test=valid.jsonl"]
)
def test_what_decides_the_rows_decides_them_anew(
    change: str, file: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    serve()
    training_rows(load_recipe(file))
    again = serve()
    training_rows(load_recipe(file, [change]))
    assert again.asked


def test_a_damaged_decision_is_made_anew(recipe: Recipe, tokenizer: Tokenizer, serve: Serve) -> None:
    serve()
    first = made(recipe, tokenizer)
    first.file.write_text(first.file.read_text()[:50])
    again = serve()
    assert made(recipe, tokenizer) == first and len(again.asked) == 20


def test_a_server_that_is_down_is_named_and_nothing_is_kept(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)recipe 'tiny': data.augment: http://127.0.0.1:9/v1: .*cannot connect.*"
                                        r"--set data.augment=null"):  # fmt: skip
        training_rows(recipe)
    assert not list(tmp_path.glob("cache/**/*.json"))


def test_a_server_that_dies_midway_fails_and_the_next_run_asks_for_the_rest(
    recipe: Recipe, serve: Serve, tmp_path: Path
) -> None:
    lost = ChatFailure("failed", "the connection broke (asked 5 times)")
    serve(lambda question: lost if (question.seed or 0) % 20 == 3 else other_words(question))
    with pytest.raises(DataError, match=r"1 of 20 rows failed; the first: the connection broke"):
        training_rows(recipe)
    assert not list(tmp_path.glob("cache/**/*.json"))
    serve()
    assert len(synthetic(training_rows(recipe))) == 20


def test_a_failure_that_a_further_try_mended_is_only_counted(
    recipe: Recipe, tokenizer: Tokenizer, serve: Serve
) -> None:
    lost = ChatFailure("failed", "status 503: busy (asked 5 times)")
    serve(lambda question: lost if question.seed == 3 else other_words(question))
    augmented = made(recipe, tokenizer)
    assert len(augmented.rows) == 20 and augmented.refused == {"failed": 1}


def test_an_error_of_the_server_is_an_error_of_the_data(recipe: Recipe, serve: Serve) -> None:
    def refuse(question: Question) -> str:
        raise ChatServerError("http://x: no key was sent")

    serve(refuse)
    with pytest.raises(DataError, match="http://x: no key was sent"):
        training_rows(recipe)


def test_a_label_without_rows_cannot_be_augmented(file: Path, serve: Serve) -> None:
    serve()
    write_rows(file.parent / "train.jsonl", [ticket(text, "high") for text in HIGH])
    with pytest.raises(DataError, match="no training row has the priority 'low', so there is nothing to rewrite"):
        training_rows(load_recipe(file))


# The recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("field=prioritty", "data.augment.field: 'prioritty' is no output field with labels; did you mean 'priority'?"),
        ("field=reply", "data.augment.field: 'reply' is no output field with labels"),
        ("value=Low", "data.augment.value: 'Low' is no label of priority; did you mean 'low'?"),
        ("factor=1", "data.augment.factor: expected more than 1"),
        ("endpoint=127.0.0.1:8080", "data.augment.endpoint: expected http://HOST:PORT/v1 or https://..."),
        ("endpoint=https://me:pw@host/v1", "data.augment.endpoint: it must not contain a password or key"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(file: Path, change: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(file, [f"data.augment.{change}"])
    assert message in str(error.value) and "pw" not in str(error.value).partition("endpoint: ")[2]


def test_the_text_that_is_rewritten_is_shown_to_the_model(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"data.augment: it rewrites \{text\}, which prompt.user does not show"):
        load_recipe(file, ['prompt.user="{id}"'])


# Planned


def test_a_plan_asks_nothing_and_says_what_is_still_to_be_asked(recipe: Recipe, serve: Serve) -> None:
    backend = choose("mlx", "cpu").backend
    fake = serve()
    before = plan(recipe, backend)
    assert not fake.asked and before.rows == before.as_json()["rows"] == 50 and before.rows_to_rewrite == 20
    assert "50 rows to train; with up to 20 still to be rewritten, 20 to validate" in before.as_text()
    training_rows(recipe)
    assert len(fake.asked) == 20
    after = plan(recipe, backend)
    assert (after.rows, after.rows_to_rewrite) == (50, 0) and "; with 20 rewritten, 20 to validate" in after.data


# Shown and written


def test_the_account_of_the_data_adds_up(recipe: Recipe, tokenizer: Tokenizer, serve: Serve) -> None:
    serve(lambda question: "" if (question.seed or 0) % 2 else other_words(question))
    report = report_data(recipe, read_splits(recipe), tokenizer)
    train = report.as_json()["splits"]["train"]
    augment = train["augment"]
    assert augment["made"] == train["synthetic"] == train["rows"] - train["read"] and augment["rows_before"] == 10
    assert augment["asked"] == augment["made"] + augment["refused"]["empty"]
    assert report.as_json()["splits"]["test"]["augment"] is None
    lines = "\n".join(account_lines("train", report.splits["train"], report))
    assert f"+{augment['made']} rewritten from the 10 rows with priority low" in lines
    assert f"{train['rows']} rows to train on, {augment['made']} of them synthetic" in lines


def test_a_report_rewrites_nothing_of_rows_that_cannot_be_used(
    file: Path, recipe: Recipe, tokenizer: Tokenizer, serve: Serve
) -> None:
    fake = serve()
    write_rows(file.parent / "train.jsonl", [ticket(words(1), "low"), ticket(words(2), "lowest")])
    report = report_data(recipe, read_splits(recipe), tokenizer)
    assert report.refusals and not fake.asked and report.splits["train"].augmented is None


class _Chat(http.server.BaseHTTPRequestHandler):
    """A chat server, as far as one is needed; it wants a key."""

    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(self.headers["Authorization"])
        question = Question(tuple(body["messages"]), body["max_tokens"], seed=body["seed"])
        choice = {"message": {"content": f"<think>Hm</think>{other_words(question)}"}, "finish_reason": "stop"}
        status = 200
        content: dict[str, Any] = {"choices": [choice]}
        if question.seed == 4:
            status, content = 400, {"error": {"message": "this one is too long for me"}}
        answer = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def chat() -> Iterator[tuple[str, list[str], Callable[[], None]]]:
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Chat", (_Chat,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    yield f"http://127.0.0.1:{server.server_port}/v1", asked, stop
    stop()


def test_a_real_server_is_asked_once_and_the_key_is_written_nowhere(
    file: Path,
    tmp_path: Path,
    chat: tuple[str, list[str], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    mlxtune: Run,
) -> None:
    url, asked, stop = chat
    monkeypatch.setenv("MLXTUNE_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    command = ["data", file, "--set", f"data.augment.endpoint={url}"]
    first = mlxtune(*command, "--json", "--write", "out")
    asking = "rewriting 20 rows\nrewriting 1 row, try 2\n"
    assert first.code == 0 and first.err.startswith(asking) and first.err.count("\n") == 5
    train = json.loads(first.out)["splits"]["train"]
    assert (train["synthetic"], train["augment"]["refused"]) == (20, {"failed": 1})
    assert len(asked) == 21 and set(asked) == {f"Bearer {KEY}"}
    stop()
    again = json.loads(mlxtune(*command, "--json").out)
    assert {**again, "written": None} == {**json.loads(first.out), "written": None} and len(asked) == 21
    # Without what was decided, the answers still serve, but for the one that failed.
    Path(train["augment"]["kept_in"]).unlink()
    down = mlxtune(*command)
    assert down.code == 1 and "Traceback" not in down.err and "cannot connect" in down.err
    assert not Path(train["augment"]["kept_in"]).exists()
    for written in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert KEY.encode() not in written.read_bytes()
    assert KEY not in first.out + first.err + down.out + down.err


def test_rows_written_keep_their_mark(
    file: Path, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, mlxtune: Run
) -> None:
    serve()
    monkeypatch.chdir(tmp_path)
    assert mlxtune("data", file, "--write", "out").code == 0
    rows = read_rows(Path("out/train.jsonl"))
    assert [row.synthetic for row in rows] == [False] * 30 + [True] * 20
    plain = mlxtune("data", file, "--set", "data.train=out/train.jsonl", "--set", "data.augment=null", "--json")
    assert json.loads(plain.out)["splits"]["train"]["synthetic"] == 20
    assert "synthetic" not in (tmp_path / "out" / "test.jsonl").read_text()
