"""`mlxtune lora`: train a recipe, or plan it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from mlxtune.commands.options import (
    compute_options,
    force_option,
    json_option,
    on_terminal,
    print_json,
    recipe_argument,
    say,
    set_option,
)

LINES_PER_RUN = 20  # progress lines of a whole run where stderr is no terminal


@click.command()
@recipe_argument
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; without it runs/<recipe>/<UTC time>.")
@set_option
@click.option("--plan", "plan_only", is_flag=True, help="Print what training would take, without loading weights.")
@compute_options
@force_option
@json_option
def lora(
    recipe: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    plan_only: bool,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Train the adapter of RECIPE; on a quantized base this is QLoRA.

    Example: mlxtune lora recipes/demo-intent.yaml --set train.max_steps=5
    """
    from mlxtune.backends import choose
    from mlxtune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    choice = choose(backend, device)
    if plan_only:
        from mlxtune.training.plan import plan

        planned = plan(loaded, choice.backend.device())
        if as_json:
            print_json(planned.as_json())
        else:
            click.echo(planned.as_text())
        return

    from mlxtune.training.tune import tune

    say(f"backend: {choice.reason}")
    with _Progress(as_json) as progress:
        tuned = tune(loaded, choice, out, force, progress.event, progress.say)
    result = {"event": "run", "run": str(tuned.run), **tuned.info}
    if as_json:
        print_json(result, indent=None)
    else:
        click.echo(_summary(tuned.info, str(tuned.run)))
    if tuned.outcome.status == "interrupted":
        say(f"Interrupted at step {tuned.outcome.step}; adapter and checkpoint are saved in {tuned.run}.")
        sys.exit(130)


def _summary(info: dict[str, Any], run: str) -> str:
    valid = "" if info["valid_loss"] is None else f", validation loss {info['valid_loss']:.4f}"
    return (
        f"{info['status']} after step {info['step']} of {info['steps']['total']}: training loss {info['train_loss']:.4f}{valid}; "
        f"{info['seconds']:.0f} s, {info['tokens_per_second']:.0f} tokens/s (shared ones counted in each row), peak memory {info['peak_memory_gb']:.2f} GB\n"
        f"run: {run}\n"
        f"next: mlxtune evaluate {run}"
    )


class _Progress:
    """Shows events: a bar on a terminal, lines elsewhere, objects on stdout with --json."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._bar: Any = None
        self._total = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        say(text)

    def event(self, event: Any) -> None:
        if self._as_json:
            print_json(event, indent=None)
        if event["event"] == "begin":
            self._total = event["steps"]
            if on_terminal():
                from tqdm import tqdm

                self._bar = tqdm(total=self._total, unit="step", file=sys.stderr, dynamic_ncols=True)
        elif event["event"] == "step":
            self._step(event)
        elif event["event"] == "validation":
            segments = ", ".join(f"{name} {values['loss']:.3f}" for name, values in event["segments"].items())
            self._line(f"step {event['step']}: validation loss {event['loss']:.4f} ({segments})")

    def _step(self, event: Any) -> None:
        speed = event["tokens"] / event["seconds"] if event["seconds"] else 0.0
        facts = {
            "loss": f"{event['loss']:.4f}",
            "lr": f"{event['learning_rate']:.2e}",
            "tok/s": f"{speed:.0f}",
            "GB": f"{event['peak_memory_gb']:.2f}",
        }
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)
            self._bar.update()
        elif event["step"] % max(1, self._total // LINES_PER_RUN) == 0 or event["step"] == 1:
            self._line(
                f"step {event['step']}/{self._total}: " + ", ".join(f"{name} {value}" for name, value in facts.items())
            )

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            say(text)
