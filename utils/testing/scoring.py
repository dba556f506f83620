"""What both test scripts share: a checkpoint and a csv in, report and per-image predictions out."""
import os

import numpy as np
import torch

from utils.cli import say_next
from utils.common import check_writable, file_sha256, write_text
from utils.data.bad_images import write_skipped
from utils.data.label_column import NO_LABELS, describe_label_column
from utils.data.leakage import check_reported, note_of_patients
from utils.data.permissions import keep_private, private_flag
from utils.data.read_csv import check_csv_exists, read_csv
from utils.evaluation import evaluate_multi_cls, per_class_text, performance_text, recall_per_class, shot_recalls
from utils.get_loaders import get_test_cls_loader
from utils.model_saving_loading import load_model
from utils.prediction.accelerator import build_accelerator
from utils.prediction.inference import Normalise, collect_logits, to_predictions
from utils.prediction.predictions import anonymous, write_predictions
from utils.prediction.tta import describe_views, get_views
from utils.runs.paths import name_of_run
from utils.runs.provenance import predictions_line
from utils.statistics.weighted_metrics import chance_levels, is_ordered
from utils.testing.flags import WITHOUT_EFFECT, check_flags, get_parser
from utils.testing.tuning import corrected, tune
from utils.without_effect import warn


def full_report(predictions, class_names, class_count):
    """The original's report, then what it lacks: top-1, recall and F1 per class, recall of the shot groups, and chance."""
    y, preds = predictions.labels, predictions.preds
    metrics = evaluate_multi_cls(y, preds, predictions.probs)
    recalls, chance = recall_per_class(y, preds, len(class_names)), chance_levels(np.bincount(y))
    groups = ' - '.join(f"{name}={'none' if value is None else f'{100 * value:.2f}'}"
                        for name, value in shot_recalls(recalls, class_count).items())
    return metrics, '\n'.join([
        performance_text(metrics, predictions, class_names),
        per_class_text('Recall', recalls, class_names), per_class_text('F1', metrics.f1_all, class_names),
        f'Recall by training images (many > 100, medium 20-100, few < 20): {groups}',
        f'Top-1 = {100 * np.mean(y == preds):.2f} of {len(y)} images',
        f"By chance: balanced accuracy {100 * chance['bacc']:.2f}, Top-1 {100 * chance['acc']:.2f} (always the most frequent class)", ''])


def source_of(csv, args, config, is_tuned_on=False):
    """The folder of the images of `csv`, and the name of its column with the class: --data_path, and --label_column or the column that the
    network learnt (None, for runs of version 0.1: not known).

    A csv of the training may differ from the test csv that these flags are for. Where it `is_tuned_on`, it keeps the folder (if that still
    exists) and the column of the training; where it is reported, it keeps the column if it lacks the one of --label_column.
    """
    data_path, learnt, given = args.data_path, config.get('class_column'), args.label_column
    check_csv_exists(csv)
    if file_sha256(csv) in config['csv_sha256'].values():
        if is_tuned_on:
            return config['data_path'] if os.path.isdir(config['data_path']) else data_path, learnt
        if given not in (None, NO_LABELS) and given.strip() not in read_csv(csv)[0]:
            given = None
    return data_path, learnt if given is None else given


def get_loader(csv, loaded, args, is_tuned_on=False):
    """Loader of the images of `csv` that are not left out. `is_tuned_on`: corrections are chosen on it, no scores reported."""
    info, workers = loaded.info, min(args.num_workers, os.cpu_count() or 1)
    data_path, label_column = source_of(csv, args, info['config'], is_tuned_on)
    loader = get_test_cls_loader(csv, data_path, args.batch_size, info['im_size'], workers, n_classes=len(info['class_names']),
                                 cache_dir=args.cache_dir, allow_outside=args.allow_outside_data_path, skip_bad_images=args.skip_bad_images,
                                 label_column=label_column, known_names=info['class_names'])
    print(describe_label_column(csv, loader.dataset.label_column))
    return loader


def collect_split(loader, loaded, args, accelerator, folder, split):
    """-> Logits of every image of `loader`; those that were left out are listed in `folder`."""
    info, data, csv = loaded.info, loader.dataset, loader.dataset.csv_path
    if args.salt:  # the text of a system's error ends with the path
        data.skipped = [(csv, row, *anonymous([image_id], args.salt), reason.split(": '")[0]) for _, row, image_id, reason in data.skipped]
    write_skipped(os.path.join(folder, f'skipped_{split}.csv'), [data])
    normalise = Normalise(accelerator.device, info['mean'], info['std'])
    return collect_logits(loaded.model, loader, normalise, accelerator.autocast, split, get_views(args))


def run_split(split, loader, loaded, args, accelerator, folder, tuning, note):
    """`note`: of `check_reported` and `note_of_patients`. -> path of the per-image csv, None where there are no labels to score it by."""
    info, name, data, csv = loaded.info, getattr(args, f'csv_out_{split}'), loader.dataset, loader.dataset.csv_path
    logits = collect_split(loader, loaded, args, accelerator, folder, split)
    text = ''
    if csv == tuning.csv:
        print(f'* Note: {csv} is reported without correction, since the corrections are chosen on it')
        predictions = to_predictions(logits)
    else:
        predictions, text = corrected(logits, tuning, info['class_names'])
    write_predictions(os.path.join(folder, name), predictions, info['class_names'], data.table.get('patient_id'), args.salt)
    if predictions.labels is None:
        print(f'{text}* {csv} has no labels: wrote the predictions only, {os.path.join(folder, name)}')
        return None
    m, report = full_report(predictions, info['class_names'], info['class_count'])
    if data.skipped:
        text += f'Left out {len(data.skipped)} of {len(data.skipped) + len(data)} images, which cannot be read: skipped_{split}.csv\n'
    text += f"Checkpoint {loaded.folder}, epoch {info['epoch']}; csv {csv}, SHA-256 {file_sha256(csv)}{describe_views(args)}\n"
    text += predictions_line(os.path.join(folder, name))
    report, file = f'{report}{note}{text}', os.path.join(folder, f'performance_{split}.txt')
    write_text(file, report)
    print(report)
    kappa = f'K: {100 * m.kappa:.2f} - ' if is_ordered(info['class_names'], info['config']['metric']) else ''
    print(f'{split.capitalize()} - {kappa}mAUC: {100 * m.auc:.2f} - MCC: {100 * m.mcc:.2f} - '
          f'F1: {100 * m.f1:.2f} - BalAcc: {100 * m.bacc:.2f} - Acc: {100 * m.acc:.2f} - '
          f'n: {len(predictions.labels)}')
    print(f'* Wrote {file} and {os.path.join(folder, name)}')
    return os.path.join(folder, name)


def get_accelerator(loaded, device):
    """`device`: one of DEVICES; the precision is that of the training. Moves the network there."""
    bf16 = loaded.info['config']['mixed_precision'] == 'bf16' and device != 'cpu' and torch.cuda.is_available()
    accelerator = build_accelerator(device, 'bf16' if bf16 else 'fp32')
    loaded.model.to(accelerator.device)
    return accelerator


def main(description, splits, dihedral_tta, argv=None):
    parser = get_parser(description, splits, dihedral_tta)
    args = parser.parse_args(argv)
    warn(parser, argv, args, WITHOUT_EFFECT)
    loaded = load_model(args.load_path)
    check_flags(args, loaded.info)
    args.data_path = loaded.info['config']['data_path'] if args.data_path is None else args.data_path
    accelerator = get_accelerator(loaded, args.device)
    print(f"* {loaded.info['model_name']} of {loaded.folder}, epoch {loaded.info['epoch']}")
    folder = os.path.join(args.results_path, name_of_run(loaded.folder))
    keep_private(args.private, folder, args.cache_dir)
    check_writable(folder)
    csvs = {split: getattr(args, f'csv_{split}') for split in splits if getattr(args, f'csv_{split}') is not None}
    loaders = {split: get_loader(csv, loaded, args) for split, csv in csvs.items()}
    if loaded.info['image_hashes'] is None:
        print('* Note: this checkpoint holds no list of its training images: an overlap with the tested images cannot be found')
    notes = {split: check_reported(loader.dataset, loaded.info, args.num_workers) + note_of_patients(loader.dataset, loaded.info['config'])
             for split, loader in loaders.items()}
    print(''.join(f'* {note}' for note in notes.values() if note), end='')
    tuning = tune(args, loaders, loaded, lambda csv: get_loader(csv, loaded, args, is_tuned_on=True),
                  lambda loader: collect_split(loader, loaded, args, accelerator, folder, 'tune'))
    if tuning.csv is None:  # the list of a test before goes
        write_skipped(os.path.join(folder, 'skipped_tune.csv'), [])
    scored = [run_split(split, loader, loaded, args, accelerator, folder, tuning, notes[split]) for split, loader in loaders.items()]
    say_next(*next_step(scored[-1], loaded.folder, args))


def next_step(csv, checkpoint_folder, args):
    """`csv`: scored predictions or None. -> what to do, and the command for it"""
    run = os.path.dirname(checkpoint_folder) or '.'
    known = os.path.isfile(os.path.join(run, 'config.cfg'))  # False for a checkpoint that was copied elsewhere
    if csv:
        return 'score it with intervals', 'python', '-m', 'tools.evaluate_predictions', csv, *(['--run', run] if known else [])
    if known:
        return 'look at its training', 'python', '-m', 'tools.report', run
    return ('see where the network looks', 'python', '-m', 'tools.predict', '--load_path', args.load_path, args.data_path, '--gradcam',
            *private_flag(args))
