"""Conversations and documents on the command line: trained, evaluated and asked like any rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, write_rows

CHATS = [
    [("user", "hello"), ("assistant", "pay the bill")],
    [("system", "Be brief."), ("user", "hello there"), ("assistant", "the bill"), ("user", "the card"), ("assistant", "we help")],
    [("user", "the card"), ("assistant", "hello"), ("user", "cancel"), ("assistant", "pay the bill")],
]  # fmt: skip
RECORDS = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in CHATS]
TEXTS = ["pay the bill " * 9, "hello, we will help", "the card"]


@pytest.fixture
def place(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("chats.jsonl"), RECORDS)
    write_rows(Path("texts.jsonl"), [{"text": text} for text in TEXTS])
    for name, train in (("chats", {"supervise": "all"}), ("texts", {"max_tokens": 16})):
        files = dict.fromkeys(("train", "valid", "test"), f"{name}.jsonl")
        content: dict[str, Any] = {
            "model": {"path": str(base)}, "data": files, "train": {"learning_rate": 1e-2, "max_steps": 2, "epochs": 2, **train},
            "evaluate": {"max_new_tokens": 6},
        }  # fmt: skip
        Path(f"{name}.yaml").write_text(json.dumps(content))
    return tmp_path


def test_conversations_train_evaluate_and_are_asked(place: Path, mlxtune: Run) -> None:
    found = mlxtune("data", "chats.yaml", "--preview", "3")
    assert "  format: messages (a column 'messages' of turns with role and content)" in found.out.splitlines()
    assert "chats.jsonl:3: " in found.out
    trained = mlxtune("lora", "chats.yaml", "--out", "run")
    assert trained.code == 0, trained.err
    info = json.loads(Path("run/run.json").read_text())
    assert info["data"]["train"]["format"]["name"] == "messages"
    assert mlxtune("evaluate", "run").code == 0
    lines = [json.loads(line) for line in Path("run/evaluation/tuned/predictions.jsonl").read_text().splitlines()]
    assert [line["input"] for line in lines] == ["hello", "the card", "cancel"]
    assert [line["expected"]["answer"] for line in lines] == [chat[-1][1] for chat in CHATS]
    assert "conversation" not in lines[0]  # one turn is all there is
    assert lines[2]["conversation"] == "user: the card\n\nassistant: hello\n\nuser: cancel"
    asked = mlxtune("predict", "run", json.dumps({"messages": RECORDS[2]["messages"][:-1]}), "--json")
    assert json.loads(asked.out)["prediction"] == lines[2]["prediction"]
    assert json.loads(asked.out)["text"] == "cancel"
    page = mlxtune("export", "run", "--to", "ollama", "--out", "exported")
    assert page.code == 0, page.err
    assert "SYSTEM" not in Path("exported/Modelfile").read_text()


def test_a_conversation_that_has_its_reply_is_not_asked(place: Path, mlxtune: Run) -> None:
    mlxtune("lora", "chats.yaml", "--out", "run")
    asked = mlxtune("predict", "run", json.dumps(RECORDS[0]))
    assert asked.code == 2
    assert "TEXT 1: message 2: expected the last to be of user or tool, got assistant" in asked.err


def test_documents_have_a_perplexity_and_no_replies(place: Path, mlxtune: Run) -> None:
    trained = mlxtune("lora", "texts.yaml", "--out", "run")
    assert trained.code == 0, trained.err
    assert "5 pieces of 3 documents, joined into 4 rows, to train" in trained.err
    tuned, before = (json.loads(mlxtune("evaluate", "run", *words, "--json").out) for words in ((), ("--base",)))
    assert tuned["documents"] == before["documents"] == 3
    assert tuned["perplexity"]["value"] < before["perplexity"]["value"]
    # What is trained on is what is tested on: the loss is the last validation's.
    events = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    (*_, last) = [event["loss"] for event in events if event["event"] == "validation"]
    assert tuned["loss"]["value"] == pytest.approx(last, rel=1e-4)
    assert json.loads(Path("run/evaluation/tuned/perplexity.json").read_text()) == tuned
    assert mlxtune("report", "run").code == 0
    page = " ".join(re.sub(r"<[^>]*>", " ", Path("run/report.html").read_text(encoding="utf-8")).split())
    after, earlier = ("{value:.3f} [{low:.3f}, {high:.3f}]".format(**one["perplexity"]) for one in (tuned, before))
    assert f"perplexity of the test documents {after}" in page and earlier in page
    assert "Measured on 3 documents" in page and "Not evaluated" not in page
    again = mlxtune("evaluate", "run")
    assert again.code == 1 and "perplexity.json: exists already; replace it with --force" in again.err
    refused = mlxtune("evaluate", "run", "--decoding", "free", "--errors", "3")
    assert refused.code == 2
    assert "--decoding, --errors: the test rows are documents, which ask for no reply" in refused.err
