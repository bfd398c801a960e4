# cython: language_level=3
"""Threads, instruction sets and the build of the C core, which are settings of the whole process."""

from fastopt cimport capi
from fastopt._boundary cimport thread_count

import os

from fastopt._threads import default_num_threads

__all__ = ["available_isas", "build_info", "get_num_threads", "isa", "set_num_threads", "use_isa"]


def get_num_threads():
    """How many threads a step may use, unless its optimizer says otherwise (`opt.threads`).

    The default is the environment variable `FASTOPT_NUM_THREADS` or, without it, the number of cores in the process's
    affinity mask, limited by the quota of its control group. A small step uses fewer threads. The number changes how
    fast a step is, never its result.

    Examples
    --------
    >>> fastopt.get_num_threads() >= 1
    True
    """
    return capi.get_num_threads()


def set_num_threads(threads):
    """Set how many threads a step may use, in the whole process.

    Parameters
    ----------
    threads : int or None
        At least 1; 1 keeps every step on the calling thread. None: the default.

    Raises
    ------
    TypeError, ValueError
        If `threads` is not a whole number, or is less than 1.

    Examples
    --------
    >>> fastopt.set_num_threads(1)
    >>> fastopt.get_num_threads()
    1
    >>> fastopt.set_num_threads(None)
    """
    capi.set_num_threads(thread_count(threads) or default_num_threads())


def available_isas():
    """The instruction sets that can run on this machine, narrowest first.

    Returns
    -------
    tuple of str
        `("baseline",)`, and on x86-64 also `"avx2"` and `"avx512"` where the processor and the system have them.

    Examples
    --------
    >>> fastopt.available_isas()[0]
    'baseline'
    """
    cdef int i = 0
    names = []
    while capi.available_isa(i) != NULL:
        names.append(capi.available_isa(i).decode())
        i += 1
    return tuple(names)


def isa():
    """The instruction set in use: the widest available, unless `FASTOPT_ISA` or `use_isa` chose another.

    The instruction set changes how fast a step is, never its result.

    Examples
    --------
    >>> fastopt.isa() in fastopt.available_isas()
    True
    """
    return capi.isa().decode()


def use_isa(name):
    """Use the named instruction set from the next step on, in all threads.

    Parameters
    ----------
    name : str
        One of `available_isas()`.

    Raises
    ------
    ValueError
        If this machine has no instruction set of that name.

    Examples
    --------
    >>> fastopt.use_isa("baseline")
    >>> fastopt.isa()
    'baseline'
    >>> fastopt.use_isa(fastopt.available_isas()[-1])
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if name not in available_isas():
        raise ValueError(f"name must be one of {', '.join(available_isas())} on this machine, "
                         f"got {name!r}")
    capi.use_isa(name.encode())


def build_info():
    """What was compiled: version, compiler and flags of the C core."""
    return {
        "version": capi.version().decode(),
        "compiler": capi.compiler().decode(),
        "cflags": capi.cflags().decode(),
    }


if capi.isa() == NULL:
    raise ValueError(f"the environment variable FASTOPT_ISA is {os.environ.get('FASTOPT_ISA')!r}; it must "
                     f"be one of {', '.join(available_isas())} on this machine, or unset")

set_num_threads(None)
