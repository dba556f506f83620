"""Three kills at random moments; `python -m tests.faults` does more."""
import random

from tests.faults import CASES, finish, torture


def test_killed_and_resumed(tiny, tmp_path):
    for name in ('train.csv', 'val.csv', 'images'):
        (tmp_path / name).symlink_to(tiny / name)
    finish(tmp_path, 'one', '--n_epochs 1')
    statuses = torture(tmp_path, CASES[1], 3, random.Random(5))
    assert len(statuses) == 3 and any(statuses)  # at least one met a training that was not finished
