"""Out-of-memory errors during training: which flags to change, and how to resume the run."""
import contextlib
from argparse import Namespace
from collections.abc import Iterator

from accelerate.state import PartialState

from utils.common import InputError, out_of_memory
from utils.training.run_folder import RunFolder

LESS = 'use a smaller --batch_size, or the same one with --accumulate 2'


def next_accumulate(args: Namespace) -> int | None:
    """The next larger --accumulate that splits a training step into equal batches; None if they already have one image."""
    images = args.batch_size // PartialState().num_processes
    return next((n for n in range(args.accumulate + 1, images + 1) if images % n == 0), None)


@contextlib.contextmanager
def explain_full_memory(args: Namespace, run: RunFolder) -> Iterator[None]:
    """Turn an out-of-memory error into an `InputError` that names the flags to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        full = out_of_memory(err)
        if full is None:
            raise
        parts = next_accumulate(args)
        if parts is None:
            advice = 'use a smaller --im_size or another --model_name' + ('' if args.do_not_save else ', and --overwrite to start again')
        elif args.do_not_save or not (run.history or run.mid_epoch):
            advice = (f'use a --batch_size below {args.batch_size}, or the same one with --accumulate {parts}'
                      + ('' if args.do_not_save else ', and --overwrite to start again'))
        else:
            saved = f' after epoch {len(run.history)}' if run.history else ''
            advice = f'resume{saved} with --accumulate {parts} --resume, or start again with a smaller --batch_size and --overwrite'
        raise InputError(f'{full}: {advice}') from err
