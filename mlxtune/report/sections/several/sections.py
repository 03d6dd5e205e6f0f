"""The sections of several runs in one report, in their order. Says which parts there are, and makes none of them.

comparison_sections([read_contents(run) for run in runs], Words("en"))
"""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.report.blocks import Folded, Section
from mlxtune.report.contents.run import RunContents
from mlxtune.report.sections.headline import headline_section
from mlxtune.report.sections.several.cost import cost_section
from mlxtune.report.sections.several.curves import curves_section
from mlxtune.report.sections.several.disagreement import disagreement_section
from mlxtune.report.sections.several.facts import facts_section
from mlxtune.report.sections.several.metrics import metrics_section
from mlxtune.report.sections.several.runs import several_runs
from mlxtune.report.sections.several.summary import summary_section
from mlxtune.report.words import Words


def comparison_sections(contents: Sequence[RunContents], say: Words, intersection: bool = False) -> list[Section]:
    """Everything that a report says of several runs.

    Args:
        contents: Two or more; those that were not evaluated have curves, settings and costs alone.
        say: The words.
        intersection: Compare metrics on the rows that all were evaluated on, where these differ.

    Raises:
        DataError: They were evaluated on other rows, or answer other fields.
    """
    runs = several_runs(contents, intersection)
    sections = (
        summary_section(runs, say),
        metrics_section(runs, say),
        curves_section(runs, say),
        facts_section(runs, say),
        cost_section(runs, say),
        disagreement_section(runs, say),
        _each(contents, runs.names, say),
    )
    return [one for one in sections if one is not None]


def _each(contents: Sequence[RunContents], names: Sequence[str], say: Words) -> Section:
    """The summary of each run's own report."""
    own = [Folded(name, headline_section(one, say).blocks) for name, one in zip(names, contents, strict=True)]
    return Section("each", say("several.each"), own)
