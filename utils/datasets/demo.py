"""A synthetic five-grade fundus set with EyePACS's class proportions, for trying everything without any data access.

Grades follow the international scale in outline: 0 nothing, 1 microaneurysms, 2 also haemorrhages and exudates, 3 many of
them, 4 new vessels, with bleeding and scars. Each eye has a severity that scatters around its grade, and lesion numbers are
Poisson draws from it, so neighbouring grades overlap and no classifier can be perfect. Validation and test set hold more rare
grades than these proportions give, so that recall is not a matter of a few images. Nothing medical follows from this set.
"""
import os
import shutil

import numpy as np
import pandas as pd
from tqdm import tqdm

from utils.datasets.demo_fundus import fundus_image

PROPORTIONS = (.735, .070, .151, .025, .019)
SPLITS = {'train': (1500, 1), 'val': (300, 30), 'test': (400, 40)}  # images; at least so many of each grade


def counts_of(n, at_least=1):
    """Images of each grade among `n`, by largest remainder; a grade with fewer than `at_least` is filled up to that."""
    exact = np.array(PROPORTIONS) * n
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact)[:n - counts.sum()]] += 1
    return np.maximum(counts, at_least)


def write_demo_data(folder, seed=0, sizes=None):
    """Write `folder`/images/*.jpg and `folder`/{train,val,test}_demo.csv, whole or not at all; the same for a seed.
    `sizes`: split -> arguments of `counts_of`, SPLITS by default."""
    partial = f'{folder}.{os.getpid()}.tmp'
    os.makedirs(os.path.join(partial, 'images'))
    try:
        for number, (split, size) in enumerate((sizes or SPLITS).items()):
            grades = np.repeat(range(5), counts_of(*size))
            rows = []
            for i, grade in enumerate(tqdm(grades, desc=f'demo images, {split}', unit='img', leave=False, disable=None)):
                image_id = f'{split}_{i:04d}'
                image = fundus_image(grade, np.random.default_rng([seed, number, i]))
                image.save(os.path.join(partial, 'images', f'{image_id}.jpg'), quality=88)
                rows.append((image_id, f'DR{grade}', grade))
            pd.DataFrame(rows, columns=['image_id', 'name', 'grade']).to_csv(os.path.join(partial, f'{split}_demo.csv'), index=False)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
