"""Pickles of CIFAR's form, read without a class or function of another library, and within limits of memory."""
import io
import pickle
import pickletools

import numpy as np

PIXELS = 3 * 32 * 32
MAX_OPCODES = 5_000_000  # the largest published file, the training images of CIFAR-100, has fewer than a tenth of them
NO_VALUES = {'PERSID', 'BINPERSID', 'INST', 'OBJ', 'NEWOBJ', 'EXT1', 'EXT2', 'EXT4'}  # opcodes that make instances of classes
# What Python 2 wrote lists, dictionaries, text, numbers and arrays with.
OPCODES = {opcode.name for opcode in pickletools.opcodes if opcode.proto <= 2} - NO_VALUES


class _ByteType:
    """Stands for `numpy.dtype`, of which CIFAR needs unsigned bytes alone."""
    __slots__ = ()

    def __init__(self, code, *_):
        if code != 'u1':
            raise pickle.UnpicklingError(f'its arrays must hold unsigned bytes (u1), not {code!r:.40}')

    def __setstate__(self, state):
        """The state of a data type says its byte order and fields: a byte has none."""


class PickledImages:
    """Stands for `numpy.core.multiarray._reconstruct`: builds `pixels`, uint8 (N, 3072), from bytes."""
    __slots__ = ('pixels',)

    def __init__(self, *_):
        self.pixels = np.empty((0, PIXELS), np.uint8)

    def __setstate__(self, state):
        _, shape, kind, by_column, content = state
        content = content.encode('latin1') if isinstance(content, str) else content  # Python 2 had one type for both
        if not isinstance(kind, _ByteType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError('its arrays must be bytes of type u1')
        if len(shape) != 2 or type(shape[0]) is not int or shape[1] != PIXELS or len(content) != shape[0] * PIXELS:
            raise pickle.UnpicklingError(f'an array of {len(content)} bytes must have the shape (N, {PIXELS}), not {shape!r:.40}')
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order='F' if by_column else 'C')


_STUBS = {('numpy.core.multiarray', '_reconstruct'): PickledImages, ('numpy', 'dtype'): _ByteType,
          ('numpy', 'ndarray'): None}  # only named, as the type to reconstruct


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _STUBS:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, not for data only')
        return _STUBS[module, name]


def read_cifar_pickle(content: bytes) -> object:
    """Return the value pickled in `content`: plain Python values and `PickledImages`. Only the two stubs of this module are called.

    A pickle is a program. Raises nearly any kind of error, such as `pickle.UnpicklingError`, if it does more than the files of CIFAR do,
    or is damaged.
    """
    for n, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise pickle.UnpicklingError(f'it holds the opcode {opcode.name}, which CIFAR does not need')
        # The table of remembered values grows to twice the highest number at once.
        if n > MAX_OPCODES or (opcode.name.endswith('PUT') and (argument or 0) > MAX_OPCODES):
            raise pickle.UnpicklingError(f'it holds more than {MAX_OPCODES:,} opcodes or values')
    return _Unpickler(io.BytesIO(content), encoding='latin1').load()
