"""The folder of one training run: config.cfg, performance_epoch_NN.txt, log.jsonl, the best checkpoints, last/, val_metrics.txt."""
import fnmatch
import glob
import json
import math
import os
import re
import shutil

from filelock import FileLock, Timeout

from utils.common import NO_ROOM, InputError, check_writable, remove, write_text
from utils.data.bad_images import write_skipped
from utils.data.image_hashes import own_images_differ
from utils.evaluation import is_better
from utils.model_saving_loading import FIELDS, FILE_NAME, read_checkpoint, save_model
from utils.runs.formats import COUNT, NUMBER, SCORE, Kind, check_keys, read_config, read_log

OWN = ('config.cfg', 'environment.json', 'log.jsonl', 'val_metrics.txt', 'skipped.csv', 'performance_epoch_*.txt', 'epoch_*', 'last',
       'interrupted', 'tensorboard')  # what a run writes
# Flags that may differ when a run is resumed; --save_path is another spelling of its folder.
# --accumulate, like the number of processes, only changes the batches that a step is cut into: where memory was full, a run goes on.
HARMLESS = ('resume', 'overwrite', 'save_path', 'num_workers', 'cache_dir', 'no_cache', 'tensorboard', 'private', 'accumulate')


_DICTIONARY = Kind('a dictionary', lambda value: isinstance(value, dict))
STATE = {'optimizer': _DICTIONARY, 'schedule': _DICTIONARY}  # of last/ and interrupted/
STATE_WITHIN = {'batches': COUNT, 'total': SCORE, 'lr': NUMBER, 'seconds': NUMBER, 'prepare': _DICTIONARY, 'random': _DICTIONARY}
SUMMARY = ('kappa', 'auc', 'mcc', 'loss')  # scores in val_metrics.txt


def to_json(value):
    """NaN, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _from_json(value):
    return {key: _from_json(item) for key, item in value.items()} if isinstance(value, dict) else math.nan if value is None else value


def name_of_run(checkpoint_folder):
    """experiments/a/b/epoch_07_.../ -> a/b: a run's results are filed under its own path below experiments/."""
    path = os.path.abspath(checkpoint_folder)
    run = os.path.dirname(path) if re.match(r'(epoch_\d+|last$)', os.path.basename(path)) else path
    parts = run.split(os.sep)
    below = parts[len(parts) - parts[::-1].index('experiments'):] if 'experiments' in parts else []
    return os.path.join(*(below or parts[-1:]))


class RunFolder:
    """`path` None (--do_not_save) keeps the history in memory and writes nothing; without `writes` (all processes but the first) the
    folder is only read. `history` has one record per epoch, `kept` the score of each checkpoint folder on disk; when a run is
    resumed, `state` is the content of last/ and `within` that of interrupted/ if it was stopped later than that, else None."""

    def __init__(self, path, metric, n_checkpoints, flags, resume=False, overwrite=False, writes=True):
        self.path, self.metric, self.n_checkpoints = path, metric, n_checkpoints
        self.history, self.kept, self.state, self.within = [], {}, None, None
        self.replaces, self.saved, self.lock = False, None, None
        if path is None:
            return
        if os.path.normpath(path) in ('.', 'experiments'):
            raise InputError('--save_path names no folder below experiments/')
        nested = [above for above in self._above() if os.path.exists(os.path.join(above, 'config.cfg'))]
        nested += [os.path.dirname(file) for file in glob.glob(os.path.join(glob.escape(path), '*', '**', 'config.cfg'), recursive=True)]
        if nested:
            raise InputError(f'--save_path: {path} lies within or around another run, {nested[0]}: choose another name')
        if writes:
            check_writable(path)
        exists = os.path.exists(self.file('config.cfg'))
        if resume and overwrite:
            raise InputError('--resume and --overwrite exclude each other')
        if resume and not exists:
            raise InputError(f'nothing to resume: {path} holds no run (without --resume it is started)')
        if exists and not (resume or overwrite):
            raise InputError(f'{path} already holds a run: continue it with --resume, replace it with --overwrite, '
                             'or choose another --save_path')
        if writes and os.path.isdir(path):  # a new folder is made, and locked, when everything has been checked
            self._lock()
        self.replaces = exists and overwrite
        if resume:
            self._continue(flags, writes)
        if not writes:
            self.path = None

    def file(self, *names):
        return os.path.join(self.path, *names)

    def _above(self):
        """The folders between this run and the working folder, experiments/ included."""
        folder = os.path.dirname(os.path.normpath(self.path))
        while folder not in ('', '/'):
            yield folder
            folder = os.path.dirname(folder)

    def _continue(self, flags, writes):
        if os.path.exists(self.file('val_metrics.txt')):
            raise InputError(f'{self.path} is finished: there is nothing to resume: test it (--overwrite starts it anew)')
        self.saved = read_config(self.path)
        differing = [f'--{name} {value} (saved: {self.saved.get(name)})' for name, value in to_json(flags).items()
                     if name not in HARMLESS and self.saved.get(name) != value]
        if differing:
            raise InputError(f"{self.path} was started with other flags: {', '.join(differing)}; resume it with the saved ones, or start "
                             'another run with another --save_path')
        if os.path.exists(self.file('interrupted', FILE_NAME)):
            self.within = read_checkpoint(self.file('interrupted'))
            check_keys(self.within, self.file('interrupted'), STATE | STATE_WITHIN)
            before, now = self.saved.get('accumulate', 1), flags.get('accumulate', 1)
            if now != before:
                self.within |= {'batches': self.within['batches'] // before * now, 'total': self.within['total'] * now / before}
        if os.path.exists(self.file('last', FILE_NAME)):  # else interrupted before its first epoch was done
            try:
                self.state = read_checkpoint(self.file('last'))
                check_keys(self.state, self.file('last'), STATE)
            except InputError as err:
                raise InputError(f'{err}: the run cannot be resumed, --overwrite starts it anew') from err
            self.history = [_from_json(record) for record in read_log(self.path)][:self.state['epoch']]
            self._check_history()
        done = self.state['epoch'] if self.state else 0
        if self.within and self.within['epoch'] != done:
            self.within = None  # of an epoch that has been done since
        for folder in glob.glob(self.file('epoch_*')):
            named = re.match(r'epoch_(\d{1,9})_', os.path.basename(folder))
            if named is None:  # not ours
                continue
            epoch = int(named.group(1))
            if epoch > done or not os.path.exists(os.path.join(folder, FILE_NAME)):
                if writes:
                    remove(folder)
            else:
                self.kept[folder] = self.score(epoch)
        if writes:
            prune_checkpoints(self.kept, self.n_checkpoints, self.metric)

    def _check_history(self):
        """Raise `InputError` unless the log has all epochs of last/, with the scores that the summary of a run shows."""
        log = self.file('log.jsonl')
        if len(self.history) < self.state['epoch']:
            raise InputError(f"{log} has {len(self.history)} epochs, last/ {self.state['epoch']}: --overwrite starts the run anew")
        for number, record in enumerate(self.history, start=1):
            missing = [name for name in ('seconds',) if name not in record]
            missing += [name for split in ('train', 'val') for name in (*SUMMARY, self.metric) if name not in record[split]]
            if missing:
                raise InputError(f'{log}, line {number} is incomplete: it lacks {missing[0]}')

    def _lock(self):
        """One process at a time: the lock goes with the process, however it ends."""
        os.makedirs(self.path, exist_ok=True)
        path = self.file('.lock')
        self.lock = FileLock(path)  # neither follows a link nor empties a file
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f'another process is training into {self.path}: choose another --save_path') from None
        except (OSError, NotImplementedError) as err:
            if os.path.islink(path) or isinstance(err, PermissionError):
                raise InputError(f'{path} is a link or the file of another user, so {self.path} cannot be locked: delete it, or choose '
                                 'another --save_path') from err
            # else a file system without locks

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.lock:
            self.lock.release()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise InputError(f'{error}: free some space there, then the same command with --resume goes on') from error

    def start(self, config, environment, datasets=(), image_hashes=None):
        """Everything has been checked: only now remove what --overwrite replaces, and write config.cfg, environment.json and
        skipped.csv for what `datasets` left out. A run that is resumed must still find the same csvs and images, of which `image_hashes`
        are the `seen_images`."""
        if self.path is None:
            return
        if self.lock is None:
            self._lock()
            if os.path.exists(self.file('config.cfg')):
                raise InputError(f'{self.path} holds a run that was made meanwhile: choose another --save_path')
        if self.saved:
            changed = [f"--csv_{name} {config[f'csv_{name}']}" for name, digest in config['csv_sha256'].items()
                       if self.saved['csv_sha256'][name] != digest]
            if changed:
                raise InputError(f"{self.path} cannot be resumed: {' and '.join(changed)} changed since it was started")
        if self.replaces:
            if config['parent'] and os.path.abspath(config['parent']['path']).startswith(os.path.abspath(self.path) + os.sep):
                raise InputError(f'--overwrite would delete the run that --pretrained_weights starts from, {self.path}')
            for path in [path for pattern in OWN for path in glob.glob(os.path.join(glob.escape(self.path), pattern))]:
                remove(path)
        for folder, _, files in os.walk(self.path):  # which follows no links
            for file in fnmatch.filter(files, '*.[0-9]*.tmp'):
                os.remove(os.path.join(folder, file))  # of a process that was killed while it wrote
        os.makedirs(self.path, exist_ok=True)
        write_skipped(self.file('skipped.csv'), datasets, bool(self.saved))
        before = (self.within or self.state or {}).get('image_hashes')
        if before is not None and own_images_differ(before, image_hashes):
            raise InputError(f'{self.path} cannot be resumed: the contents of images changed since it was started')
        write_text(self.file('environment.json'), json.dumps(environment, indent=2) + '\n')
        write_text(self.file('config.cfg'), json.dumps(to_json(config), indent=2) + '\n')

    def score(self, epoch):
        return self.history[epoch - 1]['val'][self.metric]

    def best_epoch(self):
        """Counts from 1; the earliest of equals."""
        best = 1
        for epoch in range(2, len(self.history) + 1):
            if is_better(self.metric, self.score(epoch), self.score(best)):
                best = epoch
        return best

    def end_epoch(self, record, performance, checkpoint):
        """Record, report and checkpoint one epoch. A crash in between repeats the epoch from the previous last/."""
        self.history.append(record)
        epoch, val = record['epoch'], record['val']
        if self.path is None:
            return
        write_text(self.file(f'performance_epoch_{epoch:02d}.txt'), performance)
        write_text(self.file('log.jsonl'), ''.join(json.dumps(to_json(line)) + '\n' for line in self.history))
        if len(self.kept) < self.n_checkpoints or any(is_better(self.metric, self.score(epoch), s) for s in self.kept.values()):
            name = f'epoch_{epoch:02d}_K_{100 * val["kappa"]:.2f}_mAUC_{100 * val["auc"]:.2f}_MCC_{100 * val["mcc"]:.2f}'
            save_model(self.file(name), {name: checkpoint[name] for name in (*FIELDS, 'image_hashes')})
            self.kept[self.file(name)] = self.score(epoch)
        save_model(self.file('last'), checkpoint)
        shutil.rmtree(self.file('interrupted'), ignore_errors=True)
        prune_checkpoints(self.kept, self.n_checkpoints, self.metric)

    def interrupt(self, checkpoint):
        """Save the state within an epoch; `checkpoint['epoch']` are the epochs that are done."""
        if self.path is not None:
            save_model(self.file('interrupted'), checkpoint)

    def finish(self):
        """Write val_metrics.txt, which also marks the run as finished."""
        best, hours = self.best_epoch(), sum(record['seconds'] for record in self.history) / 3600
        val = self.history[best - 1]['val']
        lines = [f'Best {name} = {100 * val[key]:.2f}'
                 for name, key in (('K', 'kappa'), ('mAUC', 'auc'), ('MCC', 'mcc'), ('BACC', 'bacc'))]
        lines += [f'Best epoch = {best}', '']
        for record in self.history:
            t, v = record['train'], record['val']
            lines.append(f"Epoch = {record['epoch']} -> K={100 * t['kappa']:.2f}/{100 * v['kappa']:.2f}, "
                         f"mAUC={100 * t['auc']:.2f}/{100 * v['auc']:.2f}, MCC={100 * t['mcc']:.2f}/{100 * v['mcc']:.2f}, "
                         f"Loss={t['loss']:.4f}/{v['loss']:.4f},")
        lines += ['', f'Training time: {int(hours):02d}h {int(hours * 60 % 60):02d}min {hours * 3600 % 60:05.2f}secs', '']
        if self.path is not None:
            write_text(self.file('val_metrics.txt'), '\n'.join(lines))


def prune_checkpoints(kept, n_checkpoints, metric):
    """`kept`: folder -> score of the checkpoints on disk. Deletes the worst until `n_checkpoints` are left."""
    while len(kept) > n_checkpoints:
        worst = next(iter(kept))
        for folder, score in kept.items():
            if not is_better(metric, score, kept[worst]):
                worst = folder
        remove(worst)
        del kept[worst]
