import os

# PyTorch's OpenMP threads wait for each other by spinning for milliseconds. Where another program wants the same cores, that
# slows training more than tenfold; a shorter wait costs nothing on an idle machine. Read when torch is imported.
os.environ.setdefault('GOMP_SPINCOUNT', '20000')
