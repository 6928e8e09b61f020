"""Best test accuracy after 20, 40 and 100 trials of optuna's TPESampler (defaults) on NAS-Bench-201's CIFAR-10 table, the test
accuracy being the objective, for 1000 seeds. Writes optuna_tpe.json.

    python optuna_tpe.py ../../../../shared/data/nasbench201/nasbench201.csv.gz
"""

import csv
import gzip
import json
import pathlib
import sys

import optuna

OPS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
CHECKPOINTS = [20, 40, 100]
SEEDS = 1000


def main():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with gzip.open(sys.argv[1], "rt") as file:
        table = {row["arch"]: float(row["cifar10_test_200"]) for row in csv.DictReader(file)}

    def objective(trial):
        a, b, c, d, e, f = (trial.suggest_categorical(f"edge{i}", OPS) for i in range(6))
        return table[f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"]

    best = {str(n): [] for n in CHECKPOINTS}
    for seed in range(SEEDS):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(objective, n_trials=CHECKPOINTS[-1])
        values = [trial.value for trial in study.trials]
        for n in CHECKPOINTS:
            best[str(n)].append(max(values[:n]))
    result = {"optuna": optuna.__version__, "seeds": SEEDS, "best": best}
    pathlib.Path(__file__).with_name("optuna_tpe.json").write_text(json.dumps(result) + "\n")


main()
