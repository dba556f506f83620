"""Time one epoch with as many images as EyePACS, and project the original's 30 epochs from it."""
import contextlib
import time
from collections.abc import Iterator
from unittest import mock

from utils.training.engine import Evaluator
from utils.training.run_folder import RunFolder

from .checks import Found, Stage
from .fast import ALPHA, Case, aimed_at, train, train_args, working_folder

EPOCHS, ORIGINAL_MINUTES = 30, 281  # of the original's longest run
AIM_MINUTES = 20  # on the cards in AIMED_AT
NEEDS = 45  # seconds of the epoch, at 800 images/s
WHOLE, WARM = (Case('mobilenetV2', 64, name, 0) for name in ('eyepacs', 'warm'))
FLAGS = f'--do_mixup {ALPHA} --n_epochs 1'


@contextlib.contextmanager
def timed(owner: object, name: str) -> Iterator[list[float]]:
    """Collect the seconds of each call of `owner.name`, a function of a module or class, while the block runs."""
    function, seconds = getattr(owner, name), []

    def call(*args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result
    with mock.patch.object(owner, name, call):
        yield seconds


def run(stage: Stage) -> None:
    with working_folder(stage):
        warm = stage.check('start-up and warm-up', warm_up, stage)
        whole = warm and stage.check('one epoch of EyePACS', epoch, stage, needs=0 if stage.toy else NEEDS)
        if whole:
            stage.check(f'{EPOCHS} epochs, projected', projection, warm.values['start_s'], whole.values['epoch_s'])


def warm_up(stage):
    """Train on a few batches, with all batch sizes of the epoch, to measure the time that a run spends once."""
    start = time.perf_counter()
    train(train_args(stage, WARM, f'{FLAGS} --save_path warm'))
    seconds = time.perf_counter() - start
    return Found(f'{seconds:.1f} s', {'start_s': seconds})


def epoch(stage):
    with timed(Evaluator, '__call__') as evaluating, timed(RunFolder, 'end_epoch') as saving:
        record, = train(train_args(stage, WHOLE, f'{FLAGS} --save_path whole'))
    seconds, rate = record['seconds'] + sum(saving), record['images_per_second']  # the record excludes saving
    shares = {'evaluation': sum(evaluating) / seconds, 'saving': sum(saving) / seconds}
    return Found(f'{seconds:.1f} s at {rate:,.0f} images/s, ' + ', '.join(f'{name} {100 * share:.0f} %' for name, share in shares.items()),
                 {'epoch_s': seconds, 'images_per_second': rate} | shares)


def projection(start_s, epoch_s):
    """Project the minutes of EPOCHS epochs: `start_s` once, and `epoch_s` for each epoch."""
    minutes = (start_s + EPOCHS * epoch_s) / 60
    return Found(f'{minutes:.1f} min (aim: {AIM_MINUTES} min; original: {ORIGINAL_MINUTES} min)', {'minutes': minutes},
                 ok=minutes <= AIM_MINUTES or not aimed_at())
