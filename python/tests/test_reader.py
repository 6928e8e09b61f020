"""The reader on run folders as the programs write them, and on damaged ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nas_libtorch import RunError, load_run

FOUND = {"trial": 1, "architecture": "2-1", "notation": "b a", "metrics": {"miou": 0.5, "params": 20.0}}


def write_run(folder: Path, kind: str, config: str = "", result: dict | None = None, job: str = "nas-segment") -> Path:
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"job": f"{job} {kind}", "layout": 1}))
    (folder / "config.toml").write_text(f'kind = "{kind}"\n{config}')
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def record(trial: int, **outcome) -> dict:
    return {"id": trial, "arch": "2-1", "budget": {"epochs": 3, "data": 1.0}, "outcome": outcome}


def write_lines(path: Path, rows: list[dict], torn: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


@pytest.fixture
def search(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "search", "search", "num_trials = 3\n", {"best": FOUND, "train": "nas-segment train"})
    rows = [record(1, metrics={"miou": 0.5, "params": 20.0}), {**record(0, failed="out of memory"), "parent": 1}]
    write_lines(folder / "trials.jsonl", rows, torn='{"id": 2, "ar')
    write_lines(folder / "times.jsonl", [{"id": 1, "secs": 4.5, "images": 0}])
    write_lines(folder / "baseline/trials.jsonl", [record(0, metrics={"miou": 0.25})])
    return folder


@pytest.fixture
def without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)


def test_a_search_gives_its_trials_and_its_best(search: Path, without_pandas: None) -> None:
    run = load_run(search)
    assert (run.kind, run.done, run.program, run.config["num_trials"]) == ("search", True, "nas-segment", 3)
    assert run.trials == run.log() == [
        {"trial": 1, "arch": "2-1", "epochs": 3, "parent": None, "failed": None, "secs": 4.5, "miou": 0.5, "params": 20.0},
        {"trial": 0, "arch": "2-1", "epochs": 3, "parent": 1, "failed": "out of memory"},
    ]
    assert [row["miou"] for row in run.log("baseline")] == [0.25]
    assert run.log("honesty") == []
    assert (run.best, run.architecture) == (FOUND, "2-1")
    with pytest.raises(ValueError, match="expected search, predictor"):
        run.log("../other")


def test_trials_are_a_frame_where_pandas_is(search: Path) -> None:
    pandas = pytest.importorskip("pandas")
    trials = load_run(search).trials
    assert isinstance(trials, pandas.DataFrame) and len(trials) == 2
    assert trials.set_index("trial").miou[1] == 0.5 and trials.miou.isna().sum() == 1


def test_a_search_on_shared_weights_ends_in_one_architecture(tmp_path: Path) -> None:
    result = {"architecture": "0-2", "notation": "c d", "cost": {"params": 7.0}, "candidate": {"candidate_miou": 0.4}}
    run = load_run(write_run(tmp_path / "run", "one_shot", result=result))
    metrics = {"params": 7.0, "candidate_miou": 0.4}
    assert run.best == {"architecture": "0-2", "notation": "c d", "metrics": metrics}
    assert run.architecture == "0-2"


def test_a_training_gives_curves_with_times(tmp_path: Path, without_pandas: None) -> None:
    config = '[model]\nkind = "x"\narch = "1-1"\n'
    folder = write_run(tmp_path / "run", "train", config, {"scores": {"miou": 0.5}})
    epochs = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "miou": 0.5}]
    write_lines(folder / "metrics.jsonl", epochs)
    write_lines(folder / "times.jsonl", [{"id": 2, "secs": 9.0, "images": 64}])
    (folder / "classes.json").write_text('["road", "sky"]')
    run = load_run(folder)
    assert run.curves == run.epochs() == [epochs[0], {**epochs[1], "secs": 9.0, "images": 64}]
    assert (run.architecture, run.classes, run.best) == ("1-1", ["road", "sky"], None)
    assert run.result == {"scores": {"miou": 0.5}}
    assert run.trials == []


def test_a_run_that_goes_on_has_no_result_yet(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", "search"))
    assert (run.done, run.result, run.best, run.architecture, run.log()) == (False, None, None, None, [])
    assert repr(run) == f"<search run '{tmp_path}/run', not done>"


def test_trainings_of_a_comparison_and_of_trials(tmp_path: Path) -> None:
    write_run(tmp_path / "compare/runs/b-s0", "train")
    write_run(tmp_path / "compare/runs/a-s1", "train")
    (tmp_path / "compare/runs/never-begun").mkdir()
    assert list(load_run(write_in(tmp_path / "compare", "compare")).trainings) == ["a-s1", "b-s0"]
    write_run(tmp_path / "search/trials/00007/train", "train")
    assert list(load_run(write_in(tmp_path / "search", "search")).trainings) == ["00007"]


def write_in(folder: Path, kind: str) -> Path:
    """A run in a folder that exists."""
    other = write_run(folder.with_name(f"{folder.name}-files"), kind)
    for file in other.iterdir():
        file.rename(folder / file.name)
    return folder


def test_what_is_wrong_is_named(search: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run folder \(meta.json is missing\)"):
        load_run(tmp_path)
    (search / "meta.json").write_text('{"layout": 7}')
    with pytest.raises(RunError, match="layout 7; this reader knows layout 1"):
        load_run(search)
    (search / "meta.json").write_text('{"layout": 1}')
    run = load_run(search)
    for text, expected in [
        ('{"id": 1}\n', r"trials.jsonl: no trial record \(KeyError\('outcome'\)\)"),
        ("\n\n{oh\n", "trials.jsonl: line 3: no JSON"),
        ("1\n", "trials.jsonl: a line that is no JSON object"),
    ]:
        (search / "trials.jsonl").write_text(text)
        with pytest.raises(RunError, match=expected):
            run.log()
    (search / "config.toml").write_text("kind = \n")
    with pytest.raises(RunError, match="config.toml: "):
        run.config
    (search / "result.json").write_text("[1]")
    with pytest.raises(RunError, match="result.json: list found, a JSON object expected"):
        run.result


def test_runs_without_a_network_say_where_one_is(search: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="of kind search has no trained network of its own; train what it found"):
        load_run(search).module()
    run = load_run(write_run(tmp_path / "other", "train", job="mine"))
    with pytest.raises(RunError, match="a run of 'mine'; let `program` say which one exports it: nas-segment, "):
        run.export(tmp_path / "x.onnx")
    with pytest.raises(RunError, match="nowhere.py: missing"):
        run.module(tmp_path / "nowhere.py")
