"""Time the start of a run and one epoch with as many images as EyePACS, and project the original's 30 epochs from them."""
from utils.training.engine import Evaluator
from utils.training.run_folder import RunFolder

from .checks import Found, Stage
from .device import aimed_at
from .training import ALPHA, Case, forget, observed, peak_gb, train, train_args

EPOCHS, ORIGINAL_MINUTES = 30, 281  # of the original's longest run
AIM_MINUTES = 15  # on the cards in AIMED_AT
NEEDS = 60, 60  # seconds to start a run, and of the epoch with its upload at 800 images/s
WHOLE, WARM = (Case('mobilenetV2', 64, name) for name in ('eyepacs', 'warm'))
FLAGS = f'--do_mixup {ALPHA} --n_epochs 1'


def run(stage: Stage) -> None:
    """These checks come first in a process, since later ones find the batch sizes tried that make the start slow."""
    needs = (0, 0) if stage.toy else NEEDS
    start = stage.check('start of a run', start_up, stage, needs=needs[0])
    whole = start and stage.check('one epoch of EyePACS', epoch, stage, needs=needs[1])
    if whole:
        stage.check(f'{EPOCHS} epochs, projected', projection, start.values['start_s'] + whole.values['once_s'], whole.values['epoch_s'])


def start_up(stage):
    """Train on a few batches, with all batch sizes of the epoch, to measure the time that a run spends once."""
    run = train(train_args(stage, WARM, f'{FLAGS} --save_path warm'))
    return Found(f"{run.seconds:.1f} s, of which the memory trial {run.placed['trial_s']:.1f} s", {'start_s': run.seconds} | run.placed)


def epoch(stage):
    """Train an epoch. `once_s`: seconds of the run outside of the epoch, such as those of the upload."""
    forget()
    with observed(Evaluator, '__call__') as evaluations, observed(RunFolder, 'end_epoch') as saves:
        (record,), total, placed = train(train_args(stage, WHOLE, f'{FLAGS} --save_path whole'))
    evaluating, saving = (sum(call.seconds for call in calls) for calls in (evaluations, saves))
    seconds, rate = record['seconds'] + saving, record['images_per_second']  # the record excludes saving
    upload = f"{placed['upload_gb']:.1f} GB uploaded at {placed['upload_gb_per_s']:.1f} GB/s" if 'upload_gb' in placed else 'not uploaded'
    return Found(f"{seconds:.1f} s at {rate:,.0f} images/s, evaluation {100 * evaluating / seconds:.0f} %, saving "
                 f"{100 * saving / seconds:.0f} %; images in {placed['images_in']}, {upload}; peak memory {peak_gb():.1f} GB",
                 {'epoch_s': seconds, 'once_s': total - seconds, 'images_per_second': rate, 'evaluation': evaluating / seconds,
                  'saving': saving / seconds, 'peak_gb': peak_gb()} | placed)


def projection(start_s, epoch_s):
    """Project the minutes of EPOCHS epochs: `start_s` once, and `epoch_s` for each epoch."""
    minutes = (start_s + EPOCHS * epoch_s) / 60
    return Found(f'{minutes:.1f} min, of which {start_s / 60:.1f} min once (aim: {AIM_MINUTES} min; original: {ORIGINAL_MINUTES} min)',
                 {'minutes': minutes, 'start_s': start_s, 'aim_minutes': AIM_MINUTES}, ok=minutes <= AIM_MINUTES or not aimed_at())
