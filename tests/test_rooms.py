"""The walls between rooms: who may import what, and that nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mlxtune"
BACKEND_LIBRARIES = {"mlx": "mlx", "mlx_lm": "mlx", "torch": "torch", "peft": "torch", "accelerate": "torch"}
# The one file outside backends/torch that imports transformers, and what it takes: no model class, which needs torch.
TOKENIZERS = {Path("models/tokenizer.py"): {"AutoTokenizer", "PreTrainedTokenizerFast"}}
# Room -> rooms it may not import.
FORBIDDEN = {
    "errors": {
        "recipe",
        "data",
        "models",
        "training",
        "evaluation",
        "export",
        "report",
        "commands",
        "cli",
        "backends",
        "runs",
    },
    "yaml_text": {"errors", "recipe_file", "recipe", "files", "data", "models", "backends", "runs", "commands", "cli"},
    "recipe_file": {
        "recipe",
        "files",
        "data",
        "models",
        "training",
        "evaluation",
        "export",
        "report",
        "commands",
        "cli",
        "backends",
        "runs",
    },
    "recipe": {
        "files",
        "data",
        "models",
        "training",
        "evaluation",
        "export",
        "report",
        "commands",
        "cli",
        "backends",
        "runs",
    },
    "doctor": {"data", "training", "evaluation", "export", "report", "commands", "cli"},
    "data": {"training", "evaluation", "export", "report", "commands", "cli"},
    "models": {"data", "training", "evaluation", "export", "report", "commands", "cli"},
    "training": {"evaluation", "export", "report", "commands", "cli"},
    "evaluation": {"training", "export", "report", "commands", "cli"},
    "export": {"training", "evaluation", "report", "commands", "cli"},
    "report": {"training", "export", "sweeping", "commands", "cli"},
    "sweeping": {"backends", "models", "training", "evaluation", "export", "report", "commands", "cli"},
    "backends": {"training", "evaluation", "export", "report", "commands", "cli"},
}


def imports() -> list[tuple[Path, str]]:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 30
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(file.relative_to(PACKAGE), alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found += [(file.relative_to(PACKAGE), f"{node.module}.{alias.name}") for alias in node.names]
    assert len(found) > 200
    return found


def test_only_its_own_folder_imports_a_backends_library() -> None:
    for file, module in imports():
        owner = BACKEND_LIBRARIES.get(module.split(".")[0])
        assert owner is None or file.parts[:2] == ("backends", owner), f"{file} imports {module}"


def test_only_the_torch_backend_imports_models_of_transformers() -> None:
    found: dict[Path, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.relative_to(PACKAGE).parts[:2] == ("backends", "torch"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers":
                found.setdefault(file.relative_to(PACKAGE), set()).update(alias.name for alias in node.names)
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "transformers" for alias in node.names), f"{file}"
    assert found == TOKENIZERS


def test_the_backends_never_import_each_other() -> None:
    seen = set()
    for file, module in imports():
        if file.parts[0] != "backends" or len(file.parts) == 2:
            continue
        seen.add(file.parts[1])
        other = {"mlx": "torch", "torch": "mlx"}[file.parts[1]]
        assert not f"{module}.".startswith(f"mlxtune.backends.{other}."), f"{file} imports {module}"
    assert seen == {"mlx", "torch"}


def test_only_the_command_line_imports_click() -> None:
    for file, module in imports():
        assert module.split(".")[0] != "click" or file.parts[0] in ("cli.py", "commands"), f"{file} imports click"


def test_imports_point_one_way() -> None:
    for file, module in imports():
        if not module.startswith("mlxtune."):
            continue
        room, other = file.parts[0].removesuffix(".py"), module.split(".")[1]
        assert other not in FORBIDDEN.get(room, set()), f"{file} imports {module}"


def test_a_backend_reaches_the_rest_as_an_argument_only() -> None:
    reached = set()
    for file, module in imports():
        if module.startswith(("mlxtune.backends.mlx", "mlxtune.backends.torch")):
            reached.add(module.split(".")[2])
            assert file.parts[0] == "backends", f"{file} imports {module}"
    assert reached == {"mlx", "torch"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mlxtune.cli import cli\n"
        "try: cli.main(['--help'], standalone_mode=False)\nexcept SystemExit: pass\n"
        "heavy = {'mlx', 'torch', 'transformers', 'sklearn', 'numpy', 'pydantic', 'rich', 'llguidance', 'gguf', 'huggingface_hub'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_every_room_says_what_it_is() -> None:
    rooms = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(rooms) >= 8
    for room in rooms:
        lines = (room / "README.md").read_text(encoding="utf-8").splitlines()
        assert 0 < len(lines) < 10
    for file in PACKAGE.rglob("*.py"):
        assert file.read_text(encoding="utf-8").startswith('"""'), f"{file} does not say what it holds"
