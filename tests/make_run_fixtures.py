"""Make run folders with the current code, to test that later versions can load and resume them.

The archive contains data/, experiments/ and results/ with these runs: `finished`, with its test results; `after_epoch`, stopped after its
second epoch; `within_epoch`, stopped after three batches of its second epoch; `after_epoch_whole` and `within_epoch_whole`, not stopped.

Example:

  python -m tests.make_run_fixtures runs.zip
"""
import os
import shutil
import signal
import tempfile
from pathlib import Path

import train_lt_mxp
from tests import tiny_network
from tests.factories import write_images
from utils.cli import script_parser
from utils.common import Interrupted
from utils.testing import scoring
from utils.training.batches import BatchTransform
from utils.training.run_folder import RunFolder

COMMON = ('--csv_train data/train.csv --data_path data/images --n_classes 3 --im_size 32 --model_name tiny_test --init none --batch_size 4 '
          '--num_workers 0 --metric mcc')
FLAGS = {
    'finished': '--n_epochs 2 --loss_fn BSCE --n_checkpoints 2',
    'after_epoch': '--n_epochs 4 --momentum 0.9 --sampling prog --do_mixup 0.2 --patience 0 --n_checkpoints 2',
    'within_epoch': '--n_epochs 3 --loss_fn LA --ema 0.9 --schedule onecycle --optimizer adamw --augment trivial --train_eval full',
}


def train(name, save_path):
    train_lt_mxp.main(train_lt_mxp.get_parser().parse_args([*f'{COMMON} {FLAGS[name]} --save_path'.split(), save_path]))


def stopped_after_epoch(end_epoch):
    def stopped(run, *args):
        end_epoch(run, *args)
        if len(run.history) == 2:
            raise KeyboardInterrupt
    return stopped


def stopped_within_epoch(prepare):
    calls = []

    def struck(*args):
        calls.append(1)
        if len(calls) == 5 + 3:
            signal.raise_signal(signal.SIGTERM)
        return prepare(*args)
    return struck


def interrupted(name, owner, attribute, stop, error):
    original = getattr(owner, attribute)
    setattr(owner, attribute, stop(original))
    try:
        train(name, name)
    except error:
        pass
    else:
        raise RuntimeError(f'{name} was not interrupted')
    finally:
        setattr(owner, attribute, original)


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('archive', metavar='FILE.zip', help='archive to write')
    return parser


def main():
    archive = Path(get_parser().parse_args().archive).resolve()
    tiny_network.register()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_images(Path('data'), size=16)
        train('finished', 'finished')
        scoring.main('', {'test': 'data/test.csv'}, 0, ['--load_path', 'experiments/finished', '--num_workers', '0'])
        for name in ('after_epoch', 'within_epoch'):
            train(name, f'{name}_whole')
        interrupted('after_epoch', RunFolder, 'end_epoch', stopped_after_epoch, KeyboardInterrupt)
        interrupted('within_epoch', BatchTransform, '__call__', stopped_within_epoch, Interrupted)
        shutil.rmtree('data/cache')
        shutil.make_archive(str(archive.with_suffix('')), 'zip')
        os.chdir(archive.parent)


if __name__ == '__main__':
    main()
