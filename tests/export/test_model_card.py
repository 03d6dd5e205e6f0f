"""A run's model card: whole, compared with a file; what text of others may not do in it; and code in it that runs.

After a change of the card that is meant: `python -m tests.export.test_model_card`, then read what changed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.backends.adapter import WEIGHTS_FILE
from mlxtune.data.rows import read_rows
from mlxtune.evaluation.baselines import baseline_results, label_baselines
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.predict.given import read_replies
from mlxtune.evaluation.results import DecodingResult, EvaluatedModel, EvaluationResult
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import identity, task_hash
from mlxtune.export.card_facts import CardFacts, card_facts
from mlxtune.export.card_usage import HubArtifact
from mlxtune.export.model_card import model_card
from mlxtune.export.options import ExportOptions
from mlxtune.export.source import open_source
from mlxtune.export.verification import Verification
from mlxtune.files import write_json
from mlxtune.models.license import License
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import RunFolder
from tests.adapted import backend_named
from tests.adapter_runs import adapter_run
from tests.conftest import write_rows
from tests.made_runs import replies_of, ticket_recipe, tickets

GOLDEN = Path(__file__).parent / "golden" / "model_card.md"
PEFT = HubArtifact("peft")
INFO: dict[str, Any] = {
    "status": "finished",
    "mlxtune": "0.2.0",
    "python": "3.12.1",
    "backend": "mlx",
    "device": {"description": "an M3"},
    "versions": {"mlx": "0.30.1", "mlx-lm": "0.29.0"},
    "steps": {"per_epoch": 10, "total": 30},
    "step": 30,
    "stopped": None,
    "adapter_step": 20,
    "train_loss": 0.512,
    "valid_loss": 0.634,
    "best": {"metric": "valid.loss", "value": 0.601, "step": 20},
    "seconds": 123.4,
    "peak_memory_gb": 1.5,
    "trainable_parameters": 4_000,
    "diagnosis": {"verdict": "over-fitting", "evidence": "valid/train 2.1 at step 30", "suggestions": {}},
    "data": {
        "train": {
            "file": "/home/me/private/train.jsonl",
            "sha256": "a" * 64,
            "rows": 40,
            "cleaning": {
                "read": 50,
                "duplicates": 4,
                "near_duplicates": 3,
                "low_quality": 3,
                "labels": {
                    "priority": {"high": 20, "medium": 15, "low": 5},
                    "tags": {"Bug": 30, "IT": 20, "Billing": 10},
                },
                "dropped": ["/home/me/private/train.jsonl:7: duplicate"],
                "conflicts": [],
            },
        },
        "valid": {"held_out_of": "/home/me/private/train.jsonl", "rows": 10},
    },
}
VERIFICATION: dict[str, Any] = {
    "run": "/home/me/private/run",
    "rows": 30,
    "tolerance": 0.02,
    "notes": [],
    "adapter": {
        "constrained": {
            "loaded_by": "mlx",
            "decoding": "constrained",
            "bytes": 4_000_000,
            "agreement": {"value": 1.0, "low": 0.9, "high": 1.0},
            "metrics": {"priority": {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "difference": None}}},
        }
    },
    "artifacts": {
        "gguf-q8_0": {
            "loaded_by": "llama.cpp",
            "decoding": "free",
            "bytes": 140_000_000,
            "agreement": {"value": 0.967, "low": 0.9, "high": 1.0},
            "metrics": {
                "priority": {
                    "accuracy": {
                        "value": 0.78,
                        "low": 0.7,
                        "high": 0.9,
                        "difference": {"difference": -0.02, "low": -0.05, "high": 0.01, "p_value": 0.4},
                    }
                }
            },
        }
    },
    "failed": {"q4": "/home/me/private/run/exports: no space left"},
}


def made_facts(folder: Path, **sections: Any) -> CardFacts:
    """A made-up run: 30 tickets answered before and after tuning, and by baselines."""
    test = tickets(30)
    recipe = load_recipe(ticket_recipe(folder, test, model={"path": "Qwen/Qwen3-0.6B"}, **sections))
    rows = read_rows(Path(str(recipe.data.test)))

    def replies(right: float) -> Any:
        file = write_rows(folder / "replies.jsonl", [{"prediction": one} for one in replies_of(test, right, seed=1)])
        return read_replies(file, rows, recipe)

    tuned, base = replies(0.8), replies(0.2)
    data = identity(Path(str(recipe.data.test)), len(rows))
    model = EvaluatedModel(recipe.model.path, None, "2:abc", task_hash(recipe), data, data, "mlx")
    baselines, _ = baseline_results(recipe, tuned, label_baselines(recipe, rows), {})
    before = EvaluationResult(constrained(score(base, recipe)), replace(model, adapter=None))
    top = constrained(score(tuned, recipe)).noting("2 replies reached the limit")
    result = EvaluationResult(top, model, baselines=baselines, before=compare(tuned, base, recipe, "before"))
    verification, license_of_base = Verification.from_json(VERIFICATION), License("apache-2.0")
    return CardFacts("alice/tickets-lora", PEFT, recipe, INFO, result, before, verification, license_of_base)


def constrained(result: DecodingResult) -> DecodingResult:
    return replace(result, decoding="constrained")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> CardFacts:
    return made_facts(tmp_path_factory.mktemp("card"), evaluate={"baselines": ["majority", "tfidf"]})


def front_of(card: str) -> dict[str, Any]:
    """The front matter, as any YAML reader has it."""
    return dict(yaml.safe_load(card.split("---\n")[1]))


def section_of(card: str, title: str) -> str:
    """What stands under a heading."""
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks_of(card: str, language: str) -> list[str]:
    """The blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)


# Whole


def golden(facts: CardFacts) -> str:
    return model_card(facts)


def test_the_card_is_what_it_was(facts: CardFacts) -> None:
    assert golden(facts) == GOLDEN.read_text(encoding="utf-8")


def test_the_hub_reads_the_front_matter(facts: CardFacts) -> None:
    from huggingface_hub import ModelCard

    data: Any = ModelCard(model_card(facts)).data
    said = data.to_dict()
    assert (said["base_model"], said["license"], said["library_name"]) == ("Qwen/Qwen3-0.6B", "apache-2.0", "peft")
    assert data.eval_results is not None
    found = {one.metric_name: one.metric_value for one in data.eval_results}
    top = facts.result.top if facts.result else None
    assert top is not None
    assert found == {
        "priority: accuracy": pytest.approx(top.fields["priority"]["accuracy"].value, abs=1e-4),
        "tags: exact match": pytest.approx(top.fields["tags"]["exact_match"].value, abs=1e-4),
        "whole reply: all fields right": pytest.approx(top.replies["all_fields_correct"].value, abs=1e-4),
    }


def test_no_path_of_the_machine_and_no_row_is_in_it(facts: CardFacts, tmp_path: Path) -> None:
    local = facts.recipe.model.model_copy(update={"path": "/home/me/models/qwen"})
    card = model_card(replace(facts, recipe=facts.recipe.model_copy(update={"model": local})))
    assert "/home/" not in card
    assert str(Path(str(facts.recipe.data.test)).parent) not in card
    assert "ticket 0-" not in card
    assert "base_model" not in front_of(card)


# What there is not


def test_a_run_that_was_not_evaluated_says_so(facts: CardFacts) -> None:
    card = model_card(replace(facts, result=None, before=None))
    assert "**This model was not evaluated.**" in section_of(card, "Results")
    assert "It was not evaluated at all." in section_of(card, "Limits")
    assert "model-index" not in front_of(card)


def test_a_training_without_validation_has_no_verdict(facts: CardFacts) -> None:
    card = model_card(replace(facts, info={**INFO, "diagnosis": None, "best": None, "valid_loss": None}))
    assert "Whether it over-fitted is not known: there was no validation." in section_of(card, "Training")
    assert "validation loss" not in section_of(card, "Training")


def test_a_training_that_did_not_finish_says_so(facts: CardFacts) -> None:
    card = model_card(replace(facts, info={**INFO, "status": "interrupted"}))
    assert "**Training did not finish** (status: interrupted)." in section_of(card, "Training")


def test_a_license_that_is_not_known_is_left_out_and_said(facts: CardFacts) -> None:
    card = model_card(replace(facts, license=None))
    assert "license" not in front_of(card)
    assert "The base model's license is not known" in section_of(card, "Limits")


def test_an_artifact_that_was_not_evaluated_itself_says_so(facts: CardFacts) -> None:
    gguf = HubArtifact("gguf", ExportOptions(type="q8_0"), "tickets-Q8_0.gguf")
    card = model_card(replace(facts, artifact=gguf, verification=None))
    assert "what is in this repository was not evaluated itself" in section_of(card, "Limits")


def test_an_artifact_counts_as_evaluated_under_its_own_name_only(facts: CardFacts) -> None:
    said = "what is in this repository was not evaluated itself"
    verification = Verification.from_json({**VERIFICATION, "artifacts": {"q4": VERIFICATION["artifacts"]["gguf-q8_0"]}})
    four, eight = (HubArtifact("mlx", ExportOptions(quantize=bits)) for bits in (4, 8))
    cards = [model_card(replace(facts, artifact=one, verification=verification)) for one in (four, eight)]
    assert [said in section_of(card, "Limits") for card in cards] == [False, True]


@pytest.mark.parametrize(
    ("artifact", "relation", "library", "said"),
    [
        (PEFT, "adapter", "peft", "PeftModel.from_pretrained(base, "),
        (HubArtifact("hf"), "finetune", "transformers", 'AutoModelForCausalLM.from_pretrained("alice/tickets-lora")'),
        (HubArtifact("mlx", ExportOptions(quantize=4)), "finetune", "mlx", 'load("alice/tickets-lora")'),
        (HubArtifact("gguf", file="t-F16.gguf"), "finetune", "gguf", "llama-cli -hf alice/tickets-lora:F16 --jinja"),
        (HubArtifact("gguf-lora", file="t-lora.gguf"), "adapter", "gguf", "-m BASE.gguf --lora t-lora.gguf"),
    ],
    ids=lambda value: value.format if isinstance(value, HubArtifact) else "",
)
def test_each_artifact_says_what_it_is_and_how_it_is_loaded(
    artifact: HubArtifact, relation: str, library: str, said: str, facts: CardFacts
) -> None:
    card = model_card(replace(facts, artifact=artifact))
    front = front_of(card)
    assert (front["base_model_relation"], front["library_name"]) == (relation, library)
    assert said in section_of(card, "Use")


# What others wrote

HOSTILE = "a|b\n<script>alert(1)</script> ](http://x) `x` ---"


def test_hostile_names_and_labels_end_no_table_and_no_front_matter(facts: CardFacts) -> None:
    recipe = facts.recipe
    fields = recipe.output.fields
    labels = ["a|b", "<script>alert(1)</script>", "[x](http://x)", "---", "`x`", "*b* _c_ #d"]
    priority = fields["priority"].model_copy(update={"labels": labels})
    output = recipe.output.model_copy(update={"fields": {**fields, "priority": priority}})
    card = model_card(replace(facts, recipe=recipe.model_copy(update={"output": output})))
    assert front_of(card) == front_of(model_card(facts))
    row = next(line for line in card.splitlines() if line.startswith("| priority | one of"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    prose = re.sub(r"^(`{3,})[^\n]*\n.*?\n\1$", "", card, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in prose
    assert "](http://x)" not in prose.replace("\\]", "")


def test_hostile_prompts_end_no_block(facts: CardFacts) -> None:
    system = "Name the intent.\n```\n# Not a heading\n~~~\n````\n"
    prompt = facts.recipe.prompt.model_copy(update={"system": system})
    card = model_card(replace(facts, recipe=facts.recipe.model_copy(update={"prompt": prompt})))
    headings = [line for line in _outside_blocks(card) if line.startswith("#")]
    assert headings == [line for line in _outside_blocks(model_card(facts)) if line.startswith("#")]


def _outside_blocks(card: str) -> list[str]:
    """The lines that Markdown reads: those in no block of code, as CommonMark ends blocks."""
    found, fence = [], ""
    for line in card.splitlines():
        mark = re.match(r"`{3,}", line)
        if fence:
            fence = "" if mark and line.strip("`") == "" and len(line) >= len(fence) else fence
        elif mark:
            fence = mark[0]
        else:
            found.append(line)
    return found


def test_hostile_texts_of_run_json_stay_in_their_lines(facts: CardFacts) -> None:
    diagnosis = {"verdict": HOSTILE, "evidence": HOSTILE, "suggestions": {}}
    info = {**INFO, "diagnosis": diagnosis, "device": {"description": HOSTILE}, "stopped": HOSTILE}
    card = model_card(replace(facts, info=info))
    assert front_of(card) == front_of(model_card(facts))
    assert "<script>" not in card
    assert len(card.splitlines()) == len(model_card(facts).splitlines())


# From a run


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunFolder:
    run = adapter_run(tmp_path, base)
    run.update_info(**{key: INFO[key] for key in ("mlxtune", "backend", "step", "steps", "status")})
    return run


def facts_of(run: RunFolder, artifact: HubArtifact = PEFT) -> CardFacts:
    return card_facts(run, open_source(run, backend_named("mlx")), artifact, "alice/tiny")


def evaluate(run: RunFolder, name: str, adapter_sha256: str | None) -> EvaluationResult:
    """An evaluation of fixed replies, as it would lie in the run."""
    recipe = run.recipe()
    rows = read_rows(Path(str(recipe.data.test)))
    replies = write_rows(run.path / "replies.jsonl", [{"prediction": "payment"}] * len(rows))
    data = identity(Path(str(recipe.data.test)), len(rows))
    adapter = None if adapter_sha256 is None else replace(data, sha256=adapter_sha256)
    model = EvaluatedModel(recipe.model.path, None, "2:abc", task_hash(recipe), adapter, data, "mlx")
    result = EvaluationResult(score(read_replies(replies, rows, recipe), recipe), model)
    run.evaluation(name).mkdir(parents=True)
    write_json(run.evaluation(name) / "scores.json", result.to_json())
    return result


def test_the_runs_evaluations_are_read(run: RunFolder) -> None:
    tuned = evaluate(run, "tuned", identity(run.adapter / WEIGHTS_FILE).sha256)
    before = evaluate(run, "base", None)
    facts = facts_of(run)
    assert facts.result is not None and facts.before is not None
    assert (facts.result.to_json(), facts.before.to_json()) == (tuned.to_json(), before.to_json())
    assert "| intents | exact match | 0.143" in section_of(model_card(facts), "Results")


def test_the_evaluation_of_an_earlier_adapter_is_left_out(run: RunFolder) -> None:
    evaluate(run, "tuned", "0" * 64)
    facts = facts_of(run)
    assert facts.result is None
    assert any("the evaluation is of an earlier adapter" in note for note in facts.notes)


def test_the_verification_of_an_earlier_adapter_is_left_out(run: RunFolder) -> None:
    write_json(run.verify_file, VERIFICATION)
    assert facts_of(run).verification == Verification.from_json(VERIFICATION)
    os.utime(run.verify_file, (1, 1))
    assert facts_of(run).verification is None


def test_what_is_not_known_of_the_license_and_the_evaluation_is_noted(run: RunFolder) -> None:
    notes = facts_of(run).notes
    assert len(notes) == 2
    assert f"`mlxtune evaluate {run}`" in notes[0]
    assert "name no license" in notes[1]


def test_a_gguf_comes_with_the_modelfile_of_its_recipe(run: RunFolder) -> None:
    card = model_card(facts_of(run, HubArtifact("gguf", file="tiny-F16.gguf")))
    assert any(block.startswith("FROM ./tiny-F16.gguf\nTEMPLATE") for block in blocks_of(card, "text"))


# The code in it runs


@contextmanager
def downloads(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """The Hub's repository is a folder here."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    yield


def run_code(code: str, replaced: dict[str, str]) -> str:
    """The reply that a card's code ends with, once what it loads is here."""
    for there, here in replaced.items():
        assert there in code
        code = code.replace(there, here)
    scope: dict[str, Any] = {}
    exec(code, scope)
    return str(scope["reply"])


@pytest.mark.parametrize(
    "prompt", [{}, {"system": None, "user": "Message:\t{text}\n (\\n) {text}"}], ids=["plain", "other"]
)
def test_the_code_of_the_card_asks_as_the_recipe_does(
    prompt: dict[str, Any], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from mlxtune.backends.base import Backend, in_order
    from mlxtune.data.examples import prompt_ids
    from mlxtune.data.rows import Row
    from mlxtune.export.hub_folder import MLX_FOLDER
    from mlxtune.export.peft_adapter import export_peft
    from mlxtune.models.tokenizer import load_tokenizer

    run = adapter_run(tmp_path, base, prompt=prompt, evaluate={"max_new_tokens": 8})
    backend: Backend = backend_named("mlx")
    source = open_source(run, backend)
    folder = export_peft(source, tmp_path / "repository").path
    (folder / MLX_FOLDER).symlink_to(run.adapter.absolute())
    row = Row({"text": "the text"}, "made up", 1)
    tokenizer = load_tokenizer(base)
    asked = [list(ids) for ids in prompt_ids([row], run.recipe(), tokenizer)]
    ours = in_order(backend.load(base, run.adapter, "float32").generate(asked, 8, tokenizer.stop_tokens))[0]
    codes = blocks_of(model_card(facts_of(run)), "python")
    assert len(codes) == 2
    replies = [run_code(codes[0], {"path/to/the/base/model": str(base), "alice/tiny": str(folder)})]
    with downloads(monkeypatch, folder):
        replies.append(run_code(codes[1], {"path/to/the/base/model": str(base)}))
    # mlx-lm leaves out a space that a reply begins with
    assert [reply.strip() for reply in replies] == [tokenizer.decode(ours.tokens).strip()] * 2


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        made = made_facts(Path(place), evaluate={"baselines": ["majority", "tfidf"]})
        GOLDEN.write_text(golden(made), encoding="utf-8")
