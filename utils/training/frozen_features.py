"""A frozen backbone sees the same pixels in every epoch where nothing is augmented or mixed: its features are computed once."""
import torch

from models.heads import get_head
from utils.common import progress
from utils.get_loaders import get_eval_loader
from utils.training.batches import Normalise

MOST = 1 << 31  # bytes of features to keep in memory


class Features:
    """In place of the cache of images. `values`: float32 (N, C) or (N, C, 1, 1), what the last layer is given for each image."""

    def __init__(self, values):
        self.values = values

    def read(self, indices):
        return self.values[indices]


class AsTheyAre(Normalise):
    """float32 features -> the same, on the device."""

    def to_float(self, images):
        return images.to(self.device, non_blocking=True)

    def standardise(self, x):
        return x


def sees_the_same(args):
    """Whether the backbone is given the same in every epoch, and stays as it is."""
    return args.trainable != 'all' and args.augment == 'none' and args.mixing == 'none' and args.grow_from == 1


@torch.no_grad()
def _features(model, loader, normalise, autocast):
    found = []
    hook = get_head(model).register_forward_pre_hook(lambda head, inputs: found.append(inputs[0].float().cpu()))
    with progress(len(loader.dataset), 'features') as bar:
        for images, _, ids in loader:
            with autocast():
                model(normalise(images))
            bar.update(len(ids))
    hook.remove()
    return torch.cat(found)


def use_features(model, datasets, normalise, autocast, batch_size, num_workers):
    """Let `datasets` (ClassDatasets) give features of the frozen `model` instead of images, and `model` start from these: it stays
    whole, but its forward pass is its last layer's. -> what takes the place of `normalise`; `normalise` itself, and nothing changed,
    where the features would take more memory than MOST."""
    n_images, width = sum(map(len, datasets)), max(p.numel() for p in get_head(model).parameters()) // model.n_classes
    n_bytes = 4 * n_images * width
    if n_bytes > MOST:
        print(f'* Features would take {n_bytes / 2 ** 30:.1f} GB of memory: they are computed in every epoch')
        return normalise
    model.eval()
    for data in datasets:
        data.cache = Features(_features(model, get_eval_loader(data, batch_size, num_workers), normalise, autocast))
    # A class of its own rather than a method of the object: copies of the network (its moving average) go through their own layer.
    model.__class__ = type(f'{type(model).__name__}OnFeatures', (type(model),), {'forward': lambda self, x: get_head(self)(x)})
    print(f'* Nothing but the last layer changes: the features of {n_images:,} images were computed once')
    return AsTheyAre(normalise.device, (0, 0, 0), (1, 1, 1))
