"""`mlxtune runs`: what lies under runs/, and removing checkpoints that nothing needs any more."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxtune.commands.options import json_option, print_json, say

if TYPE_CHECKING:
    from mlxtune.models.conversions import CacheEntry

MIN_WIDTH = 60
FILE_WIDTH = 250  # where no terminal folds it, a line stays one line


class _ListByDefault(click.Group):
    """Takes anything but a subcommand's name for arguments of `list`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *context.help_option_names):
            args = ["list", *args]
        return super().parse_args(context, args)


@click.group(cls=_ListByDefault)
def runs() -> None:
    """List the runs under runs/ or another FOLDER, the newest first, or clean them: mlxtune runs [FOLDER] [--json].

    Example: mlxtune runs
    """


@runs.command("list")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@json_option
def list_(folder: Path | None, as_json: bool) -> None:
    """List the runs under FOLDER, or under runs/; `list` may be left out.

    Example: mlxtune runs list runs/demo-intent
    """
    from datetime import datetime, timezone

    from mlxtune.errors import RunError, did_you_mean
    from mlxtune.runs.layout import RUNS
    from mlxtune.runs.listing import list_runs

    if folder is not None and not folder.exists():
        raise RunError(f"{folder}: no such folder{did_you_mean(folder, runs.commands)}")
    root = folder or RUNS
    found = list_runs(root) if folder or root.exists() else []
    if as_json:
        print_json({"folder": str(root), "runs": [run.as_json() for run in found]})
    elif not found:
        say(f"no runs under {root}/; `mlxtune lora RECIPE` makes one")
    else:
        from mlxtune.report.terminal.run_table import run_tables
        from mlxtune.report.terminal.tables import to_text

        terminal = sys.stdout.isatty()
        width = max(MIN_WIDTH, shutil.get_terminal_size().columns) if terminal else FILE_WIDTH
        click.echo(to_text(run_tables(found, datetime.now(timezone.utc)), width, color=terminal))


@runs.command("clean")
@click.argument("named", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--cache",
    is_flag=True,
    help="Remove converted models and prepared rows from the cache instead: all, or those named.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def clean_(named: tuple[Path, ...], cache: bool, yes: bool, as_json: bool) -> None:
    """Remove the checkpoints of finished runs under runs/, or of each RUN; adapters, metrics and evaluations stay.

    A run that was interrupted or failed is cleaned only if you name it, because without checkpoints it cannot be continued. A run that is
    being trained is never touched. Converted models and prepared rows are made again when they are needed.

    Example: mlxtune runs clean --yes
    """
    if cache:
        _clean_cache([path.name for path in named], yes, as_json)
        return
    from mlxtune.report.values import size_text
    from mlxtune.runs.layout import CHECKPOINTS, FINISHED
    from mlxtune.runs.listing import clean, plan_cleaning

    plan = plan_cleaning(named)
    for run in plan.remove:
        lost = "" if run.status == FINISHED else f"; the run is {run.status} and cannot be resumed without them"
        say(f"{run.path / CHECKPOINTS}: {run.checkpoint_bytes:,} bytes{lost}")
    for path, why in plan.kept:
        say(f"{path}: kept, {why}")
    counted = f"the checkpoints of {len(plan.remove)} run{'' if len(plan.remove) == 1 else 's'}"
    if plan.remove and not _may_remove(f"{counted}, {size_text(plan.n_bytes)}", yes):
        return
    removed = [{"run": str(path), "bytes": n_bytes} for path, n_bytes in clean(plan)]
    if as_json:
        kept = [{"run": str(path), "why": why} for path, why in plan.kept]
        print_json({"removed": removed, "bytes": plan.n_bytes, "kept": kept})
    else:
        click.echo(f"removed {counted}, {size_text(plan.n_bytes)}" if removed else "nothing to remove")


def _clean_cache(names: list[str], yes: bool, as_json: bool) -> None:
    from datetime import datetime, timezone

    from mlxtune.data.prepared_cache import list_prepared
    from mlxtune.models.conversions import list_conversions, models_cache, named, remove
    from mlxtune.report.terminal.run_table import age_text
    from mlxtune.report.values import size_text

    cache, now = models_cache(), datetime.now(timezone.utc)
    found = named([*list_conversions(cache), *list_prepared()], names)
    for one in found:
        age = age_text((now - one.last_used).total_seconds())
        writing = "conversion" if one.kind == "model" else "preparation"
        used = f"left {age} ago by an interrupted {writing}" if one.unfinished else f"last used {age} ago"
        say(f"{one.path}: {size_text(one.n_bytes)}, {used}{'; kept, a process uses it' if one.in_use else ''}")
    free = [one for one in found if not one.in_use]
    if free and not _may_remove(_counted(free), yes):
        return
    removed = list(remove(cache, free))
    if as_json:
        print_json(
            {
                "folder": str(cache),
                "removed": [one.as_json() for one in removed],
                "bytes": sum(one.n_bytes for one in removed),
                "kept": [one.as_json() for one in found if one not in removed],
            }
        )
    else:
        click.echo(f"removed {_counted(removed)}" if removed else "nothing to remove")


def _counted(entries: Sequence[CacheEntry]) -> str:
    """How many entries of the cache of each kind, and their size."""
    from mlxtune.report.values import size_text

    n_files = sum(one.kind == "prepared" for one in entries)
    counts = {"converted model": len(entries) - n_files, "file of prepared rows": n_files}
    plural = {"converted model": "converted models", "file of prepared rows": "files of prepared rows"}
    parts = [f"{count} {what if count == 1 else plural[what]}" for what, count in counts.items() if count]
    return f"{' and '.join(parts)}, {size_text(sum(one.n_bytes for one in entries))}"


def _may_remove(what: str, yes: bool) -> bool:
    """Ask, unless --yes says it already."""
    from mlxtune.errors import Misuse

    if yes:
        return True
    if not sys.stdin.isatty():
        raise Misuse(
            "removing asks for confirmation, but stdin is not a terminal: nothing was removed; add --yes to remove without asking"
        )
    if click.confirm(f"Remove {what}?", err=True):
        return True
    say("nothing was removed")
    return False
