# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What the Python face is built on: the core's table of rules, its instruction sets, and the checks of the boundary.

Everything that keeps bad input away from the loops is in this file, and nothing else is: `kernels` and `engine`
call it before they hand a pointer to C.
"""

cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc
from libc.stdlib cimport qsort

from fastopt.structs cimport (
    FASTOPT_AT_LOOKAHEAD, FASTOPT_EPS_INSIDE_SQRT, FASTOPT_ERR_BUFFER, FASTOPT_ERR_HYPER, FASTOPT_ERR_OPTION, FASTOPT_F32,
    FASTOPT_F64, FASTOPT_MAX_HYPERS, FASTOPT_MAXIMIZE, FASTOPT_NESTEROV, fastopt_group, fastopt_model, fastopt_rule_info,
)

import operator

import numpy as np

from fastopt.structure import shown
from fastopt.threads import default_num_threads

cnp.import_array()

cdef extern from "fastopt_capi.h":
    ctypedef struct fastopt_capi:
        const fastopt_rule_info *(*rule)(int rule)
        const char *(*hyper_range)(const char *name)
        int (*step)(fastopt_model *model) noexcept nogil
        int (*check)(fastopt_group *group) noexcept nogil
        int (*global_norm)(fastopt_model *model) noexcept nogil
        int (*clip_grad_norm)(fastopt_model *model) noexcept nogil
        int (*get_num_threads)()
        void (*set_num_threads)(int threads)
        const char *(*isa)()
        int (*use_isa)(const char *name)
        const char *(*available_isa)(int index)
        const char *(*version)()
        const char *(*compiler)()
        const char *(*cflags)()
        const char *(*strerror)(int error)
    const fastopt_capi *fastopt_import() except NULL

cdef const fastopt_capi *core = fastopt_import()

MAX_THREADS = 256  # what the core takes larger numbers for


# ---- The table of rules. ----

_OPTION_BITS = {
    "maximize": FASTOPT_MAXIMIZE,
    "nesterov": FASTOPT_NESTEROV,
    "at_lookahead": FASTOPT_AT_LOOKAHEAD,
    "eps_inside_sqrt": FASTOPT_EPS_INSIDE_SQRT,
}


cdef class Rule:
    """One update rule as the C core's table describes it.

    Attributes
    ----------
    name : str
        The name of its functions in `fastopt.kernels` and `fastopt.reference`.
    states : tuple of str
        Its state buffers, in order; the first `required_states` are always needed.
    hypers : tuple of str
        Its hyperparameters as C takes them (`beta1`, `beta2` for `betas`), in order.
    options : dict of str to int
        Its switches and their bits.
    """

    cdef fill(self, fastopt_group *group, tuple hyper, unsigned options):
        """Writes this rule and these hyperparameters, in the table's order, into a group."""
        cdef Py_ssize_t i
        group.rule = self.index
        group.options = options
        for i in range(len(self.hypers)):
            group.hyper[i] = number(self.hypers[i], hyper[i])

    cdef fail(self, int error, const fastopt_group *group):
        """Raises what the core's answer means to a user of Python."""
        cdef double value
        cdef float narrow
        if FASTOPT_ERR_HYPER - FASTOPT_MAX_HYPERS < error <= FASTOPT_ERR_HYPER:
            name = self.hypers[FASTOPT_ERR_HYPER - error]
            value = group.hyper[FASTOPT_ERR_HYPER - error]
            found = repr(value)
            narrow = <float>value
            if group.dtype == FASTOPT_F32 and name != "step" and narrow != value and value == value:
                found += f" ({<double>narrow!r} as float32)"
            takes = core.hyper_range(name.encode()).decode()
            raise ValueError(f"{spoken(name)} must be {takes}, got {found}")
        if error == FASTOPT_ERR_OPTION and group.options & FASTOPT_NESTEROV:
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")
        if error == FASTOPT_ERR_BUFFER:
            raise ValueError(f"{self.name}: momentum_buffer must be given when momentum is not 0")
        raise RuntimeError(f"{self.name}: {core.strerror(error).decode()}")

    def __repr__(self):
        return (f"<rule {self.name}: states {self.states}, hyperparameters {self.hypers}, "
                f"options {tuple(self.options)}>")


cdef _read_table():
    cdef const fastopt_rule_info *info
    cdef Rule rule
    cdef int i = 0
    table = {}
    while True:
        info = core.rule(i)
        if info == NULL:
            return table
        rule = Rule.__new__(Rule)
        rule.index = i
        rule.name = info.name.decode()
        rule.states = tuple(info.states.decode().split(", "))
        rule.required_states = info.required_states
        rule.hypers = tuple(info.hypers.decode().split(", "))
        options = info.options.decode().lower().split(", ")
        rule.options = {option: _OPTION_BITS[option] for option in options}
        table[rule.name] = rule
        i += 1


RULES = _read_table()


cdef str spoken(str hyper):
    """The name by which Python's users know a hyperparameter of the C core."""
    return {"beta1": "betas[0]", "beta2": "betas[1]"}.get(hyper, hyper)


cdef double number(str name, object value) except? -1.0:
    try:
        if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind not in "biufO":
            raise TypeError  # NumPy would read a number from text, and leave the imaginary part behind
        return value
    except OverflowError:
        raise ValueError(f"{spoken(name)} must be a number that float64 holds, got {shown(value)}") from None
    except Exception:
        raise TypeError(f"{spoken(name)} must be a number, got {shown(value)}") from None


def as_number(str name, value):
    """`value` as a float, or the error that names it."""
    return number(name, value)


cdef double norm_bound(object max_norm) except? -1.0:
    cdef double bound = number("max_norm", max_norm)
    if not bound >= 0:
        raise ValueError(f"max_norm must be a number >= 0, got {shown(max_norm)}")
    return bound


cdef int thread_count(object threads) except -1:
    """A number of threads for the core, in which 0 stands for the default."""
    if threads is None:
        return 0
    try:
        count = operator.index(threads)
    except Exception:
        raise TypeError(f"threads must be a whole number or None, got {shown(threads)}") from None
    if count < 1:
        raise ValueError(f"threads must be >= 1, got {shown(count)}")
    return min(count, MAX_THREADS)


def pair(name, value):
    """The two numbers of a pair such as `betas`; TypeError for anything else."""
    try:
        first, second = value
    except Exception:
        raise TypeError(f"{name} must be a pair of numbers, got {shown(value)}") from None
    return first, second


# ---- The boundary. ----

cdef cnp.ndarray as_array(str name, object obj, bint writable):
    """`obj` as an array on the same memory, or the error that says what is wrong with it."""
    cdef cnp.ndarray a
    if type(obj) is not cnp.ndarray:
        obj = wrap(name, obj, writable)
    a = obj
    cdef int kind = cnp.PyArray_TYPE(a)
    if (kind != cnp.NPY_FLOAT and kind != cnp.NPY_DOUBLE) or not cnp.PyArray_ISNOTSWAPPED(a):
        raise TypeError(f"{name} has dtype {a.dtype.str if a.dtype.byteorder in '<>' else a.dtype}; "
                        "fastopt takes float32 and float64 in native byte order")
    if writable and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name} is read-only, but is to be written")
    if not cnp.PyArray_IS_C_CONTIGUOUS(a):
        raise ValueError(f"{name} is not C-contiguous (shape {obj.shape}, strides {obj.strides}); "
                         "give the array that owns the memory, or np.ascontiguousarray() of it")
    if not cnp.PyArray_ISALIGNED(a):
        raise ValueError(f"{name} is not aligned to its {a.itemsize}-byte elements; "
                         "give an aligned array (its .copy() is one)")
    return a


cdef object wrap(str name, object obj, bint writable):
    if obj is None:
        raise TypeError(f"{name} is None; expected a float32 or float64 array")
    if isinstance(obj, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask the step would ignore; give its .data")
    if isinstance(obj, np.ndarray):
        return np.asarray(obj)  # a subclass may have its own idea of reshape; the memory is the same
    try:
        return np.asarray(memoryview(obj))
    except Exception:  # whatever its own code raises; the errors below say what it is
        pass
    if not hasattr(type(obj), "__dlpack__"):
        raise TypeError(f"{name} is of type {type(obj).__name__}, which has no buffer of float32 or "
                        "float64 elements; give a NumPy array, or np.asarray() of an object that "
                        "shares its memory")
    try:
        array = np.from_dlpack(obj)  # unlike __array__, it never copies
        if writable and not array.flags.writeable:
            # Before 2.1 NumPy says that of every tensor. If __array__ is the same memory, it knows better.
            other = np.asarray(obj)
            if other.ctypes.data == array.ctypes.data:
                return other
        return array
    except Exception as error:
        raise TypeError(f"{name} is of type {type(obj).__name__} and does not share its memory: {error}") from error


cdef int same_shape(str name, cnp.ndarray a, str name_of_like, cnp.ndarray like) except -1:
    """Element type and shape as of `like`, or the error."""
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(like):
        raise TypeError(f"{name} has dtype {a.dtype}, but {name_of_like} has {like.dtype}; "
                        "all buffers of one tensor have one dtype")
    if not cnp.PyArray_SAMESHAPE(a, like):
        raise ValueError(f"{name} has shape {(<object>a).shape}, but {name_of_like} has "
                         f"{(<object>like).shape}; nothing is broadcast")
    return 0


cdef int type_of(cnp.ndarray a) noexcept:
    """The core's name for the type of an array's elements."""
    return FASTOPT_F32 if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT else FASTOPT_F64


cdef Span span_of(cnp.ndarray a, Py_ssize_t owner) noexcept:
    cdef Span span
    span.start = <const char *>cnp.PyArray_DATA(a)
    span.end = span.start + cnp.PyArray_NBYTES(a)
    span.owner = owner
    return span


cdef int by_start(const void *a, const void *b) noexcept nogil:
    cdef const Span *x = <const Span *>a
    cdef const Span *y = <const Span *>b
    return (x.start > y.start) - (x.start < y.start)


cdef int sort_apart(Span *spans, size_t count, list names, str what) except -1:
    """Sorts the places of non-empty buffers; ValueError that names the owners where one begins in another."""
    cdef size_t i
    qsort(spans, count, sizeof(Span), by_start)
    for i in range(1, count):
        if spans[i].start < spans[i - 1].end:
            first, second = sorted((spans[i - 1].owner, spans[i].owner))
            raise ValueError(f"{names[second]} shares memory with {names[first]}; every {what} needs its own")
    return 0


cdef Py_ssize_t find_overlap(Span span, const Span *spans, size_t count) noexcept nogil:
    """The index of one of these sorted, disjoint, non-empty spans that shares memory with `span`, or -1."""
    cdef size_t low = 0, high = count, middle
    if span.start == span.end:
        return -1
    while low < high:
        middle = (low + high) // 2
        if spans[middle].end <= span.start:
            low = middle + 1
        else:
            high = middle
    if low < count and spans[low].start < span.end:
        return low
    return -1


cdef void *zeroed(size_t count, size_t size) except NULL:
    """Memory full of zeros, for PyMem_Free, or MemoryError."""
    cdef void *memory = PyMem_Calloc(count or 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


# ---- The core's functions for the other modules. ----

cdef int step(fastopt_model *model) noexcept nogil:
    return core.step(model)


cdef int check(fastopt_group *group) noexcept nogil:
    return core.check(group)


cdef int global_norm(fastopt_model *model) noexcept nogil:
    return core.global_norm(model)


cdef int clip_grad_norm(fastopt_model *model) noexcept nogil:
    return core.clip_grad_norm(model)


# ---- Threads, instruction sets and build. ----

def get_num_threads():
    """How many threads a step may use, unless its optimizer says otherwise (`opt.threads`).

    At the start all cores that the process may use: those of its affinity mask, and no more than the quota of its
    control group; or what the environment variable `FASTOPT_NUM_THREADS` says. A step uses fewer where the work is not
    worth more. The number changes how fast a step is, never its result.

    Examples
    --------
    >>> fastopt.get_num_threads() >= 1
    True
    """
    return core.get_num_threads()


def set_num_threads(threads):
    """Let steps use at most so many threads from now on, in the whole process.

    Parameters
    ----------
    threads : int or None
        At least 1; 1 keeps every step on the thread that calls it. None: as at the start.

    Raises
    ------
    TypeError, ValueError
        If it is no whole number, or less than 1.

    Examples
    --------
    >>> fastopt.set_num_threads(1)
    >>> fastopt.get_num_threads()
    1
    >>> fastopt.set_num_threads(None)
    """
    core.set_num_threads(thread_count(threads) or default_num_threads())


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
    while core.available_isa(i) != NULL:
        names.append(core.available_isa(i).decode())
        i += 1
    return tuple(names)


def isa():
    """The instruction set in use: the widest available, unless `FASTOPT_ISA` or `use_isa` chose another.

    It changes how fast a step is, never its result.

    Examples
    --------
    >>> fastopt.isa() in fastopt.available_isas()
    True
    """
    return core.isa().decode()


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
    core.use_isa(name.encode())


def build_info():
    """What was compiled: version, compiler and flags of the C core."""
    return {
        "version": core.version().decode(),
        "compiler": core.compiler().decode(),
        "cflags": core.cflags().decode(),
    }


if core.isa() == NULL:
    import os
    raise ValueError(f"the environment variable FASTOPT_ISA is {os.environ.get('FASTOPT_ISA')!r}; it must "
                     f"be one of {', '.join(available_isas())} on this machine, or unset")

set_num_threads(None)
