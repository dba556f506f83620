"""Testing of a trained network on the images of a csv.

scoring: the steps of a test; flags: its command line; network: the network on its device, its data loaders and logits; tuning: choices made
on validation images; post_hoc: corrections of the logits without training; decisions: the decision file of a run; new_images: prediction
without a csv. Modules of this package may import all packages except report.
To add a correction, add a function to post_hoc that returns an `Adjustment` of logits, a flag and a branch to tuning, and its name and
sentence to `utils.runs.results`.
"""
