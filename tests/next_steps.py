"""Read the commands that scripts print for their users, and parse them with the script that they name."""
import importlib
import os
import re
import shlex

from utils.cli import ROOT, python


def module_of(words):
    """['python', '-m', 'tools.report', ...] or ['python', 'train_lt_mxp.py', ...] -> (module, arguments)"""
    name, rest = (words[2], words[3:]) if words[1] == '-m' else (words[1].removesuffix('.py').replace('/', '.'), words[2:])
    return importlib.import_module(name), rest


def next_words(text):
    """-> words of the last command in a line '* Next, ...: command', as typed at the top of the repository"""
    words = shlex.split(re.findall(r'^\* Next, [^:]+: (.*)$', text, re.M)[-1])
    words = words[1:] if words[0] == f'PYTHONPATH={ROOT}' else words
    return [words[0], words[1].removeprefix(ROOT + os.sep), *words[2:]]


def parse(words):
    """-> (module, parsed arguments, arguments)"""
    if words[:3] == ['bash', 'run_lt_experiments.sh', 'own']:
        module = importlib.import_module('tools.own_experiments')
        return module, module.parse(words[3:]), words[3:]
    assert words[0] == python()
    module, argv = module_of(words)
    return module, module.get_parser().parse_args(argv), argv
