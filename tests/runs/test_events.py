"""Reading metrics.jsonl as a killed process leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.runs.events import TAIL_BYTES, last_step, read_events, read_lines

EVENTS = [
    {"event": "begin", "steps": 3},
    {"event": "step", "step": 1, "loss": 0.1},
    {"event": "validation", "step": 1, "loss": 0.2},
    {"event": "step", "step": 2, "loss": 1e-7},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four events, and a fifth that was being written."""
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS) + '{"event": "st', encoding="utf-8")
    return file


def test_the_line_at_which_a_process_was_killed_is_left_out(file: Path) -> None:
    assert read_events(file) == EVENTS


def test_events_of_one_kind_are_read(file: Path) -> None:
    assert read_events(file, "validation") == [EVENTS[2]]


def test_a_line_is_read_as_it_stands(file: Path) -> None:
    assert [line for line, _ in read_lines(file)] == file.read_text(encoding="utf-8").splitlines()[:4]


def test_the_last_step_is_found_at_the_end_of_a_long_file(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text(
        "\n".join([json.dumps({"event": "step", "step": 9, "é": "x" * TAIL_BYTES}), *lines]), encoding="utf-8"
    )
    assert last_step(file) == 2


def test_a_file_that_is_not_there_has_no_events(tmp_path: Path) -> None:
    assert (read_events(tmp_path / "metrics.jsonl"), last_step(tmp_path / "metrics.jsonl")) == ([], None)
