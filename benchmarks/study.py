r"""Train and test several methods with several seeds at equal compute. Finished runs are skipped.

The best epoch and the strength of a post-hoc correction are chosen on the validation csv. The test csv is only reported. Without --test,
the test set consists of the images of --pool that are not in the training or validation csv. If a class has no such image, half of its
validation images become test images.

Examples (the second one needs csvs with these names in data/ham, and a state dict of the network):

  python -m benchmarks.study --data data/isic8 --im_size 96 --jobs 2
  python -m benchmarks.study --data data/ham --train train_ham.csv --val val_ham.csv --test test_ham.csv \
      --model_name tf_efficientnet_lite0 --init tf_efficientnet_lite0.pth --lr 0.001 --n_epochs 8
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

import test_with_labels_eyepacs
import train_lt_mxp
from utils.cli import say_next, script_parser
from utils.common import InputError, Interrupted, no_link, read_text, run_script, write_text
from utils.data.read_csv import check_csv_exists
from utils.testing import scoring

COMMON = '--recipe modern --metric bacc --num_workers 0'
STAGE_ONE, STAGE_TWO = 2 / 3, 1 / 3  # shares of the epochs
ONE_STAGE = {  # name -> flags
    'CE': '', 'BSCE': '--loss_fn BSCE', 'class sampling': '--sampling class', 'CDT': '--loss_fn CDT', 'CE-DRW': '--defer 0.8',
    'LDAM-DRW': '--loss_fn LDAM --defer 0.8', 'Balanced-MixUp': '--do_mixup 0.2', 'sqrt sampling + LA 0.5':
    '--sampling sqrt --loss_fn LA --loss_params tau=0.5', 'FOCAL': '--loss_fn FOCAL', 'VS': '--loss_fn VS', 'WCE': '--loss_fn WCE',
    'MixUp + BSCE': '--mixing mixup --mix_alpha 0.4 --mixup_off_epochs 3 --loss_fn BSCE', 'LADE': '--loss_fn LADE',
    'SEESAW': '--loss_fn SEESAW',
}
TWO_STAGE = {  # 'stage one, stage two' -> flags of stage two; {fine_tuning} is a quarter of --lr
    'CE, cRT': '--trainable classifier --sampling class', 'CE, LWS': '--trainable scale --sampling class',
    'CE, cRT BSCE': '--trainable classifier --loss_fn BSCE', 'CE, cRT LAS': '--trainable classifier --sampling class --loss_fn LAS',
    'CE, BSCE': '--loss_fn BSCE --lr {fine_tuning:g}', 'Balanced-MixUp, BSCE': '--loss_fn BSCE --lr {fine_tuning:g}',
}
POST_HOC = {'CE + tau-norm': ('CE', '--tau_norm'), 'CE + logit adjustment': ('CE', '--logit_adjust')}  # name -> trained method, test flags
METHODS = [*ONE_STAGE, *TWO_STAGE, *POST_HOC]
BASELINE = 'CE'
DECIDES = ('train', 'val', 'pool', 'test', 'im_size', 'model_name', 'init', 'lr', 'n_epochs')  # flags that change the results


def slug_of(method):
    return re.sub(r'[ ,+]+', '_', method)


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--data', required=True, metavar='DIR', help='folder with images/ and the csvs')
    data.add_argument('--train', default='train_isic8_lt.csv', metavar='CSV', help='long-tailed training csv in DIR')
    data.add_argument('--val', default='val_isic8_lt.csv', metavar='CSV', help='validation csv in DIR')
    test = data.add_mutually_exclusive_group()
    test.add_argument('--pool', default='train_isic8.csv', metavar='CSV', help='csv in DIR with all images; unused ones form the test set')
    test.add_argument('--test', metavar='CSV', help='test csv in DIR, instead of --pool')
    data.add_argument('--im_size', default='128', metavar='PIXELS', help='size of the resized images: height,width or one number for both')
    network = parser.add_argument_group('network')
    network.add_argument('--model_name', default='mobilenetV2', metavar='NAME', help='network, as for train_lt_mxp.py')
    network.add_argument('--init', default='none', metavar='imagenet|none|PATH', help='initial weights, as for train_lt_mxp.py')
    network.add_argument('--lr', type=float, default=.002, metavar='RATE', help='learning rate; stage two fine-tunes with a quarter of it')
    runs = parser.add_argument_group('runs')
    runs.add_argument('--methods', nargs='+', choices=METHODS, metavar='METHOD', help='methods to run (default: all of them): '
                      + ', '.join(map(repr, METHODS)))
    runs.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='random seeds; each method runs once per seed')
    runs.add_argument('--n_epochs', type=int, default=30, metavar='N', help='epochs of a method, for both stages together if it has two')
    runs.add_argument('--jobs', type=int, default=1, metavar='N', help='number of parallel runs; above 1, each run uses one thread')
    runs.add_argument('--name', default='study', metavar='NAME', help='name of the study: folders experiments/NAME and results/NAME')
    return parser


def split_held_out(train, val, pool):
    """-> (validation, test) tables, as the module docstring describes. The last column of each table is the class."""
    test = pool[~pool.image_id.isin([*train.image_id, *val.image_id])]
    label = val.columns[-1]
    moved = val[~val[label].isin(test[label])].sort_values('image_id').groupby(label).nth(slice(None, None, 2))
    return val.drop(moved.index), pd.concat([test, moved])


def run_training(flags):
    train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(flags), ['train_lt_mxp.py', *flags])


def run_testing(flags):
    scoring.main(test_with_labels_eyepacs.__doc__, **test_with_labels_eyepacs.DEFAULTS, argv=flags)


SCRIPTS = {'train_lt_mxp.py': run_training, 'test_with_labels_eyepacs.py': run_testing}


class Study:
    """Trains and tests the methods in `args`, below experiments/ and results/ in the current folder.

    Raises `InputError` if the results there were made with other flags.
    """

    def __init__(self, args):
        self.args, self.folder = args, os.path.join('results', args.name)
        self.csv_train, self.val, self.test = (self.in_data(name) for name in (args.train, args.val, args.test or args.pool))
        for csv in (self.csv_train, self.val, self.test):
            check_csv_exists(csv)
        os.makedirs(self.folder, exist_ok=True)
        self.check_settings()
        train, val, test = (pd.read_csv(csv, dtype={'image_id': str}) for csv in (self.csv_train, self.val, self.test))
        self.n_classes = int(train.iloc[:, -1].max()) + 1
        if not args.test:
            self.val, self.test = os.path.join(self.folder, 'val.csv'), os.path.join(self.folder, 'test.csv')
            for path, table in zip((self.val, self.test), split_held_out(train, val, test), strict=True):
                write_text(path, table.to_csv(index=False))
        self.locks, self.lock = {}, threading.Lock()

    def in_data(self, name):
        return os.path.join(self.args.data, name)

    def check_settings(self):
        path, settings = os.path.join(self.folder, 'settings.json'), {name: getattr(self.args, name) for name in DECIDES}
        if not os.path.exists(path):
            write_text(path, json.dumps(settings, indent=1) + '\n')
        saved = json.loads(read_text(path))
        if changed := [f'--{name} {saved[name]}' for name in DECIDES if saved[name] != settings[name]]:
            raise InputError(f"{self.folder} was made with {', '.join(changed)}: use the same flags or another --name")

    def call(self, log, script, *flags):
        """Run a script in the root of the repository and append its output to `log`.

        With --jobs 1 it runs in this process, which has already imported the libraries, else in a new process.
        """
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with open(log, 'a', buffering=1, encoding='utf-8', opener=no_link) as f:
            if self.args.jobs > 1:
                done = subprocess.run([sys.executable, script, *flags], stdout=f, stderr=subprocess.STDOUT,
                                      env=os.environ | {'OMP_NUM_THREADS': '1'})
                if done.returncode:
                    raise InputError(f'a command failed, see {log}: {" ".join([script, *flags])}')
                return
            try:
                with contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
                    SCRIPTS[script](list(flags))
            except InputError as err:
                raise InputError(f'{script} failed, see {log}: {err}') from err
            except Interrupted as stop:
                stop.saved = ': run the same command to resume'
                raise

    def train(self, name, n_epochs, *flags):
        """Train a run once, even if several methods need it. -> its run folder"""
        run, a = os.path.join('experiments', self.args.name, name), self.args
        with self.lock:
            lock = self.locks.setdefault(run, threading.Lock())
        with lock:
            if not os.path.exists(os.path.join(run, 'val_metrics.txt')):
                started = any(os.path.exists(os.path.join(run, state)) for state in ('last', 'interrupted'))
                self.call(os.path.join(self.folder, name, 'train.log'), 'train_lt_mxp.py', '--csv_train', self.csv_train,
                          '--csv_val', self.val, '--data_path', self.in_data('images'), '--n_classes', str(self.n_classes),
                          '--im_size', a.im_size, '--model_name', a.model_name, '--init', a.init, *COMMON.split(), '--lr', str(a.lr),
                          '--n_epochs', str(n_epochs), *flags, '--save_path', f'{a.name}/{name}',
                          '--resume' if started else '--overwrite')
        return run

    def train_method(self, method, seed):
        """-> run folder of the network to test, flags of the test script"""
        n, seed_flags = self.args.n_epochs, ('--seed', str(seed))
        if method in POST_HOC:
            parent, flag = POST_HOC[method]
            return self.train_method(parent, seed)[0], [flag]
        name = f'{slug_of(method)}/seed{seed}'
        if method in ONE_STAGE:
            return self.train(name, n, *ONE_STAGE[method].split(), *seed_flags), []
        parent = method.split(', ')[0]
        first = self.train(f'stage_one/{slug_of(parent)}/seed{seed}', round(STAGE_ONE * n), *ONE_STAGE[parent].split(), *seed_flags)
        flags = TWO_STAGE[method].format(fine_tuning=self.args.lr / 4).split()
        return self.train(name, round(STAGE_TWO * n), '--init', 'none', *flags, *seed_flags, '--pretrained_weights', first), []

    def csv_of(self, method, seed):
        """-> path of the predictions csv of the test set

        The file exists if the method is done. log.jsonl beside it is the log of the tested network.
        """
        return os.path.join(self.folder, slug_of(method), f'seed{seed}', 'results_test.csv')

    def predictions(self, method, seed):
        """Train and test a method unless that is done. -> its `csv_of`"""
        csv = self.csv_of(method, seed)
        if os.path.exists(csv):
            return csv
        out = os.path.dirname(csv)
        run, test_flags = self.train_method(method, seed)
        # The test script writes to a subfolder with the name of the run, so its files are moved to the folder of this method.
        tested = os.path.join(out, 'tested')
        self.call(os.path.join(out, 'test.log'), 'test_with_labels_eyepacs.py', '--load_path', run, '--csv_test', self.test, '--data_path',
                  self.in_data('images'), '--num_workers', '0', '--results_path', tested, *test_flags)
        shutil.copyfile(os.path.join(run, 'log.jsonl'), os.path.join(out, 'log.jsonl'))  # shows how the epoch was chosen
        produced = os.path.join(tested, os.path.relpath(run, 'experiments'))
        for file in sorted(os.listdir(produced), key=lambda name: name == os.path.basename(csv)):  # the csv last: it marks the end
            os.replace(os.path.join(produced, file), os.path.join(out, file))
        shutil.rmtree(tested)
        return csv


def main(argv=None):
    args = get_parser().parse_args(argv)
    study = Study(args)
    tasks = [(method, seed) for seed in args.seeds for method in args.methods or METHODS]
    with ThreadPoolExecutor(args.jobs) as pool:
        over_all = pool.map if args.jobs > 1 else map  # signals reach a run only in the main thread
        results = over_all(lambda task: study.predictions(*task), tasks)
        for done, (task, _) in enumerate(zip(tasks, results, strict=True), start=1):
            print(f'{done}/{len(tasks)}: {task[0]}, seed {task[1]}', flush=True)
    say_next('compare the methods', 'python', '-m', 'benchmarks.study_report', study.folder, '--train_csv', study.csv_train)


if __name__ == '__main__':
    run_script(main)
