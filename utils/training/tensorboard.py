"""TensorBoard files (--tensorboard): the values of log.jsonl and bar charts per class. Nothing leaves the machine."""
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
    """TensorBoard's writer class. Raises `InputError` if the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # imported here: it takes seconds, and the package is optional
    except ImportError as err:
        raise InputError('--tensorboard needs the package tensorboard: pip install tensorboard') from err
    return SummaryWriter


def scalars(record: dict[str, Any], class_names: list[str], ordered: bool = True) -> dict[str, float]:
    """A record of log.jsonl -> {tag: value}, without NaN: metric/train, metric/val, metrics of each class, training/lr, ...
    `ordered`: the classes are grades, so kappa is included."""
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
    """Writes the records of the history of `run` that are not written yet. A resumed run therefore shows its first epochs, too.

    `class_count`: training images of each class, (K,).
    """

    def __init__(self, run: RunFolder, class_names: list[str], class_count: np.ndarray):
        self.run, self.class_names, self.class_count = run, class_names, class_count
        self.writer: Any = None
        self.written = 0  # number of records

    def _open(self):
        """Create the writer after the first epoch, so that a resumed run keeps its curves until they can be written again."""
        folder = self.run.file('tensorboard')
        if os.path.lexists(folder):
            remove(folder)
        os.mkdir(folder, 0o755)  # new and not writable by others: TensorBoard follows links, and its file names are predictable
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
        from utils.statistics import plots  # imported here: a run without TensorBoard needs no matplotlib
        classes, note = self.choice  # the same in every epoch
        groups = {name: (of_class[classes], None, None) for name, of_class in values.items()}
        label = '\n'.join([xlabel, *([note.strip()] if note else [])])
        figure = plots.bars([plots.short(self.class_names[c]) for c in classes], groups, label, **options)
        self.writer.add_image(tag, plots.to_pixels(figure), epoch, dataformats='HWC')
