"""Predict the class probabilities of single images or folders of images, optionally with Grad-CAM heat maps.

Examples, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.predict --load_path experiments/demo/BSCE/seed0 data/demo/images/test_0000.jpg
  python -m tools.predict --load_path experiments/demo/BSCE/seed0 data/demo/images --gradcam
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import os

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.cli import add_network_flag, flags_given, network_flag, say_next, script_parser, to_test
from utils.common import InputError, check_writable, counted, run_script, whole_file
from utils.data.images import open_rgb
from utils.data.new_images import ImageFiles, find_new_images, why_unreadable
from utils.data.permissions import add_private_flag, keep_private, private_flag
from utils.decisions.prevalence import prevalence_text
from utils.get_loaders import fitting_workers
from utils.model_saving_loading import load_model
from utils.prediction.accelerator import add_device_flag
from utils.prediction.gradcam import grad_cam, overlay
from utils.prediction.inference import Logits, Normalise, collect_logits
from utils.prediction.predictions import write_predictions
from utils.prediction.tta import add_view_flags, check_view_flags, get_views
from utils.runs.paths import name_of_run
from utils.statistics.tables import to_text
from utils.testing.decisions import add_decision_flag, check_prior, decide, decision_tuning, read_own_decision
from utils.testing.network import get_accelerator
from utils.testing.tuning import Tuning, add_prior_flag

SHOWN = 20  # images on the console; the csv holds all of them


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('inputs', nargs='+', metavar='IMAGE_OR_FOLDER', help='images, or folders searched for images at any depth')
    data.add_argument('--load_path', required=True, metavar='RUN', help='run folder (its best epoch), checkpoint folder or file')
    add_network_flag(data)
    output = parser.add_argument_group('output')
    output.add_argument('--results_path', default='results/', metavar='FOLDER', help='folder in which each run gets a results folder')
    output.add_argument('--csv_out', default='predictions.csv', metavar='NAME', help='name of the predictions csv')
    output.add_argument('--gradcam', action='store_true', help='save each image next to its heat map for the predicted class')
    add_private_flag(output)
    method = parser.add_argument_group('method')
    add_view_flags(method)
    add_prior_flag(method)
    add_decision_flag(method)
    method.add_argument('--batch_size', type=int, default=32, metavar='N', help='images per batch')
    method.add_argument('--num_workers', type=int, default=8, metavar='N', help='processes that decode images, at most one per CPU core')
    add_device_flag(method)
    return parser


def save_heat_maps(folder, files, predictions, model, normalise, batch_size):
    """Save one figure per image as <id>.jpg, without the extension of the id if all ids stay unique. `files`: ImageFiles in the order of
    `predictions`."""
    stems = [os.path.splitext(image_id)[0] for image_id in predictions.image_ids]
    names = stems if len(set(stems)) == len(stems) else predictions.image_ids
    with tqdm(total=len(files), desc='Grad-CAM', unit='img', leave=False, disable=None) as bar:
        for first in range(0, len(files), batch_size):
            rows = range(first, min(first + batch_size, len(files)))
            inputs = normalise(torch.stack([files[row][0] for row in rows]))
            heat = grad_cam(model, inputs, torch.from_numpy(predictions.preds[rows.start:rows.stop]).to(inputs.device)).cpu().numpy()
            for row, one in zip(rows, heat, strict=True):
                path = os.path.join(folder, f'{names[row]}.jpg')
                with whole_file(path) as f:
                    overlay(open_rgb(files.paths[row]), one).save(f, 'JPEG', quality=92)
                bar.update()


def answer_rows(decided, names):
    """-> table of the first SHOWN images: the most likely classes, and the columns of the decision file; the first row is the header"""
    predictions, k = decided.predictions, min(3, len(names))
    order = (-predictions.probs).argsort(axis=1, kind='stable')[:, :k]
    columns = {} if decided.columns is None else {name.replace('_', ' '): decided.columns[name].tolist() for name in decided.columns}
    rows = [['image', *['most likely', 'second', 'third'][:k], *columns]]
    for i, (image_id, top, p) in enumerate(zip(predictions.image_ids[:SHOWN], order, predictions.probs, strict=False)):
        rows.append([image_id, *(f'{names[c]} {100 * p[c]:5.1f} %' for c in top), *(values[i] for values in columns.values())])
    return rows


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    check_view_flags(args)
    if args.num_workers < 0 or args.batch_size < 1:
        raise InputError('--num_workers must not be negative, --batch_size must be positive')
    if os.path.basename(args.csv_out) != args.csv_out or not args.csv_out.endswith('.csv'):
        raise InputError(f'--csv_out {args.csv_out} must be a file name that ends in .csv, without a folder')
    paths, ids = find_new_images(args.inputs)
    loaded = load_model(args.load_path, args.model_name)
    folder = os.path.join(args.results_path, name_of_run(loaded.folder))
    keep_private(args.private, folder)
    check_writable(folder)
    info = loaded.info
    decision = read_own_decision(args, flags_given(parser, argv, args), info)
    tuning = decision_tuning(decision, loaded.model, info) if decision else Tuning()
    check_prior(args.target_prior, info, decision)
    accelerator = get_accelerator(loaded, args.device)
    normalise = Normalise(accelerator.device, info['mean'], info['std'])
    if args.gradcam:  # fails now, not after the predictions, if the network has no feature map
        device = accelerator.device
        grad_cam(loaded.model, torch.zeros(1, 3, *info['im_size'], device=device), torch.zeros(1, dtype=torch.int64, device=device))
    files = ImageFiles(paths, ids, tuple(info['im_size']))
    workers = fitting_workers(min(args.num_workers, os.cpu_count() or 1, len(files)), args.batch_size, info['im_size'])
    loader = DataLoader(files, args.batch_size, num_workers=workers)
    logits = collect_logits(loaded.model, loader, normalise, accelerator.autocast, desc='predict', views=get_views(args))
    good = (logits.labels == -1).nonzero().flatten()
    unread = [f'  {ids[i]}: {why_unreadable(paths[i]) or "cannot be decoded"}' for i in (logits.labels != -1).nonzero().flatten().tolist()]
    if not len(good):
        raise InputError('\n'.join(['none of the images can be read:', *unread]))

    decided = decide(Logits(logits.values[:, good], logits.labels[good], [ids[i] for i in good]), info, tuning, decision,
                     target_prior=args.target_prior)
    predictions, names = decided.predictions, info['class_names']
    print(f'* {loaded}')
    if decided.prevalence:
        print(prevalence_text(decided.prevalence, decision.source, names))
    for line in filter(None, (decided.tuning.correction and decided.tuning.correction.line, decision and decision.line)):
        print(f'* {line}')
    print(to_text(answer_rows(decided, names)))
    if len(good) > SHOWN:
        print(f'... and {len(good) - SHOWN} more')
    os.makedirs(folder, exist_ok=True)
    csv = os.path.join(folder, args.csv_out)
    write_predictions(csv, predictions, names, decided=decided.columns)
    print(f"* Wrote {csv}: {counted(len(good), 'image')}")
    if unread:
        print('\n'.join([f'* {len(unread)} of {len(files)} images cannot be read and were skipped:', *unread]))
    if args.gradcam:
        heat_maps = os.path.join(folder, 'gradcam')
        good_files = ImageFiles([paths[i] for i in good], predictions.image_ids, tuple(info['im_size']))
        save_heat_maps(heat_maps, good_files, predictions, loaded.model, normalise=normalise, batch_size=args.batch_size)
        print(f'* Heat maps of the predicted class: {heat_maps}')
    config = info['config']
    if args.gradcam:
        say_next('evaluate on labelled images', *to_test(args.load_path, config['csv_train'], config['csv_val'], config['data_path'])[1:],
                 *network_flag(args.model_name))
    else:
        say_next('see heat maps of the predictions', 'python', '-m', 'tools.predict', '--load_path', args.load_path,
                 *network_flag(args.model_name), *args.inputs[:3], '--gradcam', *private_flag(args))


if __name__ == '__main__':
    run_script(main, 'use a smaller --batch_size')
