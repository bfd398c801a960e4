/*
 * Stochastic gradient descent, plain, with momentum, and with Nesterov momentum in the form of
 *     Sutskever, Martens, Dahl, Hinton. "On the importance of initialization and momentum in deep
 *     learning." ICML 2013,
 * with the learning rate outside the buffer and a dampening, as PyTorch has it:
 *
 *     g = s*g + weight_decay*p
 *     b = momentum*b + (1 - dampening)*g          (at step 1: b = g)
 *     p = p - lr*b        plain: p - lr*g         Nesterov: p - lr*(g + momentum*b)
 */
#define SGD_COEFFICIENTS(X) X(scale) X(decay) X(momentum) X(rest) X(lr) X(momentum_ahead)

#ifdef FASTOPT_COEFFICIENTS

struct sgd_coefficients {
    SGD_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int sgd_prepare(const struct sgd_hypers *h, const struct sgd_states *s, unsigned options,
                              struct sgd_coefficients *c)
{
    const int first = h->step == 1.0;

    (void)s;
    if ((options & FASTOPT_NESTEROV) && (h->momentum == 0.0 || h->dampening != 0.0))
        return FASTOPT_ERR_OPTION;
    c->scale = h->grad_scale;
    c->decay = h->weight_decay;
    c->momentum = first ? 0.0 : h->momentum;
    c->rest = first ? 1.0 : 1.0 - h->dampening;
    c->lr = h->lr;
    c->momentum_ahead = h->momentum;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    SGD_COEFFICIENTS(FASTOPT_IN_REAL)
} T(sgd_coefficients);

LOOP T(sgd_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict b, T(sgd_coefficients) c,
                 int with_momentum, int nesterov)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        if (!with_momentum) {
            p[i] = p[i] - c.lr * gi;
            continue;
        }
        const real bi = c.momentum * b[i] + c.rest * gi;
        b[i] = bi;
        p[i] = p[i] - c.lr * (nesterov ? gi + c.momentum_ahead * bi : bi);
    }
}

ENTRY T(sgd)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const T(sgd_coefficients) c = *(const T(sgd_coefficients) *)coefficients;
    const struct sgd_states *s = (const struct sgd_states *)state;

    if (!s->momentum_buffer)
        T(sgd_loop)(n, p, g, NULL, c, 0, 0);
    else if (options & FASTOPT_NESTEROV)
        T(sgd_loop)(n, p, g, s->momentum_buffer, c, 1, 1);
    else
        T(sgd_loop)(n, p, g, s->momentum_buffer, c, 1, 0);
}

#endif
