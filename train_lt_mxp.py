r"""Train a classifier on long-tailed images with re-sampling, mixing and re-balancing losses, in one or two stages. The run and its
best checkpoint are written to experiments/<save_path>/.

Examples with the demo set (made by python -m tools.prepare_demo_data); the second one is stage two of the first:

  python train_lt_mxp.py --csv_train data/demo/train_demo.csv --data_path data/demo/images --n_classes 5 --im_size 64 \
      --model_name regnetx_002 --init none --batch_size 32 --optimizer adamw --lr 0.004 --schedule onecycle --n_epochs 5 --metric bacc \
      --save_path first/plain
  python train_lt_mxp.py --csv_train data/demo/train_demo.csv --data_path data/demo/images --n_classes 5 --im_size 64 \
      --model_name regnetx_002 --loss_fn BSCE --batch_size 32 --optimizer adamw --lr 0.002 --schedule onecycle --n_epochs 3 \
      --metric bacc --save_path first/2stage --pretrained_weights experiments/first/plain
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import sys
from argparse import Namespace

from utils.cli import network_flag, say_next, script_parser, to_test, warn_without_effect
from utils.common import run_script
from utils.data.permissions import keep_private, private_flag
from utils.data.read_csv import check_csv_exists
from utils.prediction.accelerator import build_accelerator
from utils.reproducibility import set_backends, set_seeds
from utils.training.config import run_config
from utils.training.data import load_data
from utils.training.engine import Evaluator, train_one_epoch
from utils.training.flags import WITHOUT_EFFECT, add_flags, check_processes, resolve
from utils.training.frozen_features import cache_features, can_cache_features
from utils.training.loggers import build_loggers
from utils.training.memory import LESS, explain_full_memory
from utils.training.network import build_network
from utils.training.placement import place_data
from utils.training.plan import TrainingPlan
from utils.training.recipes import RecipeParser
from utils.training.run_folder import RunFolder, run_path
from utils.training.signals import StopSignal, resume_hint
from utils.training.state import TrainState
from utils.training.tensorboard import summary_writer


def get_parser() -> RecipeParser:
    return add_flags(script_parser(__doc__, RecipeParser))


def main(args: Namespace, argv: list[str] | None = None) -> None:
    """Train with the flags `args`. `argv`: the command line, used to warn about flags without effect and to print the command that
    resumes the run."""
    args = resolve(args)
    for csv in (args.csv_train, args.csv_val):
        check_csv_exists(csv)  # before weights are downloaded
    accelerator = build_accelerator(args.device, args.precision, args.compile)
    check_processes(args, accelerator)
    if argv:
        warn_without_effect(get_parser(), argv[1:], args, WITHOUT_EFFECT, n_processes=accelerator.num_processes,
                            device_type=accelerator.device.type)
    keep_private(args.private, run_path(args), None if args.no_cache else args.cache_dir)
    run = RunFolder.open(args, writes=accelerator.is_main_process)
    if args.tensorboard and run.path:
        summary_writer()  # raises if the package is missing
    set_backends(args.deterministic, accelerator.device.type == 'cuda', one_size=args.grow_from == 1)
    set_seeds(args.seed)

    network = build_network(args, accelerator)  # before the data, so that missing weights stop a run before images are decoded
    data = load_data(args, accelerator, network.stage_one)
    print(network.describe(args))
    accelerator.wait_for_everyone()  # every process has checked the folder before it is written to
    run.start(run_config(args, data, network, accelerator), data)
    network.to(accelerator, args.sync_bn)
    if can_cache_features(args):
        cache_features(network, data, accelerator)

    plan = TrainingPlan(args, data, network)  # epoch -> data loader, batch transform, loss
    state = TrainState(args, network, accelerator, plan.n_steps)
    log = build_loggers(args, run, data)
    state.load(run.resume_state)

    with run, StopSignal(resume_hint(argv, args)) as stop, explain_full_memory(args, run):
        with stop.listening():
            data = place_data(data, plan, state, accelerator)  # on the GPU if the images fit
        evaluate = Evaluator(args, data, network, accelerator)
        for number in range(len(run.history), args.n_epochs):
            if state.schedule.finished(run.history):
                print(f'* Early stopping: trained at the minimum learning rate {args.min_lr:g}')
                break
            epoch = plan.epoch(number, run.mid_epoch)
            with run.saves_on(stop, state, epoch):  # the only place where an interrupted epoch is saved
                stats = train_one_epoch(state, epoch, accelerator, stop)
                with stop.listening():
                    scores = evaluate(state.eval_model, number)
            state.schedule.after_epoch(scores.plateau_value)
            run.end_epoch(epoch, stats, scores, state)
            log(run.history[-1])
        run.finish()
    print_end(args, run)


def print_end(args: Namespace, run: RunFolder) -> None:
    """Print the best epoch, the run folder and the command that tests the run."""
    best = run.best_epoch()
    print(f"* Best epoch {best}: {args.metric} {run.score(best) if args.metric == 'loss' else 100 * run.score(best):.2f}")
    if run.path:
        print(f'* Saved in {run.path}')
        say_next(*to_test(run.path, args.csv_train, args.csv_val, args.data_path), *network_flag(args.model_name), *private_flag(args))


if __name__ == '__main__':
    run_script(lambda: main(get_parser().parse_args(), sys.argv), LESS)
