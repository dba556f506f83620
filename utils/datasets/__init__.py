"""Data sets that are generated, downloaded or converted (the demo set, MedMNIST, CIFAR), and shared helpers for their preparation.

Modules here import only `utils.common`, `utils.cli`, `utils.data` and each other, no training code. A new data set needs a module for its
own details (file format, class names, checksums) and a thin script `tools/prepare_NAME_data.py`; one with a table of labels needs only a
row in `known_tables.KNOWN_TABLES`. Write arrays with `image_sets.write_image_set`, csvs of a table with `csv_splits`, and open untrusted
zip files with `archives.open_zip`.
"""
