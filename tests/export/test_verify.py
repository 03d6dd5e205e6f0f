"""Verified artifacts: the recipe's own evaluation on each, and what is said where one lost the training.

The test rows' references are what base plus adapter replies, so that the adapter is right everywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.backends.base import ConvertSpec, Generation, in_order
from mlxtune.data.rows import read_rows
from mlxtune.errors import Misuse, RunError
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.subject import Subject, load_subject
from mlxtune.export import verify
from mlxtune.export.artifacts import parse_kinds
from mlxtune.export.formats import default_out, export_run
from mlxtune.export.verification import HeadlineMetric, Verification, Verified, read_verification
from mlxtune.export.verify import verify_run
from mlxtune.models.base_model import base_folder, fingerprint
from mlxtune.report.terminal.tables import to_text
from mlxtune.report.terminal.verify_table import verify_tables
from mlxtune.runs.folder import RunFolder, locked
from tests.adapted import BACKENDS, backend_named
from tests.adapter_runs import adapter_run
from tests.conftest import ROWS, Run, write_rows
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose test rows ask for what it replies."""
    run = adapter_run(tmp_path_factory.mktemp("trained"), base)
    recipe = run.recipe()
    model, tokenizer = load_subject(Subject(recipe, run, base=False), backend_named("mlx"))
    rows = read_rows(Path(str(recipe.data.test)), recipe.data.columns)
    replies = Predictor(recipe, model, tokenizer).replies(rows)
    said = [{**row, "intents": list(reply.values["intents"] or ())} for row, reply in zip(ROWS, replies, strict=True)]
    write_rows(Path(str(recipe.data.test)), said)
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    shutil.copytree(trained.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def verified(run: RunFolder, artifacts: str, backend: str = "mlx", **options: Any) -> Verification:
    return verify_run(run, parse_kinds(artifacts), backend_named(backend), **options)


def only(verification: Verification) -> Verified:
    (one,) = verification.artifacts
    return one


def untrained(run: RunFolder, base: Path) -> None:
    """The base model in the place of the run's fused one."""
    shutil.copytree(base, run.fused)
    os.utime(run.fused)


@pytest.fixture
def own_rows(run: RunFolder, tmp_path: Path) -> Path:
    """The run's test rows, where a test may change them."""
    recipe = run.recipe()
    rows = shutil.copy(str(recipe.data.test), tmp_path / "own.jsonl")
    data = recipe.data.model_copy(update={"test": str(rows)})
    run.recipe_file.write_text(recipe.model_copy(update={"data": data}).to_yaml())
    return Path(rows)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of each prompt that a model replied to."""
    generate, numbers = Predictor.generate, list[int]()

    def counted(self: Predictor, *words: Any) -> Any:
        for number, reply in generate(self, *words):
            numbers.append(number)
            yield number, reply

    monkeypatch.setattr(Predictor, "generate", counted)
    return numbers


def metric(value: float, difference: float) -> HeadlineMetric:
    compared = Comparison(difference, difference - 0.1, difference + 0.1, 0.01, "worse", "adapter")
    return HeadlineMetric("intents", "exact_match", Estimate(value, value - 0.1, value + 0.1), compared)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["fused", "hf", "peft", "gguf-f32", "gguf-lora"])
def test_an_artifact_without_rounding_replies_as_the_adapter_does(name: str, backend: str, run: RunFolder) -> None:
    one = only(verified(run, name, backend))

    assert (one.agreement.value, one.metrics[0].estimate.value) == (1.0, 1.0)
    assert one.logit_difference is not None
    assert one.logit_difference < 1e-3


def test_a_model_without_the_training_fails_by_name(run: RunFolder, base: Path) -> None:
    untrained(run, base)

    verification = verified(run, "fused")

    fall = 1 - only(verification).metrics[0].estimate.value
    assert fall > 0.1
    assert verification.failures == [
        f"fused: intents.exact_match fell by {fall:.3f}, to {1 - fall:.3f}; more than the tolerance of 0.02"
    ]


def test_the_command_exits_with_1_and_names_the_metric(run: RunFolder, base: Path, mlxtune_run: Run) -> None:
    untrained(run, base)

    result = mlxtune_run("verify", run, "--artifacts", "fused")

    assert result.code == 1
    assert "fused: intents.exact_match fell by" in result.out


def test_the_command_prints_json_and_exits_with_0(run: RunFolder, mlxtune_run: Run) -> None:
    result = mlxtune_run("verify", run, "--artifacts", "fused", "--json")

    assert result.code == 0
    stored = read_verification(run)
    assert stored is not None
    assert json.loads(result.out) == {**stored.to_json(), "file": str(run.verify_file)}


def test_an_artifact_older_than_the_adapter_is_made_anew(run: RunFolder, base: Path) -> None:
    shutil.copytree(base, run.fused)
    os.utime(run.fused, (0, 0))

    one = only(verified(run, "fused"))

    assert (one.path, one.agreement.value) == (None, 1.0)


def test_what_was_made_for_the_occasion_is_removed(run: RunFolder) -> None:
    verified(run, "fused,peft")

    assert sorted(file.name for file in run.path.iterdir()) == [
        "adapter", "recipe.yaml", "run.json", "verify", "verify.json"
    ]  # fmt: skip


def test_the_runs_own_evaluation_is_taken(run: RunFolder, mlxtune_run: Run) -> None:
    assert mlxtune_run("evaluate", run).code == 0

    verified(run, "fused")

    assert [file.name for file in (run.path / "verify").glob("adapter*")] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backend_that_gave_the_adapters_replies_is_named(backend: str, run: RunFolder, mlxtune_run: Run) -> None:
    assert mlxtune_run("evaluate", run, "--backend", backend).code == 0

    assert verified(run, "fused").adapter["constrained"].loaded_by == backend


def test_an_evaluation_of_other_rows_is_not_taken(run: RunFolder, own_rows: Path, mlxtune_run: Run) -> None:
    assert mlxtune_run("evaluate", run).code == 0
    own_rows.write_text("".join(own_rows.read_text().splitlines(keepends=True)[:3]))

    result = mlxtune_run("verify", run, "--artifacts", "fused", "--json")

    assert f"{run.evaluation('tuned')} is of other rows: the adapter is asked again\n" in result.err
    found = json.loads(result.out)
    assert (found["rows"], found["artifacts"]["fused"]["agreement"]["value"]) == (3, 1.0)


def test_replies_are_asked_anew_of_another_backend_only(run: RunFolder, asked: list[int]) -> None:
    pytest.importorskip("torch")
    counts = []
    for backend in ("mlx", "mlx", "torch"):
        asked.clear()
        one = only(verified(run, "fused", backend))
        counts.append((one.loaded_by, len(asked)))

    n_rows = 7  # which the adapter and the fused model are asked about
    assert counts == [("mlx", 2 * n_rows), ("mlx", 0), ("torch", 2 * n_rows)]


def test_an_interrupted_verification_leaves_replies_alone_and_goes_on(
    run: RunFolder, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Predictor.generate

    def interrupted(self: Predictor, *words: Any) -> Any:
        for found in generate(self, *words):
            yield found
            if len(asked) == 9:  # all seven of the adapter, two of the fused model
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            verified(run, "fused")
    assert sorted(file.name for file in run.path.iterdir()) == ["adapter", "recipe.yaml", "run.json", "verify"]

    assert only(verified(run, "fused")).agreement.value == 1.0
    assert len(asked) == 14


def test_a_verification_at_a_time(run: RunFolder) -> None:
    run.verify.mkdir()
    with locked(run.verify), pytest.raises(RunError, match=r"another process is writing to it; wait for it$"):
        verified(run, "fused")
    assert not run.verify_file.exists()


@pytest.mark.parametrize("decoding", ["free", "both", "best"])
def test_artifacts_are_asked_in_the_recipes_decoding(decoding: str, base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base, evaluate={"decoding": decoding, "max_new_tokens": 20, "batch_size": 4})

    verification = verified(run, "fused")

    expected = "constrained" if decoding == "both" else decoding
    assert (list(verification.adapter), only(verification).decoding) == ([expected], expected)
    assert only(verification).agreement.value == 1.0


def test_a_quantized_base_is_verified_with_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    base = tiny_model(tmp_path / "base", "qwen2", tied=False)
    run = adapter_run(tmp_path, base, model={"quantize": {"bits": 4, "group_size": 32}})
    packed = base_folder(run.recipe().model, backend_named("mlx"))
    run.update_info(base={"path": str(base), "fingerprint": fingerprint(packed)})

    verification = verified(run, "hf,peft,gguf-f32,gguf-lora")

    assert verification.failed == {}
    differences = {one.name: one.logit_difference for one in verification.artifacts}
    assert list(differences) == ["hf", "peft", "gguf-f32", "gguf-lora"]
    assert max(differences[name] or 0.0 for name in ("peft", "gguf-f32", "gguf-lora")) < 1e-3
    assert (differences["hf"] or 0.0) < 0.1  # in 16 bits


FIELDS = {
    "type": ["Incident", "Request", "Problem"],
    "queue": ["Technical Support", "Billing and Payments"],
    "priority": ["high", "low"],
}


def test_each_field_has_its_metric_and_the_tables_fit_into_80_columns(base: Path, tmp_path: Path) -> None:
    lines = [f"{name}: {{{name}}}" for name in FIELDS]
    fields = {name: {"kind": "label", "labels": labels} for name, labels in FIELDS.items()}
    run = adapter_run(
        tmp_path,
        base,
        output={"template": "\n".join([*lines, "", "{response}"]), "fields": {**fields, "response": {"kind": "text"}}},
        evaluate={"max_new_tokens": 40, "batch_size": 4},
    )
    labels = {name: of[0] for name, of in FIELDS.items()}
    write_rows(Path(str(run.recipe().data.test)), [{"text": row["text"], **labels, "response": "hi"} for row in ROWS])

    verification = verified(run, "fused,q4")

    titles = ["type.accuracy", "queue.accuracy", "priority.accuracy", "response.rougeL", "reply.all_fields_correct"]
    assert [[one.title for one in artifact.metrics] for artifact in verification.artifacts] == [titles, titles]
    text = to_text(verify_tables(verification), 80)
    assert "\u2026" not in text
    for title in titles:
        assert [line.split()[0] for line in text.partition(f"\n{title}\n")[2].splitlines()[3:6]] == [
            "adapter",
            "fused",
            "q4",
        ]


def test_a_trial_on_few_rows_replaces_no_whole_verification(run: RunFolder, mlxtune_run: Run) -> None:
    verified(run, "fused")

    result = mlxtune_run("verify", run, "--artifacts", "fused", "--limit", "2", "--json")

    trial = json.loads(result.out)
    assert (trial["rows"], trial["file"]) == (2, str(run.verify / "first-2" / "verify.json"))
    assert (stored := read_verification(run)) is not None and stored.rows == len(ROWS)


def test_what_was_taken_from_the_run_is_said(run: RunFolder, mlxtune_run: Run) -> None:
    assert mlxtune_run("fuse", run).code == 0

    assert verified(run, "fused,peft").notes == (f"not made now but taken from the run: fused ({run.fused})",)


@pytest.mark.parametrize("kind", ["fused", "hf", "peft", "gguf", "gguf-lora"])
def test_a_damaged_artifact_keeps_the_others_from_nothing(
    kind: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "has_llama_cpp", lambda: False)
    (one,) = parse_kinds(kind)
    out = default_out(run, one.to, one.options)
    export_run(run, one.to, out, backend_named("mlx"), one.options)
    (weights,) = [out] if out.is_file() else out.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])

    verification = verified(run, f"{kind},q8")

    assert [found.name for found in verification.artifacts] == ["q8"]
    assert f"it was taken from the run: delete {out} to have it made anew" in verification.failed[kind]


def test_a_full_disk_is_the_failure_of_one_artifact(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "has_llama_cpp", lambda: False)
    backend = backend_named("mlx")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(backend), "convert", full)  # which reads a GGUF back

    verification = verified(run, "gguf,fused")

    assert ([one.name for one in verification.artifacts], list(verification.failed)) == (["fused"], ["gguf"])
    assert "No space left on device" in verification.failed["gguf"]
    assert not [file.name for file in run.path.iterdir() if file.name.startswith(".verify")]


def test_logits_that_are_no_numbers_are_a_failure(run: RunFolder, base: Path) -> None:
    untrained(run, base)
    weights = load_file(run.fused / "model.safetensors")
    weights["model.norm.weight"][0] = np.nan
    save_file(weights, run.fused / "model.safetensors", {"format": "mlx"})

    verification = verified(run, "fused")

    assert "its logits are no finite numbers" in verification.failed["fused"]
    json.dumps(verification.to_json(), allow_nan=False)


def test_llama_cpp_is_asked_where_it_is_found(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for it: the GGUF, read back, which decodes greedily."""

    class Writer:
        def __init__(self, gguf: Path) -> None:
            backend = backend_named("mlx")
            backend.convert(gguf, run.path.parent / "read", ConvertSpec())
            self.model = backend.load(run.path.parent / "read")

        def generate(self, prompts: Any, max_new_tokens: int, stop_tokens: Any) -> list[Generation]:
            return in_order(self.model.generate(prompts, max_new_tokens, stop_tokens))

    monkeypatch.setattr(verify, "has_llama_cpp", lambda: True)
    monkeypatch.setattr(verify, "load_in_llama_cpp", lambda gguf, context: nullcontext(Writer(gguf)))

    back, own = verified(run, "gguf-f32").artifacts

    assert (back.name, back.decoding, own.name, own.decoding) == (
        "gguf-f32", "constrained", "gguf-f32 in llama.cpp", "free"
    )  # fmt: skip
    assert (own.loaded_by, own.agreement.value) == ("llama.cpp", 1.0)


def test_a_gguf_that_llama_cpp_did_not_see_is_noted(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "has_llama_cpp", lambda: False)

    assert "GGUFs were read back by mlxtune alone" in verified(run, "gguf").notes[0]


def test_only_the_first_rows_are_asked(run: RunFolder) -> None:
    assert verified(run, "fused", limit=2).rows == 2


def test_an_unknown_artifact_is_named() -> None:
    with pytest.raises(Misuse, match=r"'gguf-q8' is not one of .*; did you mean 'gguf-q8_0'\?"):
        parse_kinds("fused,gguf-q8")


def test_a_fall_within_the_tolerance_is_none() -> None:
    one = Verified("q4", None, "mlx", "free", 1, Estimate(1, 1, 1), (metric(0.79, -0.015),), 0.1, 0.1)

    assert (one.lost(0.02), one.lost(0.01)) == ([], [metric(0.79, -0.015)])


def test_a_fall_by_the_tolerance_is_none_whatever_its_rounding() -> None:
    one = Verified("q4", None, "mlx", "free", 1, Estimate(1, 1, 1), (metric(0.98, 0.98 - 1),), 0.1, 0.1)

    assert one.lost(0.02) == []


def test_a_rise_of_a_metric_that_is_better_low_is_a_fall() -> None:
    worse = replace(metric(0.3, 0.2), name="invalid_rate")

    assert worse.fell_by() == pytest.approx(0.2)
