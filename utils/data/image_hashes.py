"""Content hashes of image files. A checkpoint stores them to recognise the images it has seen, whatever their names and folders."""
import contextlib
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

SAMPLE = 16  # files hashed as a sample of a data set
# How a checkpoint has seen an image: bits of the second column of its `image_hashes`, and their description in messages.
TRAINED, CHOSE, STAGE_ONE_TRAINED, STAGE_ONE_CHOSE = 1, 2, 4, 8
ROLES = {TRAINED: 'in training', CHOSE: 'in checkpoint selection', STAGE_ONE_TRAINED: 'in training of stage one',
         STAGE_ONE_CHOSE: 'in checkpoint selection of stage one'}
OWN_ROLES = TRAINED | CHOSE


def content_hash(content: bytes) -> int:
    """Return the first 8 bytes of BLAKE2b as a signed integer. A collision among a million files has a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), 'little', signed=True)


def hash_file(path: str) -> int:
    with open(path, 'rb') as f:
        return content_hash(f.read())


def hash_files(paths: Sequence[str | None], n_threads: int = 1) -> np.ndarray:
    """Return the `content_hash` of each file, int64 (N,); 0 for None."""
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        hashes = tqdm(pool.map(lambda path: 0 if path is None else hash_file(path), paths), total=len(paths), desc='hash', unit='img',
                      leave=False, disable=None)
        return np.fromiter(hashes, np.int64, len(paths))


def hash_sample(paths: Sequence[str | None]) -> bytes:
    """Hash SAMPLE evenly spaced files of `paths` (None: no file), to distinguish data sets with equal names, sizes and times.

    Files that cannot be read are skipped; decoding reports them later.
    """
    files, hashes = [path for path in paths if path is not None], []
    for i in np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype(int)) if files else ():
        with contextlib.suppress(OSError):
            hashes.append(hash_file(files[i]))
    return np.array(hashes, np.int64).tobytes()


def seen_images(train_hashes: np.ndarray, val_hashes: np.ndarray, stage_one: torch.Tensor | None = None) -> torch.Tensor:
    """Build the `image_hashes` of a checkpoint: int64 tensor (M, 2) of hashes, ascending, and the sum of their ROLES.

    `train_hashes`, `val_hashes`: int64 (N,), of the images of this run. `stage_one`: the `image_hashes` of the checkpoint of stage one.
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


def merge_seen(all_seen: Sequence[torch.Tensor]) -> torch.Tensor:
    """The `image_hashes` of an ensemble from those of its members. An image that trained one member counts only as a training image."""
    hashes, index = np.unique(np.concatenate([seen[:, 0].numpy() for seen in all_seen]), return_inverse=True)
    roles = np.zeros(len(hashes), np.int64)
    np.bitwise_or.at(roles, index, np.concatenate([seen[:, 1].numpy() for seen in all_seen]))
    roles &= np.where(roles & (TRAINED | STAGE_ONE_TRAINED), ~(CHOSE | STAGE_ONE_CHOSE), ~0)
    return torch.from_numpy(np.stack([hashes, roles], axis=1))


def own_images_differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether runs with `image_hashes` `a` and `b` trained or validated on different images; stage one is ignored."""
    return not torch.equal(*(torch.stack([seen[:, 0], seen[:, 1] & OWN_ROLES], 1)[seen[:, 1] & OWN_ROLES > 0] for seen in (a, b)))


def roles_of(hashes: np.ndarray, seen: torch.Tensor) -> np.ndarray:
    """Return the sum of the ROLES in `seen` (see `seen_images`) of images with these `hashes` (int64 (N,)): int64 (N,); 0 if unseen."""
    known, roles = seen.numpy().T
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[places] == hashes, roles[places], 0)
