"""Write arrays of images as a data set of this project: PNG files and csvs."""
import os
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from utils.common import InputError, counted, write_text
from utils.data.read_csv import csv_text


def write_image_set(folder: str, name: str, splits: Mapping[str, tuple], class_names: Sequence[str]) -> None:
    """Write `folder`/images/<split>_<row>.png and `folder`/<split>_<name>.csv, completely or not at all.

    `splits`: split -> (images uint8 (N, H, W) or (N, H, W, 3), classes int (N,), row numbers in the source (N,), used in the ids).
    Raises `InputError` if the folder exists.
    """
    if os.path.exists(folder):
        raise InputError(f'{folder} already exists: remove it, or choose another folder with --out')
    partial = f'{folder}.{os.getpid()}.tmp'
    os.makedirs(os.path.join(partial, 'images'))
    try:
        for split, (images, labels, rows) in splits.items():
            ids = [f'{split}_{row:06d}' for row in rows]
            for image_id, image in tqdm(zip(ids, images, strict=True), total=len(ids), desc=f'{split} images', leave=False, disable=None):
                Image.fromarray(image).save(os.path.join(partial, 'images', f'{image_id}.png'))
            table = pd.DataFrame({'image_id': ids, 'name': [class_names[c] for c in labels], 'label': np.asarray(labels)})
            write_text(os.path.join(partial, f'{split}_{name}.csv'), csv_text(table))
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for split, (_, labels, _) in splits.items():
        counts = np.bincount(labels, minlength=len(class_names))
        print(f"* {os.path.join(folder, f'{split}_{name}.csv')}: {counted(len(labels), 'image')}, "
              f"per class {' / '.join(map(str, counts))}")
