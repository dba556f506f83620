"""Compare the config.cfg of the runs that made several predictions csvs: are they repeats of one method, and are the classes ordered?"""
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from utils.prediction.predictions import PredictionTable
from utils.runs.paths import CHECKPOINT, config_of
from utils.statistics.weighted_metrics import is_ordered

FOLD = re.compile(r'(F|fold[_-]?)\d+')
REPEAT = re.compile(rf'seed.*|{FOLD.pattern}')  # folders that separate the runs of one method
# Entries of config.cfg that may differ between runs of the same method: seed and paths, entries that do not affect results, and entries
# that follow from others. Training and validation csvs are compared by content instead.
NOT_SETTINGS = {'seed', 'save_path', 'csv_train', 'csv_val', 'csv_sha256', 'class_count', 'parent', 'format', 'recipe', 'class_names',
                'head', 'frozen', 'reinitialised', 'initial_weights', 'resume', 'overwrite', 'do_not_save', 'n_checkpoints', 'tensorboard',
                'num_workers', 'cache_dir', 'no_cache', 'device', 'device_type', 'mixed_precision', 'compile', 'deterministic', 'torch',
                'decoder', 'allow_outside_data_path', 'private'}
# Aliases of entries that are compared anyway
ALIASES = {'cdt_gamma': 'loss_params', 'label_column': 'class_column'}


def are_ordered(tables: Sequence[PredictionTable], flag: bool | None = None) -> bool:
    """`is_ordered` for tables with the same classes. Uses the --metric of their runs if these are found."""
    metrics = [(config_of(table.path) or {}).get('metric') for table in tables]
    return any(is_ordered(tables[0].class_names, metric, flag) for metric in metrics)


def _stage_one(path):
    """Path of a run or checkpoint without seed, fold and epoch: experiments/set/plain/seed0/epoch_07_... -> experiments/set/plain"""
    parts = os.path.normpath(path).split(os.sep)
    parts = parts[parts.index('experiments'):] if 'experiments' in parts else parts
    return '/'.join(part for part in parts if not (REPEAT.fullmatch(part) or CHECKPOINT.fullmatch(part) or part.endswith('.pth')))


def _compared(config):
    """{flag: value} of the settings that must agree, normalised to be independent of the machine and of the run folder."""
    found = {flag: value for flag, value in config.items() if flag not in NOT_SETTINGS and ALIASES.get(flag) not in config}
    if found.get('pretrained_weights'):
        found['pretrained_weights'] = _stage_one(found['pretrained_weights'])
    if 'data_path' in found:  # such as data/demo/images
        found['data_path'] = '/'.join(os.path.normpath(found['data_path']).split(os.sep)[-2:])
    if 'min_lr' in found and math.isclose(found['min_lr'], found['lr'] / 1000):  # the default depends on lr
        found['min_lr'] = 'lr / 1000'
    return found


def _differing_csvs(configs, fold_of):
    """`differing_settings` for the csvs: runs of the same fold must have the same training and validation csvs."""
    found = {}
    for role in ('train', 'val'):
        digests = {csv: config['csv_sha256'].get(role, '') for csv, config in configs.items()}
        if len({(fold_of[csv], digest) for csv, digest in digests.items()}) > len({fold_of[csv] for csv in digests}):
            found[f'csv_{role}'] = {csv: f"{configs[csv][f'csv_{role}']} (SHA-256 {digest[:8]}...)" for csv, digest in digests.items()}
    return found


def differing_settings(csvs: Sequence[str], image_sets: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Find settings that differ between runs pooled as one method: {flag: {predictions csv: value}}.

    `image_sets`: for each of the `csvs`, a number that identifies its set of images. Seeds, names, machines and paths may differ. Training
    and validation csvs may differ between folds, that is, between runs with different test images or in different folders F1, fold1, ...
    Runs without a config.cfg are ignored, and so are flags that are missing in one of the runs.
    """
    configs = {csv: config for csv in csvs if (config := config_of(csv))}
    compared, found = {csv: _compared(config) for csv, config in configs.items()}, {}
    for flag in next(iter(compared.values()), {}):
        if all(flag in settings for settings in compared.values()):
            values = {csv: settings[flag] for csv, settings in compared.items()}
            if any(value != next(iter(values.values())) for value in values.values()):
                found[flag] = values
    fold_of = {csv: (number, *filter(FOLD.fullmatch, os.path.abspath(csv).split(os.sep)))
               for csv, number in zip(csvs, image_sets, strict=True)}
    return found | _differing_csvs(configs, fold_of)


def describe_settings(differing: Mapping[str, Mapping[str, Any]]) -> str:
    """Result of `differing_settings` -> 'lr 0.01 (seed0, seed1) or 0.1 (seed2); loss_fn ...', '' if nothing differs"""
    flags = []
    for flag, values in differing.items():
        folders = {csv: os.path.dirname(os.path.abspath(csv)) for csv in values}
        base, of_value = os.path.commonpath(folders.values()), {}
        for csv, value in values.items():
            of_value.setdefault('none' if value in (None, '') else str(value), []).append(os.path.relpath(folders[csv], base))
        flags.append(f'{flag} ' + ' or '.join(f"{value} ({', '.join(runs)})" for value, runs in of_value.items()))
    return '; '.join(flags)
