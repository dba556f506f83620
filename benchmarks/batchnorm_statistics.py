"""Compare the BatchNorm statistics of a trained network with those of its training images without mixing.

Mixed images have less contrast than the images of a test, so BatchNorm may scale those wrongly. For each run, the statistics are estimated
again on the training images, with the augmentation and the batch size of the training, but without mixing. Printed: the ratio of the old
to the new variance of the channels (median, and the 5th and 95th percentile), and the scores of a csv with both.

Example:

  python -m benchmarks.batchnorm_statistics experiments/study/idrid/Balanced-MixUp/seed0 --csv data/study/idrid/val.csv
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from utils.cli import script_parser
from utils.common import InputError, run_script
from utils.evaluation import evaluate_multi_cls
from utils.get_loaders import get_test_cls_loader
from utils.model_saving_loading import load_model
from utils.prediction.inference import Normalise, predict
from utils.testing.network import get_accelerator
from utils.training.batches import BatchTransform

SHOWN = ('bacc', 'mcc', 'auc')


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='run folders')
    parser.add_argument('--csv', required=True, metavar='CSV', help='csv to score, with images in the folder of the training')
    return parser


def variances(model):
    """-> running variances of all BatchNorm channels, float64 (C,)"""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        raise InputError('the network has no BatchNorm layers')
    return torch.cat([layer.running_var for layer in layers]).double().cpu().numpy()


def scores(loaded, loader, normalise, accelerator):
    """-> text with SHOWN in percent"""
    found = predict(loaded.model, loader, normalise, accelerator.autocast)
    metrics = evaluate_multi_cls(found.labels, found.preds, found.probs)
    return ', '.join(f'{name} {100 * getattr(metrics, name):.1f}' for name in SHOWN)


def unmixed_batches(dataset, config, normalise):
    """Yield inputs (B, 3, H, W) of all training images in random order, as in one epoch of the training without mixing."""
    as_trained, rng = BatchTransform(normalise, config['augment'], config['seed']), np.random.default_rng(config['seed'])
    order = rng.permutation(len(dataset))[:len(dataset) // config['batch_size'] * config['batch_size']]
    for batch in order.reshape(-1, config['batch_size']):
        yield as_trained.inputs(torch.stack([dataset[i][0] for i in batch]))


def compare(run, csv):
    """-> lines of text for one run"""
    loaded = load_model(run)
    config, info = loaded.info['config'], loaded.info
    accelerator = get_accelerator(loaded, 'auto')
    train, test = (get_test_cls_loader(path, config['data_path'], im_size=info['im_size'], device=accelerator.device)
                   for path in (config['csv_train'], csv))
    normalise = Normalise(accelerator.device, info['mean'], info['std'])
    lines, before = [f'{run}:', f'  as trained: {scores(loaded, test, normalise, accelerator)}'], variances(loaded.model)
    update_bn(unmixed_batches(train.dataset, config, normalise), loaded.model)
    after = variances(loaded.model)
    ratio = before[after > 0] / after[after > 0]  # a channel may be constant
    lines.append(f'  unmixed statistics: {scores(loaded, test, normalise, accelerator)}')
    low, middle, high = np.quantile(ratio, [.05, .5, .95])
    return [*lines, f'  variance as trained / unmixed: {middle:.3f} ({low:.3f} to {high:.3f})']


def main(argv=None):
    args = get_parser().parse_args(argv)
    for run in args.runs:
        print('\n'.join(compare(run, args.csv)), flush=True)


if __name__ == '__main__':
    run_script(main)
