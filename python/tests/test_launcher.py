"""The launcher on folders that look like torch, and a program that says what it was started with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas_libtorch import LaunchError, call, launcher

PROGRAM = """#!/bin/sh
printf '%s|%s' "$*" "$LD_LIBRARY_PATH"
exit 3
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIBTORCH", "LD_LIBRARY_PATH", "NAS_BIN"):
        monkeypatch.delenv(name, raising=False)


def write_torch(folder: Path, version: str, whole: bool = True) -> Path:
    (folder / "lib").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "version.py").write_text(f"__all__ = ['__version__']\n__version__ = '{version}'\n")
    if whole:
        (folder / "lib/libtorch_cpu.so").write_text("")
    return folder


def write_program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    file = folder / "nas-segment"
    file.write_text(PROGRAM)
    file.chmod(0o755)
    return folder


def test_the_named_libtorch_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = write_torch(tmp_path / "torch", "2.13.1+cpu")
    monkeypatch.setenv("LIBTORCH", str(torch))
    assert launcher.find_torch() == torch
    archive = tmp_path / "libtorch"
    (archive / "lib").mkdir(parents=True)
    (archive / "lib/libtorch_cpu.so").write_text("")
    (archive / "build-version").write_text("2.13.0+cpu\n")
    monkeypatch.setenv("LIBTORCH", str(archive))
    assert launcher.find_torch() == archive


def test_the_torch_of_this_python_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = write_torch(tmp_path / "torch", "2.13.0")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert launcher.find_torch() == torch
    assert "torch" not in sys.modules, "found, not imported"


def test_what_is_wrong_with_a_torch_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        (write_torch(tmp_path / "old", "2.9.1+cu130"), "torch 2.9.1 found, 2.13 expected: pip install"),
        (write_torch(tmp_path / "new", "2.130.0"), "torch 2.130.0 found"),
        (write_torch(tmp_path / "cut", "2.13.0", whole=False), "libtorch_cpu.so .*missing"),
        (tmp_path, "no libtorch; expected a folder with version.py"),
    ]
    for torch, expected in cases:
        monkeypatch.setenv("LIBTORCH", str(torch))
        with pytest.raises(LaunchError, match=expected):
            launcher.find_torch()
    monkeypatch.delenv("LIBTORCH")
    monkeypatch.setattr(launcher.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"libtorch 2.13 is needed, and .* has no torch: pip install 'torch==2.13.\*'"):
        launcher.find_torch()


def test_a_libtorch_beside_the_package_needs_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write_program(tmp_path / "nas_libtorch/bin") / "nas-segment"
    beside = write_torch(tmp_path / "torch", "2.13.0")
    assert "LD_LIBRARY_PATH" not in launcher.environment(beside, program)
    other = write_torch(tmp_path / "other/torch", "2.13.0")
    assert launcher.environment(other, program)["LD_LIBRARY_PATH"] == f"{other}/lib"
    # What is set already would come first.
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/lib")
    assert launcher.environment(beside, program)["LD_LIBRARY_PATH"] == f"{beside}/lib:/usr/local/lib"


def test_a_program_gets_its_arguments_and_its_exit_code_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = write_torch(tmp_path / "torch", "2.13.0")
    monkeypatch.setenv("LIBTORCH", str(torch))
    monkeypatch.setenv("NAS_BIN", str(write_program(tmp_path / "bin")))
    done = call("nas-segment", "train", Path("a b"), check=False, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (3, f"train a b|{torch}/lib")
    with pytest.raises(subprocess.CalledProcessError):
        call("nas-segment", stdout=subprocess.DEVNULL)
    with pytest.raises(LaunchError, match=f"there is no nas-detect in {tmp_path}/bin"):
        call("nas-detect")
    # As a command: it becomes the program.
    line = [sys.executable, "-c", "import nas_libtorch.launcher as l; l.segment()", "train", "a b"]
    done = subprocess.run(line, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, f"train a b|{torch}/lib")


def test_a_command_without_torch_ends_in_words(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LIBTORCH": str(tmp_path)}
    env["NAS_BIN"] = str(write_program(tmp_path / "bin"))
    line = [sys.executable, "-c", "import nas_libtorch.launcher as l; l.segment()"]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path} (LIBTORCH): no libtorch") and "Traceback" not in done.stderr


def test_reader_and_launcher_need_nothing_but_python() -> None:
    line = "import sys, json, nas_libtorch; print(json.dumps([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules]))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", line], env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
