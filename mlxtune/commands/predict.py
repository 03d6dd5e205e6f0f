"""`mlxtune predict`: ask a run a few questions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.options import (
    compute_options,
    connected,
    is_speaker,
    json_option,
    n_processes,
    print_json,
    say,
    set_option,
)

if TYPE_CHECKING:
    from mlxtune.backends.base import ChosenBackend
    from mlxtune.data.field_forms import Value
    from mlxtune.data.rows import Row
    from mlxtune.evaluation.predict.predictor import Reply
    from mlxtune.evaluation.subject import Subject
    from mlxtune.recipe.sections import Recipe

STDIN = "-"
MAX_TEXT_CELLS = 60  # longer texts are shown cut


@click.command()
@click.argument("subject", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--base", is_flag=True, help="Ask the model before tuning.")
@set_option
@click.option(
    "--decoding",
    type=click.Choice(["free", "constrained", "best"]),
    help="free lets the model write anything, constrained only what the template allows; best finds the most probable allowed reply by "
    "scoring. Default: as the recipe says.",
)
@compute_options
@json_option
def predict(
    subject: Path,
    texts: tuple[str, ...],
    base: bool,
    overrides: tuple[str, ...],
    decoding: str | None,
    backend: str,
    device: str,
    as_json: bool,
) -> None:
    """Ask a RUN, or the newest run of a recipe, about each TEXT; without a TEXT, or with -, about each line of stdin.

    A TEXT may be a conversation: {"messages": [{"role": "user", "content": "..."}, ...]}.

    Example: mlxtune predict recipes/demo-intent.yaml --base "log in and pay"
    """
    from mlxtune.backends import choose
    from mlxtune.backends.group import ALONE, together
    from mlxtune.evaluation.subject import find_subject
    from mlxtune.runs.copies import run_copies

    if n_processes() > 1 and (not texts or STDIN in texts):
        raise click.UsageError(
            "several processes are asked the TEXTs of the command line; give some, or start one process"
        )
    joined = connected(backend, device)
    group = ALONE if joined is None else joined.backend.group()
    with run_copies(group) as copies:
        with together(group):
            found = find_subject(subject, overrides, base, find=copies.find)
        _ask(found, texts, decoding, lambda: joined or choose(backend, device), as_json)


def _ask(
    found: Subject, texts: tuple[str, ...], decoding: str | None, chosen: Callable[[], ChosenBackend], as_json: bool
) -> None:
    """Print the replies to texts; of several processes rank 0 does.

    Args:
        found: What is asked.
        texts: As on the command line.
        decoding: Likewise.
        chosen: The backend, once the texts are known to be some.
        as_json: Whether replies are printed as JSON.
    """
    from mlxtune.evaluation.predict.predictor import Predictor
    from mlxtune.evaluation.subject import load_subject, require_same_base
    from mlxtune.recipe.sections import PLACEHOLDER

    needed = list(dict.fromkeys(PLACEHOLDER.findall(found.recipe.prompt.user)))
    rows = _rows(_texts(texts), needed, found.recipe)
    # Mistakes in what was typed are worth knowing before a model is loaded; lines of stdin may come slowly.
    if texts and STDIN not in texts:
        rows = iter(list(rows))
    first = next(rows, None)
    if first is None:
        raise click.UsageError("no text to predict: give texts as arguments, or one a line on stdin")
    rows = chain([first], rows)
    choice = chosen()
    say(f"backend: {choice.reason}")
    say(f"asking {found.run or found.recipe.model.path}{', the model before tuning' if found.base else ''}")
    require_same_base(found.recipe, choice.backend)
    model, tokenizer = load_subject(found, choice.backend)
    predictor = Predictor(found.recipe, model, tokenizer, decoding)
    interactive = sys.stdin.isatty() and (not texts or STDIN in texts)
    at_once = 1 if interactive else found.recipe.evaluate.batch_size
    while batch := list(islice(rows, at_once)):
        replies = predictor.predict_rows(batch)
        if not is_speaker():
            continue
        shown = [
            str(row.fields[needed[0]]) if len(needed) == 1 else json.dumps(row.fields, ensure_ascii=False)
            for row in batch
        ]
        if as_json:
            for text, reply in zip(shown, replies, strict=True):
                print_json(_record(text, reply), indent=None)
        else:
            click.echo("\n".join(_lines(shown, replies)))


def _texts(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each text and where it came from; those of stdin as they arrive."""
    for position, text in enumerate(given or (STDIN,), start=1):
        if text != STDIN:
            yield text, f"TEXT {position}"
            continue
        if sys.stdin.isatty():
            say("One text a line; Ctrl-D ends.")
        for number, line in enumerate(sys.stdin, start=1):
            if line.strip():
                yield line.strip("\r\n"), f"stdin:{number}"


def _rows(texts: Iterator[tuple[str, str]], needed: Sequence[str], recipe: Recipe) -> Iterator[Row]:
    """Rows with the columns that the prompt needs, or with conversations.

    Raises:
        Misuse: A text is empty, or is no object with those columns where the prompt needs several.
    """
    from mlxtune.data.reading import asked_row
    from mlxtune.data.rows import Row
    from mlxtune.errors import Misuse

    wanted = "{" + ", ".join(f'"{name}": "..."' for name in needed) + "}"
    for text, place in texts:
        if any("\ud800" <= character <= "\udfff" for character in text):  # what Python makes of bytes it cannot read
            raise Misuse(f"{place}: expected UTF-8 text, got {text!r}")
        if len(needed) == 1:
            if not text.strip():
                raise Misuse(f"{place}: expected some text, got {text!r}")
            if needed == [recipe.data.text] and (record := _conversation(text)) is not None:
                try:
                    yield asked_row(record, recipe, place)
                except ValueError as error:
                    raise Misuse(f"{place}: {error}") from None
                continue
            yield Row({needed[0]: text}, place, 1)
            continue
        why = f"{place}: prompt.user needs {', '.join(needed)}, so each text is one JSON object, {wanted}"
        try:
            record = json.loads(text)
        except ValueError:
            raise Misuse(f"{why}; got {text[:60]!r}") from None
        if not isinstance(record, dict):
            raise Misuse(f"{why}; got {text[:60]!r}")
        missing = [name for name in needed if name not in record]
        if missing:
            raise Misuse(f"{why}; got one without {', '.join(missing)}")
        yield Row({name: record[name] for name in needed}, place, 1)


def _conversation(text: str) -> dict[str, Any] | None:
    """The object of a text that is JSON with `messages`; None of any other."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if "messages" in record else None


def _record(text: str, reply: Reply) -> dict[str, Any]:
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in reply.values.items()}
    return {
        "text": text,
        "prediction": reply.text,
        "values": values,
        "valid": reply.parsed.valid,
        "problem": reply.parsed.problem,
        "probability": reply.probabilities or None,
        "probabilities": {one.field: one.by_label() for one in reply.distributions} or None,
    }


def _lines(texts: Sequence[str], replies: Sequence[Reply]) -> Iterator[str]:
    """'text  ->  payment, notification', the arrows below one another; several fields one a line."""
    from rich.cells import cell_len, set_cell_size

    flat = [" ".join(text.split()) for text in texts]
    clipped = [
        text if cell_len(text) <= MAX_TEXT_CELLS else set_cell_size(text, MAX_TEXT_CELLS - 3) + "..." for text in flat
    ]
    width = max(map(cell_len, clipped))
    for text, reply in zip(clipped, replies, strict=True):
        values = {name: _shown(value, _probability(reply, name)) for name, value in reply.values.items()}
        if len(values) == 1:
            (value,) = values.values()
            written = value if value is not None else f"not a valid reply: {reply.text!r}"
            yield f"{set_cell_size(text, width)}  ->  {written}"
        else:
            yield text
            yield from (f"  {name}: {value if value is not None else '?'}" for name, value in values.items())
            if reply.parsed.problem:
                yield f"  ({reply.parsed.problem}; the reply was {reply.text!r})"


def _probability(reply: Reply, name: str) -> str:
    """The probability of what was predicted, '  (0.93)'; nothing where it is not known."""
    probability = reply.probabilities.get(name)
    return "" if probability is None else f"  ({probability:.2f})"


def _shown(value: Value | None, after: str = "") -> str | None:
    if value is None:
        return None
    text = ", ".join(value) if isinstance(value, tuple) else value
    # A model's text may hold escape codes, which a terminal would obey.
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text).replace("\n", "\n    ") + after
