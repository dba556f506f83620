class ComboLoader:
    """Several loaders in lockstep: each step yields one batch of every loader, as a tuple; the shortest one ends it.

    Balanced-MixUp (Galdran et al., MICCAI 2021, section 2) pairs an instance-sampled with a class-balanced loader;
    plain training is the case of one loader, so that the training loop knows no difference.
    """

    def __init__(self, loaders):
        self.loaders = list(loaders)

    def __iter__(self):
        return zip(*self.loaders, strict=False)

    def __len__(self):
        return min(len(loader) for loader in self.loaders)

    def set_epoch(self, epoch, batches=0):
        """Draw anew: the loaders and their worker processes stay, their samplers move on to `epoch` (from 0), of which `batches`
        are left out."""
        for loader in self.loaders:
            loader.sampler.set_epoch(epoch, batches * loader.batch_size)
