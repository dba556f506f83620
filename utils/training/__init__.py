"""What one run of the train script needs: its flags, network, data, plan of the epochs, training loop, run folder and signals.

`train_lt_mxp.py` puts these parts together. The room may import all lower ones, down from `utils.statistics`, which TensorBoard draws with.
A flag is added in `flags.py`; a mixing is a class and its row in the table of `mixing.py`, and an augmentation, an optimizer, a schedule or
a recipe a row in the table of its file.
"""
