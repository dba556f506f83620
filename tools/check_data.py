"""Check csvs and images before training: labels, files, every image decoded, duplicates, what splits share. Exit status 1: wrong."""
import argparse
import os
import sys
from collections import defaultdict

import numpy as np
import pandas as pd

from utils.check_data import check_data, outside_rows, some
from utils.common import InputError, run_script, write_text
from utils.duplicates import SIDE, SIMILARITY, look_at_all, similar_pairs
from utils.get_loaders import ClassDataset
from utils.read_csv import csv_text


def csv_problems(data, n_classes):
    try:
        check_data({'csv': data}, n_classes)
    except InputError as err:
        lines = str(err).split('\n  - ')
        return [line.removeprefix(f'{data.csv_path}: ') for line in (lines[1:] or lines)]
    return []


def file_problems(data, looks):
    bad = [f'{path} (row {row}): {looks[path].problem}' for path, row in zip(data.paths, data.rows, strict=True)
           if path in looks and looks[path].problem]
    notes = defaultdict(list)
    for path, row in zip(data.paths, data.rows, strict=True):
        if path in looks and looks[path].note:
            notes[looks[path].note].append(f'{path} (row {row})')
    return ([f'{len(bad)} images cannot be read (--skip_bad_images leaves them out): {some(bad)}'] if bad else [],
            [f'{len(files)} images: {note}: {some(files)}' for note, files in notes.items()])


def find_pairs(looks, similarity):
    """-> DataFrame image_a, image_b, kind ('same file' or 'the same picture') of the readable files in `looks`. A file that has
    copies is compared with other pictures once."""
    pairs, first = [], {}
    for path, look in looks.items():
        if not look.problem and first.setdefault(look.digest, path) != path:
            pairs.append((first[look.digest], path, 'same file'))
    paths = list(first.values()) if similarity < 1 else []
    prints = np.frombuffer(b''.join(looks[path].fingerprint for path in paths), np.int8).reshape(-1, SIDE, SIDE)
    pairs += [(paths[i], paths[j], 'the same picture') for i, j in similar_pairs(prints.copy(), similarity)]
    return pd.DataFrame(pairs, columns=['image_a', 'image_b', 'kind'])


def pair_lines(pairs, owners):
    """-> what is wrong, notes. `owners` maps a file to {csv: label}: duplicates in two csvs leak, with two labels one is wrong."""
    groups = defaultdict(list)
    for a, b, kind in pairs.itertuples(index=False):
        csvs = sorted({*owners[a], *owners[b]})
        labels = {*owners[a].values(), *owners[b].values()}
        classes = f" (classes {' and '.join(map(str, sorted(labels)))})" if len(labels) > 1 else ''
        text = f'{os.path.basename(a)} = {os.path.basename(b)}{classes}'
        groups[len(csvs) > 1 or len(labels) > 1, kind, ' and '.join(csvs)].append(text)
    lines = [(wrong, f'{len(texts)} pairs, {kind}, in {where}: {some(texts)}') for (wrong, kind, where), texts in groups.items()]
    return [line for wrong, line in lines if wrong], [line for wrong, line in lines if not wrong]


def shared_lines(sets):
    for i, a in enumerate(sets):
        for b in sets[i + 1:]:
            shared = {'images': (set(a.paths) & set(b.paths)) - {None}}
            if 'patient_id' in a.table and 'patient_id' in b.table:
                shared['patients'] = set(a.table.patient_id.dropna()) & set(b.table.patient_id.dropna())
            for what, both in shared.items():
                if both:
                    yield f'{len(both)} {what} stand in {a.csv_path} and in {b.csv_path}: {some(sorted(both))}'


def report(title, problems, notes):
    print('\n'.join([title, *(f'  wrong: {line}' for line in problems), *(f'  note: {line}' for line in notes)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('csv', nargs='+', help='csvs of one data set: train, validation, test')
    parser.add_argument('--data_path', default='data/images', help='folder of the images')
    parser.add_argument('--n_classes', type=int, help='number of classes (default: the largest label of all csvs + 1)')
    parser.add_argument('--similarity', type=float, default=SIMILARITY, help='of two pictures that count as the same; 1: only equal files')
    parser.add_argument('--out', metavar='FILE', help='write all pairs of duplicates to this csv')
    parser.add_argument('--num_workers', type=int, default=os.cpu_count(), help='processes that decode images')
    parser.add_argument('--allow_outside_data_path', action='store_true', help='csvs may name images outside of data_path')
    args = parser.parse_args()
    if not .5 <= args.similarity <= 1:
        raise InputError('--similarity must lie in 0.5..1')
    sets = [ClassDataset(path, args.data_path, allow_outside=args.allow_outside_data_path) for path in dict.fromkeys(args.csv)]
    n_classes = args.n_classes or 1 + max((int(data.dr.max()) for data in sets if len(data)), default=0)
    outside = {data.paths[i] for data in sets for i in outside_rows(data)}  # not even opened
    paths = list(dict.fromkeys(path for data in sets for path in data.paths if path is not None and path not in outside))
    looks, owners, n_problems = dict(zip(paths, look_at_all(paths, args.num_workers), strict=True)), defaultdict(dict), 0
    for data in sets:
        problems, notes = file_problems(data, looks)
        problems = csv_problems(data, n_classes) + problems
        counts = np.bincount(data.dr[data.dr >= 0], minlength=n_classes) if data.has_labels else []
        classes = f" of classes {' / '.join(map(str, counts))}" if len(counts) else ', no labels'
        report(f'{data.csv_path}: {len(data):,} images{classes}', problems, notes)
        n_problems += len(problems)
        for path, label in zip(data.paths, data.dr, strict=True):
            owners[path][data.csv_path] = int(label)
    pairs = find_pairs(looks, args.similarity)
    wrong, notes = pair_lines(pairs, owners)
    wrong += shared_lines(sets)
    report(f'all of {len(looks):,} image files', wrong, notes)
    if args.out:
        write_text(args.out, csv_text(pairs))
        print(f'* Wrote {len(pairs)} pairs to {args.out}')
    n_problems += len(wrong)
    print(f'* {n_problems} problems' if n_problems else '* Nothing wrong')
    sys.exit(n_problems > 0)


if __name__ == '__main__':
    run_script(main)
