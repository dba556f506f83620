"""Write several trained networks as one: a run folder whose checkpoint is an `Ensemble`."""
import json
import os
import shutil
from collections.abc import Sequence

import numpy as np

from utils.common import InputError, write_text
from utils.data.image_hashes import merge_seen
from utils.model_saving_loading import FIELDS, read_checkpoint, save_model
from utils.runs.formats import MAX_MEMBERS, nan_to_null, read_config
from utils.runs.paths import is_run, without_checkpoint

# Facts that the members must agree in: those of the network, and those that decide which class prior it has learnt
SHARED = ('model_name', 'head', 'class_names', 'im_size', 'mean', 'std', 'loss_fn', 'loss_params', 'sampling', 'mixing', 'defer')


def save_ensemble(paths: Sequence[str], folder: str, overwrite: bool = False) -> None:
    """Write the networks at `paths` (see `read_checkpoint`) to the run folder `folder`, completely or not at all.

    The folder has config.cfg, that of the first network with a list of the members, and one checkpoint. The scores of the checkpoint are
    means over the members. `overwrite`: replace another ensemble. Raises `InputError` if the networks do not fit together, or if `folder`
    exists and is not to be replaced.
    """
    if os.path.exists(folder) and not (overwrite and members_of(folder)):
        replace = ', or replace it with --overwrite' if os.path.exists(folder) and members_of(folder) else ''
        raise InputError(f'{folder} already exists: remove it, or choose another folder{replace}')
    if not 2 <= len(paths) <= MAX_MEMBERS:
        raise InputError(f'an ensemble needs 2 to {MAX_MEMBERS} networks, not {len(paths)}')
    members = [read_checkpoint(path) for path in paths]
    if twice := [member['folder'] for i, member in enumerate(members) if member['folder'] in [other['folder'] for other in members[:i]]]:
        raise InputError(f'{twice[0]} is given twice')
    first = members[0]
    for member in members:
        if 'members' in member['config']:
            raise InputError(f"{member['folder']} is an ensemble already: give its networks")
        for name in SHARED:
            own, other = _fact(first, name), _fact(member, name)
            if own != other:
                raise InputError(f"{first['folder']} and {member['folder']} do not fit together: {name} is {own} and {other}")
    facts = [{'path': member['folder'], 'epoch': member['epoch'], 'seed': member['config']['seed'],
              'score': member['metrics'].get(member['config']['metric'])} for member in members]
    config = first['config'] | {'members': facts}
    partial = f'{folder.rstrip("/")}.{os.getpid()}.tmp'
    try:
        checkpoint = os.path.join(partial, f"epoch_{max(member['epoch'] for member in members):02d}_ensemble")
        seen = [member['image_hashes'] for member in members]
        save_model(checkpoint, {name: first[name] for name in FIELDS} | {
            'state_dict': {f'members.{i}.{name}': tensor for i, member in enumerate(members)
                           for name, tensor in member['state_dict'].items()},
            'class_count': np.mean([member['class_count'] for member in members], axis=0).round().astype(int).tolist(),
            'epoch': max(member['epoch'] for member in members), 'metrics': _mean_metrics(members), 'config': config,
            'image_hashes': merge_seen(seen) if all(hashes is not None for hashes in seen) else None})
        write_text(os.path.join(partial, 'config.cfg'), json.dumps(nan_to_null(config), indent=2) + '\n')
        if os.path.exists(folder):
            shutil.rmtree(folder)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def members_of(folder: str) -> list[str]:
    """-> run folders of the networks of the ensemble in `folder`; [] if there is none"""
    if not is_run(folder):
        return []
    return [without_checkpoint(member['path']) for member in read_config(folder).get('members', [])]


def are_folds(paths: Sequence[str]) -> bool:
    """Whether the networks at `paths` were validated on different csvs, so that no validation image is new to their ensemble."""
    return len({str(read_checkpoint(path)['config']['csv_sha256'].get('val')) for path in paths}) > 1


def _fact(info, name):
    defaults = {'head': 'linear', 'defer': 0.}
    return info[name] if name in info else info['config'].get(name, defaults.get(name))


def _mean_metrics(members):
    """-> mean of each score that is a number in all members"""
    scores = {name: [member['metrics'].get(name) for member in members] for name in members[0]['metrics']}
    return {name: float(np.mean(values)) for name, values in scores.items() if all(isinstance(value, (int, float)) for value in values)}
