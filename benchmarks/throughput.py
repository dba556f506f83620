r"""Compare the speed of training with the network alone and with a straightforward loop.

The network alone is the training step on one batch that stays on the device. The straightforward loop trains in the style of the original
(benchmarks/reference_loop.py). Each turn measures everything once. A ratio is the median of the ratios within each turn. With --scale,
measure instead what a data set costs apart from its pixels, from 1,000 to 1,000,000 rows.

Examples (the demo set is used if neither --csv_train nor LT_REAL_DATA is given):

  python -m benchmarks.throughput --json speed.json
  python -m benchmarks.throughput --csv_train data/demo/train_demo.csv --csv_val data/demo/val_demo.csv \
      --data_path data/demo/images --n_classes 5
  python -m benchmarks.throughput --scale
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import contextlib
import io
import json
import os
import statistics
import tempfile
from pathlib import Path

import pandas as pd
import torch

import train_lt_mxp
from benchmarks import memory, photographs, scale
from benchmarks.images import choose_data
from benchmarks.network_alone import NetworkAlone
from benchmarks.reference_loop import ReferenceLoop
from utils.cli import parse_im_size, say_next, script_parser
from utils.common import run_script, write_text
from utils.prediction.accelerator import build_accelerator

ALPHA = .2  # of Balanced-MixUp
EYEPACS = 31_613, 3_513, 30  # training and validation images, epochs: the original's longest run
METHODS = {'plain': '', 'mixup': f'--do_mixup {ALPHA}',
           'classifier': '--trainable classifier --loss_fn BSCE --pretrained_weights experiments/plain',
           'features': '--trainable classifier --augment none --loss_fn BSCE --pretrained_weights experiments/plain'}


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--csv_train', metavar='CSV', help='training csv (default: isic8 in the folder LT_REAL_DATA, else the demo set)')
    data.add_argument('--csv_val', metavar='CSV', help='validation csv, required with --csv_train')
    data.add_argument('--data_path', metavar='FOLDER', help='folder of the images, required with --csv_train')
    data.add_argument('--n_classes', type=int, default=8, metavar='K', help='number of classes in --csv_train')
    data.add_argument('--n_images', type=int, metavar='N',
                      help='number of training images, repeated as needed; a fast device needs more (default: all)')
    data.add_argument('--photographs', metavar='FOLDER',
                      help='folder of full-size photographs to decode (default: eyepacs_sample in LT_REAL_DATA, else --data_path)')
    data.add_argument('--im_size', type=parse_im_size, default='128', metavar='PIXELS',
                      help='size of the resized images: height,width or one number for both')
    training = parser.add_argument_group('training')
    training.add_argument('--model_name', default='mobilenetV2', metavar='NAME', help='network')
    training.add_argument('--batch_size', type=int, default=8, metavar='N', help='batch size')
    training.add_argument('--num_workers', type=int, default=8, metavar='N',
                          help='data loader workers, for training and for the straightforward loop')
    training.add_argument('--precision', default='auto', choices=('auto', 'fp32', 'bf16'), help='precision, as for train_lt_mxp.py')
    measured = parser.add_argument_group('measurement')
    measured.add_argument('--repeats', type=int, default=3, metavar='N', help='number of turns')
    measured.add_argument('--scale', action='store_true', help='measure the cost of large data sets instead')
    measured.add_argument('--json', metavar='FILE', help='also write the results to FILE')
    return parser


def train_args(args, method):
    flags = (f'--csv_train {args.csv_train} --csv_val {args.csv_val} --data_path {args.data_path} --allow_outside_data_path '
             f'--n_classes {args.n_classes} --model_name {args.model_name} --init none '
             f'--im_size {args.im_size[0]},{args.im_size[1]} --batch_size {args.batch_size} '
             f'--num_workers {args.num_workers} --precision {args.precision} --metric mcc --lr 0.001 --n_epochs 2 --save_path {method} '
             f'--overwrite {METHODS[method]}')
    return flags.split()


def train(args, method):
    """Train two epochs. -> images per second of training in the second epoch, seconds of that epoch including evaluation"""
    with contextlib.redirect_stdout(io.StringIO()):
        train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(train_args(args, method)))
    record = json.loads(Path('experiments', method, 'log.jsonl').read_text().splitlines()[-1])
    return record['images_per_second'], record['seconds']


def measure(args):
    """-> a dictionary of measurements for each turn"""
    accelerator = build_accelerator(precision=args.precision)
    workers = min(args.num_workers, os.cpu_count() or 1)
    reference = ReferenceLoop(args.csv_train, args.csv_val, args.data_path, args.n_classes, args.model_name, args.im_size,
                              args.batch_size, workers, ALPHA, accelerator.device)
    limit, turns = NetworkAlone(train_lt_mxp.get_parser().parse_args(train_args(args, 'plain')), accelerator), []
    n_steps = max(20, len(reference.train) // 4)
    for _ in range(args.repeats):
        turn, seconds = {}, []
        for method in METHODS:
            seconds.append(limit.seconds(n_steps))
            turn[method], turn[f'{method} epoch'] = train(args, method)
        training, turn['reference epoch'] = reference.epoch()
        turn['reference'] = len(reference.train) * args.batch_size / training
        seconds.append(limit.seconds(n_steps))
        turn['limit'] = n_steps * args.batch_size / statistics.mean(seconds)
        turns.append(turn)
        print(f"* Turn {len(turns)}: " + ', '.join(f'{name} {value:.1f}' for name, value in turn.items()), flush=True)
    return turns


def summary(turns, n_train, n_val):
    """-> rows (name, value, unit, ratio, note)"""
    def middle(name):
        return statistics.median(turn[name] for turn in turns)

    def ratio(name, of):
        return statistics.median(turn[name] / turn[of] for turn in turns)
    rows = [('network alone, data on the device', middle('limit'), 'images/s', None, '')]
    for name, title in (('plain', 'training'), ('mixup', 'training, Balanced-MixUp'), ('classifier', 'stage two, classifier only'),
                        ('features', 'the same without augmentation: features kept'),
                        ('reference', 'straightforward loop, Balanced-MixUp')):
        rows.append((title, middle(name), 'images/s', ratio(name, 'limit'), 'of the network alone'))
    rows += [('epoch with evaluations, straightforward loop', middle('reference epoch'), 's', None, ''),
             ('epoch with evaluations, Balanced-MixUp', middle('mixup epoch'), 's', ratio('reference epoch', 'mixup epoch'),
              'times as fast as the straightforward loop')]
    n, m, epochs = EYEPACS
    minutes = [epochs / 60 * (n / t['mixup'] + (t['mixup epoch'] - n_train / t['mixup']) * m / n_val) for t in turns]
    return rows + [('EyePACS, 30 epochs, projected', statistics.median(minutes), 'min', None, f'{n:,} + {m:,} images of this size')]


def table_text(rows):
    width = max(len(row[0]) for row in rows)
    return '\n'.join(f'{name:<{width}}  {value:>10,.2f} {unit:<8}' + (f'  {ratio:8.2f} {of}' if ratio else f'  {of}').rstrip()
                     for name, value, unit, ratio, of in rows)


def main(argv=None):
    args = get_parser().parse_args(argv)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
    result = {'device': device, 'torch': str(torch.__version__)}
    print(f'* {device}, torch {torch.__version__}')
    if args.scale:
        result['scale'] = scale.measure()
        print(scale.table_text(result['scale']))
    else:
        flags = dict(vars(args))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            choose_data(args, folder)
            turns = measure(args)
            rows = summary(turns, *(len(pd.read_csv(csv)) for csv in (args.csv_train, args.csv_val)))
            rows += photographs.rows(args.photographs, folder) + memory.rows(train_args(args, 'mixup'), args)
        columns = 'name', 'value', 'unit', 'ratio', 'of'
        result |= {'flags': flags, 'turns': turns, 'rows': [dict(zip(columns, row, strict=True)) for row in rows]}
        print(table_text(rows))
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + '\n')
        print(f'* Wrote {args.json}')
    if args.scale:
        say_next('measure the speed of training', 'python', '-m', 'benchmarks.throughput')
    else:
        say_next('measure the cost of large data sets', 'python', '-m', 'benchmarks.throughput', '--scale')


if __name__ == '__main__':
    run_script(main, 'use a smaller --batch_size')
