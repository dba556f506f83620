"""Methods x seeds at equal compute: trains, tests and tabulates; what is finished is not done again.

The folder --data holds images/, train_isic8_lt.csv, val_isic8_lt.csv and train_isic8.csv, or csvs of other names. Images of the full
training csv that the long-tailed one leaves out are never trained on: they are the test set. A class that the long-tailed csv takes
whole has none of these, so that half of its validation images move to the test set and out of the validation set.

Example, with such a folder data/isic8:

  python -m benchmarks.study --data data/isic8 --im_size 96 --jobs 2
"""
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from utils.common import InputError, no_link, run_script, write_text
from utils.console import say_next, script_parser

COMMON = '--model_name mobilenetV2 --init none --recipe modern --metric bacc --num_workers 0'
STAGE_ONE, STAGE_TWO = 2 / 3, 1 / 3  # of the epochs
ONE_STAGE = {  # name -> flags
    'CE': '', 'BSCE': '--loss_fn BSCE', 'class sampling': '--sampling class', 'CDT': '--loss_fn CDT', 'CE-DRW': '--defer 0.8',
    'LDAM-DRW': '--loss_fn LDAM --defer 0.8', 'Balanced-MixUp': '--do_mixup 0.2', 'sqrt sampling + LA 0.5':
    '--sampling sqrt --loss_fn LA --loss_params tau=0.5', 'FOCAL': '--loss_fn FOCAL', 'VS': '--loss_fn VS', 'WCE': '--loss_fn WCE',
    'MixUp + BSCE': '--mixing mixup --mix_alpha 0.4 --mixup_off_epochs 3 --loss_fn BSCE', 'LADE': '--loss_fn LADE',
    'SEESAW': '--loss_fn SEESAW',
}
TWO_STAGE = {  # 'name of stage one, of stage two' -> flags of stage two
    'CE, cRT': '--trainable classifier --sampling class', 'CE, LWS': '--trainable scale --sampling class',
    'CE, cRT BSCE': '--trainable classifier --loss_fn BSCE', 'CE, cRT LAS': '--trainable classifier --sampling class --loss_fn LAS',
    'CE, BSCE': '--loss_fn BSCE --lr 0.0005', 'Balanced-MixUp, BSCE': '--loss_fn BSCE --lr 0.0005',
}
POST_HOC = {'CE + tau-norm': ('CE', '--tau_norm'), 'CE + logit adjustment': ('CE', '--logit_adjust')}  # name -> run, test flags
METHODS = [*ONE_STAGE, *TWO_STAGE, *POST_HOC]
BASELINE = 'CE'


def slug_of(method):
    return re.sub(r'[ ,+]+', '_', method)


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--data', required=True, metavar='DIR', help='folder of images/ and the csvs')
    data.add_argument('--train', default='train_isic8_lt.csv', metavar='CSV', help='long-tailed training csv in DIR')
    data.add_argument('--val', default='val_isic8_lt.csv', metavar='CSV', help='validation csv in DIR')
    data.add_argument('--pool', default='train_isic8.csv', metavar='CSV', help='csv in DIR of all that could be trained on')
    data.add_argument('--im_size', default='128', metavar='PIXELS', help='what images are resized to: height,width or one number for both')
    runs = parser.add_argument_group('runs')
    runs.add_argument('--methods', nargs='+', default=METHODS, choices=METHODS, metavar='METHOD',
                      help='some of the methods, each in quotes')
    runs.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='random seeds, a run of each method for each')
    runs.add_argument('--n_epochs', type=int, default=30, metavar='N', help='epochs of a one-stage method; two stages share as many')
    runs.add_argument('--jobs', type=int, default=1, metavar='N', help='runs side by side, each with one thread if more than one')
    runs.add_argument('--name', default='study', metavar='NAME', help='runs go to experiments/NAME, results and csv to results/NAME')
    return parser


def split_held_out(train, val, pool):
    """Tables in the contract -> (validation, test): see the module's text."""
    test = pool[~pool.image_id.isin([*train.image_id, *val.image_id])]
    label = val.columns[-1]
    moved = val[~val[label].isin(test[label])].sort_values('image_id').groupby(label).nth(slice(None, None, 2))
    return val.drop(moved.index), pd.concat([test, moved])


class Study:
    def __init__(self, args):
        self.args, self.folder = args, os.path.join('results', args.name)
        os.makedirs(self.folder, exist_ok=True)
        names = (args.train, args.val, args.pool)
        train, val, pool = (pd.read_csv(os.path.join(args.data, name), dtype={'image_id': str}) for name in names)
        self.n_classes = int(train.iloc[:, -1].max()) + 1
        self.val, self.test = os.path.join(self.folder, 'val.csv'), os.path.join(self.folder, 'test.csv')
        for path, table in zip((self.val, self.test), split_held_out(train, val, pool), strict=True):
            write_text(path, table.to_csv(index=False))
        self.locks, self.lock = {}, threading.Lock()

    def call(self, log, *command):
        environment = os.environ | ({'OMP_NUM_THREADS': '1'} if self.args.jobs > 1 else {})
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with open(log, 'a', encoding='utf-8', opener=no_link) as f:
            done = subprocess.run([sys.executable, *command], stdout=f, stderr=subprocess.STDOUT, env=environment)
        if done.returncode:
            raise InputError(f'a command failed, see {log}: {" ".join(command)}')

    def train(self, name, flags, n_epochs):
        """-> the run folder, trained once however many methods need it."""
        run = os.path.join('experiments', self.args.name, name)
        with self.lock:
            lock = self.locks.setdefault(run, threading.Lock())
        with lock:
            if not os.path.exists(os.path.join(run, 'val_metrics.txt')):
                resume = ['--resume'] if os.path.exists(os.path.join(run, 'last')) else ['--overwrite']
                a = self.args
                self.call(os.path.join(self.folder, name, 'train.log'), 'train_lt_mxp.py', '--csv_train', os.path.join(a.data, a.train),
                          '--csv_val', self.val, '--data_path', os.path.join(a.data, 'images'), '--n_classes', str(self.n_classes),
                          '--im_size', a.im_size, *COMMON.split(), '--n_epochs', str(n_epochs), *flags,
                          '--save_path', f'{a.name}/{name}', *resume)
        return run

    def predictions(self, method, seed):
        """Path of the per-image csv of the test set, tested once."""
        slug, seed_flags, n = f'{slug_of(method)}/seed{seed}', ['--seed', str(seed)], self.args.n_epochs
        out, test_flags = os.path.join(self.folder, slug), []
        csv = os.path.join(out, 'results_test.csv')
        if os.path.exists(csv):
            return csv
        if method in ONE_STAGE:
            run = self.train(slug, ONE_STAGE[method].split() + seed_flags, n)
        elif method in TWO_STAGE:
            parent = method.split(', ')[0]
            first = self.train(f'stage_one/{slug_of(parent)}/seed{seed}', ONE_STAGE[parent].split() + seed_flags, round(STAGE_ONE * n))
            run = self.train(slug, [*TWO_STAGE[method].split(), *seed_flags, '--pretrained_weights', first], round(STAGE_TWO * n))
        else:
            parent, flag = POST_HOC[method]
            run, test_flags = self.train(f'{slug_of(parent)}/seed{seed}', ONE_STAGE[parent].split() + seed_flags, n), [flag]
        # The test script files results under the run's name: into a folder of this method, then to its place.
        tested = os.path.join(out, 'tested')
        self.call(os.path.join(out, 'test.log'), 'test_with_labels_eyepacs.py', '--load_path', run, '--csv_test', self.test, '--data_path',
                  os.path.join(self.args.data, 'images'), '--num_workers', '0', '--results_path', tested, *test_flags)
        produced = os.path.join(tested, os.path.relpath(run, 'experiments'))
        for file in sorted(os.listdir(produced), reverse=True):  # the csv, which says that all is done, last
            os.replace(os.path.join(produced, file), os.path.join(out, file))
        shutil.rmtree(tested)
        return csv


def main(argv=None):
    args = get_parser().parse_args(argv)
    study = Study(args)
    tasks = [(method, seed) for seed in args.seeds for method in args.methods]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(lambda task: study.predictions(*task), tasks)
        for done, (task, _) in enumerate(zip(tasks, results, strict=True), start=1):
            print(f'{done}/{len(tasks)}: {task[0]}, seed {task[1]}', flush=True)
    say_next('tabulate it', 'python', '-m', 'benchmarks.study_report', study.folder, '--train_csv', os.path.join(args.data, args.train))


if __name__ == '__main__':
    run_script(main)
