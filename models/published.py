"""Initial weights from a file (--init PATH), in the forms in which networks are published: RETFound, MAE, DINO, MoCo, timm, ...

Such a file may contain more than the network, such as the decoder of a pre-training or another classifier, and its tensors may have other
names. timm renames them and resizes position embeddings. Every tensor of the network must then be in the file, except for the
classifier and a norm of pooled features. Anything unknown in the file, or lost when timm converts it, is an error.
"""
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, cast

from torch import nn

from models.timm_conversion import describe_resized, get_converter, get_lost
from models.weights import describe_misfit
from models.weights_file import State, read_weights_file
from utils.common import InputError, counted

PREFIXES = ('module.', '_orig_mod.', 'model.', 'teacher.', 'backbone.', 'encoder.', 'base_encoder.', 'encoder_q.')
# Names that may be left out: what only a pre-training needs, and classifiers
PRETRAINING = re.compile(
    r'(mask_token|decoder\w*|dino_head|ibot_head|lm_head|student|momentum_encoder|encoder_k|queue\w*|predictor|projectors?|'
    r'projection_head|prototypes|local_cls_norm|text|logit_scale|logit_bias)(\.|$)')
CHUNK = re.compile(r'blocks\.\d+\.(?=\d+\.)')  # blocks.CHUNK.BLOCK of DINOv2's training, where BLOCK counts through all chunks
CLASSIFIER = re.compile(r'(heads?|head_dist|fc|classifier|pre_logits)\.')
# Tensors that follow from the settings of a network. Its code computes them.
CONSTANT = re.compile(
    r'(.+\.)?(rope_embed\.periods|rope\.freqs_(sin|cos)|bias_mask|attn_mask|relative_coords_table|relative_position_index)$')
ADVICE = {  # for a part that all unknown names have
    'fc_norm.': "its network has average pooling: build one with global_pool='avg' (docs/training.md)",
    '.attn.qkv.bias': 'its attention has biases: use the --model_name that ends in _qkvb (docs/training.md)'}


class Fit(NamedTuple):
    """How the weights of a file fit a network. The lists contain names of tensors."""
    state: State  # the weights, by the names of the network
    loaded: list[str]
    left_out: list[str]  # of the file
    new: list[str]  # of the network
    misfits: list[str]  # of the network: missing in the file, or of another shape
    unknown: list[str]  # of the file: not in the network, or lost in the conversion
    resized: list[str]  # which embeddings timm resized, in words
    head: str  # name of the classifier
    entry: str  # of the file, if several contain weights

    @property
    def new_classifier(self) -> bool:
        return any(name.startswith(f'{self.head}.') for name in self.new)

    @property
    def n_problems(self) -> int:
        return len(self.misfits) + len(self.unknown)

    def describe(self) -> str:
        loaded = f"{counted(len(self.loaded), 'tensor')} loaded" + (f" from '{self.entry}'" if self.entry else '')
        groups = [f'{what}: {self._groups(names)}' for what, names in (('left out', self.left_out), ('new', self.new)) if names]
        return '; '.join([loaded, *groups, *self.resized])

    def _groups(self, names: list[str]) -> str:
        """['mask_token', 'decoder_embed.weight', 'decoder_embed.bias'] -> 'mask_token (1 tensor), decoder (2 tensors)'"""
        groups = Counter(self.head if name.startswith(f'{self.head}.') else re.split(r'\.|(?<=^decoder)_', name)[0] for name in names)
        return ', '.join(f"{group} ({counted(n, 'tensor')})" for group, n in groups.items())


def load_file(model: nn.Module, path: str, new_classifier: bool = False) -> Fit:
    """Load the weights in `path` (see `read_weights_file`) into `model`, a network built by `as_arch`.

    The names in the file may have one or more of PREFIXES, or be those of another library that timm converts for this type of network.
    The classifier is loaded as a whole or not at all. With `new_classifier`, it is never loaded. Raises `InputError` if the file cannot be
    read or does not fit.
    """
    fits = []
    for fit in _fits(model, path, new_classifier):
        fits.append(fit)
        if not fit.n_problems:
            break
    fit = min(fits, key=lambda fit: fit.n_problems)
    if fit.n_problems:
        problem = describe_misfit(model.state_dict(), fit.state, path, misfits=fit.misfits, unknown=fit.unknown)
        raise InputError('; '.join([problem, *_advice(fit.unknown)]))
    model.load_state_dict({name: fit.state[name] for name in fit.loaded}, strict=False)
    return fit


def _advice(unknown: list[str]) -> list[str]:
    return [advice for part, advice in ADVICE.items() if unknown and all(part in name for name in unknown)]


def _fits(model: nn.Module, path: str, new_classifier: bool) -> Iterator[Fit]:
    """Yield the fit of the weights in `path` with all prefixes, then with one less each time: as timm converts them, and as they are."""
    file = read_weights_file(path)
    convert = get_converter(model, file.im_size)
    for given in _readings(file.state, path):
        if converted := convert(given):
            fit = _fit(model, converted, get_lost(convert, given, converted), new_classifier)
            yield fit._replace(resized=describe_resized(model, given, converted), entry=file.entry)
        yield _fit(model, given, [], new_classifier)._replace(entry=file.entry)


def _readings(state: State, path: str) -> Iterator[State]:
    """Yield `state` of the file `path` without prefixes (`_without_prefixes`), then also without the chunks of DINOv2's training."""
    plain = state
    for plain in _without_prefixes(state, path):
        yield plain
    whole = {CHUNK.sub('blocks.', name): tensor for name, tensor in plain.items()}
    if len(whole) == len(plain) and whole.keys() != plain.keys():  # other networks count the blocks of each stage from 0: not unique
        yield whole


def _without_prefixes(state: State, path: str) -> Iterator[State]:
    """Yield `state` of the file `path`, and again each time after removing a prefix of all names, apart from those that may be left out."""
    while True:
        yield state
        names = [name for name in state if not PRETRAINING.match(name) and not CLASSIFIER.match(name)]
        prefix = next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), None)
        if prefix is None:
            return
        twice = [name for name in state if prefix + name in state]
        if twice:
            raise InputError(f'{path} contains both {prefix}{twice[0]} and {twice[0]}: save its state dict without one of them')
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _fit(model: nn.Module, state: State, lost: list[str], new_classifier: bool) -> Fit:
    """Compare the weights `state` with the tensors of `model`. lost: names of further weights in the file."""
    own, head = model.state_dict(), cast(str, model.classifier_name)
    fitting = {name for name in own if name in state and state[name].shape == own[name].shape}
    of_head = [name for name in own | state if name.startswith(f'{head}.')]
    pooled_norm = [name for name in own if name.startswith('fc_norm.') and name not in state]  # used instead of 'norm'
    new = pooled_norm + [name for name in of_head if name in own and (new_classifier or not fitting.issuperset(of_head))]
    uncounted = not any(name.endswith('.num_batches_tracked') for name in state)  # files of torch before 0.4.1

    extra = lost + [name for name in state if name not in own or name in new]
    left_out = [name for name in extra if name in of_head or CLASSIFIER.match(name) or PRETRAINING.match(name)
                or (pooled_norm and name.startswith('norm.'))]
    return Fit(state, [name for name in own if name in fitting and name not in new], left_out, new, head=head, entry='', resized=[],
               misfits=[name for name in own if name not in fitting and name not in new
                        and not (uncounted and name.endswith('.num_batches_tracked'))],
               unknown=[name for name in extra if name not in left_out and not CONSTANT.match(name)])
