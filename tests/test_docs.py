"""README and docs: flags, methods and recipes are those of the code, commands parse, links and paths resolve, lines stay short."""
import importlib
import re
import shlex

import pytest

from tests.factories import ROOT
from tests.next_steps import module_of
from tests.scripts import SCRIPTS
from utils import __version__
from utils.data.sampling import SAMPLING
from utils.losses import LOSSES, loss_parameters
from utils.training.augmentation import AUGMENT
from utils.training.mixing import MIXING
from utils.training.optim import OPTIMIZERS, SCHEDULES
from utils.training.recipes import RECIPES, to_flags

PAGES = ['README.md', 'CONTRIBUTING.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]
TEXTS = {page: (ROOT / page).read_text(encoding='utf-8') for page in PAGES}
DOCS = [page for page in PAGES if page.startswith('docs/')]
OTHER_PROGRAMS = {'pip', 'source', 'kaggle', 'tensorboard', 'sbatch', 'git', 'audit/bin/pip', 'audit/bin/pip-audit'}
OTHER_MODULES = {'pytest', 'mypy', 'ruff', 'venv', 'webbrowser'}
EXPERIMENTS = {'demo', 'eyepacs', 'endo', 'eyepacs_recipes', 'endo_recipes', 'cifar', 'medmnist'}


# Form

def test_the_readme_is_short():
    assert len(TEXTS['README.md'].splitlines()) <= 200


@pytest.mark.parametrize('page', PAGES)
def test_lines_are_short(page):
    """Tables and code of docs/ are exempt: they scroll."""
    lines = TEXTS[page].splitlines()
    if page in DOCS:
        lines = [line for line in prose(TEXTS[page]).splitlines() if not line.startswith('|')]
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize('page', PAGES)
def test_paragraphs_are_short(page):
    paragraphs = [block for block in prose(TEXTS[page]).split('\n\n') if not re.match(r'\s*(\||#|-|```|!)', block)]
    assert [block for block in paragraphs if len(block.strip().splitlines()) > 4] == []


def test_the_version_is_current():
    assert f'version {__version__}' in TEXTS['README.md'] and f'version {__version__}' in TEXTS['docs/index.md']


# Links and paths

def prose(text):
    """The text without fenced code."""
    return re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S)


def anchors(page):
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', prose((ROOT / page).read_text(encoding='utf-8')), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_relative_links_resolve(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', prose(TEXTS[page])):
        if not re.match(r'https?:', target):
            name, _, anchor = target.partition('#')
            path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path.relative_to(ROOT)), target


def test_the_index_links_every_page():
    linked = set(re.findall(r'\]\(([a-z]+\.md)\)', TEXTS['docs/index.md']))
    assert {f'docs/{name}' for name in linked} == set(DOCS) - {'docs/index.md'}


@pytest.mark.parametrize('page', PAGES)
def test_paths_exist(page):
    for path in re.findall(r'`((?:utils|models|tools|tests|benchmarks|docs)/[\w/.*]*)`', prose(TEXTS[page])):
        assert list(ROOT.glob(path.rstrip('/'))), path


# Commands

def commands(page):
    """Commands of the bash blocks, and those in backticks, as lists of words without comments."""
    blocks = re.findall(r'^```bash\n(.*?)^```$', TEXTS[page], re.M | re.S)
    lines = [line for block in blocks for line in block.replace('\\\n', ' ').splitlines()]
    lines += re.findall(r'`((?:python|bash|torchrun) [^`]+)`', prose(TEXTS[page]).replace('\n', ' '))
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.match(r'[A-Z_]+=', words[0]):
            words = words[1:]
        words = words[2:] if words[:1] == ['timeout'] else words
        if words:
            yield words


def check_command(words):
    """Raise if the command names a program, file, module or flag that does not exist."""
    if words[0] == 'torchrun':
        words = ['python', *words[words.index('train_lt_mxp.py'):]]
    if words[:3] == ['bash', 'run_lt_experiments.sh', 'own']:
        importlib.import_module('tools.own_experiments').get_parser().parse_args(words[3:])
    elif words[0] == 'bash':
        usage = (ROOT / words[1]).read_text(encoding='utf-8').split('\n[ -n')[0]
        assert [word for word in words[2:] if word.startswith('--') and f'  {word} ' not in usage] == []
        if words[1] == 'run_lt_experiments.sh':
            assert not words[2:] or words[2] in EXPERIMENTS
    elif words[0] == 'python' and words[1] == '-m' and words[2] in OTHER_MODULES:
        assert [word for word in words[3:] if word.startswith('tests/') and not (ROOT / word.partition('::')[0]).exists()] == []
    elif words[0] == 'python':
        module, arguments = module_of(words)
        if arguments != ['--help']:
            module.get_parser().parse_args(arguments)
    else:
        assert words[0] in OTHER_PROGRAMS or words[0].startswith('first=')


@pytest.mark.parametrize('page', [page for page in PAGES if page != 'docs/architecture.md'])  # test_architecture.py executes that page
def test_commands_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        try:
            check_command(words)
        except (SystemExit, ImportError, AssertionError) as err:
            raise AssertionError(f'{page}: {shlex.join(words)}') from err


# Flags

def flags_of(script):
    module = importlib.import_module(script.removesuffix('.py').replace('/', '.'))
    hidden = {'--help', '-h'}
    return {option for action in module.get_parser()._actions for option in action.option_strings
            if option not in hidden and not option.startswith('--no-')}


@pytest.mark.parametrize(('script', 'page'), [
    ('train_lt_mxp.py', 'docs/training.md'), ('test_with_labels_endo.py', 'docs/evaluation.md'),
    ('test_with_labels_eyepacs.py', 'docs/evaluation.md')])
def test_flags_of_training_and_test_are_documented(script, page):
    assert {flag for flag in flags_of(script) if f'`{flag}' not in TEXTS[page]} == set()


@pytest.mark.parametrize('script', [script for script in SCRIPTS if script.startswith('tools/') and 'check_environment' not in script])
def test_flags_of_tools_are_documented(script):
    """On one of the pages that name the tool."""
    name = script.removesuffix('.py').replace('/', '.')
    missing = {page: {flag for flag in flags_of(script) if flag not in TEXTS[page]} for page in DOCS if name in TEXTS[page]}
    assert set() in missing.values(), missing


# Methods

def tables(page, heading=None):
    """Rows of all tables of a page, or of those below a heading, as lists of cells."""
    text = TEXTS[page].split(f'\n## {heading}\n', 1)[1].split('\n## ')[0] if heading else TEXTS[page]
    rows = [[cell.strip() for cell in row.strip('|').split('|')] for row in re.findall(r'^\|.*$', text, re.M)]
    return [row for row, below in zip(rows, [*rows[1:], ['']], strict=True) if set(row[0]) != {'-'} and set(below[0]) != {'-'}]


METHODS = [row for row in tables('docs/methods.md') if len(row) == 4]


@pytest.mark.parametrize('row', METHODS, ids=lambda row: row[0])
def test_every_method_has_an_idea_a_flag_and_a_source(row):
    name, flag, idea, source = row
    assert name and idea and re.search(r'`[^`]+`', flag)
    assert re.search(r'(19|20)\d\d', source) or source in ('common practice', 'the original')


@pytest.mark.parametrize(('flag', 'names'), [
    ('--loss_fn', LOSSES), ('--sampling', SAMPLING), ('--mixing', [name for name in MIXING if name != 'none']), ('--augment', AUGMENT),
    ('--schedule', SCHEDULES), ('--trainable', ['all', 'classifier', 'scale']),
])
def test_every_name_is_in_the_table_and_no_other(flag, names):
    stated = {name for row in METHODS for name in re.findall(flag + r' ([A-Za-z_]+)', row[1])}
    assert stated == set(names)


def test_every_parameter_of_a_loss_is_named():
    for name in LOSSES:
        row, = (row for row in METHODS if row[1] == f'`--loss_fn {name}`')
        assert set(re.findall(r'`([a-z_]+)`', row[2])) == set(loss_parameters(name)), name


def test_every_optimizer_is_named():
    assert [name for name in OPTIMIZERS if f'`{name}`' not in TEXTS['docs/training.md']] == []


def test_recipes():
    rows = tables('docs/methods.md', 'Recipes')
    assert [(row[0].strip('`'), row[1].strip('`')) for row in rows] == [(name, to_flags(name)) for name in RECIPES]
    assert all(row[2] for row in rows)
