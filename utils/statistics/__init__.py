"""From predictions to scores with confidence intervals: weighted metrics, bootstrap, folds and seeds, comparison of methods, calibration,
plots and console tables.

Modules of this package may import `utils.prediction` and the packages below it, but not training, testing or report. To add a score with
an interval: compute it for all resamples at once in `WeightedMetrics._figures`, name it in `METRIC_NAMES` or `CLASS_METRICS`, and add its
range to `bootstrap.LIMITS` if that is not 0..1. A score that is a proportion of images also belongs in `WeightedMetrics.units`. Check the
coverage of the interval with `benchmarks/coverage.py`.
"""
