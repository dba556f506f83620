"""One epoch of EyePACS' size through the train script, and what the original's 30 epochs would take."""
import contextlib
import time
from collections.abc import Iterator
from unittest import mock

from utils.training.engine import Evaluator
from utils.training.run_folder import RunFolder

from .checks import Found, Stage
from .fast import ALPHA, Case, aimed_at, train, train_args, working_folder

EPOCHS, AIM_MINUTES = 30, 20  # of the original's longest run, which took 281 minutes; the aim is for `AIMED_AT`
ORIGINAL_MINUTES = 281
NEEDS = 45  # seconds of the epoch, at 800 images/s
WHOLE, WARM = (Case('mobilenetV2', 64, name, 0) for name in ('eyepacs', 'warm'))
FLAGS = f'--do_mixup {ALPHA} --n_epochs 1'


@contextlib.contextmanager
def timed(owner: object, name: str) -> Iterator[list[float]]:
    """Collect the seconds of each call of the function `name` of a module or class while the block runs."""
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
        warm = stage.check('start and first kernels', warm_up, stage)
        whole = warm and stage.check('one epoch of EyePACS', epoch, stage, needs=0 if stage.toy else NEEDS)
        if whole:
            stage.check(f'{EPOCHS} epochs, projected', projection, warm.values['start_s'], whole.values['epoch_s'])


def warm_up(stage):
    """A run of a few batches, of all the sizes that those of the epoch have: what a training spends once."""
    start = time.perf_counter()
    train(train_args(stage, WARM, f'{FLAGS} --save_path warm'))
    seconds = time.perf_counter() - start
    return Found(f'{seconds:.1f} s', {'start_s': seconds})


def epoch(stage):
    with timed(Evaluator, '__call__') as evaluating, timed(RunFolder, 'end_epoch') as saving:
        record, = train(train_args(stage, WHOLE, f'{FLAGS} --save_path whole'))
    seconds, rate = record['seconds'] + sum(saving), record['images_per_second']  # a record is made before it is saved
    shares = {'evaluation': sum(evaluating) / seconds, 'saving': sum(saving) / seconds}
    return Found(f'{seconds:.1f} s at {rate:,.0f} images/s; ' + ', '.join(f'{name} {share:.0%}' for name, share in shares.items()),
                 {'epoch_s': seconds, 'images_per_second': rate} | shares)


def projection(start_s, epoch_s):
    """What starts once, then as many epochs."""
    minutes = (start_s + EPOCHS * epoch_s) / 60
    return Found(f'{minutes:.1f} min (aim {AIM_MINUTES}, the original took {ORIGINAL_MINUTES})', {'minutes': minutes},
                 ok=minutes <= AIM_MINUTES or not aimed_at())
