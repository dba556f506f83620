"""run_lt_experiments.sh: its commands are valid, and experiments run in parallel, alone and after an interruption."""
import os
import shlex
import signal
import subprocess

import pytest

import train_lt_mxp
from tests.factories import ROOT, experiment_lines
from utils.testing import scoring


@pytest.mark.parametrize(('group', 'n_trainings'), [
    ('demo', 5), ('eyepacs', 14), ('endo', 70), ('eyepacs_recipes', 6), ('endo_recipes', 30), ('cifar', 6),
    ('medmnist', 9),
])
def test_every_line_parses(scripts, group, n_trainings):
    runs, tests = [], []
    for words in experiment_lines(scripts, group):
        assert words[0] == 'python'
        if words[1] == 'train_lt_mxp.py':
            args = train_lt_mxp.get_parser().parse_args(words[2:])
            args = train_lt_mxp.resolve(args)
            if args.pretrained_weights:  # stage two starts from an earlier run of the group
                assert args.pretrained_weights in runs
                assert '/instance/' in args.pretrained_weights or '/finetune_plain/' in args.pretrained_weights
            runs.append(f'experiments/{args.save_path}')
        elif words[1] == '-m':
            assert (ROOT / (words[2].replace('.', '/') + '.py')).exists()
        else:
            assert (ROOT / words[1]).exists()
            splits = {'val': 'x'} if 'endo' in words[1] else {'val': None, 'test': 'x'}
            tests.append(scoring.get_parser('', splits, 0).parse_args(words[2:]).load_path)
    assert runs == tests and len(runs) == len(set(runs)) == n_trainings


def test_commands_of_the_original_are_accepted():
    """Commands from the README and experiment script of the original, with their typos corrected."""
    for line in ('--do_mixup 0.1 --save_path eyepacs/mxp_1e-1/mobilenet --model_name mobilenetV2 --n_epochs 30 --metric kappa',
                 '--save_path eyepacs/CDT/mobilenet --model_name mobilenetV2 --weighting CDT --n_epochs 30 --metric kappa',
                 '--save_path endo/F1/2stage/mobilenetV2/BSCE --csv_train data/train_endo1.csv --data_path data/images '
                 '--model_name mobilenetV2 --weighting BSCE --n_epochs 60 --metric mcc --n_classes 23 --lr 0.003 '
                 '--pretrained_weights experiments/endo/F1/instance/mobilenetV2/'):
        train_lt_mxp.resolve(train_lt_mxp.get_parser().parse_args(line.split()))


def test_unknown_group(scripts):
    done = subprocess.run(['bash', 'run_lt_experiments.sh', 'isic'], cwd=scripts, capture_output=True, text=True)
    assert done.returncode == 2 and 'unknown argument isic' in done.stderr


# Events are also written to `log`, in order: each experiment's stdout passes through a process, which may delay it.
SIDE_BY_SIDE = '''
set -euo pipefail
n_jobs=%d dry= PYTHON=python
. tools/experiments.sh
train_and_test() {
    echo "start $1 ${CUDA_VISIBLE_DEVICES:-cpu}" | tee -a log
    until %s; do command sleep .05; done
    echo "end $1" | tee -a log
    [ "$1" != bad ]
}
sleep() { echo waiting; command sleep "$@"; }
n_gpus=%d
for name in a b c %s; do experiment $name; done
settle
echo settled | tee -a log
experiment d
settle
'''
ALL_STARTED = '[ "$(grep -c start log)" -ge $n_jobs ]'


def side_by_side(scripts, n_jobs, n_gpus=0, extra=''):
    """-> the finished process, and the lines of the log as lists of words"""
    (scripts / 'log').unlink(missing_ok=True)
    done = subprocess.run(['bash', '-c', SIDE_BY_SIDE % (n_jobs, ALL_STARTED, n_gpus, extra)], cwd=scripts, capture_output=True, text=True)
    return done, [line.split() for line in (scripts / 'log').read_text().splitlines()]


def test_parallel_experiments(scripts):
    done, words = side_by_side(scripts, 3, n_gpus=2)
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines() if line not in ('settled', 'waiting')]
    assert len(said) == 8 and all(name == f'{word[1]}:' for name, *word in said)  # each line begins with its experiment
    assert [w[0] for w in words[:3]] == ['start'] * 3 and words.index(['settled']) > max(words.index(['end', n]) for n in 'abc')
    assert sorted(w[2] for w in words[:3]) == ['0', '0', '1'] and words[-2][1] == 'd'  # three slots on two GPUs; d runs last


def test_one_experiment_after_another(scripts):
    assert [w[0] for w in side_by_side(scripts, 1)[1]] == ['start', 'end'] * 3 + ['settled', 'start', 'end']


def test_a_failure_stops_the_experiments_that_depend_on_it(scripts):
    done, words = side_by_side(scripts, 2, extra='bad')
    assert done.returncode == 1 and 'an experiment failed' in done.stderr and ['settled'] not in words


TIME_LEFT = '''
set -euo pipefail
n_jobs=%d dry= group=two PYTHON=python
. tools/experiments.sh
unset SECONDS  # makes it a plain variable
SECONDS=0
python() { [ "$1" != train_lt_mxp.py ] || SECONDS=$((SECONDS + 10)); }
train_and_test() {
    do_ "$PYTHON" train_lt_mxp.py --save_path "$1" --n_epochs 1
    do_ "$PYTHON" test_with_labels_endo.py --load_path "experiments/$1"
}
two() { experiment a; settle; experiment b; settle; do_ "$PYTHON" -m tools.report; }
%s
plan two
two
'''


@pytest.mark.parametrize(('n_jobs', 'known', 'times'), [
    (1, '', ['', '10 s', '10 s', '0 s', '0 s']),  # estimated from the first training run
    (2, '', ['', '5 s', '5 s', '0 s', '0 s']),
    (1, 'two_cost() { [ "$2" = train_lt_mxp.py ] && echo 100 || echo 5; }', ['3.5 min', '28 s', '26 s', '1 s', '0 s']),
])
def test_time_left(n_jobs, known, times):
    done = subprocess.run(['bash', '-c', TIME_LEFT % (n_jobs, known)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.startswith('[')]
    whats = ['train a', 'test a', 'train b', 'test b', 'report']
    assert steps == [f'[{i}/5' + (f', about {time} left' if time else '') + f'] {what}'
                     for i, (time, what) in enumerate(zip(times, whats, strict=True), 1)]


@pytest.mark.parametrize('n_jobs', [1, 2])
def test_an_interrupted_group_says_how_to_resume(scripts, n_jobs):
    process = subprocess.Popen(['bash', '-c', SIDE_BY_SIDE % (n_jobs, '[ -e go ]', 0, '')], cwd=scripts, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    awaited = {'start a'} if n_jobs == 1 else {'start a', 'start b', 'waiting'}
    while awaited:
        line = process.stdout.readline()
        awaited -= {what for what in awaited if what in line}
    os.killpg(process.pid, signal.SIGINT)  # to the whole process group, as Ctrl-C in a terminal
    (scripts / 'go').touch()
    _, err = process.communicate()
    assert process.returncode == 130 and err == 'interrupted: run the same command again to resume\n'


def test_seeds_that_are_not_numbers_are_refused_first(scripts):
    done = subprocess.run(['bash', 'run_lt_experiments.sh', '--dry_run'], cwd=scripts, capture_output=True, text=True,
                          env=os.environ | {'SEEDS': '0 a'})
    assert (done.returncode, done.stdout, done.stderr) == (2, '', 'error: SEEDS takes whole numbers, not a\n')


def test_the_next_command_works_in_the_folder_where_the_script_was_called(scripts, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    command = ['bash', str(scripts / 'run_lt_experiments.sh'), '--dry_run']
    line = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True).stderr
    assert line == f'* Next, run these commands: cd {shlex.quote(str(scripts))} && bash run_lt_experiments.sh demo --jobs 2\n'


WORDS = ['python', 'a b', "it's", '$(touch made)', '`touch made`', ';touch made', '"', '*', '\\', '']


def test_a_shell_reads_a_printed_command_unchanged(tmp_path):
    code = f'dry=1; . {shlex.quote(str(ROOT / "tools/experiments.sh"))}; line=$(do_ "$@"); eval "set -- $line"; printf "%s\\n" "$@"'
    done = subprocess.run(['bash', '-c', code, 'bash', *WORDS], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split('\n')[:-1] == WORDS, done.stderr


def test_reading_a_printed_command_runs_nothing(tmp_path):
    code = f'dry=1; . {shlex.quote(str(ROOT / "tools/experiments.sh"))}; line=$(do_ "$@"); eval "set -- $line"'
    subprocess.run(['bash', '-c', code, 'bash', *WORDS], cwd=tmp_path, check=True)
    assert not (tmp_path / 'made').exists()


def test_a_printed_command_is_one_line():
    code = f'dry=1; . {shlex.quote(str(ROOT / "tools/experiments.sh"))}; do_ "$@"'
    done = subprocess.run(['bash', '-c', code, 'bash', 'echo', '\n* Next: rm -rf ~'], capture_output=True, text=True, check=True)
    assert done.stdout == "echo $'\\n* Next: rm -rf ~'\n"


def test_each_experiment_can_be_run_alone(scripts):
    numbered = [experiment_lines(scripts, 'eyepacs', '--only', str(number)) for number in range(1, 15)]
    assert [line for only in numbered for line in only] == experiment_lines(scripts, 'eyepacs')


def test_a_single_experiment_is_a_training_and_its_test(scripts):
    assert [words[1] for words in experiment_lines(scripts, 'demo', '--only', '2')] == ['train_lt_mxp.py', 'test_with_labels_eyepacs.py']


def test_the_number_of_an_experiment_does_not_depend_on_finished_runs(scripts):
    before = experiment_lines(scripts, 'demo', '--only', '2')
    (scripts / 'experiments' / 'demo' / 'instance' / 'seed0').mkdir(parents=True)
    (scripts / 'experiments' / 'demo' / 'instance' / 'seed0' / 'val_metrics.txt').touch()
    assert experiment_lines(scripts, 'demo', '--only', '2') == before


@pytest.mark.parametrize(('only', 'message'), [
    ('15', 'error: --only 15: eyepacs has only 14 experiments'), ('0', 'error: --only takes a number of 1 or more'),
    ('x', 'error: --only takes a number of 1 or more')])
def test_an_experiment_number_that_does_not_exist(scripts, only, message):
    command = ['bash', 'run_lt_experiments.sh', 'eyepacs', '--dry_run', '--only', only]
    done = subprocess.run(command, cwd=scripts, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, '', f'{message}\n')


@pytest.mark.parametrize('number', [1, 15, 29, 43, 57])
def test_the_numbers_of_the_runs_that_stage_two_of_endo_starts_from(scripts, number):
    assert '/instance/' in experiment_lines(scripts, 'endo', '--only', str(number))[0][3]  # the README names these numbers


@pytest.mark.parametrize(('seeds', 'words'), [('0 1', r"SEEDS=0\ 1 bash run_lt_experiments.sh demo --only 7"),
                                              ('', 'bash run_lt_experiments.sh demo --only 5')])
def test_the_command_after_a_dry_run_keeps_the_seeds(seeds, words):
    done = subprocess.run(['bash', 'run_lt_experiments.sh', '--only', words[-1], '--dry_run'], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {'SEEDS': seeds})
    assert done.returncode == 0 and done.stderr.endswith(f'* Next, run these commands: {words}\n')
