"""Scores of subgroups and of groups of images, as parts of the report."""
from typing import Any

import numpy as np
from markupsafe import Markup

from utils.prediction.per_group import Per, check_rule, per_group
from utils.prediction.predictions import PredictionTable
from utils.report import html
from utils.report.html import Cell, Draw, paragraph
from utils.report.scores import count, percent, stacked
from utils.statistics import plots
from utils.statistics.bootstrap import bootstrap_metrics
from utils.statistics.subgroups import SHOWN, By, Subgroup, recall_rows, subgroup_notes, subgroups
from utils.statistics.text import FEW, NOT_PERCENT, covers_text, show
from utils.statistics.weighted_metrics import METRIC_NAMES


def subgroup_parts(table: PredictionTable, columns: list[By], draw: Draw, draws: int, **options: Any) -> list[Markup]:
    """A figure and a table for each of `columns`. `options`: of `bootstrap_figures`."""
    parts = []
    for number, by in enumerate(columns):
        groups = subgroups([table], by, draws, **options)
        shown = [name for name in SHOWN if any(group.cells['metrics', name]['value'] is not None for group in groups)]
        drawn_groups = [group for group in groups if group.n_images >= FEW] or groups  # a few images would stretch the axis
        names = [f'{group.name} ({group.n_images:,})' for group in drawn_groups]
        cells = [group.cells['metrics', 'bacc'] for group in drawn_groups]
        value, low, high = (np.array([np.nan if cell[end] is None else 100 * cell[end] for cell in cells])
                            for end in ('value', 'low', 'high'))
        drawn = plots.intervals(names, value, low, high, xlabel='balanced accuracy (%)', labels=[percent(cell['value']) for cell in cells])
        reference = groups[0].reference
        rows = [[f'{group.name}{" (few)" if group.n_images < FEW else ""}', count(group.n_images),
                 *(stacked(group.cells['metrics', name]) for name in shown),
                 '-' if group.difference is None else Cell(show(group.difference['bacc'], sign='+'), group.difference['bacc']['value'])]
                for group in groups]
        svg = draw(f'subgroups-{number}', drawn, f'Balanced accuracy by {by.column}. The values are in the table below.')
        parts.append(html.figure(svg, f'Balanced accuracy by {by.column}',
                                 f'Dots with 95 % intervals. In brackets: images of the group. Groups of fewer than {FEW} are left out.'))
        parts.append(html.table(f'Scores by {by.column} in percent [95 % interval]. Last column: difference in balanced accuracy from '
                                f'{reference}, the largest group, unpaired, over the classes that both have. Click a heading to sort.',
                                [by.column, 'images', *(METRIC_NAMES[name] for name in shown), 'difference in balanced accuracy'], rows,
                                sortable=True))
        parts.append(paragraph(subgroups_in_words(groups)))
        header, *recalls = recall_rows(groups)
        if recalls:
            parts.append(html.table(f'Recall of the classes by {by.column} in percent [95 % interval], of the number of images',
                                    [by.column, *header[1:]], recalls))
        parts += [html.note(f'{note[:1].upper()}{note[1:]}.') for note in subgroup_notes(groups)]
    return parts


def subgroups_in_words(groups: list[Subgroup]) -> str:
    """The range of balanced accuracy over the groups with at least FEW images, and the differences that are certain."""
    large = [group for group in groups if group.n_images >= FEW and group.cells['metrics', 'bacc']['value'] is not None]
    if len(large) < 2:
        return f'Fewer than two groups have {FEW} images or more, so the groups cannot be compared.'
    worst, best = (end(large, key=lambda group: group.cells['metrics', 'bacc']['value']) for end in (min, max))
    values = [percent(group.cells['metrics', 'bacc']['value']) for group in (worst, best)]
    certain = [group.name for group in large if group.difference and group.difference['bacc']['low'] is not None
               and not group.difference['bacc']['low'] <= 0 <= group.difference['bacc']['high']]
    text = (f'Among the groups with {FEW} images or more, balanced accuracy is lowest for {worst.name} ({values[0]} %) and highest for '
            f'{best.name} ({values[1]} %). ')
    reference = f'{groups[0].reference}, the largest group'
    return text + (f"The difference from {reference}, is certain, as its interval excludes 0, for: {', '.join(certain)}." if certain else
                   f'No difference from {reference}, is certain: all intervals include 0. With few images, large differences can stay '
                   'unnoticed.')


def per_group_parts(table: PredictionTable, per: Per, draws: int, **options: Any) -> list[Markup]:
    """The table of the scores with one prediction for each group of images."""
    check_rule(per, options['ordered'])
    grouped = per_group(table, per)
    result = bootstrap_metrics(grouped, draws, **options)
    shown = [name for name in METRIC_NAMES if result['metrics'][name]['value'] is not None]
    rows = [[METRIC_NAMES[name], show(result['metrics'][name], *((3, 1) if name in NOT_PERCENT else (1, 100))),
             percent(result['chance'].get(name))] for name in shown]
    recalls = [[name, count(cells['recall']['n']), show(cells['recall'])] for name, cells in result['classes'].items()
               if cells['recall']['value'] is not None]
    text = f'The {len(table.preds):,} images are combined to {len(grouped.preds):,} groups by {per.text}. {covers_text(result["drawn"])}.'
    return [html.paragraph(text),
            html.table(f'Scores per {per.column} in percent except NLL and Brier', ['score', 'value [95 % interval]', 'chance'], rows),
            html.table(f'Recall of the classes per {per.column} in percent [95 % interval]', ['class', 'groups', 'recall'], recalls)]
