"""What the test scripts do with a trained network and a csv.

scoring: the steps of a test; flags: its command line; network: the network on its device, its loaders and logits; tuning: what is chosen on
validation images; post_hoc: corrections of the logits without training. May import every room but report. To add a correction: a function
in post_hoc that returns an `Adjustment` of logits, a flag and a branch in tuning, and its name and sentence in `utils.runs.results`.
"""
