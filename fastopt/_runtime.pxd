# A step of at most this many elements keeps the GIL: it ends before another thread could take the GIL and return it.
cdef enum:
    KEEP_GIL = 4096
