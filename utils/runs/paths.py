"""Where the files of one run lie: experiments/NAME and results/NAME."""
import os

from utils.runs.formats import read_config


def split_path(path, of):
    """.../experiments/a/b -> ('.../', 'a/b') for `of` experiments; None where it is not below such a folder."""
    parts = os.path.abspath(path).split(os.sep)
    if of not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index(of)
    return os.sep.join([*parts[:place], '']), os.path.join('', *parts[place + 1:])


def name_below(path, of):
    return (split_path(path, of) or (None, os.path.basename(os.path.abspath(path))))[1]


def counterpart(path, of, to):
    """.../experiments/a/b -> .../results/a/b and back; None where it does not exist."""
    split = split_path(path, of)
    other = split and os.path.join(split[0], to, split[1])
    if not other or not os.path.isdir(other):
        return None
    return other if os.path.isabs(path) else os.path.relpath(other)


def is_run(folder):
    return os.path.isfile(os.path.join(folder, 'config.cfg'))


def config_of(csv):
    """The configuration of the run below experiments/ that the per-image `csv` below results/ belongs to; None where there is none."""
    folder = counterpart(os.path.dirname(csv) or os.curdir, 'results', 'experiments')
    return read_config(folder) if folder and is_run(folder) else None
