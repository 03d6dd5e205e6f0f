"""Which backend is taken, on which device, and what is said about it: machines with and without GPUs are made up here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from mlxtune import backends
from mlxtune.backends import LIBRARIES, NAMES, check_device, choose
from mlxtune.backends.base import Device
from mlxtune.errors import BackendError, Misuse
from tests.conftest import ROOT

ALL = {module for libraries in LIBRARIES.values() for module in libraries}
Machine = Callable[..., None]


@dataclass
class FakeBackend:
    """Remembers the device asked for; refuses a GPU where there is none, as the real ones do."""

    name: str
    asked: str
    gpu: str | None

    def __post_init__(self) -> None:
        if (self.asked.startswith("cuda") and self.gpu != "CUDA") or (self.asked == "gpu" and not self.gpu):
            raise BackendError(f"--device {self.asked}: {self.name} sees none; use --device cpu")

    def device(self) -> Device:
        on_gpu = self.gpu and self.asked != "cpu"
        return Device("gpu", f"the GPU ({self.gpu})", 1) if on_gpu else Device("cpu", "the CPU, 2 threads", 1)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes a machine up: its system, the GPU of each backend, and the libraries that are not installed or do not load."""

    def make(
        system: str = "linux", mlx: str | None = None, torch: str | None = None, without: str = "", broken: str = ""
    ) -> None:
        real = importlib.util.find_spec
        absent = set(without.split())
        assert absent <= ALL

        def find_spec(name: str, package: str | None = None) -> Any:
            return (None if name in absent else object()) if name in ALL else real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(backends, "_has_distribution", lambda name: mlx == "CUDA" and name == "mlx-cuda-13")
        for name, class_name, gpu in (("mlx", "MlxBackend", mlx), ("torch", "TorchBackend", torch)):
            module = ModuleType(f"mlxtune.backends.{name}.backend")

            def make_backend(device: str, name: str = name, gpu: str | None = gpu) -> FakeBackend:
                if name in broken.split():
                    raise ImportError("lib.so: cannot open shared object file\nmore")
                return FakeBackend(name, device, gpu)

            setattr(module, class_name, make_backend)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        runtime = ModuleType("mlxtune.backends.mlx.runtime")
        runtime.gpu_kind = lambda: mlx  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mlxtune.backends.mlx.runtime", runtime)

    return make


ON_CPU = "on the CPU, 2 threads"
RULES: list[tuple[str, dict[str, Any], str, str]] = [
    # what there is, the device asked for, the choice with its reason
    ("a Mac", {"system": "darwin", "mlx": "Metal"}, "auto", "mlx on the GPU (Metal) (MLX has a GPU here)"),
    ("a Mac's GPU", {"system": "darwin", "mlx": "Metal"}, "gpu", "mlx on the GPU (Metal) (gpu requested; MLX has a GPU here)"),
    ("a Mac's CPU", {"system": "darwin", "mlx": "Metal"}, "cpu", f"mlx {ON_CPU} (cpu requested; MLX is preferred to torch on a Mac)"),
    ("a Mac without GPU", {"system": "darwin"}, "auto", f"torch {ON_CPU} (MLX has no GPU here)"),
    ("a Mac without torch", {"system": "darwin", "mlx": "Metal", "without": "torch peft"}, "auto", "mlx on the GPU (Metal) (MLX has a GPU here)"),
    ("Linux", {}, "auto", f"torch {ON_CPU} (MLX has no GPU here)"),
    ("Linux, its CPU", {}, "cpu", f"torch {ON_CPU} (cpu requested; torch is preferred to MLX where there is no GPU)"),
    ("Linux without MLX", {"without": "mlx mlx_lm"}, "auto", f"torch {ON_CPU} (mlx is not installed)"),
    ("Linux without mlx-lm", {"mlx": "CUDA", "without": "mlx_lm"}, "auto", f"torch {ON_CPU} (mlx is installed, but mlxtune also needs mlx-lm)"),
    ("Linux without torch", {"without": "torch peft"}, "auto", f"mlx {ON_CPU} (torch is not installed)"),
    ("Linux without torch, its CPU", {"without": "torch"}, "cpu", f"mlx {ON_CPU} (cpu requested; torch is not installed)"),
    ("Linux without peft", {"without": "peft"}, "auto", f"mlx {ON_CPU} (torch is installed, but mlxtune also needs peft)"),
    ("torch that does not load", {"broken": "torch"}, "auto", f"mlx {ON_CPU} (torch is installed but cannot be loaded: lib.so: cannot open shared object file)"),
    ("CUDA in torch", {"torch": "CUDA"}, "auto", "torch on the GPU (CUDA) (MLX has no GPU here)"),
    ("CUDA in torch, asked for", {"torch": "CUDA"}, "cuda:0", "torch on the GPU (CUDA) (cuda:0 requested; MLX has no GPU here)"),
    ("CUDA in torch, its CPU", {"torch": "CUDA"}, "cpu", f"torch {ON_CPU} (cpu requested; torch is preferred to MLX where there is no GPU)"),
    ("CUDA in both", {"mlx": "CUDA", "torch": "CUDA"}, "auto", "mlx on the GPU (CUDA) (MLX has a GPU here)"),
    ("CUDA in both, asked for", {"mlx": "CUDA", "torch": "CUDA"}, "cuda", "mlx on the GPU (CUDA) (cuda requested; MLX has a GPU here)"),
    ("Metal beside CUDA", {"system": "darwin", "mlx": "Metal", "torch": "CUDA"}, "cuda", "torch on the GPU (CUDA) (cuda requested; MLX uses Metal here)"),
]  # fmt: skip


@pytest.mark.parametrize(("there", "device", "reason"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_auto_takes_mlx_with_a_gpu_then_torch_then_mlx(
    there: dict[str, Any], device: str, reason: str, machine: Machine
) -> None:
    machine(**there)
    choice = choose("auto", device)
    assert choice.reason == reason
    assert choice.backend.name == reason.split()[0]
    assert choice.backend.asked == device  # type: ignore[attr-defined]  # what was asked for reaches the backend


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_what_is_asked_for_is_taken(name: str, device: str, machine: Machine) -> None:
    machine(mlx="CUDA", torch="CUDA")
    choice = choose(name, device)
    assert choice.backend.name == name and choice.reason.endswith("(requested)")
    assert choice.backend.device().kind == ("cpu" if device == "cpu" else "gpu")


FAILURES: list[tuple[str, dict[str, Any], tuple[str, str], list[str]]] = [
    ("torch without peft", {"without": "peft"}, ("torch", "auto"), ["also needs peft", "pip install 'mlxtune[torch]'"]),
    ("torch that is absent", {"without": "torch peft accelerate"}, ("torch", "auto"), ["torch is not installed", "pip install 'mlxtune[torch]'"]),
    ("MLX that is absent", {"without": "mlx"}, ("mlx", "auto"), ["mlx is not installed", "pip install mlx"]),
    ("neither", {"without": "mlx torch"}, ("auto", "auto"), ["mlx is not installed", "torch is not installed", "pip install"]),
    ("torch that does not load", {"broken": "torch"}, ("torch", "auto"), ["torch is installed but cannot be loaded: lib.so"]),
    ("MLX that does not load", {"broken": "mlx"}, ("mlx", "auto"), ["mlx is installed but cannot be loaded", "'mlx[cpu]'"]),
    ("no GPU", {}, ("auto", "gpu"), ["--device gpu: torch sees none", "--device cpu"]),
    ("no CUDA", {}, ("auto", "cuda"), ["--device cuda: torch sees none"]),
    ("no CUDA on a Mac", {"system": "darwin", "mlx": "Metal"}, ("auto", "cuda:0"), ["--device cuda:0: torch sees none"]),
    ("no CUDA and no torch", {"without": "torch"}, ("auto", "cuda"), ["--device cuda: mlx sees none", "torch is not installed"]),
    ("no CUDA in MLX", {"torch": "CUDA"}, ("mlx", "cuda"), ["--device cuda: mlx sees none"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("there", "asked", "said"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_what_cannot_be_had_is_named_with_the_next_step(
    there: dict[str, Any], asked: tuple[str, str], said: list[str], machine: Machine
) -> None:
    machine(**there)
    with pytest.raises(BackendError) as caught:
        choose(*asked)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize("word", ["tpu", "", "CUDA", "cuda:", "cuda:x", "cuda:-1", "gpu:0", "cpu ", "mps"])
def test_a_word_that_names_no_device_is_misuse_and_the_words_are_listed(word: str) -> None:
    with pytest.raises(Misuse, match=r"expected auto, cpu, gpu, cuda or cuda:N"):
        check_device(word)
    with pytest.raises(Misuse):
        choose("auto", word)


def test_an_unknown_backend_is_misuse_and_the_names_are_listed() -> None:
    with pytest.raises(Misuse, match=", ".join(NAMES)):
        choose("tensorflow")


def test_python_callers_do_not_depend_on_the_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setenv("MLXTUNE_BACKEND", "mlx")
    monkeypatch.setenv("MLXTUNE_DEVICE", "cuda")
    assert choose().backend.name == "torch"


# MLX's own devices ---------------------------------------------------------------------------------------------------


class FakeMlx:
    """As much of mlx.core as choosing a device takes."""

    __version__ = "0.0"
    cpu, gpu = "cpu", "gpu"

    def __init__(self, kind: str | None, count: int = 1) -> None:
        self.metal = type("Metal", (), {"is_available": staticmethod(lambda: kind == "Metal")})
        self.default: Any = None
        self.is_available = lambda device: kind is not None
        self.device_count = lambda device: count
        self.Device = lambda device, index: (device, index)

    def set_default_device(self, device: Any) -> None:
        self.default = device


@pytest.mark.parametrize(
    ("kind", "word", "wanted"),
    [
        ("Metal", "auto", None),
        ("Metal", "cpu", "cpu"),
        ("Metal", "gpu", ("gpu", 0)),
        ("CUDA", "gpu", ("gpu", 0)),
        ("CUDA", "cuda", ("gpu", 0)),
        ("CUDA", "cuda:1", ("gpu", 1)),
        (None, "cpu", "cpu"),
    ],
)
def test_mlx_computes_where_it_is_asked_to(kind: str | None, word: str, wanted: Any, monkeypatch: Any) -> None:
    from mlxtune.backends.mlx import runtime

    mx = FakeMlx(kind, count=2)
    monkeypatch.setattr(runtime, "import_mlx", lambda: mx)
    runtime.use_device(word)
    assert mx.default == wanted


@pytest.mark.parametrize(
    ("kind", "word", "said"),
    [
        (None, "gpu", r"--device gpu: MLX 0\.0 finds no GPU on this machine.*'mlx\[cuda\]'.*--device cpu"),
        (None, "cuda", r"--device cuda: MLX 0\.0 finds no GPU"),
        ("Metal", "cuda", r"uses Metal on this machine, not CUDA; use --device gpu"),
        ("CUDA", "cuda:2", r"--device cuda:2: MLX 0\.0 finds 2 GPUs"),
    ],
)
def test_mlx_refuses_a_device_that_is_not_there(kind: str | None, word: str, said: str, monkeypatch: Any) -> None:
    from mlxtune.backends.mlx import runtime

    monkeypatch.setattr(runtime, "import_mlx", lambda: FakeMlx(kind, count=2))
    with pytest.raises(BackendError, match=said):
        runtime.use_device(word)


# Laziness ------------------------------------------------------------------------------------------------------------


def imported_by(code: str) -> set[str]:
    """Which of the heavy libraries a fresh Python has imported after some code."""
    heavy = {"mlx", "mlx_lm", "torch", "peft", "transformers", "accelerate"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('HAVE', *sorted({heavy} & set(sys.modules)))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_backends_imports_neither() -> None:
    assert imported_by("import mlxtune.backends") == set()
    assert imported_by("import mlxtune.doctor, mlxtune.commands.lora, mlxtune.commands.doctor") == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Mac's MLX is always asked for its GPU")
@pytest.mark.parametrize("asked", ["'mlx'", "'mlx', 'cpu'"])
def test_choosing_mlx_imports_no_torch(asked: str) -> None:
    code = f"from mlxtune.backends import choose\nassert choose({asked}).backend.name == 'mlx'"
    assert imported_by(code) & {"mlx", "torch", "peft"} == {"mlx"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Mac's MLX is always asked for its GPU")
@pytest.mark.parametrize("asked", ["'torch'", "'auto', 'cpu'"])
def test_choosing_torch_imports_no_mlx(asked: str) -> None:
    for module in LIBRARIES["torch"]:
        pytest.importorskip(module)
    code = f"from mlxtune.backends import choose\nassert choose({asked}).backend.name == 'torch'"
    assert imported_by(code) & {"mlx", "mlx_lm", "torch"} == {"torch"}


def test_mlx_is_not_imported_to_learn_that_it_has_no_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()

    def asked() -> str:
        raise AssertionError("MLX was asked for its GPU")

    monkeypatch.setattr(sys.modules["mlxtune.backends.mlx.runtime"], "gpu_kind", asked)
    assert choose().backend.name == "torch"
    machine(mlx="CUDA")
    monkeypatch.setattr(sys.modules["mlxtune.backends.mlx.runtime"], "gpu_kind", asked)
    with pytest.raises(AssertionError, match="asked for its GPU"):
        choose()


# The command line ----------------------------------------------------------------------------------------------------

COMPUTING = ("doctor", "convert", "lora", "evaluate", "sweep", "predict", "fuse", "export", "import", "verify")


@pytest.mark.parametrize("name", COMPUTING)
def test_every_computing_command_names_both_options_and_their_variables(name: str) -> None:
    from mlxtune.cli import cli

    shown = " ".join(CliRunner().invoke(cli, [name, "--help"]).output.split())
    for words in ("--backend [auto|mlx|torch]", "MLXTUNE_BACKEND", "--device DEVICE", "MLXTUNE_DEVICE"):
        assert words in shown


def test_no_other_command_has_them() -> None:
    from mlxtune.cli import COMMANDS, cli

    others = set(COMMANDS) - set(COMPUTING)
    assert others == {"compare", "data", "report", "review", "runs"}
    for name in others:
        assert "--backend" not in CliRunner().invoke(cli, [name, "--help"]).output
