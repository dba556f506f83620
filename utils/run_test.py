"""What both test scripts share: a checkpoint and a csv in, report and per-image predictions out."""
import os

import numpy as np
import torch
from accelerate import Accelerator

from .bad_images import write_skipped
from .batches import Normalise
from .calibration import calibrated
from .common import InputError, file_sha256, parse_im_size, write_text
from .console import say_next, script_parser
from .evaluation import evaluate_multi_cls, per_class_text, performance_text, recall_per_class, shot_recalls
from .get_loaders import get_test_cls_loader
from .inference import collect_logits, to_predictions
from .model_saving_loading import load_model
from .prediction_table import anonymous, write_predictions
from .run_folder import name_of_run
from .tuning import add_flags, tune


def get_parser(description, splits, data_path, dihedral_tta):
    """`splits`: name of a split -> default csv (None: only when given). The flags of the original test scripts."""
    parser = script_parser(description)
    parser.add_argument('--load_path', required=True, metavar='RUN', help='run folder (then its best epoch), checkpoint folder or file')
    data = parser.add_argument_group('data')
    for split, csv in splits.items():
        data.add_argument(f'--csv_{split}', default=csv, metavar='CSV',
                          help=f'{split} csv; without a label column only predictions are written')
    data.add_argument('--data_path', default=data_path, metavar='FOLDER', help='folder of the images')
    data.add_argument('--num_workers', type=int, default=8, metavar='N',
                      help='processes or threads that decode images, at most one per CPU core')
    data.add_argument('--cache_dir', metavar='FOLDER',
                      help='keep the decoded images in this folder: pays when several runs are tested on them')
    data.add_argument('--skip_bad_images', action='store_true',
                      help='leave out images that cannot be read; lists them in skipped_<split>.csv beside the results')
    data.add_argument('--allow_outside_data_path', action='store_true', help='csvs may name images outside of --data_path')
    method = parser.add_argument_group('method')
    method.add_argument('--dihedral_tta', type=int, default=dihedral_tta, metavar='N',
                        help='mean of the probabilities over N rotations, each with and without vertical flip (4: by quarters); 0 is off')
    method.add_argument('--batch_size', type=int, default=8, metavar='N', help='a step has four times as many images')
    add_flags(parser)
    output = parser.add_argument_group('output')
    output.add_argument('--results_path', default='results/', metavar='FOLDER', help='folder that gets one folder per run')
    for split in splits:
        output.add_argument(f'--csv_out_{split}', default=f'results_{split}.csv', metavar='NAME',
                            help=f'name of the per-image predictions of the {split} csv')
    output.add_argument('--salt', metavar='TEXT', help='write hashes of this secret text and the id instead of image and patient ids')
    checks = parser.add_argument_group('known from the checkpoint', 'not needed; another value than the checkpoint\'s is an error')
    checks.add_argument('--model_name', metavar='NAME', help='network')
    checks.add_argument('--n_classes', type=int, metavar='K', help='number of classes')
    checks.add_argument('--im_size', type=parse_im_size, metavar='PIXELS', help='height,width or one number for both')
    return parser


def check_flags(args, info):
    own = {'model_name': info['model_name'], 'n_classes': len(info['class_names']), 'im_size': tuple(info['im_size'])}
    for name, value in own.items():
        given = getattr(args, name)
        if given is not None and given != value:
            raise InputError(f'--{name} {given} contradicts the checkpoint, which has {value}: leave the flag out')
    outputs = [value for name, value in vars(args).items() if name.startswith('csv_out_')]
    if len(set(outputs)) < len(outputs) or any(os.path.basename(name) != name or not name.endswith('.csv') for name in outputs):
        raise InputError(f"--csv_out_*: different names of csv files in the results folder expected, not {', '.join(outputs)}")
    if args.salt == '':
        raise InputError('--salt must not be empty: everybody could hash the ids then')
    if args.dihedral_tta < 0 or args.batch_size < 1 or args.num_workers < 0:
        raise InputError('--dihedral_tta and --num_workers must not be negative, --batch_size must be positive')


def full_report(predictions, class_names, class_count):
    """The original's report, then what it lacks: top-1, recall and F1 per class, recall of the shot groups."""
    y, preds = predictions.labels, predictions.preds
    metrics = evaluate_multi_cls(y, preds, predictions.probs)
    recalls = recall_per_class(y, preds, len(class_names))
    groups = ' - '.join(f"{name}={'none' if value is None else f'{100 * value:.2f}'}"
                        for name, value in shot_recalls(recalls, class_count).items())
    return metrics, '\n'.join([
        performance_text(metrics, predictions, class_names),
        per_class_text('Recall', recalls, class_names), per_class_text('F1', metrics.f1_all, class_names),
        f'Recall by training images (many > 100, medium 20-100, few < 20): {groups}',
        f'Top-1 = {100 * np.mean(y == preds):.2f} of {len(y)} images', ''])


def logits_of_csv(csv, loaded, args, accelerator, folder, split):
    """-> Logits of every image of `csv` that is not left out (then listed in `folder`), and the dataset."""
    info, workers = loaded.info, min(args.num_workers, os.cpu_count() or 1)
    loader = get_test_cls_loader(csv, args.data_path, args.batch_size, info['im_size'], workers, n_classes=len(info['class_names']),
                                 cache_dir=args.cache_dir, allow_outside=args.allow_outside_data_path, skip_bad_images=args.skip_bad_images)
    data = loader.dataset
    if args.salt:  # the text of a system's error ends with the path
        data.skipped = [(csv, row, *anonymous([image_id], args.salt), reason.split(": '")[0]) for _, row, image_id, reason in data.skipped]
    write_skipped(os.path.join(folder, f'skipped_{split}.csv'), [data])
    normalise = Normalise(accelerator.device, info['mean'], info['std'])
    logits = collect_logits(loaded.model, loader, normalise, accelerator.autocast, args.dihedral_tta, split)
    return logits, data


def run_split(split, csv, loaded, args, accelerator, folder, tuning):
    """-> path of the per-image csv, None where there are no labels to score it by."""
    info, name = loaded.info, getattr(args, f'csv_out_{split}')
    logits, data = logits_of_csv(csv, loaded, args, accelerator, folder, split)
    optimistic = ''
    for role, digest in info['config']['csv_sha256'].items():
        if file_sha256(csv) == digest:
            what = {'train': 'trained the network', 'val': 'chose the checkpoint'}[role]
            optimistic = f'Note: {csv} is the csv that {what}: the result is optimistic\n'
            print(f'* {optimistic}', end='')
    text = ''
    if csv == tuning.csv:
        print(f'* Note: {csv} is reported without correction, since the corrections are chosen on it')
        predictions = to_predictions(logits)
    else:
        predictions, text = to_predictions(logits, tuning.adjust), tuning.text
        if tuning.calibration:
            predictions, line = calibrated(predictions, tuning.calibration, info['class_names'])
            text += line
    write_predictions(os.path.join(folder, name), predictions, info['class_names'], data.table.get('patient_id'), args.salt)
    if predictions.labels is None:
        print(f'* {csv} has no labels: wrote the predictions only, {os.path.join(folder, name)}')
        return None
    m, report = full_report(predictions, info['class_names'], info['class_count'])
    tta = f', mean over {2 * args.dihedral_tta} views' if args.dihedral_tta else ''
    if data.skipped:
        text += f'Left out {len(data.skipped)} of {len(data.skipped) + len(data)} images, which cannot be read: skipped_{split}.csv\n'
    report += f"{optimistic}{text}Checkpoint {loaded.folder}, epoch {info['epoch']}; csv {csv}, SHA-256 {file_sha256(csv)}{tta}\n"
    file = os.path.join(folder, f'performance_{split}.txt')
    write_text(file, report)
    print(report)
    print(f'{split.capitalize()} - K: {100 * m.kappa:.2f} - mAUC: {100 * m.auc:.2f} - MCC: {100 * m.mcc:.2f} - '
          f'F1: {100 * m.f1:.2f} - BalAcc: {100 * m.bacc:.2f}')
    print(f'* Wrote {file} and {os.path.join(folder, name)}')
    return os.path.join(folder, name)


def get_accelerator(loaded):
    """Device and precision as in training; moves the network there."""
    bf16 = loaded.info['config']['mixed_precision'] == 'bf16' and torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision='bf16' if bf16 else 'no')
    loaded.model.to(accelerator.device)
    return accelerator


def main(description, splits, data_path, dihedral_tta, argv=None):
    args = get_parser(description, splits, data_path, dihedral_tta).parse_args(argv)
    loaded = load_model(args.load_path)
    check_flags(args, loaded.info)
    accelerator = get_accelerator(loaded)
    print(f"* {loaded.info['model_name']} of {loaded.folder}, epoch {loaded.info['epoch']}")
    folder = os.path.join(args.results_path, name_of_run(loaded.folder))
    os.makedirs(folder, exist_ok=True)
    csvs = {split: getattr(args, f'csv_{split}') for split in splits if getattr(args, f'csv_{split}') is not None}
    write_skipped(os.path.join(folder, 'skipped_tune.csv'), [])  # that of a test before goes, even where nothing is chosen now
    tuning = tune(args, csvs, loaded, lambda csv: logits_of_csv(csv, loaded, args, accelerator, folder, 'tune')[0])
    scored = [run_split(split, csv, loaded, args, accelerator, folder, tuning) for split, csv in csvs.items()]
    say_next(*next_step(scored[-1], loaded.folder, args))


def next_step(csv, checkpoint_folder, args):
    """`csv`: scored predictions or None. -> what to do, and the command for it"""
    run = os.path.dirname(checkpoint_folder) or '.'
    known = os.path.isfile(os.path.join(run, 'config.cfg'))  # False for a checkpoint that was copied elsewhere
    if csv:
        return 'score it with intervals', 'python', '-m', 'tools.evaluate_predictions', csv, *(['--run', run] if known else [])
    if known:
        return 'look at its training', 'python', '-m', 'tools.report', run
    return 'see where the network looks', 'python', '-m', 'tools.predict', '--load_path', args.load_path, args.data_path, '--gradcam'
