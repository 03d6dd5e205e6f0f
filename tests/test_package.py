"""What the installed package holds beside its modules."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_data_files_that_the_package_names_are_there() -> None:
    config = ConfigParser(inline_comment_prefixes=("#",))
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    named = config["options.package_data"]["mlxtune"].split()
    assert set(named) == {"py.typed", "tested.txt", "export/llama_cpp.mjs"}
    assert all((ROOT / "mlxtune" / name).is_file() for name in named)
