"""--tensorboard: the numbers of log.jsonl, and figures of the classes, to watch a run while it trains. Nothing leaves the machine."""
import math
import os
import shlex

import numpy as np

from utils.common import InputError, remove
from utils.statistics.many_classes import choose, extremes
from utils.statistics.weighted_metrics import is_ordered


def get_watch(wanted, run):
    """-> what to call at the end of each epoch, with class names and training counts; nothing happens unless `wanted`.
    `run`: a `RunFolder`. `InputError` without the package, or without a folder to write to."""
    if not wanted:
        return lambda class_names, class_count: None
    if run.path is None:
        raise InputError('--tensorboard writes into the run folder: leave out --do_not_save')
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise InputError('--tensorboard needs the package tensorboard: pip install tensorboard') from err
    return Watch(run, SummaryWriter)


def scalars(record, class_names, ordered=True):
    """One line of log.jsonl -> {tag: number}, without NaN: metric/train, metric/val, metric of each class, training/lr, ...
    `ordered`: the classes are grades, so that kappa has a meaning."""
    result = {f'training/{name}': value for name, value in record.items() if name not in ('epoch', 'train', 'val')}
    for split in ('train', 'val'):
        for name, value in record[split].items():
            if name == 'kappa' and not ordered:
                continue
            if isinstance(value, list):
                result |= {f'{name}/{split}/{c}': v for c, v in zip(class_names, value, strict=True)}
            else:
                result[f'{name}/{split}'] = value
    return {tag: value for tag, value in result.items() if not math.isnan(value)}


class Watch:
    """Writes what the history holds beyond what it wrote before, so that a resumed run shows its first epochs, too."""

    def __init__(self, run, writer_class):
        self.run, self.writer_class, self.writer, self.written = run, writer_class, None, 0

    def __call__(self, class_names, class_count):
        if self.writer is None:  # not before: the run folder is made, or emptied, after this object
            folder = os.path.join(self.run.path, 'tensorboard')
            if os.path.lexists(folder):
                remove(folder)
            os.mkdir(folder, 0o755)  # new, and closed to others: names of TensorBoard's files can be guessed, and links are followed
            self.writer = self.writer_class(folder)
            print(f'* Watch with: tensorboard --logdir {shlex.quote(folder)}')
            self.choice = choose(len(class_names), 'the rarest and the most frequent', *extremes(class_count, class_count))
            labels = [[f'{class_count[c]:,}' for c in self.choice.classes]]
            self._bars('training images', class_names, {'images': class_count}, 0, 'images', labels)
        for record in self.run.history[self.written:]:
            for tag, value in scalars(record, class_names, is_ordered(class_names, self.run.metric)).items():
                self.writer.add_scalar(tag, value, record['epoch'])
            values = {name: 100 * np.array(record['val'][key], float) for name, key in (('AUC', 'auc_all'), ('F1', 'f1_all'))}
            self._bars('classes of validation', class_names, values, record['epoch'], 'percent', limit=(0, 103))
        self.written = len(self.run.history)
        self.writer.flush()

    def _bars(self, tag, class_names, values, epoch, xlabel, *args, **kwargs):
        from utils.statistics import plots  # not above: a run that is not watched needs no matplotlib
        classes, note = self.choice  # the same in every epoch
        groups = {name: (of_class[classes], None, None) for name, of_class in values.items()}
        label = '\n'.join([xlabel, *([note.strip()] if note else [])])
        figure = plots.bars([plots.short(class_names[c]) for c in classes], groups, label, *args, **kwargs)
        self.writer.add_image(tag, plots.to_pixels(figure), epoch, dataformats='HWC')  # type: ignore[union-attr]
