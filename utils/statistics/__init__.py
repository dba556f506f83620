"""Predictions to figures with intervals: metrics of weighted images, bootstrap, folds and seeds, comparison of methods, calibration,
plots and console tables.

Modules here import from `utils.prediction` and the rooms below it, never from training, testing or report. To add a figure with an
interval: compute it for all draws at once in `WeightedMetrics._figures`, name it in `METRIC_NAMES` or `CLASS_METRICS`, and give its
range in `bootstrap.LIMITS` if that is not 0..1. A proportion of images also belongs in `WeightedMetrics.units`. Check the coverage of
the interval with `benchmarks/coverage.py`.
"""
