"""The names of a run's files: spelled in one place, and read back from what is made with them."""

from __future__ import annotations

import ast
from pathlib import Path

from mlxtune.runs import layout
from mlxtune.runs.layout import checkpoint_folders, checkpoint_name, checkpoint_step

PACKAGE = Path(layout.__file__).parent.parent
ROOMS = ("training", "sweep", "runs", "export", "models", "data", "report")
NAMES = {
    name: getattr(layout, name)
    for name in ("RECIPE_FILE", "RUN_FILE", "METRICS_FILE", "TRACKERS_FILE", "CHECKPOINTS", "SCORES_FILE")
}


def test_no_other_file_spells_the_name_of_a_runs_file() -> None:
    files = [file for room in ROOMS for file in sorted((PACKAGE / room).rglob("*.py")) if file.name != "layout.py"]
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant):
                found = [name for name, value in NAMES.items() if node.value == value]
                assert not found, f"{file.relative_to(PACKAGE)}:{node.lineno}: write {found[0]}"


def test_checkpoints_are_found_the_last_first(tmp_path: Path) -> None:
    for step in (20, 1_000_000, 9):
        (tmp_path / checkpoint_name(step)).mkdir()
    (tmp_path / layout.CHECKPOINT_INDEX).write_text("{}")
    (tmp_path / ".step-000010.7-0a1b2c3d.new").mkdir()  # one being written
    assert [checkpoint_step(folder.name) for folder in checkpoint_folders(tmp_path)] == [1_000_000, 20, 9]


def test_a_name_that_is_no_checkpoints_has_no_step() -> None:
    assert checkpoint_step("step-last") == -1
