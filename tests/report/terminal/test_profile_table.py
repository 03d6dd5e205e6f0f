"""The table of where a training's time went."""

from __future__ import annotations

from mlxtune.report.terminal.profile_table import profile_table
from mlxtune.report.terminal.tables import to_text


def test_each_part_has_its_seconds_and_its_share() -> None:
    seconds = {"data": 0.5, "forward": 2.0, "other": 7.5}
    text = to_text([profile_table({"steps": 1234, "total_seconds": 10.0, "seconds": seconds})])
    assert text.startswith("Where the time of 1,234 steps went\n")
    rows = [line.split() for line in text.splitlines() if line.endswith("%")]
    assert rows == [
        ["data", "0.50", "5.0%"],
        ["forward", "2.00", "20.0%"],
        ["other", "7.50", "75.0%"],
        ["all", "10.00", "100.0%"],
    ]
    assert "of 1 step went" in to_text([profile_table({"steps": 1, "total_seconds": 1.0, "seconds": {"other": 1.0}})])
