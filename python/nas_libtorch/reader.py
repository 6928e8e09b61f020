"""Reads the run folders of the three programs: plain files, no libtorch, no compiled code.

What is in a folder follows from its kind (`Run.kind`): a training has curves and weights, a search has trials and a best
architecture, a comparison has trainings of its own (`Run.trainings`).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Union

from .launcher import PROGRAMS, call

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import pandas
    import torch

    Table = Union[pandas.DataFrame, list[dict[str, Any]]]

#: The layout of run folders that this reader knows (`layout` in `meta.json`).
LAYOUT = 1

#: Trial logs of a search by trials beside its own: each in a folder of this name.
PARTS = ("search", "predictor", "verify", "baseline", "honesty")


class RunError(Exception):
    """A folder or file that is not what was expected; names it."""


def load_run(folder: str | Path) -> Run:
    """The run in `folder`. Files are read when they are asked for, once.

    Raises `RunError` where the folder holds no run, or one of another layout.
    """
    return Run(folder)


class Run:
    """A run folder, finished or not."""

    def __init__(self, folder: str | Path) -> None:
        #: The folder.
        self.path = Path(folder)
        for name in ("meta.json", "config.toml"):
            if not (self.path / name).is_file():
                raise RunError(f"{self.path}: no run folder ({name} is missing)")
        #: Command line, version, commit, device and start of the run.
        self.meta: dict[str, Any] = _object(self.path / "meta.json")
        layout = self.meta.get("layout")
        if layout != LAYOUT:
            raise RunError(f"{self.path}: a run folder of layout {layout}; this reader knows layout {LAYOUT}")

    def __repr__(self) -> str:
        return f"<{self.kind} run {str(self.path)!r}, {'done' if self.done else 'not done'}>"

    @property
    def done(self) -> bool:
        """Whether the run has ended: its result is written last."""
        return (self.path / "result.json").is_file()

    @property
    def program(self) -> str:
        """The program of the run, such as `nas-segment`."""
        return str(self.meta.get("job", "")).split(" ")[0]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved experiment, `config.toml`."""
        path = self.path / "config.toml"
        try:
            return tomllib.loads(_text(path))
        except tomllib.TOMLDecodeError as error:
            raise RunError(f"{path}: {error}") from error

    @property
    def kind(self) -> str:
        """`train`, `compare`, `search` (by trials) or `one_shot` (on shared weights)."""
        return str(self.config.get("kind", "train"))

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """`result.json`; none while the run goes on."""
        return _object(self.path / "result.json") if self.done else None

    @cached_property
    def classes(self) -> list[str] | None:
        """Names of the classes, in the order of the network's outputs; none of a run without a network."""
        path = self.path / "classes.json"
        return _json(path, _text(path)) if path.is_file() else None

    # What was searched.

    @property
    def best(self) -> dict[str, Any] | None:
        """What a finished search found: `architecture`, `notation` and `metrics`, and by trials the number `trial`.

        None where no trial keeps to the constraints. The metrics of a search on shared weights are those of the architecture
        alone (`params`, `macs`, ...), and by the supernet's weights where candidates were compared by them.
        """
        result = self.result or {}
        if self.kind == "one_shot" and result:
            metrics = {**result["cost"], **(result.get("candidate") or {})}
            return {"architecture": result["architecture"], "notation": result["notation"], "metrics": metrics}
        return result.get("best") if self.kind == "search" else None

    @property
    def architecture(self) -> str | None:
        """The architecture as configs and `--arch` take it: what a search found, or what a training was given.

        None of a network that its config spells out: see `config["model"]`.
        """
        if self.kind == "train":
            arch = self.config.get("model", {}).get("arch")
            return arch if isinstance(arch, str) else None
        return (self.best or {}).get("architecture")

    @cached_property
    def trials(self) -> Table:
        """The trials of the search, of the search itself or over its supernet, in the order of their ends: see `log`."""
        return _table(self.log())

    def log(self, part: str = "search") -> list[dict[str, Any]]:
        """A trial log as one row per trial, empty where there is none.

        `part` is `search`, or `baseline`, `predictor`, `verify`, `honesty` for the other logs of a search. A row holds `trial`
        (its number), `arch`, `epochs`, `parent`, `failed` (why there are no metrics), `secs` (of the search at its end, where
        known), and every metric by its name: fractions in 0..=1. A trial that is being written is left out.
        """
        if part not in PARTS:
            raise ValueError(f"part = {part!r}; expected {', '.join(PARTS)}")
        folder = self.path if part == "search" else self.path / part
        secs = {mark.get("id"): mark.get("secs") for mark in _lines(folder / "times.jsonl")}
        path = folder / "trials.jsonl"
        try:
            return [_trial(record, secs) for record in _lines(path)]
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: no trial record ({error!r})") from error

    # What was trained.

    @cached_property
    def curves(self) -> Table:
        """The epochs of the training, or of a supernet's: see `epochs`."""
        return _table(self.epochs())

    def epochs(self) -> list[dict[str, Any]]:
        """One row per epoch, empty where nothing is trained: `epoch`, `loss`, `lr`, the metrics of epochs that were validated, and
        `secs` and `images` since the start where they are known."""
        marks = {mark.get("id"): mark for mark in _lines(self.path / "times.jsonl")}
        rows = _lines(self.path / "metrics.jsonl")
        for row in rows:
            mark = marks.get(row.get("epoch"), {})
            row.update({key: mark[key] for key in ("secs", "images") if key in mark})
        return rows

    @cached_property
    def trainings(self) -> dict[str, Run]:
        """The trainings of a comparison by name and seed (`derived-s0`), or of a search by the number of the trial (`00007`)."""
        if self.kind == "compare":
            folders = {folder.name: folder for folder in sorted(self.path.glob("runs/*"))}
        else:
            folders = {folder.parent.name: folder for folder in sorted(self.path.glob("trials/*/train"))}
        return {name: Run(folder) for name, folder in folders.items() if (folder / "config.toml").is_file()}

    def export(self, out: str | Path, *arguments: str, program: str | None = None) -> dict[str, Any]:
        """Writes the trained network to `out` by the program's `export`, which the ending tells the format: `.onnx`, `.pt`
        (TorchScript), `.py` (PyTorch source with weights beside it) or `.safetensors`.

        `arguments` are passed on: `"--weights", "last"`. Returns what was written: `files`, `outputs`, `classes`, `mean` and
        `std` of the channels of images in 0..=1, `max_difference` to the network.
        """
        name = program or self.program
        if name not in PROGRAMS:
            raise RunError(f"{self.path}: a run of {name!r}; let `program` say which one exports it: {', '.join(PROGRAMS)}")
        if self.kind != "train":
            hint = "its trainings do (Run.trainings)" if self.kind == "compare" else "train what it found by its train.toml"
            raise RunError(f"{self.path}: a run of kind {self.kind} has no trained network of its own; {hint}")
        line = ["export", "--run", self.path, "--out", Path(out), "--format", "json", *arguments]
        done = call(name, *line, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RunError(f"{name} export: {done.stderr.strip().removeprefix('error: ')}")
        return json.loads(done.stdout)

    def module(self, source: str | Path | None = None, *, program: str | None = None) -> torch.nn.Module:
        """The trained network as a `torch.nn.Module` in evaluation mode, from the source that `export --out FILE.py` writes.

        `source` is such a file, where one has been written; it is Python that is run. Images go in as
        `[batch, 3, height, width]`, RGB in 0..=1 minus `module.mean` over `module.std`, both `[3, 1, 1]`; what comes out says
        docs/export.md.
        """
        if source is not None:
            return _module(Path(source))
        with TemporaryDirectory(prefix="nas-") as folder:
            file = Path(folder) / "network.py"
            self.export(file, program=program)
            return _module(file)


def _trial(record: dict[str, Any], secs: dict[int, float]) -> dict[str, Any]:
    outcome = record["outcome"]
    row = {
        "trial": record["id"],
        "arch": record["arch"],
        "epochs": record.get("budget", {}).get("epochs"),
        "parent": record.get("parent"),
        "failed": outcome.get("failed"),
    }
    if record["id"] in secs:
        row["secs"] = secs[record["id"]]
    return {**row, **outcome.get("metrics", {})}


def _module(source: Path) -> torch.nn.Module:
    """The module of a source with its weights; its heading holds `mean` and `std`."""
    if not source.is_file():
        raise RunError(f"{source}: missing; expected a file that `export --out FILE.py` wrote")
    try:
        import torch
    except ImportError as error:
        raise RunError(f"a module needs torch: {error}") from error
    spec = importlib.util.spec_from_file_location(source.stem, source)
    if spec is None or spec.loader is None:
        raise RunError(f"{source}: no Python source; expected a file that `export --out FILE.py` wrote")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    heading = dict(line.split(": ", 1) for line in (code.__doc__ or "").splitlines() if ": " in line)
    network = code.load()
    for key in ("mean", "std"):
        if key not in heading:
            raise RunError(f"{source}: no `{key}` in its heading; expected a file that `export --out FILE.py` wrote")
        # No buffers: weights are loaded by their names, and these are no weights.
        setattr(network, key, torch.tensor(json.loads(heading[key])).reshape(-1, 1, 1))
    return network


def _table(rows: list[dict[str, Any]]) -> Table:
    """A DataFrame, or the rows where there is no pandas."""
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot read: {error}") from error


def _json(place: str | Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"{place}: no JSON: {error}") from error


def _object(path: Path) -> dict[str, Any]:
    value = _json(path, _text(path))
    if not isinstance(value, dict):
        raise RunError(f"{path}: {type(value).__name__} found, a JSON object expected")
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, none where there is no file. A last line without its end is being written."""
    if not path.is_file():
        return []
    whole = _text(path).split("\n")[:-1]
    rows = [_json(f"{path}: line {number}", line) for number, line in enumerate(whole, 1) if line]
    if not all(isinstance(row, dict) for row in rows):
        raise RunError(f"{path}: a line that is no JSON object")
    return rows
