"""Check --help of every script: it describes the script and every flag, and its parser accepts the examples."""
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from tests.factories import ROOT
from tests.next_steps import module_of
from tests.scripts import SCRIPTS, SHELL
from utils.cli import HelpFormatter, duration, python, script_parser, to_resume

MANY = 6  # scripts with more flags must group them


def examples(text):
    """Return the commands in the indented lines below 'Example', as lists of words."""
    below = re.split(r'^Example', text, flags=re.M)[1]
    lines = [line for line in below.replace('\\\n', ' ').splitlines() if line.startswith('  ')]
    return [shlex.split(line.split(' > ')[0]) for line in lines]


def test_a_mistyped_flag(capsys):
    parser = module_of(['python', 'train_lt_mxp.py'])[0].get_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(['--csv_trian=a.csv', '--recipe', 'modern'])
    assert capsys.readouterr().err.endswith('error: unrecognized arguments: --csv_trian=a.csv (did you mean --csv_train?)\n')
    with pytest.raises(SystemExit):
        parser.parse_args(['--xyzzy', 'a'])
    assert capsys.readouterr().err.endswith('error: unrecognized arguments: --xyzzy a\n')


def test_all_scripts_are_found():
    assert {'train_lt_mxp.py', 'tools/report.py', 'benchmarks/study.py', 'tests/faults.py'} <= set(SCRIPTS)
    assert SHELL == ['benchmarks/gpu_check.sh', 'get_endo_data.sh', 'run_lt_experiments.sh', 'tests/run.sh']


@pytest.mark.filterwarnings('ignore:.*found in sys.modules')
@pytest.mark.parametrize('script', SCRIPTS)
def test_help(script, monkeypatch, capsys):
    name = script.removesuffix('.py').replace('/', '.')
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [script, '--help'])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name='__main__') if '/' in script else runpy.run_path(script, run_name='__main__')
    text = capsys.readouterr().out
    assert end.value.code in (0, None) and text.startswith(('usage: python ', 'usage: bash run_lt_experiments.sh own '))
    parser = module_of(['python', '-m', name])[0].get_parser()
    assert parser.description.strip()
    assert examples(text)
    for words in examples(text):
        assert ' '.join(words).startswith(parser.prog)
        parser.parse_args(words[3:] if words[0] == 'bash' else module_of(words)[1])
    flags = [action for action in parser._actions if action.dest != 'help']
    assert all(action.help for action in flags), [action.dest for action in flags if not action.help]
    assert '(default: None' not in text and '(default: False' not in text
    grouped = [action for group in parser._action_groups[2:] for action in group._group_actions]
    assert len(flags) <= MANY or len(grouped) >= len(flags) - 2


@pytest.mark.parametrize('script', SHELL)
@pytest.mark.parametrize('below', [True, False])
def test_help_of_shell_scripts(script, below):
    """Run them from the repository root and from its parent folder."""
    path, cwd = (script, ROOT) if below else (f'{ROOT.name}/{script}', ROOT.parent)
    done = subprocess.run(['bash', path, '--help'], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f'Usage: bash {script}') and not done.stderr
    assert all(words[:2] == ['bash', script] or words[1:3] == ['bash', script] for words in examples(done.stdout))
    for flag in re.findall(r'^ +(--\w+)\)', (ROOT / script).read_text(), re.M):
        assert flag in done.stdout


def test_form():
    parser = script_parser('What it\ndoes.\n\nExamples:\n\n  python -m tools.x --a 1\n  python -m tools.x\n\nMore.')
    parser.add_argument('--a', type=float, default=0., help='share')
    parser.add_argument('--b', help='(default: a guess)')
    parser.add_argument('--c', nargs='*', default=['x', 'y'], help='letters, 50 %% of them')
    parser.add_argument('--d', action='store_true', help='do')
    text = parser.format_help()
    assert text.startswith('usage: python -m tools.x [-h]') and 'What it does.\n\nMore.\n' in text
    assert text.endswith('Examples:\n\n  python -m tools.x --a 1\n  python -m tools.x\n')
    assert 'share (default: 0)\n' in text and 'default: None' not in text and '50 % of them (default: x, y)' in text and 'do\n' in text
    for i in range(9):
        parser.add_argument(f'--e{i}', required=i == 0, help='more')
    assert parser.format_usage() == 'usage: python -m tools.x --e0 E0 [flags]\n'
    assert script_parser(None).formatter_class is HelpFormatter


def test_this_interpreter(monkeypatch, tmp_path):
    (tmp_path / 'bin').mkdir()
    for name in ('python', 'python3'):
        (tmp_path / 'bin' / name).write_text('#!/bin/sh\n')
        (tmp_path / 'bin' / name).chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'bin' / 'python'))
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    assert python() == 'python'
    monkeypatch.setenv('PATH', '/nowhere')
    assert python() == str(tmp_path / 'bin' / 'python')
    monkeypatch.chdir(tmp_path)
    assert python() == 'bin/python'


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 99, 100, 5999, 9000)] == ['0 s', '99 s', '2 min', '100 min', '2.5 h']


@pytest.mark.parametrize(('given', 'resumed'), [
    ('t.py --save_path a --lr 1', '--save_path a --lr 1 --resume'), ('t.py --save_path=a --overwrite', '--save_path=a --resume'),
    ('t.py --over --resume', '--save_path now --resume'), ('t.py --opt sgd', '--opt sgd --save_path now --resume')])
def test_resume_command(given, resumed):
    assert ' '.join(to_resume(given.split(), 'now')) == f'python t.py {resumed}'
