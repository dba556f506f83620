"""The same picture twice: the same file, or nearly the same pixels (saved, scaled or compressed anew)."""
import hashlib
import io
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from .images import read_image

SIZE = 64  # pixels at which pictures are compared
MAX_DISTANCE, MAX_DIFFERENCE = 6, 4.  # bits of the hash, grey levels; how they were chosen: docs/reliability.md
CHUNK = 1 << 14  # pairs compared at once
BLANK = 2.  # grey levels


class Look(NamedTuple):
    """What one file shows. `problem`: why it cannot be read, else None; `note`: what is unusual about it, else None."""
    problem: str | None
    note: str | None = None
    digest: bytes = b''  # SHA-256 of the file
    bits: int = 0  # difference hash of 64 bits: is a cell of an 8x9 grid brighter than its left neighbour?
    grey: bytes = b''  # 16x16 grey levels


def look_at(path):
    try:
        with open(path, 'rb') as f:
            content = f.read()
        if not content:
            return Look('the file is empty')
        image = read_image(io.BytesIO(content), (SIZE, SIZE))
        with Image.open(io.BytesIO(content)) as opened:
            frames, size, mode = getattr(opened, 'n_frames', 1), opened.size, opened.mode
    except Exception as err:  # `read_image` raises OSError, counting the frames of a damaged file nearly anything
        return Look(str(err) or type(err).__name__)
    grey = image.float().mean(0)[None, None]
    cells = F.adaptive_avg_pool2d(grey, (8, 9))[0, 0]
    bits = int.from_bytes(np.packbits((cells[:, 1:] > cells[:, :-1]).numpy()).tobytes(), 'big')
    notes = [text for text, holds in (
        (f'{frames} pictures in one file, the first one counts', frames > 1),
        ('16-bit grey levels, scaled to 8 bits', mode.startswith('I;16')),
        ('one colour only', float(grey.std()) < BLANK), (f'only {size[0]}x{size[1]} pixels', min(size) < 32)) if holds]
    small = F.adaptive_avg_pool2d(grey, (16, 16)).round().to(torch.uint8).numpy().tobytes()
    return Look(None, ', '.join(notes) or None, hashlib.sha256(content).digest(), bits, small)


def look_at_all(paths, n_processes):
    """-> a Look for each of `paths`, in order"""
    with ProcessPoolExecutor(max(1, n_processes)) as pool:
        return list(tqdm(pool.map(look_at, paths, chunksize=16), total=len(paths), desc='look', unit='img', leave=False, disable=None))


def near_pairs(bits, grey, max_distance=MAX_DISTANCE, max_difference=MAX_DIFFERENCE):
    """Pairs (i < j) of pictures whose hashes `bits` (uint64 (N,)) differ in at most `max_distance` bits and whose `grey` levels
    (uint8 (N, P)), each without its mean, in at most `max_difference` on average: int64 (M, 2).

    Two hashes that differ in at most d bits agree in one of d + 1 bands of bits (pigeonhole), so only pictures with a common
    band are compared, in vectors: the k-th neighbours of all at once in the order of the band. Of identical pictures each is
    paired with the first.
    """
    keys = np.ascontiguousarray(np.concatenate([bits.astype('>u8')[:, None].view(np.uint8), grey], 1))
    _, first, inverse = np.unique(keys.view(f'V{keys.shape[1]}').ravel(), return_index=True, return_inverse=True)
    values, candidates = bits[first], [np.stack([first[inverse], np.arange(len(bits))], 1)]
    edges = np.linspace(0, 64, max_distance + 2).astype(int)
    for begin, end in pairwise(edges):
        band = (values >> np.uint64(begin)) & np.uint64((1 << (end - begin)) - 1)
        order = np.argsort(band, kind='stable')
        left, k = np.arange(len(order)), 1
        while len(left := left[left + k < len(order)]):
            left = left[band[order[left]] == band[order[left + k]]]
            a, b = order[left], order[left + k]
            near = np.bitwise_count(values[a] ^ values[b]) <= max_distance
            candidates.append(_similar(np.stack([first[a[near]], first[b[near]]], 1), grey, max_difference))
            k += 1
    pairs = np.unique(np.sort(np.concatenate(candidates), axis=1), axis=0)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def _similar(pairs, grey, max_difference):
    kept = [pairs[:0]]
    for begin in range(0, len(pairs), CHUNK):
        part = pairs[begin:begin + CHUNK]
        difference = grey[part[:, 0]].astype(np.float32) - grey[part[:, 1]]
        kept.append(part[np.abs(difference - difference.mean(1, keepdims=True)).mean(1) <= max_difference])
    return np.concatenate(kept)
