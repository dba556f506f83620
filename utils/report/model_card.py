"""A run -> its model card in Markdown, with the sections of Mitchell et al., "Model Cards for Model Reporting", FAT* 2019."""
import os
from datetime import date
from typing import Any

import numpy as np

from utils.common import counted, preview, printable
from utils.decisions.of_predictions import saved_rules
from utils.decisions.scores import abstention_rows, point_rows, rule_figures, set_class_rows, set_notes, set_rows
from utils.prediction.predictions import PredictionTable
from utils.report import settings
from utils.report.runs import Run
from utils.report.scores import MEANING
from utils.runs.provenance import results_of
from utils.statistics.bootstrap import bootstrap_metrics
from utils.statistics.subgroups import By, recall_rows, subgroup_notes, subgroup_rows, subgroups
from utils.statistics.tables import to_markdown
from utils.statistics.text import FEW, NOT_PERCENT, covers_text, show
from utils.statistics.weighted_metrics import METRIC_NAMES, labels_of

ELSEWHERE = ('training images', 'validation csv')  # settings that are not in the details


def model_card(run: Run, facts: dict[str, str | None], by: list[By], draws: int = 1000, **how: Any) -> str:
    """The text of model_card.md for a single run.

    `facts`: what the author states, by the names author, purpose and data. `by`: columns of subgroups. `how`: `ordered` and `stratified`.
    What neither the run nor the author tells is marked as not stated.
    """
    table = run.table
    result = None if table is None else bootstrap_metrics(table, draws, **how)
    stated = {name: printable(text).strip() or None for name, text in facts.items() if text}
    parts = [('Model details', _details(run, stated)), ('Intended use', _use(run, stated)), ('Factors', _factors(run, by)),
             ('Metrics', _metrics(run, result)), ('Evaluation data', _evaluation_data(run, stated)), ('Training data', _training_data(run)),
             ('Quantitative analyses', _analyses(run, result, by, draws, how=how)), ('Ethical considerations', _ethics(run)),
             ('Caveats and recommendations', _caveats(run, result))]
    return '\n\n'.join([f'# Model card: {_text(run.name)}', *(f'## {title}\n\n{text}' for title, text in parts)]) + '\n'


def _not_stated(flag):
    return f'not stated (--{flag} TEXT)'


def _text(value):
    """One cell of text, escaped for Markdown."""
    return to_markdown([[str(value)]]).split('\n')[0].strip('| ')


def _list(items):
    return '\n'.join(f'- {item}' for item in items if item)


def _facts_table(rows):
    return to_markdown([['fact', 'value'], *([name, str(value)] for name, value in rows if value)])


def _class_names(run):
    return run.config['class_names'] if run.config else run.table.class_names


def _details(run, stated):
    c = run.config
    rows = [('run', run.name), ('written by', stated.get('author') or _not_stated('author')),
            ('date of this card', f'{date.today():%d %B %Y}'), ('kind', f'image classifier with {len(_class_names(run))} classes')]
    if c:
        words = {part.name: part.words(c) for part in settings.PARTS}
        rows += [(name, text) for name, text in words.items() if name not in ELSEWHERE]
    results = results_of(run.table.path) if run.table else None
    if results and results.checkpoint:
        rows.append(('checkpoint', f'{results.checkpoint.folder}, epoch {results.checkpoint.epoch}'))
    return _facts_table(rows)


def _use(run, stated):
    return _list([
        f"Purpose: {_text(stated['purpose'])}" if stated.get('purpose') else f"Purpose: {_not_stated('purpose')}",
        'Users: people who can judge these images themselves. This is research software, and not a medical device.',
        f"Classes: {', '.join(map(_text, _class_names(run)))}. An image of anything else gets one of these classes, too.",
        'Out of scope: images of other devices, places or patients than those of the evaluation data, until they are tested.'])


def _factors(run, by):
    columns = [] if run.table is None or run.table.further is None else list(run.table.further.columns)
    shown = [f'Subgroups by {_text(each.column)} are evaluated below.' for each in by] or [
        'No subgroups were evaluated (`--by COLUMN`). Scores may differ by age, sex, skin tone, device or hospital.']
    rest = [name for name in columns if name not in {each.column for each in by}]
    return _list([*shown, f"Columns of the test csv that were not evaluated: {', '.join(map(_text, rest))}." if rest else '',
                  'Class frequency: scores of each class are below, since rare classes often have lower ones.'])


def _metrics(run, result):
    if result is None:
        return 'The network has not been tested yet.'
    rules = saved_rules(run.table)
    results = results_of(run.table.path)
    shown = [f'{METRIC_NAMES[name]}: {MEANING[name]}' for name in METRIC_NAMES if result['metrics'][name]['value'] is not None]
    return _list([
        *shown, 'Recall: share of the images of a class that are recognised. Precision: share of the predictions that are right.',
        f'Test-time augmentation: {results.tta.words or "none"}.' if results else '',
        f'{_text(results.correction.line)}.' if results and results.correction else '',
        f'Calibrated with temperature {results.temperature.value:.3f}.' if results and results.temperature else '',
        f"{covers_text(result['drawn'])}.",
        'Decisions: fitted on validation images. A prediction set lists the classes that an image may have. An image is positive if its '
        'probability is at least the threshold.' if rules and any(rules) else
        'Decision thresholds: none. The predicted class is the most probable one.'])


def _evaluation_data(run, stated):
    if run.table is None:
        return 'None yet.'
    table, results = run.table, results_of(run.table.path)
    patients = f', {len(set(table.patient_ids)):,} patients' if table.patient_ids else ', patients unknown'
    rows = [('data', stated.get('data') or _not_stated('data')),
            ('images', f'{len(table.preds):,}{patients}')]
    if results and results.csv:
        rows += [('csv', os.path.basename(results.csv.path)), ('SHA-256', results.csv.sha256)]
    counts = np.bincount(labels_of(table), minlength=len(table.class_names))
    return f'{_facts_table(rows)}\n\n{_counts(table.class_names, counts)}'


def _training_data(run):
    if run.config is None:
        return 'Unknown: the run folder was not found.'
    c = run.config
    rows = [('training csv', os.path.basename(c['csv_train'])), ('validation csv', os.path.basename(c['csv_val'])),
            ('images', f"{sum(c['class_count']):,}"),
            ('imbalance', f"{max(c['class_count']):,} images of the most frequent class, {min(c['class_count']):,} of the rarest")]
    return f"{_facts_table(rows)}\n\n{_counts(c['class_names'], c['class_count'])}"


def _counts(names, counts):
    return to_markdown([['class', 'images'], *([name, f'{int(n):,}'] for name, n in zip(names, counts, strict=True))])


def _analyses(run, result, by, draws, *, how):
    if result is None:
        return 'The network has not been tested yet.'
    table: PredictionTable = run.table
    rows = [['score in percent, except NLL and Brier', 'value [95 % interval]', 'chance']]
    for name, text in METRIC_NAMES.items():
        cell, chance = result['metrics'][name], result['chance'].get(name)
        if cell['value'] is not None:
            shown = show(cell, *((3, 1) if name in NOT_PERCENT else (1, 100)))
            rows.append([text, shown, '-' if chance is None else f'{100 * chance:.1f}'])
    classes = [['class', 'n', 'recall', 'precision', 'AUC']]
    classes += [[name, f"{cells['recall']['n']:,}", *(show(cells[metric]) for metric in ('recall', 'precision', 'auc'))]
                for name, cells in result['classes'].items()]
    parts = ['### Unitary results', to_markdown(rows), to_markdown(classes)]
    for each in by:
        groups = subgroups([table], each, draws, **how)
        recalls = recall_rows(groups)
        parts += [to_markdown(subgroup_rows(groups)), *([to_markdown(recalls)] if len(recalls) > 1 else [])]
        parts += [_list(f'{note}.' for note in subgroup_notes(groups))] if subgroup_notes(groups) else []
    parts += ['### Intersectional results', 'Not evaluated. Give a column that combines two factors, such as sex and age, with `--by`.']
    rules = saved_rules(table)
    if rules and any(rules):
        figures = rule_figures(table, rules, draws, stratified=how.get('stratified', False))
        parts.append('### Decisions, fitted on validation images')
        if rules.abstention:
            parts.append(f'The answer is "not sure" if the highest probability is below {rules.abstention.threshold:.3f}.')
        if rules.sets:
            parts += [to_markdown(set_rows(figures, rules)), to_markdown(set_class_rows(figures, rules, table.class_names))]
        parts += [to_markdown(point_rows(figures, rules))] if rules.points else []
        parts += [to_markdown(rows) for rows in abstention_rows(figures, table.class_names)] if rules.abstention else []
    return '\n\n'.join(parts)


def _ethics(run):
    patients = run.table is not None and run.table.patient_ids is not None
    return _list([
        'The training images may show patients. Whether they agreed, and who may use the images, is not stated here.',
        'Checkpoints hold hashes of the images, not the images. Predictions hold image names' + (' and patient ids.' if patients else '.'),
        'A wrong answer can harm a patient: a missed rare class above all. Its recall is in the table of the classes.'])


def _caveats(run, result):
    items = []
    if run.config and run.config.get('members') is None:
        items.append('One training with one seed. Another seed gives other scores.')
    if result is not None:
        table, cells = run.table, result['classes']
        absent = [name for name in table.class_names if not cells[name]['recall']['n']]
        few = [name for name in table.class_names if 0 < cells[name]['recall']['n'] < FEW]
        results = results_of(table.path)
        if run.seen_as:
            items.append('The tested images also chose the epoch of the network or trained it: the scores are optimistic.')
        items += [f"No tested image of {', '.join(map(_text, absent))}: nothing is known about them."] if absent else []
        items += [f'Fewer than {FEW} tested images of {_text(preview(few))}: these scores say little.'] if few else []
        items.append('The probabilities were calibrated on validation images, which may have chosen the epoch, too.'
                     if results and results.temperature else 'The probabilities are not calibrated (`tools.calibrate`).')
        items.append('Precision, accuracy and the probabilities depend on the class frequencies, which may be others in your clinic.')
        rules = saved_rules(table)
        items += [f'{note[:1].upper()}{note[1:]}.' for note in set_notes(rules, table.class_names)] if rules else []
        items.append(f'Tested on {counted(len(table.preds), "image")}. Test on images of your own before use.')
    else:
        items.append('The network has not been tested.')
    return _list(items)
