# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Keeps bad input away from the loops: checks every number and every array that a caller gives.

Nothing here writes to an array or knows a rule. Errors name the argument, what was found and what is expected.
"""

cimport numpy as cnp

from fastopt.structs cimport FASTOPT_BF16, FASTOPT_F16, FASTOPT_F32, FASTOPT_F64

import operator

import numpy as np

from fastopt._structure import shown

cnp.import_array()

__all__ = ["MAX_THREADS", "as_number", "pair"]

cdef extern from "numpy/ndarraytypes.h":
    enum:
        NPY_HALF
        NPY_USERDEF

MAX_THREADS = 256  # the core clamps larger numbers to this one


# ---- Numbers. ----

cdef str spoken(str hyper):
    """The name by which Python's users know a hyperparameter of the C core."""
    return {"beta1": "betas[0]", "beta2": "betas[1]"}.get(hyper, hyper)


cdef double number(str name, object value) except? -1.0:
    if type(value) is float:
        return value
    try:
        if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind not in "biufO":
            raise TypeError  # NumPy would parse text as a number, and drop an imaginary part
        return value
    except OverflowError:
        raise ValueError(f"{spoken(name)} must be a number that float64 holds, got {shown(value)}") from None
    except Exception:
        raise TypeError(f"{spoken(name)} must be a number, got {shown(value)}") from None


def as_number(str name, value):
    """`value` as a float, or an error that names the argument."""
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


# ---- Arrays. ----

# NumPy's type number of ml_dtypes.bfloat16, which is registered at run time; -1 until the first array of that type.
cdef int bfloat16 = -1


cdef int type_of(cnp.ndarray a) noexcept:
    """The core's constant for the type of an array's elements, or 0 if the core has no such type."""
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

    A parameter or state buffer must be float32 or float64; a gradient may also be float16 or bfloat16. No two elements
    of a writable array may share memory.
    """
    cdef cnp.ndarray a
    cdef int kind
    if type(obj) is not cnp.ndarray:
        obj = array_on_memory_of(name, obj, writable, gradient)
    a = obj
    kind = type_of(a)
    if kind == 0 or not (gradient or kind == FASTOPT_F32 or kind == FASTOPT_F64) or not cnp.PyArray_ISNOTSWAPPED(a):
        raise TypeError(f"{name} has dtype {a.dtype.str if a.dtype.byteorder in '<>' else a.dtype}; "
                        f"fastopt takes {types_in_words(gradient)}{' gradients' if gradient else ''} "
                        "in native byte order")
    if writable and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name} is read-only, but must be writable")
    if not cnp.PyArray_ISALIGNED(a):
        raise ValueError(f"{name} is not aligned to its {a.itemsize}-byte elements; its memory must begin at a "
                         f"multiple of {a.itemsize} bytes, and its strides, {(<object>a).strides}, must be multiples "
                         "of that")
    if writable and not cnp.PyArray_IS_C_CONTIGUOUS(a) and not visits_once(a):
        raise ValueError(f"{name} has several elements at one address (shape {(<object>a).shape}, strides "
                         f"{(<object>a).strides}); in an array that is written each element needs its own")
    return a


cdef bint is_plain(object obj) noexcept:
    """Whether `obj` is known to be a valid parameter: the fast path around `as_array`."""
    cdef int kind
    if type(obj) is not cnp.ndarray or not cnp.PyArray_ISCARRAY(<cnp.ndarray>obj):
        return False
    kind = cnp.PyArray_TYPE(<cnp.ndarray>obj)
    return kind == cnp.NPY_FLOAT or kind == cnp.NPY_DOUBLE


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
    # Rows may be interleaved without sharing memory. That is rare, so this check may cost memory.
    offsets = sum(np.ix_(*[np.arange(size, dtype=np.int64) * step for step, size in axes]))
    offsets = np.sort(offsets, axis=None)
    return bool((np.diff(offsets) >= a.itemsize).all())


cdef str types_in_words(bint gradient):
    """The types that an array may have, in words."""
    return "float16, bfloat16, float32 and float64" if gradient else "float32 and float64"


cdef object array_on_memory_of(str name, object obj, bint writable, bint gradient):
    if obj is None:
        raise TypeError(f"{name} is None; expected an array; fastopt takes {types_in_words(gradient)}")
    if isinstance(obj, (int, float, complex, np.generic)):
        raise TypeError(f"{name} is a number of type {type(obj).__name__}, but must be an array; np.array(x) makes one "
                        "without dimensions")
    if isinstance(obj, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask the step would ignore; give its .data")
    if isinstance(obj, np.ndarray):
        return np.asarray(obj)  # a subclass may override reshape; this is a plain array on the same memory
    try:
        return np.asarray(memoryview(obj))
    except Exception:  # code of the object may raise anything; the errors below name its type
        pass
    if not hasattr(type(obj), "__dlpack__"):
        raise TypeError(f"{name} is of type {type(obj).__name__}, which has no buffer of elements; give a NumPy array; "
                        f"fastopt takes {types_in_words(gradient)}")
    try:
        array = np.from_dlpack(obj)  # unlike __array__, it never copies
        if writable and not array.flags.writeable:
            # NumPy before 2.1 imports every tensor as read-only. If __array__ has the same memory, its flag is right.
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
    """Raises an error unless the array has the element type and shape of `like`."""
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(like):
        raise TypeError(f"{name} has dtype {a.dtype}, but {name_of_like} has {like.dtype}; "
                        "a parameter and its state have one dtype")
    return same_shape(name, a, name_of_like, like)


cdef cnp.ndarray as_gradient(
    str name, object obj, bint writable, bint allow_numbers, str name_of_like, cnp.ndarray like
):
    """`obj` as an array of the shape of `like`. With `allow_numbers`, `obj` may be a number if `like` is 0-d."""
    cdef cnp.ndarray a
    if allow_numbers and cnp.PyArray_NDIM(like) == 0 and type(obj) is not cnp.ndarray:
        if isinstance(obj, (float, int, np.integer)) and not isinstance(obj, bool):
            obj = np.asarray(number(name, obj))
        elif isinstance(obj, np.generic):
            obj = np.asarray(obj)  # NumPy exports no buffer of bfloat16
    a = as_array(name, obj, writable, True)
    same_shape(name, a, name_of_like, like)
    return a
