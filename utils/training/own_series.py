"""The series of commands for a user's own data: methods x seeds (or folds), the choice of a method on validation images, and its test."""
import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from utils.cli import label_flag, network_flag, script_parser
from utils.common import InputError
from utils.evaluation import SMALLER_IS_BETTER, is_better
from utils.runs.formats import read_config, read_log
from utils.runs.history import best_epoch
from utils.statistics.weighted_metrics import METRIC_NAMES
from utils.training.advice import METHODS, STAGE_ONE, Plan
from utils.training.commands import Command
from utils.training.recipes import RecipeParser


class Part(NamedTuple):
    """What a method is repeated for: a seed, or a fold with csvs of its own."""
    name: str  # of the folder: seed0, fold1
    seed: int
    csv_train: str
    csv_val: str


class Inputs(NamedTuple):
    """The data and the flags that several commands take. `flags`: of --private and the like, which every command takes."""
    csvs: dict[str, str]  # split -> csv
    data_path: str
    label_column: str | None
    init: str
    n_classes: int
    flags: list[str]
    train_flags: list[str]
    report_flags: list[str]
    is_grouped: bool = False  # --by or --per: the report is written again, since they may be new


class OwnSeries(NamedTuple):
    """Runs are experiments/`name`/<method>/<part>, the averaged network is experiments/`name`/model.

    `folds`: the parts are folds. `test`: use the test images, if there are any.
    """
    name: str
    plan: Plan
    parts: list[Part]
    inputs: Inputs
    folds: bool
    test: bool = True

    def run(self, method: str, part: Part) -> str:
        return os.path.join('experiments', self.name, method, part.name)

    def runs(self, method: str) -> list[str]:
        return [self.run(method, part) for part in self.parts]

    def result(self, *names: str) -> str:
        return os.path.join('results', self.name, *names)

    def check(self, is_done: bool) -> Command:
        """The check of the csvs and images."""
        of = self.inputs
        words = ['-m', 'tools.check_data', *of.csvs.values(), '--data_path', of.data_path, *label_flag(of.label_column),
                 '--n_classes', str(of.n_classes), '--out', self.result('duplicates.csv'), *of.flags]
        return Command('check the data', words, lambda: is_done)

    def trainings(self) -> list[list[Command]]:
        """-> the trainings that start from initial weights, and those that start from them. Methods with the same stage one share it."""
        methods = {name: METHODS[name] for name in self.plan.methods}
        firsts = list(dict.fromkeys(method.first for method in methods.values() if method.first))
        one = [self._training(name, part, flags) for part in self.parts
               for name, flags in ((*((name, method.flags) for name, method in methods.items() if not method.first),
                                    *((first, STAGE_ONE[first]) for first in firsts)))]
        two = [self._training(name, part, method.flags, self.run(method.first, part)) for part in self.parts
               for name, method in methods.items() if method.first]
        return [one, two]

    def _training(self, name, part, flags, start=None):
        from utils.training.flags import add_flags  # imported here: it takes seconds

        run, of, plan = self.run(name, part), self.inputs, self.plan
        words = ['train_lt_mxp.py', '--save_path', os.path.join(self.name, name, part.name), '--csv_train', part.csv_train,
                 '--csv_val', part.csv_val, '--data_path', of.data_path, '--n_classes', str(of.n_classes), *label_flag(of.label_column),
                 '--model_name', plan.model_name, '--im_size', str(plan.im_size), '--batch_size', str(plan.batch_size),
                 '--metric', plan.metric, '--seed', str(part.seed), *flags.split(), *of.flags, *of.train_flags,
                 *(['--pretrained_weights', start] if start else ['--init', of.init])]
        n_epochs = add_flags(script_parser('', RecipeParser)).parse_args(words[1:]).n_epochs  # also refuses unknown flags early
        return Command(f'train {self.name}/{name}/{part.name}', words, lambda: os.path.isfile(os.path.join(run, 'val_metrics.txt')),
                       lambda: ['--resume'] if os.path.isfile(os.path.join(run, 'config.cfg')) else [], cost=n_epochs)

    def scores(self) -> dict[str, list[float]]:
        """-> {method: validation score of the best epoch of each part}, as fractions"""
        return {method: [_best_score(run, self.plan.metric) for run in self.runs(method)] for method in self.plan.methods}

    def model(self, method: str) -> str:
        """-> run folder of the averaged network, or of the only network, of `method`"""
        runs = self.runs(method)
        return os.path.join('experiments', self.name, 'model') if len(runs) > 1 else runs[0]

    @property
    def has_test(self) -> bool:
        return self.test and 'test' in self.inputs.csvs

    def last(self, method: str, scores: Mapping[str, Sequence[float]] | None = None) -> list[Command]:
        """-> the commands after the choice of `method`: average its networks, test them once, write reports. `scores`: from `scores`."""
        of, runs, model = self.inputs, self.runs(method), self.model(method)
        commands = self._out_of_fold() if self.folds else []
        if len(runs) > 1:
            commands.append(Command(f'average {len(runs)} networks', ['-m', 'tools.ensemble_runs', *runs, '--out', model, '--overwrite',
                                                                      *of.flags], lambda: _is_ensemble_of(model, runs)))
        if self.has_test:
            # With folds, every validation image has trained some of the networks, so that none is left for calibration.
            if not self.folds:
                words = ['-m', 'tools.calibrate', '--load_path', model, '--dihedral_tta', '1', *network_flag(self.plan.model_name),
                         *of.flags]
                commands.append(Command('calibrate', words, lambda: _has_decision(model)))
            words = ['--load_path', model, '--csv_test', of.csvs['test']]
            commands.append(self._test(f'test {method}', 'eyepacs', words, _results(model, 'performance_test.txt')))
            page = self.pages(method)[-1]
            purpose = f'Test, once, of {METHODS[method].what}' + (f'. {self.describe(scores)}' if scores else '')
            commands.append(self._report([os.path.dirname(page)], page, f'average of {len(runs)}' if len(runs) > 1 else 'one', purpose,
                                         method=method))
        return commands

    def pages(self, method: str) -> list[str]:
        """-> the reports: on the validation images of all folds, and on the test images"""
        return [*([self.result('report_folds.html')] if self.folds else []),
                *([_results(self.model(method), 'report.html')] if self.has_test else [])]

    def describe(self, scores: Mapping[str, Sequence[float]]) -> str:
        """-> the validation scores of all methods in words"""
        percent = 1 if self.plan.metric in SMALLER_IS_BETTER else 100
        each = [f'{METHODS[name].what} {percent * np.mean(values):.1f}'
                + (f' ± {percent * np.std(values, ddof=1):.1f}' if len(values) > 1 else '') for name, values in scores.items()]
        return (f"Validation {METRIC_NAMES.get(self.plan.metric, self.plan.metric)}: {', '.join(each)}. It chose "
                f"{'epochs and method' if len(each) > 1 else 'the epochs'}, so it is optimistic")

    def _report(self, results, page, networks, purpose, *, method):
        title = f'{METHODS[method].what}, {networks} network{"s" if networks != "one" else ""}' if method else 'Cross-validation'
        return Command('write the report', ['-m', 'tools.report', *results, '--out', page, '--title', title[:1].upper() + title[1:],
                                            '--purpose', purpose, *self.inputs.report_flags, *self.inputs.flags],
                       lambda: os.path.isfile(page) and method is not None and not self.inputs.is_grouped)

    def _test(self, title, tester, words, result):
        words = [f'test_with_labels_{tester}.py', *words, '--data_path', self.inputs.data_path, *network_flag(self.plan.model_name)]
        return Command(title, [*words, *self.inputs.flags], lambda: os.path.isfile(result))

    def _out_of_fold(self):
        """-> the commands that predict each image with the network that was not trained on it, for all methods, and report the scores"""
        tests = [self._test(f'test {method}/{part.name}', 'endo', ['--load_path', run, '--csv_val', part.csv_val],
                            _results(run, 'performance_val.txt'))
                 for method in self.plan.methods for part, run in zip(self.parts, self.runs(method), strict=True)]
        purpose = ('Comparison by cross-validation: each image is scored by the network that was not trained on it. The images also chose '
                   'the epochs, so all scores are optimistic')
        methods = self.plan.methods
        results = [self.result(method) for method in methods]
        if len(methods) > 1:
            results += ['--baseline', 'plain' if 'plain' in methods else methods[0]]
        return [*tests, self._report(results, self.result('report_folds.html'), '', purpose, method=None)]


def _is_ensemble_of(model, runs):
    from utils.prediction.ensemble import members_of  # imported here: it takes seconds
    return os.path.isdir(model) and members_of(model) == runs


def _has_decision(model):
    """-> whether the run has a decision file for a checkpoint that it still has"""
    from utils.decisions.decision_file import decision_path, read_decision  # imported here: it takes seconds
    with contextlib.suppress(InputError):
        decision = read_decision(decision_path(model))
        return decision is not None and os.path.isdir(decision.checkpoint.folder)
    return False


def _results(run, name):
    return os.path.join('results', os.path.relpath(run, 'experiments'), name)


def _best_score(run, metric):
    history = read_log(run)
    score = history[best_epoch(history, read_config(run)) - 1]['val'].get(metric)
    if score is None:
        raise InputError(f"{run} has no validation score '{metric}': give another --metric")
    return float(score)


def choose_method(scores: Mapping[str, Sequence[float]], metric: str) -> str:
    """-> the method with the best mean of `scores`, the first of equals; a method with an undefined score comes last"""
    means = {method: float(np.mean(values)) for method, values in scores.items()}
    best = next(iter(means))
    for method, mean in means.items():
        if is_better(metric, mean, means[best]):
            best = method
    return best
