"""The steps of both test scripts: from a checkpoint and a csv to scores and predictions for each image."""
import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np

from utils.cli import flags_given, network_flag, say_next, warn_without_effect
from utils.common import InputError, check_writable, counted, file_sha256, printable, write_text
from utils.data.bad_images import write_skipped
from utils.data.dataset import ClassLoader
from utils.data.label_column import NAME_COLUMNS
from utils.data.leakage import check_reported, note_of_patients
from utils.data.permissions import keep_private, private_flag
from utils.decisions.decision_file import Decision, shared_images
from utils.decisions.prevalence import prevalence_text
from utils.decisions.rules import rules_as_json, rules_from_json
from utils.decisions.scores import summary_lines
from utils.evaluation import Metrics, evaluate_multi_cls, per_class_text, performance_text, recall_per_class, shot_recalls
from utils.get_loaders import ClassDataset
from utils.model_saving_loading import load_model
from utils.prediction.inference import Predictions
from utils.prediction.per_group import Per, parse_per, per_group, refuse_unfit
from utils.prediction.predictions import check_further_columns, is_further, read_predictions, write_predictions
from utils.runs.paths import is_run, name_of_run
from utils.runs.results import (
    Checkpoint,
    PredictionsFile,
    Results,
    SourceCsv,
    Views,
    check_replaceable,
    results_path,
    write_results,
)
from utils.statistics.weighted_metrics import chance_levels, is_ordered, labels_of
from utils.testing.decisions import check_prior, decide, decision_tuning, read_own_decision
from utils.testing.flags import WITHOUT_EFFECT, check_flags, get_parser
from utils.testing.network import NetworkUnderTest, get_accelerator
from utils.testing.post_hoc import prior_text
from utils.testing.tuning import Tuning, tune

UNMEASURED = ('Prediction sets and thresholds apply to the probabilities before the change of the class frequencies: a test without '
              '--target_prior measures them')


class Split(NamedTuple):
    """A csv to test on."""
    name: str  # val or test
    loader: ClassLoader
    predictions_csv: str  # path of the predictions csv to write
    note: str  # from `check_reported` and `note_of_patients`, for the report
    fitted: bool = False  # the decision file was fitted on these images

    @property
    def data(self) -> ClassDataset:
        return self.loader.dataset  # type: ignore[return-value]


def written_columns(data: ClassDataset, args: argparse.Namespace) -> list[str]:
    """The columns of the csv that go into the predictions csv: those of --keep, by default all that have no other meaning.

    With --salt the default is none, since they may identify a patient.
    """
    if args.keep is not None or args.salt:
        return list(dict.fromkeys(args.keep or []))
    return [name for name in data.table if name not in (data.label_column, *NAME_COLUMNS) and is_further(name)]


def describe(network: NetworkUnderTest, split: Split, tuning: Tuning, *, predictions: Predictions, metrics: Metrics | None) -> Results:
    """Return the content of the results file of a csv. Its predictions csv must have been written."""
    args, data = network.args, split.data
    return Results(
        checkpoint=Checkpoint(network.loaded.folder, network.info['epoch']),
        csv=SourceCsv(printable(data.csv_path), file_sha256(data.csv_path)),
        predictions=PredictionsFile(os.path.basename(split.predictions_csv), file_sha256(split.predictions_csv)),
        tta=Views(args.dihedral_tta, tuple(args.zoom_tta)), correction=tuning.correction, temperature=tuning.temperature,
        class_names=network.info['class_names'], metrics=asdict(metrics) | {'loss': predictions.loss} if metrics is not None else None,
        n_images=len(predictions.image_ids), n_left_out=len(data.skipped))


def full_report(predictions: Predictions, metrics: Metrics, class_names: list[str], class_count: Sequence[int]) -> str:
    """The report of the original, then recall and F1 of each class, recall of the shot groups, top-1 accuracy and chance levels."""
    y, preds = np.asarray(predictions.labels), predictions.preds
    recalls, chance = recall_per_class(y, preds, len(class_names)), chance_levels(np.bincount(y))
    groups = ' - '.join(f"{name}={'none' if value is None else f'{100 * value:.2f}'}"
                        for name, value in shot_recalls(recalls, class_count).items())
    return '\n'.join([
        performance_text(metrics, predictions, class_names),
        per_class_text('Recall', recalls, class_names), per_class_text('F1', metrics.f1_all, class_names),
        f'Recall by training images (many > 100, medium 20-100, few < 20): {groups}',
        f'Top-1 = {100 * np.mean(y == preds):.2f} of {len(y)} images',
        f"By chance: balanced accuracy {100 * chance['bacc']:.2f}, Top-1 {100 * chance['acc']:.2f} (always the most frequent class)", ''])


def corrections_text(results: Results, class_names: list[str]) -> str:
    """Lines on the corrections of the predictions; '' if there are none. Omits a temperature without scores before and after."""
    text, correction, temperature = '', results.correction, results.temperature
    if correction:
        text += f'{correction.line}\n'
        if correction.learnt and correction.expected:
            text += prior_text(class_names, correction.learnt, correction.expected)
    return text + (f'{temperature.line}\n' if temperature and temperature.before else '')


def sources_text(split: Split, results: Results) -> str:
    """Lines on skipped images, checkpoint, csv and predictions."""
    n, n_left_out = len(split.data), len(split.data.skipped)
    left_out = f'Left out {n_left_out} of {n_left_out + n} images, which cannot be read: skipped_{split.name}.csv\n' if n_left_out else ''
    return f'{left_out}{results.checkpoint_line}\n{results.predictions_line}\n'


def summary_line(split: Split, metrics: Metrics, info: dict, n_images: int) -> str:
    """Scores of a test in percent, as one line for the console."""
    kappa = f'K: {100 * metrics.kappa:z.2f} - ' if is_ordered(info['class_names'], info['config']['metric']) else ''
    return (f'{split.name.capitalize()} - {kappa}mAUC: {100 * metrics.auc:.2f} - MCC: {100 * metrics.mcc:z.2f} - '
            f'F1: {100 * metrics.f1:.2f} - BalAcc: {100 * metrics.bacc:.2f} - Acc: {100 * metrics.acc:.2f} - n: {n_images}')


def run_split(network: NetworkUnderTest, split: Split, tuning: Tuning, decision: Decision | None = None) -> str | None:
    """Predict and score one csv, and write the results. -> predictions csv; None if there are no labels"""
    data, info, csv = split.data, network.info, split.predictions_csv
    names = info['class_names']
    logits = network.logits(split.loader, split.name)
    if data.csv_path == tuning.csv or split.fitted:
        ignored = ', also without --target_prior' if split.fitted and network.args.target_prior is not None else ''
        print(f'* Note: {data.csv_path} is reported without correction{ignored}, because the corrections were chosen on it')
        tuning, decision = Tuning(), None
    patients = data.table.get('patient_id')
    decided = decide(logits, info, tuning, decision, target_prior=network.args.target_prior if decision else None,
                     patient_ids=None if patients is None else patients.fillna('image ' + data.table.image_id).tolist())
    if decided.prevalence and decision:
        print(prevalence_text(decided.prevalence, decision.source, names))
    predictions, metrics = decided.predictions, None
    if predictions.labels is not None:
        metrics = evaluate_multi_cls(predictions.labels, predictions.preds, predictions.probs)
    write_predictions(csv, predictions, names, patients, salt=network.args.salt,
                      further=data.table[written_columns(data, network.args)], decided=decided.columns)
    results = describe(network, split, decided.tuning, predictions=predictions, metrics=metrics)
    if decision:
        results = replace(results, decision={
            'line': decision.line, 'rules': rules_as_json(decided.rules), 'note': UNMEASURED if network.args.target_prior else '',
            'bias': list(decision.source.bias) if network.args.target_prior else None})
    write_results(results, csv)
    if metrics is None:
        print(f'{corrections_text(results, names)}* {data.csv_path} has no labels: wrote only the predictions, {csv}')
        return None
    per = parse_per(network.args.per)
    report = (full_report(predictions, metrics, names, info['class_count']) + (per_group_text(csv, per, info) if per else '')
              + split.note + corrections_text(results, names) + decision_text(results, csv) + sources_text(split, results))
    file = os.path.join(network.folder, f'performance_{split.name}.txt')
    write_text(file, report)
    print(report)
    print(summary_line(split, metrics, info, len(predictions.image_ids)))
    print(f'* Wrote {file} and {csv}')
    return csv


def decision_text(results: Results, csv: str) -> str:
    """Lines on the decision file of a test and on how its rules did on the labelled predictions `csv`; '' without one."""
    if results.decision is None:
        return ''
    table = read_predictions(csv)
    rules = rules_from_json(results.decision['rules'], len(table.class_names), results_path(csv))
    lines = [results.decision['line'], *filter(None, [results.decision['note']]), *summary_lines(table, rules)]
    return ''.join(f'{line}\n' for line in lines)


def per_group_text(csv: str, per: Per, info: dict) -> str:
    """Combine the predictions of `csv` by --per, and write them beside it. -> line of scores in percent"""
    grouped = per_group(read_predictions(csv), per)
    path = f"{csv.removesuffix('.csv')}_per_{re.sub(r'[^A-Za-z0-9-]', '_', per.column)}.csv"
    write_predictions(path, grouped._replace(probs=grouped.probs.astype(np.float32)), grouped.class_names,
                      None if per.column == 'patient_id' else grouped.patient_ids)
    metrics = evaluate_multi_cls(labels_of(grouped), grouped.preds, grouped.probs)
    kappa = f'K={100 * metrics.kappa:z.2f} - ' if is_ordered(grouped.class_names, info['config']['metric']) else ''
    return (f'Per {per.text}: {kappa}BACC={100 * metrics.bacc:.2f} - MCC={100 * metrics.mcc:z.2f} - F1={100 * metrics.f1:.2f} - '
            f'AUC={100 * metrics.auc:.2f} of {len(grouped.preds)} groups, in {os.path.basename(path)}\n')


def load_network(args: argparse.Namespace) -> NetworkUnderTest:
    """Load the network of --load_path, check the flags, and check that results can be written. Fills in --data_path."""
    loaded = load_model(args.load_path, args.model_name)
    check_flags(args, loaded.info)
    args.data_path = loaded.info['config']['data_path'] if args.data_path is None else args.data_path
    accelerator = get_accelerator(loaded, args.device)
    print(f'* Loaded {loaded}')
    folder = os.path.join(args.results_path, name_of_run(loaded.folder))
    keep_private(args.private, folder, args.cache_dir)
    check_writable(folder)
    return NetworkUnderTest(args, loaded, accelerator, folder)


def load_splits(network: NetworkUnderTest, names: Sequence[str], decision: Decision | None = None) -> list[Split]:
    """Load the csvs of the flags for the splits `names`. Raises `InputError` if a csv or its images were used in training, if some of the
    images were used for `decision`, or if results would replace an unrelated file."""
    args, info = network.args, network.info
    csvs = {name: csv for name in names if (csv := getattr(args, f'csv_{name}')) is not None}
    outputs = {name: os.path.join(network.folder, getattr(args, f'csv_out_{name}')) for name in csvs}
    for path in outputs.values():
        check_replaceable(path)
    loaders = {name: network.loader(csv) for name, csv in csvs.items()}
    for loader in loaders.values():
        data: ClassDataset = loader.dataset  # type: ignore[assignment]
        check_further_columns(args.keep or [], list(data.table), data.csv_path)
        if args.per:
            check_per(args, data, info)
    if info['image_hashes'] is None:
        print('* Note: this checkpoint has no list of its training images, so overlap with the test images cannot be checked')
    notes = {name: check_reported(loader.dataset, info, args.num_workers) + note_of_patients(loader.dataset, info['config'])
             for name, loader in loaders.items()}
    print(''.join(f'* {note}' for note in notes.values() if note), end='')
    fitted = {name: decision is not None and is_fitted_on(decision, loader.dataset, args.num_workers) for name, loader in loaders.items()}
    return [Split(name, loader, outputs[name], notes[name], fitted=fitted[name]) for name, loader in loaders.items()]


def is_fitted_on(decision: Decision, data: ClassDataset, n_threads: int) -> bool:
    """Whether `data` has the images that `decision` was fitted on. Raises `InputError` if it shares only some of them."""
    shared = shared_images(decision, data.content_hashes(n_threads))
    if 0 < shared < len(data) and data.has_labels:
        raise InputError(f'{data.csv_path} shares {counted(shared, "image")} with {decision.csv.path}, on which {decision.path} was '
                         'fitted: test on other images, or add --no_decision')
    return shared > 0 and data.has_labels


def check_per(args: argparse.Namespace, data: ClassDataset, info: dict) -> None:
    """Raise `InputError` if the predictions of `data` will not have the column of --per, or if its rule does not suit the labels."""
    per = parse_per(args.per)
    assert per is not None
    column = per.column
    if column not in data.table:
        raise InputError(f"--per: {data.csv_path} has no column '{column}' (its columns: {', '.join(data.table)})")
    if column not in ('patient_id', *written_columns(data, args)):
        raise InputError(f'--per {column}: this column is not written: add --keep {column}')
    if data.has_labels:
        refuse_unfit(per, data.table, data.labels, info['class_names'], ordered=is_ordered(info['class_names'], info['config']['metric']))


def main(description: str, splits: Mapping[str, str | None], dihedral_tta: int, argv: Sequence[str] | None = None) -> None:
    """Run a test script. `splits`, `dihedral_tta`: its defaults, see `get_parser`; `argv`: its flags, by default sys.argv."""
    parser = get_parser(description, splits, dihedral_tta)
    args = parser.parse_args(argv)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT)
    network = load_network(args)
    decision = read_own_decision(args, flags_given(parser, argv, args), network.info)
    check_prior(args.target_prior, network.info, decision)
    if decision:
        print(f'* {decision.line}')
    reported = load_splits(network, list(splits), decision)
    if decision:
        tuning = decision_tuning(decision, network.loaded.model, network.info)
    else:
        tuning = tune(network, {split.name: split.loader for split in reported})
    if tuning.csv is None:  # remove the list of an earlier test
        write_skipped(os.path.join(network.folder, 'skipped_tune.csv'), [])
    scored = [run_split(network, split, tuning, decision) for split in reported]
    say_next(*next_step(scored[-1], network.loaded.folder, args))


def next_step(csv: str | None, checkpoint_folder: str, args: argparse.Namespace) -> tuple[str, ...]:
    """`csv`: predictions that were scored, or None. -> description and words of the next command"""
    run = os.path.dirname(checkpoint_folder) or '.'
    known = is_run(run)  # False if the checkpoint was copied elsewhere
    if csv:
        return 'compute confidence intervals', 'python', '-m', 'tools.evaluate_predictions', csv, *(['--run', run] if known else [])
    if known:
        return 'view the training curves', 'python', '-m', 'tools.report', run
    return ('view heat maps of the network', 'python', '-m', 'tools.predict', '--load_path', args.load_path, *network_flag(args.model_name),
            args.data_path, '--gradcam', *private_flag(args))
