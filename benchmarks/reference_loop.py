"""Straightforward training loop in the style of the original, for comparison.

Workers run a PIL pipeline for each image and return float tensors in contiguous format. Results are copied from the device after every
batch. The training set is scored in a second pass. All batches have the same size, and every epoch decodes all images again.
"""
import time

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision import transforms as T

from models.get_model import get_arch
from utils.combo_loader import ComboLoader
from utils.data.files import find_images
from utils.data.images import FORMATS
from utils.evaluation import evaluate_multi_cls


class Images(Dataset):
    def __init__(self, csv, data_path, transforms):
        table = pd.read_csv(csv, dtype={'image_id': str})
        self.paths = find_images(table.image_id, data_path)
        self.labels = table.iloc[:, -1].to_numpy()
        self.transforms = transforms

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index], formats=FORMATS) as image:
            return self.transforms(image.convert('RGB')), self.labels[index]


class DecodedImages(Dataset):
    """Images of a `ClassDataset`, already decoded and resized, with the same pipeline."""

    def __init__(self, data, transforms):
        self.data, self.labels, self.transforms = data, data.labels, transforms

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        pixels = self.data[index][0].permute(1, 2, 0).numpy()
        return self.transforms(Image.fromarray(pixels)), self.labels[index]


def pipelines(size, mean, std):
    """-> the original's pipelines for training and validation"""
    end = [T.ToTensor(), T.Normalize(mean, std)]
    jitter = T.ColorJitter(.25, .25, .25, .01)
    move = T.RandomChoice([T.RandomAffine(0, scale=(.95, 1.20)), T.RandomAffine(0, translate=(.05, 0)), T.RandomRotation(45)])
    return (T.Compose([T.Resize(size), move, jitter, T.RandomHorizontalFlip(), T.RandomVerticalFlip(), *end]),
            T.Compose([T.Resize(size), *end]))


class ReferenceLoop:
    """Training with Balanced-MixUp and its parameter `alpha`. Each call of `epoch` runs one epoch.

    `decoded`: training and validation set as `ClassDataset`s, which replace the csvs.
    """

    def __init__(self, csv_train, csv_val, data_path, n_classes, model_name, im_size, batch_size, num_workers, alpha, device, decoded=None):
        model, mean, std = get_arch(model_name, n_classes, im_size=im_size)
        self.model, self.n_classes, self.alpha, self.device = model.to(device), n_classes, alpha, device
        train_pipeline, val_pipeline = pipelines(im_size, mean, std)
        if decoded:
            train, val = DecodedImages(decoded[0], train_pipeline), DecodedImages(decoded[1], val_pipeline)
        else:
            train, val = Images(csv_train, data_path, train_pipeline), Images(csv_val, data_path, val_pipeline)
        weights = 1 / np.bincount(train.labels, minlength=n_classes)[train.labels]
        options = {'batch_size': batch_size, 'num_workers': num_workers, 'pin_memory': device.type == 'cuda'}
        self.train = DataLoader(train, shuffle=True, drop_last=True, **options)
        balanced = DataLoader(train, sampler=WeightedRandomSampler(weights, len(train)), drop_last=True, **options)
        self.combo, self.val = ComboLoader([self.train, balanced]), DataLoader(val, **options)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=.01)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, mode='max', patience=2)

    def train_epoch(self):
        """Train for one epoch. -> mean training loss"""
        self.model.train()
        return sum(self.step(batch) for batch in self.combo) / len(self.combo)

    def step(self, batch):
        """Do one training step. -> its loss"""
        (images, labels), (balanced_images, balanced_labels) = batch
        weight = np.random.beta(self.alpha, 1)
        images = (1 - weight) * images + weight * balanced_images
        targets = (1 - weight) * nn.functional.one_hot(labels, self.n_classes) + weight * nn.functional.one_hot(
            balanced_labels, self.n_classes)
        images, targets = images.to(self.device), targets.to(self.device)
        loss = -(targets * self.model(images).log_softmax(1)).sum(1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        labels, probs, running_loss = [], [], 0
        for images, batch_labels in loader:
            logits = self.model(images.to(self.device))
            running_loss += nn.functional.cross_entropy(logits, batch_labels.to(self.device)).item()
            probs += logits.softmax(1).cpu().tolist()
            labels += batch_labels.tolist()
        probs = np.array(probs)
        return evaluate_multi_cls(np.array(labels), probs.argmax(1), probs)

    def epoch(self):
        """Train for one epoch, then score the training and validation sets. -> seconds of training, seconds in total"""
        start = time.perf_counter()
        self.train_epoch()
        training = time.perf_counter() - start
        train, val = self.evaluate(self.train), self.evaluate(self.val)
        if train.auc > val.auc:
            self.scheduler.step(val.auc)
        return training, time.perf_counter() - start
