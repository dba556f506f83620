"""Data sets that are drawn, fetched or converted: the demo set, MedMNIST, CIFAR, and what such conversions share.

Modules here import `utils.common`, `utils.cli`, `utils.data` and each other; no training code. A new data set needs a module with what is
peculiar to it (its file format, class names, checksums), and a thin script `tools/prepare_NAME_data.py`. Arrays are written with
`image_sets.write_image_set`; a table is split with `splitting.split_groups`. Zip files from elsewhere are opened with `archives.open_zip`.
"""
