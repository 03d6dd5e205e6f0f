"""What the installed package holds beside its modules."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_file_of_the_package_that_is_no_module_is_named_as_its_data() -> None:
    config = ConfigParser(inline_comment_prefixes=("#",))
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    package = ROOT / "mlxtune"
    named = {pattern: set(package.glob(pattern)) for pattern in config["options.package_data"]["mlxtune"].split()}
    assert [pattern for pattern, files in named.items() if not files] == []
    for_people = {"README.md"}
    others = {
        file
        for file in package.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and file.name not in for_people
    }
    assert set().union(*named.values()) == others
    assert len(others) > 15
