"""Console and TensorBoard output of each epoch. (`RunFolder` writes log.jsonl, before it saves last/.)"""
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from utils.statistics.weighted_metrics import is_ordered
from utils.training.data import TrainingData
from utils.training.run_folder import RunFolder
from utils.training.run_text import epoch_line
from utils.training.tensorboard import TensorBoard


def build_loggers(args: Namespace, run: RunFolder, data: TrainingData) -> Callable[[dict[str, Any]], None]:
    """-> function to call with each epoch's record after it is saved; prints the epoch's line and writes TensorBoard's files."""
    ordered = is_ordered(data.class_names, args.metric)
    board = TensorBoard(run, data.class_names, data.class_count) if args.tensorboard and run.path else None

    def log(record: dict[str, Any]) -> None:
        if board:
            board.update()
        best = f' - best {args.metric} so far' if run.best_epoch() == record['epoch'] else ''
        print(epoch_line(record, args.n_epochs, ordered) + best, flush=True)
    return log
