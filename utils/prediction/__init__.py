"""Prediction with a network: device, evaluation loop, test-time augmentation, heat maps, and the predictions csv.

Modules of this package may import the files of `utils`, `utils.data`, `utils.runs` and `models`. To add a kind of test-time augmentation,
add a function to `tta.py` that yields versions of a batch. All code that scores images uses `inference.collect_logits`.
"""
