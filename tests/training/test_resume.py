"""A training that was stopped goes on as if it had not been; what would make it another training is refused."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends import choose
from mlxtune.backends.adapter import read_adapter
from mlxtune.data import augment as augmenting
from mlxtune.errors import AdapterError, DataError, RunError, TrainingError
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import RunFolder, open_run
from mlxtune.training.checkpoints import Checkpoints
from mlxtune.training.memory import PASS_SIZES
from mlxtune.training.tune import Tuned, tune
from tests.adapted import BACKENDS
from tests.conftest import ROWS, Run, heard, snapshot, write_recipe, write_rows
from tests.data.test_augment import Fake, words
from tests.tiny import tiny_model

# Dropout on, several passes a step, checkpoints between validations: 7 rows, 4 a step, 2 steps an epoch.
SECTIONS: dict[str, Any] = {
    "lora": {"dropout": 0.2},
    "train": {
        "epochs": 4,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "tokens_per_pass": 120,
        "learning_rate": 0.01,
        "save_every": 1,
    },
}


class Killed(BaseException):
    """Stands for what ends a process at once."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("torch" if request.param == "torch" else "mlx")
    return str(request.param)


def trained(recipe: Path, out: Path, backend: str, die_after: tuple[str, int] | None = None, **words: Any) -> Tuned:
    """Train, or go on; dying after an event of a step, as `("checkpoint", 3)`."""

    def watch(event: Mapping[str, Any]) -> None:
        if die_after == (event["event"], event.get("step")):
            raise Killed

    overrides = words.pop("overrides", ())
    return tune(load_recipe(recipe, overrides), choose(backend, "cpu"), out, on_event=watch, **words)


def evidence(run: RunFolder) -> list[dict[str, Any]]:
    """The events of metrics.jsonl without what a clock or the memory says."""
    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if key not in ("seconds", "peak_memory_gb", "cache_memory_gb")
        }
        for line in lines
    ]


def assert_same(one: RunFolder, other: RunFolder) -> None:
    """Adapters and metrics, bit for bit."""
    assert (one.adapter / "adapters.safetensors").read_bytes() == (other.adapter / "adapters.safetensors").read_bytes()
    assert evidence(one) == evidence(other)


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """The run of `SECTIONS` that nothing stopped, of a backend; trained once, compared with many."""

    @functools.cache
    def of(backend: str) -> RunFolder:
        folder = tmp_path_factory.mktemp("uninterrupted")
        return trained(write_recipe(folder, base, **SECTIONS), folder / "whole", backend).run

    return of


@pytest.mark.parametrize("moment", [("step", 3), ("checkpoint", 3), ("validation", 4), ("step", 8), ("checkpoint", 8)])
def test_a_resumed_run_ends_bit_for_bit_as_one_never_interrupted(
    tmp_path: Path, base: Path, backend: str, moment: tuple[str, int], uninterrupted: Callable[[str], RunFolder]
) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    whole = uninterrupted(backend)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "killed", backend, moment)
    run = open_run(tmp_path / "killed")
    again = trained(recipe, tmp_path, backend, resume=run)
    assert_same(again.run, whole)
    assert again.info["status"] == "finished" and len(again.info["resumed"]) == 1
    with pytest.raises(RunError, match=r"finished at step 8 of 8; to train further, raise train\.epochs"):
        trained(recipe, tmp_path, backend, resume=again.run)


def test_a_validation_that_an_interruption_left_out_is_made_up_for(
    tmp_path: Path, base: Path, uninterrupted: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlxtune.training.interrupt import Interrupt

    recipe = write_recipe(tmp_path, base, **SECTIONS)
    whole = uninterrupted("mlx")
    interrupts: list[Interrupt] = []
    enter = Interrupt.__enter__
    monkeypatch.setattr(Interrupt, "__enter__", lambda self: interrupts.append(self) or enter(self))

    def watch(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:  # a validation is due after it
            interrupts[-1].requested = True

    tuned = tune(load_recipe(recipe), choose("mlx", "cpu"), tmp_path / "run", on_event=watch)
    assert tuned.outcome.status == "interrupted" and tuned.outcome.progress.step == 4
    assert [event["step"] for event in evidence(tuned.run) if event["event"] == "validation"] == [2]
    again = trained(recipe, tmp_path, "mlx", resume=tuned.run)
    kinds = ("step", "validation")
    assert [one for one in evidence(again.run) if one["event"] in kinds] == [
        one for one in evidence(whole) if one["event"] in kinds
    ]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "state", "foreign"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(
    tmp_path: Path, base: Path, backend: str, damage: str, uninterrupted: Callable[[str], RunFolder]
) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    whole = uninterrupted(backend)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", backend, ("checkpoint", 5))
    run = open_run(tmp_path / "run")
    last = run.checkpoints / "step-000005"
    file = last / "optimizer.safetensors"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "missing":
        file.unlink()
    elif damage == "state":
        state = last / "state.json"
        state.write_text(state.read_text().replace('"step": 5', '"step": 4'))
    else:
        (last / "more").write_text("of something")
    with heard() as said:
        again = trained(recipe, tmp_path, backend, resume=run)
    assert any("step-000005: is damaged; using the checkpoint before it" in line for line in said)
    assert_same(again.run, whole)


def test_without_an_intact_checkpoint_nothing_goes_on(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 2))
    run = open_run(tmp_path / "run")
    for state in run.checkpoints.glob("step-*/state.json"):
        state.write_text("{")
    with pytest.raises(RunError, match="has no intact checkpoint to resume from"):
        trained(recipe, tmp_path, "mlx", resume=run)
    assert run.info()["status"] == "failed"


def test_a_run_begun_on_one_backend_goes_on_on_the_other(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("torch")
    sections = {**SECTIONS, "lora": {"dropout": 0.0}}
    recipe = write_recipe(tmp_path, base, **sections)
    whole = read_adapter(trained(recipe, tmp_path / "whole", "mlx").run.adapter).weights
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 5))
    with heard() as said:
        again = trained(recipe, tmp_path, "torch", resume=open_run(tmp_path / "run"))
    assert any("was started with mlx; with torch the numbers differ by rounding" in line for line in said)
    for name, value in read_adapter(again.run.adapter).weights.items():
        np.testing.assert_allclose(value, whole[name], atol=1e-4)


def test_a_run_killed_after_its_last_checkpoint_still_gets_its_best_adapter(tmp_path: Path, base: Path) -> None:
    """The first of equal validations is the best, so it is not the last."""
    train = {
        **SECTIONS["train"],
        "learning_rate": 1e-12,
        "load_best": True,
        "early_stopping": {"patience": 2, "min_delta": 1.0},
    }
    recipe = write_recipe(tmp_path, base, **{**SECTIONS, "train": train})
    whole = trained(recipe, tmp_path / "whole", "mlx")
    assert whole.info["stopped"] and whole.info["adapter_step"] == 2 < whole.info["step"] == 6
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "killed", "mlx", ("checkpoint", 6))
    again = trained(recipe, tmp_path, "mlx", resume=open_run(tmp_path / "killed"))
    assert_same(again.run, whole.run)
    keys = ("status", "stopped", "adapter_step", "best", "diagnosis", "losses", "valid_loss")
    assert {key: again.info[key] for key in keys} == {key: whole.info[key] for key in keys}


def test_a_best_value_of_another_metric_no_longer_counts(tmp_path: Path, base: Path) -> None:
    from mlxtune.evaluation.validation_metrics import reply_metrics

    recipe = write_recipe(tmp_path, base, **SECTIONS)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 5))
    words = ["train.best_metric=intents.partial_match", "train.load_best=true"]
    run = open_run(tmp_path / "run")
    with heard() as said:
        again = trained(recipe, tmp_path, "mlx", resume=run, overrides=words, measures=reply_metrics)
    assert any("the metric changed, so the previous best is discarded" in line for line in said)
    assert again.info["best"]["metric"] == "intents.partial_match" and again.info["best"]["step"] > 5


def test_a_validation_made_up_for_is_not_told_twice(tmp_path: Path, base: Path) -> None:
    """Interrupted where one is due, resumed, killed before the next checkpoint, resumed."""
    train = {**SECTIONS["train"], "save_every": 4, "learning_rate": 1e-12, "epochs": 6}
    recipe = write_recipe(tmp_path, base, **{**SECTIONS, "train": train})
    run = interrupted_at(6, recipe, tmp_path / "run")
    with pytest.raises(Killed):
        tune_until(("step", 7), recipe, run)
    again = trained(recipe, tmp_path, "mlx", resume=open_run(run.path))
    steps = [event["step"] for event in evidence(again.run) if event["event"] == "validation"]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_ctrl_c_in_the_last_step_leaves_nothing_out(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    run = interrupted_at(8, recipe, tmp_path / "run")
    assert run.info()["status"] == "finished"
    assert [event["step"] for event in evidence(run) if event["event"] == "validation"] == [2, 4, 6, 8]


def test_stopped_before_the_first_step_a_run_says_so(tmp_path: Path, base: Path) -> None:
    run = interrupted_at(0, write_recipe(tmp_path, base, **SECTIONS), tmp_path / "run")
    assert run.info()["status"] == "interrupted" and run.info()["step"] == 0
    assert not run.adapter.exists()


def interrupted_at(step: int, recipe: Path, out: Path) -> RunFolder:
    """A run that Ctrl-C reached after a step, or before the first."""
    from mlxtune.training.interrupt import Interrupt

    interrupts: list[Interrupt] = []

    class Remembered(Interrupt):
        def __enter__(self) -> Interrupt:
            interrupts.append(self)
            return super().__enter__()

    def watch(event: Mapping[str, Any]) -> None:
        if event.get("step", 0) == step and event["event"] in ("step", "begin"):
            interrupts[-1].requested = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxtune.training.loop.Interrupt", Remembered)
        return tune(load_recipe(recipe), choose("mlx", "cpu"), out, on_event=watch).run


def tune_until(moment: tuple[str, int], recipe: Path, run: RunFolder) -> None:
    trained(recipe, run.path, "mlx", moment, resume=run)


# What may change


def test_more_epochs_are_allowed_and_named(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    run = trained(recipe, tmp_path / "run", "mlx").run
    with heard() as said:
        again = trained(recipe, tmp_path, "mlx", resume=run, overrides=["train.epochs=5"])
    assert again.outcome.progress.step == 10 and again.run.recipe().train.epochs == 5
    assert "resuming with changed recipe keys: train.epochs" in said


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.learning_rate=1e-3", "train.learning_rate: 0.01 when the run started, 0.001 now"),
        ("train.epochs=1", "train.epochs: 4 when the run started, 1 now"),
        ("lora.rank=2", "lora.rank: 4 when the run started, 2 now"),
        ("train.seed=1", "train.seed: 0 when the run started, 1 now"),
        ("prompt.system=other", "prompt.system"),
    ],
)
def test_what_would_change_the_arithmetic_is_refused(tmp_path: Path, base: Path, override: str, key: str) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 2))
    run = open_run(tmp_path / "run")
    before = run.metrics_file.read_bytes()
    with pytest.raises(RunError, match=f"(?s)these recipe keys changed.*{key}"):
        trained(recipe, tmp_path, "mlx", resume=run, overrides=[override])
    assert run.metrics_file.read_bytes() == before


def test_changed_data_is_refused(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 2))
    write_rows(tmp_path / "train.jsonl", [*ROWS[:-1], {"text": "other", "intents": ["none"]}])
    with pytest.raises(DataError, match=r"train\.jsonl: the file changed since .*run started"):
        trained(recipe, tmp_path, "mlx", resume=open_run(tmp_path / "run"))
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(DataError, match=r"train\.jsonl"):
        trained(recipe, tmp_path, "mlx", resume=open_run(tmp_path / "run"))


def test_other_rewritten_rows_are_refused_and_another_endpoint_is_allowed(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = {"field": "intents", "value": "payment", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
    train = {**SECTIONS["train"], "epochs": 1}
    recipe = write_recipe(tmp_path, base, **{**SECTIONS, "train": train, "data": {"augment": augment}})
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(augmenting, "_open", lambda settings, cache: Fake())
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 1))
    run = open_run(tmp_path / "run")
    began = run.info()["data"]["train"]
    assert (began["rows"], began["augment"]["made"]) == (10, 3)
    kept, before = Path(began["augment"]["kept_in"]), run.metrics_file.read_bytes()
    decided = kept.read_text()

    with pytest.raises(RunError, match=r"these recipe keys changed.*\n.*data\.augment\.temperature: 0\.9 when"):
        trained(recipe, tmp_path, "mlx", resume=run, overrides=["data.augment.temperature=0.5"])
    # The cache lost what was decided, and the server says something else the second time.
    kept.unlink()
    others = Fake(lambda question: words(20_000 + (question.seed or 0)))
    monkeypatch.setattr(augmenting, "_open", lambda settings, cache: others)
    with pytest.raises(DataError, match=r"data\.augment: the rewritten rows changed since .*run started"):
        trained(recipe, tmp_path, "mlx", resume=run)
    assert others.asked and run.metrics_file.read_bytes() == before

    kept.write_text(decided)
    n_asked = len(others.asked)
    moved = ["data.augment.endpoint=https://elsewhere/v1"]
    with heard() as said:
        again = trained(recipe, tmp_path, "mlx", resume=run, overrides=moved)
    assert again.info["status"] == "finished" and len(others.asked) == n_asked
    assert "resuming with changed recipe keys: data.augment.endpoint" in said


def test_a_new_run_begins_from_anothers_adapter(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    first = trained(recipe, tmp_path / "first", "mlx").run
    slow = ["train.max_steps=1", "train.learning_rate=1e-30", "lora.dropout=0"]
    second = trained(recipe, tmp_path / "second", "mlx", begin_from=first, overrides=slow)
    before, after = read_adapter(first.adapter).weights, read_adapter(second.run.adapter).weights
    assert all(np.allclose(before[name], after[name], atol=1e-12) for name in before)
    assert second.info["begun_from"] == str(first.path.resolve())
    with pytest.raises(RunError, match="its rank is 4, the recipe's 2"):
        trained(recipe, tmp_path / "third", "mlx", begin_from=first, overrides=["lora.rank=2"])
    for other in (tiny_model(tmp_path / "seed", seed=5), tiny_model(tmp_path / "wide", hidden=128)):
        with pytest.raises(AdapterError, match="was trained on other weights than those in"):
            trained(recipe, tmp_path / "third", "mlx", begin_from=first, overrides=[f"model.path={other}"])
    assert not (tmp_path / "third").exists()


# Faults


@pytest.mark.parametrize("written", [0, 100])
def test_a_full_disk_keeps_the_checkpoint_before_and_says_how_much_is_needed(
    tmp_path: Path,
    base: Path,
    backend: str,
    written: int,
    uninterrupted: Callable[[str], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib

    module = importlib.import_module(f"mlxtune.backends.{backend}.model")
    write_state, calls = module.write_state, []

    def fails_the_third_time(folder: Path, state: Any, is_adapter: bool) -> None:
        calls.append(folder)
        if len(calls) != 3:
            write_state(folder, state, is_adapter)
            return
        (folder / "adapter.safetensors").write_bytes(b"x" * written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recipe = write_recipe(tmp_path, base, **SECTIONS)
    whole = uninterrupted(backend)
    calls.clear()
    monkeypatch.setattr(module, "write_state", fails_the_third_time)
    with pytest.raises(
        TrainingError, match=r"No space left on device; it takes 0\.\d MB and .* MB are free.*step-000002"
    ):
        trained(recipe, tmp_path / "run", backend)
    run = open_run(tmp_path / "run")
    assert sorted(path.name for path in run.checkpoints.glob("*step*")) == ["step-000001", "step-000002"]
    assert_same(trained(recipe, tmp_path, backend, resume=run).run, whole)


FAULTS = """
import os, random, signal, sys, time
from pathlib import Path
from mlxtune.backends import choose
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import open_run
from mlxtune.training.checkpoints import Checkpoints
from mlxtune.training.memory import PASS_SIZES
from mlxtune.training.tune import tune
import mlxtune.data.near, mlxtune.training.loop, transformers
backend, recipe, out, kills, seed = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
if backend == "torch":
    import mlxtune.backends.torch.model
else:
    import mlxtune.backends.mlx.model
draw = random.Random(seed)

def taken():
    try:
        return out.joinpath("metrics.jsonl").read_bytes().count(b'"event": "step"')
    except OSError:
        return 0

steps, killed = [], 0
while True:
    child = os.fork()
    if not child:
        started = out.joinpath("run.json").exists() and any(out.glob("checkpoints/step-*"))
        run = open_run(out) if started else None
        tune(load_recipe(recipe), choose(backend, "cpu"), out, force=True, resume=run)
        os._exit(0)
    if killed < kills:
        target = taken() + draw.randint(0, 6)  # a moment by progress, whatever the machine's speed
        time.sleep(draw.uniform(0, 0.3))
        while taken() < target and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed += 1
        last = Checkpoints(out / "checkpoints").last()
        steps.append(last.step if last else 0)
        continue
    assert os.WEXITSTATUS(status) == 0, status
    break
print(killed, steps)
"""


@pytest.mark.parametrize(("name", "kills"), [("mlx", 8), ("torch", 4)])
def test_killed_at_random_moments_and_resumed_each_time_it_ends_the_same(
    tmp_path: Path, base: Path, name: str, kills: int
) -> None:
    """A process is killed with SIGKILL while it loads, trains, validates or saves; the next one goes on."""
    pytest.importorskip(name)
    train = {**SECTIONS["train"], "epochs": 4 * kills, "evaluate_every": 3}
    recipe = write_recipe(tmp_path, base, **{**SECTIONS, "train": train})
    whole = trained(recipe, tmp_path / "whole", name).run
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, name, str(recipe), str(tmp_path / "run"), str(kills), "7"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{kills} ")
    assert_same(open_run(tmp_path / "run"), whole)
    assert not list((tmp_path / "run" / "checkpoints").glob(".step-*"))


def test_a_second_ctrl_c_leaves_at_once_and_the_run_can_go_on(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, train={**SECTIONS["train"], "epochs": 5000, "evaluate_every": 10000})
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxtune", "lora", str(recipe), "--out", str(tmp_path / "run"), "--set", "train.save_every=3"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1/"):
            break
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    run = open_run(tmp_path / "run")
    assert run.info()["status"] == "interrupted" and Checkpoints(run.checkpoints).last() is not None


# The command line


def stopped_under_a_setting(tmp_path: Path, base: Path) -> Path:
    """A run that was killed after step 3, of a recipe whose rank --set changed."""
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "my run", "mlx", ("checkpoint", 3), overrides=["lora.rank=2"])
    return recipe


def test_a_run_goes_on_by_its_name_alone_under_the_recipe_that_it_keeps(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = stopped_under_a_setting(tmp_path, base)
    whole = trained(recipe, tmp_path / "whole", "mlx", overrides=["lora.rank=2"]).run
    monkeypatch.setenv("MLXTUNE_BACKEND", "mlx")
    done = mlxtune("lora", tmp_path / "my run", "--resume", "--device", "cpu")
    assert done.code == 0, done.err
    assert_same(open_run(tmp_path / "my run"), whole)
    longer = mlxtune("lora", tmp_path / "my run", "--resume", tmp_path / "my run" / ".", "--set", "train.epochs=5")
    assert longer.code == 0 and "resuming with changed recipe keys: train.epochs" in longer.err
    assert open_run(tmp_path / "my run").info()["step"] == 10


def test_a_recipe_without_its_settings_names_the_command_that_resumes(tmp_path: Path, base: Path, mlxtune: Run) -> None:
    recipe = stopped_under_a_setting(tmp_path, base)
    for more in ((recipe, "--resume", tmp_path / "my run"), (tmp_path / "my run", "--resume", "--set", "lora.rank=4")):
        refused = mlxtune("lora", *more)
        assert (refused.code, refused.out) == (1, "") and "lora.rank: 2 when the run started, 4 now" in refused.err
        command = re.search(r"`(.*)`\n$", refused.err)
        assert command and shlex.split(command[1]) == ["mlxtune", "lora", str(tmp_path / "my run"), "--resume"]
    assert command is not None and mlxtune(*shlex.split(command[1])[1:]).code == 0


def test_a_run_in_place_of_a_recipe_is_planned_or_answered_with_the_ways_on(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_under_a_setting(tmp_path, base)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    for more in ((), ("--force",), ("--from", "my run"), ("--set", "lora.rank=4")):
        refused = mlxtune("lora", "my run", *more)
        assert (refused.code, refused.out) == (2, "") and "my run is a run, not a recipe" in refused.err
        assert all(
            f"`mlxtune lora {way}`" in refused.err
            for way in ("'my run' --resume", "'my run/recipe.yaml' --from 'my run'", "'my run/recipe.yaml'")
        )
    two = mlxtune("lora", "my run", "--resume", "other")
    assert (two.code, two.out) == (2, "") and "expected one run to resume, got two" in two.err
    none = mlxtune("lora", "recipes", "--resume")
    assert none.code == 1 and "recipes: no such recipe" in none.err
    (tmp_path / "folder").mkdir()
    assert "folder: not a run folder: recipe.yaml is missing" in mlxtune("lora", "folder", "--resume").err
    (tmp_path / "folder").rmdir()
    planned = mlxtune("lora", "my run", "--plan", "--json")
    assert planned.code == 0 and json.loads(planned.out) == json.loads(
        mlxtune("lora", "recipe.yaml", "--plan", "--json", "--set", "lora.rank=2").out
    )
    assert snapshot(tmp_path) == before


def test_sigterm_saves_and_resume_without_a_name_goes_on_with_the_newest_run(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, train={**SECTIONS["train"], "epochs": 300, "evaluate_every": 1000})
    command = [sys.executable, "-m", "mlxtune", "lora", str(recipe)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 30/"):
            break
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert re.search(r"Resume with: mlxtune lora runs/tiny/[^ /]+ --resume ", errors)
    done = subprocess.run(
        [*command, "--resume", "--set", "train.max_steps=60", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout.splitlines()[-1])
    assert info["status"] == "finished" and info["step"] == 60 and len(info["resumed"]) == 1
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    steps = [event["step"] for event in evidence(open_run(run)) if event["event"] == "step"]
    assert steps == list(range(1, 61))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--resume"], 1, "no run of 'tiny' with a checkpoint under runs/"),
        (["--resume", "nowhere"], 1, "nowhere: no such run folder"),
        (["--resume", "--out", "x"], 2, "--out cannot be used with --resume"),
        (["--resume", "--force"], 2, "--force cannot be used with --resume"),
        (["--from", "nowhere"], 1, "nowhere: no such run folder"),
        (["--plan", "--resume"], 2, "it cannot be used with --resume or --from"),
    ],
)
def test_mistakes_about_runs_are_answered(
    tmp_path: Path, base: Path, words: list[str], code: int, message: str, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, base)
    monkeypatch.chdir(tmp_path)
    refused = mlxtune("lora", recipe, *words)
    assert (refused.code, refused.out) == (code, "") and message in refused.err and "Traceback" not in refused.err
    assert not (tmp_path / "runs").exists()


# Passes


def without_dropout(size: object) -> dict[str, Any]:
    return {"lora": {"dropout": 0.0}, "train": {**SECTIONS["train"], "tokens_per_pass": size}}


def test_the_size_that_auto_chose_is_kept_in_the_run(tmp_path: Path, base: Path) -> None:
    tuned = trained(write_recipe(tmp_path, base), tmp_path / "run", "mlx")
    size = tuned.run.recipe().train.tokens_per_pass
    assert size == tuned.info["tokens_per_pass"] == PASS_SIZES[0]


def test_a_run_resumes_with_its_own_passes_on_a_smaller_machine(
    tmp_path: Path, base: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the recipe that leaves their size to the machine; 256 positions hold a step, 40 do not."""
    recipe = write_recipe(tmp_path, base, **{**SECTIONS, "train": {**SECTIONS["train"], "tokens_per_pass": "auto"}})
    monkeypatch.setattr("mlxtune.training.memory.PASS_SIZES", (256, 40))
    whole = trained(recipe, tmp_path / "whole", backend).run
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "killed", backend, ("checkpoint", 3))
    monkeypatch.setattr("mlxtune.training.memory.MEMORY_SHARE", 1e-9)
    again = trained(recipe, tmp_path, backend, resume=open_run(tmp_path / "killed"))
    assert_same(again.run, whole)
    assert again.run.recipe().train.tokens_per_pass == again.info["tokens_per_pass"] == 256
    other = trained(recipe, tmp_path / "other", backend).run
    assert other.recipe().train.tokens_per_pass == 40
    assert evidence(other) != evidence(whole)


def test_other_passes_are_refused_where_they_would_draw_other_dropout(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, **SECTIONS)
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 3))
    with pytest.raises(RunError, match=r"train\.tokens_per_pass: 120 when the run started, 60 now"):
        trained(recipe, tmp_path, "mlx", resume=open_run(tmp_path / "run"), overrides=["train.tokens_per_pass=60"])


def test_without_dropout_other_passes_end_at_the_same_adapter_to_rounding(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path, base, **without_dropout(120))
    whole = trained(recipe, tmp_path / "whole", "mlx").run
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 3))
    run = open_run(tmp_path / "run")
    again = trained(recipe, tmp_path, "mlx", resume=run, overrides=["train.tokens_per_pass=30"])
    assert again.run.recipe().train.tokens_per_pass == again.info["tokens_per_pass"] == 30
    for name, value in read_adapter(whole.adapter).weights.items():
        np.testing.assert_allclose(read_adapter(again.run.adapter).weights[name], value, atol=1e-4)


def test_a_run_that_kept_no_size_resumes_and_keeps_one_from_there_on(tmp_path: Path, base: Path) -> None:
    """As of version 0.1.0."""
    recipe = write_recipe(tmp_path, base, **without_dropout("auto"))
    with pytest.raises(Killed):
        trained(recipe, tmp_path / "run", "mlx", ("checkpoint", 3))
    run = open_run(tmp_path / "run")
    text = run.recipe_file.read_text(encoding="utf-8")
    without = "".join(line for line in text.splitlines(keepends=True) if "tokens_per_pass" not in line)
    assert without != text
    run.recipe_file.write_text(without, encoding="utf-8")
    again = trained(recipe, tmp_path, "mlx", resume=run)
    assert again.info["status"] == "finished"
    assert again.run.recipe().train.tokens_per_pass == PASS_SIZES[0]
