"""The sections on settings and on how to make a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.report.blocks import Code, Facts, Folded
from mlxtune.report.contents.run import RunContents, read_contents
from mlxtune.report.sections.settings import SHOWN, reproduce_section, settings_section
from mlxtune.report.words import Words
from mlxtune.runs.folder import open_run
from tests.made_runs import made_run, replies_of, ticket_recipe, tickets

ROWS = tickets(6)
SAY = Words("en")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def contents(folder: Path, **info: Any) -> RunContents:
    recipe = ticket_recipe(folder / "tickets", ROWS, train={"learning_rate": 2e-4, "max_steps": 7})
    return read_contents(open_run(made_run(folder / "run", recipe, replies_of(ROWS, 0.8), **info)))


def test_the_recipe_stands_as_it_was_resolved(folder: Path) -> None:
    found = contents(folder)
    facts, whole = settings_section(found, SAY).blocks[:2]
    assert isinstance(facts, Facts) and isinstance(whole, Folded)
    assert list(facts.facts) == list(SHOWN)
    assert (facts.facts["train.learning_rate"], facts.facts["train.max_steps"]) == ("2e-4", "7")
    (code,) = whole.blocks
    assert isinstance(code, Code) and yaml.safe_load(code.text) == found.recipe.model_dump(mode="json")


def test_versions_and_hashes_are_those_of_run_json(folder: Path) -> None:
    found = contents(folder, versions={"mlx": "0.32.4"}, python="3.12.1", created="2026-11-20T10:30:00+01:00")
    shown = [dict(one.facts) for block in settings_section(found, SAY).blocks[2:] if isinstance(block, Folded)
             for one in block.blocks if isinstance(one, Facts)]  # fmt: skip
    environment, hashes = shown
    assert (environment["mlxtune"], environment["mlx"], environment["Python"]) == ("0.1.0", "0.32.4", "3.12.1")
    assert environment["started"] == "2026-11-20 09:30 UTC"
    assert hashes["base model's weights"] == "2:abc"
    assert hashes[str(found.recipe.data.train)] == found.facts.data["train"].sha256
    assert found.tuned is not None and found.tuned.result.evaluated is not None
    assert hashes[str(found.recipe.data.test)] == found.tuned.result.evaluated.data.sha256


def test_the_commands_are_those_that_were_given(folder: Path) -> None:
    resumed = [{"at": "2026-11-20T10:30:00", "command": ["mlxtune", "lora", "run", "--resume"], "changed": []}]
    found = contents(folder, command=["mlxtune", "lora", "a recipe.yaml"], resumed=resumed)
    (code,) = [block for block in reproduce_section(found, SAY).blocks if isinstance(block, Code)]
    assert code.text.splitlines() == [
        "mlxtune lora 'a recipe.yaml'",
        "mlxtune lora run --resume",
        f"mlxtune evaluate {folder / 'run'}",
        f"mlxtune report {folder / 'run'}",
    ]
