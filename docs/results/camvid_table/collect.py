"""Writes trials.jsonl and curves.csv from the run of configs/segment/camvid_table.toml, and prints what estimates are worth against it.

    python collect.py RUN [PROXIES.jsonl ...]

RUN is the run folder. PROXIES are trial logs of other evaluators on the same architectures, whose metrics are estimates too. The truth is
the held-out mIOU after ten epochs of the 48 random networks; the references in front of them are left out. Needs scipy.
"""

import csv
import json
import os
import sys
from statistics import mean, stdev

from scipy.stats import kendalltau, linregress, mannwhitneyu, spearmanr

REFERENCES = 3
here = os.path.dirname(os.path.realpath(__file__))
run, logs = sys.argv[1], sys.argv[2:]


def records(path):
    return [json.loads(line) for line in open(path)]


trials = records(os.path.join(run, "trials.jsonl"))
with open(os.path.join(here, "trials.jsonl"), "w") as out:
    out.writelines(json.dumps(trial, separators=(",", ":")) + "\n" for trial in trials)
curves, estimates = [], {}
for trial in trials:
    epochs = [json.loads(line) for line in open(os.path.join(run, "trials", f"{trial['id']:05}", "train", "metrics.jsonl"))]
    curves += [[trial["id"], e["epoch"], round(e["loss"], 5), round(e["miou"], 5) if "miou" in e else ""] for e in epochs]
    loss = [-e["loss"] for e in epochs]
    metrics = trial["outcome"]["metrics"]
    estimates[trial["arch"]] = {
        "parameters": metrics["params"],
        "multiply-adds": metrics["macs"],
        **{f"training loss of epoch {n}": loss[n - 1] for n in (1, 2, 3, 5, 8, 10)},
        "held-out mIOU after epoch 5": epochs[4]["miou"],
    }
with open(os.path.join(here, "curves.csv"), "w", newline="") as out:
    csv.writer(out, lineterminator="\n").writerows([["trial", "epoch", "loss", "held_out_miou"], *curves])
for log in logs:
    name = os.path.splitext(os.path.basename(log))[0]
    for record in records(log):
        for metric, value in record["outcome"].get("metrics", {}).items():
            if metric not in ("params", "macs") and record["arch"] in estimates:
                sign = -1 if metric.startswith("tse") else 1
                estimates[record["arch"]][f"{name}: {metric}"] = sign * value

networks = trials[REFERENCES:]
truth = [t["outcome"]["metrics"]["miou"] for t in networks]
best = sorted(range(len(truth)), key=lambda i: -truth[i])
fifth, ten = best[: round(len(truth) / 5)], set(best[:10])
print(f"{len(truth)} networks; best {100 * truth[best[0]]:.2f} %, mean {100 * sum(truth) / len(truth):.2f} %\n")
print("| estimate | Spearman | Kendall | Spearman in the best fifth | of its ten best | regret |\n|---|---:|---:|---:|---:|---:|")
rows = []
for name in estimates[networks[-1]["arch"]]:
    of = [estimates[t["arch"]].get(name) for t in networks]
    if None in of or len(set(of)) < 2:
        continue
    order = sorted(range(len(of)), key=lambda i: -of[i])
    inner = spearmanr([of[i] for i in fifth], [truth[i] for i in fifth]).statistic
    rows.append((spearmanr(of, truth).statistic, kendalltau(of, truth).statistic, inner, len(ten & set(order[:10])), truth[best[0]] - truth[order[0]], name))
for rho, tau, inner, hits, regret, name in sorted(rows, reverse=True):
    print(f"| {name} | {rho:.2f} | {tau:.2f} | {inner:.2f} | {hits} | {100 * regret:.2f} |")

# What a context module costs beyond what the training sees: mIOU above the line that the networks with other modules lie on.
contexts = ["atrous 2, 4, 8", "atrous 3, 6, 9", "atrous 6, 12, 18", "LR-ASPP", "pooling"]
context = [int(t["arch"].split("-")[-9]) for t in networks]
loss = [-estimates[t["arch"]]["training loss of epoch 10"] for t in networks]
near = [i for i, c in enumerate(context) if c != 2]
line = linregress([loss[i] for i in near], [truth[i] for i in near])
above = [100 * (y - line.intercept - line.slope * x) for x, y in zip(loss, truth)]
print("\n| context | networks | training loss | held-out mIOU % | above the line |\n|---|---:|---:|---:|---:|")
for c, name in enumerate(contexts):
    of = [i for i in range(len(networks)) if context[i] == c]
    column = lambda values: f"{mean(values[i] for i in of):.3g} ± {stdev(values[i] for i in of):.2g}"
    print(f"| {name} | {len(of)} | {column(loss)} | {column([100 * y for y in truth])} | {column(above)} |")
p = mannwhitneyu([above[i] for i in range(len(networks)) if context[i] == 2], [above[i] for i in near]).pvalue
rho = -spearmanr([loss[i] for i in near], [truth[i] for i in near]).statistic
print(f"\natrous 6, 12, 18 against the others: Mann-Whitney p = {p:.1g}; Spearman of training loss without them {rho:.2f}")
