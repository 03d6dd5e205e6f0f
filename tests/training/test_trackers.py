"""Trackers: what each client is told, that none can stop a training, and that nothing is asked or printed on stdout."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from mlxtune.errors import MlxtuneError, RecipeError
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.training import trackers
from mlxtune.training.trackers import TRACKERS, Trackers, missing, require, scalars
from tests.conftest import heard, write_recipe

STEP = {
    "event": "step",
    "step": 3,
    "epoch": 0.5,
    "loss": 2.0,
    "learning_rate": 1e-4,
    "grad_norm": 0.9,
    "tokens": 512,
    "seconds": 2.0,
    "peak_memory_gb": 1.1,
    "segments": {"intents": {"loss": 1.5, "tokens": 40}, "template": {"loss": None, "tokens": 0}},
}
VALIDATION = {
    "event": "validation",
    "step": 3,
    "epoch": 0.5,
    "loss": 1.25,
    "segments": {"intents": {"loss": 1.0, "tokens": 40, "accuracy": 0.5}},
    "metrics": {"intents.macro_f1": 0.75},
}
END = {"event": "end", "step": 3, "status": "finished", "seconds": 9.0, "tokens": 99}
INFO = {"backend": "mlx", "seed": 0, "data": {"train": {"cleaning": {"dropped": ["train.jsonl:3"]}}}}
VARIABLES = ("WANDB_", "SWANLAB_", "MLFLOW_", "NETRC")


class Fakes:
    """The four clients; `calls` is what they were told, in order, and `broken` the call that fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.broken = ""
        self.wandb_settings = types.SimpleNamespace(mode="online", api_key=None, base_url="https://api.wandb.ai")
        self.swanlab_settings: dict[str, Any] = {"mode": "online", "api_key": None, "log_dir": "swanlog"}
        self.starting_step = 0
        self.mlflow_runs: list[str] = []
        self.mlflow_experiments: dict[str, str] = {}

    def call(self, name: str, /, **values: Any) -> None:
        print(f"{name} chats")
        self.calls.append((name, values))
        if name == self.broken:
            raise ConnectionError("the server is away\nand so on")

    def told(self, name: str) -> list[dict[str, Any]]:
        return [values for called, values in self.calls if called == name]

    def one(self, name: str) -> dict[str, Any]:
        (values,) = self.told(name)
        return values


class Run:
    """A run of wandb or swanlab."""

    def __init__(self, fakes: Fakes, client: str, url: str | None, arguments: dict[str, Any]) -> None:
        self._fakes, self._client, self.url = fakes, client, url
        self.id = arguments.get("id", "from-environment")
        self.starting_step = fakes.starting_step

    def log(self, data: dict[str, float], step: int) -> None:
        self._fakes.call(f"{self._client}.log", data=data, step=step)

    def finish(self, **values: Any) -> None:
        self._fakes.call(f"{self._client}.finish", **values)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fakes:
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fakes = Fakes()

    def init(client: str, settings: Callable[[], Any]) -> Callable[..., Run]:
        def start(**arguments: Any) -> Run:
            fakes.call(f"{client}.init", **arguments)
            mode = arguments.get("mode") or settings().mode
            return Run(fakes, client, f"https://{client}/run" if mode == "online" else None, arguments)

        return start

    def swanlab_settings(**values: Any) -> Any:
        return types.SimpleNamespace(**{**fakes.swanlab_settings, **values})

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            fakes.call("mlflow.client", uri=tracking_uri)

        def get_experiment_by_name(self, name: str) -> Any:
            found = fakes.mlflow_experiments.get(name)
            return types.SimpleNamespace(experiment_id=found) if found else None

        def create_experiment(self, name: str, artifact_location: str | None) -> str:
            fakes.call("mlflow.create_experiment", name=name, artifacts=artifact_location)
            fakes.mlflow_experiments[name] = "7"
            return "7"

        def create_run(self, experiment: str, run_name: str) -> Any:
            fakes.call("mlflow.create_run", experiment=experiment, name=run_name)
            fakes.mlflow_runs.append(f"run-{len(fakes.mlflow_runs)}")
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=fakes.mlflow_runs[-1]))

        def update_run(self, run: str, status: str) -> None:
            fakes.call("mlflow.update_run", run=run, status=status)
            if run not in fakes.mlflow_runs:
                raise LookupError(run)

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            fakes.call("mlflow.log_batch", run=run, metrics=list(metrics), params=list(params))

        def set_terminated(self, run: str, status: str) -> None:
            fakes.call("mlflow.set_terminated", run=run, status=status)

    def record(name: str) -> Callable[..., tuple[Any, ...]]:
        return lambda *values: (name, *values)

    def module(name: str, **content: Any) -> None:
        made = types.ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    wandb_setup = types.SimpleNamespace(settings=fakes.wandb_settings)
    module(
        "wandb",
        init=init("wandb", lambda: fakes.wandb_settings),
        setup=lambda: wandb_setup,
        Settings=lambda **values: values,
    )
    module("swanlab", init=init("swanlab", swanlab_settings), Settings=swanlab_settings)
    module("mlflow", MlflowClient=Client)
    module("mlflow.entities", Metric=record("metric"), Param=record("param"))

    class Writer:
        def __init__(self, folder: str, flush_secs: int) -> None:
            Path(folder).mkdir(exist_ok=True)
            fakes.call("tensorboard.open", folder=folder)

        def add_event(self, event: Any) -> None:
            fakes.call("tensorboard.event", **event)

        def close(self) -> None:
            fakes.call("tensorboard.close")

    class Message:
        """A protocol buffer as the mapping of its fields."""

        START = 1
        Value = PluginData = dict

        def __new__(cls, **fields: Any) -> Any:
            return fields

    module("tensorboard")
    for package in ("summary", "summary.writer", "compat", "compat.proto"):
        module(f"tensorboard.{package}")
    module("tensorboard.summary.writer.event_file_writer", EventFileWriter=Writer)
    module("tensorboard.compat.proto.event_pb2", Event=Message, SessionLog=Message)
    module("tensorboard.compat.proto.summary_pb2", Summary=Message, SummaryMetadata=Message)
    module("tensorboard.compat.proto.tensor_pb2", TensorProto=Message)
    module("tensorboard.compat.proto.types_pb2", DT_STRING=7)
    return fakes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "20260102T030405Z"
    folder.mkdir()
    return folder


def track(names: list[str], run: Path, recipe: Recipe, *events: dict[str, Any]) -> list[str]:
    """Open, take events, close; what was said."""
    with heard() as said, Trackers(names, run, recipe, INFO) as open_trackers:
        for event in events:
            open_trackers.event(event)
    return said


def test_a_step_is_shown_as_train_and_a_validation_as_valid() -> None:
    assert scalars(STEP) == {
        "train/epoch": 0.5,
        "train/loss": 2.0,
        "train/learning_rate": 1e-4,
        "train/grad_norm": 0.9,
        "train/tokens": 512.0,
        "train/seconds": 2.0,
        "train/peak_memory_gb": 1.1,
        "train/segments/intents/loss": 1.5,
        "train/tokens_per_second": 256.0,
    }
    assert scalars(VALIDATION) == {
        "valid/loss": 1.25,
        "valid/segments/intents/loss": 1.0,
        "valid/segments/intents/accuracy": 0.5,
        "valid/intents.macro_f1": 0.75,
    }
    assert scalars(END) == {} == scalars({"event": "begin", "steps": 4}) == scalars({"event": "checkpoint", "step": 3})


def test_a_value_that_is_no_finite_number_is_left_out() -> None:
    event = {**VALIDATION, "loss": float("nan"), "metrics": {"a": None, "b": True, "c": float("inf"), "d": 1}}
    assert set(scalars(event)) == {"valid/segments/intents/loss", "valid/segments/intents/accuracy", "valid/d"}


def test_the_recipe_accepts_exactly_the_trackers_that_are_here() -> None:
    (words,) = get_args(Recipe.model_fields["track"].annotation)
    assert list(get_args(words)) == list(TRACKERS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wandb", "mlflow", "wandb"], "track.2: 'wandb' is listed twice"),
        (["tensorbord"], "got 'tensorbord'; did you mean 'tensorboard'?"),
        ("wandb", "track: expected a list, got 'wandb'"),
    ],
)
def test_the_recipe_refuses_other_words_and_words_listed_twice(words: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(tmp_path, tmp_path / "base", track=words))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_whose_client_is_missing_is_refused_by_name(
    name: str, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MlxtuneError, match=rf"{name} is not installed; pip install 'mlxtune\[{name}\]'"):
        require([name])
    with pytest.raises(MlxtuneError, match="is not installed"):
        Trackers([name], run, recipe, INFO)
    assert missing([name]) == [name]


def test_the_folder_that_a_client_leaves_behind_is_not_taken_for_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swanlab").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "swanlab", raising=False)
    assert missing(["swanlab"]) == ["swanlab"]


def test_no_tracker_needs_no_client_and_leaves_no_file(run: Path, recipe: Recipe) -> None:
    assert track([], run, recipe, STEP, END) == []
    assert list(run.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_values_are_logged_at_their_step_with_the_recipe_as_configuration(
    name: str, fakes: Fakes, run: Path, recipe: Recipe
) -> None:
    track([name], run, recipe, STEP, VALIDATION, END)
    opened = fakes.one(f"{name}.init")
    assert opened["config"]["train"]["learning_rate"] == 0.01
    assert opened["config"]["run"] == {"backend": "mlx"}
    assert opened["project"] == "mlxtune" and opened["name"] == "tiny-20260102T030405Z"
    logged = fakes.told(f"{name}.log")
    assert [call["step"] for call in logged] == [3, 3]
    assert [call["data"] for call in logged] == [scalars(STEP), scalars(VALIDATION)]


def test_mlflow_gets_values_at_their_step_and_the_recipe_as_parameters(fakes: Fakes, run: Path, recipe: Recipe) -> None:
    track(["mlflow"], run, recipe, STEP, VALIDATION, END)
    batches = fakes.told("mlflow.log_batch")
    params = {name: value for batch in batches for _, name, value in batch["params"]}
    assert params["train.learning_rate"] == "0.01" and params["name"] == "tiny" and params["run.backend"] == "mlx"
    metrics = [metric for batch in batches for metric in batch["metrics"]]
    assert {name: value for _, name, value, _, _ in metrics} == {**scalars(STEP), **scalars(VALIDATION)}
    assert {step for *_, step in metrics} == {3}


def test_mlflow_takes_names_and_values_within_its_limits(fakes: Fakes, run: Path, recipe: Recipe) -> None:
    prompt = recipe.prompt.model_copy(update={"system": "x" * 7000})
    keywords = {"R&D": ["lab"], "payment": ["pay"]}
    evaluate = recipe.evaluate.model_copy(update={"keywords": keywords})
    long = recipe.model_copy(update={"prompt": prompt, "evaluate": evaluate})
    track(["mlflow"], run, long, {**VALIDATION, "metrics": {"R&D (all)": 0.5}}, END)
    batches = fakes.told("mlflow.log_batch")
    params = {name: value for batch in batches for _, name, value in batch["params"]}
    assert len(params["prompt.system"]) == 6000 and json.loads(params["evaluate.keywords"]) == keywords
    assert "valid/R_D _all_" in [name for batch in batches for _, name, *_ in batch["metrics"]]


def test_mlflow_is_asked_once_in_a_while_not_every_step(
    fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "SECONDS_PER_REQUEST", 1000.0)
    events = [{**STEP, "step": step} for step in range(1, 301)]
    track(["mlflow"], run, recipe, *events, END)
    batches = [batch["metrics"] for batch in fakes.told("mlflow.log_batch") if batch["metrics"]]
    assert len(batches) == 6 and max(map(len, batches)) <= 1000
    assert sorted({step for batch in batches for *_, step in batch}) == list(range(1, 301))


@pytest.mark.parametrize(
    ("end", "wandb", "swanlab", "mlflow"),
    [("finished", 0, "success", "FINISHED"), ("interrupted", 255, "aborted", "KILLED")],
)
def test_a_run_is_closed_with_the_status_that_training_ended_with(
    end: str, wandb: int, swanlab: str, mlflow: str, fakes: Fakes, run: Path, recipe: Recipe
) -> None:
    track(["wandb", "swanlab", "mlflow", "tensorboard"], run, recipe, STEP, {**END, "status": end})
    assert fakes.one("wandb.finish")["exit_code"] == wandb
    assert fakes.one("swanlab.finish") == {"state": swanlab, "error": None}
    assert fakes.one("mlflow.set_terminated")["status"] == mlflow
    assert fakes.calls[-1][0] == "wandb.finish" and len(fakes.told("tensorboard.close")) == 1


@pytest.mark.parametrize(
    ("error", "wandb", "swanlab", "mlflow"),
    [
        (ValueError("loss is not finite"), 1, "crashed", "FAILED"),
        (KeyboardInterrupt(), 255, "aborted", "KILLED"),
    ],
)
def test_a_training_that_raises_closes_its_runs_and_raises_on(
    error: BaseException, wandb: int, swanlab: str, mlflow: str, fakes: Fakes, run: Path, recipe: Recipe
) -> None:
    with pytest.raises(type(error)), Trackers(["wandb", "swanlab", "mlflow"], run, recipe, INFO):
        raise error
    assert fakes.one("wandb.finish")["exit_code"] == wandb
    assert fakes.one("swanlab.finish")["state"] == swanlab
    assert fakes.one("mlflow.set_terminated")["status"] == mlflow


@pytest.mark.parametrize("broken", ["wandb.log", "swanlab.log", "tensorboard.event", "mlflow.log_batch"])
def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(
    broken: str, fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "SECONDS_PER_REQUEST", 0.0)
    name = broken.split(".")[0]
    other = "swanlab" if name == "wandb" else "wandb"
    with heard() as said, Trackers([name, other], run, recipe, INFO) as opened:
        fakes.broken = broken
        for step in (3, 4, 5):
            opened.event({**STEP, "step": step})
    warnings = [line for line in said if "without it" in line]
    assert warnings == [f"{name}: failed at step 3, training continues without it: ConnectionError: the server is away"]
    assert len(fakes.told(f"{other}.log")) == 3
    assert fakes.one(f"{other}.finish")
    ended = {"mlflow": "mlflow.set_terminated", "tensorboard": "tensorboard.close"}.get(name, f"{name}.finish")
    assert len(fakes.told(ended)) == 1


@pytest.mark.parametrize("broken", ["wandb.init", "swanlab.init", "tensorboard.open", "mlflow.client"])
def test_a_tracker_that_cannot_be_opened_does_not_stop_training(
    broken: str, fakes: Fakes, run: Path, recipe: Recipe
) -> None:
    fakes.broken = broken
    name = broken.split(".")[0]
    (said,) = track([name], run, recipe, STEP, END)
    assert said == f"{name}: cannot be opened, training continues without it: ConnectionError: the server is away"


@pytest.mark.parametrize("broken", ["wandb.finish", "swanlab.finish", "tensorboard.close", "mlflow.set_terminated"])
def test_a_tracker_that_cannot_be_closed_does_not_spoil_the_training(
    broken: str, fakes: Fakes, run: Path, recipe: Recipe
) -> None:
    fakes.broken = broken
    said = track([broken.split(".")[0]], run, recipe, STEP, END)
    assert len(said) == 2 and "could not be closed" in said[1]


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_without_a_key_runs_stay_offline_and_it_is_said(name: str, fakes: Fakes, run: Path, recipe: Recipe) -> None:
    (said,) = track([name], run, recipe, END)
    assert fakes.one(f"{name}.init")["mode"] == "offline"
    assert said == f"{name}: offline, as no key is configured (`{name} login`); files in {run}/{name}"


@pytest.mark.parametrize("where", ["environment", "settings", "netrc"])
def test_with_a_key_wandb_keeps_its_own_mode(
    where: str, fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k")
    elif where == "settings":
        fakes.wandb_settings.api_key = "k"
    else:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user password k\n")
        (tmp_path / "home" / ".netrc").chmod(0o600)
    assert track(["wandb"], run, recipe, END) == ["wandb: https://wandb/run"]
    assert "mode" not in fakes.one("wandb.init")


def test_a_key_for_another_server_is_no_key(fakes: Fakes, run: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine github.com login user password k\n")
    track(["wandb"], run, recipe, END)
    assert fakes.one("wandb.init")["mode"] == "offline"


def test_with_a_key_swanlab_keeps_its_own_mode(fakes: Fakes, run: Path, recipe: Recipe) -> None:
    fakes.swanlab_settings["api_key"] = "k"
    assert track(["swanlab"], run, recipe, END) == ["swanlab: https://swanlab/run"]
    assert "mode" not in fakes.one("swanlab.init")


@pytest.mark.parametrize("mode", ["offline", "disabled"])
@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_a_mode_that_the_user_set_is_left_alone(name: str, mode: str, fakes: Fakes, run: Path, recipe: Recipe) -> None:
    fakes.wandb_settings.mode = fakes.swanlab_settings["mode"] = mode
    (said,) = track([name], run, recipe, END)
    assert "mode" not in fakes.one(f"{name}.init")
    assert "no key" not in said and ("disabled" in said) == (mode == "disabled")


@pytest.mark.parametrize(
    ("variable", "argument"),
    [
        ("WANDB_PROJECT", "project"), ("WANDB_NAME", "name"), ("WANDB_RUN_ID", "id"), ("WANDB_DIR", "dir"),
        ("WANDB_RESUME", "resume"), ("WANDB_CONSOLE", "settings"), ("WANDB_RUN_GROUP", "group"),
        ("SWANLAB_PROJ_NAME", "project"), ("SWANLAB_EXP_NAME", "name"), ("SWANLAB_RUN_ID", "id"),
        ("SWANLAB_LOG_DIR", "log_dir"), ("SWANLAB_RESUME", "resume"), ("SWANLAB_GROUP", "group"),
    ],
)  # fmt: skip
def test_what_the_environment_says_is_not_said_over(
    variable: str, argument: str, fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = variable.split("_")[0].lower()
    track([name], run, recipe, END)
    monkeypatch.setenv(variable, "mine")
    track([name], run, recipe, END)
    without, given = fakes.told(f"{name}.init")
    assert set(without) - set(given) == {argument}


def test_mlflow_keeps_its_store_in_the_run_folder(fakes: Fakes, run: Path, recipe: Recipe) -> None:
    (said,) = track(["mlflow"], run, recipe, END)
    uri = f"sqlite:///{run}/mlflow/mlflow.db"
    assert fakes.one("mlflow.client")["uri"] == uri and (run / "mlflow").is_dir()
    assert fakes.one("mlflow.create_experiment")["artifacts"] == (run / "mlflow" / "artifacts").as_uri()
    assert said.endswith(f"look with: mlflow ui --backend-store-uri {uri}")


def test_mlflow_uses_the_server_and_experiment_of_the_environment(
    fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "intents")
    track(["mlflow"], run, recipe, END)
    assert fakes.one("mlflow.client")["uri"] == "http://tracking:5000"
    assert fakes.one("mlflow.create_experiment") == {"name": "intents", "artifacts": None}
    assert not (run / "mlflow").exists()


def test_a_password_in_the_address_of_mlflow_is_neither_said_nor_kept(
    fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking:5000")
    said = track(["mlflow"], run, recipe, END) + track(["mlflow"], run, recipe, END)
    assert fakes.told("mlflow.client")[0]["uri"] == "https://me:secret@tracking:5000"
    assert said == ["mlflow: run run-0 at https://tracking:5000"] * 2
    assert "secret" not in (run / "trackers.json").read_text()


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_a_resumed_training_continues_the_same_run(name: str, fakes: Fakes, run: Path, recipe: Recipe) -> None:
    track([name], run, recipe, STEP, END)
    track([name], run, recipe, {**STEP, "step": 4}, END)
    first, second = fakes.told(f"{name}.init")
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert json.loads((run / "trackers.json").read_text())[name]["id"] == first["id"]
    other = run.with_name("other")
    other.mkdir()
    track([name], other, recipe, END)
    assert fakes.told(f"{name}.init")[2]["id"] != first["id"]


def test_wandb_is_not_told_again_what_the_continued_run_holds(fakes: Fakes, run: Path, recipe: Recipe) -> None:
    fakes.starting_step = 4
    track(["wandb"], run, recipe, STEP, {**STEP, "step": 4}, END)
    assert fakes.one("wandb.log")["step"] == 4


def test_a_resumed_training_continues_the_run_of_mlflow_or_begins_a_new_one(
    fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(["mlflow"], run, recipe, STEP, END)
    track(["mlflow"], run, recipe, STEP, END)
    assert fakes.mlflow_runs == ["run-0"] and fakes.one("mlflow.update_run")["status"] == "RUNNING"
    fakes.mlflow_runs[0] = "deleted"
    track(["mlflow"], run, recipe, END)
    assert fakes.mlflow_runs == ["deleted", "run-1"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://another:5000")
    track(["mlflow"], run, recipe, END)
    assert fakes.mlflow_runs == ["deleted", "run-1", "run-2"]


def test_tensorboard_draws_steps_anew_that_are_trained_again(fakes: Fakes, run: Path, recipe: Recipe) -> None:
    track(["tensorboard"], run, recipe, STEP, END)
    assert not [call for call in fakes.told("tensorboard.event") if "session_log" in call]
    track(["tensorboard"], run, recipe, {**STEP, "step": 2}, STEP, END)
    (marked,) = [call for call in fakes.told("tensorboard.event") if "session_log" in call]
    assert marked["step"] == 2


def test_what_clients_print_does_not_reach_stdout(
    fakes: Fakes, run: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    track(list(TRACKERS), run, recipe, STEP, VALIDATION, END)
    out, err = capsys.readouterr()
    assert out == "" and all(f"{name}." in err for name in TRACKERS)


def test_a_ctrl_c_while_trackers_are_opened_closes_those_that_are_open(
    fakes: Fakes, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["swanlab"], "init", interrupted)
    with pytest.raises(KeyboardInterrupt), Trackers(["wandb", "swanlab"], run, recipe, INFO):
        raise AssertionError("not reached")
    assert fakes.one("wandb.finish")["exit_code"] == 255


def test_the_real_tensorboard_reads_back_what_was_logged(run: Path, recipe: Recipe) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(["tensorboard"], run, recipe, STEP, VALIDATION, {**STEP, "step": 4, "loss": 9.0}, END)
    track(["tensorboard"], run, recipe, {**STEP, "step": 4, "loss": 1.0}, END)
    read = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(3, 2.0), (4, 1.0)]
    assert [(event.step, event.value) for event in read.Scalars("valid/intents.macro_f1")] == [(3, 0.75)]
    assert set(read.Tags()["tensors"]) == {"recipe", "run", "status"}
    (text,) = read.Tensors("recipe")[-1].tensor_proto.string_val
    assert "    name: tiny" in text.decode().splitlines()
