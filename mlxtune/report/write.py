"""A run's report, from its folder to a file on disk. Reads through `contents/`, says through `sections/`; a file is written whole or
not at all.

    write_run_report(open_run(Path("runs/demo-intent/a")))  # runs/demo-intent/a/report.html
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from mlxtune.errors import RunError
from mlxtune.evaluation.stored import StoredEvaluation
from mlxtune.files import write_text
from mlxtune.report.blocks import Report, Section, charts
from mlxtune.report.charts import Chart
from mlxtune.report.contents.run import RunContents, read_contents
from mlxtune.report.markdown_page import Images, markdown_report, no_images
from mlxtune.report.sections.calibration import consistency_section
from mlxtune.report.sections.conditions import condition_section
from mlxtune.report.sections.data_account import data_section
from mlxtune.report.sections.fields import all_predictions, field_sections
from mlxtune.report.sections.headline import headline_section
from mlxtune.report.sections.judge import judge_section
from mlxtune.report.sections.people import people_section
from mlxtune.report.sections.settings import reproduce_section, settings_section
from mlxtune.report.sections.several.sections import comparison_sections
from mlxtune.report.sections.training import training_section
from mlxtune.report.sections.verification import verification_section
from mlxtune.report.words import Words
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import report_file
from mlxtune.version import __version__


def build_report(contents: RunContents, language: str = "en") -> Report:
    """A run's report.

    Args:
        contents: The run.
        language: Of what is not the run's own text: "en" or "zh".
    """
    say = Words(language)
    tuned, base = contents.tuned, contents.base
    sections: list[Section | None] = [headline_section(contents, say)]
    if tuned is not None:
        top = tuned.result.top
        sections.append(condition_section(tuned.result.expectations, say))
        sections += field_sections(tuned, base, say)
        sections.append(None if top.consistency is None else consistency_section(top.consistency, say))
        sections += [judge_section(tuned.result.judge, say), people_section(contents.human, say)]
    sections += [
        training_section(contents, say),
        data_section(contents.data, contents.recipe, say),
        verification_section(contents.verification, say),
        None if tuned is None else all_predictions(tuned, base, say),
        settings_section(contents, say),
        reproduce_section(contents, say),
    ]
    return Report(
        say("report.title", name=contents.recipe.name),
        language,
        [one for one in sections if one is not None],
        _made(say),
    )


def build_comparison(contents: Sequence[RunContents], language: str = "en", intersection: bool = False) -> Report:
    """The report of several runs; `language` as for `build_report`, the rest as for `comparison_sections`."""
    say = Words(language)
    sections = comparison_sections(contents, say, intersection)
    return Report(say("report.title.several", n=len(contents)), language, sections, _made(say))


def read_report(evaluations: Sequence[StoredEvaluation], language: str = "en", intersection: bool = False) -> Report:
    """The report of one run, or of several.

    Args:
        evaluations: At least one, each of a run; what `open_evaluations` finds.
        language: "en" or "zh".
        intersection: Compare several on the rows that all were evaluated on, where these differ.

    Raises:
        MlxtuneError: As `read_contents`; runs were evaluated on other rows or answer other fields; one lies in no run folder.
    """
    contents = [read_contents(_run(one), one.folder.name) for one in evaluations]
    if len(contents) == 1:
        return build_report(contents[0], language)
    return build_comparison(contents, language, intersection)


def write_run_report(run: RunFolder, language: str = "en") -> Path:
    """Write a run's own report into its folder, in the place of an earlier one.

    Returns:
        The page.

    Raises:
        MlxtuneError: As `read_contents`, or it cannot be written.
    """
    file = run.path / report_file()
    write_file(file, page_text(build_report(read_contents(run), language)))
    return file


def page_text(report: Report) -> str:
    """A report as one HTML page that needs no other file."""
    from mlxtune.report.page.render import render  # and with it matplotlib, which takes a second

    return render(report)


@dataclass(frozen=True)
class Figures:
    """The charts of a report as files.

    Attributes:
        files: An SVG and a PNG a chart, in the order of the charts.
        charts: The charts that differ.
    """

    files: Sequence[Path]
    charts: Sequence[Chart]

    def seen_from(self, folder: Path) -> Images:
        """Where the image of a chart is, as seen from a folder."""
        places = [os.path.relpath(file, folder) for file in self.files if file.suffix == ".svg"]
        return lambda chart: next((place for place, one in zip(places, self.charts, strict=True) if one == chart), None)


def write_charts(report: Report, folder: Path, force: bool = False) -> Figures:
    """Write every chart of a report as SVG and PNG.

    Raises:
        RunError: A file of that name is there already, and `force` is not set.
    """
    from mlxtune.report.figures.files import write_figures

    found: list[Chart] = []
    for section in report.sections:
        found += [chart for chart in charts(section.blocks) if chart not in found]
    return Figures(write_figures(found, folder, force), found)


def markdown_text(report: Report, folder: Path, figures: Figures | None = None) -> str:
    """A report as Markdown.

    Args:
        report: The report.
        folder: Where it will lie.
        figures: Its charts, which it then shows; else it describes them.
    """
    return markdown_report(report, no_images if figures is None else figures.seen_from(folder))


def write_file(file: Path, text: str) -> None:
    """Write a report, whole or not at all; what lies there is replaced.

    Raises:
        RunError: It cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise RunError(
            f"{file}: cannot be written: {error.strerror or error}; choose another file with --out"
        ) from error


def _run(one: StoredEvaluation) -> RunFolder:
    """The run that an evaluation belongs to."""
    if one.run is None:
        raise RunError(f"{one.folder}: lies in no run folder; a report needs the run, with its recipe and its losses")
    return one.run


def _made(say: Words) -> str:
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return say("report.made", when=when, version=__version__)
