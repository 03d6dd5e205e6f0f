"""The walls between rooms: who may import what, and that nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from mlxtune.cli import COMMANDS

PACKAGE = Path(__file__).parent.parent / "mlxtune"
BACKEND_LIBRARIES = {"mlx": "mlx", "mlx_lm": "mlx", "torch": "torch", "peft": "torch", "accelerate": "torch"}
# The files outside backends/torch that import transformers, and what they take: no model class, which needs torch.
OF_TRANSFORMERS = {
    Path("models/text_part.py"): {"AutoConfig"},
    Path("models/tokenizer.py"): {"AutoTokenizer", "PreTrainedTokenizerFast"},
    Path("backends/transformers_config.py"): {"AutoConfig"},
}
# Room -> the rooms it may import, besides itself; a room that is not named here may import none and fails. A room inside a
# room is one of its own: `evaluation` stands for the files that lie in evaluation/ itself. From the bottom up, so that
# each room names only rooms above it in this list.
LOW = {"errors", "files"}
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "files": set(),
    "progress": set(),
    "markdown": set(),
    "json_values": set(),
    "evaluation/metrics": {"errors", "json_values"},
    "tested": {"version"},
    "chat": LOW,
    "recipe": {"errors", "evaluation/metrics"},  # which metrics there are; nothing is computed
    "backends/shapes": set(),
    "models/text_part": {"errors"},
    "backends/experts": set(),
    "backends/architecture": {"errors", "models/text_part", "backends/experts"},
    "backends/base": {"backends/shapes", "backends/architecture"},
    "backends/tensor_parallel": {"errors", "backends/architecture", "backends/experts"},
    "backends/launch": {"errors"},
    "backends/group": {"errors", "backends/base"},
    "backends/shared_model": {"backends/base", "backends/group"},
    "runs": {*LOW, "recipe", "backends/base", "backends/group"},
    "backends/adapter": {*LOW, "models/text_part", "backends/base", "backends/experts"},
    "backends/state": LOW,
    "models": {*LOW, "recipe", "models/text_part", "backends/base"},
    "backends": {
        "errors", "models", "models/text_part", "backends/experts", "backends/architecture", "backends/base", "backends/adapter", "backends/state",
        "backends/shapes", "backends/launch", "backends/group", "backends/tensor_parallel",
    },
    "data": {*LOW, "recipe", "chat", "models", "backends/base", "backends/shapes"},
    "training": {
        *LOW, "version", "recipe", "runs", "models", "backends/experts", "backends/architecture", "backends/base", "backends/group",
        "backends/shared_model", "backends/adapter", "backends/state", "backends/shapes", "backends/tensor_parallel",
        "data", "evaluation/metrics",
    },
    "evaluation/fields": {"json_values", "recipe", "data", "evaluation/metrics"},
    "evaluation/predict": {
        "errors", "json_values", "progress", "recipe", "models", "backends/base", "backends/shared_model", "data",
        "evaluation/metrics", "evaluation/fields",
    },
    "evaluation/judge": {
        *LOW, "json_values", "progress", "recipe", "runs", "chat", "evaluation/metrics", "evaluation/predict"
    },
    "evaluation": {
        *LOW, "json_values", "version", "progress", "recipe", "runs", "chat", "models", "backends/base", "backends/group",
        "backends/shared_model", "backends/adapter", "data", "evaluation/metrics",
        "evaluation/fields", "evaluation/predict", "evaluation/judge",
    },
    "evaluation/compare": {
        "errors", "recipe", "runs", "backends/adapter", "evaluation/metrics", "evaluation/fields", "evaluation/predict",
        "evaluation/judge", "evaluation",
    },
    "evaluation/review": {
        *LOW, "json_values", "version", "recipe", "runs", "data", "evaluation/metrics", "evaluation/predict", "evaluation"
    },
    "export/verification": {"errors", "json_values", "runs", "evaluation/metrics"},
    "report/values": {"evaluation/metrics"},
    "report/fact_values": {"evaluation/compare", "report/values"},
    "report/words": set(),
    "report/charts": set(),
    "report/blocks": {"report/charts"},
    "report/figures": {*LOW, "report/charts", "report/blocks"},
    "report/page": {"errors", "report/words", "report/charts", "report/blocks", "report/figures"},
    "report/markdown_page": {"markdown", "report/values", "report/words", "report/charts", "report/blocks"},
    "report/contents": {
        *LOW, "json_values", "recipe", "runs", "models", "backends/adapter", "data", "export/verification", "evaluation",
        "evaluation/metrics", "evaluation/fields", "evaluation/predict", "evaluation/judge", "evaluation/compare", "evaluation/review",
    },
    "report/sections": {
        "recipe", "runs", "data", "export/verification", "evaluation", "evaluation/metrics", "evaluation/fields",
        "evaluation/predict", "evaluation/judge", "evaluation/compare", "evaluation/review", "report/words",
        "report/charts", "report/blocks", "report/contents", "report/values", "report/fact_values",
    },
    "export": {
        *LOW, "version", "progress", "markdown", "json_values", "export/verification", "recipe", "runs", "models", "models/text_part", "backends/experts",
        "backends/architecture", "backends/base", "backends/group", "backends/shared_model", "backends/adapter", "data",
        "evaluation", "evaluation/metrics", "evaluation/fields", "evaluation/predict",
        "report/words", "report/blocks", "report/markdown_page", "report/sections",
    },
    "report/terminal": {
        "report/values", "report/fact_values", "markdown", "runs", "data", "export", "export/verification", "evaluation", "evaluation/metrics",
        "evaluation/fields", "evaluation/predict",
        "evaluation/judge", "evaluation/compare", "evaluation/review",
    },
    "report": {
        *LOW, "version", "runs", "evaluation", "report/words", "report/charts", "report/blocks", "report/figures", "report/page",
        "report/markdown_page", "report/contents", "report/sections",
    },
    "sweep": {*LOW, "recipe", "runs", "data", "evaluation/metrics"},
    "doctor": {"errors", "version", "tested", "models", "backends/base", "backends"},
    "commands": {
        *LOW, "recipe", "runs", "chat", "models", "backends/base", "backends/launch", "backends/group", "backends", "data", "training", "evaluation",
        "evaluation/metrics", "evaluation/predict", "evaluation/compare", "evaluation/judge", "evaluation/review",
        "export", "export/verification", "report", "report/values", "report/terminal", "report/words", "sweep", "doctor",
    },
    "cli": {"errors", "version", "tested", "backends/launch"},
    "__main__": {"cli"},
    "mlxtune": {"version", "backends", "evaluation", "evaluation/predict"},
}  # fmt: skip
# Modules that import each other still; none may be added.
CIRCLES: set[frozenset[str]] = set()


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
    assert found == OF_TRANSFORMERS


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


def module_of(file: Path) -> str:
    """Dotted name of a file of the package."""
    parts = ("mlxtune", *file.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows() -> set[tuple[str, str]]:
    """Which module imports which, at its head, in a function or for types alone."""
    known = {module_of(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py")}
    found = set()
    for file, name in imports():
        if name.split(".")[0] == "mlxtune":
            imported = name if name in known else name.rpartition(".")[0]
            assert imported in known, f"{file} imports {name}"
            found.add((module_of(file), imported))
    assert len(found) > 200
    return found


def room_of(module: str) -> str:
    """The innermost room that a module lies in."""
    parts = module.split(".")[1:]
    inner = "/".join(parts[:2])
    is_room = inner in MAY_IMPORT or (parts[:1] == ["evaluation"] and (PACKAGE / inner).is_dir())
    return inner if len(parts) > 1 and is_room else "".join(parts[:1]) or "mlxtune"


def test_a_room_imports_only_what_it_may() -> None:
    wrong = []
    for module, imported in sorted(arrows()):
        room, other = room_of(module), room_of(imported)
        if room != other and other not in MAY_IMPORT.get(room, set()):
            wrong.append(f"{module} imports {imported}: {room} may not import {other}")
    assert not wrong, "\n".join(wrong)


def test_every_room_is_named() -> None:
    rooms = {room_of(module_of(file.relative_to(PACKAGE))) for file in PACKAGE.rglob("*.py")}
    assert rooms == set(MAY_IMPORT)


def test_rooms_are_listed_from_the_bottom_up() -> None:
    for place, (room, others) in enumerate(MAY_IMPORT.items()):
        above = set(list(MAY_IMPORT)[:place])
        assert others <= above, f"{room} may import {sorted(others - above)}, which stand below it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert {frozenset(circle) for circle in circles(arrows())} == CIRCLES


def test_a_circle_is_found_wherever_it_begins() -> None:
    found = circles({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("e", "e")})
    assert sorted(map(sorted, found)) == [["b", "c"], ["e"]]


def circles(arrows: Iterable[tuple[str, str]]) -> list[set[str]]:
    """Groups of names that reach each other, as Tarjan finds them; one name alone where it points at itself."""
    after: dict[str, set[str]] = {}
    for name, other in arrows:
        after.setdefault(name, set()).add(other)
    number: dict[str, int] = {}  # in the order of visits
    lowest: dict[str, int] = {}  # the first visited that a name reaches
    waiting: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        waiting.append(name)
        for other in after.get(name, ()):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in waiting:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            place = waiting.index(name)
            group = set(waiting[place:])
            del waiting[place:]
            if len(group) > 1 or name in after.get(name, ()):
                found.append(group)

    for name in sorted(after):
        if name not in number:
            visit(name)
    return found


def test_a_backend_reaches_the_rest_as_an_argument_only() -> None:
    reached = set()
    for file, module in imports():
        if module.startswith(("mlxtune.backends.mlx", "mlxtune.backends.torch")):
            reached.add(module.split(".")[2])
            assert file.parts[0] == "backends", f"{file} imports {module}"
    assert reached == {"mlx", "torch"}


def imported_by(code: str) -> set[str]:
    """The modules of ours, and the names of other distributions, that a program imports, the standard library's left out."""
    asked = f"import sys\nbefore = set(sys.modules)\n{code}\nprint('IMPORTED', *(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    names = next(line for line in done.stdout.splitlines() if line.startswith("IMPORTED")).split()[1:]
    assert len(names) > 50
    return {name if name.startswith("mlxtune.") else name.split(".")[0] for name in names} - sys.stdlib_module_names


def help_of(*words: str) -> str:
    return f"from mlxtune.cli import cli\ntry: cli.main({[*words, '--help']}, standalone_mode=False)\nexcept SystemExit: pass"


def test_help_imports_the_standard_library_click_and_four_files() -> None:
    assert imported_by(help_of()) == {"click", "mlxtune", "mlxtune.cli", "mlxtune.errors", "mlxtune.version"}


def test_the_help_of_a_command_imports_no_other_library() -> None:
    code = "\n".join(help_of(command) for command in COMMANDS)
    found = {name for name in imported_by(code) if not name.startswith("mlxtune")}
    assert found == {"click"}


def test_a_tokenizer_loads_without_torch(base: Path) -> None:
    code = f"from pathlib import Path\nfrom mlxtune.models.tokenizer import load_tokenizer\nload_tokenizer(Path({str(base)!r}))"
    found = imported_by(code)
    assert "transformers" in found and "torch" not in found


def test_every_room_says_what_it_is() -> None:
    rooms = [PACKAGE / room for room in MAY_IMPORT if room != "mlxtune" and (PACKAGE / room).is_dir()]
    assert len(rooms) >= 16
    for room in rooms:
        lines = (room / "README.md").read_text(encoding="utf-8").splitlines()
        assert 0 < len(lines) < 10
    for file in PACKAGE.rglob("*.py"):
        assert file.read_text(encoding="utf-8").startswith('"""'), f"{file} does not say what it holds"
