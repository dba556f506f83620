"""What every script shares: its help, made from its docstring, its flags, their checks, and the command to run next."""
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

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ABSENT = object()
Rule = tuple[str, str, Callable[[argparse.Namespace], Any]]  # flag, reason, condition; see `warn_without_effect`
SPLIT_WORDS = {'val': ('val', 'valid', 'validation'), 'test': ('test', 'testing')}  # in the names of csvs


def tune_process() -> None:
    """Set how threads wait for each other and how freed memory is kept. Scripts call it first of all: torch reads the first when it is
    imported."""
    # PyTorch's OpenMP threads wait for each other by spinning for milliseconds. Where another program wants the same cores, that
    # slows training more than tenfold. A shorter wait costs nothing on an idle machine.
    os.environ.setdefault('GOMP_SPINCOUNT', '20000')
    # glibc returns large blocks to the kernel as soon as they are freed and takes them back, page by page, in the next training
    # step: a quarter of the step on a CPU. M_MMAP_THRESHOLD (its maximum), M_TRIM_THRESHOLD and M_TOP_PAD keep them instead.
    if sys.platform == 'linux' and (mallopt := getattr(ctypes.CDLL(None), 'mallopt', None)):  # absent in musl
        for parameter, n_bytes in ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20)):
            mallopt(parameter, n_bytes)


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs, keeps indented ones (commands) as they are, and shows defaults that are values."""

    def _fill_text(self, text, width, indent):
        fill = super()._fill_text
        return '\n\n'.join(part if part.startswith(' ') else fill(part, width, indent) for part in text.split('\n\n'))

    def _get_help_string(self, action):
        default = ', '.join(map(str, action.default)) if isinstance(action.default, list) else action.default
        if default is False or default in (None, '', argparse.SUPPRESS):
            return action.help
        return f'{action.help} (default: {default:g})' if isinstance(default, float) else f'{action.help} (default: {default})'

    def _format_usage(self, usage, actions, groups, prefix):
        """Of many flags only those that must be given: the line stands above every error, too."""
        if len(actions) <= 10:
            return super()._format_usage(usage, actions, groups, prefix)
        return super()._format_usage(usage, [action for action in actions if action.required], [], prefix).rstrip() + ' [flags]\n\n'


class Parser(argparse.ArgumentParser):
    """Asks whether the most similar flag was meant where one is unknown."""

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        flags = [word.split('=')[0] for word in unknown if word.startswith('--')]
        near = difflib.get_close_matches(flags[0], self._option_string_actions, 1) if flags else []
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f' (did you mean {near[0]}?)' if near else ''))
        return args


def script_parser(doc: str | None, parser_class: Any = Parser) -> Any:
    """A parser whose help is the docstring `doc` of a script: first its text; below the flags its indented paragraphs, which are commands
    as typed from the top of the repository, and the lines 'Example...:' above them."""
    parts = [part.strip('\n') for part in (doc or '').split('\n\n')]
    words = next((part.split() for part in parts if part.startswith(' ')), [])
    return parser_class(prog=' '.join(words[:3 if '-m' in words else 2]) or None, formatter_class=HelpFormatter,
                        description='\n\n'.join(part for part in parts if not part.startswith((' ', 'Example'))),
                        epilog='\n\n'.join(part for part in parts if part.startswith((' ', 'Example'))))


def python() -> str:
    """What starts this interpreter from here: the name where that is enough, else a path, as for .venv when it is not activated."""
    for name in ('python', 'python3'):
        if shutil.which(name) == sys.executable:
            return name
    below = os.path.relpath(sys.executable)
    return sys.executable if below.startswith(os.pardir) else below


def quoted(word: str) -> str:
    """`word` for a shell, in one line: control characters, which would start a line or move the cursor, are written as in bash's $'...'."""
    if not CONTROL.search(word):
        return shlex.quote(word)
    escaped = word.replace('\\', r'\\').replace("'", r"\'")
    return "$'" + CONTROL.sub(lambda found: f'\\u{ord(found[0]):04x}' if ord(found[0]) > 127 else f'\\x{ord(found[0]):02x}', escaped) + "'"


def next_line(what: str, *command: object) -> str:
    """The line '* Next, `what`: `command`'. A first word 'python' stands for this interpreter. The command is written for the top of the
    repository; where another folder is the working folder, it is changed so that it works from there."""
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
    """The line that a script ends with: a command to be pasted into a shell."""
    print(next_line(what, *command), file=file)


def sibling_csv(csv: str, split: str) -> str:
    """data/train_x.csv -> data/val_x.csv for `split` val, which may also be called valid or validation; `csv` itself where its name holds
    no word train or training. A word ends where its letters do, so data/constrain_train.csv -> data/constrain_val.csv."""
    folder, name = os.path.split(csv)
    word = re.search(r'(?<![^\W\d_])(train|training)(?![^\W\d_])', name, re.IGNORECASE)
    if not word:
        return csv

    def renamed(new):
        new = new.upper() if word[0].isupper() else new.capitalize() if word[0][0].isupper() else new
        return os.path.join(folder, name[:word.start()] + new + name[word.end():])
    return next(filter(os.path.isfile, map(renamed, SPLIT_WORDS[split])), renamed(split))


def own_network(model_name: str) -> tuple[str, str] | None:
    """(file, function) of a --model_name path/to/file.py:function; None for the name of a known network."""
    file, _, function = model_name.rpartition(':')
    return (file, function) if file.endswith('.py') else None


def add_network_flag(group: argparse._ArgumentGroup) -> None:
    """Add --model_name to a script that loads a checkpoint."""
    group.add_argument('--model_name', metavar='FILE:FUNCTION',
                       help='needed where the network comes from a file of yours, which this runs: path/to/file.py:function')


def network_flag(model_name: str | None) -> list[str]:
    """The words of --model_name for a command that loads a checkpoint: needed if its network is built by a file of the user."""
    return ['--model_name', model_name] if model_name and own_network(model_name) else []


def label_flag(column: str | None) -> list[str]:
    """The words of --label_column for a command; none where it was not given."""
    return ['--label_column', column] if column else []


def to_train(csv_train: str, csv_val: str, data_path: str, n_classes: int, *flags: object) -> list[object]:
    return ['python', 'train_lt_mxp.py', '--csv_train', csv_train, '--csv_val', csv_val, '--data_path', data_path,
            '--n_classes', n_classes, *flags]


def to_test(run: str, csv_train: str, csv_val: str, data_path: str) -> list[str]:
    """-> what to do, and the command for it: on the test csv beside the training csv if there is one, else on the validation csv."""
    csv_test = sibling_csv(csv_train, 'test')
    script, flag, csv, what = 'endo', '--csv_val', csv_val, 'test it on the validation csv (test_with_labels_eyepacs.py takes a --csv_test)'
    if os.path.isfile(csv_test) and csv_test != csv_train:
        script, flag, csv, what = 'eyepacs', '--csv_test', csv_test, 'test it'
    return [what, 'python', f'test_with_labels_{script}.py', '--load_path', run, '--data_path', data_path, flag, csv]


def to_resume(argv: list[str], save_path: str) -> list[str]:
    """The command line of a training, changed so that it continues the run that it started."""
    kept = [word for word in argv if len(word) < 4 or not ('--overwrite'.startswith(word) or '--resume'.startswith(word))]
    named = any(word.split('=')[0] == '--save_path' for word in kept)
    return ['python', *kept, *([] if named else ['--save_path', save_path]), '--resume']


def how_to_resume(argv: list[str] | None, save_path: str, world_size: int) -> str:
    """What follows the message of an interruption. The launcher of several processes is not in `argv`; None: `argv` is not known."""
    if argv is None or world_size > 1:
        return f'; start it again with --save_path {quoted(save_path)} --resume and without --overwrite'
    return '\n' + next_line('resume it', *to_resume(argv, save_path))


def duration(seconds: float) -> str:
    """90 -> '90 s', 600 -> '10 min', 9000 -> '2.5 h'"""
    if seconds < 100:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def str2bool(value: str | bool) -> bool:
    """Flag values as the original's users type them: --do_not_save, --do_not_save True, --do_not_save no."""
    if isinstance(value, bool):
        return value
    if value.lower() in ('true', 'yes', '1'):
        return True
    if value.lower() in ('false', 'no', '0'):
        return False
    raise argparse.ArgumentTypeError(f'true or false expected, not {value!r}')


def parse_im_size(text: str) -> tuple[int, int]:
    """'512' -> (512, 512); '512,640' -> (512, 640): height, width in pixels."""
    try:
        size = [int(item) for item in str(text).split(',')]
    except ValueError:
        size = []
    if len(size) not in (1, 2) or min(size) < 1:
        raise argparse.ArgumentTypeError(f'one size or height,width in pixels expected, not {text!r}')
    if size[0] * size[-1] > MAX_PIXELS:
        raise argparse.ArgumentTypeError(f'{text} are more than {MAX_PIXELS:,} pixels')
    return (size[0], size[-1])


def parse_parameter(text: str) -> tuple[str, float]:
    """'gamma=2' -> ('gamma', 2.0)."""
    name, _, value = text.partition('=')
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f'NAME=NUMBER expected, such as gamma=2, not {text!r}') from None


def flags_given(parser: argparse.ArgumentParser, argv: Sequence[str] | None, args: argparse.Namespace) -> dict[str, Any]:
    """{name: value} of the flags that the command line `argv` holds, from which `parser` made `args`. None stands for sys.argv."""
    absent = argparse.Namespace(**dict.fromkeys(vars(args), _ABSENT))  # a default is filled in only where there is no value
    values = vars(parser.parse_known_args(argv, absent)[0])
    return {name: value for name, value in values.items() if value is not _ABSENT}


def without_effect(given: dict[str, Any], args: argparse.Namespace, table: Sequence[Rule]) -> list[str]:
    """One line for each flag of `given` (`flags_given`) that meets a condition of `table`; the first row that it meets counts."""
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
    """Print a warning for each flag of the command line `argv` that has no effect among the others.

    `table` has the rows (flag, reason, condition): the flag has no effect where condition(args) is true. The reason may hold values, as in
    'with --optimizer {optimizer}'. Conditions and reasons see `args`, the `facts`, and `given`, the flags of the command line. Defaults
    and the flags of a --recipe are no reason for a warning.
    """
    known = argparse.Namespace(**vars(args) | facts)
    for line in without_effect(flags_given(parser, argv, args), known, table):
        print(f'* Warning: {line}')
