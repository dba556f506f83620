"""From a network and images to predictions of each image: the device, the only evaluation loop, test-time augmentation, heat maps, and the
csv of predictions.

May import the files of `utils`, `utils.data`, `utils.runs` and `models`. Another kind of test-time augmentation is a function in `tta.py`
that yields versions of a batch. Everything that scores images goes through `inference.collect_logits`.
"""
