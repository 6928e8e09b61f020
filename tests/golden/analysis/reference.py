"""Reference values for nas-core/src/search/analysis, computed with numpy, scipy and optuna from the definitions.

  python reference.py check nasbench201.csv.gz analysis.json METRIC TRANSFER
      compares the output of `nas-classify analyse ... --format json` with exact functional analysis of variance, Fisher's test,
      Benjamini and Hochberg, matched swaps and rank correlations, and prints the largest difference of each
  python reference.py log
      trials of a made-up space of six decisions (trials.jsonl) and optuna's fANOVA importances of them (fanova.json), once as
      integers and once as categories

Needs numpy, scipy, pandas; `log` also optuna and scikit-learn. Made with numpy 2, scipy 1.17, optuna 5.0.
"""

import itertools
import json
import sys

import numpy as np

OPS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
EDGES = ["1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"]


def table(path, names):
    import pandas as pd

    frame = pd.read_csv(path)
    choices = [[OPS.index(op.split("~")[0]) for op in arch.replace("+", "").split("|") if op] for arch in frame.arch]
    cube = {name: np.full((5,) * 6, np.nan) for name in names}
    for i, row in enumerate(choices):
        for name in names:
            cube[name][tuple(row)] = frame[name][i]
    return cube


def exact(cube):
    """Effects as the differences of marginal means; shares by their mean squares."""
    mean, total, axes = cube.mean(), cube.var(), range(cube.ndim)
    main = {i: cube.mean(tuple(a for a in axes if a != i)) - mean for i in axes}
    pairs = {}
    for i, j in itertools.combinations(axes, 2):
        both = cube.mean(tuple(a for a in axes if a not in (i, j))) - mean - main[i][:, None] - main[j][None, :]
        pairs[",".join(sorted((EDGES[i], EDGES[j])))] = (both**2).mean() / total
    return {EDGES[i]: (effect**2).mean() / total for i, effect in main.items()}, pairs


def check(path, analysis, metric, other):
    from scipy import stats

    found = json.load(open(analysis))
    cubes = table(path, [metric, other])
    cube = cubes[metric]
    main, pairs = exact(cube)
    worst = max(abs(found["variance"]["main"][k] - v) for k, v in main.items())
    print("main effects", worst)
    print("pairs", max(abs(found["variance"]["pairs"][k] - v) for k, v in pairs.items()))

    flat = cube.ravel()
    places = np.stack(np.unravel_index(np.arange(flat.size), cube.shape), 1)
    for top in (1, 10):
        size = flat.size * top // 100
        best = np.zeros(flat.size, bool)
        best[np.argsort(-flat, kind="stable")[:size]] = True
        motifs = [m for m in found["motifs"] if m["top"] == top]
        worst = dict(p=0.0, odds=0.0, shares=0.0)
        for motif in motifs:
            parts = [part.split(" ") for part in motif["name"].split(" & ")]
            if any(len(part) != 2 or part[0] not in EDGES for part in parts):
                continue
            has = np.all([places[:, EDGES.index(edge)] == OPS.index(op) for edge, op in parts], 0)
            a, b, c, d = (has & best).sum(), (~has & best).sum(), (has & ~best).sum(), (~has & ~best).sum()
            odds = (a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5))
            p = stats.fisher_exact([[a, b], [c, d]]).pvalue
            worst["p"] = max(worst["p"], abs(motif["p"] / p - 1))
            worst["odds"] = max(worst["odds"], abs(motif["odds_ratio"] / odds - 1))
            shares = abs(motif["share_top"] - a / size) + abs(motif["share_rest"] - c / (flat.size - size))
            worst["shares"] = max(worst["shares"], shares, abs(motif["count"] - has.sum()))
        q = stats.false_discovery_control([m["p"] for m in motifs])
        print(f"top {top} %: {len(motifs)} motifs, relative", worst, "q", max(abs(q - [m["q"] for m in motifs])))

    worst, n = 0.0, 0
    for swap in found["swaps"]:
        if swap["where"] is None:
            axis = EDGES.index(swap["choice"])
            change = (cube.take(OPS.index(swap["to"]), axis) - cube.take(OPS.index(swap["from"]), axis)).ravel()
            expected = [change.size, change.mean(), np.median(change), (change > 0).mean()]
            got = [swap[k] for k in ("n", "mean", "median", "share_better")]
            worst, n = max(worst, *np.abs(np.subtract(expected, got))), n + 1
    print(n, "swaps", worst)

    a, b = flat, cubes[other].ravel()
    order, size = np.argsort(-a, kind="stable"), {10: a.size // 10, 1: a.size // 100}
    expected = {"spearman": stats.spearmanr(a, b).statistic, "regret": b.max() - b[order[0]]}
    for top, k in size.items():
        expected[f"spearman_top_{top}"] = stats.spearmanr(a[order[:k]], b[order[:k]]).statistic
        expected[f"overlap_top_{top}"] = len(set(order[:k]) & set(np.argsort(-b, kind="stable")[:k])) / k
    print("transfer", {k: (v, abs(found["transfer"][k] - v)) for k, v in expected.items()})


LEVELS = [4, 3, 5, 2, 4, 3]


def value(row):
    """Two strong decisions, one weak, one interaction, one pair of decisions that do nothing, and noise."""
    a, b, c, d, _, _ = row
    return [0.0, 1.0, 3.0, 1.5][a] + 0.8 * b + [0, 0, 0.4, 0.2, 0][c] + (1.5 if (b == 2) == (d == 1) else 0.0)


def log():
    import optuna
    from optuna.distributions import CategoricalDistribution, IntDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(0)
    rows = [[int(rng.integers(n)) for n in LEVELS] for _ in range(400)]
    values = [value(row) + 0.3 * rng.standard_normal() for row in rows]
    with open("trials.jsonl", "w") as file:
        for i, (row, y) in enumerate(zip(rows, values)):
            arch = "-".join(map(str, row))
            file.write(json.dumps({"id": i, "arch": arch, "outcome": {"metrics": {"score": y}}}) + "\n")
    cube = np.zeros(LEVELS)
    for row in itertools.product(*map(range, LEVELS)):
        cube[row] = value(row)
    truth = [((cube.mean(tuple(a for a in range(6) if a != i)) - cube.mean()) ** 2).mean() / cube.var() for i in range(6)]
    result = {"truth": truth}
    kinds = {
        "integers": lambda n: IntDistribution(0, n - 1),
        "categories": lambda n: CategoricalDistribution([str(i) for i in range(n)]),
    }
    for kind, of in kinds.items():
        study = optuna.create_study(direction="maximize")
        space = {f"d{i}": of(n) for i, n in enumerate(LEVELS)}
        for row, y in zip(rows, values):
            params = {f"d{i}": c if kind == "integers" else str(c) for i, c in enumerate(row)}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=y))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
        result[kind] = [found[f"d{i}"] for i in range(6)]
    json.dump(result, open("fanova.json", "w"), indent=1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    check(*sys.argv[2:]) if sys.argv[1] == "check" else log()
