"""Least-squares fits of the eleven curve families by scipy.optimize.curve_fit, within the bounds of families.rs.

    python fits.py > fits.json      # scipy 1.17, numpy 2

For each curve and family: the smallest sum of squares over 12 seeded starts, the parameters and the value at epoch 60.
The formulas are written out a second time, scales by their logarithm as in families.rs. Read by
tests/tests/learning_curve.rs.
"""

import json
import warnings

import numpy as np
from numpy import exp, log
from scipy.optimize import curve_fit

BIG = 10
FAMILIES = {
    "vapor_pressure": (lambda t, a, b, c: exp(a + b / t + c * log(t)), [-10, -10, -1], [2, 5, 1]),
    "pow3": (lambda t, c, a, alpha: c - a * t**-alpha, [0, -1, 0.01], [1, 1, 4]),
    "loglog_linear": (lambda t, a, b: log(a * log(t) + b), [0, 1], [2, 2.7]),
    "hill3": (lambda t, y, eta, k: y * t**eta / (exp(k) ** eta + t**eta), [0, 0.05, -BIG], [1, 8, BIG]),
    "log_power": (lambda t, a, b, c: a / (1 + (t / exp(b)) ** c), [0, -BIG, -8], [1, BIG, -0.05]),
    "pow4": (lambda t, c, a, b, alpha: c - (exp(a) * t + b) ** -alpha, [0, -7, 0, 0.01], [1, 7, 100, 5]),
    "mmf": (lambda t, a, b, k, d: a - (a - b) / (1 + (exp(k) * t) ** d), [0, 0, -BIG, 0.05], [1, 1, 5, 8]),
    "exp4": (lambda t, c, a, b, alpha: c - exp(-exp(a) * t**alpha + b), [0, -BIG, -BIG, 0.05], [1, 3, 3, 3]),
    "janoschek": (lambda t, a, b, k, d: a - (a - b) * exp(-exp(k) * t**d), [0, 0, -BIG, 0.05], [1, 1, 3, 3]),
    "weibull": (lambda t, a, b, k, d: a - (a - b) * exp(-((exp(k) * t) ** d)), [0, 0, -BIG, 0.05], [1, 1, 3, 3]),
    "ilog2": (lambda t, c, a: c - a / log(t + 1), [0, -1], [1, 1]),
}


def fit(family, ys, rng):
    formula, low, high = FAMILIES[family]
    ts, low, high, best = np.arange(1.0, len(ys) + 1), np.array(low, float), np.array(high, float), None
    for _ in range(12):
        start = low + (high - low) * rng.uniform(0.05, 0.95, len(low))
        try:
            params, _ = curve_fit(formula, ts, ys, start, bounds=(low, high), max_nfev=1000, xtol=1e-10, ftol=1e-10)
        except (RuntimeError, ValueError):
            continue
        error = float(((formula(ts, *params) - ys) ** 2).sum())
        if best is None or error < best["error"]:
            best = {"error": error, "params": params.tolist(), "at_60": float(formula(60.0, *params))}
    return best


def main():
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(2015)
    truths = {
        "saturating": (20, lambda t: 0.72 - 0.5 * exp(-0.25 * t)),
        "slow": (30, lambda t: 0.9 - 0.6 * t**-0.35),
        "sigmoid": (15, lambda t: 0.1 + 0.5 / (1 + (5 / t) ** 2)),
    }
    curves = []
    for name, (n, truth) in truths.items():
        ys = np.round(truth(np.arange(1.0, n + 1)) + 0.01 * rng.standard_normal(n), 4)
        curves.append({"name": name, "ys": ys.tolist(), "fits": {f: fit(f, ys, rng) for f in FAMILIES}})
    print(json.dumps(curves, indent=1))


main()
