"""Read and check the files of a stopped run before it is resumed."""
import glob
import os
import re
from typing import Any, NamedTuple

from utils.common import InputError
from utils.model_saving_loading import FILE_NAME, read_checkpoint
from utils.runs.formats import COUNT, NUMBER, SCORE, Kind, check_keys, nan_to_null, null_to_nan, read_config, read_log

# Flags that may differ when a run is resumed. --save_path may spell the same folder in another way. --accumulate only changes how a step
# is split into batches, like the number of processes: after an out-of-memory error, a run can be resumed with a larger value.
MAY_DIFFER = ('resume', 'overwrite', 'save_path', 'num_workers', 'cache_dir', 'no_cache', 'tensorboard', 'private', 'accumulate',
              'data_device')
DICTIONARY = Kind('a dictionary', lambda value: isinstance(value, dict))
STATE = {'optimizer': DICTIONARY, 'schedule': DICTIONARY}  # keys that last/ and interrupted/ have in addition to every checkpoint
MID_EPOCH = {'batches': COUNT, 'total': SCORE, 'lr': NUMBER, 'seconds': NUMBER, 'prepare': DICTIONARY, 'random': DICTIONARY}
SUMMARY = ('kappa', 'auc', 'mcc', 'loss')  # scores in val_metrics.txt


class StoppedRun(NamedTuple):
    config: dict[str, Any]
    history: list[dict[str, Any]]  # records of the finished epochs
    last: dict[str, Any] | None  # checkpoint last/; None if no epoch was finished
    mid_epoch: dict[str, Any] | None  # checkpoint interrupted/, if it is later than last/
    kept: list[tuple[str, int]]  # folder and epoch of each best checkpoint
    leftovers: list[str]  # checkpoint folders that are incomplete or later than last/


def read_stopped_run(folder: str, flags: dict[str, Any]) -> StoppedRun:
    """Read the run in `folder`. Raises `InputError` if it is finished, was started with other `flags`, or cannot be resumed."""
    if os.path.exists(os.path.join(folder, 'val_metrics.txt')):
        raise InputError(f'{folder} is finished and cannot be resumed: test it, or start it again with --overwrite')
    config = read_config(folder)
    check_flags(folder, config, flags)
    last, history = _read_last(folder, flags['metric'])
    done = last['epoch'] if last else 0
    kept, leftovers = [], []
    for checkpoint in glob.glob(os.path.join(glob.escape(folder), 'epoch_*')):
        if named := re.match(r'epoch_(\d{1,9})_', os.path.basename(checkpoint)):  # other folders are not checkpoints of the run
            epoch = int(named.group(1))
            if epoch > done or not os.path.exists(os.path.join(checkpoint, FILE_NAME)):
                leftovers.append(checkpoint)
            else:
                kept.append((checkpoint, epoch))
    return StoppedRun(config, history, last, _read_mid_epoch(folder, flags, done), kept=kept, leftovers=leftovers)


def check_flags(folder: str, saved: dict[str, Any], flags: dict[str, Any]) -> None:
    """Raise `InputError` if `flags` differ from the `saved` configuration, except those in MAY_DIFFER."""
    differing = [f'--{name} {value} (saved: {saved.get(name)})' for name, value in nan_to_null(flags).items()
                 if name not in MAY_DIFFER and saved.get(name) != value]
    if differing:
        raise InputError(f"{folder} was started with other flags: {', '.join(differing)}: resume it with the saved ones, or start "
                         'another run with another --save_path')


def _read_last(folder, metric):
    """-> checkpoint last/ and the records up to it; (None, []) if the run was interrupted in its first epoch."""
    place, log = os.path.join(folder, 'last'), os.path.join(folder, 'log.jsonl')
    if not os.path.exists(os.path.join(place, FILE_NAME)):
        return None, []
    try:
        last = read_checkpoint(place)
        check_keys(last, place, STATE)
    except InputError as err:
        raise InputError(f'{err}: the run cannot be resumed, start it again with --overwrite') from err
    history = [null_to_nan(record) for record in read_log(folder)][:last['epoch']]
    if len(history) < last['epoch']:
        raise InputError(f"{log} has {len(history)} epochs, but last/ has {last['epoch']}: start the run again with --overwrite")
    for number, record in enumerate(history, start=1):
        missing = [name for name in ('seconds',) if name not in record]
        missing += [name for split in ('train', 'val') for name in (*SUMMARY, metric) if name not in record[split]]
        if missing:
            raise InputError(f'{log}, line {number} is incomplete: it lacks {missing[0]}')
    return last, history


def _read_mid_epoch(folder, flags, n_done):
    """Checkpoint interrupted/, with batches counted for the current --accumulate; None if its epoch has been finished since."""
    place = os.path.join(folder, 'interrupted')
    if not os.path.exists(os.path.join(place, FILE_NAME)):
        return None
    saved = read_checkpoint(place)
    check_keys(saved, place, STATE | MID_EPOCH)
    if saved['epoch'] != n_done:
        return None
    before, now = saved['config'].get('accumulate', 1), flags['accumulate']  # config.cfg may come from a later attempt to resume
    return saved if now == before else saved | {'batches': saved['batches'] // before * now, 'total': saved['total'] * now / before}
