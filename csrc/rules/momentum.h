/*
 * Classical momentum, the heavy ball of
 *     Polyak. "Some methods of speeding up the convergence of iteration methods." 1964,
 * with the learning rate inside the velocity v, as textbooks, Ruder's overview (arXiv:1609.04747, eq. 4)
 * and Keras write it:
 *
 *     g = s*g + weight_decay*p
 *     v = momentum*v + lr*g
 *     p = p - v
 */
#define MOMENTUM_COEFFICIENTS(X) X(scale) X(decay) X(momentum) X(lr)

#ifdef FASTOPT_COEFFICIENTS

struct momentum_coefficients {
    MOMENTUM_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int momentum_prepare(const struct momentum_hypers *h, const struct momentum_states *s, unsigned options,
                                   struct momentum_coefficients *c)
{
    (void)s;
    (void)options;
    c->scale = h->grad_scale;
    c->decay = h->weight_decay;
    c->momentum = h->momentum;
    c->lr = h->lr;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    MOMENTUM_COEFFICIENTS(FASTOPT_IN_REAL)
} T(momentum_coefficients);

LOOP T(momentum_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict v, T(momentum_coefficients) c)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        const real vi = c.momentum * v[i] + c.lr * gi;
        v[i] = vi;
        p[i] = p[i] - vi;
    }
}

ENTRY T(momentum)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const struct momentum_states *s = (const struct momentum_states *)state;

    (void)options;
    T(momentum_loop)(n, p, g, s->momentum_buffer, *(const T(momentum_coefficients) *)coefficients);
}

#endif
