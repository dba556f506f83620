"""Prediction of images without a csv, with the decision file of the run: for tools.predict and tools.serve."""
import argparse
import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader

from utils.cli import network_flag, quoted
from utils.common import InputError, counted
from utils.data.images import open_rgb
from utils.data.new_images import ImageFiles, why_unreadable
from utils.decisions.decision_file import Decision
from utils.get_loaders import fitting_workers
from utils.model_saving_loading import LoadedModel
from utils.prediction.gradcam import grad_cam, overlay
from utils.prediction.inference import Logits, Normalise, collect_logits
from utils.prediction.predictions import NOT_SURE, PREDICTION_SET
from utils.prediction.tta import get_views
from utils.testing.decisions import Decided, check_prior, decide, decision_tuning, read_own_decision
from utils.testing.network import get_accelerator
from utils.testing.tuning import Tuning


class Predicted(NamedTuple):
    """`decided`, `paths`: of the images that could be read. `unread`: '<id>: <reason>' of the others."""
    decided: Decided
    paths: list[str]
    unread: list[str]

    def rows(self, names: list[str], n: int | None = None) -> list[list[str]]:
        """Table of the first `n` images: the most likely classes, and the columns of the decision file. The first row is the header."""
        predictions, k = self.decided.predictions, min(3, len(names))
        order = (-predictions.probs).argsort(axis=1, kind='stable')[:, :k]
        columns = self.decided.columns
        extra = {} if columns is None else {name.replace('_', ' '): columns[name].tolist() for name in columns}
        rows = [['image', *['most likely', 'second', 'third'][:k], *extra]]
        for i, (image_id, top, p) in enumerate(zip(predictions.image_ids[:n], order, predictions.probs, strict=False)):
            rows.append([image_id, *(f'{names[c]} {100 * p[c]:5.1f} %' for c in top), *(values[i] for values in extra.values())])
        return rows

    def answer(self, names: list[str], row: int) -> list[str]:
        """The answer for one image in words: class and probability or "Not sure", the image id, and the prediction set if there is one."""
        predictions, columns = self.decided.predictions, self.decided.columns
        top = f'{names[predictions.preds[row]]}: {100 * predictions.probs[row].max():.1f} %'
        found = {} if columns is None else columns.iloc[row].to_dict()
        return [f'Not sure (most likely {top})' if found.get(NOT_SURE) == 'yes' else top, predictions.image_ids[row],
                *([f'Possible classes: {found[PREDICTION_SET]}'] if PREDICTION_SET in found else [])]


class Predictor(NamedTuple):
    """A trained network on its device. `args`: see `get_predictor`."""
    args: argparse.Namespace
    loaded: LoadedModel
    decision: Decision | None
    tuning: Tuning
    accelerator: Accelerator
    normalise: Normalise

    def about(self) -> list[str]:
        """Sentences about the network, where its probabilities and decisions come from, and heat maps."""
        decision, info = self.decision, self.loaded.info
        flags = ' '.join(map(quoted, ['--load_path', self.args.load_path, *network_flag(self.args.model_name)]))
        source = (f"Decisions: {decision.path}, fitted on {counted(decision.n_images, 'image')} of {decision.csv.path}." if decision else
                  'The probabilities are not calibrated, because --no_decision was given.' if self.args.no_decision else
                  f'The probabilities are not calibrated. To calibrate them, run python -m tools.calibrate {flags} and start this page '
                  'again.')
        if decision and decision.rules.sets:
            source += (f' Possible classes should hold the true class in {100 * decision.rules.sets[0].coverage:g} % of the cases. They '
                       'can leave out a class that is more probable than one that they hold.')
        heat = ('Heat maps show which regions support the predicted class, from 0 to 1 (Grad-CAM).' if self.has_heat_maps() else
                'There are no heat maps: this network has no feature map with height and width.')
        return [f'Network: {self.loaded}.', f"Classes: {', '.join(info['class_names'])}.", source, heat]

    def predict(self, paths: Sequence[str], ids: Sequence[str]) -> Predicted:
        """Predict the images at `paths`, named `ids`. Raises `InputError` if none of them can be read, or if the network returns NaN."""
        args, info = self.args, self.loaded.info
        files = ImageFiles(paths, ids, tuple(info['im_size']))
        workers = fitting_workers(min(args.num_workers, os.cpu_count() or 1, len(files)), args.batch_size, info['im_size'])
        loader = DataLoader(files, args.batch_size, num_workers=workers)
        logits = collect_logits(self.loaded.model, loader, self.normalise, self.accelerator.autocast, desc='predict',
                                views=get_views(args))
        good = (logits.labels == -1).nonzero().flatten()
        unread = [f'{ids[i]}: {why_unreadable(paths[i]) or "cannot be decoded"}'
                  for i in (logits.labels != -1).nonzero().flatten().tolist()]
        if not len(good):
            raise InputError('\n  '.join(['none of the images can be read:', *unread]))
        decided = decide(Logits(logits.values[:, good], logits.labels[good], [ids[i] for i in good]), info, self.tuning, self.decision,
                         target_prior=args.target_prior)
        return Predicted(decided, [paths[i] for i in good], unread)

    def check_heat_maps(self) -> None:
        """Raise `InputError` if the network has no feature map for Grad-CAM."""
        device = self.accelerator.device
        grad_cam(self.loaded.model, torch.zeros(1, 3, *self.loaded.info['im_size'], device=device),
                 torch.zeros(1, dtype=torch.int64, device=device))

    def has_heat_maps(self) -> bool:
        try:
            self.check_heat_maps()
        except InputError:
            return False
        return True

    def heat_maps(self, predicted: Predicted, rows: Sequence[int]) -> list[Image.Image]:
        """Pictures of the images in `rows` with the heat maps of their predicted classes, see `overlay`."""
        info, predictions = self.loaded.info, predicted.decided.predictions
        files = ImageFiles(predicted.paths, predictions.image_ids, tuple(info['im_size']))
        inputs = self.normalise(torch.stack([files[row][0] for row in rows]))
        classes = [int(predictions.preds[row]) for row in rows]
        heat = grad_cam(self.loaded.model, inputs, torch.tensor(classes, device=inputs.device)).cpu().numpy()
        return [overlay(open_rgb(predicted.paths[row]), one, f"{info['class_names'][c]}: {100 * predictions.probs[row, c]:.1f} %")
                for row, one, c in zip(rows, heat, classes, strict=True)]


def get_predictor(args: argparse.Namespace, given: Collection[str], loaded: LoadedModel) -> Predictor:
    """Read the decision file of the network, and move it to its device.

    `args`: load_path, model_name, device, no_decision, target_prior, batch_size, num_workers and the flags of `add_view_flags`. `given`:
    see `flags_given`. Raises `InputError` for flags that contradict the decision file.
    """
    info = loaded.info
    decision = read_own_decision(args, given, info)
    tuning = decision_tuning(decision, loaded.model, info) if decision else Tuning()
    check_prior(args.target_prior, info, decision)
    accelerator = get_accelerator(loaded, args.device)
    return Predictor(args, loaded, decision, tuning, accelerator=accelerator,
                     normalise=Normalise(accelerator.device, info['mean'], info['std']))
