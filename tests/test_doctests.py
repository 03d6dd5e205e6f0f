"""The examples in docstrings: each gives what it says it gives."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mlxtune"
LEAST = 30  # modules with examples; fewer would mean that they are no longer found


def modules_with_examples() -> list[str]:
    """Found by their text, so that collecting tests imports none."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in file.read_text(encoding="utf-8"):
            found.append(".".join(("mlxtune", *file.relative_to(PACKAGE).with_suffix("").parts)))
    return found


def test_modules_with_examples_are_found() -> None:
    assert len(modules_with_examples()) >= LEAST


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    tests = [test for test in doctest.DocTestFinder().find(module, name) if test.examples]
    assert tests, f"{name}: has an example that stands in no docstring"
    said: list[str] = []
    for test in tests:
        doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)
