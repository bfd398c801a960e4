# cython: language_level=3
"""The C core, and the doors to it from compiled code: functions for `cimport`, the capsule, and addresses.

The one copy of the core is compiled into this module. `capi.pxd` has the functions for Cython, `fastopt_capi.h` the
capsule's table for C and C++, and `capi_address` is for ctypes and the like. The other modules of the package `cimport`
these functions too.
"""

from cpython.pycapsule cimport PyCapsule_New

__all__ = ["capi_address"]

cdef extern from "fastopt.h":
    # "..." leaves the parameters open: the C compiler checks every call below against the header's prototypes.
    # BEGIN GENERATED externs (by tools/generate.py from csrc/rules.toml and csrc/fastopt.h)
    int fastopt_sgd_f32(...) nogil
    int fastopt_sgd_f64(...) nogil
    int fastopt_momentum_f32(...) nogil
    int fastopt_momentum_f64(...) nogil
    int fastopt_nag_f32(...) nogil
    int fastopt_nag_f64(...) nogil
    int fastopt_adagrad_f32(...) nogil
    int fastopt_adagrad_f64(...) nogil
    int fastopt_adadelta_f32(...) nogil
    int fastopt_adadelta_f64(...) nogil
    int fastopt_rmsprop_f32(...) nogil
    int fastopt_rmsprop_f64(...) nogil
    int fastopt_adam_f32(...) nogil
    int fastopt_adam_f64(...) nogil
    int fastopt_adamw_f32(...) nogil
    int fastopt_adamw_f64(...) nogil
    int fastopt_lion_f32(...) nogil
    int fastopt_lion_f64(...) nogil
    int fastopt_lamb_f32(...) nogil
    int fastopt_lamb_f64(...) nogil
    const fastopt_rule_info *fastopt_rule(...) nogil
    int fastopt_find_rule(...) nogil
    int fastopt_group_init(...) nogil
    int fastopt_model_init(...) nogil
    int fastopt_set(...) nogil
    int fastopt_check_hyper(...) nogil
    int fastopt_step(...) nogil
    int fastopt_check(...) nogil
    size_t fastopt_workspace(...) nogil
    int fastopt_global_norm(...) nogil
    int fastopt_clip_grad_norm(...) nogil
    size_t fastopt_describe(...) nogil
    int fastopt_get_num_threads() nogil
    void fastopt_set_num_threads(...) nogil
    const char *fastopt_isa() nogil
    int fastopt_use_isa(...) nogil
    const char *fastopt_available_isa(...) nogil
    const char *fastopt_version() nogil
    const char *fastopt_compiler() nogil
    const char *fastopt_cflags() nogil
    const char *fastopt_strerror(...) nogil
    # END GENERATED externs

cdef extern from *:
    """
    #include "fastopt_capi.h"

    #define NAMED(name) fastopt_##name,
    #define SIZED(name) sizeof(fastopt_##name),
    static const fastopt_capi table = {FASTOPT_CAPI_VERSION, sizeof table, FASTOPT_STRUCTURES(SIZED)
                                       FASTOPT_FUNCTIONS(NAMED)};

    #define ADDRESSED(name) {"fastopt_" #name, (size_t)fastopt_##name},
    static const struct {
        const char *name;
        size_t address;
    } functions[] = {FASTOPT_FUNCTIONS(ADDRESSED)};
    enum { FUNCTIONS = sizeof functions / sizeof *functions };
    """
    ctypedef struct fastopt_capi:
        pass
    ctypedef struct named_function:
        const char *name
        size_t address
    const fastopt_capi table
    const named_function functions[]
    int FUNCTIONS
    const char *FASTOPT_CAPI_NAME


# BEGIN GENERATED functions (by tools/generate.py from csrc/rules.toml and csrc/fastopt.h)
cdef int sgd_f32(
    size_t n, float *p, const float *g, float *momentum_buffer, double step, double lr, double momentum,
    double dampening, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_sgd_f32(n, p, g, momentum_buffer, step, lr, momentum, dampening, weight_decay, grad_scale, options)


cdef int sgd_f64(
    size_t n, double *p, const double *g, double *momentum_buffer, double step, double lr, double momentum,
    double dampening, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_sgd_f64(n, p, g, momentum_buffer, step, lr, momentum, dampening, weight_decay, grad_scale, options)


cdef int momentum_f32(
    size_t n, float *p, const float *g, float *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_momentum_f32(n, p, g, momentum_buffer, lr, momentum, weight_decay, grad_scale, options)


cdef int momentum_f64(
    size_t n, double *p, const double *g, double *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_momentum_f64(n, p, g, momentum_buffer, lr, momentum, weight_decay, grad_scale, options)


cdef int nag_f32(
    size_t n, float *p, const float *g, float *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_nag_f32(n, p, g, momentum_buffer, lr, momentum, weight_decay, grad_scale, options)


cdef int nag_f64(
    size_t n, double *p, const double *g, double *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_nag_f64(n, p, g, momentum_buffer, lr, momentum, weight_decay, grad_scale, options)


cdef int adagrad_f32(
    size_t n, float *p, const float *g, float *sum, double step, double lr, double lr_decay, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adagrad_f32(n, p, g, sum, step, lr, lr_decay, eps, weight_decay, grad_scale, options)


cdef int adagrad_f64(
    size_t n, double *p, const double *g, double *sum, double step, double lr, double lr_decay, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adagrad_f64(n, p, g, sum, step, lr, lr_decay, eps, weight_decay, grad_scale, options)


cdef int adadelta_f32(
    size_t n, float *p, const float *g, float *square_avg, float *acc_delta, double lr, double rho, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adadelta_f32(n, p, g, square_avg, acc_delta, lr, rho, eps, weight_decay, grad_scale, options)


cdef int adadelta_f64(
    size_t n, double *p, const double *g, double *square_avg, double *acc_delta, double lr, double rho, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adadelta_f64(n, p, g, square_avg, acc_delta, lr, rho, eps, weight_decay, grad_scale, options)


cdef int rmsprop_f32(
    size_t n, float *p, const float *g, float *square_avg, float *momentum_buffer, float *grad_avg, double lr,
    double alpha, double eps, double momentum, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_rmsprop_f32(n, p, g, square_avg, momentum_buffer, grad_avg, lr, alpha, eps, momentum, weight_decay,
                               grad_scale, options)


cdef int rmsprop_f64(
    size_t n, double *p, const double *g, double *square_avg, double *momentum_buffer, double *grad_avg, double lr,
    double alpha, double eps, double momentum, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_rmsprop_f64(n, p, g, square_avg, momentum_buffer, grad_avg, lr, alpha, eps, momentum, weight_decay,
                               grad_scale, options)


cdef int adam_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adam_f32(n, p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay,
                            grad_scale, options)


cdef int adam_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adam_f64(n, p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay,
                            grad_scale, options)


cdef int adamw_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adamw_f32(n, p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay,
                             grad_scale, options)


cdef int adamw_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_adamw_f64(n, p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay,
                             grad_scale, options)


cdef int lion_f32(
    size_t n, float *p, const float *g, float *exp_avg, double lr, double beta1, double beta2, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_lion_f32(n, p, g, exp_avg, lr, beta1, beta2, weight_decay, grad_scale, options)


cdef int lion_f64(
    size_t n, double *p, const double *g, double *exp_avg, double lr, double beta1, double beta2, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_lion_f64(n, p, g, exp_avg, lr, beta1, beta2, weight_decay, grad_scale, options)


cdef int lamb_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, double step, double lr, double beta1,
    double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_lamb_f32(n, p, g, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay, grad_scale,
                            options)


cdef int lamb_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double step, double lr, double beta1,
    double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil:
    return fastopt_lamb_f64(n, p, g, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay, grad_scale,
                            options)


cdef const fastopt_rule_info *rule(int rule) noexcept nogil:
    return fastopt_rule(rule)


cdef int find_rule(const char *name) noexcept nogil:
    return fastopt_find_rule(name)


cdef int group_init(fastopt_group_136_424_88_96_64 *group, size_t size, const char *rule, int type) noexcept nogil:
    return fastopt_group_init(group, size, rule, type)


cdef int model_init(fastopt_model_136_424_88_96_64 *model, size_t size) noexcept nogil:
    return fastopt_model_init(model, size)


cdef int set(fastopt_group_136_424_88_96_64 *group, const char *name, double value) noexcept nogil:
    return fastopt_set(group, name, value)


cdef int check_hyper(int rule, int type, int index, double value) noexcept nogil:
    return fastopt_check_hyper(rule, type, index, value)


cdef int step(fastopt_model_136_424_88_96_64 *model) noexcept nogil:
    return fastopt_step(model)


cdef int check(fastopt_model_136_424_88_96_64 *model) noexcept nogil:
    return fastopt_check(model)


cdef size_t workspace(const fastopt_model_136_424_88_96_64 *model) noexcept nogil:
    return fastopt_workspace(model)


cdef int global_norm(fastopt_model_136_424_88_96_64 *model) noexcept nogil:
    return fastopt_global_norm(model)


cdef int clip_grad_norm(fastopt_model_136_424_88_96_64 *model) noexcept nogil:
    return fastopt_clip_grad_norm(model)


cdef size_t describe(const fastopt_error *error, char *text, size_t size) noexcept nogil:
    return fastopt_describe(error, text, size)


cdef int get_num_threads() noexcept nogil:
    return fastopt_get_num_threads()


cdef void set_num_threads(int threads) noexcept nogil:
    fastopt_set_num_threads(threads)


cdef const char *isa() noexcept nogil:
    return fastopt_isa()


cdef int use_isa(const char *name) noexcept nogil:
    return fastopt_use_isa(name)


cdef const char *available_isa(int index) noexcept nogil:
    return fastopt_available_isa(index)


cdef const char *version() noexcept nogil:
    return fastopt_version()


cdef const char *compiler() noexcept nogil:
    return fastopt_compiler()


cdef const char *cflags() noexcept nogil:
    return fastopt_cflags()


cdef const char *strerror(int error) noexcept nogil:
    return fastopt_strerror(error)
# END GENERATED functions


_C_API = PyCapsule_New(<void *>&table, FASTOPT_CAPI_NAME, NULL)

_ADDRESSES = {functions[i].name.decode(): functions[i].address for i in range(FUNCTIONS)}


def capi_address(name):
    """The address of a function of the C core, for ctypes, cffi, numba and other callers by address.

    Parameters
    ----------
    name : str
        As in `fastopt.h`: `"fastopt_adam_f32"`.

    Returns
    -------
    int
        Valid until the process ends. The prototype stands in `fastopt.h`, in the folder `fastopt.get_include()`.

    Raises
    ------
    TypeError, ValueError
        If `name` is not a string, or there is no such function.

    Notes
    -----
    Calls need no GIL. The function checks hyperparameters and NULL, but not the memory: arrays must have the element
    type in its name, be contiguous and aligned, not overlap, and not move.

    Examples
    --------
    >>> import ctypes
    >>> version = ctypes.CFUNCTYPE(ctypes.c_char_p)(fastopt.capi_address("fastopt_version"))
    >>> version().decode() == fastopt.__version__
    True
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if name not in _ADDRESSES:
        raise ValueError(f"name must be one of {', '.join(_ADDRESSES)}, got {name!r}")
    return _ADDRESSES[name]
