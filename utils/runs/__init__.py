"""The files of runs and tests: their formats, and where they are.

- formats: check config.cfg, log.jsonl and checkpoints, and upgrade those of older versions
- paths: the folders experiments/NAME and results/NAME
- history: find the best epoch
- results: the results file of a test, NAME.json beside the predictions csv
- text_reports: read the text reports of older versions, which had no results files
- provenance: find the test that wrote a csv, and mark outdated reports

May import common and evaluation, and needs no torch. To add a value to a file, write it and add its `Kind` to OPTIONAL (in formats or
results). Add its value for older files to `upgrade`. Raise FORMAT only if older code would misread the file.
"""
