# The C core for `cimport`: every public function of fastopt.h without its prefix, on C types, usable without the GIL
# and in prange. fastopt.h documents them; strerror explains their negative return values. Nothing is compiled in or
# linked: the functions come from the installed package when the module that cimports them is imported. The structures
# of fastopt.structs need the header: include_dirs=[fastopt.get_include()].
#
#     from fastopt.capi cimport adam_f32
#
# Until version 1.0.0 the interface may change. From then on it only grows: what must change gets a new name.
# `fastopt.memoryviews` has the rules on typed memoryviews, with checks and without a header.

# BEGIN GENERATED functions (by tools/generate.py from csrc/rules.toml and csrc/fastopt.h)
from fastopt.structs cimport fastopt_error, fastopt_group, fastopt_model, fastopt_rule_info

# The names of these types have the sizes of fastopt_model, fastopt_group, fastopt_tensor, fastopt_layout, fastopt_error
# in them, and Cython compares names: a module that was compiled for other structures is refused when it is imported.
cdef extern from *:
    """
    typedef fastopt_model fastopt_model_136_424_88_96_64;
    typedef fastopt_group fastopt_group_136_424_88_96_64;
    """
    ctypedef fastopt_model fastopt_model_136_424_88_96_64
    ctypedef fastopt_group fastopt_group_136_424_88_96_64

cdef int sgd_f32(
    size_t n, float *p, const float *g, float *momentum_buffer, double step, double lr, double momentum,
    double dampening, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int sgd_f64(
    size_t n, double *p, const double *g, double *momentum_buffer, double step, double lr, double momentum,
    double dampening, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int momentum_f32(
    size_t n, float *p, const float *g, float *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil
cdef int momentum_f64(
    size_t n, double *p, const double *g, double *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil
cdef int nag_f32(
    size_t n, float *p, const float *g, float *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil
cdef int nag_f64(
    size_t n, double *p, const double *g, double *momentum_buffer, double lr, double momentum, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil
cdef int adagrad_f32(
    size_t n, float *p, const float *g, float *sum, double step, double lr, double lr_decay, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int adagrad_f64(
    size_t n, double *p, const double *g, double *sum, double step, double lr, double lr_decay, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int adadelta_f32(
    size_t n, float *p, const float *g, float *square_avg, float *acc_delta, double lr, double rho, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int adadelta_f64(
    size_t n, double *p, const double *g, double *square_avg, double *acc_delta, double lr, double rho, double eps,
    double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int rmsprop_f32(
    size_t n, float *p, const float *g, float *square_avg, float *momentum_buffer, float *grad_avg, double lr,
    double alpha, double eps, double momentum, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int rmsprop_f64(
    size_t n, double *p, const double *g, double *square_avg, double *momentum_buffer, double *grad_avg, double lr,
    double alpha, double eps, double momentum, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int adam_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int adam_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int adamw_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int adamw_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq, double step,
    double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int lion_f32(
    size_t n, float *p, const float *g, float *exp_avg, double lr, double beta1, double beta2, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil
cdef int lion_f64(
    size_t n, double *p, const double *g, double *exp_avg, double lr, double beta1, double beta2, double weight_decay,
    double grad_scale, unsigned options
) noexcept nogil
cdef int lamb_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, double step, double lr, double beta1,
    double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef int lamb_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double step, double lr, double beta1,
    double beta2, double eps, double weight_decay, double grad_scale, unsigned options
) noexcept nogil
cdef const fastopt_rule_info *rule(int rule) noexcept nogil
cdef int find_rule(const char *name) noexcept nogil
cdef int group_init(fastopt_group_136_424_88_96_64 *group, size_t size, const char *rule, int type) noexcept nogil
cdef int model_init(fastopt_model_136_424_88_96_64 *model, size_t size) noexcept nogil
cdef int set(fastopt_group_136_424_88_96_64 *group, const char *name, double value) noexcept nogil
cdef int check_hyper(int rule, int type, int index, double value) noexcept nogil
cdef int step(fastopt_model_136_424_88_96_64 *model) noexcept nogil
cdef int check(fastopt_model_136_424_88_96_64 *model) noexcept nogil
cdef size_t workspace(const fastopt_model_136_424_88_96_64 *model) noexcept nogil
cdef int global_norm(fastopt_model_136_424_88_96_64 *model) noexcept nogil
cdef int clip_grad_norm(fastopt_model_136_424_88_96_64 *model) noexcept nogil
cdef size_t describe(const fastopt_error *error, char *text, size_t size) noexcept nogil
cdef int get_num_threads() noexcept nogil
cdef void set_num_threads(int threads) noexcept nogil
cdef const char *isa() noexcept nogil
cdef int use_isa(const char *name) noexcept nogil
cdef const char *available_isa(int index) noexcept nogil
cdef const char *version() noexcept nogil
cdef const char *compiler() noexcept nogil
cdef const char *cflags() noexcept nogil
cdef const char *strerror(int error) noexcept nogil
# END GENERATED functions
