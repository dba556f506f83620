"""Images that cannot be decoded: an error before training writes anything, or skipped with --skip_bad_images."""
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from tqdm import tqdm

from utils.common import InputError, counted, preview, write_text
from utils.data.check_data import Problem, find_outside_problems, refuse_problems
from utils.data.dataset import ClassDataset
from utils.data.image_hashes import content_hash, hash_sample
from utils.data.images import DECODER, decode_image
from utils.data.permissions import free_path, why_untrusted
from utils.data.read_csv import csv_text, read_csv


def verify_images(paths: Iterable[str], im_size: tuple[int, int] = (64, 64), n_threads: int = 1) -> tuple[dict[str, str], dict[str, int]]:
    """Decode every image as training does, in threads (Pillow releases the GIL).

    Returns {path: error message} of the images that cannot be read, and {path: `content_hash`} of the others.
    """
    def look(path):
        try:
            with open(path, 'rb') as f:
                content = f.read()
            decode_image(content, im_size)
        except OSError as err:
            return str(err), None
        return None, content_hash(content)

    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        looks = list(tqdm(pool.map(look, paths), total=len(paths), desc='verify', unit='img', leave=False, disable=None))
    return ({path: why for path, (why, _) in zip(paths, looks, strict=True) if why},
            {path: content for path, (why, content) in zip(paths, looks, strict=True) if not why})


def _remembered(path):
    """Return the result that `find_bad_images` saved at `path`; None if the file is missing, unreadable or not trusted."""
    if not os.path.isfile(path):
        return None
    with contextlib.suppress(OSError, ValueError), open(path, encoding='utf-8') as f:
        if not (why := why_untrusted(f)):
            return json.load(f)
        print(f'* {path} {why}: file ignored, images are verified again')
    return None


def find_bad_images(data: ClassDataset, n_threads: int, memory: str | None = None) -> dict[int, str]:
    """Return {index in `data`: error message} of the images that are missing or cannot be decoded, and set `data.hashes`.

    The result is saved in the folder `memory`, for later runs on the same files and for the other processes of this run.
    """
    bad, path = None, None
    if memory is not None:
        names = '\0'.join(path or '' for path in data.paths)
        parts = os.fsencode(f'{DECODER} {data.im_size} {names}'), data.stats.tobytes(), hash_sample(data.paths)
        key = hashlib.sha256(b''.join(parts)).hexdigest()[:16]
        path = os.path.join(memory, f'bad_images_{key}.json')
        places = dict.fromkeys([free_path(path), path])
        bad = next((found for found in map(_remembered, places) if found is not None), None)
        path = free_path(path)
    if bad is None:
        bad, hashes = verify_images([path for path in data.paths if path is not None], data.im_size, n_threads)
        data.hashes = np.array([hashes.get(path or '', 0) for path in data.paths], np.int64)
        if path:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                write_text(path, json.dumps(bad), only_mine=True)
            except OSError as err:  # a full disk, no permission: the next run only takes longer
                print(f'* Could not save the list of unreadable images for the next run: {err}')
    return {i: 'no such file' if path is None else bad[path] for i, path in enumerate(data.paths) if path is None or path in bad}


def refuse_bad_images(datasets: Sequence[ClassDataset], n_threads: int) -> None:
    """Raise an `InputError` that lists the images of `datasets` that cannot be decoded, if there are any."""
    problems = []
    for data in datasets:
        bad = find_bad_images(data, n_threads)
        if bad:
            named = preview([f'{data.paths[i]} (row {data.rows[i]}): {why}' for i, why in list(bad.items())[:6]])
            text = f"{counted(len(bad), 'image')} cannot be read (--skip_bad_images skips them): {named}"
            problems.append(Problem(data.csv_path, text))
    refuse_problems(problems)


def leave_out_bad_images(datasets: Sequence[ClassDataset], n_threads: int, memory: str | None = None) -> None:
    """Remove rows whose image is missing or cannot be decoded from `datasets`, and list them in `ClassDataset.skipped`.

    A csv without any good image is left unchanged, because then the folder is probably wrong. `memory`: see `find_bad_images`.
    """
    for data in datasets:
        refuse_problems(find_outside_problems(data))
        bad = find_bad_images(data, n_threads, memory)
        if bad and len(bad) < len(data):
            data.skipped = [(data.csv_path, data.rows[i], data.image_ids[i], why) for i, why in bad.items()]
            print(f'* Skipped {len(bad)} of {len(data)} images of {data.csv_path}: they cannot be read')
            data.keep(~pd.Series(range(len(data))).isin(bad).to_numpy())


def write_skipped(path: str, datasets: Sequence[ClassDataset], resumed: bool = False) -> None:
    """Write one row (csv, row, image_id, reason) for each image that `leave_out_bad_images` removed. If there are none, delete the file.

    `resumed`: only compare with the file, and raise `InputError` if the images differ.
    """
    table = pd.DataFrame([row for data in datasets for row in data.skipped], columns=['csv', 'row', 'image_id', 'reason'])
    if resumed:
        before = read_csv(path)[0] if os.path.exists(path) else table[:0]
        if before.image_id.tolist() != table.image_id.tolist():
            raise InputError(f'the run cannot be resumed: the images that cannot be read are not those listed in {path}. Restore the '
                             'images, or start again with --overwrite')
    elif len(table):
        write_text(path, csv_text(table))
    elif os.path.exists(path):
        os.remove(path)
