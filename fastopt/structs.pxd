# The structures and constants of fastopt.h, which documents them. Using a structure needs the header:
# include_dirs=[fastopt.get_include()]; modules that only use functions compile without it. A structure must begin as
# zeros: fastopt.capi has group_init and model_init; zero a fastopt_tensor or fastopt_layout with memset, for Cython's
# own fastopt_tensor(n=...) leaves the fields that it does not name as they were.
#
# The options and the constants that name hyperparameters and states (FASTOPT_ADAM_LR) are in fastopt_rules.h; declare
# those that you use with `cdef extern from "fastopt.h"`.

cdef extern from *:
    """
    #if defined(FASTOPT_H) || __has_include("fastopt.h")
    #include "fastopt.h"
    #else
    typedef struct fastopt_error fastopt_error;
    typedef struct fastopt_group fastopt_group;
    typedef struct fastopt_model fastopt_model;
    typedef struct fastopt_rule_info fastopt_rule_info;
    #endif
    """
    int FASTOPT_OK
    int FASTOPT_SKIPPED
    int FASTOPT_ERR_ISA
    int FASTOPT_ERR_RULE
    int FASTOPT_ERR_OPTION
    int FASTOPT_ERR_BUFFER
    int FASTOPT_ERR_MODEL
    int FASTOPT_ERR_SIZE
    int FASTOPT_ERR_TYPE
    int FASTOPT_ERR_LAYOUT
    int FASTOPT_ERR_UNUSED
    int FASTOPT_ERR_WORKSPACE
    int FASTOPT_ERR_HYPER
    unsigned FASTOPT_MAXIMIZE
    unsigned FASTOPT_CLIP_NORM
    unsigned FASTOPT_SKIP_NONFINITE
    unsigned FASTOPT_ZERO_GRAD
    int FASTOPT_F32
    int FASTOPT_F64
    int FASTOPT_F16
    int FASTOPT_BF16
    enum:
        FASTOPT_MAX_STATES
        FASTOPT_MAX_HYPERS
        FASTOPT_MAX_DIMS

    ctypedef struct fastopt_hyper_info:
        const char *name
        const char *takes
        double value

    ctypedef struct fastopt_state_info:
        const char *name
        const char *needed_by
        double start

    ctypedef struct fastopt_option_info:
        const char *name
        unsigned bit

    ctypedef struct fastopt_rule_info:
        size_t size
        const char *name
        int state_count
        int required_states
        int hyper_count
        int option_count
        int sums
        const fastopt_state_info *states
        const fastopt_hyper_info *hypers
        const fastopt_option_info *options

    ctypedef struct fastopt_layout:
        size_t size
        int g_type
        int p_type
        int state_type[FASTOPT_MAX_STATES]
        int ndim
        const Py_ssize_t *shape
        const Py_ssize_t *p_strides
        const Py_ssize_t *g_strides
        const Py_ssize_t *state_strides[FASTOPT_MAX_STATES]

    ctypedef struct fastopt_tensor:
        size_t size
        size_t n
        void *p
        const void *g
        void *state[FASTOPT_MAX_STATES]
        const fastopt_layout *layout

    ctypedef struct fastopt_group:
        size_t size
        int rule
        int type
        unsigned options
        double hyper[FASTOPT_MAX_HYPERS]
        size_t count
        fastopt_tensor *tensors

    ctypedef struct fastopt_error:
        int code
        Py_ssize_t group
        Py_ssize_t tensor
        const char *rule
        const char *name
        double value
        const char *takes
        int type

    ctypedef struct fastopt_model:
        size_t size
        size_t count
        fastopt_group *groups
        double grad_scale
        double max_norm
        unsigned extras
        int threads
        void *workspace
        size_t workspace_size
        double norm
        fastopt_error error
