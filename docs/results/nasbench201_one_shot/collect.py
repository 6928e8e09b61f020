"""Looks up what one-shot searches have found: collect.py FOLDER [TABLE.csv.gz] prints a line of CSV for every run of run.sh, and on
stderr how supernets and multiply-adds rank their random candidates (Spearman)."""

import csv
import gzip
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
table = sys.argv[2] if len(sys.argv) > 2 else "../shared/data/nasbench201/nasbench201.csv.gz"
rows = {row["arch"]: row for row in csv.DictReader(gzip.open(table, "rt"))}
accuracies = [float(row["cifar10_test_200"]) for row in rows.values()]
cpu = {}
for line in (folder / "cpu.log").read_text().splitlines():
    name, user, system = line.split()[:3]
    cpu[name] = cpu.get(name, 0.0) + float(user) + float(system)
print("method,seed,epochs,architecture,index,cifar10_test_200,rank,cpu_secs")
for result in sorted(folder.glob("*-s*/result.json")):
    run = result.parent.name
    method, seed = run.rsplit("-s", 1)
    found = json.loads(result.read_text())
    row = rows[found["notation"]]
    accuracy = float(row["cifar10_test_200"])
    rank = 1 + sum(value > accuracy for value in accuracies)
    epochs = found["metrics"]["epoch"]
    print(f"{method},{seed},{epochs},{found['architecture']},{row['index']},{accuracy:.2f},{rank},{cpu[run]:.0f}")

OPERATORS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
# Candidates before a strategy proposes any.
RANDOM = {"spos": 50, "fair": 50, "bignas": 30, "random_nas_ws": 1000}


def notation(arch):
    a, b, c, d, e, f = (OPERATORS[int(choice)] for choice in arch.split("-"))
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def spearman(a, b):
    def ranks(values):
        order = sorted(range(len(values)), key=values.__getitem__)
        return {i: rank for rank, i in enumerate(order)}

    a, b, n = ranks(a), ranks(b), len(a)
    return 1 - 6 * sum((a[i] - b[i]) ** 2 for i in range(n)) / (n * (n * n - 1))


for log in sorted(folder.glob("*-s0/supernet_search/trials.jsonl")):
    method = log.parent.parent.name.removesuffix("-s0")
    trials = [json.loads(line) for line in log.read_text().splitlines()][: RANDOM[method]]
    truth = [float(rows[notation(trial["arch"])]["cifar10_test_200"]) for trial in trials]
    for name in ("supernet_top1", "macs"):
        found = spearman([trial["outcome"]["metrics"][name] for trial in trials], truth)
        print(f"{method}, {len(trials)} candidates, {name}: {found:.2f}", file=sys.stderr)
