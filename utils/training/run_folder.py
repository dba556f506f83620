"""The folder of one training run: config.cfg, performance_epoch_NN.txt, log.jsonl, the best checkpoints, last/, val_metrics.txt."""
import contextlib
import fnmatch
import glob
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from filelock import FileLock

from utils.common import NO_ROOM, InputError, Interrupted, check_writable, remove, write_text
from utils.data.bad_images import write_skipped
from utils.data.image_hashes import own_images_differ
from utils.evaluation import is_better
from utils.model_saving_loading import FIELDS, save_model
from utils.reproducibility import describe_environment
from utils.runs.formats import nan_to_null
from utils.runs.history import best_epoch, comparable_scores
from utils.training.data import TrainingData
from utils.training.engine import Scores
from utils.training.plan import Epoch
from utils.training.resume import StoppedRun, read_stopped_run
from utils.training.run_lock import lock_folder
from utils.training.run_text import checkpoint_name, epoch_text, summary_text
from utils.training.signals import StopSignal
from utils.training.state import TrainState

WRITTEN = ('config.cfg', 'environment.json', 'log.jsonl', 'val_metrics.txt', 'skipped.csv', 'performance_epoch_*.txt', 'epoch_*', 'last',
           'interrupted', 'tensorboard', 'decision.json', 'skipped_calibrate.csv')  # what a run writes, and --overwrite removes


class RunFolder:
    """Folder, history and checkpoints of a run.

    With `path` None (--do_not_save), the history is kept in memory and nothing is written. Without `writes` (all processes except the
    first), the folder is only read. `flags`: those of the train script.

    `history` has one record per epoch, as in log.jsonl. `kept` is the epoch of each checkpoint folder on disk. When a run is resumed,
    `last` is the checkpoint last/, and `mid_epoch` is the checkpoint interrupted/ if the run was stopped in a later epoch.
    """

    def __init__(self, path: str | None, flags: dict[str, Any], writes: bool = True):
        self.path, self.flags, self.metric = path, flags, flags['metric']
        self.history: list[dict[str, Any]] = []
        self.kept: dict[str, int] = {}
        self.last: dict[str, Any] | None = None
        self.mid_epoch: dict[str, Any] | None = None
        self.stopped: StoppedRun | None = None
        self.lock: FileLock | None = None
        self.replaces = False
        if path is None:
            return
        self._check_place(path, writes)
        exists = os.path.exists(self.file('config.cfg'))
        if flags['resume'] and flags['overwrite']:
            raise InputError('--resume and --overwrite exclude each other: leave one of them out')
        if flags['resume'] and not exists:
            raise InputError(f'nothing to resume: {path} holds no run: leave out --resume to start it')
        if exists and not (flags['resume'] or flags['overwrite']):
            raise InputError(f'{path} already holds a run: continue it with --resume, replace it with --overwrite, '
                             'or choose another --save_path')
        if writes and os.path.isdir(path):  # a new folder is created and locked in `start`, after all checks
            self.lock = lock_folder(path)
        self.replaces = exists and flags['overwrite']
        if flags['resume']:
            self._continue(path, writes)
        if not writes:
            self.path = None

    @classmethod
    def open(cls, args: Namespace, writes: bool) -> 'RunFolder':
        """The run folder for the flags of the train script. Raises `InputError` if it cannot be used. Writes nothing yet."""
        return cls(run_path(args), vars(args), writes)

    def file(self, *names: str) -> str:
        assert self.path is not None
        return os.path.join(self.path, *names)

    @staticmethod
    def _check_place(path, writes):
        if os.path.normpath(path) in ('.', 'experiments'):
            raise InputError('--save_path must name a folder below experiments/')
        nested = [above for above in _folders_above(path) if os.path.exists(os.path.join(above, 'config.cfg'))]
        nested += [os.path.dirname(file) for file in glob.glob(os.path.join(glob.escape(path), '*', '**', 'config.cfg'), recursive=True)]
        if nested:
            raise InputError(f'--save_path: {path} is inside another run or contains one, {nested[0]}: choose another name')
        if writes:
            check_writable(path)

    def _continue(self, path, writes):
        run = self.stopped = read_stopped_run(path, self.flags)
        self.history, self.last, self.mid_epoch = run.history, run.last, run.mid_epoch
        self.kept = dict(run.kept)
        if writes:
            for folder in run.leftovers:
                remove(folder)
            self._prune()

    @property
    def resume_state(self) -> dict[str, Any] | None:
        """The checkpoint to resume from."""
        return self.mid_epoch or self.last

    def __enter__(self) -> 'RunFolder':
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.lock:
            self.lock.release()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise InputError(f'{error}: free some space there and run the same command with --resume') from error

    def start(self, config: dict[str, Any], data: TrainingData) -> None:
        """After all checks, remove what --overwrite replaces, and write config.cfg, environment.json and skipped.csv. Raises `InputError`
        if csvs or images have changed since a resumed run was started."""
        self.config, self.image_hashes = config, data.image_hashes
        if self.path is None:
            return
        if self.lock is None:
            self.lock = lock_folder(self.path)
            if os.path.exists(self.file('config.cfg')):
                raise InputError(f'another process has started a run in {self.path} meanwhile: choose another --save_path')
        if self.stopped:
            self._check_unchanged(self.stopped.config, config)
        if self.replaces:
            _remove_replaced(self.path, config['parent'])
        for folder, _, files in os.walk(self.path):  # does not follow links
            for file in fnmatch.filter(files, '*.[0-9]*.tmp'):
                os.remove(os.path.join(folder, file))  # left by a process that was killed while writing
        os.makedirs(self.path, exist_ok=True)
        write_skipped(self.file('skipped.csv'), (data.train, data.val), bool(self.stopped))
        before, now = (self.resume_state or {}).get('image_hashes'), data.image_hashes
        if before is not None and now is not None and own_images_differ(before, now):
            raise InputError(f'{self.path} cannot be resumed: the contents of images have changed since it was started')
        write_text(self.file('environment.json'), json.dumps(describe_environment(torch.device(config['device_type'])), indent=2) + '\n')
        write_text(self.file('config.cfg'), json.dumps(nan_to_null(config), indent=2) + '\n')
        if self.resume_state:
            batch = f", batch {self.mid_epoch['batches']}" if self.mid_epoch else ''
            print(f'* Resuming {self.path} after epoch {len(self.history)}{batch}')

    def _check_unchanged(self, saved, config):
        changed = [f"--csv_{name} {config[f'csv_{name}']}" for name, digest in config['csv_sha256'].items()
                   if saved['csv_sha256'][name] != digest]
        if changed:
            raise InputError(f"{self.path} cannot be resumed: {' and '.join(changed)} changed since it was started")

    def score(self, epoch: int) -> float:
        """The value of --metric after `epoch`, counted from 1."""
        return self.history[epoch - 1]['val'][self.metric]

    def best_epoch(self) -> int:
        """The best epoch, counted from 1; the earliest of equally good ones."""
        return best_epoch(self.history, self.flags)

    @contextlib.contextmanager
    def saves_on(self, stop: StopSignal, state: TrainState, epoch: Epoch) -> Iterator[None]:
        """If a signal ends the block, save the progress of `epoch`. A pending signal ends the run before the block."""
        stop.check()  # the previous epoch is saved already
        try:
            yield
        except Interrupted:
            if self.path is not None:
                save_model(self.file('interrupted'), self._checkpoint(epoch.number, {}, state) | epoch.state_dict())
            raise

    def _checkpoint(self, n_done, val, state):
        """The checkpoint after `n_done` epochs. `val`: validation scores of the last one."""
        facts = {name: self.config[name] for name in ('model_name', 'class_names', 'class_count', 'im_size')}
        return facts | {'image_hashes': self.image_hashes, 'epoch': n_done, 'metrics': val, 'config': self.config} | state.checkpoint()

    def end_epoch(self, epoch: Epoch, stats: dict[str, float], scores: Scores, state: TrainState) -> None:
        """Record an epoch, and write its report and checkpoints. After a crash in between, the epoch starts again from last/."""
        record = {'epoch': epoch.number + 1, 'lr': stats['lr'], 'training_loss': stats['training_loss'], 'train': scores.train,
                  'val': scores.val, 'images_per_second': stats['images_per_second'], 'seconds': epoch.seconds}
        self.history.append(record)
        self.mid_epoch = None
        if self.path is None:
            return
        number = epoch.number + 1
        write_text(self.file(f'performance_epoch_{number:02d}.txt'), epoch_text(scores, self.config['class_names'], stats['lr']))
        write_text(self.file('log.jsonl'), ''.join(json.dumps(nan_to_null(line)) + '\n' for line in self.history))
        checkpoint = self._checkpoint(number, scores.val, state)
        if len(self.kept) < self.flags['n_checkpoints'] or self._beats_one(number):
            folder = self.file(checkpoint_name(record))
            save_model(folder, {name: checkpoint[name] for name in (*FIELDS, 'image_hashes')})
            self.kept[folder] = number
        save_model(self.file('last'), checkpoint)
        shutil.rmtree(self.file('interrupted'), ignore_errors=True)
        self._prune()

    def _comparable(self, epochs):
        return comparable_scores(epochs, [self.score(epoch) for epoch in epochs], self.flags)

    def _beats_one(self, epoch):
        """Whether `epoch` is better than that of a kept checkpoint."""
        new, *kept = self._comparable([epoch, *self.kept.values()])
        return any(is_better(self.metric, new, score) for score in kept)

    def _prune(self):
        scores = dict(zip(self.kept, self._comparable([*self.kept.values()]), strict=True))
        prune_checkpoints(scores, self.flags['n_checkpoints'], self.metric)
        self.kept = {folder: self.kept[folder] for folder in scores}

    def finish(self) -> None:
        """Write val_metrics.txt, which also marks the run as finished."""
        if self.path is not None:
            write_text(self.file('val_metrics.txt'), summary_text(self.history, self.best_epoch()))


def run_path(args: Namespace) -> str | None:
    """Path of the run folder for the flags of the train script; None with --do_not_save."""
    return None if args.do_not_save else os.path.join('experiments', args.save_path)


def _folders_above(path):
    """The folders between the run at `path` and the working directory, including experiments/."""
    folder = os.path.dirname(os.path.normpath(path))
    while folder not in ('', '/'):
        yield folder
        folder = os.path.dirname(folder)


def _remove_replaced(folder, parent):
    """Remove the files of a run from `folder`. `parent`: the facts of stage one, or None."""
    if parent and os.path.abspath(parent['path']).startswith(os.path.abspath(folder) + os.sep):
        raise InputError(f'--overwrite would delete the run that --pretrained_weights starts from, {folder}: choose another --save_path')
    for path in [path for pattern in WRITTEN for path in glob.glob(os.path.join(glob.escape(folder), pattern))]:
        remove(path)


def prune_checkpoints(kept: dict[str, float], n_checkpoints: int, metric: str) -> None:
    """Delete the worst checkpoints on disk until `n_checkpoints` are left. `kept`: folder -> score, updated in place."""
    while len(kept) > n_checkpoints:
        worst = next(iter(kept))
        for folder, score in kept.items():
            if not is_better(metric, score, kept[worst]):
                worst = folder
        remove(worst)
        del kept[worst]
