"""Predict the class probabilities of single images or folders of images, optionally with Grad-CAM heat maps.

Examples, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.predict --load_path experiments/demo/BSCE/seed0 data/demo/images/test_0000.jpg
  python -m tools.predict --load_path experiments/demo/BSCE/seed0 data/demo/images --gradcam
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import os

from tqdm import tqdm

from utils.cli import add_network_flag, flags_given, network_flag, say_next, script_parser, to_test
from utils.common import InputError, check_writable, counted, run_script, whole_file
from utils.data.new_images import find_new_images
from utils.data.permissions import add_private_flag, keep_private, private_flag
from utils.decisions.prevalence import prevalence_text
from utils.model_saving_loading import load_model
from utils.prediction.accelerator import add_device_flag
from utils.prediction.predictions import write_predictions
from utils.prediction.tta import add_view_flags, check_view_flags
from utils.runs.paths import name_of_run
from utils.statistics.tables import to_text
from utils.testing.decisions import add_decision_flag
from utils.testing.new_images import get_predictor
from utils.testing.post_hoc import prior_text
from utils.testing.tuning import add_prior_flag

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


def save_heat_maps(folder, predictor, predicted, batch_size):
    """Save one picture per image as <id>.jpg, without the extension of the id if all ids stay unique."""
    image_ids = predicted.decided.predictions.image_ids
    stems = [os.path.splitext(image_id)[0] for image_id in image_ids]
    names = stems if len(set(stems)) == len(stems) else image_ids
    with tqdm(total=len(names), desc='Grad-CAM', unit='img', leave=False, disable=None) as bar:
        for first in range(0, len(names), batch_size):
            rows = range(first, min(first + batch_size, len(names)))
            for row, picture in zip(rows, predictor.heat_maps(predicted, rows), strict=True):
                with whole_file(os.path.join(folder, f'{names[row]}.jpg')) as f:
                    picture.save(f, 'JPEG', quality=92)
                bar.update()


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
    predictor = get_predictor(args, flags_given(parser, argv, args), loaded)
    if args.gradcam:  # fails now, not after the predictions
        predictor.check_heat_maps()
    predicted = predictor.predict(paths, ids)
    decided, unread, decision, names = predicted.decided, predicted.unread, predictor.decision, loaded.info['class_names']
    print(f'* {loaded}')
    if decided.prevalence:
        print(prevalence_text(decided.prevalence, decision.source, names))
    correction = decided.tuning.correction
    for line in filter(None, (correction and correction.line, decision and decision.line)):
        print(f'* {line}')
    if correction and correction.learnt and correction.expected:
        print(prior_text(names, correction.learnt, correction.expected), end='')
    print(to_text(predicted.rows(names, SHOWN)))
    if len(predicted.paths) > SHOWN:
        print(f'... and {len(predicted.paths) - SHOWN} more')
    os.makedirs(folder, exist_ok=True)
    csv = os.path.join(folder, args.csv_out)
    write_predictions(csv, decided.predictions, names, decided=decided.columns)
    print(f"* Wrote {csv}: {counted(len(predicted.paths), 'image')}")
    if unread:
        print('\n  '.join([f'* {len(unread)} of {len(paths)} images cannot be read and were skipped:', *unread]))
    if args.gradcam:
        heat_maps = os.path.join(folder, 'gradcam')
        save_heat_maps(heat_maps, predictor, predicted, args.batch_size)
        print(f'* Heat maps of the predicted class: {heat_maps}')
    config = loaded.info['config']
    if args.gradcam:
        say_next('evaluate on labelled images', *to_test(args.load_path, config['csv_train'], config['csv_val'], config['data_path'])[1:],
                 *network_flag(args.model_name))
    else:
        say_next('see heat maps of the predictions', 'python', '-m', 'tools.predict', '--load_path', args.load_path,
                 *network_flag(args.model_name), *args.inputs[:3], '--gradcam', *private_flag(args))


if __name__ == '__main__':
    run_script(main, 'use a smaller --batch_size')
