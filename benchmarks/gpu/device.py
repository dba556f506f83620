"""Device and versions on which everything is measured."""
import torch

from .checks import Found, Stage, device_facts

AIMED_AT = ('H100', 'H200')  # cards that the aims apply to


def aimed_at() -> bool:
    """-> whether the aims apply to this card"""
    return torch.cuda.is_available() and any(name in torch.cuda.get_device_name() for name in AIMED_AT)


def run(stage: Stage) -> None:
    stage.check('device', find)


def find():
    facts = device_facts()
    memory = f", {facts['memory_gb']} GB" if facts['memory_gb'] else ''
    return Found(f"{facts['device']}{memory}, {facts['cores']} cores, torch {facts['torch']}, Python {facts['python']}")
