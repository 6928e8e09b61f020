"""Starts the programs of this package with the libtorch of the Python that it is installed in.

They are linked against libtorch 2.13 and look for it in the folder `torch` beside this package. Where torch lies elsewhere,
or `LIBTORCH` names another one, `LD_LIBRARY_PATH` says so. What is missing or of another version is said in words.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

PROGRAMS = ("nas-segment", "nas-classify", "nas-detect")

#: The libtorch that the programs are linked against. Patches of one minor version have one interface.
TORCH = "2.13"

_PACKAGE = Path(__file__).resolve().parent


class LaunchError(Exception):
    """Why a program cannot be started."""


def program_file(program: str) -> Path:
    """The program: in the folder that the variable `NAS_BIN` names, in this package, or on the `PATH`."""
    named = os.environ.get("NAS_BIN")
    folders = [Path(named)] if named else [_PACKAGE / "bin"]
    for folder in folders:
        if (folder / program).is_file():
            return folder / program
    elsewhere = None if named else shutil.which(program)
    # The script that pip made of this launcher is no program.
    if elsewhere and Path(elsewhere).resolve().read_bytes()[:4] == b"\x7fELF":
        return Path(elsewhere)
    raise LaunchError(f"there is no {program} in {folders[0]}; build it by `cargo xtask dist`, or let NAS_BIN name its folder")


def find_torch() -> Path:
    """The folder of torch 2.13: that of the variable `LIBTORCH`, or of the torch that this Python would import."""
    named = os.environ.get("LIBTORCH")
    if named:
        torch = Path(named)
        source = "LIBTORCH"
    else:
        spec = importlib.util.find_spec("torch")
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise LaunchError(
                f"libtorch {TORCH} is needed, and {sys.executable} has no torch: pip install 'torch=={TORCH}.*', or let "
                f"LIBTORCH name the folder of a libtorch {TORCH}"
            )
        torch = Path(places[0])
        source = f"the torch of {sys.executable}"
    version = torch_version(torch)
    if version is None:
        raise LaunchError(f"{torch} ({source}): no libtorch; expected a folder with version.py or build-version")
    if version.split(".")[:2] != TORCH.split("."):
        raise LaunchError(
            f"{torch} ({source}): torch {version} found, {TORCH} expected: pip install 'torch=={TORCH}.*', or let "
            f"LIBTORCH name the folder of a libtorch {TORCH}"
        )
    if not (torch / "lib/libtorch_cpu.so").is_file():
        raise LaunchError(f"{torch / 'lib/libtorch_cpu.so'} ({source}): missing; install torch again")
    return torch


def torch_version(torch: Path) -> str | None:
    """The version of the libtorch in a folder without its build tag: `2.13.0` of `2.13.0+cu130`; none if it is none."""
    # A Python package, and libtorch's own archive.
    for name, pattern in (("version.py", r"__version__\s*=\s*['\"]([^'\"+]+)"), ("build-version", r"([^\s+]+)")):
        try:
            found = re.search(pattern, (torch / name).read_text())
        except OSError:
            continue
        if found:
            return found.group(1)
    return None


def environment(torch: Path, program: Path) -> dict[str, str]:
    """The variables that a program starts with, so that it loads this libtorch.

    Nothing is added where the program finds it by itself: a program that it starts in turn may need another torch.
    """
    env = dict(os.environ)
    before = env.get("LD_LIBRARY_PATH")
    beside = program.resolve().parent.parent.parent / "torch"
    if before or beside.resolve() != torch.resolve():
        env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(torch / "lib"), before]))
    return env


def call(program: str, *arguments: str | os.PathLike[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Runs `program` with `arguments` by `subprocess.run`, which gets `options`; a failure is an error unless `check=False`."""
    file = program_file(program)
    options = {"check": True, "env": environment(find_torch(), file), **options}
    return subprocess.run([program, *map(os.fspath, arguments)], executable=file, **options)


def launch(program: str) -> NoReturn:
    """Becomes `program`, with the arguments of this process."""
    try:
        file = program_file(program)
        env = environment(find_torch(), file)
    except LaunchError as error:
        sys.exit(f"error: {error}")
    try:
        os.execve(file, [program, *sys.argv[1:]], env)
    except OSError as error:
        sys.exit(f"error: {file}: cannot start it: {error.strerror}")


def segment() -> NoReturn:
    """`nas-segment`."""
    launch("nas-segment")


def classify() -> NoReturn:
    """`nas-classify`."""
    launch("nas-classify")


def detect() -> NoReturn:
    """`nas-detect`."""
    launch("nas-detect")
