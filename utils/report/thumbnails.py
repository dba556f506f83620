"""The most confident mistakes as small pictures; they show patients, so only where that was asked for."""
import io

from utils.common import InputError
from utils.report.html import picture, table, tag
from utils.statistics.curves import confident_mistakes

SIZE = 192  # pixels of the longer side


def thumbnail(path):
    """JPEG bytes without any metadata of the original."""
    from utils.data.images import open_rgb  # not above: it imports torch, which nothing else here needs
    buffer = io.BytesIO()
    try:
        image = open_rgb(path, (SIZE, SIZE))
    except OSError as err:
        raise InputError(f'{path} cannot be read as an image: {err}') from err
    image.thumbnail((SIZE, SIZE))
    image.info.clear()
    image.save(buffer, format='JPEG', quality=82)
    return buffer.getvalue()


def mistakes(predictions, data_path=None):
    """Without `data_path` a sentence on how to get them; with it the pictures and a table of the same images."""
    if data_path is None:
        return [tag('p', 'No image and no image name is in this file, since they may identify patients. The mistakes that the network was '
                         'surest of are shown with ', tag('code', '--with_images'), ' and ', tag('code', '--data_path FOLDER'), '.')]
    from utils.data.files import find_images  # not above, as in `thumbnail`
    rows = confident_mistakes(predictions)
    ids, names = [predictions.image_ids[i] for i in rows], predictions.class_names
    paths = find_images(ids, data_path)
    missing = [name for name, path in zip(ids, paths, strict=True) if path is None]
    if missing:
        raise InputError(f'{len(missing)} of {len(ids)} images to show are not in --data_path {data_path}, the first is {missing[0]}')
    facts = [(image, names[predictions.labels[i]], names[predictions.preds[i]], predictions.probs[i, predictions.preds[i]],
              predictions.probs[i, predictions.labels[i]]) for image, i in zip(ids, rows, strict=True)]
    items = [tag('li', picture(thumbnail(path), 'jpeg', f'{image}: {truth}, taken for {answer}'),
                 tag('div', f'{truth}, taken for ', tag('b', answer), f' ({100 * p:.0f} % sure)'))
             for path, (image, truth, answer, p, _) in zip(paths, facts, strict=True)]
    cells = [[image, truth, answer, (f'{100 * p:.1f}', p), (f'{100 * q:.1f}', q)] for image, truth, answer, p, q in facts]
    return [tag('p', 'This file holds images of patients and their names: share it only as you may share those.', class_='note'),
            tag('ul', *items, class_='thumbnails'),
            table('The same images; press a heading to sort', ['image', 'truth', 'answer', 'probability of the answer (%)',
                                                              'probability of the truth (%)'], cells, sortable=True, numbers=False)]
