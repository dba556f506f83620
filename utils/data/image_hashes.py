"""Hashes of the contents of image files: what a checkpoint remembers of the images it has seen, whatever their names and folders."""
import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

SAMPLE = 16  # files that stand for a set
# What images did for a checkpoint: bits of the second column of its `image_hashes`, each with how a message says it.
TRAINED, CHOSE, STAGE_ONE_TRAINED, STAGE_ONE_CHOSE = 1, 2, 4, 8
ROLES = {TRAINED: 'trained the network', CHOSE: 'chose its checkpoint', STAGE_ONE_TRAINED: 'trained its stage one',
         STAGE_ONE_CHOSE: 'chose the checkpoint of its stage one'}
OWN = TRAINED | CHOSE


def content_hash(content: bytes) -> int:
    """The first 8 bytes of BLAKE2b as a signed integer: two of a million different files agree with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), 'little', signed=True)


def hash_file(path) -> int:
    with open(path, 'rb') as f:
        return content_hash(f.read())


def hash_files(paths, n_threads=1):
    """`content_hash` of each file, int64 (N,); 0 for None."""
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        hashes = tqdm(pool.map(lambda path: 0 if path is None else hash_file(path), paths), total=len(paths), desc='hash', unit='img',
                      leave=False, disable=None)
        return np.fromiter(hashes, np.int64, len(paths))


def hash_sample(paths) -> bytes:
    """Hashes of SAMPLE of `paths` (None: no file), evenly spread: tells sets apart whose files have equal names, sizes and times. Files
    that cannot be read, which whoever decodes them reports, do not count."""
    files, hashes = [path for path in paths if path is not None], []
    for i in np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype(int)) if files else ():
        with contextlib.suppress(OSError):
            hashes.append(hash_file(files[i]))
    return np.array(hashes, np.int64).tobytes()


def seen_images(train_hashes, val_hashes, stage_one=None):
    """What a checkpoint remembers: int64 tensor (M, 2) of hashes, rising, and of their ROLES, added up.

    `train_hashes`, `val_hashes`: int64 (N,) of the run's own images; `stage_one`: what its parent remembers, None where that is nothing.
    """
    parts = [(train_hashes, np.full(len(train_hashes), TRAINED)), (val_hashes, np.full(len(val_hashes), CHOSE))]
    if stage_one is not None:
        hashes, roles = stage_one.numpy().T
        trained, chose = roles & (TRAINED | STAGE_ONE_TRAINED) > 0, roles & (CHOSE | STAGE_ONE_CHOSE) > 0
        parts.append((hashes, STAGE_ONE_TRAINED * trained + STAGE_ONE_CHOSE * chose))
    hashes, index = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    roles = np.zeros(len(hashes), np.int64)
    np.bitwise_or.at(roles, index, np.concatenate([part[1] for part in parts]))
    return torch.from_numpy(np.stack([hashes, roles], axis=1))


def own_images_differ(a, b) -> bool:
    """Whether two runs, of which `a` and `b` are `seen_images`, have other images of their own; stage one's do not count."""
    return not torch.equal(*(torch.stack([seen[:, 0], seen[:, 1] & OWN], 1)[seen[:, 1] & OWN > 0] for seen in (a, b)))


def roles_of(hashes, seen):
    """ROLES, added up, of images with these `hashes` (int64 (N,)) in `seen` (see `seen_images`): int64 (N,), 0 for unseen ones."""
    known, roles = seen.numpy().T
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[places] == hashes, roles[places], 0)
