"""Reference values of the rank correlations in nas-core/src/stats.rs. Needs scipy."""
from scipy import stats

a = [0.3, 0.1, 0.9, 0.9, 0.5, 0.2, 0.7, 0.4]
b = [1.0, 2.0, 8.0, 7.0, 7.0, 3.0, 2.0, 4.0]
print("kendall tau-b", stats.kendalltau(a, b).statistic)
print("spearman", stats.spearmanr(a, b).statistic)
