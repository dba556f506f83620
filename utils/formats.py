"""The format of what this project saves, and the upgrade of what older versions saved."""
import json
import os

from .common import InputError

FORMAT = 1  # of config.cfg, and so of a run folder, and of checkpoints; those of version 0.1 have no number, which counts as 0
# Flags that came later than format 0, each with the value that stands for what was done before.
ADDED_FLAGS = {'grow_from': 1., 'label_column': None, 'private': False}


def upgrade(saved: dict, source: str) -> dict:
    """Bring `saved`, the content of a config.cfg or of a checkpoint, to the present format. Raises `InputError` naming the file `source`
    if a newer version of this project wrote it."""
    number = saved.get('format', 0)
    if number > FORMAT:
        raise InputError(f'{source} was written by a newer version of this project (format {number}, this version reads up to {FORMAT}): '
                         'update the code')
    if 'config' in saved:  # a checkpoint, with the configuration of its run inside
        return {'image_hashes': None} | saved | {'format': FORMAT, 'config': upgrade(saved['config'], source)}
    if number == 0:  # where `device` was what the run was trained on, and no flag
        saved = saved | {'device': 'auto', 'device_type': saved.get('device', 'cpu')}
    return ADDED_FLAGS | saved | {'format': FORMAT}


def read_config(folder: str) -> dict:
    """The content of `folder`/config.cfg, brought to the present format (`upgrade`). Raises `InputError` where there is no run."""
    path = os.path.join(folder, 'config.cfg')
    try:
        with open(path, encoding='utf-8') as f:
            return upgrade(json.load(f), path)
    except FileNotFoundError as err:
        raise InputError(f'{folder} is no run folder: it has no config.cfg') from err
    except json.JSONDecodeError as err:
        raise InputError(f'{path} cannot be read as JSON: {err}') from err
