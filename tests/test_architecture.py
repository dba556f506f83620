"""Check docs/architecture.md: the order of imports, the docstring of each room, and the steps of "Adding things"."""
import ast
import functools
import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.factories import ROOT

# Lowest first; rooms on one level do not import each other
ORDER = ('utils', 'common', 'cli', 'data', 'datasets',
         'evaluation losses models reproducibility combo_loader', 'get_loaders', 'runs', 'model_saving_loading', 'prediction', 'statistics',
         'decisions', 'training', 'testing', 'report', 'tools', 'scripts', 'benchmarks')
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms.split()}
CODE = [path for pattern in ('*.py', 'utils/**/*.py', 'models/**/*.py', 'tools/**/*.py', 'benchmarks/**/*.py')
        for path in ROOT.glob(pattern)]


def room_of(module):
    """Return the room of a dotted module name, None for a library."""
    first, *rest = module.split('.')
    if first == 'utils':
        return rest[0] if rest and ((ROOT / 'utils' / rest[0]).is_dir() or (ROOT / 'utils' / f'{rest[0]}.py').exists()) else 'utils'
    return first if first in ('models', 'tools', 'benchmarks') else 'scripts' if (ROOT / f'{first}.py').exists() else None


def imports_of(path):
    """Yield the dotted names of all modules that a file imports, also inside functions. Relative imports are left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f'{node.module}.{name.name}' for name in node.names)


def test_no_room_imports_upwards():
    upward = set()
    for path in CODE:
        file = path.relative_to(ROOT).as_posix()
        own = room_of(file.removesuffix('.py').removesuffix('/__init__').replace('/', '.'))
        upward |= {(file, room) for room in map(room_of, imports_of(path)) if room not in (None, own) and LEVEL[room] >= LEVEL[own]}
    assert not upward


def test_no_call_has_more_than_four_positional_arguments():
    """Checks calls of functions and classes of the project, except those with *args."""
    own, calls = {}, []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own[node.name] = own.get(node.name, False) or bool(getattr(getattr(node, 'args', None), 'vararg', None))
            elif isinstance(node, ast.Call) and path.relative_to(ROOT).parts[0] in ('utils', 'models', 'train_lt_mxp.py'):
                calls.append((path.name, getattr(node.func, 'id', getattr(node.func, 'attr', '')), len(node.args)))
    assert not [call for call in calls if call[2] > 4 and own.get(call[1]) is False]


def test_no_test_file_imports_another():
    assert not [(path.name, name) for path in (ROOT / 'tests').rglob('*.py') for name in imports_of(path)
                if re.search(r'^tests\..*\btest_', name)]


@pytest.mark.parametrize('folder', [path.parent for path in [ROOT / 'models/__init__.py', *(ROOT / 'utils').glob('*/__init__.py')]],
                         ids=lambda folder: folder.name)
def test_every_room_has_a_docstring(folder):
    text = ast.get_docstring(ast.parse((folder / '__init__.py').read_text(encoding='utf-8'))) or ''
    assert len(text.split()) > 15


# "Adding things"

TITLES = ('Dataset', 'Backbone', 'Loss', 'Sampler', 'Metric')


def blocks_of(title, language):
    """Return the code blocks in `language` below a heading of the page."""
    page = (ROOT / 'docs/architecture.md').read_text(encoding='utf-8')
    section = re.search(rf'^### {title}\n(.*?)(?=^##)', page, re.S | re.M).group(1)
    return re.findall(rf'^```{language}\n(.*?)^```$', section, re.S | re.M)


def apply(diff, root):
    """Apply a diff block of the page to a file below `root`."""
    first, *lines = diff.splitlines()
    path = root / first.removeprefix('+++ ')
    path.parent.mkdir(exist_ok=True)
    text = path.read_text(encoding='utf-8') if path.exists() else ''
    for hunk in '\n'.join(lines).split('\n...\n'):
        marks, present = [line[:1] for line in hunk.splitlines()], [line[1:] for line in hunk.splitlines() if line[0] != '+']
        found = re.findall('^' + '\n'.join(re.escape(line).replace(r'\.\.\.', '.*') for line in present) + '$', text, re.M)
        assert len(found) == 1 or not text, f'{path.name} has {len(found)} matches for:\n{hunk}'
        old, added, result = iter(found[0].split('\n') if present else ()), [line[1:] for line in hunk.splitlines() if line[0] == '+'], []
        for mark in marks:
            line = added.pop(0) if mark == '+' else next(old)
            result += [line] if mark != '-' else []
        text = text.replace(found[0], '\n'.join(result), 1) if present else '\n'.join(result) + '\n'
    path.write_text(text, encoding='utf-8')


@pytest.fixture(scope='module')
def house(tmp_path_factory):
    """A copy of the code with all additions. -> function that runs the commands of a section there"""
    root = tmp_path_factory.mktemp('house')
    for path in CODE:
        (root / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to(ROOT))
    for title in TITLES:
        for diff in blocks_of(title, 'diff'):
            apply(diff, root)
    flags = 'export OMP_NUM_THREADS=1\n' + blocks_of('Dataset', 'bash')[1]

    @functools.cache
    def run(title):
        commands = flags + blocks_of(title, 'bash')[0].replace('python ', f'{sys.executable} ')
        done = subprocess.run(['bash', '-euc', commands], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return root
    run('Dataset')
    return run


CONFIGURED = {'Backbone': ('model_name', 'nets/small.py:build'), 'Loss': ('loss_params', {'weight': 2.}),
              'Sampler': ('sampling', 'fourth_root'), 'Metric': ('metric', 'gmean')}


@pytest.mark.parametrize('title', TITLES)
def test_steps_are_short(title):
    for diff in blocks_of(title, 'diff'):
        assert sum(len(line) > 1 and line[0] == '+' for line in diff.splitlines()[1:]) <= 10


@pytest.mark.parametrize('title', CONFIGURED)
def test_additions_train(house, title):
    run = house(title) / 'experiments' / title.lower()
    key, value = CONFIGURED[title]
    assert json.loads((run / 'config.cfg').read_text())[key] == value


def test_an_added_metric_is_logged(house):
    record = json.loads((house('Metric') / 'experiments/metric/log.jsonl').read_text())
    assert 0 <= record['val']['gmean'] <= 1
