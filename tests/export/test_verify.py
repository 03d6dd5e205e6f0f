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

import pytest

from mlxtune.backends.base import ConvertSpec, Generation
from mlxtune.data.rows import read_rows
from mlxtune.errors import Misuse
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.subject import Subject, load_subject
from mlxtune.export import verify
from mlxtune.export.artifacts import parse_kinds
from mlxtune.export.verification import HeadlineMetric, Verification, Verified, read_verification
from mlxtune.export.verify import verify_run
from mlxtune.runs.folder import RunFolder
from tests.adapted import BACKENDS, backend_named
from tests.adapter_runs import adapter_run
from tests.conftest import ROWS, Run, write_rows


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
    assert json.loads(result.out) == {**(read_verification(run) or {}), "file": str(run.verify_file)}


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


def test_a_damaged_artifact_keeps_the_others_from_nothing(run: RunFolder) -> None:
    folder = run.exports / "peft"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{")

    verification = verified(run, "peft,fused")

    assert [one.name for one in verification.artifacts] == ["fused"]
    assert list(verification.failed) == ["peft"]


def test_llama_cpp_is_asked_where_it_is_found(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for it: the GGUF, read back, which decodes greedily."""

    class Writer:
        def __init__(self, gguf: Path) -> None:
            backend = backend_named("mlx")
            backend.convert(gguf, run.path.parent / "read", ConvertSpec())
            self.model = backend.load(run.path.parent / "read")

        def generate(self, prompts: Any, max_new_tokens: int, stop_tokens: Any) -> list[Generation]:
            return self.model.generate(prompts, max_new_tokens, stop_tokens)

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


def test_a_rise_of_a_metric_that_is_better_low_is_a_fall() -> None:
    worse = replace(metric(0.3, 0.2), name="invalid_rate")

    assert worse.fell_by() == pytest.approx(0.2)
