"""Compare methods for long-tailed data with a pretrained network on real images, by running `benchmarks.study` in this process.

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

from benchmarks.study import Study
from benchmarks.study import get_parser as get_study_parser
from benchmarks.study_draws import publish, published_figures
from benchmarks.study_methods import PRETRAINED
from benchmarks.study_report import markdown
from benchmarks.study_sets import SOURCES, write_sets
from benchmarks.study_table import NAME, read_table
from models.get_model import get_arch
from utils.common import InputError, Interrupted, write_text

from .checks import Found, Skip, Stage, device_facts

WEIGHTS = 'tf_efficientnet_lite0_imagenet.pth'  # in weights/ of LT_REAL_DATA
SETS = ('isic8_lt', 'idrid', 'ham')  # of `study_sets`; those that LT_REAL_DATA lacks are left out
MARGIN = 15  # seconds to save a training state and write the tables


class Plan(NamedTuple):
    """Methods, seeds and training settings of the study."""
    methods: tuple
    seeds: tuple
    model_name: str
    n_epochs: int
    im_size: int


PLAN = Plan(PRETRAINED, (0, 1, 2), 'tf_efficientnet_lite0', 12, 128)
TOY_PLAN = Plan(('CE', 'CE, BSCE'), (0,), 'resnet32', 3, 32)


def run(stage: Stage) -> None:
    plan, folder = TOY_PLAN if stage.toy else PLAN, os.path.join(stage.out, 'study')
    if not stage.check('study data', prepare, stage, folder):
        return
    with contextlib.chdir(folder):
        study = Study(study_args(plan))
        with stopped_in_time(stage) as stops, contextlib.suppress(Interrupted):
            for task in study.tasks:
                if not stops:
                    stage.check(f'study {task}', score, study, task, stops)
        n_done = sum(os.path.exists(study.csv_of(task)) for task in study.tasks)
        stage.check('study table', tabulate, stage, plan, study)
    if n_done < len(study.tasks):
        stage.record('SKIP', 'study', f'{n_done} of {len(study.tasks)} runs done: run the same command with --out {stage.out} to resume')


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
    """-> flags of `benchmarks.study`, for a working folder made by `prepare`"""
    words = [os.path.join('sets', name) for name in SETS if os.path.isdir(os.path.join('sets', name))]
    for name in ('model_name', 'n_epochs', 'im_size'):
        words += [f'--{name}', str(getattr(plan, name))]
    return get_study_parser().parse_args([*words, '--init', WEIGHTS, '--methods', *plan.methods, '--seeds', *map(str, plan.seeds)])


def score(study, task, stops):
    """Train and test a method unless that is done. The epoch is chosen on the validation set; the test set is only reported."""
    try:
        row = study.run(task)
    except Interrupted as stop:
        stops.append(stop)
        raise Skip('interrupted before it finished') from stop
    return Found(f"balanced accuracy {100 * row['bacc']:.1f}, MCC {100 * row['mcc']:.1f} (epoch {row['epoch']}, chosen on the validation "
                 'set)', {name: row[name] for name in ('bacc', 'mcc', 'epoch', 'seconds', 'images_per_second')})


def tabulate(stage, plan, study):
    """Write study.csv, study.npz and study.md for the finished runs."""
    csv, path = os.path.join(study.folder, NAME), os.path.join(stage.out, 'study')
    if not os.path.exists(csv):
        raise Skip('there is no finished run yet')
    table, args, facts = read_table(csv), study.args, device_facts()
    text = (f'Images of {plan.im_size}x{plan.im_size} pixels. Training: {plan.model_name} with pretrained weights, recipe {args.recipe}, '
            f'{plan.n_epochs} epochs (both stages together), learning rate {args.lr:g}, or {args.lr / 4:g} for fine-tuning in stage two. '
            f'On the validation set, {args.metric} selects the epoch and balanced accuracy the strength of logit adjustment. The test set '
            f"is only reported. Device: {facts['device']}, torch {facts['torch']}.\n\n")
    publish(study.folder, f'{path}.csv')
    write_text(f'{path}.md', text + markdown(table, lambda rows: published_figures(f'{path}.csv', rows)))
    return Found(f'{table.method.nunique()} methods, see {path}.md')


def prepare(stage, folder):
    """Write the sets and weights to `folder` once, so that the study does not depend on the path LT_REAL_DATA."""
    with tempfile.TemporaryDirectory() as temporary:
        source = draw(temporary) if stage.toy else real_data()
        try:
            sets = write_sets(source, os.path.join(folder, 'sets'), SETS)
        except InputError as err:
            raise Skip(str(err)) from err
        shutil.copyfile(os.path.join(source, 'weights', WEIGHTS), os.path.join(folder, WEIGHTS))
    return Found(', '.join(map(os.path.basename, sets)))


def real_data():
    """-> folder of the real data. Raises `Skip` if it is unknown or lacks the weights."""
    folder = os.environ.get('LT_REAL_DATA')
    if not folder:
        raise Skip('LT_REAL_DATA is not set: set it to the folder that contains weights/ and the collections of benchmarks.study_sets')
    if not os.path.isfile(os.path.join(folder, 'weights', WEIGHTS)):
        raise Skip(f'the folder LT_REAL_DATA={folder} has no weights/{WEIGHTS}')
    return folder


def draw(folder):
    """Write toy data in the same layout: tiny images of three classes, and weights of the toy network for ten classes. -> `folder`"""
    rng, size, source = np.random.default_rng(0), 24, SOURCES['ham']
    collection, images = os.path.join(folder, source.folder), os.path.join(folder, source.folder, 'images')
    for name in (images, os.path.join(folder, 'weights')):
        os.makedirs(name)
    for split, n in {'train': (20, 10, 5), 'val': (6, 4, 3), 'test': (6, 4, 3)}.items():
        labels = np.repeat(range(3), n)
        ids = [f'{split}_{i}' for i in range(len(labels))]
        for image_id, label in zip(ids, labels, strict=True):
            pixels = rng.normal(110, 40, (size, size, 3)) + 60 * np.eye(3)[label]
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(os.path.join(images, f'{image_id}.jpg'))
        table = pd.DataFrame({'image_id': ids, 'patient_id': ids, 'name': [f'class {label}' for label in labels], 'label': labels})
        table.to_csv(os.path.join(collection, getattr(source, split)), index=False)
    torch.manual_seed(0)  # a resumed study needs the same weights
    torch.save(get_arch(TOY_PLAN.model_name, 10).model.state_dict(), os.path.join(folder, 'weights', WEIGHTS))
    return folder
