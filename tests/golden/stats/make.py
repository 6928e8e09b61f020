"""Reference values of the rank correlations and tests in nas-core/src/stats.rs. Needs scipy."""
from scipy import stats

a = [0.3, 0.1, 0.9, 0.9, 0.5, 0.2, 0.7, 0.4]
b = [1.0, 2.0, 8.0, 7.0, 7.0, 3.0, 2.0, 4.0]
print("kendall tau-b", stats.kendalltau(a, b).statistic)
print("spearman", stats.spearmanr(a, b).statistic)
tables = [[3, 1, 1, 3], [8, 2, 1, 5], [0, 5, 10, 3], [140, 16, 5000, 10469], [40, 116, 3085, 12384], [1, 0, 0, 0], [7, 3, 3, 7]]
for table in tables:
    print(f"([{', '.join(map(str, table))}], {float(stats.fisher_exact([table[:2], table[2:]]).pvalue)!r}),")
print(stats.false_discovery_control([0.01, 0.5, 0.03, 0.03, 0.2, 0.9, 0.001]).tolist())
