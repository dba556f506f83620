"""Metrics of predictions, and their text form."""
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SMALLER_IS_BETTER = ('loss',)
MOST_CLASSES = 30  # up to this number, texts and plots show every class
MOST_CONFUSIONS = 50  # rows of the table that replaces the confusion matrix for more than MOST_CLASSES


@dataclass(frozen=True)
class Metrics:
    """Metrics as fractions, NaN where undefined. The names of scalar metrics are choices of --metric.

    Unpacks into the seven values of the original in the same order, auc to f1_all. `acc` is available only by name.
    """
    auc: float  # mean of auc_all over the classes that have both positives and negatives
    kappa: float  # quadratically weighted, on the scale 0..K-1; meaningful only for ordered classes
    mcc: float
    f1: float  # mean of f1_all over the classes that are present or predicted (scikit-learn's macro F1)
    bacc: float  # mean recall over the classes that are present
    auc_all: list  # one-vs-rest, for each class (K,)
    f1_all: list
    acc: float  # share of all images that are predicted correctly

    def __iter__(self):
        return iter((self.auc, self.kappa, self.mcc, self.f1, self.bacc, self.auc_all, self.f1_all))


METRICS = (*(field.name for field in fields(Metrics) if not field.name.endswith('_all')), 'loss')


def is_better(metric: str, value: float, reference: float) -> bool:
    """Whether `value` is better than `reference`. Any number beats NaN."""
    if math.isnan(value) or math.isnan(reference):
        return math.isnan(reference) and not math.isnan(value)
    return value < reference if metric in SMALLER_IS_BETTER else value > reference


def training_is_ahead(metric: str, train: float, val: float, n_train: int, n_val: int) -> bool:
    """Whether the training score is better than the validation score: the original's condition for a step of the plateau scheduler.

    It must be better by more than (1 / 4n + 1 / 4m)^(1/2), an upper bound on the standard error of the difference between fractions of n
    and m images. Without this margin, chance alone could lower the learning rate while the network still underfits. The loss has no margin.
    """
    margin = 0 if metric in SMALLER_IS_BETTER else math.sqrt(1 / (4 * n_train) + 1 / (4 * n_val))
    return is_better(metric, train - margin, val)


def evaluate_multi_cls(y_true: np.ndarray, y_pred: np.ndarray, y_proba: np.ndarray) -> Metrics:
    """y_true, y_pred: int (N,); y_proba: (N, K), not normalised here; K includes absent classes. -> Metrics"""
    from sklearn import metrics as sk  # imported here: it takes a second, and most tools do not compute these scores
    classes = np.arange(y_proba.shape[1])
    present, shown = np.isin(classes, y_true), np.isin(classes, np.union1d(y_true, y_pred))
    auc_all = [float(sk.roc_auc_score(y_true == c, y_proba[:, c])) if present[c] and not (y_true == c).all() else math.nan
               for c in classes]
    f1_all = sk.f1_score(y_true, y_pred, labels=classes, average=None, zero_division=0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # with a single class, kappa and the mean AUC are NaN
        kappa = sk.cohen_kappa_score(y_true, y_pred, labels=classes, weights='quadratic')
        auc = float(np.nanmean(auc_all))
        mcc = float(sk.matthews_corrcoef(y_true, y_pred))
    recall = sk.recall_score(y_true, y_pred, labels=classes[present], average=None)
    return Metrics(auc, float(kappa), mcc, float(f1_all[shown].mean()), bacc=float(recall.mean()), auc_all=auc_all,
                   f1_all=[float(f) if s else math.nan for f, s in zip(f1_all, shown, strict=True)],
                   acc=float(np.mean(y_true == y_pred)))


def confusion_counts(y_true: ArrayLike, y_pred: ArrayLike, n_classes: int) -> np.ndarray:
    """(K, K) int64: rows are true classes, columns predicted ones. `y_true`, `y_pred`: int (N,)."""
    pairs = np.asarray(y_true) * n_classes + np.asarray(y_pred)
    return np.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def recall_per_class(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> np.ndarray:
    """Recall of each class, (K,), NaN for a class without images."""
    confusion = confusion_counts(y_true, y_pred, n_classes)
    with np.errstate(invalid='ignore'):
        return confusion.diagonal() / confusion.sum(axis=1)


def shot_groups(train_count: ArrayLike, many: int = 100, few: int = 20) -> dict[str, np.ndarray]:
    """Masks of the classes with more than `many` TRAINING images, with `few`..`many`, and with fewer than `few` (Liu et al., CVPR 2019).
    -> {'many': bool (K,), 'medium': ., 'few': .}"""
    count = np.asarray(train_count)
    return {'many': count > many, 'medium': (count >= few) & (count <= many), 'few': count < few}


def shot_recalls(recalls: np.ndarray, train_count: ArrayLike) -> dict[str, float | None]:
    """Mean recall over the classes of each of the `shot_groups`, None for a group without test images."""
    tested = ~np.isnan(recalls)
    return {name: float(recalls[g & tested].mean()) if (g & tested).any() else None for name, g in shot_groups(train_count).items()}


def frequent_confusions(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """`counts` (K, K), rows are true classes -> (true class, predicted class, images) of every confusion, most frequent first"""
    wrong = counts - np.diag(np.diag(counts))
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind='stable')
    return [(int(i), int(j), int(wrong[i, j])) for i, j in zip(true[order], predicted[order], strict=True)]


def confusion_text(y_true: np.ndarray, y_pred: np.ndarray, class_names: list[str]) -> str:
    """Confusion matrix as text: rows are true classes, columns predicted ones. With many classes, the most frequent confusions instead."""
    confusion = confusion_counts(y_true, y_pred, len(class_names))
    if len(class_names) > MOST_CLASSES:
        found = frequent_confusions(confusion)
        shown = found[:MOST_CONFUSIONS]
        return '\n'.join([f'The most frequent confusions, {len(shown)} of {len(found)} pairs of classes (true -> predicted: images)',
                          *(f'{class_names[i]} -> {class_names[j]}: {n} of {confusion[i].sum()}' for i, j, n in shown)])
    columns = class_names
    if max(map(len, class_names)) > 8:  # long names would make the table too wide: number the columns
        columns = [str(c) for c in range(len(class_names))]
        class_names = [f'{name} {c}' for c, name in enumerate(class_names)]
    first, width = max(map(len, class_names)), max(5, *map(len, columns))
    rows = [['t/p', *columns], *([name, *row] for name, row in zip(class_names, confusion, strict=True))]
    return '\n'.join(' '.join([f'{row[0]:>{first}}', *(f'{cell!s:>{width}}' for cell in row[1:])]) for row in rows)


def per_class_text(what: str, values: Iterable[float], class_names: list[str]) -> str:
    cells = ' - '.join(f'{name}={100 * value:.2f}' for name, value in zip(class_names, values, strict=True))
    return f'{what}: {cells}'


def performance_text(metrics: Metrics, predictions: Any, class_names: list[str], lr: float | None = None) -> str:
    """Report of the original, in percent: scores, AUC of each class, confusion matrix."""
    m, rate = metrics, '' if lr is None else f' - LR={lr:.5f}'
    head = (f'K={100 * m.kappa:.2f} - BACC={100 * m.bacc:.2f} - MCC={100 * m.mcc:.2f} - F1={100 * m.f1:.2f} - '
            f'AUC={100 * m.auc:.2f} - Loss={predictions.loss:.4f}{rate}')
    return '\n'.join([head, per_class_text('AUC', m.auc_all, class_names), '',
                      confusion_text(predictions.labels, predictions.preds, class_names), ''])
