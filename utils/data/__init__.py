"""From csv and image files to uint8 arrays: reading csvs, finding and decoding images, the cache, samplers, and checks of the data.

Modules here import only `utils.common`, `utils.cli` and each other. A check of the csvs is a function in `check_data` that yields its
problems as text; `check_data` calls it. A sampler is one entry of `sampling.SAMPLING`: a function (class counts, epoch, number of
epochs) -> share of each class. The entry is also a value of `--sampling`.
"""
