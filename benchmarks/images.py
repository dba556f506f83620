"""Choose the images on which throughput is measured."""
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from utils.common import InputError
from utils.datasets.demo import write_demo_data
from utils.get_loaders import ClassDataset


def choose_data(args, folder):
    """Set the csvs and image folders in `args` that were not given: real data from LT_REAL_DATA, else the demo set."""
    real = os.environ.get('LT_REAL_DATA')
    if args.csv_train is None and real:
        args.csv_train, args.csv_val, args.data_path = (
            os.path.join(real, 'isic8', name) for name in ('train_isic8_lt.csv', 'val_isic8_lt.csv', 'images'))
    elif args.csv_train is None:
        write_demo_data(os.path.join(folder, 'demo'))
        args.csv_train, args.csv_val, args.data_path = (
            os.path.join(folder, 'demo', name) for name in ('train_demo.csv', 'val_demo.csv', 'images'))
        args.n_classes = 5
    if args.csv_val is None or args.data_path is None:
        raise InputError('--csv_train also needs --csv_val and --data_path')
    args.csv_train, args.csv_val, args.data_path = map(os.path.abspath, (args.csv_train, args.csv_val, args.data_path))
    args.photographs = args.photographs or (os.path.join(real, 'eyepacs_sample') if real else args.data_path)
    if args.n_images:
        repeat_images(args, folder)


def repeat_images(args, folder):
    """Copy the validation images, and `args.n_images` training images in the original class proportions, repeated as needed.

    Changes `args` to use the copies.
    """
    copies = os.path.join(folder, 'copies')
    os.makedirs(copies)
    for flag, n in (('csv_train', args.n_images), ('csv_val', None)):
        data = ClassDataset(getattr(args, flag), args.data_path)
        order = spread_classes(data.labels) if n else range(len(data))
        rows = [order[i % len(order)] for i in range(n or len(data))]
        table = data.table.iloc[rows].drop(columns='patient_id', errors='ignore')
        for i, row in enumerate(rows):
            shutil.copyfile(data.paths[row], os.path.join(copies, f'{flag}{i}{Path(data.paths[row]).suffix}'))
        table['image_id'] = [f'{flag}{i}' for i in range(len(table))]
        setattr(args, flag, os.path.join(folder, f'{flag}.csv'))
        table.to_csv(getattr(args, flag), index=False)
    args.data_path = copies


def spread_classes(labels):
    """-> order of rows (N,) in which every prefix has about the class proportions of `labels` (N,)

    It begins with one row of each class. In a sorted csv, the first rows would all have the same class.
    """
    labels = pd.Series(np.asarray(labels))
    of_class = labels.groupby(labels)
    return (of_class.cumcount() / of_class.transform('size')).argsort(kind='stable').to_numpy()
