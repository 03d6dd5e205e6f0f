"""Trackers: the numbers of a training sent to TensorBoard, Weights & Biases, SwanLab and MLflow, each by its own client.

A tracker is a copy of what metrics.jsonl holds and never a reason to stop training: one that fails is named once and
left out from then on. Its files lie in the run folder unless the client's own environment variables (WANDB_MODE,
SWANLAB_MODE, MLFLOW_TRACKING_URI, ...) say otherwise. Nothing asks for input: without a key, runs stay offline.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import netrc
import os
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

from mlxtune.errors import MlxtuneError
from mlxtune.files import write_json
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.layout import FAILED, FINISHED, INTERRUPTED, TRACKERS_FILE

log = logging.getLogger(__name__)

PROJECT = "mlxtune"  # where the client's environment names none
# Of run.json, what tells runs apart; the rest is long or names rows.
FACTS = ("mlxtune", "python", "platform", "backend", "device", "versions", "base", "parameters", "trainable_parameters")
SECONDS_PER_REQUEST = 5.0  # MLflow waits for its server: a request a step would slow training down


class Trackers:
    """The trackers of one training, as a context: opened on entering, closed with the run's status on leaving.

    Args:
        names: As `track` in a recipe.
        folder: The run folder; `trackers.json` in it keeps what continues the same tracker runs after a resume.
        recipe: Logged as the run's configuration.
        info: run.json, some of whose facts are logged with the recipe.

    Raises:
        MlxtuneError: A tracker's client is not installed.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        recipe: Recipe,
        info: Mapping[str, Any],
    ) -> None:
        require(names)
        self._names, self._folder, self._recipe, self._info = names, folder, recipe, info
        self._open: dict[str, Tracker] = {}
        self._status: str = FINISHED

    def __enter__(self) -> Trackers:
        kept_file = self._folder / TRACKERS_FILE
        kept = _read_kept(kept_file) if self._names else {}
        config = {
            **self._recipe.model_dump(mode="json"),
            "run": {key: self._info[key] for key in FACTS if key in self._info},
        }
        folder = self._folder.absolute()
        try:
            for name in self._names:
                opening = Opening(folder, self._recipe, config, kept.get(name, {}))
                try:
                    with _stdout_kept_clean():
                        tracker = self._open[name] = TRACKERS[name](opening)
                except Exception as error:  # whatever a client raises: no network, no permission, another version
                    log.info(f"{name}: cannot be opened, training continues without it: {_short(error)}")
                    continue
                kept[name] = dict(tracker.kept)
                with contextlib.suppress(OSError):  # at worst a resume begins a new run there
                    write_json(kept_file, kept)
                log.info(f"{name}: {tracker.where}")
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    def event(self, event: Mapping[str, Any]) -> None:
        """Take one event of metrics.jsonl."""
        if event["event"] == "end":
            self._status = str(event["status"])
        values = scalars(event)
        if not values:
            return
        for name, tracker in list(self._open.items()):
            try:
                with _stdout_kept_clean():
                    tracker.log(values, int(event["step"]))
            except Exception as error:  # whatever a client raises
                del self._open[name]
                log.info(f"{name}: failed at step {event['step']}, training continues without it: {_short(error)}")
                with contextlib.suppress(Exception), _stdout_kept_clean():
                    tracker.close(FAILED, _short(error))

    def _close(self, error: BaseException | None) -> None:
        status, reason = self._status, ""
        if error is not None:
            status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
            reason = _short(error)
        while self._open:
            name, tracker = self._open.popitem()
            try:
                with _stdout_kept_clean():
                    tracker.close(status, reason)
            except Exception as failure:  # whatever a client raises
                log.info(f"{name}: could not be closed, its last values may be missing: {_short(failure)}")


def missing(names: Iterable[str]) -> list[str]:
    """Those of the trackers whose clients are not installed."""
    return [name for name in names if not _is_installed(name)]


def require(names: Iterable[str]) -> None:
    """Check, before anything is loaded, that the trackers can be used.

    Raises:
        MlxtuneError: A client is not installed.
    """
    if absent := missing(names):
        verb = "is" if len(absent) == 1 else "are"
        raise MlxtuneError(
            f"track: {', '.join(absent)} {verb} not installed; pip install 'mlxtune[{','.join(absent)}]', "
            "or leave it out of the recipe's track"
        )


def scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """What trackers log of an event, under the names that they show; nothing for events without a curve.

    >>> scalars({"event": "validation", "step": 2, "loss": 1.5, "segments": {}, "metrics": {"macro_f1": 0.5}})
    {'valid/loss': 1.5, 'valid/macro_f1': 0.5}
    """
    part = {"step": "train", "validation": "valid"}.get(event["event"])
    if part is None:
        return {}
    known_already = ("event", "step") if part == "train" else ("event", "step", "epoch")
    values: dict[str, Any] = {key: value for key, value in event.items() if key not in known_already}
    segments, metrics = values.pop("segments", {}), values.pop("metrics", {})
    for name, found in segments.items():
        values |= {f"segments/{name}/{key}": value for key, value in found.items() if key != "tokens"}
    values |= metrics
    if event.get("tokens") and event.get("seconds"):
        values["tokens_per_second"] = event["tokens"] / event["seconds"]
    return {f"{part}/{key}": float(value) for key, value in values.items() if _is_number(value)}


# Clients ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with.

    Args:
        folder: The run folder, absolute.
        recipe: The recipe.
        config: Recipe and facts, plain values.
        kept: What the tracker of this run folder kept when it was opened before; empty the first time.
    """

    folder: Path
    recipe: Recipe
    config: Mapping[str, Any]
    kept: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of the run among the runs of all recipes."""
        return f"{self.recipe.name}-{self.folder.name}"


class Tracker(Protocol):
    """One open run of one tracker. Any exception may leave these."""

    where: str
    """Where the run is, for the user."""
    kept: Mapping[str, str]
    """What continues this run when the training is resumed."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values of an optimizer step."""

    def close(self, status: str, reason: str) -> None:
        """End the run: 'finished', 'interrupted' or 'failed', and why it failed."""


class _TensorBoard:
    """Event files in RUN/tensorboard, by the writer of the `tensorboard` package, which needs neither TensorFlow nor
    PyTorch."""

    def __init__(self, opening: Opening) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = opening.folder / "tensorboard"
        self._continues = folder.is_dir()
        self._writer = EventFileWriter(str(folder), flush_secs=10)
        self._config(opening)
        self.kept: Mapping[str, str] = {}
        self.where = f"look with: tensorboard --logdir {shlex.quote(str(folder))}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._continues:  # TensorBoard discards what an earlier file holds from this step on
            self._continues = False
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=step, session_log=start))
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=found)))

    def close(self, status: str, reason: str) -> None:
        try:
            self._text("status", f"{status}: {reason}" if reason else status)
        finally:
            self._writer.close()

    def _config(self, opening: Opening) -> None:
        facts = json.dumps(opening.config["run"], indent=2, ensure_ascii=False)
        for tag, text in (("recipe", opening.recipe.to_yaml()), ("run", facts)):
            self._text(tag, "".join(f"    {line}\n" for line in text.splitlines()))  # Markdown: as it stands

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        value = Summary.Value(tag=tag, metadata=plugin, tensor=tensor)
        self._writer.add_event(Event(wall_time=time.time(), summary=Summary(value=[value])))


class _Wandb:
    """Weights & Biases."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        settings = wandb.setup().settings
        offline = settings.mode in ("online", "run") and not _has_wandb_key(settings)
        arguments = _where_environment_is_silent(
            id=("WANDB_RUN_ID", opening.kept.get("id", uuid.uuid4().hex[:12])),
            resume=("WANDB_RESUME", "allow"),
            dir=("WANDB_DIR", str(opening.folder)),
            project=("WANDB_PROJECT", PROJECT),
            name=("WANDB_NAME", opening.name),
            group=("WANDB_RUN_GROUP", opening.recipe.name),
            # The progress bar is no metric; and the terminal stays as it is.
            settings=("WANDB_CONSOLE", wandb.Settings(console="off")),
        )
        if offline:
            arguments["mode"] = "offline"
        self._run = wandb.init(config=dict(opening.config), **arguments)
        self._first = int(getattr(self._run, "starting_step", 0) or 0)
        self.kept: Mapping[str, str] = {"id": str(self._run.id)}
        files = f"files in {arguments.get('dir') or os.environ['WANDB_DIR']}/wandb"
        self.where = _where("wandb", offline, settings.mode, getattr(self._run, "url", None) or files)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step >= self._first:  # a resumed run holds the earlier steps already, with the same values
            self._run.log(dict(values), step=step)

    def close(self, status: str, reason: str) -> None:
        # 255 is what the client itself gives an interrupted run
        self._run.finish(exit_code={INTERRUPTED: 255, FAILED: 1}.get(status, 0))


class _SwanLab:
    """SwanLab."""

    def __init__(self, opening: Opening) -> None:
        import swanlab

        settings = swanlab.Settings()
        offline = settings.mode == "online" and not settings.api_key
        arguments = _where_environment_is_silent(
            id=("SWANLAB_RUN_ID", opening.kept.get("id", uuid.uuid4().hex[:12])),
            resume=("SWANLAB_RESUME SWANLAB_RUN_RESUME", "allow"),
            log_dir=("SWANLAB_LOG_DIR SWANLAB_LOGDIR", str(opening.folder / "swanlab")),
            project=("SWANLAB_PROJ_NAME SWANLAB_PROJECT_NAME", PROJECT),
            name=("SWANLAB_EXP_NAME SWANLAB_EXPERIMENT_NAME", opening.name),
            group=("SWANLAB_GROUP SWANLAB_EXPERIMENT_GROUP", opening.recipe.name),
            settings=("SWANLAB_TERMINAL_PROXY_TYPE", swanlab.Settings(terminal={"proxy_type": "none"})),  # as wandb's
        )
        if offline:
            arguments["mode"] = "offline"
        self._run = swanlab.init(config=dict(opening.config), **arguments)
        self.kept: Mapping[str, str] = {"id": str(self._run.id)}
        online = arguments.get("mode", settings.mode) == "online"
        place = self._run.url if online else f"files in {arguments.get('log_dir') or settings.log_dir}"
        self.where = _where("swanlab", offline, settings.mode, place)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, status: str, reason: str) -> None:
        state = {INTERRUPTED: "aborted", FAILED: "crashed"}.get(status, "success")
        self._run.finish(state=state, error=(reason or "failed") if state == "crashed" else None)


class _MLflow:
    """MLflow. Without MLFLOW_TRACKING_URI a SQLite file in RUN/mlflow: MLflow refuses new stores of plain files."""

    def __init__(self, opening: Opening) -> None:
        from mlflow import MlflowClient

        folder = opening.folder / "mlflow"
        given = os.environ.get("MLFLOW_TRACKING_URI")
        uri = given or f"sqlite:///{folder / 'mlflow.db'}"
        if not given:
            folder.mkdir(exist_ok=True)
        self._client = MlflowClient(tracking_uri=uri)
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        shown = re.sub(r"//[^/]*@", "//", uri)  # no password is printed or kept
        run = os.environ.get("MLFLOW_RUN_ID") or (opening.kept.get("run") if opening.kept.get("uri") == shown else None)
        self._run = self._continued(run) or self._new(opening, None if given else folder / "artifacts")
        self.kept: Mapping[str, str] = {"run": self._run, "uri": shown}
        look = f"look with: mlflow ui --backend-store-uri {shlex.quote(uri)}"
        self.where = f"run {self._run} at {shown}" if given else look

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(_mlflow_name(name), value, now, step) for name, value in values.items()]
        if time.monotonic() - self._sent >= SECONDS_PER_REQUEST or len(self._waiting) >= 500:
            self._send()

    def close(self, status: str, reason: str) -> None:
        try:
            self._send()
        finally:
            ended = {INTERRUPTED: "KILLED", FAILED: "FAILED"}.get(status, "FINISHED")
            self._client.set_terminated(self._run, ended)

    def _send(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:1000], self._waiting[1000:]  # as many as a request may hold
            self._client.log_batch(self._run, metrics=some)
        self._sent = time.monotonic()

    def _continued(self, run: str | None) -> str | None:
        if run is None:
            return None
        try:
            self._client.update_run(run, status="RUNNING")
        except Exception:  # the run is no longer there: a new one
            return None
        return run

    def _new(self, opening: Opening, artifacts: Path | None) -> str:
        from mlflow.entities import Param

        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
            found = self._client.get_experiment_by_name(name)
            place = artifacts.as_uri() if artifacts else None
            experiment = found.experiment_id if found else self._client.create_experiment(name, artifact_location=place)
        run = str(self._client.create_run(experiment, run_name=opening.name).info.run_id)
        # 6000 characters a value and 100 values a request are the server's limits.
        params = [Param(name, str(value)[:6000]) for name, value in _flat(opening.config) if str(value)]
        for start in range(0, len(params), 100):
            self._client.log_batch(run, params=params[start : start + 100])
        return run


TRACKERS: Mapping[str, Callable[[Opening], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "swanlab": _SwanLab,
    "mlflow": _MLflow,
}


def _is_installed(name: str) -> bool:
    """Whether a package can be imported. A folder of that name, such as the wandb/ that wandb writes, does not count."""
    if name in sys.modules:
        return sys.modules[name] is not None
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


def _where_environment_is_silent(**arguments: tuple[str, Any]) -> dict[str, Any]:
    """Arguments none of whose environment variables is set: a client's arguments win over what the user set."""
    return {
        name: value for name, (variables, value) in arguments.items() if not any(map(os.environ.get, variables.split()))
    }


def _where(client: str, offline: bool, mode: str, place: str) -> str:
    """Where a run is, or that there is none."""
    if mode == "disabled":
        return "disabled by its own settings"
    return f"offline, as no key is configured (`{client} login`); {place}" if offline else place


def _has_wandb_key(settings: Any) -> bool:
    """Whether wandb would find a key without asking: in the environment, its settings, or the user's netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
        return True
    host = urlsplit(settings.base_url).netloc
    given = os.environ.get("NETRC")
    files = [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(str(file)).authenticators(host):
                return True
    return False


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; mappings of the user's own words, such as labels, stay whole, as JSON."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value and all(re.fullmatch(r"\w+", str(inner)) for inner in value):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_kept(file: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): dict(kept) for name, kept in content.items()}


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """What clients print goes to stderr: stdout carries the command's result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
