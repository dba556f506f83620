"""Compare methods for long-tailed data with a pretrained network on HAM10000, by running `benchmarks.study` in this process.

The stage ends when the study is done or its time is over. Finished runs stay in --out, and the same command resumes the study.
"""
import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks import study_report
from benchmarks.study import BASELINE, Study
from benchmarks.study import get_parser as get_study_parser
from models.get_model import get_arch
from utils.common import Interrupted, write_text
from utils.datasets.archives import open_zip
from utils.evaluation import evaluate_multi_cls
from utils.get_loaders import ClassDataset
from utils.prediction.predictions import read_labelled
from utils.runs.formats import read_log

from .checks import Found, Skip, Stage, device_facts

SET = 'ham10000'  # folder in LT_REAL_DATA with images.zip and the csvs; in --out, with images/ and the csvs
SPLITS = ('train', 'val', 'test')
CSVS = {split: f'{split}_ham.csv' for split in SPLITS}
WEIGHTS = 'tf_efficientnet_lite0_imagenet.pth'  # in weights/ of LT_REAL_DATA
MOST_BYTES = 1 << 30  # limit for the unpacked images
MARGIN = 15  # seconds to save a training state and write the tables


class Plan(NamedTuple):
    """Methods, seeds and training settings of the study."""
    methods: tuple
    seeds: tuple
    model_name: str
    n_epochs: int
    im_size: int
    lr: float = .001


PLAN = Plan(('CE', 'CE + logit adjustment', 'class sampling', 'BSCE', 'Balanced-MixUp', 'CE, cRT', 'CE, BSCE'), (0, 1, 2),
            'tf_efficientnet_lite0', 8, 128)
TOY_PLAN = Plan(('CE', 'CE, BSCE'), (0,), 'resnet32', 3, 32)


def run(stage: Stage) -> None:
    plan, folder = TOY_PLAN if stage.toy else PLAN, os.path.join(stage.out, 'study')
    if not stage.check('study data', prepare, stage, folder):
        return
    tasks = [(method, seed) for seed in plan.seeds for method in plan.methods]
    with contextlib.chdir(folder):
        study = Study(study_args(plan))
        with stopped_in_time(stage) as stops, contextlib.suppress(Interrupted):
            for method, seed in tasks:
                if not stops:
                    stage.check(f'study {method}, seed {seed}', score, study, method, seed, stops)
        n_done = sum(os.path.exists(study.csv_of(*task)) for task in tasks)
        stage.check('study table', tabulate, stage, plan, study)
    if n_done < len(tasks):
        stage.record('SKIP', 'study', f'{n_done} of {len(tasks)} runs done: run the same command with --out {stage.out} to resume')


@contextlib.contextmanager
def stopped_in_time(stage: Stage) -> Iterator[list]:
    """Raise `Interrupted` in the block shortly before the stage's time is over, or at a SIGTERM. Training saves its state first.

    Yields a list, which is empty until then.
    """
    stops: list[Interrupted] = []

    def stop(number, frame):
        stops.append(Interrupted(number))
        raise stops[-1]

    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(max(0, stage.seconds_left - MARGIN), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield stops
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def study_args(plan):
    words = [word for split, csv in CSVS.items() for word in (f'--{split}', csv)]
    for name in ('model_name', 'n_epochs', 'im_size', 'lr'):
        words += [f'--{name}', str(getattr(plan, name))]
    return get_study_parser().parse_args(['--data', SET, *words, '--init', os.path.join(SET, WEIGHTS)])


def score(study, method, seed, stops):
    """Train and test a method unless that is done. The epoch is chosen on the validation set; the test set is only reported."""
    try:
        csv = study.predictions(method, seed)
    except Interrupted as stop:
        stops.append(stop)
        raise Skip('interrupted before it finished') from stop
    table, history = read_labelled(csv), read_log(os.path.dirname(csv))
    metrics, best = evaluate_multi_cls(table.labels, table.preds, table.probs), max(history, key=lambda record: record['val']['bacc'])
    values = {'bacc': metrics.bacc, 'mcc': metrics.mcc, 'epoch': best['epoch'], 'n_epochs': len(history), 'val_bacc': best['val']['bacc'],
              'images_per_second': history[-1]['images_per_second']}
    return Found(f"balanced accuracy {100 * values['bacc']:.1f}, MCC {100 * values['mcc']:.1f} (epoch {values['epoch']} of "
                 f"{values['n_epochs']}, chosen on the validation set)", values)


def tabulate(stage, plan, study):
    """Write study.csv and study.md for the finished runs."""
    if not any(os.path.exists(study.csv_of(BASELINE, seed)) for seed in plan.seeds):
        raise Skip(f'there is no finished run of the baseline {BASELINE} yet')
    counts = [np.bincount(ClassDataset(csv).labels) for csv in (study.csv_train, study.val, study.test)]
    found, path = study_report.read_study(study.folder, counts[0]), os.path.join(stage.out, 'study')
    facts = device_facts()
    train, val, test = (f'{n.sum():,}' for n in counts)
    text = (f'Data: HAM10000 ({CSVS["train"]}), {train} training, {val} validation and {test} test images of '
            f'{plan.im_size}x{plan.im_size} pixels. Training: {plan.model_name} with pretrained weights, {plan.n_epochs} epochs (for both '
            f'stages together), learning rate {plan.lr:g}, or {plan.lr / 4:g} for fine-tuning in stage two. The epoch and the strength of '
            'logit adjustment are chosen by balanced accuracy on the validation set. The test set is only reported. '
            f"Device: {facts['device']}, torch {facts['torch']}.\n\n")
    write_text(f'{path}.csv', study_report.table_of(found).round(5).to_csv(index=False))
    write_text(f'{path}.md', text + study_report.markdown(found))
    return Found(f'{len(found)} methods, see {path}.md')


def prepare(stage, folder):
    """Unpack the images once and copy the csvs and weights beside them, so that the study does not depend on the path LT_REAL_DATA."""
    target = os.path.join(folder, SET)
    os.makedirs(folder, exist_ok=True)
    if not os.path.isdir(target):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            source = draw(os.path.join(temporary, 'drawn')) if stage.toy else real_data()
            unpacked = os.path.join(temporary, SET)
            with open_zip(os.path.join(source, SET, 'images.zip'), MOST_BYTES, MOST_BYTES) as archive:
                archive.extractall(unpacked)
            for path in (*(os.path.join(SET, csv) for csv in CSVS.values()), os.path.join('weights', WEIGHTS)):
                shutil.copyfile(os.path.join(source, path), os.path.join(unpacked, os.path.basename(path)))
            os.rename(unpacked, target)
    return Found(f"{len(os.listdir(os.path.join(target, 'images'))):,} images")


def real_data():
    """-> folder of the real data. Raises `Skip` with the names of missing files."""
    folder = os.environ.get('LT_REAL_DATA')
    if not folder:
        raise Skip(f'LT_REAL_DATA is not set: set it to the folder that contains {SET}/ and weights/')
    needed = [os.path.join(SET, name) for name in ('images.zip', *CSVS.values())] + [os.path.join('weights', WEIGHTS)]
    if missing := [name for name in needed if not os.path.isfile(os.path.join(folder, name))]:
        raise Skip(f"the folder LT_REAL_DATA={folder} has no {', '.join(missing)}")
    return folder


def draw(folder):
    """Write toy data in the same layout: tiny images of three classes, and weights of the toy network for ten classes. -> `folder`"""
    rng, size = np.random.default_rng(0), 24
    for name in (SET, 'weights', 'images'):
        os.makedirs(os.path.join(folder, name))
    for split, n in {'train': (20, 10, 5), 'val': (6, 4, 3), 'test': (6, 4, 3)}.items():
        labels = np.repeat(range(3), n)
        ids = [f'{split}_{i}' for i in range(len(labels))]
        for image_id, label in zip(ids, labels, strict=True):
            pixels = rng.normal(110, 40, (size, size, 3)) + 60 * np.eye(3)[label]
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(os.path.join(folder, 'images', f'{image_id}.jpg'))
        table = pd.DataFrame({'image_id': ids, 'patient_id': ids, 'name': [f'class {label}' for label in labels], 'label': labels})
        table.to_csv(os.path.join(folder, SET, CSVS[split]), index=False)
    shutil.make_archive(os.path.join(folder, SET, 'images'), 'zip', folder, 'images')
    torch.save(get_arch(TOY_PLAN.model_name, 10).model.state_dict(), os.path.join(folder, 'weights', WEIGHTS))
    return folder
