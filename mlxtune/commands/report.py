"""`mlxtune report`: one page that shows whether a fine-tuning worked."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.options import force_option, json_option, print_json, say
from mlxtune.commands.reporting import LANGUAGE
from mlxtune.report.words import LANGUAGES

if TYPE_CHECKING:
    from mlxtune.evaluation.stored import StoredEvaluation

STDOUT = Path("-")


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write, or - for stdout. Default: RUN/report.html, of another evaluation than the tuned one RUN/report-NAME.html, of "
    "several runs report.html in the current folder; with --markdown .md in place of .html.",
)
@click.option(
    "--name", default="tuned", show_default=True, metavar="NAME", help="Which evaluation of each run to show."
)
@click.option("--markdown", is_flag=True, help="Write Markdown in place of the page.")
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write each chart into DIR, as SVG and PNG; with --markdown, the Markdown shows them.",
)
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="en",
    envvar=LANGUAGE,
    show_envvar=True,
    show_default=True,
    help="Language of the report: English or Chinese. Texts and labels of the run stay as they are.",
)
@click.option(
    "--intersection", is_flag=True, help="Compare runs on the rows that all were evaluated on, where these differ."
)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@force_option
@json_option
def report(
    runs: tuple[Path, ...],
    out: Path | None,
    name: str,
    markdown: bool,
    figures: Path | None,
    language: str,
    intersection: bool,
    opens: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write one self-contained HTML page that shows whether the fine-tuning of RUN worked: metrics, errors, losses, data, settings.

    Several runs are compared: which is best, whether that is significant, and the rows on which they disagree. A RUN is a run folder,
    an evaluation folder (RUN/evaluation/base), the folder of a sweep for all its runs, or a recipe for its newest run. The report in a
    run's own folder is replaced; any other file only with --force.

    Example: mlxtune report runs/demo-intent/demo --open
    """
    if out == STDOUT and (as_json or opens):
        raise click.UsageError("--out - writes the report to stdout and cannot be used with --json or --open")
    if markdown and opens:
        raise click.UsageError("--open opens the page and cannot be used with --markdown")
    from mlxtune.evaluation.stored import open_evaluations
    from mlxtune.report import write

    found = open_evaluations(runs, name, evaluated=False)
    if intersection and len(found) == 1:
        raise click.UsageError("--intersection compares several runs; name another run")
    file = _place(found, out, markdown)
    if out is not None or len(found) > 1:
        _refuse_existing(file, force)
    built = write.read_report(found, language, intersection)
    charts = None if figures is None else write.write_charts(built, figures, force)
    folder = Path() if file == STDOUT else file.parent
    text = write.markdown_text(built, folder, charts) if markdown else write.page_text(built)
    if file == STDOUT:
        click.echo(text, nl=False)
        return
    write.write_file(file, text)
    if opens and not webbrowser.open(file.resolve().as_uri()):
        say(f"no browser could be opened; open {file} yourself")
    if as_json:
        content: dict[str, Any] = {
            "run": str(found[0].run),
            "runs": [str(one.run) for one in found],
            "report": str(file),
        }
        print_json({**content, "figures": [] if charts is None else list(map(str, charts.files))})
    else:
        click.echo(str(file))


def _place(found: list[StoredEvaluation], out: Path | None, markdown: bool) -> Path:
    """Where the report goes."""
    from mlxtune.runs.layout import report_file

    if out is not None:
        return out
    kind = "md" if markdown else "html"
    one, *others = found
    return (
        Path(report_file(kind=kind)) if others or one.run is None else one.run.path / report_file(one.folder.name, kind)
    )


def _refuse_existing(file: Path, force: bool) -> None:
    from mlxtune.errors import RunError

    if file != STDOUT and file.exists() and not force:
        raise RunError(f"{file}: exists already; replace it with --force, or choose another file with --out")
