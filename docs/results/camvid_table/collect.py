"""Writes trials.jsonl (nas_core::space::trial::Record, one per network that has ended) and curves.csv from the runs of run.sh.

    python collect.py RUNS ARCHS OUT

ARCHS holds a name and an architecture of the default space mobile_seg per line. `miou` is measured on the held-out part of the
train split, `val_miou` on the validation split, which chose nothing; params and macs are the network's, macs at 360x480.
"""

import csv
import json
import os
import sys

runs, archs, out = sys.argv[1:]
names, rows, records = [line.split() for line in open(archs) if line.strip()], [], []
for name, arch, params, macs in names:
    folder = os.path.join(runs, "short", name)
    if not os.path.exists(os.path.join(folder, "metrics.jsonl")):
        continue
    for line in open(os.path.join(folder, "metrics.jsonl")):
        epoch = json.loads(line)
        rows.append([name, epoch["epoch"], epoch.get("loss"), epoch.get("miou", "")])
    if not os.path.exists(os.path.join(folder, "val.json")):
        continue
    held_out = json.load(open(os.path.join(folder, "result.json")))["scores"]["miou"]
    val = json.load(open(os.path.join(folder, "val.json")))["miou"]
    metrics = {"macs": float(macs), "miou": held_out, "params": float(params), "val_miou": val}
    budget = {"epochs": 10, "data": 1.0, "image": 1.0, "channels": 1.0, "cells": 1.0}
    records.append({"id": len(records), "arch": arch, "budget": budget, "outcome": {"metrics": metrics}})
with open(os.path.join(out, "trials.jsonl"), "w") as log:
    log.writelines(json.dumps(record) + "\n" for record in records)
with open(os.path.join(out, "curves.csv"), "w", newline="") as table:
    csv.writer(table, lineterminator="\n").writerows([["network", "epoch", "loss", "held_out_miou"], *rows])
print(len(records), "networks")
