"""A checksum of everything in a checkpoint."""
import hashlib

import torch


def digest(value):
    """SHA-256, hexadecimal, of plain values and tensors in nested dictionaries, lists and tuples; keys in any order."""
    result = hashlib.sha256()

    def add(item):
        if isinstance(item, dict):
            result.update(b'{')
            for key in sorted(item, key=repr):
                result.update(repr(key).encode())
                add(item[key])
        elif isinstance(item, (list, tuple)):
            result.update(b'[')
            for each in item:
                add(each)
        elif isinstance(item, torch.Tensor):
            result.update(repr((item.dtype, tuple(item.shape))).encode())
            result.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            result.update(repr(item).encode() + b';')
    add(value)
    return result.hexdigest()
