"""Training from recipe to run folder on a tiny model: metrics, checkpoints, faults, interruption."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import read_adapter
from mlxtune.backends.base import Batch, Device, OptimizerSpec
from mlxtune.data.examples import Example
from mlxtune.errors import DataError, RunError, TrainingError
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import RunFolder, latest_run, new_run, open_run
from mlxtune.training import loop
from mlxtune.training.plan import Plan, plan
from mlxtune.training.schedule import Schedule
from mlxtune.training.tune import Tuned, tune
from tests.conftest import chosen, write_recipe
from tests.multimodal import tiny_multimodal


def trained(folder: Path, base: Path, out: str = "run", **sections: Any) -> Tuned:
    recipe = load_recipe(write_recipe(folder, base, **sections))
    return tune(recipe, chosen(), folder / out)


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Tuned:
    """A training of 6 epochs, which are 12 steps."""
    train = {"epochs": 6, "batch_size": 2, "gradient_accumulation": 2, "learning_rate": 0.01}
    return trained(tmp_path_factory.mktemp("finished"), base, train=train)


def test_every_step_is_an_event(finished: Tuned) -> None:
    steps = events(finished.run, "step")
    assert [event["step"] for event in steps] == list(range(1, 13))
    assert finished.outcome.progress.step == 12 and steps[-1]["epoch"] == 6


def test_the_event_of_a_step_has_the_keys_that_programs_read(finished: Tuned) -> None:
    keys = {"event", "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "seconds", "peak_memory_gb"}
    assert all(keys <= set(event) for event in events(finished.run, "step"))


def test_training_lowers_the_loss(finished: Tuned) -> None:
    steps = events(finished.run, "step")
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]


def test_every_epoch_ends_with_a_validation_by_segment(finished: Tuned) -> None:
    validations = events(finished.run, "validation")
    assert [event["step"] for event in validations] == [2, 4, 6, 8, 10, 12]
    assert all(set(event["segments"]) == {"template", "intents"} for event in validations)


def test_a_finished_run_keeps_its_status_and_last_validation_loss(finished: Tuned) -> None:
    info = finished.run.info()
    assert (info["status"], info["valid_loss"]) == ("finished", events(finished.run, "validation")[-1]["loss"])


def test_a_run_keeps_the_count_and_the_hash_of_its_rows(finished: Tuned) -> None:
    data, file = finished.run.info()["data"]["train"], finished.run.path.parent / "train.jsonl"
    assert (data["rows"], data["sha256"]) == (7, hashlib.sha256(file.read_bytes()).hexdigest())


def test_a_run_keeps_its_recipe_and_its_adapter(finished: Tuned) -> None:
    assert finished.run.recipe().train.epochs == 6
    assert read_adapter(finished.run.adapter).spec.rank == 4


def test_a_run_keeps_the_last_two_checkpoints_and_the_best(finished: Tuned) -> None:
    index = json.loads((finished.run.checkpoints / "index.json").read_text())
    kept = {path.name for path in finished.run.checkpoints.iterdir() if path.is_dir()}
    assert index["last"] == "step-000012"
    assert kept == {index["last"], "step-000010", index["best"]}  # the one before the last, in case that is damaged


def test_the_same_recipe_gives_the_same_adapter(tmp_path: Path, base: Path) -> None:
    first = read_adapter(trained(tmp_path, base, "one", lora={"dropout": 0.2}).run.adapter)
    second = read_adapter(trained(tmp_path, base, "two", lora={"dropout": 0.2}).run.adapter)
    other = read_adapter(trained(tmp_path, base, "three", lora={"dropout": 0.2}, train={"seed": 1}).run.adapter)
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert not all(np.array_equal(first.weights[name], other.weights[name]) for name in first.weights)


def test_validating_more_often_changes_no_weight(tmp_path: Path, base: Path) -> None:
    seldom = read_adapter(trained(tmp_path, base, "one", lora={"dropout": 0.2}, train={"epochs": 2}).run.adapter)
    often = read_adapter(
        trained(tmp_path, base, "two", lora={"dropout": 0.2}, train={"epochs": 2, "evaluate_every": 1}).run.adapter
    )
    assert all(np.array_equal(seldom.weights[name], often.weights[name]) for name in seldom.weights)


def test_validation_is_the_unweighted_mean_over_all_tokens(tmp_path: Path, base: Path) -> None:
    fields = {
        "intents": {
            "kind": "labels",
            "labels": ["user_auth", "order_management", "payment", "none"],
            "loss_weight": 9.0,
        }
    }
    tuned = trained(tmp_path, base, output={"template": "{intents}", "fields": fields})
    (found,) = events(tuned.run, "validation")
    nats = sum(part["loss"] * part["tokens"] for part in found["segments"].values())
    assert found["loss"] == pytest.approx(nats / sum(part["tokens"] for part in found["segments"].values()), rel=1e-9)


def test_max_steps_stops_early_on_the_same_path(tmp_path: Path, base: Path) -> None:
    full = events(trained(tmp_path, base, "full", train={"epochs": 3}).run, "step")
    trial = events(trained(tmp_path, base, "trial", train={"epochs": 3, "max_steps": 2}).run, "step")
    assert [event["loss"] for event in trial] == [event["loss"] for event in full[:2]]
    assert [event["learning_rate"] for event in trial] == [event["learning_rate"] for event in full[:2]]


@pytest.mark.parametrize(
    "sections", [{"model": {"quantize": {"bits": 4, "group_size": 32}}}, {"lora": {"targets": ["q_proj"]}}]
)
def test_quantized_bases_and_single_layers_train(tmp_path: Path, base: Path, sections: dict[str, Any]) -> None:
    if "model" in sections:
        sections = {"model": {"path": str(base), **sections["model"]}}
    tuned = trained(tmp_path, base, **sections, train={"epochs": 4})
    steps = events(tuned.run, "step")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert any(
        np.abs(value).max() > 0
        for name, value in read_adapter(tuned.run.adapter).weights.items()
        if name.endswith("_B")
    )


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("linear", lambda done: 1 - done),
        ("cosine", lambda done: 0.5 * (1 + np.cos(np.pi * done))),
        ("constant", lambda done: 1.0),
    ],
)
def test_the_schedule_rises_to_its_peak_and_follows_its_curve(kind: str, rate: Callable[[float], float]) -> None:
    schedule = Schedule(kind, 2.0, total_steps=110, warmup_steps=10)
    rates = [schedule.rate(step) for step in range(1, 111)]
    assert rates[:11] == pytest.approx([2.0 * step / 11 for step in range(1, 12)])
    assert rates[10:] == pytest.approx([2.0 * rate(step / 100) for step in range(100)])
    assert min(rates) > 0 and max(rates) == 2.0


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path, base: Path) -> None:
    with pytest.raises(TrainingError, match=r"(?s)step \d+: .*not finite.*Last good checkpoint: .*step-0000"):
        trained(tmp_path, base, train={"learning_rate": 1e30, "epochs": 3, "max_grad_norm": None, "save_every": 1})
    run = open_run(tmp_path / "run")
    assert run.info()["status"] == "failed" and run.adapter.is_dir()


def test_an_existing_run_is_not_overwritten(tmp_path: Path, base: Path) -> None:
    tuned = trained(tmp_path, base)
    before = tuned.run.metrics_file.read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        trained(tmp_path, base)
    assert tuned.run.metrics_file.read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="is not a run of mlxtune"):
        new_run(tuned.run.recipe(), tmp_path / "other", force=True)
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


def test_a_run_has_one_writer(tmp_path: Path, base: Path) -> None:
    run = new_run(load_recipe(write_recipe(tmp_path, base)), tmp_path / "run")
    code = "import sys; from pathlib import Path; from mlxtune.runs.folder import RunFolder\nwith RunFolder(Path(sys.argv[1])).locked(): pass"
    with run.locked():
        other = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert other.returncode != 0 and "another process is writing to it" in other.stderr
    assert subprocess.run([sys.executable, "-c", code, str(run.path)], check=False).returncode == 0


def test_the_latest_run_is_the_one_trained_last(tmp_path: Path, base: Path) -> None:
    assert latest_run("tiny", tmp_path / "runs") is None
    trained(tmp_path, base, "runs/tiny/b")
    trained(tmp_path, base, "runs/tiny/a")
    found = latest_run("tiny", tmp_path / "runs")
    assert found is not None and found.path.name == "a"


def test_nothing_is_written_when_the_data_is_wrong(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base)
    (tmp_path / "train.jsonl").write_text('{"text": "a", "intents": ["nope"]}\n')
    with pytest.raises(DataError):
        tune(load_recipe(recipe), chosen(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, train={"epochs": 5000, "evaluate_every": 100000, "save_every": 100000})
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxtune", "lora", str(recipe), "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1/"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted at step" in errors and "Traceback" not in errors
    run = open_run(tmp_path / "run")
    assert run.info()["status"] == "interrupted"
    assert read_adapter(run.adapter).weights
    step = run.info()["step"]
    assert (run.checkpoints / f"step-{step:06d}" / "state.json").is_file()


def test_the_plan_counts_what_training_then_does(tmp_path: Path, base: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, base))
    planned = plan(recipe, chosen().backend)
    tuned = tune(recipe, chosen(), tmp_path / "run")
    steps = events(tuned.run, "step")
    assert planned.steps == len(steps)
    assert planned.tokens_per_epoch == sum(event["tokens"] for event in steps)
    assert planned.supervised_per_epoch == sum(part["tokens"] for event in steps for part in event["segments"].values())
    assert planned.trainable_parameters == tuned.info["trainable_parameters"]
    assert planned.total_parameters == tuned.info["parameters"]
    assert 0 < planned.shared_prefix_saved < 1 and 0 <= planned.padding < 1


def test_passes_that_validate_are_no_larger_than_the_plan_of_memory_knows(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    fixed_batches = loop.fixed_batches

    def recorded(examples: Sequence[Example], tokens_per_pass: int, sequence_tokens: int) -> list[Batch]:
        sizes.append(tokens_per_pass)
        return fixed_batches(examples, tokens_per_pass, sequence_tokens)

    monkeypatch.setattr(loop, "fixed_batches", recorded)
    tune(load_recipe(write_recipe(tmp_path, base)), chosen(), tmp_path / "run")
    assert sizes == [loop.SCORED_POSITIONS] * 2 and loop.SCORED_POSITIONS == 1024


def test_a_recipe_that_asks_for_checkpointing_gets_it_and_the_same_adapter(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = type(chosen().backend)
    load, asked = backend.load, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        model: Any = load(*args, **kwargs)
        prepare = model.prepare_training

        def prepare_training(spec: OptimizerSpec, gradient_checkpointing: bool = False, timed: bool = False) -> None:
            asked.append(gradient_checkpointing)
            prepare(spec, gradient_checkpointing, timed)

        model.prepare_training = prepare_training
        return model

    monkeypatch.setattr(backend, "load", watched)
    lora = {"dropout": 0.2}
    plain = read_adapter(trained(tmp_path, base, "one", lora=lora).run.adapter)
    again = read_adapter(trained(tmp_path, base, "two", lora=lora, train={"gradient_checkpointing": True}).run.adapter)
    assert asked == [False, True]
    for name, value in plain.weights.items():
        np.testing.assert_allclose(again.weights[name], value, atol=1e-4)


def test_the_plan_says_what_of_a_multimodal_model_is_left_out(tmp_path: Path) -> None:
    folder = tiny_multimodal(tmp_path / "model", "gemma3")
    planned = plan(load_recipe(write_recipe(tmp_path, folder)), chosen().backend)
    assert planned.left_out is not None and planned.as_json()["left_out"]["weights"] == 2
    assert f"base model       {planned.left_out.as_text()}\n" in planned.as_text()
    assert planned.left_out.as_text().endswith("are left out: multi_modal_projector, vision_tower")


def test_the_plan_counts_on_checkpointing(tmp_path: Path, base: Path) -> None:
    def planned(**train: Any) -> Plan:
        return plan(
            load_recipe(write_recipe(tmp_path, base, train=train)), chosen().backend, Device("cpu", "a machine", 10**9)
        )

    plain, again = planned(), planned(gradient_checkpointing=True)
    changed = {name for name, value in plain.memory_bytes.items() if again.memory_bytes[name] != value}
    assert again.memory_bytes["activations"] < plain.memory_bytes["activations"]
    assert changed <= {"activations", "gradients or logits"}  # of a block, computed again
    assert [one.as_json()["gradient_checkpointing"] for one in (plain, again)] == [False, True]
