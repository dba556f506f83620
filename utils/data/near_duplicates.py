"""Duplicate pictures: identical files, or the same picture rescaled, recompressed, brightened, rotated or mirrored."""
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from utils.common import counted, preview
from utils.data.images import decode_image, describe_image

READ, SIZE, AROUND, MARGIN = 64, 32, 5, 4  # pixels
SIDE = SIZE - 2 * MARGIN
NOISE, DARK, BLANK = 2., 12., 2.  # grey levels of 255
STEPS = 25  # int8 steps per standard deviation: a value is at most AROUND deviations
BLOCK = 2048  # BLOCK x BLOCK pictures are compared at once


class ImageScan(NamedTuple):
    """Findings on one file. `problem`: why it cannot be read, or None; `note`: what is unusual about it, or None."""
    problem: str | None
    note: str | None = None
    digest: bytes = b''  # SHA-256 of the file
    fingerprint: bytes = b''  # from `fingerprint`


def scan_image(path: str) -> ImageScan:
    """Decode the image at `path`, and report what is wrong or unusual about it."""
    try:
        with open(path, 'rb') as f:
            content = f.read()
        image = decode_image(content, (READ, READ))
        frames, size, mode = describe_image(content)
    except OSError as err:
        return ImageScan(str(err))
    found = fingerprint(image)
    plain = float(image.float().mean(0).std()) < BLANK
    notes = [text for text, holds in (
        (f'{frames} pictures in one file, only the first is used', frames > 1),
        ('16-bit grey levels, scaled to 8 bits', mode.startswith('I;16')),
        ('a single colour', plain), ('too dark to search for duplicates', not plain and not found.any()),
        (f'only {size[0]}x{size[1]} pixels', min(size) < 32)) if holds]
    return ImageScan(None, ', '.join(notes) or None, hashlib.sha256(content).digest(), found.tobytes())


def scan_images(paths: Sequence[str], n_processes: int) -> list[ImageScan]:
    """Scan all files in order, in several processes."""
    with ProcessPoolExecutor(max(1, n_processes)) as pool:
        return list(tqdm(pool.map(scan_image, paths, chunksize=16), total=len(paths), desc='scan', unit='img', leave=False, disable=None))


def fingerprint(image: torch.Tensor) -> np.ndarray:
    """Reduce a picture, uint8 (3, READ, READ), to int8 (SIDE, SIDE) that hardly depends on size, brightness, contrast and colour.

    The picture is scaled to SIZE x SIZE grey levels, normalised by the local mean and standard deviation, and cut at the margin.
    Pixels next to black are zero, because all photographs of eyes have the same edge. If more than seven eighths are zero, all are set
    to zero, because two such pictures could match by chance.
    """
    grey = F.adaptive_avg_pool2d(image.float().mean(0)[None, None], SIZE)
    detail = grey - _mean_around(grey)
    detail = detail / (_mean_around(detail ** 2).sqrt() + NOISE)
    lit = -F.max_pool2d(-grey, AROUND, 1, AROUND // 2) > DARK
    values = (STEPS * detail * lit).round().to(torch.int8)[0, 0, MARGIN:-MARGIN, MARGIN:-MARGIN].numpy()
    return values if np.count_nonzero(values) >= values.size / 8 else np.zeros_like(values)


def _mean_around(grey):
    return F.avg_pool2d(grey, AROUND, 1, AROUND // 2, count_include_pad=False)


def similar_pairs(fingerprints: np.ndarray, similarity: float) -> np.ndarray:
    """Find the pairs (i < j) of `fingerprints`, int8 (N, S, S), whose cosine is at least `similarity`: int64 (M, 2), sorted.

    Rotations by multiples of 90 degrees and mirror images count as similar. All pairs are compared by matrix products in blocks, on the
    GPU if there is one. Up to a few hundred thousand pictures, this takes less time than reading them.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    prints, pairs = torch.from_numpy(fingerprints), [np.empty((0, 2), np.int64)]
    starts = range(0, len(prints), BLOCK)
    with tqdm(total=len(starts) * (len(starts) + 1) // 2, desc='compare', unit='block', leave=False, disable=None) as bar:
        for i in starts:
            block = prints[i:i + BLOCK].to(device)
            views = [_unit(torch.rot90(side, turns, (1, 2))) for side in (block, block.flip(2)) for turns in range(4)]
            for j in starts[i // BLOCK:]:
                others = _unit(prints[j:j + BLOCK].to(device)).T
                most = views[0] @ others
                for view in views[1:]:
                    torch.maximum(most, view @ others, out=most)
                found = (torch.nonzero(most >= similarity) + torch.tensor([i, j], device=device)).cpu().numpy()
                pairs.append(found[found[:, 0] < found[:, 1]])
                bar.update()
    return np.unique(np.concatenate(pairs), axis=0)


def find_pairs(scans: Mapping[str, ImageScan], similarity: float) -> pd.DataFrame:
    """Return the duplicates among the readable files in `scans`: columns image_a, image_b, kind ('same file' or 'the same picture').

    Only the first of several identical files is compared with other pictures.
    """
    pairs: list = []
    first: dict = {}
    for path, scan in scans.items():
        if not scan.problem and first.setdefault(scan.digest, path) != path:
            pairs.append((first[scan.digest], path, 'same file'))
    paths = list(first.values()) if similarity < 1 else []
    prints = np.frombuffer(b''.join(scans[path].fingerprint for path in paths), np.int8).reshape(-1, SIDE, SIDE)
    pairs += [(paths[i], paths[j], 'the same picture') for i, j in similar_pairs(prints.copy(), similarity)]
    return pd.DataFrame(pairs, columns=['image_a', 'image_b', 'kind'])


def describe_pairs(pairs: pd.DataFrame, owners: Mapping[str, dict[str, int]]) -> tuple[list[str], list[str]]:
    """Return (problems, notes) about the pairs of `find_pairs`. A pair across two csvs, or with two labels, is a problem.

    `owners`: file -> {csv: label}.
    """
    groups = defaultdict(list)
    for a, b, kind in pairs.itertuples(index=False):
        csvs = sorted({*owners[a], *owners[b]})
        labels = {*owners[a].values(), *owners[b].values()}
        classes = f" (classes {' and '.join(map(str, sorted(labels)))})" if len(labels) > 1 else ''
        text = f'{os.path.basename(a)} = {os.path.basename(b)}{classes}'
        groups[len(csvs) > 1 or len(labels) > 1, kind, ' and '.join(csvs)].append(text)
    lines = [(wrong, f'{counted(len(texts), "duplicate pair")} ({kind}) in {where}: {preview(texts)}')
             for (wrong, kind, where), texts in groups.items()]
    return [line for wrong, line in lines if wrong], [line for wrong, line in lines if not wrong]


def _unit(fingerprints):
    return F.normalize(fingerprints.flatten(1).float())
