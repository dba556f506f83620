"""--tensorboard: the figures of log.jsonl and bar charts of the classes, to watch a run while it trains. Nothing leaves the machine."""
import math
import os
import shlex
from typing import Any

import numpy as np

from utils.common import InputError, remove
from utils.statistics.many_classes import choose, extremes
from utils.statistics.weighted_metrics import is_ordered
from utils.training.run_folder import RunFolder


def summary_writer() -> type:
    """TensorBoard's class of writers. Raises `InputError` without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # here, since it takes seconds, and not every installation has it
    except ImportError as err:
        raise InputError('--tensorboard needs the package tensorboard: pip install tensorboard') from err
    return SummaryWriter


def scalars(record: dict[str, Any], class_names: list[str], ordered: bool = True) -> dict[str, float]:
    """One line of log.jsonl -> {tag: number}, without NaN: metric/train, metric/val, metric of each class, training/lr, ...
    `ordered`: the classes are grades, so that kappa has a meaning."""
    result: dict[str, Any] = {f'training/{name}': value for name, value in record.items() if name not in ('epoch', 'train', 'val')}
    for split in ('train', 'val'):
        for name, value in record[split].items():
            if name == 'kappa' and not ordered:
                continue
            if isinstance(value, list):
                result |= {f'{name}/{split}/{c}': v for c, v in zip(class_names, value, strict=True)}
            else:
                result[f'{name}/{split}'] = value
    return {tag: value for tag, value in result.items() if not math.isnan(value)}


class TensorBoard:
    """Writes what the history of `run` holds beyond what was written before, so that a resumed run shows its first epochs, too.

    `class_count`: training images of each class, (K,).
    """

    def __init__(self, run: RunFolder, class_names: list[str], class_count: np.ndarray):
        self.run, self.class_names, self.class_count = run, class_names, class_count
        self.writer: Any = None
        self.written = 0  # records

    def _open(self):
        """Not before the first epoch is done: the curves of a run that is resumed stay until they can be written again."""
        folder = self.run.file('tensorboard')
        if os.path.lexists(folder):
            remove(folder)
        os.mkdir(folder, 0o755)  # new, and closed to others: names of TensorBoard's files can be guessed, and links are followed
        self.writer = summary_writer()(folder)
        print(f'* Watch with: tensorboard --logdir {shlex.quote(folder)}')
        self.choice = choose(len(self.class_names), 'the rarest and the most frequent', *extremes(self.class_count, self.class_count))
        labels = [[f'{self.class_count[c]:,}' for c in self.choice.classes]]
        self._bars('training images', {'images': self.class_count}, 0, xlabel='images', labels=labels)

    def update(self) -> None:
        if self.writer is None:
            self._open()
        ordered = is_ordered(self.class_names, self.run.metric)
        for record in self.run.history[self.written:]:
            for tag, value in scalars(record, self.class_names, ordered).items():
                self.writer.add_scalar(tag, value, record['epoch'])
            values = {name: 100 * np.array(record['val'][key], float) for name, key in (('AUC', 'auc_all'), ('F1', 'f1_all'))}
            self._bars('classes of validation', values, record['epoch'], xlabel='percent', limit=(0, 103))
        self.written = len(self.run.history)
        self.writer.flush()

    def _bars(self, tag, values, epoch, xlabel, **options):
        from utils.statistics import plots  # not above: a run without TensorBoard needs no matplotlib
        classes, note = self.choice  # the same in every epoch
        groups = {name: (of_class[classes], None, None) for name, of_class in values.items()}
        label = '\n'.join([xlabel, *([note.strip()] if note else [])])
        figure = plots.bars([plots.short(self.class_names[c]) for c in classes], groups, label, **options)
        self.writer.add_image(tag, plots.to_pixels(figure), epoch, dataformats='HWC')
