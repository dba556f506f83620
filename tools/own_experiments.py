r"""From csvs of your own images to a report: check the data, compare methods on validation images, average and calibrate the best one, test
it once, and write a report.

Called by bash run_lt_experiments.sh own. The same command resumes an interrupted series. Flags after -- go to every training.

Examples:

  bash run_lt_experiments.sh own --csv_train data/train_pictures.csv --data_path pictures
  bash run_lt_experiments.sh own --csv_train data/train_pictures.csv --data_path pictures --recipes finetune crt two_stage \
      --seeds 0 1 2 3 4 --jobs 2 -- --cache_dir /scratch/cache
"""
import contextlib
import glob
import json
import os
import sys

import numpy as np

from tools.advise import describe, print_plan
from utils.cli import Parser, duration, parse_im_size, say_next, script_parser, sibling_csv
from utils.common import InputError, check_writable, read_text, run_script, write_text
from utils.data.label_column import HELP as LABEL_HELP
from utils.data.permissions import add_private_flag, keep_private, private_flag
from utils.data.read_csv import check_csv_exists, read_csv
from utils.datasets.csv_splits import fold_paths, write_folds
from utils.evaluation import METRICS, SMALLER_IS_BETTER
from utils.prediction.per_group import parse_per, refuse_unfit
from utils.prediction.predictions import is_further
from utils.runs.formats import parse_json
from utils.statistics.subgroups import parse_by
from utils.statistics.weighted_metrics import is_ordered
from utils.training.advice import FAST, METHODS, cpu_seconds, make_plan
from utils.training.commands import Series, script_of
from utils.training.own_series import Inputs, OwnSeries, Part, choose_method

FIXED = ('csv_val', 'csv_test', 'data_path', 'label_column', 'init', 'model_name', 'im_size', 'metric', 'folds', 'train_flags')
LONG = 1800  # seconds


class SeriesParser(Parser):
    """Puts the words after -- into `train_flags`."""

    def parse_args(self, args=None, namespace=None):
        argv = list(sys.argv[1:] if args is None else args)
        place = argv.index('--') if '--' in argv else len(argv)
        found = super().parse_args(argv[:place], namespace)
        found.train_flags = argv[place + 1:]
        return found


def get_parser():
    methods = '; '.join(f'{name}: {method.what}' for name, method in METHODS.items())
    parser = script_parser(__doc__, SeriesParser)
    parser.prog = 'bash run_lt_experiments.sh own'
    data = parser.add_argument_group('data')
    data.add_argument('--csv_train', required=True, metavar='CSV', help='training csv')
    data.add_argument('--csv_val', metavar='CSV', help='validation csv (default: train in --csv_train becomes val)')
    data.add_argument('--csv_test', metavar='CSV', help='test csv (default: train in --csv_train becomes test)')
    data.add_argument('--data_path', required=True, metavar='FOLDER', help='folder of the images')
    data.add_argument('--label_column', metavar='COLUMN', help=LABEL_HELP)
    plan = parser.add_argument_group('plan', 'by default as tools.advise proposes')
    plan.add_argument('--recipes', nargs='+', choices=list(METHODS), metavar='NAME', help=f'methods to compare ({methods})')
    plan.add_argument('--seeds', nargs='+', type=int, metavar='N', help='random seeds of each method (default: 0 1 2, with --folds 0)')
    plan.add_argument('--folds', type=int, metavar='K', help='cross-validation on K folds of the training and validation images, whose '
                      'networks are averaged; --csv_test is optional then')
    plan.add_argument('--init', default='imagenet', metavar='imagenet|none|PATH', help='initial weights')
    plan.add_argument('--model_name', metavar='NAME', help='network')
    plan.add_argument('--im_size', type=parse_im_size, metavar='PIXELS', help='image size: height,width or one number for both')
    plan.add_argument('--metric', choices=METRICS, help='validation metric that chooses epochs and the method')
    run = parser.add_argument_group('run')
    run.add_argument('--save_path', default='own', metavar='NAME', help='folder below experiments/ and results/')
    run.add_argument('--jobs', type=int, default=1, metavar='N', help='trainings at a time, spread over the GPUs if there are any')
    run.add_argument('--no_test', action='store_true', help='leave the test images alone for now; the same command without this flag tests')
    run.add_argument('--by', nargs='+', default=[], metavar='COLUMN[:LIMITS]', help='subgroups in the report, as in tools.report')
    run.add_argument('--per', metavar='COLUMN[:worst]', help='groups of images with one prediction in the report, as in tools.report')
    run.add_argument('--dry_run', action='store_true', help='print the commands without running them')
    add_private_flag(run)
    return parser


def parse(argv):
    """-> checked flags, with the csvs and seeds filled in; a csv that is not needed and does not exist is None"""
    args = get_parser().parse_args(argv)
    args.seeds = args.seeds or ([0] if args.folds else [0, 1, 2])
    if args.jobs < 1 or len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        raise InputError('--jobs must be positive, and --seeds different numbers of 0 or more')
    if args.folds is not None and (args.folds < 2 or len(args.seeds) > 1):
        raise InputError('--folds must be at least 2, and takes a single seed')
    for split in ('val', 'test'):
        csv = getattr(args, f'csv_{split}') or sibling_csv(args.csv_train, split)
        optional = args.folds and not getattr(args, f'csv_{split}') and (csv == args.csv_train or not os.path.isfile(csv))
        setattr(args, f'csv_{split}', None if optional else csv)
    given = [split for split in ('train', 'val', 'test') if getattr(args, f'csv_{split}')]
    for split in given:
        check_csv_exists(getattr(args, f'csv_{split}'), f'csv (--csv_{split})')
    if len({getattr(args, f'csv_{split}') for split in given}) < len(given):
        raise InputError(f"give different csvs: {args.csv_train} does not have the word 'train' in its name, so name the others with "
                         '--csv_val and --csv_test')
    return args


def plan_of(args, found):
    """-> `Plan` for the fingerprint `found`, with the values of flags in place of the proposed ones"""
    import torch  # imported here because it takes seconds

    plan = make_plan(found, torch.cuda.is_available(), args.init, args.recipes or ())
    given = {'model_name': args.model_name, 'metric': args.metric,
             'im_size': args.im_size and ','.join(map(str, args.im_size))}
    given = {name: value for name, value in given.items() if value}
    return plan._replace(**given, reasons=plan.reasons | dict.fromkeys(given, 'given'))


def read_json(path):
    """-> content of a JSON file of this script, None if it does not exist"""
    return parse_json(read_text(path), path) if os.path.isfile(path) else None


def settings_of(args):
    """-> the flags that cannot change in a series, as plain values"""
    return {name: list(value) if isinstance(value, tuple) else value for name in FIXED for value in [getattr(args, name)]}


def refuse_other_series(args, found, before, path):
    """Raise `InputError` if the series `before`, the content of fingerprint.json at `path`, has other csvs or settings."""
    hashes = [{split: of['sha256'] for split, of in one['splits'].items()} for one in (found, before)]
    changed = [f'--csv_{split}' for split in hashes[0] | hashes[1] if hashes[0].get(split) != hashes[1].get(split)]
    changed += [f'--{name}' for name, value in settings_of(args).items() if value != before['settings'].get(name)]
    if changed:
        raise InputError(f"{path} is of a series with other {', '.join(changed)}: give another --save_path, or remove "
                         f'experiments/{args.save_path} and results/{args.save_path}')


def refuse_second_test(series):
    """Raise `InputError` if the test images have been used to test a choice from other networks: a second choice would not be independent
    of that test."""
    path = series.result('tested.json')
    before = read_json(path)
    compared = [run for method in series.plan.methods for run in series.runs(method)]
    if before and sorted(before['compared']) != sorted(compared):
        other = [*(run for run in compared if run not in before['compared']), *(run for run in before['compared'] if run not in compared)]
        raise InputError(f"the test images were used for a choice that did not compare the same networks (different: {', '.join(other)}): "
                         f"to test a second time, remove {' and '.join([path, *filter(os.path.exists, before['results'])])}")


def record_test(series, method, found):
    """Write tested.json, which `refuse_second_test` reads, before the test images are used. Warns if another series has used them."""
    digest = found['splits']['test']['sha256']
    for path in glob.glob(os.path.join('results', '**', 'tested.json'), recursive=True):
        if os.path.dirname(path) != series.result() and (read_json(path) or {}).get('sha256') == digest:
            print(f'* Warning: the test images have been used before, see {path}: a choice between both tests is not independent of them')
    folders = [os.path.dirname(series.pages(method)[-1]), *([series.model(method)] if len(series.parts) > 1 else [])]
    write_text(series.result('tested.json'), json.dumps({
        'method': method, 'compared': [run for name in series.plan.methods for run in series.runs(name)],
        'results': folders, 'sha256': digest}, indent=2) + '\n')


def report_choice(series, scores, method):
    """Print the validation scores of each method, and write them to selection.csv."""
    metric = series.plan.metric
    percent, lines = 1 if metric in SMALLER_IS_BETTER else 100, ['method,part,score']
    several = f', mean ± standard deviation over {len(series.parts)} networks' if len(series.parts) > 1 else ''
    print(f'* Validation {metric}{several}:')
    for name, values in scores.items():
        spread = f' ± {percent * np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
        print(f"    {name:<16} {percent * np.mean(values):.2f}{spread}{'  (chosen)' if name == method else ''}")
        lines += [f'{name},{part.name},{value:.6f}' for part, value in zip(series.parts, values, strict=True)]
    write_text(series.result('selection.csv'), '\n'.join(lines) + '\n')


def warn_of_slow_cpu(args, found, plan, commands):
    """Print roughly how long the trainings that are left will take on this CPU."""
    size, fast = max(map(int, str(plan.im_size).split(','))), f'/{FAST}/'
    seconds = sum(cpu_seconds(found['splits']['train']['images'], command.cost, size, os.cpu_count() or 1, fast in command.title)
                  for command in commands if not command.is_done())
    faster = f'. In minutes, with a frozen network: --recipes {FAST} --seeds 0' if seconds > LONG and args.init != 'none' else ''
    if seconds:
        print(f'* Without a GPU, training takes roughly {duration(seconds)}{faster}')


def parts_of(args):
    """-> `Part` for each seed or fold"""
    if not args.folds:
        return [Part(f'seed{seed}', seed, args.csv_train, args.csv_val) for seed in args.seeds]
    paths = fold_paths(os.path.join('experiments', args.save_path, 'folds'), args.folds)
    return [Part(f'fold{i}', args.seeds[0], *csvs) for i, csvs in enumerate(paths, start=1)]


def check_report_flags(args, sets, found, metric):
    """Raise `InputError` if --by or --per do not fit the csv that is reported, before anything is trained."""
    data = sets.get('test', sets['train'])
    columns = [by.column for by in parse_by(args.by)]
    per = parse_per(args.per)
    if per and per.column != 'patient_id':
        columns.append(per.column)
    for column in columns:
        if column not in data.table or not is_further(column):
            raise InputError(f"--by, --per: {data.csv_path} has no further column '{column}' (its columns: {', '.join(data.table)})")
    if per and per.column not in data.table:
        raise InputError(f'--per patient_id: {data.csv_path} has no such column')
    if per:
        refuse_unfit(per, data.table, data.labels, found['classes'], ordered=is_ordered(found['classes'], metric))


def report_flags(args, found):
    """-> words for tools.report: what the images are, subgroups and groups"""
    images = ', '.join(f"{of['images']:,} {split}" for split, of in found['splits'].items())
    patients = ' or patient' if all(of['patients'] is not None for of in found['splits'].values()) else ''
    data = f'{images} images; the check found no image{patients} in two of these splits'
    return ['--data', data, *(['--by', *args.by] if args.by else []), *(['--per', args.per] if args.per else [])]


def main(argv=None):
    args = parse(argv)
    from utils.data.fingerprint import fingerprint, read_sets  # imported here: it takes seconds

    csvs = {split: csv for split in ('train', 'val', 'test') if (csv := getattr(args, f'csv_{split}'))}
    sets = read_sets(csvs, args.data_path, args.label_column)
    found = fingerprint(sets)
    plan = plan_of(args, found)
    with contextlib.redirect_stdout(sys.stderr if args.dry_run else sys.stdout):  # a dry run prints only commands
        describe(found)
        print_plan(plan, METHODS)
    check_report_flags(args, sets, found, plan.metric)
    inputs = Inputs(csvs, args.data_path, args.label_column, args.init, n_classes=len(found['classes']), flags=private_flag(args),
                    train_flags=args.train_flags, report_flags=report_flags(args, found),
                    is_grouped=bool(args.by or args.per))
    series = OwnSeries(args.save_path, plan, parts_of(args), inputs, folds=bool(args.folds), test=not args.no_test)
    path = series.result('fingerprint.json')
    before = read_json(path)
    if before:
        refuse_other_series(args, found, before, path)
        refuse_second_test(series)
    first = [series.check(bool(before)), *(command for stage in series.trainings() for command in stage)]
    if not gpu_count():
        with contextlib.redirect_stdout(sys.stderr if args.dry_run else sys.stdout):
            warn_of_slow_cpu(args, found, plan, commands=first)
    if args.dry_run:
        print('\n'.join(command.text() for command in (*first, *series.last(plan.methods[0]))))
        print(f'* The last commands are for the method with the best validation score, here {plan.methods[0]}', file=sys.stderr)
        return
    keep_private(args.private, series.result())
    for folder in ('experiments', series.result()):
        check_writable(folder)
    runner = Series(args.jobs, gpu_count(), [*first, *series.last(plan.methods[0])])
    runner.run(first[:1])
    if args.folds:
        write_folds([csvs[split] for split in ('train', 'val') if split in csvs], sets['train'].label_column,
                    [(part.csv_train, part.csv_val) for part in series.parts], seed=args.seeds[0])
    found['duplicates'] = len(read_csv(series.result('duplicates.csv'))[0])  # of the check: also pictures that were saved again
    write_text(path, json.dumps(found | {'plan': plan._asdict(), 'settings': settings_of(args)}, indent=2) + '\n')
    for stage in series.trainings():
        runner.run(stage)
    scores = series.scores()
    method = choose_method(scores, plan.metric)
    report_choice(series, scores, method)
    if series.has_test:
        record_test(series, method, found)
    last = series.last(method, scores)
    write_text(series.result('commands.sh'), script_of([*first, *last]))
    for command in last:
        runner.run([command])
    print(f"* Reports: {', '.join(series.pages(method)) or 'none without a test'}; commands: {series.result('commands.sh')}; network: "
          f'{series.model(method)}')
    say_next('predict new images', 'python', '-m', 'tools.predict', '--load_path', series.model(method), args.data_path)


def gpu_count():
    import torch
    return torch.cuda.device_count()


if __name__ == '__main__':
    run_script(main)
