"""What training changes: the network, its moving average, the optimizer and the learning rate."""
from models.weights import load_weights
from utils.common import InputError
from utils.training.optim import OPTIMIZERS, Schedule, average_weights


class Training:
    """`model` is what a training step calls (perhaps wrapped), `trained` the network itself, `evaluated` the network to score and to
    save: its moving average with --ema, else itself."""

    def __init__(self, args, model, accelerator, n_steps):
        optimizer = OPTIMIZERS[args.optimizer](model, args)
        self.schedule = Schedule(args.schedule, optimizer, args.warmup, n_steps, args.lr, args.min_lr, args.patience, args.metric)
        self.averaged = average_weights(model, args.ema) if args.ema else None
        self.trained, self.evaluated = model, self.averaged.module if self.averaged else model
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    @property
    def lr(self):
        return self.optimizer.param_groups[0]['lr']

    def step(self):
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.after_step()
        if self.averaged:
            self.averaged.update_parameters(self.trained)

    def state_dict(self):
        """What a checkpoint of `evaluated` lacks for going on."""
        average = {'trained': self.trained.state_dict(), 'n_averaged': self.averaged.n_averaged} if self.averaged else {}
        return {'optimizer': self.optimizer.state_dict(), 'schedule': self.schedule.state_dict()} | average

    def load_state_dict(self, checkpoint):
        load_weights(self.evaluated, checkpoint['state_dict'], checkpoint['folder'])
        if self.averaged:
            if not {'trained', 'n_averaged'} <= set(checkpoint):
                raise InputError(f"{checkpoint['folder']} lacks the state of --ema: --overwrite starts the run anew")
            load_weights(self.trained, checkpoint['trained'], checkpoint['folder'])
            self.averaged.n_averaged.copy_(checkpoint['n_averaged'])
        try:
            self.optimizer.load_state_dict(checkpoint['optimizer'])
            self.schedule.load_state_dict(checkpoint['schedule'])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as err:  # of another network or optimizer
            raise InputError(f"{checkpoint['folder']}: the state of the optimizer does not fit this run: "
                             '--overwrite starts it anew') from err
