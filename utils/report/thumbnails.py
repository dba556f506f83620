"""Thumbnails of the most confident mistakes. They show patients, so they are on the page only on request."""
import base64
import io

from markupsafe import Markup

from utils.common import InputError
from utils.data.files import find_images
from utils.prediction.predictions import PredictionTable
from utils.report.html import Cell, note, render, table
from utils.statistics.curves import confident_mistakes
from utils.statistics.weighted_metrics import labels_of

SIZE = 192  # pixels of the longer side


def thumbnail(path: str) -> bytes:
    """The image as JPEG bytes, without the metadata of the original."""
    from utils.data.images import open_rgb  # imported here because it imports torch
    buffer = io.BytesIO()
    try:
        image = open_rgb(path, (SIZE, SIZE))
    except OSError as err:
        raise InputError(f'{path} cannot be read as an image: {err}') from err
    image.thumbnail((SIZE, SIZE))
    image.info.clear()
    image.save(buffer, format='JPEG', quality=82)
    return buffer.getvalue()


def mistakes(predictions: PredictionTable, data_path: str | None = None) -> list[Markup]:
    """The thumbnails and a table of the same images; without `data_path`, a sentence on how to get them."""
    if data_path is None:
        return [Markup('<p>This file holds no images and no image names, because they may identify patients. To show the most confident '
                       'mistakes, add <code>--with_images</code> and <code>--data_path FOLDER</code>.</p>')]
    rows = confident_mistakes(predictions)
    ids, names = [predictions.image_ids[i] for i in rows], predictions.class_names
    found = find_images(ids, data_path)
    paths = [path for path in found if path is not None]
    if missing := [name for name, path in zip(ids, found, strict=True) if path is None]:
        raise InputError(f'{len(missing)} of {len(ids)} images to show are not in --data_path {data_path}; the first is {missing[0]}')
    labels, preds, probs = labels_of(predictions), predictions.preds, predictions.probs
    facts = [(image, names[labels[i]], names[preds[i]], float(probs[i, preds[i]]), float(probs[i, labels[i]]))
             for image, i in zip(ids, rows, strict=True)]
    images = [{'name': image, 'truth': truth, 'answer': answer, 'percent': f'{100 * p:.0f}',
               'jpeg': base64.b64encode(thumbnail(path)).decode()} for path, (image, truth, answer, p, _) in zip(paths, facts, strict=True)]
    cells = [[image, truth, answer, Cell(f'{100 * p:.1f}', p), Cell(f'{100 * q:.1f}', q)] for image, truth, answer, p, q in facts]
    return [note('This file holds images of patients and image names: share it only where you may share these.'),
            render('thumbnails', images=images),
            table('The same images. Click a heading to sort.',
                  ['image', 'true class', 'predicted class', 'probability of the predicted class (%)',
                   'probability of the true class (%)'], cells, sortable=True, numbers=False)]
