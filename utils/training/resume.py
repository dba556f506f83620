"""What a run that was stopped has left in its folder, read and checked before it continues."""
import glob
import os
import re
from typing import Any, NamedTuple

from utils.common import InputError
from utils.model_saving_loading import FILE_NAME, read_checkpoint
from utils.runs.formats import COUNT, NUMBER, SCORE, Kind, check_keys, nan_to_null, null_to_nan, read_config, read_log

# Flags that may differ when a run is resumed; --save_path is another spelling of its folder.
# --accumulate, like the number of processes, only changes the batches that a step is cut into: where memory was full, a run goes on.
MAY_DIFFER = ('resume', 'overwrite', 'save_path', 'num_workers', 'cache_dir', 'no_cache', 'tensorboard', 'private', 'accumulate')
DICTIONARY = Kind('a dictionary', lambda value: isinstance(value, dict))
STATE = {'optimizer': DICTIONARY, 'schedule': DICTIONARY}  # keys of last/ and interrupted/ beyond those of every checkpoint
MID_EPOCH = {'batches': COUNT, 'total': SCORE, 'lr': NUMBER, 'seconds': NUMBER, 'prepare': DICTIONARY, 'random': DICTIONARY}
SUMMARY = ('kappa', 'auc', 'mcc', 'loss')  # scores in val_metrics.txt


class StoppedRun(NamedTuple):
    config: dict[str, Any]
    history: list[dict[str, Any]]  # records of the epochs that are done
    last: dict[str, Any] | None  # checkpoint last/; None where no epoch was done
    mid_epoch: dict[str, Any] | None  # checkpoint interrupted/, if it is later than last/
    kept: list[tuple[str, int]]  # folder and epoch of each of the best checkpoints
    leftovers: list[str]  # folders of checkpoints that are incomplete, or later than last/


def read_stopped_run(folder: str, flags: dict[str, Any]) -> StoppedRun:
    """Read what the run in `folder` left. Raises `InputError` if it is finished, was started with other `flags`, or cannot go on."""
    if os.path.exists(os.path.join(folder, 'val_metrics.txt')):
        raise InputError(f'{folder} is finished: there is nothing to resume: test it (--overwrite starts it anew)')
    config = read_config(folder)
    check_flags(folder, config, flags)
    last, history = _read_last(folder, flags['metric'])
    done = last['epoch'] if last else 0
    kept, leftovers = [], []
    for checkpoint in glob.glob(os.path.join(glob.escape(folder), 'epoch_*')):
        if named := re.match(r'epoch_(\d{1,9})_', os.path.basename(checkpoint)):  # else it is not ours
            epoch = int(named.group(1))
            if epoch > done or not os.path.exists(os.path.join(checkpoint, FILE_NAME)):
                leftovers.append(checkpoint)
            else:
                kept.append((checkpoint, epoch))
    return StoppedRun(config, history, last, _read_mid_epoch(folder, flags, done), kept=kept, leftovers=leftovers)


def check_flags(folder: str, saved: dict[str, Any], flags: dict[str, Any]) -> None:
    """Raise `InputError` that names the `flags` that differ from the `saved` configuration although they must not."""
    differing = [f'--{name} {value} (saved: {saved.get(name)})' for name, value in nan_to_null(flags).items()
                 if name not in MAY_DIFFER and saved.get(name) != value]
    if differing:
        raise InputError(f"{folder} was started with other flags: {', '.join(differing)}; resume it with the saved ones, or start "
                         'another run with another --save_path')


def _read_last(folder, metric):
    """-> checkpoint last/ and the records up to it; (None, []) for a run that was interrupted before its first epoch was done."""
    place, log = os.path.join(folder, 'last'), os.path.join(folder, 'log.jsonl')
    if not os.path.exists(os.path.join(place, FILE_NAME)):
        return None, []
    try:
        last = read_checkpoint(place)
        check_keys(last, place, STATE)
    except InputError as err:
        raise InputError(f'{err}: the run cannot be resumed, --overwrite starts it anew') from err
    history = [null_to_nan(record) for record in read_log(folder)][:last['epoch']]
    if len(history) < last['epoch']:
        raise InputError(f"{log} has {len(history)} epochs, last/ {last['epoch']}: --overwrite starts the run anew")
    for number, record in enumerate(history, start=1):
        missing = [name for name in ('seconds',) if name not in record]
        missing += [name for split in ('train', 'val') for name in (*SUMMARY, metric) if name not in record[split]]
        if missing:
            raise InputError(f'{log}, line {number} is incomplete: it lacks {missing[0]}')
    return last, history


def _read_mid_epoch(folder, flags, n_done):
    """Checkpoint interrupted/, counted in batches of the present --accumulate; None where its epoch has been done since."""
    place = os.path.join(folder, 'interrupted')
    if not os.path.exists(os.path.join(place, FILE_NAME)):
        return None
    saved = read_checkpoint(place)
    check_keys(saved, place, STATE | MID_EPOCH)
    if saved['epoch'] != n_done:
        return None
    before, now = saved['config'].get('accumulate', 1), flags['accumulate']  # config.cfg may be of a later attempt to resume
    return saved if now == before else saved | {'batches': saved['batches'] // before * now, 'total': saved['total'] * now / before}
