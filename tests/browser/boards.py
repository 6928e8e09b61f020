#!/usr/bin/env python3
"""Reads what `--tensorboard` and `report --optuna` write with the real TensorBoard, over HTTP, and Optuna; prints it as JSON.

    boards.py RUNS JOURNAL

Needs tensorboard, setuptools below 81 and optuna of PyPI. `tests/tests/boards.rs` runs it.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import optuna


def tensorboard(folder):
    with tempfile.NamedTemporaryFile("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0", "--host", "127.0.0.1",
             "--load_fast=false", "--reload_interval", "0"], stdout=log, stderr=subprocess.STDOUT)
        try:
            return use(address(server, log))
        finally:
            server.terminate()
            server.wait()


def address(server, log):
    """TensorBoard says where it listens once it does."""
    for _ in range(600):
        text = open(log.name).read()
        if "(Press CTRL+C" in text:
            return next(word for word in text.split() if word.startswith("http://"))
        if server.poll() is not None:
            raise SystemExit(text)
        time.sleep(0.1)
    raise SystemExit("TensorBoard does not start: " + open(log.name).read())


def use(base):
    def get(path, **query):
        with urllib.request.urlopen(base + "data/" + path + "?" + urllib.parse.urlencode(query), timeout=60) as answer:
            return json.load(answer)

    def post(path, body):
        request = urllib.request.Request(base + "data/" + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    for _ in range(300):  # until the files are read
        tags = get("plugin/scalars/tags")
        if tags:
            break
        time.sleep(0.1)
    time.sleep(1)
    tags = get("plugin/scalars/tags")
    scalars = {run: {tag: [[step, value] for _, step, value in get("plugin/scalars/scalars", run=run, tag=tag)] for tag in found}
               for run, found in tags.items()}
    experiment = post("plugin/hparams/experiment", {})
    columns = [{"metric": info["name"]} for info in experiment.get("metricInfos", [])]
    sessions = post("plugin/hparams/session_groups", {
        "startIndex": 0, "sliceSize": 1000, "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"],
        "colParams": columns})
    images = get("plugin/images/tags")
    return {"scalars": scalars, "hparams": sessions["sessionGroups"], "images": images}


def journal(path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    studies = {}
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        studies[name] = {
            "directions": [direction.name for direction in study.directions],
            "metrics": study.metric_names,
            "trials": [{"state": t.state.name, "values": t.values, "params": t.params, "user": t.user_attrs,
                        "constraints": t.system_attrs.get("constraints"), "curve": sorted(t.intermediate_values.items()),
                        "secs": t.duration and t.duration.total_seconds()} for t in study.trials],
            "best": [t.number for t in study.best_trials],
        }
    return studies


print(json.dumps({"tensorboard": tensorboard(sys.argv[1]), "optuna": journal(sys.argv[2])}))
