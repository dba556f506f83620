"""Device and versions on which everything is measured."""
from .checks import Found, Stage, device_facts


def run(stage: Stage) -> None:
    stage.check('device', find)


def find():
    facts = device_facts()
    memory = f", {facts['memory_gb']} GB" if facts['memory_gb'] else ''
    return Found(f"{facts['device']}{memory}, {facts['cores']} cores, torch {facts['torch']}, Python {facts['python']}")
