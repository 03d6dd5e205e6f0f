"""The report that training and evaluation write at their end."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from mlxtune.commands.options import say
from mlxtune.report.words import LANGUAGES

LANGUAGE = "MLXTUNE_LANGUAGE"

report_option = click.option(
    "--report/--no-report",
    "reports",
    default=True,
    show_default=True,
    envvar="MLXTUNE_REPORT",
    show_envvar=True,
    help="Write the run's report at the end: RUN/report.html.",
)


def write_report_of(run: Path) -> Path | None:
    """Write a run's report into its folder; None, and a line that says why, where that fails.

    What was trained or evaluated is there and whole, whatever happens here, so nothing here is an error.
    """
    try:
        from mlxtune.report.write import write_run_report
        from mlxtune.runs.folder import open_run

        return write_run_report(open_run(run), _language())
    except Exception as error:  # files of the run that are corrupt, a full disk, a fault of ours in what shows them
        why = " ".join(str(error).split()) or type(error).__name__
        say(f"the report was not written: {why}; try again with: {shlex.join(['mlxtune', 'report', str(run)])}")
        return None


def _language() -> str:
    language = os.environ.get(LANGUAGE) or "en"
    if language not in LANGUAGES:
        raise ValueError(f"{LANGUAGE}: expected one of {', '.join(LANGUAGES)}, got {language!r}")
    return language
