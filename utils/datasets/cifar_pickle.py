"""Read the pickles of CIFAR safely: no class or function of another library is called, and memory is limited."""
import io
import pickle
import pickletools

import numpy as np

PIXELS = 3 * 32 * 32
MAX_OPCODES = 5_000_000  # the largest published file, the training images of CIFAR-100, needs fewer than a tenth of these
NO_VALUES = {'PERSID', 'BINPERSID', 'INST', 'OBJ', 'NEWOBJ', 'EXT1', 'EXT2', 'EXT4'}  # opcodes that create instances of classes
# The opcodes that Python 2 uses for lists, dictionaries, text, numbers and arrays.
OPCODES = {opcode.name for opcode in pickletools.opcodes if opcode.proto <= 2} - NO_VALUES


class _ByteType:
    """Replaces `numpy.dtype`; CIFAR only needs unsigned bytes."""
    __slots__ = ()

    def __init__(self, code, *_):
        if code != 'u1':
            raise pickle.UnpicklingError(f'its arrays must hold unsigned bytes (u1), not {code!r:.40}')

    def __setstate__(self, state):
        """Ignore the state, which gives the byte order and fields of a data type: bytes have none."""


class PickledImages:
    """Replaces `numpy.core.multiarray._reconstruct`: builds `pixels`, uint8 (N, 3072), from bytes."""
    __slots__ = ('pixels',)

    def __init__(self, *_):
        self.pixels = np.empty((0, PIXELS), np.uint8)

    def __setstate__(self, state):
        _, shape, kind, by_column, content = state
        content = content.encode('latin1') if isinstance(content, str) else content  # Python 2 has one type for text and bytes
        if not isinstance(kind, _ByteType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError('its arrays must be bytes of type u1')
        if len(shape) != 2 or type(shape[0]) is not int or shape[1] != PIXELS or len(content) != shape[0] * PIXELS:
            raise pickle.UnpicklingError(f'an array of {len(content)} bytes must have the shape (N, {PIXELS}), not {shape!r:.40}')
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order='F' if by_column else 'C')


_STUBS = {('numpy.core.multiarray', '_reconstruct'): PickledImages, ('numpy', 'dtype'): _ByteType,
          ('numpy', 'ndarray'): None}  # named as the type to reconstruct, but never called


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _STUBS:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, which is not plain data')
        return _STUBS[module, name]


def read_cifar_pickle(content: bytes) -> object:
    """Return the value pickled in `content`: plain Python values and `PickledImages`. Only the two stubs of this module are called.

    A pickle is a program. If it is damaged or does more than the files of CIFAR do, nearly any exception is raised, such as
    `pickle.UnpicklingError`.
    """
    for n, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise pickle.UnpicklingError(f'it holds the opcode {opcode.name}, which CIFAR does not need')
        # The memo of the unpickler grows at once to twice the highest index.
        if n > MAX_OPCODES or (opcode.name.endswith('PUT') and (argument or 0) > MAX_OPCODES):
            raise pickle.UnpicklingError(f'it holds more than {MAX_OPCODES:,} opcodes or values')
    return _Unpickler(io.BytesIO(content), encoding='latin1').load()
