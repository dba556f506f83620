"""Data, from csvs and image files to uint8 batches: reading csvs, finding and decoding images, image cache, images on the device,
samplers, data checks.

Modules here import only `utils.common`, `utils.cli` and each other.
To add a check of the csvs, write a function that yields its problems as text, and call it from `check_data.check_data`.
To add a sampler, add an entry to `sampling.SAMPLING`: a function (class counts, epoch, number of epochs) -> share of each class.
Its key becomes a value of `--sampling`.
"""
