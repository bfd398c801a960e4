/*
 * AdamW,
 *     Loshchilov, Hutter. "Decoupled weight decay regularization." ICLR 2019, arXiv:1711.05101,
 *     algorithm 2, with the decay scaled by lr as in PyTorch:
 *
 *     p = (1 - lr*weight_decay)*p,   then Adam with g = s*g
 *
 * The loop is Adam's (adam.h), with other values of the same coefficients. States and hyperparameters are also the
 * same.
 */

#define ADAMW_COEFFICIENTS(X) ADAM_COEFFICIENTS(X)

#ifdef FASTOPT_COEFFICIENTS

struct adamw_coefficients {
    ADAMW_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

_Static_assert(sizeof(struct adamw_hypers) == sizeof(struct adam_hypers) &&
                   offsetof(struct adamw_hypers, weight_decay) == offsetof(struct adam_hypers, weight_decay) &&
                   offsetof(struct adamw_states, max_exp_avg_sq) == offsetof(struct adam_states, max_exp_avg_sq),
               "adam and adamw have the same hyperparameters and states");

static inline int adamw_prepare(const struct adamw_hypers *h, const struct adamw_states *s, unsigned options,
                                struct adamw_coefficients *c)
{
    (void)s;
    adam_prepare((const struct adam_hypers *)h, NULL, options, (struct adam_coefficients *)c);
    c->decay = 0.0;
    c->keep = 1.0 - h->lr * h->weight_decay;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

ENTRY T(adamw)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    T(adam)(n, p, g, state, coefficients, options);
}

#endif
