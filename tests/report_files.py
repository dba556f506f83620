"""Files of runs for report tests, and a parser for the page."""
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd

from tests.factories import random_table
from tools.report import main

SCRIPT = '<script>document.title = "owned"</script>$x^2$'
VOID = ('meta', 'img', 'br')


def write(path, table, rows=slice(None)):
    frame = pd.DataFrame({'image_id': table.image_ids, 'label': table.labels, 'pred': table.preds})
    if table.patient_ids:
        frame.insert(1, 'patient_id', table.patient_ids)
    frame = pd.concat([frame, pd.DataFrame(table.probs, columns=[f'p_{name}' for name in table.class_names])], axis=1)[rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    return str(path)


def write_run(root, name, class_names, parent=None, seed=0, epochs=3, tested=True):
    """Write experiments/NAME and results/NAME below `root`, with random predictions. -> the run folder"""
    run, k = root / 'experiments' / name, len(class_names)
    run.mkdir(parents=True)
    config = {'model_name': 'mobilenetV2', 'im_size': [96, 96], 'init': 'none', 'trainable': 'all', 'loss_fn': 'CE', 'sampling': 'instance',
              'do_mixup': 0., 'optimizer': 'sgd', 'lr': .01, 'batch_size': 8, 'n_epochs': epochs, 'seed': seed, 'metric': 'mcc',
              'csv_train': 'train.csv', 'csv_val': 'val.csv', 'data_path': 'images', 'class_names': class_names,
              'class_count': [200 // (c + 1) for c in range(k)], 'parent': parent,
              'csv_sha256': {}, 'torch': '2', 'device': 'cpu', 'mixed_precision': 'no'}
    (run / 'config.cfg').write_text(json.dumps(config))
    scores = {'mcc': .5, 'bacc': .4, 'loss': 1.}
    log = [{'epoch': e, 'lr': .01, 'train': dict.fromkeys(scores), 'val': scores | {'mcc': .1 * min(e, 2)}} for e in range(1, epochs + 1)]
    (run / 'log.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in log))
    if tested:
        table, truth = (random_table(s, n=60 + 3 * k, names=class_names) for s in (seed, 0))
        probs = np.roll(table.probs, -1, axis=1) if seed else table.probs  # another network on the same images
        table = truth._replace(probs=probs, preds=probs.argmax(1))
        write(root / 'results' / name / 'results_test.csv', table._replace(image_ids=[f'patient{i}' for i in table.image_ids]))
    return run


def report(path, *flags):
    """Run `tools.report` on `path` and return the HTML of its page."""
    out = path / 'r.html' if path.is_dir() else path.parent / 'r.html'
    main([str(path), '--draws', '100', '--out', str(out), *flags])
    return out.read_text(encoding='utf-8')


class Page(HTMLParser):
    """Parse a page: check that its elements nest, and collect them as (name, attributes) along with the visible text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text = [], [], ''
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if not {'script', 'style'} & set(self.open):
            self.text += data

    def all(self, name):
        return [attributes for element, attributes in self.elements if element == name]
