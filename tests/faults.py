"""Kill training, test and report at many moments, resume, and compare with an uninterrupted run.

A training is killed with SIGKILL while it writes the image cache or a checkpoint, in the evaluation (see tests/halt.py), or at any moment
(there also with SIGTERM, as a cluster does). It is resumed and killed again. At the end its weights, metrics and log must equal those of
an uninterrupted run bit for bit. The test is then killed while it writes the predictions, and the report while it writes the page. The old
files must stay, and a second run must write the same files. The test suite runs only a few of these kills.

Example:

  python -m tests.faults --kills 28
"""
import json
import random
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

from tests.factories import write_images
from tests.kills import STATUSES, finish, kill_at, kill_in, same
from utils.cli import say_next, script_parser

CASES = (
    '--do_mixup 0.2 --sampling prog --momentum 0.9 --patience 0',
    '--loss_fn SEQL --loss_params lam=0.5 --ema 0.9 --schedule onecycle --optimizer adamw --augment trivial',
    '--mixing cutmix --mixup_off_epochs 1 --loss_fn LDAM --defer 0.5 --schedule cosine --optimizer adam --augment randaugment '
    '--grow_from 0.5',
    '--pretrained_weights experiments/one --trainable scale --sampling class --ema 0.5 --augment rotate',
)
# Targets of kill number 0, 1, ... Their number has no common factor with the number of cases, so every case meets every target.
AIMS = ('any moment', 'cache', 'checkpoint', 'evaluation', 'checkpoint', 'results', 'report')
N_EPOCHS = 4


def train_command(name, flags):
    base = ('--csv_train train.csv --data_path images --n_classes 3 --im_size 32 --model_name tiny_test --init none --batch_size 4 '
            f'--n_epochs {N_EPOCHS} --n_checkpoints 2 --num_workers 0 --metric mcc --train_eval full --save_path {name}')
    return ['train_lt_mxp.py', *base.split(), *flags.split()]


TEST = ['test_with_labels_eyepacs.py', '--load_path', 'experiments/cut', '--data_path', 'images', '--csv_test', 'val.csv',
        '--num_workers', '0']
REPORT = ['tools/report.py', 'experiments/cut', '--draws', '100']


def torture_training(folder, flags, aims, rng):
    """Kill one run once for each of `aims`, in this order; restart it if it finishes before. -> list of what was hit"""
    run, cache = folder / 'experiments' / 'cut', folder / 'data' / 'cache'
    for path in (run, cache):
        shutil.rmtree(path, ignore_errors=True)
    passed, hits = finish(folder, train_command('whole', flags + ' --overwrite')), []
    log = (folder / 'experiments' / 'whole' / 'log.jsonl').read_text().splitlines()
    seconds = sum(json.loads(line)['seconds'] for line in log)

    def command():
        resume = (run / 'config.cfg').exists() and not (run / 'val_metrics.txt').exists()
        return train_command('cut', flags + (' --resume' if resume else ' --overwrite'))
    for aim in aims:
        if aim == 'any moment':
            status = kill_at(folder, command(), rng.choice((signal.SIGKILL, signal.SIGTERM)), rng.uniform(0, .8 * seconds))
            hits.append(STATUSES[status])
            continue
        if aim == 'cache':
            shutil.rmtree(cache, ignore_errors=True)
        n = rng.randint(1, max(1, passed[aim] // (1 if aim == 'cache' else N_EPOCHS)))
        # If no such moment is left, the run finishes, and the second attempt starts from the beginning.
        assert kill_in(folder, command(), aim, n) or kill_in(folder, command(), aim, n)
        hits.append(aim)
    if not (run / 'val_metrics.txt').exists():
        finish(folder, command())
    same(folder, 'whole', 'cut')
    assert not [*run.rglob('*.tmp'), *cache.glob('*.npy.*.tmp')]
    return hits


def torture_results(folder, aims, rng):
    """Kill the test of the run `cut` or its report, once for each of `aims`. -> list of what was hit"""
    hits = []
    finish(folder, TEST)
    for aim in aims:
        command = {'results': TEST, 'report': REPORT}[aim]
        passed, results = finish(folder, command), folder / 'results' / 'cut'
        before = {file: file.read_bytes() for file in results.iterdir()}
        assert kill_in(folder, command, aim, rng.randint(1, passed[aim]))
        assert before.items() <= {file: file.read_bytes() for file in results.iterdir()}.items()
        finish(folder, command)
        assert before.items() <= {file: file.read_bytes() for file in results.iterdir()}.items()
        hits.append(aim)
    return hits


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--kills', type=int, default=28, metavar='N', help='number of kills, over all cases')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='random seed for the moments and signals')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    rng, hits = random.Random(args.seed), Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = write_images(Path(name))
        finish(folder, train_command('one', '--n_epochs 1'))
        for i, flags in enumerate(CASES):
            aims = [AIMS[kill % len(AIMS)] for kill in range(i, args.kills, len(CASES))]
            after = [aim for aim in aims if aim in ('results', 'report')]
            of_case = torture_training(folder, flags, [aim for aim in aims if aim not in after], rng)
            of_case += torture_results(folder, after, rng)
            print(f"{flags}: {', '.join(of_case)}: same result", flush=True)
            hits.update(of_case)
    print(f"{args.kills} kills: {'; '.join(f'{n} {what}' for what, n in hits.items())}; all results are the same")
    say_next('run all tests', 'bash', 'tests/run.sh')


if __name__ == '__main__':
    main()
