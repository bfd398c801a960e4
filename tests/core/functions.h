/*
 * functions.h - the two functions of every rule behind one prototype, call_RULE_f32 and call_RULE_f64: state buffers
 * and hyperparameters in the order of the table, from rules.def.
 */
#include "each.h"
#include "fastopt.h"

typedef int rule_function(size_t n, void *p, const void *g, void *const *state, const double *hyper, unsigned options);

#define FLOATS(name) float *name = state[i++];
#define DOUBLES(name) double *name = state[i++];
#define NUMBER(name) const double name = hyper[h++];
#define FASTOPT_RULE(rule, required, states, hypers, taken) \
    static int call_##rule##_f32(size_t n, void *p, const void *g, void *const *state, const double *hyper, \
                                 unsigned options) \
    { \
        int i = 0, h = 0; \
        EACH(FLOATS, states) \
        EACH(NUMBER, hypers) \
        return fastopt_##rule##_f32(n, p, g, EACH_UNWRAP states, EACH_UNWRAP hypers, options); \
    } \
    static int call_##rule##_f64(size_t n, void *p, const void *g, void *const *state, const double *hyper, \
                                 unsigned options) \
    { \
        int i = 0, h = 0; \
        EACH(DOUBLES, states) \
        EACH(NUMBER, hypers) \
        return fastopt_##rule##_f64(n, p, g, EACH_UNWRAP states, EACH_UNWRAP hypers, options); \
    }
#include "rules.def"
#undef FASTOPT_RULE
#undef FLOATS
#undef DOUBLES
#undef NUMBER
