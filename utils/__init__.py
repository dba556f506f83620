import ctypes
import os
import sys

__version__ = '0.2.0'

# PyTorch's OpenMP threads wait for each other by spinning for milliseconds. Where another program wants the same cores, that
# slows training more than tenfold; a shorter wait costs nothing on an idle machine. Read when torch is imported.
os.environ.setdefault('GOMP_SPINCOUNT', '20000')

# glibc returns large blocks to the kernel as soon as they are freed and takes them back, page by page, in the next training
# step: a quarter of the step on a CPU. M_MMAP_THRESHOLD (its maximum), M_TRIM_THRESHOLD and M_TOP_PAD keep them instead.
if sys.platform == 'linux' and (mallopt := getattr(ctypes.CDLL(None), 'mallopt', None)):  # absent in musl
    for parameter, n_bytes in ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20)):
        mallopt(parameter, n_bytes)
