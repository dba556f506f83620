"""Find the scripts of the project: Python files with a main guard, and shell scripts."""
import re

from tests.factories import ROOT

FOLDERS = ('utils', 'models', 'tools', 'benchmarks', 'tests')  # other folders in the checkout do not belong to the project


def found(ending):
    return sorted([*ROOT.glob(f'*{ending}'), *(path for folder in FOLDERS for path in (ROOT / folder).rglob(f'*{ending}'))])


# tests/tiny_network.py passes all its flags to another script.
SCRIPTS = [str(path.relative_to(ROOT)) for path in found('.py')
           if re.search(r'^if __name__ ==', path.read_text(encoding='utf-8'), re.M) and path.name != 'tiny_network.py']
SHELL = [str(path.relative_to(ROOT)) for path in found('.sh') if path.read_text(encoding='utf-8').startswith('#!')]
