"""Let the CPU count as a GPU, to test where images are kept. Processes that a test starts may import this file, unlike `factories`."""
from utils.data import dataset
from utils.training import placement

GB = 10 ** 9


def count_cpu_as_gpu(monkeypatch, left=7 * GB):
    """Let the CPU count as a GPU of 10 GB. -> memory left beside a training step and memory of a step, which a test may change"""
    memory = {'left': left, 'step': 2 * GB}

    def peak_of(function, device):
        function()
        return memory['step'] // (1 if function.func is placement.train_once else placement.EVAL_FACTOR)
    for module in (dataset, placement):
        monkeypatch.setattr(module, 'WITH_OWN_MEMORY', ('cpu',))
    monkeypatch.setattr(placement, 'gpu_memory', lambda device: (memory['left'], 10 * GB))
    monkeypatch.setattr(placement, 'peak_of', peak_of)
    return memory
