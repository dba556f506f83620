"""Images that cannot be decoded: training is refused before anything is written, or goes on without them."""
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
from tqdm import tqdm

from .check_data import outside_problem, some
from .common import InputError, whole_file
from .images import read_image
from .read_csv import with_apostrophe


def verify_images(paths, tg_size=(64, 64), n_threads=1):
    """Decode every image as training does (in threads: Pillow decodes outside Python's lock). -> {path: why it cannot be read}"""
    def problem(path):
        try:
            read_image(path, tg_size)
        except OSError as err:
            return str(err)

    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        problems = tqdm(pool.map(problem, paths), total=len(paths), desc='verify', unit='img', leave=False, disable=None)
        return {path: why for path, why in zip(paths, problems, strict=True) if why}


def find_bad_images(data, n_threads):
    """-> {index in `data`: why its image cannot be used}"""
    bad = verify_images([path for path in data.paths if path is not None], data.tg_size, n_threads)
    return {i: 'no such file' if path is None else bad[path] for i, path in enumerate(data.paths) if path is None or path in bad}


def refuse_bad_images(datasets, n_threads):
    """Raise an `InputError` that names the images of `datasets` that cannot be decoded, or return."""
    for data in datasets:
        bad = find_bad_images(data, n_threads)
        if bad:
            named = some([f'{data.paths[i]} (row {data.rows[i]}): {why}' for i, why in list(bad.items())[:6]])
            raise InputError(f'{data.csv_path}: {len(bad)} images cannot be read (--skip_bad_images leaves them out): {named}')


def leave_out_bad_images(datasets, n_threads):
    """Take the rows whose image is missing or cannot be decoded out of `datasets`, and note them in their `skipped`.
    A csv without a single good image stays as it is: there the folder is wrong."""
    for data in datasets:
        if problem := outside_problem(data):
            raise InputError(f'{data.csv_path}: {problem}')
        bad = find_bad_images(data, n_threads)
        if bad and len(bad) < len(data):
            data.skipped = [(data.csv_path, data.rows[i], data.im_list[i], why) for i, why in bad.items()]
            print(f'* Left out {len(bad)} of {len(data)} images of {data.csv_path}, which cannot be read')
            data.keep(~pd.Series(range(len(data))).isin(bad).to_numpy())


def write_skipped(path, datasets):
    """One row for each image that `leave_out_bad_images` left out: csv, row, image_id, reason. No file if there is none."""
    skipped = [row for data in datasets for row in data.skipped]
    if skipped:
        table = pd.DataFrame(skipped, columns=['csv', 'row', 'image_id', 'reason'])
        table['image_id'] = with_apostrophe(table.image_id)
        with whole_file(path) as temporary:
            table.to_csv(temporary, index=False)
