"""Writes recipes/recipe.schema.json, by which editors complete and check recipes, from the recipe's own classes.

python tools/write_schema.py           # write it
python tools/write_schema.py --check   # fail if it is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mlxtune.recipe import Recipe

FILE = Path(__file__).parent.parent / "recipes" / "recipe.schema.json"


def schema() -> str:
    """The JSON Schema of a recipe, as text."""
    content = Recipe.model_json_schema()
    # `name` may be left out of a file: it is then the file's own name.
    content["required"] = [key for key in content["required"] if key != "name"]
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


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
