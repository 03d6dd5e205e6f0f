"""Writes recipes/recipe.schema.json, by which editors complete and check recipes, from the recipe's own classes.

python tools/write_schema.py           # write it
python tools/write_schema.py --check   # fail if it is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mlxtune.recipe.sections import Recipe

FILE = Path(__file__).parent.parent / "recipes" / "recipe.schema.json"
EXTENDS = {
    "description": "Another recipe, relative to this one, that this one differs from only in what it says.",
    "minLength": 1,
    "title": "Extends",
    "type": "string",
}


def schema() -> str:
    """The JSON Schema of a recipe, as text.

    What is required is asked for only of a recipe that extends no other: one that does may inherit it. All else, such as
    unknown keys and wrong types, is wrong in both.
    """
    content = Recipe.model_json_schema()
    # `name` may be left out of a file: it is then the file's own name.
    content["required"] = [key for key in content["required"] if key != "name"]
    definitions = content["$defs"]
    whole = _needs(content, definitions)
    content = _without_needs(content)
    content["properties"] = {"extends": EXTENDS, **content["properties"]}
    content |= {"if": {"required": ["extends"]}, "else": whole}
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _needs(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema that asks only for the keys that another requires, at every depth."""
    node = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    found: dict[str, Any] = {key: node[key] for key in ("required",) if key in node}
    inner = {name: _needs(one, definitions) for name, one in node.get("properties", {}).items()}
    if inner := {name: one for name, one in inner.items() if one}:
        found["properties"] = inner
    if isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = _needs(node["additionalProperties"], definitions) or {"not": {"type": "null"}}
    if isinstance(node.get("items"), dict) and (one := _needs(node["items"], definitions)):
        found["items"] = one
    members = node.get("oneOf") or node.get("anyOf") or []
    if any(_needs(one, definitions) for one in members):
        found["anyOf"] = [_member(one, definitions) for one in members]
    return found


def _member(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """What a member of a union needs, with what tells it from the others: its type, and its `kind`."""
    node = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    needs = {key: node[key] for key in ("type", "const", "enum") if key in node} | _needs(node, definitions)
    constant = {name: {"const": one["const"]} for name, one in node.get("properties", {}).items() if "const" in one}
    return {**needs, "properties": {**needs.get("properties", {}), **constant}} if constant else needs


def _without_needs(node: Any) -> Any:
    """The schema with nothing required.

    Unions that needed it to tell their members apart allow several, and null takes away an inherited entry of a mapping.
    """
    if isinstance(node, list):
        return [_without_needs(one) for one in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "discriminator" or (key == "required" and isinstance(value, list)):
            continue
        one = _without_needs(value)
        if key == "additionalProperties" and isinstance(value, dict):
            one = {"anyOf": [*one.get("anyOf", [one]), {"type": "null"}]}
        found["anyOf" if key == "oneOf" else key] = one
    return found


def main() -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the file is stale")
    check = parser.parse_args().check
    if not check:
        FILE.write_text(schema(), encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != schema():
        print(f"{FILE.name} is stale; run python tools/write_schema.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
