"""Every line that the experiment script would run is a valid command."""
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

import train_lt_mxp
from utils import run_test

ROOT = Path(__file__).parent.parent


def lines(*arguments):
    done = subprocess.run(['bash', 'run_lt_experiments.sh', *arguments, '--dry_run'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(('group', 'n_trainings'), [
    ('demo', 5), ('eyepacs', 14), ('endo', 70), ('eyepacs_recipes', 5), ('endo_recipes', 25), ('cifar', 6),
])
def test_every_line_parses(group, n_trainings):
    runs, tests = [], []
    for words in lines(group):
        assert words[0] == 'python'
        if words[1] == 'train_lt_mxp.py':
            args = train_lt_mxp.get_parser().parse_args(words[2:])
            train_lt_mxp.resolve(args)
            if args.pretrained_weights:  # stage two starts from a run that this series makes before it
                assert args.pretrained_weights in runs
                assert '/instance/' in args.pretrained_weights or '/modern/' in args.pretrained_weights
            runs.append(f'experiments/{args.save_path}')
        elif words[1] == '-m':
            assert (ROOT / (words[2].replace('.', '/') + '.py')).exists()
        else:
            assert (ROOT / words[1]).exists()
            splits = {'val': 'x'} if 'endo' in words[1] else {'val': None, 'test': 'x'}
            tests.append(run_test.get_parser('', splits, 0).parse_args(words[2:]).load_path)
    assert runs == tests and len(runs) == len(set(runs)) == n_trainings


def test_commands_of_the_original_are_accepted():
    """The lines of its README and experiment script, with their misspellings corrected."""
    for line in ('--do_mixup 0.1 --save_path eyepacs/mxp_1e-1/mobilenet --model_name mobilenetV2 --n_epochs 30 --metric kappa',
                 '--save_path eyepacs/CDT/mobilenet --model_name mobilenetV2 --weighting CDT --n_epochs 30 --metric kappa',
                 '--save_path endo/F1/2stage/mobilenetV2/BSCE --csv_train data/train_endo1.csv --data_path data/images '
                 '--model_name mobilenetV2 --weighting BSCE --n_epochs 60 --metric mcc --n_classes 23 --lr 0.003 '
                 '--pretrained_weights experiments/endo/F1/instance/mobilenetV2/'):
        train_lt_mxp.resolve(train_lt_mxp.get_parser().parse_args(line.split()))


def test_unknown_group():
    done = subprocess.run(['bash', 'run_lt_experiments.sh', 'isic'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and 'unknown argument isic' in done.stderr


SIDE_BY_SIDE = '''
set -euo pipefail
n_jobs=%d dry= PYTHON=python
. tools/experiments.sh
train_and_test() { echo "start $1 ${CUDA_VISIBLE_DEVICES:-cpu}"; sleep 0.4; echo "end $1"; [ "$1" != bad ]; }
n_gpus=%d
for name in a b c %s; do experiment $name; done
settle
echo settled
experiment d
settle
'''


def side_by_side(n_jobs, n_gpus=0, extra=''):
    script = SIDE_BY_SIDE % (n_jobs, n_gpus, extra)
    return subprocess.run(['bash', '-c', script], cwd=ROOT, capture_output=True, text=True)


def test_experiments_side_by_side():
    done = side_by_side(3, n_gpus=2)
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert all(name == f'{w[1]}:' for name, *w in (w for w in words if w != ['settled']))  # each line says whose it is
    words = [w[-3:] if w[1:2] == ['start'] else w[-2:] for w in words]
    assert [w[0] for w in words[:3]] == ['start'] * 3 and words.index(['settled']) > max(words.index(['end', n]) for n in 'abc')
    assert sorted(w[2] for w in words[:3]) == ['0', '0', '1'] and words[-2][1] == 'd'  # three slots on two GPUs; d after all
    assert [w[0] for w in map(str.split, side_by_side(1).stdout.splitlines())] == ['start', 'end'] * 3 + ['settled', 'start', 'end']


def test_a_failure_stops_what_is_built_on_it():
    done = side_by_side(2, extra='bad')
    assert done.returncode == 1 and 'an experiment failed' in done.stderr and 'settled' not in done.stdout


@pytest.mark.parametrize('n_jobs', [1, 2])
def test_an_interrupted_series_says_how_it_goes_on(n_jobs):
    script = (SIDE_BY_SIDE % (n_jobs, 0, '')).replace('sleep 0.4', 'sleep 2')
    process = subprocess.Popen(['bash', '-c', script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    for _ in range(n_jobs):
        assert 'start' in process.stdout.readline()
    time.sleep(.5)  # until it waits
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole series
    _, err = process.communicate()
    assert process.returncode == 130 and err == 'interrupted: the same command goes on where it stopped\n'
