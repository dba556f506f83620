"""Texts of a run: the console line of each epoch, and the original's text files in the run folder."""
import math
from typing import Any

from utils.cli import duration
from utils.training.engine import Scores

Record = dict[str, Any]  # a line of log.jsonl


def epoch_line(record: Record, n_epochs: int, ordered: bool = True) -> str:
    """The console line of an epoch. `ordered`: the classes are grades, so kappa (K) is shown."""
    remaining, evaluated = n_epochs - record['epoch'], {'Val': record['val']}
    if not math.isnan(record['train']['loss']):  # NaN: not evaluated
        evaluated = {'Train': record['train']} | evaluated
    parts = ['||'.join(evaluated) + ' Loss: ' + '||'.join(f"{m['loss']:.4f}" for m in evaluated.values())]
    parts += [f"{name}: {'||'.join(f'{100 * m[key]:.2f}' for m in evaluated.values())}"
              for name, key in (('K', 'kappa'), ('mAUC', 'auc'), ('MCC', 'mcc'), ('BACC', 'bacc'), ('ACC', 'acc'))
              if ordered or key != 'kappa']
    return (f"Epoch {record['epoch']}/{n_epochs} {' - '.join(parts)} - LR: {record['lr']:g} - "
            f"{record['images_per_second']:.0f} img/s - {record['seconds']:.1f} s"
            + (f" - {duration(record['seconds'] * remaining)} left" if remaining else '')
            + (' - predicts one class only' if record['val']['n_predicted'] == 1 else ''))


def epoch_text(scores: Scores, class_names: list[str], lr: float) -> str:
    """The content of performance_epoch_NN.txt."""
    train = scores.train_report(class_names) if scores.train_report else 'training set not evaluated\n'
    return f'{train}\n{scores.val_report(class_names, lr)}'


def checkpoint_name(record: Record) -> str:
    """The folder name of an epoch's checkpoint."""
    val = record['val']
    return f"epoch_{record['epoch']:02d}_K_{100 * val['kappa']:.2f}_mAUC_{100 * val['auc']:.2f}_MCC_{100 * val['mcc']:.2f}"


def summary_text(history: list[Record], best: int) -> str:
    """The content of val_metrics.txt. `best`: the best epoch, counted from 1."""
    val, hours = history[best - 1]['val'], sum(record['seconds'] for record in history) / 3600
    lines = [f'Best {name} = {100 * val[key]:.2f}' for name, key in (('K', 'kappa'), ('mAUC', 'auc'), ('MCC', 'mcc'), ('BACC', 'bacc'))]
    lines += [f'Best epoch = {best}', '']
    for record in history:
        t, v = record['train'], record['val']
        lines.append(f"Epoch = {record['epoch']} -> K={100 * t['kappa']:.2f}/{100 * v['kappa']:.2f}, "
                     f"mAUC={100 * t['auc']:.2f}/{100 * v['auc']:.2f}, MCC={100 * t['mcc']:.2f}/{100 * v['mcc']:.2f}, "
                     f"Loss={t['loss']:.4f}/{v['loss']:.4f},")
    lines += ['', f'Training time: {int(hours):02d}h {int(hours * 60 % 60):02d}min {hours * 3600 % 60:05.2f}secs', '']
    return '\n'.join(lines)
