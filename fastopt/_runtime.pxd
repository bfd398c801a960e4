# A step of so few elements is over before another thread could have taken the GIL and given it back.
cdef enum:
    KEEP_GIL = 4096
