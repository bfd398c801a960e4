# The update rules for `cimport`: plain functions on C types, usable without the GIL and in prange. fastopt.h says what they
# do, what they take and what they return (0, or a negative number that strerror explains). Nothing is compiled in or
# linked; they come from the installed package when the module that cimports them is imported.
#
#     from fastopt.capi cimport adam_f32
#
# The interface is frozen: what must change gets a new name.

cdef int sgd_f32(
    size_t n, float *p, const float *g, float *momentum_buffer,
    double step, double lr, double momentum, double dampening, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int sgd_f64(
    size_t n, double *p, const double *g, double *momentum_buffer,
    double step, double lr, double momentum, double dampening, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int momentum_f32(
    size_t n, float *p, const float *g, float *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options) noexcept nogil
cdef int momentum_f64(
    size_t n, double *p, const double *g, double *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options) noexcept nogil
cdef int nag_f32(
    size_t n, float *p, const float *g, float *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options) noexcept nogil
cdef int nag_f64(
    size_t n, double *p, const double *g, double *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options) noexcept nogil
cdef int adagrad_f32(
    size_t n, float *p, const float *g, float *sum,
    double step, double lr, double lr_decay, double eps, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int adagrad_f64(
    size_t n, double *p, const double *g, double *sum,
    double step, double lr, double lr_decay, double eps, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int adadelta_f32(
    size_t n, float *p, const float *g, float *square_avg, float *acc_delta,
    double lr, double rho, double eps, double weight_decay, double grad_scale, unsigned options) noexcept nogil
cdef int adadelta_f64(
    size_t n, double *p, const double *g, double *square_avg, double *acc_delta,
    double lr, double rho, double eps, double weight_decay, double grad_scale, unsigned options) noexcept nogil
cdef int rmsprop_f32(
    size_t n, float *p, const float *g, float *square_avg, float *momentum_buffer, float *grad_avg,
    double lr, double alpha, double eps, double momentum, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int rmsprop_f64(
    size_t n, double *p, const double *g, double *square_avg, double *momentum_buffer, double *grad_avg,
    double lr, double alpha, double eps, double momentum, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int adam_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int adam_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int adamw_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil
cdef int adamw_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay, double grad_scale,
    unsigned options) noexcept nogil

# Many tensors in one call: fastopt_step(), whose argument is a fastopt_model (fastopt.structs has it for Cython).
cdef int step(void *model) noexcept nogil

# The index of a rule ("adam") for the groups of a model, or a negative number.
cdef int find_rule(const char *name) noexcept nogil

# A sentence for a negative number.
cdef const char *strerror(int error) noexcept nogil
