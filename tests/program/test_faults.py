"""Kill a training run several times, at chosen and random moments, and the report once; `python -m tests.faults` does more."""
import random

from tests import faults
from tests.kills import STATUSES, kill_in
from tools import report


def test_killed_and_resumed(tiny, tmp_path):
    for name in ('train.csv', 'val.csv', 'images'):
        (tmp_path / name).symlink_to(tiny / name)
    aims = ['cache', 'checkpoint', 'evaluation', 'any moment']
    hits = faults.torture_training(tmp_path, faults.CASES[1], aims, random.Random(5))
    assert hits[:3] == aims[:3] and hits[3] in STATUSES.values()  # the moment of the last kill depends on the system load


def test_a_killed_report_leaves_the_previous_one(train, tmp_path):
    train('--save_path cut')
    report.main(faults.REPORT[1:])
    file = tmp_path / 'experiments' / 'cut' / 'report.html'
    before = file.read_bytes()
    assert kill_in(tmp_path, faults.REPORT, 'report', 1)
    assert file.read_bytes() == before


def test_leftovers_of_a_killed_run_are_removed(train):
    """If a run is resumed without last/, no checkpoint of the first attempt remains that could be taken for the best epoch."""
    run = train('--n_epochs 2 --n_checkpoints 2')
    for path in ('val_metrics.txt', 'last/model_checkpoint.pth', 'log.jsonl'):
        (run / path).unlink()
    kept = sorted(run.glob('epoch_*'))
    kept[1].rename(run / 'epoch_02_better')
    for name in ('last/model_checkpoint.pth.1.tmp', 'config.cfg.22-0af3.tmp', 'mine.tmp'):
        (run / name).touch()
    train('--n_epochs 2 --n_checkpoints 2 --resume')
    assert sorted(run.glob('epoch_*')) == kept and [file.name for file in run.rglob('*.tmp')] == ['mine.tmp']
