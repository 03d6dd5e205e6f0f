"""The command line: one group of lazily loaded commands, and errors turned into messages and exit codes."""

from __future__ import annotations

import contextlib
import importlib
import keyword
import logging
import sys
import time
import traceback
from typing import NoReturn

import click

from mlxtune.errors import MlxtuneError, ProcessFailed
from mlxtune.version import __version__

# Command -> its one-line help, so that `mlxtune --help` imports no command and no library behind one.
COMMANDS = {
    "doctor": "Say what this machine can run, and what slows it.",
    "convert": "Turn a Hub id, a folder or a .gguf into an MLX model folder.",
    "data": "Check, clean, balance and preview a recipe's data.",
    "lora": "Train a recipe: an adapter (QLoRA when the base is quantized), or all weights.",
    "evaluate": "Score a run or its base model on the test rows.",
    "compare": "Compare runs: settings, losses, metrics, cost, and what is a real difference.",
    "report": "Write a run's report: one page with metrics, errors, losses, data and settings.",
    "sweep": "Train, evaluate and compare a grid of settings.",
    "review": "Write sheets for people to rate replies with, or read filled ones back.",
    "predict": "Ask a run a few questions.",
    "fuse": "Fold a run's adapter into its base model.",
    "export": "Write a run for other tools: PEFT, Hugging Face, MLX, GGUF, Ollama, the Hub.",
    "import": "Turn an adapter of another tool into a run, mlx-lm's config and rows into a recipe.",
    "verify": "Evaluate a run's fused, quantized and converted models beside its adapter.",
    "runs": "List the runs under runs/, or remove checkpoints and converted models that nothing needs.",
}


SHARED = ("lora", "evaluate", "verify", "predict")  # commands whose work several processes share
OTHERS_S = 1.0  # time that a process gives the one that failed to print its message


class LazyGroup(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command, imported."""
        if name not in COMMANDS:
            return None
        python = f"{name}_" if keyword.iskeyword(name) else name  # the module's name, and the function's
        command: click.Command = getattr(importlib.import_module(f"mlxtune.commands.{python}"), python)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with a suggestion for a mistyped name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from mlxtune.errors import did_you_mean

            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}", context)
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlxtune")
def cli() -> None:
    """One recipe and some labelled text in, a fine-tuned Qwen adapter with its evidence out.

    Example: mlxtune lora recipes/qwen3-intent.yaml
    """
    from mlxtune.backends.launch import launched

    launch, command = launched(), click.get_current_context().invoked_subcommand
    _show_messages(speaks=launch is None or launch.rank == 0)
    if launch is not None and launch.size > 1 and command not in SHARED:
        raise click.UsageError(
            f"mlxtune {command} is the work of one process, and {launch.launcher} started {launch.size}; run it without a launcher. "
            f"Processes share the work of {', '.join(SHARED)}"
        )


class _Stderr(logging.Handler):
    """Writes messages to whatever is stderr now, a sentence a line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        click.echo(self.format(record), err=True)


def _show_messages(speaks: bool) -> None:
    """Show what the library reports as sentences on stderr, and the warnings of other libraries; of several processes rank 0 speaks."""
    logging.basicConfig(level=logging.WARNING if speaks else logging.ERROR, format="%(message)s", stream=sys.stderr)
    ours = logging.getLogger("mlxtune")
    ours.setLevel(logging.INFO if speaks else logging.ERROR)
    ours.propagate = False
    if not any(isinstance(handler, _Stderr) for handler in ours.handlers):
        ours.addHandler(_Stderr())


def main() -> None:
    """Entry point: 0 done, 1 failed for a stated reason, 2 misuse, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character shows its code
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(prog_name="mlxtune", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if _process():  # rank 0 has the same command line, and says what is wrong with it
            _leave_after_another(error.exit_code)
        error.show()
        sys.exit(error.exit_code)
    except ProcessFailed as error:  # the one that failed says why
        _leave_after_another(error.exit_code)
    except MlxtuneError as error:
        click.echo(f"Error: {_process()}{error}", err=True)
        if error.__cause__ is not None:
            _echo_hint(error.__cause__)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        if not _process():
            click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {place}{error.strerror or error}", err=True)
        sys.exit(1)
    except MemoryError:
        click.echo(
            "Error: out of memory; lower train.tokens_per_pass or train.max_tokens, or set model.quantize", err=True
        )
        sys.exit(1)
    except Exception as error:  # a fault of ours, or of a library that has changed
        traceback.print_exception(error)
        _echo_hint(error)
        sys.exit(1)


def _process() -> str:
    """Which of several processes this is, before its message; nothing of rank 0 and of one that is alone."""
    from mlxtune.backends.launch import launched

    with contextlib.suppress(MlxtuneError):
        launch = launched()
        if launch is not None and launch.rank:
            return f"process {launch.rank}: "
    return ""


def _leave_after_another(exit_code: int) -> NoReturn:
    """Exit after the process that failed has printed why: launchers end all others as soon as one exits."""
    time.sleep(OTHERS_S)
    sys.exit(exit_code)


def _echo_hint(error: BaseException) -> None:
    """Say so as the last line where an error comes out of a library that is newer than the tested one."""
    from mlxtune.tested import hint

    if text := hint(error):
        click.echo(text, err=True)


if __name__ == "__main__":
    main()
