"""Command-line code shared by the scripts: help made from docstrings, types and checks of flags, and the command to run next."""
import argparse
import ctypes
import difflib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from utils.common import CONTROL, MAX_PIXELS

IN_SERIES = 'LT_IN_SERIES'  # environment variable of scripts that a series runs, which knows what comes next
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ABSENT = object()
Rule = tuple[str, str, Callable[[argparse.Namespace], Any]]  # flag, reason, condition; see `warn_without_effect`
SPLIT_WORDS = {'val': ('val', 'valid', 'validation'), 'test': ('test', 'testing')}  # words for the split in csv names


def tune_process() -> None:
    """Tune OpenMP and malloc for training on a CPU. Call it before torch is imported, which reads the OpenMP setting."""
    # PyTorch's OpenMP threads spin for milliseconds while they wait for each other. If another program uses the same cores, this makes
    # training more than ten times slower. A shorter spin costs nothing on an idle machine.
    os.environ.setdefault('GOMP_SPINCOUNT', '20000')
    # glibc returns large freed blocks to the kernel at once and allocates them again, page by page, in the next training step. On a
    # CPU this takes a quarter of the step. M_MMAP_THRESHOLD (its maximum), M_TRIM_THRESHOLD and M_TOP_PAD keep the blocks instead.
    if sys.platform == 'linux' and (mallopt := getattr(ctypes.CDLL(None), 'mallopt', None)):  # absent in musl
        for parameter, n_bytes in ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20)):
            mallopt(parameter, n_bytes)


class HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs, leaves indented ones (commands) unchanged, and shows the default values of flags."""

    def _fill_text(self, text, width, indent):
        fill = super()._fill_text
        return '\n\n'.join(part if part.startswith(' ') else fill(part, width, indent) for part in text.split('\n\n'))

    def _get_help_string(self, action):
        default = ', '.join(map(str, action.default)) if isinstance(action.default, list) else action.default
        if default is False or default in (None, '', argparse.SUPPRESS):
            return action.help
        return f'{action.help} (default: {default:g})' if isinstance(default, float) else f'{action.help} (default: {default})'

    def _format_usage(self, usage, actions, groups, prefix):
        """Show only the required flags if there are many, because argparse prints the usage above every error."""
        if len(actions) <= 10:
            return super()._format_usage(usage, actions, groups, prefix)
        return super()._format_usage(usage, [action for action in actions if action.required], [], prefix).rstrip() + ' [flags]\n\n'


class Parser(argparse.ArgumentParser):
    """Suggests the most similar flag for an unknown one."""

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        flags = [word.split('=')[0] for word in unknown if word.startswith('--')]
        near = difflib.get_close_matches(flags[0], self._option_string_actions, 1) if flags else []
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f' (did you mean {near[0]}?)' if near else ''))
        return args


def script_parser(doc: str | None, parser_class: Any = Parser) -> Any:
    """Return a parser that shows the docstring `doc` of a script as its help.

    Indented paragraphs, which are commands to run from the repository root, and the lines 'Example...:' above them go below the flags.
    All other text goes above the flags.
    """
    parts = [part.strip('\n') for part in (doc or '').split('\n\n')]
    words = next((part.split() for part in parts if part.startswith(' ')), [])
    return parser_class(prog=' '.join(words[:3 if '-m' in words else 2]) or None, formatter_class=HelpFormatter,
                        description='\n\n'.join(part for part in parts if not part.startswith((' ', 'Example'))),
                        epilog='\n\n'.join(part for part in parts if part.startswith((' ', 'Example'))))


def python() -> str:
    """Return the command for this interpreter: its name if it is on the PATH, else a path, as for a .venv that is not activated."""
    for name in ('python', 'python3'):
        if shutil.which(name) == sys.executable:
            return name
    below = os.path.relpath(sys.executable)
    return sys.executable if below.startswith(os.pardir) else below


def quoted(word: str) -> str:
    """Quote `word` for a shell, on one line. Control characters, which could start a line or move the cursor, become bash's $'...'."""
    if not CONTROL.search(word):
        return shlex.quote(word)
    escaped = word.replace('\\', r'\\').replace("'", r"\'")
    return "$'" + CONTROL.sub(lambda found: f'\\u{ord(found[0]):04x}' if ord(found[0]) > 127 else f'\\x{ord(found[0]):02x}', escaped) + "'"


def next_line(what: str, *command: object) -> str:
    """Return the line '* Next, `what`: `command`'. A first word 'python' becomes the command for this interpreter.

    The command is written for the repository root. If the working folder is another one, the command is adapted to run from there.
    """
    words = [python() if command[0] == 'python' else str(command[0]), *map(str, command[1:])]
    below = words[2].replace('.', os.sep) + '.py' if words[1] == '-m' else words[1]
    variable = ''
    if not os.path.samefile(os.curdir, ROOT) and os.path.isfile(os.path.join(ROOT, below)):
        if words[1] == '-m':
            variable = f'PYTHONPATH={quoted(ROOT)} '
        elif not os.path.isfile(words[1]):
            words[1] = os.path.join(ROOT, words[1])
    return f"* Next, {what}: {variable}{' '.join(map(quoted, words))}"


def say_next(what: str, *command: object, file: TextIO | None = None) -> None:
    """Print the last line of a script: a command to paste into a shell. Within a series of commands, nothing is printed."""
    if IN_SERIES not in os.environ:
        print(next_line(what, *command), file=file)


def sibling_csv(csv: str, split: str) -> str:
    """Return the csv of another split beside the training csv: data/train_x.csv -> data/val_x.csv for `split` val.

    The validation csv may also be named with valid or validation. Returns `csv` itself if its name lacks the word train or training.
    Words are runs of letters, so data/constrain_train.csv -> data/constrain_val.csv.
    """
    folder, name = os.path.split(csv)
    word = re.search(r'(?<![^\W\d_])(train|training)(?![^\W\d_])', name, re.IGNORECASE)
    if not word:
        return csv

    def renamed(new):
        new = new.upper() if word[0].isupper() else new.capitalize() if word[0][0].isupper() else new
        return os.path.join(folder, name[:word.start()] + new + name[word.end():])
    return next(filter(os.path.isfile, map(renamed, SPLIT_WORDS[split])), renamed(split))


def own_network(model_name: str) -> tuple[str, str] | None:
    """Return (file, function) for a --model_name path/to/file.py:function, and None for the name of a known network."""
    file, _, function = model_name.rpartition(':')
    return (file, function) if file.endswith('.py') else None


def add_network_flag(group: argparse._ArgumentGroup) -> None:
    """Add --model_name to a script that loads a checkpoint."""
    group.add_argument('--model_name', metavar='FILE:FUNCTION',
                       help='path/to/file.py:function of a custom network, required if the checkpoint has one; runs the file')


def network_flag(model_name: str | None) -> list[str]:
    """Return the words of --model_name for a command that loads a checkpoint; none unless its network comes from a file of the user."""
    return ['--model_name', model_name] if model_name and own_network(model_name) else []


def label_flag(column: str | None) -> list[str]:
    """Return the words of --label_column for a command; none if the flag was not given."""
    return ['--label_column', column] if column else []


def to_train(csv_train: str, csv_val: str, data_path: str, n_classes: int, *flags: object) -> list[object]:
    return ['python', 'train_lt_mxp.py', '--csv_train', csv_train, '--csv_val', csv_val, '--data_path', data_path,
            '--n_classes', n_classes, *flags]


def to_test(run: str, csv_train: str, csv_val: str, data_path: str) -> list[str]:
    """Return what to do and its command: test on the test csv beside the training csv if it exists, else on the validation csv."""
    csv_test = sibling_csv(csv_train, 'test')
    script, flag, csv, what = 'endo', '--csv_val', csv_val, 'test it on the validation csv (test_with_labels_eyepacs.py takes a --csv_test)'
    if os.path.isfile(csv_test) and csv_test != csv_train:
        script, flag, csv, what = 'eyepacs', '--csv_test', csv_test, 'test it'
    return [what, 'python', f'test_with_labels_{script}.py', '--load_path', run, '--data_path', data_path, flag, csv]


def to_resume(argv: list[str], save_path: str) -> list[str]:
    """Return the command line of a training, changed so that it resumes the run."""
    kept = [word for word in argv if len(word) < 4 or not ('--overwrite'.startswith(word) or '--resume'.startswith(word))]
    named = any(word.split('=')[0] == '--save_path' for word in kept)
    return ['python', *kept, *([] if named else ['--save_path', save_path]), '--resume']


def how_to_resume(argv: list[str] | None, save_path: str, world_size: int) -> str:
    """Return the end of an interruption message: the command to resume, or only its flags if `argv` is unknown or lacks the launcher."""
    if IN_SERIES in os.environ:
        return ''
    if argv is None or world_size > 1:
        return f'; to resume, use --save_path {quoted(save_path)} --resume and leave out --overwrite'
    return '\n' + next_line('resume it', *to_resume(argv, save_path))


def duration(seconds: float) -> str:
    """90 -> '90 s', 600 -> '10 min', 9000 -> '2.5 h'"""
    if seconds < 100:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def str2bool(value: str | bool) -> bool:
    """Parse a boolean flag in all forms that the original accepts: --do_not_save, --do_not_save True, --do_not_save no."""
    if isinstance(value, bool):
        return value
    if value.lower() in ('true', 'yes', '1'):
        return True
    if value.lower() in ('false', 'no', '0'):
        return False
    raise argparse.ArgumentTypeError(f'expected true or false, not {value!r}')


def parse_im_size(text: str) -> tuple[int, int]:
    """'512' -> (512, 512); '512,640' -> (512, 640): height, width in pixels."""
    try:
        size = [int(item) for item in str(text).split(',')]
    except ValueError:
        size = []
    if len(size) not in (1, 2) or min(size) < 1:
        raise argparse.ArgumentTypeError(f'expected one size or height,width in pixels, not {text!r}')
    if size[0] * size[-1] > MAX_PIXELS:
        raise argparse.ArgumentTypeError(f'{text} exceeds {MAX_PIXELS:,} pixels')
    return (size[0], size[-1])


def parse_parameter(text: str) -> tuple[str, float]:
    """'gamma=2' -> ('gamma', 2.0)."""
    name, _, value = text.partition('=')
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected NAME=NUMBER, such as gamma=2, not {text!r}') from None


def flags_given(parser: argparse.ArgumentParser, argv: Sequence[str] | None, args: argparse.Namespace) -> dict[str, Any]:
    """Return {name: value} of the flags on the command line `argv` (None: sys.argv), which `parser` parsed into `args`."""
    absent = argparse.Namespace(**dict.fromkeys(vars(args), _ABSENT))  # argparse fills in a default only if the attribute is missing
    values = vars(parser.parse_known_args(argv, absent)[0])
    return {name: value for name, value in values.items() if value is not _ABSENT}


def without_effect(given: dict[str, Any], args: argparse.Namespace, table: Sequence[Rule]) -> list[str]:
    """Return a line for each flag of `given` (see `flags_given`) that meets a condition of `table`. The first matching row counts."""
    lines: dict[str, str] = {}
    args = argparse.Namespace(**vars(args), given=given)
    for flag, reason, condition in table:
        if flag in given and flag not in lines and condition(args):
            value = given[flag]
            values = [] if value is True else value if isinstance(value, list) else [value]
            shown = ''.join(f' {v:g}' if isinstance(v, float) else f' {v}' for v in values)
            lines[flag] = f'--{flag}{shown} has no effect {reason.format(**vars(args))}'
    return list(lines.values())


def warn_without_effect(parser: argparse.ArgumentParser, argv: Sequence[str] | None, args: argparse.Namespace, table: Sequence[Rule],
                        **facts: Any) -> None:
    """Print a warning for each flag on the command line `argv` that has no effect with the other flags.

    `table` has rows (flag, reason, condition): the flag has no effect if condition(args) is true. A reason may contain values, as in
    'with --optimizer {optimizer}'. Conditions and reasons can use `args`, `facts` and `given` (the flags on the command line). Defaults
    and flags from a --recipe cause no warning.
    """
    known = argparse.Namespace(**vars(args) | facts)
    for line in without_effect(flags_given(parser, argv, args), known, table):
        print(f'* Warning: {line}')
