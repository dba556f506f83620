"""Initial weights from a file (--init PATH), in the forms in which others publish networks: RETFound, MAE, DINO, MoCo, timm, ...

Such a file may contain more than the network, such as the decoder of a pre-training or another classifier, and its tensors may have other
names. timm renames them and resizes position embeddings. Every tensor of the network must then be in the file, except for the
classifier and a norm of pooled features. Anything unknown in the file is an error.
"""
import contextlib
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from torch import nn

from models.weights import describe_misfit
from models.weights_file import State, WeightsFile, read_weights_file
from utils.common import InputError, counted

PREFIXES = ('module.', '_orig_mod.', 'model.', 'teacher.', 'backbone.', 'encoder.', 'base_encoder.', 'encoder_q.')
# Names that may be left out: what only a pre-training needs, and classifiers
PRETRAINING = re.compile(
    r'(mask_token|decoder\w*|dino_head|ibot_head|student|momentum_encoder|encoder_k|queue\w*|predictor|projector)(\.|$)')
CLASSIFIER = re.compile(r'(heads?|head_dist|fc|classifier)\.')
PATCHES, POSITIONS = 'patch_embed.proj.weight', 'pos_embed'


class Fit(NamedTuple):
    """How the weights of a file fit a network. The lists contain names of tensors."""
    state: State  # the weights, by the names of the network
    loaded: list[str]
    left_out: list[str]  # of the file
    new: list[str]  # of the network
    wrong: list[str]  # of the network: missing in the file, or of another shape
    strange: list[str]  # of the file: unknown
    resized: list[str]  # which embeddings timm resized, in words
    head: str  # name of the classifier

    @property
    def new_classifier(self) -> bool:
        return any(name.startswith(f'{self.head}.') for name in self.new)

    def describe(self) -> str:
        groups = [f'{what}: {self._groups(names)}' for what, names in (('left out', self.left_out), ('new', self.new)) if names]
        return '; '.join([f"{counted(len(self.loaded), 'tensor')} loaded", *groups, *self.resized])

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
    file = read_weights_file(path)
    fits = [_fit(model, given, state, new_classifier=new_classifier) for given, state in _forms(model, file)]
    fit = min(fits, key=lambda fit: len(fit.wrong) + len(fit.strange))
    if fit.wrong or fit.strange:
        pooled = any(name.startswith('fc_norm.') for name in fit.strange)
        raise InputError(describe_misfit(model.state_dict(), fit.state, path, wrong=fit.wrong, strange=fit.strange) + (
            "; its network has average pooling: build one with global_pool='avg' (docs/training.md)" if pooled else ''))
    model.load_state_dict({name: fit.state[name] for name in fit.loaded}, strict=False)
    return fit


def _forms(model: nn.Module, file: WeightsFile) -> Iterator[tuple[State, State]]:
    """Yield pairs (weights by their names in the file, weights by those of `model`): with all prefixes, then with one less each time. The
    names of `model` are those that timm converts to, or the same as in the file."""
    convert = _timm_filter(model)
    if convert and file.im_size:
        model.pretrained_model_args = {'img_size': file.im_size}  # type: ignore[assignment]  # from here timm takes the old image size
    given: State | None = file.state
    while given is not None:
        converted = None
        if convert:
            # It raises various errors for weights of other networks, and prints for DINOv3.
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                converted = convert(dict(given), model)
        yield from ((given, state) for state in (converted, given) if state is not None)
        given = _without_prefix(given)


def _timm_filter(model: nn.Module) -> Callable[[State, nn.Module], State] | None:
    """Return timm's function that converts published weights for networks such as `model`, if there is one."""
    module = next((cls.__module__ for cls in type(model).__mro__ if cls.__module__.startswith('timm.models.')), None)
    return getattr(sys.modules[module], 'checkpoint_filter_fn', None) if module else None


def _without_prefix(state: State) -> State | None:
    """Remove the prefix that all names have, apart from those that may be left out. None if there is no such prefix in PREFIXES."""
    names = [name for name in state if not PRETRAINING.match(name) and not CLASSIFIER.match(name)]
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return None


def _fit(model: nn.Module, given: State, state: State, *, new_classifier: bool) -> Fit:
    """Compare `state`, which are the weights `given` after conversion, with the tensors of `model`."""
    own, head = model.state_dict(), cast(str, model.classifier_name)
    fitting = {name for name in own if name in state and state[name].shape == own[name].shape}
    of_head = [name for name in own | state if name.startswith(f'{head}.')]
    pooled_norm = [name for name in own if name.startswith('fc_norm.') and name not in state]  # used instead of 'norm'
    new = pooled_norm + [name for name in of_head if name in own and (new_classifier or not fitting.issuperset(of_head))]

    left_out = [name for name in given | state if name not in own and PRETRAINING.match(name)]
    left_out += [name for name in state if (name not in own or name in new) and (
        name in of_head or CLASSIFIER.match(name) or (pooled_norm and name.startswith('norm.')))]
    return Fit(state, [name for name in own if name in fitting and name not in new], left_out, new, head=head,
               wrong=[name for name in own if name not in fitting and name not in new],
               strange=[name for name in state if name not in own and name not in left_out],
               resized=_resized(model, given, state))


def _resized(model: nn.Module, given: State, state: State) -> list[str]:
    """Describe how timm has resized the embeddings of the patches and of their positions."""
    grid = getattr(getattr(model, 'patch_embed', None), 'grid_size', None)
    if not grid or not all(name in weights for name in (PATCHES, POSITIONS) for weights in (given, state)):
        return []
    kernel, new_kernel = (tuple(weights[PATCHES].shape[2:]) for weights in (given, state))
    if given[POSITIONS] is state[POSITIONS]:
        old_grid = tuple(grid)
    elif size := getattr(model, 'pretrained_model_args', {}).get('img_size'):
        old_grid = size[0] // kernel[0], size[1] // kernel[1]
    else:  # timm takes it for a square, and few of the tokens are not patches
        old_grid = 2 * (math.isqrt(given[POSITIONS].shape[1]),)
    pairs = ('patch', kernel, new_kernel), ('position', old_grid, tuple(grid))
    return ['{} embedding resized from {}x{} to {}x{}'.format(what, *old, *new) for what, old, new in pairs if old != new]
