"""Check that two checkouts of this repository give the same results, bit for bit.

Each checkout trains and tests networks on a toy data set with the same commands. Checkpoints, logs, configurations, reports and
predictions must be equal, except for times. The exit status is 1 if any command differs or fails. Four differences are shown but are not
errors: console output, the format number, keys of config.cfg that only one checkout writes, and results_*.json files that only NEW writes.

Example:

  python -m tests.compare_checkouts ../before .
"""
import argparse
import contextlib
import difflib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

TRAIN = ('train_lt_mxp.py --csv_train data/train.csv --data_path data/images --n_classes 3 --model_name resnet32 --init none --im_size 32 '
         '--batch_size 4 --num_workers 0 --device cpu --metric mcc --n_epochs 2')
TEST = 'test_with_labels_eyepacs.py --csv_test data/test.csv --num_workers 0 --device cpu --load_path experiments/'
LOSSES = ('WCE', 'FOCAL', 'CB', 'CBFOCAL', 'BSCE', 'LA', 'CDT', 'VS', 'LAS', 'LADE', 'SEQL', 'SEESAW', 'ORDINAL')
STAGE_TWO = '--pretrained_weights experiments/ce --trainable'
RUNS = {  # name -> flags
    'ce': '--n_epochs 3 --n_checkpoints 2', **{f'loss_{loss}': f'--loss_fn {loss}' for loss in LOSSES},
    'class': '--sampling class', 'prog': '--sampling prog --n_epochs 3', 'cbrt_deferred': '--sampling cbrt --defer 0.5',
    'ldam_sqrt_deferred': '--loss_fn LDAM --sampling sqrt --defer 0.5', 'ce_deferred': '--defer 0.5', 'do_mixup': '--do_mixup 0.2',
    **{mixing: f'--mixing {mixing}' for mixing in ('mixup', 'cutmix', 'remix', 'balanced_mixup')}, 'seed': '--seed 7',
    **{f'augment_{augment}': f'--augment {augment}' for augment in ('trivial', 'randaugment', 'rotate', 'zoom', 'none')},
    'mixup_off': '--mixing mixup --mix_alpha 0.5 --mixup_off_epochs 1', 'cosine_adam': '--schedule cosine --optimizer adam',
    'ema_onecycle_adamw': '--ema 0.9 --schedule onecycle --optimizer adamw --wd 0.01', 'eval_full': '--train_eval full',
    'momentum_warmup': '--momentum 0.9 --wd 0.001 --warmup 0.2', 'plateau': '--patience 0 --n_epochs 4 --lr 0.1 --min_lr 0.01',
    'grow': '--grow_from 0.5 --n_epochs 3', 'accumulate': '--accumulate 2', 'bf16': '--precision bf16', 'eval_off': '--train_eval off',
    'metric_loss': '--metric loss', 'no_cache': '--no_cache', 'recipe': '--recipe balanced --n_epochs 3 --mixup_off_epochs 1',
    'stage_two_la': f'{STAGE_TWO} all --loss_fn LA', 'stage_two_crt': f'{STAGE_TWO} classifier --sampling class',
    'stage_two_lws': f'{STAGE_TWO} scale --sampling class', 'stage_two_features': f'{STAGE_TWO} classifier --augment none'}
STOPPED = {  # name -> flags, and when the run gets SIGTERM: after this step (an epoch has five), or in the evaluation after it
    'stop_step': ('--n_epochs 3 --loss_fn LA --ema 0.9 --schedule onecycle --optimizer adamw --augment trivial', 'step', 8),
    'stop_first_epoch': ('--mixing remix --schedule cosine', 'step', 2),
    'stop_evaluation': ('--n_epochs 4 --momentum 0.9 --sampling prog --do_mixup 0.2 --patience 0', 'evaluation', 10),
    'stop_features': (f'{STAGE_TWO} scale --augment none --loss_fn BSCE', 'step', 7)}
TESTS = {  # name -> run and flags
    'test': 'ce', 'test_adjusted': 'ce --calibrate --logit_adjust', 'test_prior': 'loss_BSCE --target_prior uniform',
    'test_tau_norm': 'ce --tau_norm 0.5', 'test_lws': 'stage_two_lws --salt secret', 'test_views': 'bf16 --dihedral_tta 4 --zoom_tta 1 1.2',
    'test_val': 'ldam_sqrt_deferred --csv_val data/val.csv --calibrate'}
# name -> script with flags; when to send SIGTERM, if at all; run to copy first and what to leave out of the copy, if any
COMMANDS = {name: (f'{TRAIN} {flags} --save_path {name}', (), ()) for name, flags in RUNS.items()}
for name, (flags, *stop) in STOPPED.items():
    COMMANDS[name] = f'{TRAIN} {flags} --save_path {name}', stop, ()
    for again, left_out in ((f'{name}_resumed', ''), (f'{name}_killed', 'interrupted')):  # a killed run has last/, but no interrupted/
        COMMANDS[again] = f'{TRAIN} {flags} --save_path {again} --resume', (), (name, left_out)
COMMANDS |= {name: (f'{TEST}{flags} --results_path results/{name}', (), ()) for name, flags in TESTS.items()}
IGNORED_KEYS = ('sha256', 'seconds', 'images_per_second', 'git_commit')
TIMES = re.compile(r'Training time: .*|[\d.,]+ img/s|[\d.]+ (s|min|h|GB free)\b')


def run_commands(checkout):
    """Run all commands in the working folder with the code of `checkout`, and write their exit statuses to statuses.json."""
    from accelerate.state import AcceleratorState
    state, statuses = {}, {}

    def arrive(phase):
        state['steps'] += phase == 'step'
        if state['stop'] == [phase, state['steps']]:
            signal.raise_signal(signal.SIGTERM)
    register_optimizer_step_post_hook(lambda *args: arrive('step'))
    register_module_forward_hook(lambda module, *args: None if module.training else arrive('evaluation'))
    for name, (command, state['stop'], copied) in COMMANDS.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv, state['steps'] = command.split(), 0
        with open(f'console/{name}.txt', 'w') as console, contextlib.redirect_stdout(console), contextlib.redirect_stderr(console):
            try:
                if copied:
                    shutil.copytree(f'experiments/{copied[0]}', f'experiments/{name}', ignore=shutil.ignore_patterns(copied[1]))
                runpy.run_path(os.path.join(checkout, sys.argv[0]), run_name='__main__')
                statuses[name] = 0
            except SystemExit as end:
                statuses[name] = end.code if isinstance(end.code, int) else int(end.code is not None)
                print(end.code)
            except Exception:
                traceback.print_exc()
    for name, module in sys.modules.items():
        if name.split('.')[0] in ('utils', 'models') and not (module.__file__ or checkout + os.sep).startswith(checkout + os.sep):
            sys.exit(f'{name} does not come from {checkout}')
    Path('statuses.json').write_text(json.dumps(statuses))


def write_set(folder):
    """Write noisy images of one colour per class, and the csvs."""
    (folder / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, counts in {'train': (12, 6, 4), 'val': (4, 3, 2), 'test': (3, 2, 2)}.items():
        rows = ['image_id,name,label\n']
        for i, label in enumerate(rng.permutation(np.repeat(range(3), counts))):
            pixels = rng.normal(110, 40, (32, 32, 3)) + 60 * np.eye(3)[label]
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / 'images' / f'{split}_{i}.jpg')
            rows.append(f'{split}_{i},class{label},{label}\n')
        (folder / f'{split}.csv').write_text(''.join(rows))


def start(checkout, folder):
    """Start a process that runs all commands with one checkout in `folder`."""
    (folder / 'console').mkdir()
    code = f'import runpy; runpy.run_path({__file__!r}, run_name="run_commands")'
    variables = {'PYTHONPATH': checkout, 'OMP_NUM_THREADS': '1', 'PYTHONHASHSEED': '0', 'COLUMNS': '80', 'CUDA_VISIBLE_DEVICES': ''}
    with open(folder / 'process.txt', 'w') as out:
        return subprocess.Popen([sys.executable, '-c', code, checkout], cwd=folder, env=os.environ | variables, stdout=out, stderr=out)


def masked(text, paths):
    """Return `text` with times and the `paths` of its side masked."""
    return TIMES.sub('TIME', text.replace(str(paths[0]), 'FOLDER').replace(str(paths[1]), 'CHECKOUT'))


def content(path):
    if path.suffix in ('.pth', '.cfg'):
        return torch.load(path, weights_only=True) if path.suffix == '.pth' else json.loads(path.read_bytes())
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines] if path.suffix == '.jsonl' else lines


def compare(old, new, place, sides):
    """Yield (place and difference, whether it is allowed) for plain values and tensors.

    Keys of a configuration may be added or removed, and the format number may change.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (key for key in old | new if key not in IGNORED_KEYS):
            if key in old and key in new:
                yield from compare(old[key], new[key], f'{place}: {key}', sides)
            else:
                yield f"{place}: {key} {'added' if key in new else 'removed'}", 'config' in place
    elif isinstance(old, (list, tuple)) and type(old) is type(new) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from compare(*pair, f'{place}: {i}', sides)
    elif isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        pair = [tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (old, new)]
        if (old.dtype, old.shape) != (new.dtype, new.shape) or not torch.equal(*pair):
            yield f'{place}: different values', False
    else:  # NaN is equal to NaN
        old, new = (masked(repr(value), paths) for value, paths in zip((old, new), sides, strict=True))
        if old != new:
            start = max(next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0) - 20, 0)
            yield f'{place}: {old[start:start + 60]} -> {new[start:start + 60]}', place.endswith(': format')


def compare_command(name, paths, sides):
    """Yield (difference, whether it is allowed) for one command, which wrote the files `paths`."""
    expected = 143 if name in STOPPED else 0
    for folder, _ in sides:
        if (status := json.loads((folder / 'statuses.json').read_bytes()).get(name)) != expected and name in COMMANDS:
            yield f'exit status {status}, not {expected}', False
    for path in sorted(paths):
        old, new = (folder / path for folder, _ in sides)
        if old.exists() and new.exists():
            yield from compare(content(old), content(new), str(path), sides)
        else:
            yield f"{path} {'added' if new.exists() else 'removed'}", new.exists() and path.match('results_*.json')


def compare_all(sides, whole_console):
    """Print the differences of each command. `sides`: (working folder, checkout) of both. -> names of the commands that differ"""
    files, differing = {name: set() for name in COMMANDS}, []
    for path in {path.relative_to(folder) for folder, _ in sides for path in folder.rglob('*') if path.is_file()}:
        if path.parts[0] in ('experiments', 'results') and path.name not in ('environment.json', '.lock'):
            files.setdefault(path.parts[1], set()).add(path)
    for name, paths in files.items():
        found = list(compare_command(name, paths, sides))
        differs, notes = ([text for text, is_allowed in found if is_allowed == wanted] for wanted in (False, True))
        what = f"{len(differs)} differences, such as {'; '.join(differs[:2])}" if differs else 'identical'
        print(f'{name:24s} {what}', f'{len(paths)} files', *dict.fromkeys(note.split('/')[-1] for note in notes), sep='; ')
        console = [masked((paths[0] / f'console/{name}.txt').read_text(), paths).splitlines() for paths in sides if name in COMMANDS]
        if lines := [line for line in difflib.ndiff(*(console or ('', ''))) if line.startswith(('-', '+'))]:
            print(f'  {len(lines)} lines of the console differ:', *(lines if whole_console else lines[:2]), sep='\n    ')
        differing += [name] if differs else []
    return differing


def get_parser():
    description, example = __doc__.split('\nExample')
    parser = argparse.ArgumentParser(prog='python -m tests.compare_checkouts', description=description, epilog=f'Example{example}',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('old', metavar='OLD', help='folder of the first checkout')
    parser.add_argument('new', metavar='NEW', help='folder of the second checkout')
    parser.add_argument('--console', action='store_true', help='show all differences in the console output, not only two lines per command')
    return parser


def main():
    args = get_parser().parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        sides = [(Path(temporary).resolve() / name, os.path.realpath(path)) for name, path in (('old', args.old), ('new', args.new))]
        write_set(sides[0][0] / 'data')
        shutil.copytree(sides[0][0] / 'data', sides[1][0] / 'data')
        processes = [start(checkout, folder) for folder, checkout in sides]
        for process, (folder, checkout) in zip(processes, sides, strict=True):
            if process.wait():
                sys.exit(f"error: the commands cannot be run in {checkout}:\n{(folder / 'process.txt').read_text()}")
        differing = compare_all(sides, args.console)
    print(f'{len(COMMANDS)} commands:', f"{len(differing)} differ: {', '.join(differing)}" if differing else 'all are identical')
    sys.exit(bool(differing))


if __name__ == '__main__':
    main()
elif __name__ == 'run_commands':
    run_commands(sys.argv[1])
