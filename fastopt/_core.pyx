# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What the Python face is built on: the core's table of rules, its instruction sets, and the checks of the boundary.

Everything that keeps bad input away from the loops is in this file, and nothing else is: `kernels` and `engine`
call it before they hand a pointer to C.
"""

cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc
from cpython.ref cimport PyObject
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from fastopt.structs cimport (
    FASTOPT_BF16, FASTOPT_ERR_BUFFER, FASTOPT_ERR_HYPER, FASTOPT_ERR_OPTION, FASTOPT_F16, FASTOPT_F32, FASTOPT_F64,
    FASTOPT_MAX_HYPERS, FASTOPT_MAX_STATES, fastopt_error, fastopt_group, fastopt_layout, fastopt_model,
    fastopt_rule_info, fastopt_tensor,
)

import operator

import numpy as np

from fastopt.structure import shown
from fastopt.threads import default_num_threads

cnp.import_array()

cdef extern from "numpy/ndarraytypes.h":
    enum:
        NPY_HALF
        NPY_USERDEF

cdef extern from "fastopt_capi.h":
    ctypedef struct fastopt_capi:
        const fastopt_rule_info *(*rule)(int rule)
        int (*step)(fastopt_model *model) noexcept nogil
        int (*check)(fastopt_model *model) noexcept nogil
        int (*check_hyper)(int rule, int type, int index, double value) noexcept nogil
        size_t (*workspace)(const fastopt_model *model) noexcept nogil
        int (*global_norm)(fastopt_model *model) noexcept nogil
        int (*clip_grad_norm)(fastopt_model *model) noexcept nogil
        size_t (*describe)(const fastopt_error *error, char *text, size_t size)
        int (*get_num_threads)()
        void (*set_num_threads)(int threads)
        const char *(*isa)()
        int (*use_isa)(const char *name)
        const char *(*available_isa)(int index)
        const char *(*version)()
        const char *(*compiler)()
        const char *(*cflags)()
    const fastopt_capi *fastopt_import() except NULL

cdef const fastopt_capi *core = fastopt_import()

MAX_THREADS = 256  # the core clamps larger numbers to it


# ---- The table of rules. ----

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
    columns : dict of str to int
        The places in `hypers` of those that the groups of an optimizer have; of the two `betas` that of the first.
    numbers : dict of str to int
        Of those that Python's users set one by one, and that call for no state buffer.
    """

    cdef fill(self, fastopt_group *group, tuple hyper, unsigned options):
        """Writes this rule and these hyperparameters, in the table's order, into a group."""
        cdef Py_ssize_t i
        group.size = sizeof(fastopt_group)
        group.rule = self.index
        group.options = options
        for i in range(len(self.hypers)):
            group.hyper[i] = number(self.hypers[i], hyper[i])

    cdef fail(self, const fastopt_error *error, str where=""):
        """Raises what the core's answer means to a user of Python; `where` says of which group, if there are several."""
        cdef char text[300]
        cdef float narrow = <float>error.value
        name = "" if error.name == NULL else error.name.decode()
        takes = "" if error.takes == NULL else error.takes.decode()
        if FASTOPT_ERR_HYPER - FASTOPT_MAX_HYPERS < error.code <= FASTOPT_ERR_HYPER:
            found = repr(error.value)
            if error.type == FASTOPT_F32 and name != "step" and narrow != error.value and error.value == error.value:
                found += f" ({<double>narrow!r} as float32)"
            if narrow == 0 and error.value != 0:
                takes += " that float32 does not round to 0"
            raise ValueError(f"{spoken(name)}{where} must be {takes}, got {found}")
        if error.code == FASTOPT_ERR_OPTION and takes:
            raise ValueError(f"{name}{where} needs {takes}")
        if error.code == FASTOPT_ERR_BUFFER and self.needed_by.get(name) in self.hypers:
            raise ValueError(f"{self.name}: {name} must be given when {self.needed_by[name]} is not 0")
        core.describe(error, text, sizeof(text))
        raise RuntimeError((<bytes>text).decode())

    def __repr__(self):
        return (f"<rule {self.name}: states {self.states}, hyperparameters {self.hypers}, "
                f"options {tuple(self.options)}>")


cdef _read_table():
    cdef const fastopt_rule_info *info
    cdef Rule rule
    cdef int i = 0, j
    table = {}
    while True:
        info = core.rule(i)
        if info == NULL:
            return table
        rule = Rule.__new__(Rule)
        rule.index = i
        rule.name = info.name.decode()
        rule.required_states = info.required_states
        rule.sums = info.sums
        rule.states = tuple([info.states[j].name.decode() for j in range(info.state_count)])
        rule.hypers = tuple([info.hypers[j].name.decode() for j in range(info.hyper_count)])
        rule.options = {info.options[j].name.decode(): info.options[j].bit for j in range(info.option_count)}
        rule.needed_by = {
            info.states[j].name.decode(): info.states[j].needed_by.decode()
            for j in range(info.state_count) if info.states[j].needed_by != NULL
        }
        rule.columns = {
            "betas" if name == "beta1" else name: j for j, name in enumerate(rule.hypers)
            if name not in ("step", "beta2", "grad_scale")
        }
        calling = ("betas", *rule.needed_by.values())
        rule.numbers = {name: j for name, j in rule.columns.items() if name not in calling}
        table[rule.name] = rule
        i += 1


RULES = _read_table()


cdef str spoken(str hyper):
    """The name by which Python's users know a hyperparameter of the C core."""
    return {"beta1": "betas[0]", "beta2": "betas[1]"}.get(hyper, hyper)


cdef double number(str name, object value) except? -1.0:
    if type(value) is float:
        return value
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


cpdef tuple pair(str name, object value):
    """The two numbers of a pair such as `betas`; TypeError for anything else."""
    if type(value) is tuple and len(<tuple>value) == 2:
        return value
    try:
        first, second = value
    except Exception:
        raise TypeError(f"{name} must be a pair of numbers, got {shown(value)}") from None
    return first, second


# ---- The boundary. ----

# The number by which NumPy knows ml_dtypes.bfloat16, once an array of it was seen.
cdef int bfloat16 = -1


cdef int type_of(cnp.ndarray a) noexcept:
    """The core's name for the type of an array's elements; 0: it has none."""
    global bfloat16
    cdef int kind = cnp.PyArray_TYPE(a)
    if kind == cnp.NPY_FLOAT:
        return FASTOPT_F32
    if kind == cnp.NPY_DOUBLE:
        return FASTOPT_F64
    if kind == NPY_HALF:
        return FASTOPT_F16
    if kind == bfloat16:
        return FASTOPT_BF16
    if kind >= NPY_USERDEF and is_bfloat16(a):
        bfloat16 = kind
        return FASTOPT_BF16
    return 0


cdef bint is_bfloat16(cnp.ndarray a) noexcept:
    try:
        return a.dtype.name == "bfloat16" and a.dtype.type.__module__ == "ml_dtypes" and a.dtype.itemsize == 2
    except Exception:
        return False


cdef cnp.ndarray as_array(str name, object obj, bint writable, bint gradient):
    """`obj` as an array on the same memory, or the error that says what is wrong with it.

    A parameter or state buffer is float32 or float64. Where it is to be written, each of its elements must have a place
    of its own. A gradient may also be float16 or bfloat16.
    """
    cdef cnp.ndarray a
    cdef int kind
    if type(obj) is not cnp.ndarray:
        obj = wrap(name, obj, writable, gradient)
    a = obj
    kind = type_of(a)
    if kind == 0 or not (gradient or kind == FASTOPT_F32 or kind == FASTOPT_F64) or not cnp.PyArray_ISNOTSWAPPED(a):
        raise TypeError(f"{name} has dtype {a.dtype.str if a.dtype.byteorder in '<>' else a.dtype}; "
                        f"fastopt takes {taken(gradient)}{' gradients' if gradient else ''} in native byte order")
    if writable and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name} is read-only, but is to be written")
    if not cnp.PyArray_ISALIGNED(a):
        raise ValueError(f"{name} is not aligned to its {a.itemsize}-byte elements; its memory must begin at a multiple of "
                         f"{a.itemsize} bytes, and its strides, {(<object>a).strides}, must be multiples of that")
    if writable and not cnp.PyArray_IS_C_CONTIGUOUS(a) and not visits_once(a):
        raise ValueError(f"{name} has several elements in one place (shape {(<object>a).shape}, strides "
                         f"{(<object>a).strides}), but is to be written; each element needs its own")
    return a


cdef bint visits_once(cnp.ndarray a):
    """Whether no two elements of an array share memory."""
    cdef Py_ssize_t reach = 0, step, i
    axes = sorted([(abs(a.strides[i]), a.shape[i]) for i in range(cnp.PyArray_NDIM(a)) if a.shape[i] != 1])
    if cnp.PyArray_SIZE(a) < 2:
        return True
    for step, size in axes:
        if step < reach + a.itemsize:
            break
        reach += step * (size - 1)
    else:
        return True
    if sum([step * (size - 1) for step, size in axes]) < (cnp.PyArray_SIZE(a) - 1) * a.itemsize:
        return False
    # Rows may lie in each other's gaps. That is rare, so it may cost memory.
    offsets = sum(np.ix_(*[np.arange(size, dtype=np.int64) * step for step, size in axes]))
    offsets = np.sort(offsets, axis=None)
    return bool((np.diff(offsets) >= a.itemsize).all())


cdef str taken(bint gradient):
    """The types that an array may have, in words."""
    return "float16, bfloat16, float32 and float64" if gradient else "float32 and float64"


cdef object wrap(str name, object obj, bint writable, bint gradient):
    if obj is None:
        raise TypeError(f"{name} is None; expected an array; fastopt takes {taken(gradient)}")
    if isinstance(obj, (int, float, complex, np.generic)):
        raise TypeError(f"{name} is a number of type {type(obj).__name__}, but must be an array; np.array(x) makes one "
                        "without dimensions")
    if isinstance(obj, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask the step would ignore; give its .data")
    if isinstance(obj, np.ndarray):
        return np.asarray(obj)  # a subclass may have its own idea of reshape; the memory is the same
    try:
        return np.asarray(memoryview(obj))
    except Exception:  # whatever its own code raises; the errors below say what it is
        pass
    if not hasattr(type(obj), "__dlpack__"):
        raise TypeError(f"{name} is of type {type(obj).__name__}, which has no buffer of elements; give a NumPy array; "
                        f"fastopt takes {taken(gradient)}")
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
    if not cnp.PyArray_SAMESHAPE(a, like):
        raise ValueError(f"{name} has shape {(<object>a).shape}, but {name_of_like} has "
                         f"{(<object>like).shape}; nothing is broadcast")
    return 0


cdef int same_kind(str name, cnp.ndarray a, str name_of_like, cnp.ndarray like) except -1:
    """Element type and shape as of `like`, or the error."""
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(like):
        raise TypeError(f"{name} has dtype {a.dtype}, but {name_of_like} has {like.dtype}; "
                        "a parameter and its state have one dtype")
    return same_shape(name, a, name_of_like, like)


cdef cnp.ndarray as_gradient(str name, object obj, bint writable, bint numbers, str name_of_like, cnp.ndarray like):
    """`obj` as an array of the shape of `like`. With `numbers` one will do where that has no dimensions."""
    cdef cnp.ndarray a
    if numbers and cnp.PyArray_NDIM(like) == 0 and type(obj) is not cnp.ndarray:
        if isinstance(obj, (float, int, np.integer)) and not isinstance(obj, bool):
            obj = np.asarray(number(name, obj))
        elif isinstance(obj, np.generic):
            obj = np.asarray(obj)  # NumPy exports no buffer of bfloat16
    a = as_array(name, obj, writable, True)
    same_shape(name, a, name_of_like, like)
    return a


# ---- Layouts. ----

cdef bint lay_gradient(fastopt_layout *layout, cnp.ndarray grad, int type) noexcept:
    """Writes how a gradient is stored into a layout; False if the core needs none for it.

    The layout points into the array, which must stay as it is: a view that nobody else has.
    """
    cdef int kind = type_of(grad)
    cdef bint contiguous = cnp.PyArray_IS_C_CONTIGUOUS(grad)
    layout.size = sizeof(fastopt_layout)
    layout.g_type = kind
    layout.g_strides = NULL if contiguous else <const Py_ssize_t *>cnp.PyArray_STRIDES(grad)
    if not contiguous:
        layout.ndim = cnp.PyArray_NDIM(grad)
        layout.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(grad)
    return kind != type or not contiguous


cdef const Py_ssize_t *strides_of(cnp.ndarray a) noexcept:
    """The strides of an array, for a layout; NULL if it is contiguous."""
    return NULL if cnp.PyArray_IS_C_CONTIGUOUS(a) else <const Py_ssize_t *>cnp.PyArray_STRIDES(a)


def part_of(cnp.ndarray arena, Py_ssize_t start, cnp.ndarray like):
    """A contiguous array of the type and shape of `like` in the memory of another, from a byte on."""
    cdef cnp.ndarray part = cnp.PyArray_SimpleNewFromData(
        cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like), cnp.PyArray_TYPE(like), cnp.PyArray_BYTES(arena) + start)
    cnp.set_array_base(part, arena)
    return part


cdef list views_of(list buffers):
    """Views of arrays, of which some may be None. Where a comprehension's list cannot grow, Cython frees the last twice."""
    cdef list views = [None] * len(buffers)
    cdef Py_ssize_t slot
    for slot in range(len(buffers)):
        if buffers[slot] is not None:
            views[slot] = buffers[slot][...]
    return views


cdef void copy_elements(cnp.ndarray target, cnp.ndarray source) noexcept:
    """Copies an array's elements into another of its shape and dtype. Allocates nothing and runs no Python."""
    cdef Py_ssize_t index[64]
    cdef int ndim = cnp.PyArray_NDIM(target), d
    cdef size_t item = cnp.PyArray_ITEMSIZE(target)
    cdef char *to = <char *>cnp.PyArray_DATA(target)
    cdef const char *of = <const char *>cnp.PyArray_DATA(source)
    cdef Py_ssize_t i
    if cnp.PyArray_IS_C_CONTIGUOUS(target) and cnp.PyArray_IS_C_CONTIGUOUS(source):
        memcpy(to, of, cnp.PyArray_NBYTES(target))
        return
    memset(index, 0, sizeof(index))
    for i in range(cnp.PyArray_SIZE(target)):
        memcpy(to, of, item)
        for d in range(ndim - 1, -1, -1):
            index[d] += 1
            to += cnp.PyArray_STRIDES(target)[d]
            of += cnp.PyArray_STRIDES(source)[d]
            if index[d] < cnp.PyArray_DIMS(target)[d]:
                break
            to -= index[d] * cnp.PyArray_STRIDES(target)[d]
            of -= index[d] * cnp.PyArray_STRIDES(source)[d]
            index[d] = 0


# ---- Overlap. ----

cdef Span span_of(cnp.ndarray a, Py_ssize_t owner) noexcept:
    """From an array's first byte to its last; between them there may be gaps."""
    cdef Span span
    cdef Py_ssize_t step
    cdef int d
    span.start = <const char *>cnp.PyArray_DATA(a)
    span.owner = owner
    span.array = <PyObject *>a
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        span.end = span.start + cnp.PyArray_NBYTES(a)
        return span
    span.end = span.start + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        step = (cnp.PyArray_DIMS(a)[d] - 1) * cnp.PyArray_STRIDES(a)[d]
        if step < 0:
            span.start += step
        else:
            span.end += step
    return span


cdef bint share_memory(Span one, Span other) except -1:
    """Whether two arrays whose spans overlap have an element in one place."""
    if cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>one.array) and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>other.array):
        return True
    try:
        return np.shares_memory(<object>one.array, <object>other.array, max_work=1_000_000)
    except np.exceptions.TooHardError:
        return True  # it cannot be told, so it is not relied upon


cdef int by_start(const void *a, const void *b) noexcept nogil:
    cdef const Span *x = <const Span *>a
    cdef const Span *y = <const Span *>b
    return (x.start > y.start) - (x.start < y.start)


cdef int sort_apart(Span *spans, size_t count, list names, str what) except -1:
    """Sorts the places of non-empty buffers; ValueError that names the owners where two share memory.

    Returns whether each place ends before the next begins, which they need not where there are gaps in them. Without
    `names` they are known to share none: then nothing here runs Python or fails.
    """
    cdef size_t i, j, first = 0  # from `first` on, places may reach as far as the next one
    cdef const char *reach = NULL
    cdef bint disjoint = True
    qsort(spans, count, sizeof(Span), by_start)
    for i in range(count):
        if spans[i].start >= reach:
            first = i
        for j in range(first, i):
            if spans[j].end > spans[i].start:
                disjoint = False
                if names is not None and share_memory(spans[j], spans[i]):
                    one, other = sorted((spans[j].owner, spans[i].owner))
                    raise ValueError(f"{names[other]} shares memory with {names[one]}; every {what} needs its own")
        if spans[i].end > reach:
            reach = spans[i].end
    return disjoint


cdef bint lie_apart(const Span *spans, size_t count) noexcept:
    """Whether none of a few places reaches into another."""
    cdef size_t i, j
    for i in range(count):
        for j in range(i):
            if spans[i].start < spans[j].end and spans[j].start < spans[i].end:
                return False
    return True


cdef Py_ssize_t find_overlap(Span span, const Span *spans, size_t count, bint disjoint) except -2:
    """The index of one of these sorted, non-empty spans that shares memory with `span`, or -1."""
    cdef size_t low = 0, high = count, middle
    if span.start == span.end:
        return -1
    if disjoint:  # then one that ends later also begins later
        while low < high:
            middle = (low + high) // 2
            if spans[middle].end <= span.start:
                low = middle + 1
            else:
                high = middle
    while low < count and spans[low].start < span.end:
        if spans[low].end > span.start and share_memory(span, spans[low]):
            return low
        low += 1
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


cdef int check(fastopt_model *model) noexcept nogil:
    return core.check(model)


cdef int check_hyper(int rule, int type, int index, double value) noexcept nogil:
    return core.check_hyper(rule, type, index, value)


cdef size_t workspace(const fastopt_model *model) noexcept nogil:
    return core.workspace(model)


cdef int global_norm(fastopt_model *model) noexcept nogil:
    return core.global_norm(model)


cdef int clip_grad_norm(fastopt_model *model) noexcept nogil:
    return core.clip_grad_norm(model)


# ---- One tensor: what `kernels` does. ----

ctypedef fused real:
    float
    double


cdef void place(real[::1] p, const real[::1] g, list states, fastopt_tensor *tensor):
    """From typed memoryviews to pointers."""
    cdef real[::1] buffer
    cdef Py_ssize_t i
    tensor.n = p.shape[0]
    if tensor.n == 0:
        return
    tensor.p = &p[0]
    tensor.g = &g[0]
    for i in range(len(states)):
        if states[i] is not None:
            buffer = flat(states[i])
            tensor.state[i] = &buffer[0]


cdef void place_strided(cnp.ndarray p, cnp.ndarray g, list states, fastopt_tensor *tensor, fastopt_layout *layout):
    """The same for buffers that are not all contiguous and of one type."""
    cdef Py_ssize_t i
    tensor.n = cnp.PyArray_SIZE(p)
    tensor.p = cnp.PyArray_DATA(p)
    tensor.g = cnp.PyArray_DATA(g)
    lay_gradient(layout, g, type_of(p))
    layout.ndim = cnp.PyArray_NDIM(p)
    layout.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(p)
    layout.p_strides = strides_of(p)
    for i in range(len(states)):
        if states[i] is not None:
            tensor.state[i] = cnp.PyArray_DATA(states[i])
            layout.state_strides[i] = strides_of(states[i])
    tensor.layout = layout


cdef cnp.ndarray flat(cnp.ndarray a):
    return a if cnp.PyArray_NDIM(a) == 1 else a.reshape(-1)


cdef update(Rule rule, p, g, tuple states, tuple hyper, unsigned options):
    """One rule on one tensor: all checks, then the step. The order of the tuples is that of the rule's table."""
    cdef fastopt_model model
    cdef fastopt_group group
    cdef fastopt_tensor tensor
    cdef fastopt_layout layout
    cdef Span spans[2 + FASTOPT_MAX_STATES]
    cdef list buffers = [None] * len(states)
    cdef cnp.ndarray array, params = as_array("p", p, True, False), grad = as_gradient("g", g, False, True, "p", params)
    cdef Py_ssize_t i
    cdef size_t count = 2
    cdef int error
    cdef bint plain = (cnp.PyArray_TYPE(grad) == cnp.PyArray_TYPE(params) and cnp.PyArray_IS_C_CONTIGUOUS(grad)
                       and cnp.PyArray_IS_C_CONTIGUOUS(params))

    spans[0] = span_of(params, 0)
    spans[1] = span_of(grad, 1)
    for i in range(len(states)):
        if states[i] is None and i >= rule.required_states:
            continue
        array = as_array(<str>rule.states[i], states[i], True, False)
        same_kind(<str>rule.states[i], array, "p", params)
        plain = plain and cnp.PyArray_IS_C_CONTIGUOUS(array)
        buffers[i] = array
        spans[count] = span_of(array, 2 + i)
        count += 1
    if cnp.PyArray_SIZE(params) > 0 and not lie_apart(spans, count):
        sort_apart(spans, count, ["p", "g", *rule.states], "buffer")

    memset(&model, 0, sizeof(model))
    memset(&group, 0, sizeof(group))
    memset(&tensor, 0, sizeof(tensor))
    tensor.size = sizeof(tensor)
    if not plain:
        memset(&layout, 0, sizeof(layout))
        # Views of our own: their shapes and strides are nobody else's to change while the GIL is released.
        params, grad, buffers = params[...], grad[...], views_of(buffers)
        place_strided(params, grad, buffers, &tensor, &layout)
    elif cnp.PyArray_TYPE(params) == cnp.NPY_FLOAT:
        place[float](flat(params), flat(grad), buffers, &tensor)
    else:
        place[double](flat(params), flat(grad), buffers, &tensor)
    rule.fill(&group, hyper, options)
    group.type, group.count, group.tensors = type_of(params), 1, &tensor
    model.size, model.count, model.groups, model.grad_scale, model.threads = sizeof(model), 1, &group, 1.0, 1
    if rule.sums:
        memory = bytearray(workspace(&model))
        model.workspace, model.workspace_size = <char *>memory, len(memory)
    if tensor.n <= KEEP_GIL:
        error = step(&model)
    else:
        with nogil:
            error = step(&model)
    if error:
        rule.fail(&model.error)


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
