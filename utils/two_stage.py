"""Stage two: start from the weights of a finished stage one, with all of the network trainable or the classifier alone."""
from models.weights import init_classifier, load_weights

from .common import InputError
from .model_saving_loading import read_checkpoint


def load_stage_one(model, path, model_name, n_classes):
    """Copy the weights at `path` (see `read_checkpoint`) into `model`; no optimizer state is taken over.
    -> facts of the parent: path, epoch, metric, score, loaded (number of tensors). Raises `InputError` if it does not fit."""
    parent = read_checkpoint(path)
    for flag, own, given in (('--model_name', parent['model_name'], model_name), ('--n_classes', len(parent['class_names']), n_classes)):
        if own != given:
            raise InputError(f"--pretrained_weights {parent['folder']} was trained with {flag} {own}, this run has {given}")
    load_weights(model, parent['state_dict'], parent['folder'])
    metric = parent['config']['metric']
    return {'path': parent['folder'], 'epoch': parent['epoch'], 'metric': metric, 'score': parent['metrics'][metric],
            'loaded': len(parent['state_dict'])}


def set_trainable(model, trainable):
    """'all', or 'classifier': only the last layer, initialised anew, with the backbone's weights frozen (cRT, Kang et
    al., ICLR 2020). -> names of the frozen and of the re-initialised parameters; `train_mode` keeps the rest fixed."""
    if trainable == 'all':
        return [], []
    model.requires_grad_(False)
    model.get_submodule(model.classifier_name).requires_grad_(True)
    init_classifier(model)
    names = dict(model.named_parameters())
    return [n for n, p in names.items() if not p.requires_grad], [n for n, p in names.items() if p.requires_grad]


def train_mode(model):
    """Training mode; with a frozen backbone for the classifier alone, so that BatchNorm and Dropout before it are fixed."""
    frozen = not all(parameter.requires_grad for parameter in model.parameters())
    model.train(not frozen)
    model.get_submodule(model.classifier_name).train()


def describe_start(init, parent, frozen, reinitialised):
    """What a run starts from, in one line."""
    parts = [f'initial weights: {init}']
    if parent:
        parts = [f"stage two from {parent['path']} (epoch {parent['epoch']}, {parent['metric']} {100 * parent['score']:.2f})",
                 f"{parent['loaded']} tensors loaded"]
    if frozen:
        parts += [f"re-initialised: {', '.join(reinitialised)}", f'{len(frozen)} parameter tensors frozen, with their BatchNorm statistics']
    return '; '.join(parts)
