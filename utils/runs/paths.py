"""Where the files of one run lie: experiments/NAME and results/NAME."""
import os
import re

from utils.runs.formats import read_config

CHECKPOINT = re.compile(r'(epoch_\d+.*|last)')  # name of a checkpoint folder within its run


def split_path(path: str, of: str) -> tuple[str, str] | None:
    """.../experiments/a/b -> ('.../', 'a/b') for `of` experiments; None where the path is not below such a folder."""
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
    """experiments/a/b/epoch_07_... -> experiments/a/b; a path that names no checkpoint folder stays."""
    path = path.rstrip('/')
    return os.path.dirname(path) if CHECKPOINT.fullmatch(os.path.basename(path)) else path


def name_of_run(checkpoint_folder: str) -> str:
    """experiments/a/b/epoch_07_.../ -> 'a/b': the results of a run lie under its own path below experiments/."""
    return name_below(without_checkpoint(os.path.abspath(checkpoint_folder)), 'experiments')


def counterpart(path: str, of: str, to: str) -> str | None:
    """.../experiments/a/b -> .../results/a/b and back; None where it does not exist."""
    split = split_path(path, of)
    other = split and os.path.join(split[0], to, split[1])
    if not other or not os.path.isdir(other):
        return None
    return other if os.path.isabs(path) else os.path.relpath(other)


def is_run(folder: str) -> bool:
    """Whether `folder` is that of a run."""
    return os.path.isfile(os.path.join(folder, 'config.cfg'))


def config_of(csv: str) -> dict | None:
    """Return the configuration of the run below experiments/ that the per-image `csv` below results/ belongs to; None where there is no
    run."""
    folder = counterpart(os.path.dirname(csv) or os.curdir, 'results', 'experiments')
    return read_config(folder) if folder and is_run(folder) else None
