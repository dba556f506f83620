"""Content of config.cfg: the flags of a run, and facts about its data, network and environment."""
from argparse import Namespace
from typing import Any

import torch
from accelerate import Accelerator

from utils.common import file_sha256
from utils.data.images import DECODER
from utils.runs.formats import FORMAT
from utils.training.data import TrainingData
from utils.training.network import Network


def run_config(args: Namespace, data: TrainingData, network: Network, accelerator: Accelerator) -> dict[str, Any]:
    """Plain values for config.cfg and for the entry 'config' of checkpoints."""
    return vars(args) | {
        'format': FORMAT, 'head': network.head, 'initial_weights': network.model.initial_weights,
        'class_column': data.train.label_column, 'class_names': data.class_names, 'class_count': data.class_count.tolist(),
        'parent': network.stage_one.facts, 'frozen': network.frozen, 'reinitialised': network.reinitialised,
        'csv_sha256': {'train': file_sha256(args.csv_train), 'val': file_sha256(args.csv_val)},
        'decoder': DECODER, 'torch': str(torch.__version__), 'device_type': accelerator.device.type,
        'mixed_precision': accelerator.mixed_precision}
