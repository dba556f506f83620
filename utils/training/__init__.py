"""Parts of the train script: flags, network, data, epoch plan, training loop, run folder and signals.

`train_lt_mxp.py` puts these parts together. The package may import `utils.statistics`, for TensorBoard's plots, and all packages below it.
New flags go into `flags.py`. A new mixing is a class and a row in the table of `mixing.py`. A new augmentation, optimizer, schedule or
recipe is a row in the table of its file.
"""
