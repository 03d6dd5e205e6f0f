"""Writes the generated parts of docs/: the recipe's keys in docs/recipe.md, the commands in docs/commands.md.

python tools/write_docs.py           # write them
python tools/write_docs.py --check   # fail if one is stale

The pages themselves are prose and belong to whoever edits them. What stands in them between the lines
`<!-- generated: NAME -->` and `<!-- end of NAME -->` is replaced, nothing else. Keys come from the recipe's JSON Schema,
which holds the docstrings of its classes; commands come from click. Nothing that computes is imported.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from mlxtune.cli import cli
from mlxtune.recipe.sections import Recipe

DOCS = Path(__file__).parent.parent / "docs"
HEADER_OF_KEYS = ("| key | value | default | meaning |", "|---|---|---|---|")
HEADER_OF_OPTIONS = ("| option | meaning |", "|---|---|")
WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
LIMITS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}
EXAMPLE = re.compile(r"(?:^|\n\n)Example: (?P<command>.+)", re.DOTALL)

Schema = Mapping[str, Any]


def pages() -> dict[Path, str]:
    """The pages with generated parts, as they should be."""
    parts = {"recipe": recipe_reference(), "commands": command_reference()}
    return {DOCS / f"{name}.md": _with_part(DOCS / f"{name}.md", name, text) for name, text in parts.items()}


def _with_part(page: Path, name: str, text: str) -> str:
    """A page with one part of it replaced.

    Raises:
        SystemExit: The page has no such part.
    """
    begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
    content = page.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        sys.exit(f"{page}: expected the lines {begin} and {end} once each, in this order")
    before, after = content[: content.index(begin)], content[content.index(end) :]
    return f"{before}{begin}\n<!-- by tools/write_docs.py; edit the docstrings that it reads -->\n\n{text}\n{after}"


# The recipe ------------------------------------------------------------------------------------------------------


def recipe_reference() -> str:
    """Every key of a recipe: a table for the recipe itself, and one for each section and kind of output field."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    schema["properties"]["name"]["default"] = "the file's name"
    schema["required"].remove("name")  # a file may leave it out
    lines = ["## Top level", "", *_keys(schema, "", definitions)]
    for name, section in _sections(schema, "", definitions):
        lines += ["", f"{'#' * (2 + name.count('.'))} {name}", "", _text(section["description"]), ""]
        lines += _keys(section, name, definitions)
    return "\n".join(lines) + "\n"


def _sections(node: Schema, prefix: str, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """Every section below one, by the dotted name under which a recipe has it, depth first."""
    for key, value in node["properties"].items():
        for name, section in _inside(f"{prefix}{key}", value, definitions):
            yield name, section
            yield from _sections(section, f"{name}.", definitions)


def _inside(key: str, value: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """The sections that a key's value may be; fields of an output are named by their kind."""
    if "discriminator" in value.get("additionalProperties", {}):
        for kind, reference in value["additionalProperties"]["discriminator"]["mapping"].items():
            yield f"{key}: {kind}", definitions[reference.rpartition("/")[2]]
        return
    for one in (value, *value.get("anyOf", ())):
        if "$ref" in one:
            yield key, definitions[one["$ref"].rpartition("/")[2]]


def _keys(section: Schema, name: str, definitions: Schema) -> list[str]:
    """The table of a section's keys, `kind` before the others."""
    required = section.get("required", ())
    rows = list(HEADER_OF_KEYS)
    for key, value in sorted(section["properties"].items(), key=lambda item: item[0] != "kind"):
        whole = f"{name}.{key}" if name else key
        described = value.get("description") or _described(value, definitions)
        default = "required" if key in required else _default(value)
        rows.append(f"| `{key}` | {_value(value, whole)} | {default} | {_text(described)} |")
    return rows


def _described(value: Schema, definitions: Schema) -> str:
    """What a key without a description of its own is for: its section's, or that it has one value only."""
    if "$ref" in value:
        return str(definitions[value["$ref"].rpartition("/")[2]]["description"])
    return "Which kind of field this is." if "const" in value else ""


def _value(value: Schema, name: str) -> str:
    """What a key may hold, in words."""
    if members := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(_value(member, name) for member in members)
    if "$ref" in value:
        return f"[section]({anchor(name)})"
    if "const" in value:
        return _code(value["const"])
    if "enum" in value:
        return ", ".join(_code(one) for one in value["enum"])
    kind = value["type"]
    if kind == "array":
        return f"list of {_value(value['items'], name)}"
    if kind == "object":
        inside = value["additionalProperties"]
        if "discriminator" in inside:
            kinds = [f"[{kind}]({anchor(f'{name}: {kind}')})" for kind in inside["discriminator"]["mapping"]]
            return f"mapping (name: {', '.join(kinds[:-1])} or {kinds[-1]})"
        return f"mapping (name: {_value(inside, name)})"
    limits = ", ".join(f"{word} {value[limit]:,}" for limit, word in LIMITS.items() if limit in value)
    return WORDS[kind] + (f" ({limits})" if limits else "")


def _default(value: Schema) -> str:
    if "default" not in value:  # one that pydantic makes anew for each recipe
        return "`{}`" if "additionalProperties" in str(value) else "`[]`"
    default = value["default"]
    if isinstance(default, dict):  # of a section, whose own table has them
        return "see there"
    if isinstance(default, float) and 0 < abs(default) < 1e-2:
        return _code(f"{default:.1e}".replace("e-0", "e-"))
    return _code(default if isinstance(default, str) and default.strip() == default else json.dumps(default))


# The commands ----------------------------------------------------------------------------------------------------


def command_reference() -> str:
    """Every command: what it does, an example, its arguments and options."""
    context = click.Context(cli, info_name="mlxtune")
    commands = list(_commands(cli, context))
    lines = ["| command | what it does |", "|---|---|"]
    for command, inner in commands:
        first = _paragraphs(command)[0]
        lines.append(f"| [`{inner.command_path}`]({anchor(inner.command_path)}) | {_text(first)} |")
    for command, inner in commands:
        example = EXAMPLE.search(inspect.cleandoc(command.help or ""))
        usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
        lines += ["", f"## {inner.command_path}", "", "    " + usage, ""]
        lines += ["\n\n".join(_paragraph(paragraph) for paragraph in _paragraphs(command)), ""]
        if example:
            lines += ["Example:", "", "    " + " ".join(example["command"].split()), ""]
        records = [parameter.get_help_record(inner) for parameter in command.get_params(inner)]
        # An argument's name stands in the usage, and --help is everywhere.
        options = [record for record in records if record and record[1] and "--help" not in record[0]]
        if options:
            lines += [*HEADER_OF_OPTIONS, *(_option(name, help_) for name, help_ in options)]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """The commands of a group in their order, each before its own subcommands."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield command, inner
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _paragraphs(command: click.Command) -> list[str]:
    """A command's help without its example."""
    return EXAMPLE.sub("", inspect.cleandoc(command.help or "")).strip().split("\n\n")


def _option(name: str, help_: str) -> str:
    """An option's row. What click adds to its help stands in parentheses, as brackets would need backslashes."""
    text, bracket, added = help_.partition("  [")
    limits = added.removesuffix("]").replace("x>=", "at least ").replace("x>", "more than ")
    return f"| {_code(name.removesuffix(' RANGE'))} | {_text(text)}{f' ({_text(limits)})' if bracket else ''} |"


# Markdown --------------------------------------------------------------------------------------------------------


def anchor(name: str) -> str:
    """The link to a heading, as GitHub makes it."""
    return "#" + re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-")


def _code(value: object) -> str:
    return f"`{value}`".replace("|", "\\|")


def _paragraph(text: str) -> str:
    """A paragraph of a command's help; one that click is told to leave as it stands is a block."""
    if text.startswith("\b\n"):
        return "\n".join(f"    {line}" for line in text.removeprefix("\b\n").splitlines())
    return _text(text)


def _text(text: str) -> str:
    """A docstring as one line of Markdown that also fits a cell of a table."""
    text = " ".join(text.split())
    for character in "\\|<*[]":
        text = text.replace(character, f"\\{character}")
    return text


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a page is stale")
    check, n_stale = parser.parse_args().check, 0
    for page, content in pages().items():
        if not check:
            page.write_text(content, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != content:
            print(f"docs/{page.name} is stale; run python tools/write_docs.py", file=sys.stderr)
            n_stale += 1
    return 1 if n_stale else 0


if __name__ == "__main__":
    sys.exit(main())
