/*
 * loops.h - all loops for one type on one instruction set (instantiate.h), and the tables that lead to them.
 */
#define FASTOPT_LOOPS
#include "rules.def"
#undef FASTOPT_LOOPS

static const fastopt_entry T(entries)[RULE_COUNT] = {
#define FASTOPT_RULE(name, required, states, hypers, options) {T(name##_prepare), T(name)},
#include "rules.def"
#undef FASTOPT_RULE
};

#include "norm.h"
static const fastopt_norm_entry T(norm) = {T(sum_squares), T(multiply)};
