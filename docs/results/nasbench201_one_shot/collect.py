"""Looks up what one-shot searches have found: collect.py FOLDER [TABLE.csv.gz] prints a line of CSV for every run of run.sh."""

import csv
import gzip
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
table = sys.argv[2] if len(sys.argv) > 2 else "../shared/data/nasbench201/nasbench201.csv.gz"
rows = {row["arch"]: row for row in csv.DictReader(gzip.open(table, "rt"))}
better = sorted(float(row["cifar10_test_200"]) for row in rows.values())
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
    rank = 1 + sum(value > accuracy for value in better)
    epochs = found["metrics"]["epoch"]
    print(f"{method},{seed},{epochs},{found['architecture']},{row['index']},{accuracy:.2f},{rank},{cpu[run]:.0f}")
