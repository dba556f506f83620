"""Paths of a run: experiments/NAME and results/NAME."""
import os
import re

from utils.runs.formats import read_config

CHECKPOINT = re.compile(r'(epoch_\d+.*|last)')  # name of a checkpoint folder within a run


def split_path(path: str, of: str) -> tuple[str, str] | None:
    """.../experiments/a/b -> ('.../', 'a/b') for `of` experiments; None if the path is not below such a folder."""
    parts = os.path.abspath(path).split(os.sep)
    if of not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index(of)
    return os.sep.join([*parts[:place], '']), os.path.join('', *parts[place + 1:])


def name_below(path: str, of: str) -> str:
    """.../experiments/a/b -> 'a/b' for `of` experiments; the last part of a path that is not below such a folder."""
    split = split_path(path, of)
    return (split and split[1]) or os.path.basename(os.path.abspath(path))


def without_checkpoint(path: str) -> str:
    """experiments/a/b/epoch_07_... -> experiments/a/b; any other path is returned unchanged."""
    path = path.rstrip('/')
    return os.path.dirname(path) if CHECKPOINT.fullmatch(os.path.basename(path)) else path


def name_of_run(checkpoint_folder: str) -> str:
    """experiments/a/b/epoch_07_.../ -> 'a/b', the path of a run below experiments/, and of its results below results/."""
    return name_below(without_checkpoint(os.path.abspath(checkpoint_folder)), 'experiments')


def counterpart(path: str, of: str, to: str) -> str | None:
    """.../experiments/a/b -> .../results/a/b and back; None if that folder does not exist."""
    split = split_path(path, of)
    other = split and os.path.join(split[0], to, split[1])
    if not other or not os.path.isdir(other):
        return None
    return other if os.path.isabs(path) else os.path.relpath(other)


def is_run(folder: str) -> bool:
    """Return whether `folder` is a run folder."""
    return os.path.isfile(os.path.join(folder, 'config.cfg'))


def config_of(csv: str) -> dict | None:
    """Return the configuration of the run that the predictions `csv` below results/ belongs to; None if the run does not exist."""
    folder = counterpart(os.path.dirname(csv) or os.curdir, 'results', 'experiments')
    return read_config(folder) if folder and is_run(folder) else None
