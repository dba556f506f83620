"""Series of commands: what is done is skipped, failures and signals end the series, lines are named, the ETA follows the cost."""
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.factories import ROOT
from utils.common import InputError
from utils.training.commands import Command, Series, script_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'work.py').write_text('import sys, os, time\nname, *rest = sys.argv[1:]\nprint("begin", name, *rest, flush=True)\n'
                                      'time.sleep(.3)\nopen(name, "w").close()\nsys.exit(name.startswith("bad"))\n')
    return tmp_path


def command(folder, name, cost=0., **options):
    return Command(f'make {name}', [str(folder / 'work.py'), name], lambda: os.path.exists(name), cost=cost, **options)


def test_commands_run_in_the_working_folder_and_only_once(here, capfd):
    commands = [command(here, name) for name in 'abc']
    (here / 'b').touch()
    Series(1, 0, commands).run(commands)
    out, err = capfd.readouterr()
    assert out.splitlines() == ['begin a', 'begin c'] and '[2/2] make c\n$ python ' in err
    Series(1, 0, commands).run(commands)
    assert capfd.readouterr() == ('', '')


def test_lines_of_parallel_commands_are_named(here, capsys):
    commands = [command(here, name) for name in 'ab']
    Series(2, 0, commands).run(commands)
    assert sorted(capsys.readouterr().out.splitlines()) == ['make a: begin a', 'make b: begin b']


def test_what_was_printed_before_comes_first(here):
    (here / 'series.py').write_text('from utils.training.commands import Command, Series\nprint("before")\n'
                                    f'Series(1, 0, []).run([Command("a", [{str(here / "work.py")!r}, "a"])])\n')
    done = subprocess.run([sys.executable, 'series.py'], env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == 'before\nbegin a\n'


def test_words_that_are_known_only_at_the_start(here, capfd):
    Series(1, 0, []).run([command(here, 'a', before_start=lambda: ['--resume'])])
    assert capfd.readouterr().out == 'begin a --resume\n'


def test_a_failure_ends_the_series_after_the_running_commands(here):
    commands = [command(here, name) for name in ('bad', 'b', 'c')]
    with pytest.raises(InputError, match=r'failed: make bad \(see above\): run the same command to resume'):
        Series(2, 0, commands).run(commands)
    assert os.path.exists('b') and not os.path.exists('c')


@pytest.mark.parametrize(('n_jobs', 'n_gpus', 'expected'), [
    (1, 2, {}), (2, 2, {'CUDA_VISIBLE_DEVICES': '1'}), (3, 0, {'OMP_NUM_THREADS': str(-(-(os.cpu_count() or 1) // 3))})])
def test_each_job_gets_a_gpu_or_its_share_of_the_cores(n_jobs, n_gpus, expected):
    assert Series(n_jobs, n_gpus, [])._device(1) == expected


def test_the_eta_follows_the_cost_of_what_is_left(here, capfd):
    commands = [command(here, 'a', cost=1), command(here, 'b', cost=1000)]
    Series(1, 0, commands).run(commands)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('[')]
    assert lines[0] == '[1/2] make a' and lines[1].startswith('[2/2, about ') and (' min left' in lines[1] or ' h left' in lines[1])


@pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')
@pytest.mark.parametrize(('number', 'status', 'text'), [
    (signal.SIGTERM, 143, 'interrupted by SIGTERM: run the same command to resume'),
    (signal.SIGINT, 130, 'interrupted: run the same command to resume')])
def test_a_signal_is_passed_on_once(here, number, status, text):
    (here / 'wait.py').write_text('import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: (print("saved"), sys.exit(143)))\n'
                                  'print("ready", flush=True)\ntime.sleep(60)\n')
    (here / 'series.py').write_text('from utils.common import run_script\nfrom utils.training.commands import Command, Series\n'
                                    f'run_script(lambda: Series(1, 0, []).run([Command("wait", [{str(here / "wait.py")!r}])]))\n')
    process = subprocess.Popen([sys.executable, 'series.py'], env=os.environ | {'PYTHONPATH': str(ROOT)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, process_group=0)
    assert process.stdout.readline() == 'ready\n'
    time.sleep(.2)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ('saved\n', status) and err.splitlines()[-1] == text


def test_the_script_of_a_series():
    assert script_of([Command('a', ['-m', 'tools.report', 'a b'])]) == (
        "#!/usr/bin/env bash\nset -euo pipefail\npython -m tools.report 'a b'\n")
