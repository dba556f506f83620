"""Scripts work with any console, shell and working folder."""
import argparse
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.factories import ROOT
from utils.cli import next_line, parse_im_size, quoted, sibling_csv
from utils.common import InputError, check_name, printable, run_script

SCRIPTS = ('get_endo_data.sh', 'run_lt_experiments.sh', 'tests/run.sh')


def python(code, **variables):
    return subprocess.run([sys.executable, '-c', f'from utils.common import run_script\n{code}'], cwd=ROOT, capture_output=True,
                          env=os.environ | variables)


@pytest.mark.parametrize('encoding', ['cp1252', 'ascii'])
def test_characters_that_the_console_cannot_print_are_replaced(encoding):
    done = python('run_script(lambda: print("class \u3042"))', PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'class ?\n', b'')


def test_characters_of_an_error_that_the_console_cannot_print_are_replaced():
    code = 'from utils.common import InputError\ndef main(): raise InputError("\u3042")\nrun_script(main)'
    done = python(code, PYTHONIOENCODING='cp1252')
    assert (done.returncode, done.stderr) == (1, b'error: ?\n')


def test_a_closed_pipe_ends_the_script_quietly():
    code = 'from utils.common import run_script\nrun_script(lambda: [print(i) for i in range(100000)])'
    command = f'{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('0\n141\n', '')


def test_a_dead_worker_process_gives_one_line():
    def main():
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Bus error. It is possible\nthat ...')
    with pytest.raises(SystemExit, match=r'^error: DataLoader worker \(pid 7\) is killed by signal: Bus error.*--num_workers 0$'):
        run_script(main)


def test_other_runtime_errors_keep_their_traceback():
    def main():
        raise RuntimeError('a fault of ours')
    with pytest.raises(RuntimeError, match='a fault of ours'):
        run_script(main)


@pytest.mark.parametrize('command', [('python', '-m', 'tools.compare_experiments', '--help'), ('python', 'train_lt_mxp.py', '--help'),
                                     ('bash', 'get_endo_data.sh', '--help')])
def test_the_next_command_works_from_another_folder(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = next_line('go on', *command).split(': ', 1)[1]
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.lower().startswith('usage'), done.stderr


def test_the_next_command_is_short_at_the_top_of_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert next_line('test it', 'bash', 'tests/run.sh') == '* Next, test it: bash tests/run.sh'


def test_the_next_command_does_not_change_other_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'PYTHONPATH' not in next_line('open it', 'python', '-m', 'webbrowser', 'file:///x')


@pytest.mark.parametrize(('csv', 'expected'), [
    ('train.csv', 'val.csv'), ('train_x.csv', 'val_x.csv'), ('x-train.csv', 'x-val.csv'), ('Train.csv', 'Val.csv'),
    ('TRAIN.csv', 'VAL.csv'), ('training_set.csv', 'val_set.csv'), ('train2.csv', 'val2.csv'), ('my_train_2.csv', 'my_val_2.csv'),
    ('train_train.csv', 'val_train.csv'), ('training/constrain_train.csv', 'training/constrain_val.csv'),
    ('train/x.csv', 'train/x.csv'), ('strain.csv', 'strain.csv'), ('trainset.csv', 'trainset.csv'), ('\u00e9train.csv', '\u00e9train.csv'),
])
def test_the_validation_csv_beside_a_training_csv(tmp_path, monkeypatch, csv, expected):
    monkeypatch.chdir(tmp_path)
    assert sibling_csv(csv, 'val') == expected


@pytest.mark.parametrize('name', ['validation_set.csv', 'valid_set.csv'])
def test_an_existing_validation_csv_is_preferred(tmp_path, name):
    (tmp_path / name).touch()
    assert sibling_csv(f'{tmp_path}/training_set.csv', 'val') == f'{tmp_path}/{name}'


@pytest.mark.parametrize('script', SCRIPTS)
@pytest.mark.parametrize('shell', [['sh'], ['dash'], ['bash', '--posix'], ['as sh']], ids=lambda shell: ' '.join(shell))
def test_scripts_start_in_every_shell(script, shell, tmp_path):
    if shell == ['as sh']:  # as on macOS
        (tmp_path / 'sh').symlink_to(shutil.which('bash'))
        shell = [str(tmp_path / 'sh')]
    if not shutil.which(shell[0]):
        pytest.skip(f'no {shell[0]} here')
    done = subprocess.run([*shell, script, '--help'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f'Usage: bash {script}') and not done.stderr


def test_process_substitution_works_in_posix_mode(tmp_path):
    shutil.copy(ROOT / 'run_lt_experiments.sh', tmp_path)  # in a copy, because the script skips finished runs
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    done = subprocess.run(['bash', '--posix', 'run_lt_experiments.sh', 'endo', '--dry_run'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and 'train_lt_mxp.py' in done.stdout


@pytest.mark.parametrize('script', [*SCRIPTS, 'tools/experiments.sh', 'tools/setup_environment.sh'])
@pytest.mark.parametrize('word', ['flock', 'nproc', 'wait -n', 'mapfile', 'readarray', 'declare -A', 'sed -i', 'readlink -f', 'grep -P'])
def test_scripts_use_nothing_that_macos_lacks(script, word):
    lines = (line.partition('#')[0] for line in (ROOT / script).read_text().splitlines())
    assert not any(word in line for line in lines)


def test_an_old_python_is_named(tmp_path):
    (tmp_path / 'python3').write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.6"; exit 1\n')
    (tmp_path / 'python3').chmod(0o755)
    done = subprocess.run(['bash', '-c', f'. {ROOT}/tools/setup_environment.sh; make_venv'], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'})
    assert done.returncode == 1 and done.stderr.startswith('error: Python 3.9.6 is too old: install Python 3.11 or newer')


def test_a_python_without_venv_leaves_no_half_environment(tmp_path):
    (tmp_path / 'python3').write_text('#!/bin/sh\n[ "$1" = -c ] || { mkdir -p .venv/bin; exit 1; }\n')
    (tmp_path / 'python3').chmod(0o755)
    done = subprocess.run(['bash', '-c', f'. {ROOT}/tools/setup_environment.sh; make_venv'], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'})
    assert done.returncode == 1 and 'cannot create a virtual environment' in done.stderr and not (tmp_path / '.venv').exists()


FORGED = ['\n* Next: rm -rf ~', '\r* Next: rm -rf ~', '\x1b[2J', '\x9b2J', 'a\u202eb', 'a\u2066b', 'a\u200bb', 'a\u2028b']


@pytest.mark.parametrize('name', FORGED)
def test_a_printable_name_is_one_line_without_control_characters(name):
    assert printable(name).isprintable() and len(printable(name)) == len(name)


@pytest.mark.parametrize('name', ['Größe', '増殖網膜症', '\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645', 'a b', 'a\tb', '👩\u200d⚕️'])
def test_names_in_any_language_are_printed_unchanged(name):
    assert printable(name) == name


@pytest.mark.parametrize('name', FORGED)
def test_an_error_cannot_forge_a_line(name):
    def main():
        raise InputError(f'class {name} is unknown')
    with pytest.raises(SystemExit) as end:
        run_script(main)
    first, *more = str(end.value).split('\n')
    assert first.isprintable() and all(line.isprintable() and line.startswith('  ') for line in more)


def test_an_os_error_cannot_forge_a_line(tmp_path):
    with pytest.raises(SystemExit) as end:
        run_script((tmp_path / '\n* Next: rm -rf ~').read_text)
    assert str(end.value).isprintable()


def test_lists_of_problems_keep_their_lines():
    def main():
        raise InputError('the data cannot be used:\n  - a\n  - b')
    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert str(end.value) == 'error: the data cannot be used:\n  - a\n  - b'


@pytest.mark.parametrize('word', [*FORGED, "it's", '$(touch x)', 'a\\b\n', '"', 'a b'])
def test_a_printed_command_is_one_line_that_a_shell_reads(word):
    assert quoted(word).isprintable()
    command = ['bash', '-c', f'printf %s {quoted(word)}']
    done = subprocess.run(command, capture_output=True, env=os.environ | {'LC_ALL': 'C.UTF-8'}, check=True)
    assert done.stdout.decode() == word


def test_a_name_with_control_characters_is_refused():
    with pytest.raises(InputError, match=r'^a.b: the name contains control characters: rename it$'):
        check_name('a\nb')


@pytest.mark.parametrize('size', ['1000000000', '1,1000000000', '8193'])
def test_a_huge_image_size_is_refused(size):
    with pytest.raises(argparse.ArgumentTypeError, match='exceeds 67,108,864 pixels'):
        parse_im_size(size)
