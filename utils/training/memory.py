"""Memory that runs out during a training: which flags need less, and what becomes of the epochs that are done."""
import contextlib

from utils.common import InputError, out_of_memory

LESS = 'use a smaller --batch_size, or the same one with --accumulate 2'


def needs_less(args, world_size):
    """-> the value of --accumulate that cuts a training step of `args` into the next smaller batches; None for batches of one image"""
    images = args.batch_size // world_size
    return next((n for n in range(args.accumulate + 1, images + 1) if images % n == 0), None)


@contextlib.contextmanager
def explain_full_memory(args, run, world_size):
    """Turn an error of full memory into an `InputError` that names the flags to change. `run`: the `RunFolder` of the training."""
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        full = out_of_memory(err)
        if full is None:
            raise
        parts = needs_less(args, world_size)
        if parts is None:
            advice = 'use a smaller --im_size or another --model_name' + ('' if args.do_not_save else ', and --overwrite to start again')
        elif args.do_not_save or not (run.history or run.within):
            advice = (f'use a --batch_size below {args.batch_size}, or the same one with --accumulate {parts}'
                      + ('' if args.do_not_save else ', and --overwrite to start again'))
        else:
            saved = f' after epoch {len(run.history)}' if run.history else ''
            advice = f'--accumulate {parts} --resume goes on{saved}; with a smaller --batch_size, --overwrite starts again'
        raise InputError(f'{full}: {advice}') from err
