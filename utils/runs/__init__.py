"""What runs and tests leave on disk, and where it lies.

formats: the checks of config.cfg, log.jsonl and checkpoints, and the upgrade of what older versions wrote; paths: experiments/NAME and
results/NAME; history: the best epoch; results: a test as data, beside its per-image csv; text_reports: what older versions wrote in its
place; provenance: which test wrote a csv, and which reports are outdated. May import common and evaluation, and needs no torch. To add a
value to a file: write it, give it a `Kind` in OPTIONAL of its table (formats or results), and in `upgrade` the value that stands for what
was done before; raise FORMAT only where older code would misread the file.
"""
