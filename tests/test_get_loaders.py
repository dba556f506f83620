"""Data loaders for training and evaluation."""
import numpy as np
import pandas as pd
import pytest
import torch

from utils.data.sampling import SAMPLING
from utils.get_loaders import (
    ClassDataset,
    get_combo_loader,
    get_eval_loader,
    get_test_cls_loader,
    get_train_val_cls_loaders,
    modify_loader,
)


def test_dataset(tiny):
    data = ClassDataset(tiny / 'train.csv', tiny / 'images', (16, 24))
    image, label, image_id = data[3]
    assert image.shape == (3, 16, 24) and image_id == data.image_ids[3] and int(image_id.split('_')[1]) == label
    assert data.class_names(3) == ['class0', 'class1', 'class2']
    assert data.class_names(4)[3] == 'C3'


def test_ids_and_labels_keep_their_form(tmp_path):
    pd.DataFrame({'image_id': ['007', '10'], 'level': [1.0, 2.5]}).to_csv(tmp_path / 'a.csv', index=False)
    data = ClassDataset(tmp_path / 'a.csv', tmp_path)
    assert data.image_ids == ['007', '10'] and data.labels.tolist() == [1, -1]
    (tmp_path / 'b.csv').write_text('image_id\n007\n')
    assert not ClassDataset(tmp_path / 'b.csv', tmp_path).has_labels


def loaders(tiny, num_workers=0, batch_size=4):
    return get_train_val_cls_loaders(tiny / 'train.csv', tiny / 'val.csv', tiny / 'images', batch_size, im_size=(16, 16), n_classes=3,
                                     num_workers=num_workers, seed=1)


def test_loaders(tiny, capsys):
    train, val = loaders(tiny)
    assert 'Found 12/4 train/val examples of class 0 (class0)' in capsys.readouterr().out
    assert [len(ids) for _, _, ids in train] == [4] * 5  # 22 images, whole batches only
    assert [i for _, _, ids in val for i in ids] == val.dataset.image_ids


@pytest.mark.parametrize('base', SAMPLING)
def test_combo_loader_yields_pairs_in_lockstep(tiny, base):
    combo = get_combo_loader(loaders(tiny)[0], base)
    combo.set_epoch(3)
    batches = list(combo)
    assert len(batches) == len(combo) == 5
    for pair in batches:
        assert len(pair) == 2 and all(len(ids) == 4 and images.dtype == torch.uint8 for images, _, ids in pair)
    assert [ids for _, (_, _, ids) in batches] != [ids for (_, _, ids), _ in batches]


def test_same_batches_for_any_number_of_workers(tiny):
    def epochs(num_workers):
        combo = get_combo_loader(loaders(tiny, num_workers)[0], 'sqrt')
        result = []
        for epoch in (0, 1):
            combo.set_epoch(epoch)
            result += [(images, ids) for pair in combo for images, _, ids in pair]
        return result
    torch.manual_seed(0)
    one = epochs(0)
    torch.manual_seed(1)  # the global random state has no effect
    two = epochs(2)
    assert all(a[1] == b[1] and torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))


def test_modify_loader(tiny):
    train = loaders(tiny)[0]
    changed = modify_loader(train, 'prog', ep=4, n_eps=5)
    assert changed.sampler.mode == 'prog' and changed.sampler.epoch == 4 and changed.sampler.n_epochs == 5
    assert changed.dataset is train.dataset and changed.batch_size == train.batch_size


def test_eval_sample_is_stratified(tiny):
    data = ClassDataset(tiny / 'train.csv', tiny / 'images', (16, 16))
    indices = get_eval_loader(data, 4, n_images=11).sampler
    assert len(set(indices)) == 11 and np.bincount(data.labels[indices]).tolist() == [6, 3, 2]
    assert get_eval_loader(data, 4, n_images=11).sampler == indices
    assert len(get_eval_loader(data, 4, n_images=99).sampler) == 22


@pytest.mark.parametrize('n_images', [None, 11])
def test_processes_split_the_images_of_the_dataset(tiny, n_images):
    data = ClassDataset(tiny / 'train.csv', tiny / 'images', (16, 16))
    whole = get_eval_loader(data, 2, n_images=n_images)
    parts = [get_eval_loader(data, 2, n_images=n_images, rank=rank, world_size=3) for rank in range(3)]
    assert all(part.dataset is data for part in parts)
    ids = [[image_id for _, _, ids in part for image_id in ids] for part in parts]
    assert [len(part.sampler) for part in parts] == list(map(len, ids))
    assert [ids[i % 3][i // 3] for i in range(len(whole.sampler))] == [image_id for _, _, ids in whole for image_id in ids]


def test_test_loader(tiny):
    loader = get_test_cls_loader(tiny / 'test.csv', tiny / 'images', 1, (16, 16), test=True)
    assert all((labels == -1).all() for _, labels, _ in loader)


def test_tg_size_of_the_original_is_accepted(tiny):
    sets = [ClassDataset(tiny / 'test.csv', tiny / 'images', **size) for size in ({'im_size': (16, 24)}, {'tg_size': (16, 24)})]
    assert sets[0][0][0].shape == (3, 16, 24) and torch.equal(sets[0][0][0], sets[1][0][0])
    loader = get_test_cls_loader(tiny / 'test.csv', tiny / 'images', tg_size=(16, 24))
    assert next(iter(loader))[0].shape[1:] == (3, 16, 24)
