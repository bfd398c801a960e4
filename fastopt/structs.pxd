# The structures and constants of fastopt.h, whose comments say what they are. Compiling with them needs the header:
# include_dirs=[fastopt.get_include()].

cdef extern from "fastopt.h":
    int FASTOPT_OK
    int FASTOPT_SKIPPED
    int FASTOPT_ERR_ISA
    int FASTOPT_ERR_RULE
    int FASTOPT_ERR_OPTION
    int FASTOPT_ERR_BUFFER
    int FASTOPT_ERR_MODEL
    int FASTOPT_ERR_HYPER
    unsigned FASTOPT_MAXIMIZE
    unsigned FASTOPT_NESTEROV
    unsigned FASTOPT_AT_LOOKAHEAD
    unsigned FASTOPT_EPS_INSIDE_SQRT
    unsigned FASTOPT_CLIP_NORM
    unsigned FASTOPT_SKIP_NONFINITE
    unsigned FASTOPT_ZERO_GRAD
    int FASTOPT_F32
    int FASTOPT_F64
    enum:
        FASTOPT_MAX_STATES
        FASTOPT_MAX_HYPERS

    ctypedef struct fastopt_rule_info:
        const char *name
        const char *states
        int required_states
        const char *hypers
        const char *options
        unsigned option_mask

    ctypedef struct fastopt_tensor:
        size_t n
        void *p
        void *g
        void *state[FASTOPT_MAX_STATES]

    ctypedef struct fastopt_group:
        int rule
        int dtype
        unsigned options
        double hyper[FASTOPT_MAX_HYPERS]
        size_t count
        fastopt_tensor *tensors

    ctypedef struct fastopt_model:
        size_t count
        fastopt_group *groups
        double grad_scale
        double max_norm
        unsigned extras
        int threads
        double norm
