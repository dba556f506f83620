r"""Train and test several methods on several data sets with several seeds, at equal numbers of epochs.

A set is a folder with train.csv, val.csv, test.csv and images/, as benchmarks.study_sets writes it. The best epoch and the strength of a
post-hoc correction are chosen on the validation csv. The test csv is only reported.

Each finished run adds a row to results/NAME/study.csv. The same command resumes a study, also with more sets, methods or seeds. Methods
that start from the same stage one share it. results/NAME/settings.json has the flags and the SHA-256 of the csvs, of the weights file and
of the file of an own network. If one of them has changed, the study does not start.

Examples (the second one needs a state dict of the network):

  python -m benchmarks.study data/study/isic8_lt --jobs 2
  python -m benchmarks.study data/study/isic8_lt data/study/ham --init tf_efficientnet_lite0.pth --methods CE BSCE 'CE, cRT' --seeds 0 1
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import contextlib
import itertools
import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

from utils.cli import network_flag, own_network, parse_im_size, say_next, script_parser
from utils.common import InputError, Interrupted, file_sha256, read_text, run_script, write_text
from utils.evaluation import METRICS
from utils.training.recipes import RECIPES
from utils.training.signals import SIGNALS

from .study_methods import METHODS, NO_METHOD, ONE_STAGE, POST_HOC, PRETRAINED, TWO_STAGE
from .study_runner import RESUME, Queue, Runner, script_of
from .study_sets import StudySet, read_set
from .study_table import KEY, SETTINGS, add_row, lock_of, name_of, predictions_of, scores_of, training_of

STAGE_ONE, STAGE_TWO = 2 / 3, 1 / 3  # shares of the epochs
DECIDES = ('im_size', 'model_name', 'init', 'lr', 'n_epochs', 'recipe', 'metric')  # flags that change the results


def im_size(text):
    """'128' -> '128,128', so that both are the same setting. Raises the error of `parse_im_size`."""
    return ','.join(map(str, parse_im_size(text)))


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('sets', nargs='+', metavar='SET', help='folders of the data sets; those with few training images run first')
    data.add_argument('--im_size', default='128', type=im_size, metavar='PIXELS',
                      help='size of the resized images: height,width or one number for both')
    training = parser.add_argument_group('training')
    training.add_argument('--model_name', default='tf_efficientnet_lite0', metavar='NAME', help='network, as for train_lt_mxp.py')
    training.add_argument('--init', default='imagenet', metavar='imagenet|none|PATH', help='initial weights, as for train_lt_mxp.py')
    training.add_argument('--lr', type=float, default=.001, metavar='RATE', help='learning rate; stage two fine-tunes with a quarter of it')
    training.add_argument('--n_epochs', type=int, default=12, metavar='N', help='epochs of a method, both stages together if it has two')
    training.add_argument('--recipe', default='finetune', choices=RECIPES, metavar='NAME',
                          help='preset of the other flags of train_lt_mxp.py; its sampling, mixing and loss are not used')
    training.add_argument('--metric', default='auc', choices=METRICS, help='validation metric that selects the best epoch')
    runs = parser.add_argument_group('runs')
    others = ', '.join(repr(method) for method in METHODS if method not in PRETRAINED)
    runs.add_argument('--methods', nargs='+', choices=METHODS, metavar='METHOD',
                      help=f"methods to run: {', '.join(map(repr, PRETRAINED))} (default: these), {others}")
    runs.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='random seeds; each method runs once per seed')
    runs.add_argument('--jobs', type=int, default=1, metavar='N', help='number of parallel runs; above 1, each run uses one thread')
    runs.add_argument('--name', default='study', metavar='NAME', help='name of the study: folders experiments/NAME and results/NAME')
    return parser


class Task(NamedTuple):
    """A row of the table: a method, trained on a set with a seed, and tested."""
    data: StudySet
    method: str
    seed: int

    def __str__(self):
        return f'{self.data.name}, {self.method}, seed {self.seed}'

    def key(self):
        return self.data.name, self.method, self.seed


class Training(NamedTuple):
    """One run of the train script: its name, which is also that of its folder, its epochs, and the flags of the method."""
    name: str
    n_epochs: int
    flags: list


def sha256_of_files(args):
    """-> {'--flag path': SHA-256} of the files with the weights and the network. The train script reports those that are missing."""
    paths = {'init': args.init, 'model_name': (own_network(args.model_name) or [''])[0]}
    return {f'--{name} {getattr(args, name)}': file_sha256(path) for name, path in paths.items() if os.path.isfile(path)}


class Study:
    """Trains and tests the methods in `args`, below experiments/ and results/ in the current folder.

    `tasks` are in the order of work: by seed, then by the number of training images, then by method. Raises `InputError` for unfit sets,
    and if the results there were made with other flags, csvs, weights or networks.
    """

    def __init__(self, args):
        self.args, self.folder, self.runner = args, os.path.join('results', args.name), Runner(args.jobs)
        sets = sorted(map(read_set, args.sets), key=lambda data: sum(data.class_count))
        if len({data.name for data in sets}) < len(sets):
            raise InputError(f"two sets have the same name: {' '.join(args.sets)}")
        methods = dict.fromkeys(args.methods or PRETRAINED)  # each once
        self.tasks = [Task(data, method, seed) for seed in dict.fromkeys(args.seeds) for data in sets for method in methods]
        self.failed = {}  # name of a training -> its error
        self.check_settings(sets)

    def check_settings(self, sets):
        """Compare the flags and the content of the files with those of earlier calls, and record them.

        The training images of each class are recorded for the report.
        """
        path, settings = os.path.join(self.folder, SETTINGS), {name: getattr(self.args, name) for name in DECIDES}
        counts, hashes = {data.name: data.class_count for data in sets}, {data.name: data.sha256() for data in sets}
        hashes |= sha256_of_files(self.args)
        os.makedirs(self.folder, exist_ok=True)
        with lock_of(self.folder):
            saved = json.loads(read_text(path)) if os.path.exists(path) else settings | {'sets': {}, 'sha256': {}}
            if 'sha256' not in saved:
                raise InputError(f'{path} is of an older version, which did not record the SHA-256 of the data: use another --name')
            if changed := [f'--{name} {saved[name]}' for name in DECIDES if saved[name] != settings[name]]:
                raise InputError(f"{self.folder} was made with {', '.join(changed)}: use the same flags or another --name")
            if others := [name for name in hashes if saved['sha256'].get(name, hashes[name]) != hashes[name]]:
                raise InputError(f"{self.folder} was made with other contents of {', '.join(others)}: restore them or use another --name")
            record = settings | {'sets': saved['sets'] | counts, 'sha256': saved['sha256'] | hashes}
            write_text(path, json.dumps(record, indent=1) + '\n')

    def trainings(self, task):
        """-> the `Training`s of a task, in order. The last one is tested."""
        data, method, seed = task.data.name, POST_HOC.get(task.method, (task.method,))[0], task.seed
        n, flags = self.args.n_epochs, ['--seed', str(seed)]
        if method in ONE_STAGE:
            return [Training(name_of(data, method, seed), n, [*flags, *ONE_STAGE[method].split()])]
        parent = method.split(', ')[0]
        first = Training(name_of(data, parent, seed, 'stage_one'), round(STAGE_ONE * n), [*flags, *ONE_STAGE[parent].split()])
        flags += ['--init', 'none', '--pretrained_weights', self.run_folder(first)]
        flags += TWO_STAGE[method].format(fine_tuning=self.args.lr / 4).split()
        return [first, Training(name_of(data, method, seed), round(STAGE_TWO * n), flags)]

    def run_folder(self, training):
        return os.path.join('experiments', self.args.name, training.name)

    def train(self, data, training):
        """Run a training unless it is done. One that failed is not repeated, even if several methods need it."""
        run, a = self.run_folder(training), self.args
        if os.path.exists(os.path.join(run, 'val_metrics.txt')):
            return
        if training.name in self.failed:
            raise self.failed[training.name]
        started = any(os.path.exists(os.path.join(run, state)) for state in ('last', 'interrupted'))
        try:
            self.runner.call(
                os.path.join(self.folder, training.name, 'train.log'), script_of(training.flags),
                '--csv_train', data.csv('train'), '--csv_val', data.csv('val'), '--data_path', data.images,
                '--n_classes', str(len(data.class_count)), '--im_size', a.im_size, '--model_name', a.model_name, '--init', a.init,
                '--recipe', a.recipe, '--metric', a.metric, '--num_workers', '0', *NO_METHOD.split(), '--lr', str(a.lr),
                '--n_epochs', str(training.n_epochs), *training.flags, '--save_path', f'{a.name}/{training.name}',
                '--resume' if started else '--overwrite')
        except InputError as err:
            self.failed[training.name] = err
            raise

    def csv_of(self, task):
        return predictions_of(self.folder, *task.key())

    def test(self, task, run):
        """Test the network in the folder `run`. Writes the files of the test script and the log of the network beside `csv_of`."""
        csv, flags = self.csv_of(task), POST_HOC.get(task.method, ())[1:]
        out = os.path.dirname(csv)
        # The test script writes to a subfolder with the name of the run, so its files are moved to the folder of this method.
        tested = os.path.join(out, 'tested')
        self.runner.call(os.path.join(out, 'test.log'), 'test_with_labels_eyepacs.py', '--load_path', run, '--csv_test',
                         task.data.csv('test'), '--data_path', task.data.images, '--num_workers', '0', '--results_path', tested,
                         *network_flag(self.args.model_name), *flags)
        shutil.copyfile(os.path.join(run, 'log.jsonl'), os.path.join(out, 'log.jsonl'))  # shows how the epoch was chosen
        produced = os.path.join(tested, os.path.relpath(run, 'experiments'))
        for file in sorted(os.listdir(produced), key=lambda name: name == os.path.basename(csv)):  # the csv last: it marks the end
            os.replace(os.path.join(produced, file), os.path.join(out, file))
        shutil.rmtree(tested)

    def run(self, task, trained=lambda: None):
        """Train and test a task unless that is done, and write its row. -> the row. `trained` is called after each training."""
        csv = self.csv_of(task)
        if not os.path.exists(csv):
            trainings = self.trainings(task)
            for training in trainings:
                self.train(task.data, training)
                trained()
            self.test(task, self.run_folder(trainings[-1]))
        row = dict(zip(KEY, task.key(), strict=True))
        row |= scores_of(csv, task.data.class_count) | training_of(csv)
        add_row(self.folder, row)
        return row


def run_all(study):
    """Run the tasks of a study, as many at a time as it has jobs, and print a line for each. -> the lines of those that failed"""
    queue = Queue((task, study.trainings(task)[0].name) for task in study.tasks)
    failures, number = [], itertools.count(1)

    def work():
        while item := queue.take():
            task, first = item
            try:
                row = study.run(task, lambda first=first: queue.release(first))
                line = f"{task}: balanced accuracy {100 * row['bacc']:.1f}"
            except InputError as err:
                line = f'{task}: {err}'
                failures.append(line)
            finally:
                queue.release(first)
            print(f'{next(number)}/{len(study.tasks)}: {line}', flush=True)

    if study.args.jobs == 1:
        work()  # in the main thread, which is the only one that gets signals
        return failures
    with ThreadPoolExecutor(study.args.jobs) as pool:
        try:
            for done in as_completed([pool.submit(work) for _ in range(study.args.jobs)]):
                done.result()
        except BaseException:
            queue.clear()
            study.runner.stop()
            raise
    return failures


@contextlib.contextmanager
def interruptible():
    """Raise `Interrupted` in the block at a SIGTERM or Ctrl-C."""
    def stop(number, frame):
        raise Interrupted(number, RESUME)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv=None):
    study = Study(get_parser().parse_args(argv))
    with interruptible():
        failures = run_all(study)
    if failures:
        raise InputError('\n'.join([f'{len(failures)} of {len(study.tasks)} runs failed:', *failures]))
    say_next('compare the methods', 'python', '-m', 'benchmarks.study_report', study.folder)


if __name__ == '__main__':
    run_script(main)
