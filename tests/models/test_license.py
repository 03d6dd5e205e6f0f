"""The license of a base model: what its files say, and nothing where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxtune.models.license import License, license_of
from tests.tiny import tiny_gguf, tiny_model

APACHE = "                                 Apache License\n                           Version 2.0, January 2004\n"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"README.md": "---\nlicense: MIT\n---\n"}, License("mit")),
        (
            {"README.md": "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n---\n"},
            License("other", "qwen-research", "LICENSE"),
        ),
        ({"README.md": "---\nlicense: apache-2.0\n---\n", "LICENSE": "MIT License\n"}, License("apache-2.0")),
        ({"README.md": "# A model\n", "LICENSE": APACHE}, License("apache-2.0")),
        ({"LICENSE": "MIT License\n\nCopyright"}, License("mit")),
        ({"LICENSE": "Qwen RESEARCH LICENSE AGREEMENT"}, None),
        ({"README.md": "---\nlicense: [mit, apache-2.0]\n---\n"}, None),
        ({"README.md": "---\nlicense: 'a: b\\n- c'\n---\n"}, None),
        ({"README.md": "---\nlicense: [\n---\n"}, None),
        ({}, None),
    ],
)
def test_a_folders_license_is_what_its_files_say(files: dict[str, str], found: License | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert license_of(tmp_path) == found


def test_a_ggufs_license_is_in_its_metadata(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen3")
    said = tiny_gguf(tmp_path / "said.gguf", base, metadata={"general.license": "apache-2.0"})
    silent = tiny_gguf(tmp_path / "silent.gguf", base)
    assert (license_of(said), license_of(silent)) == (License("apache-2.0"), None)
