/*
 * Adagrad,
 *     Duchi, Hazan, Singer. "Adaptive subgradient methods for online learning and stochastic
 *     optimization." JMLR 12 (2011), with the diagonal matrix; lr_decay as in PyTorch.
 *
 *     g = s*g + weight_decay*p
 *     sum = sum + g*g
 *     p = p - lr/(1 + (t-1)*lr_decay) * g / (sqrt(sum) + eps)
 *
 * The loop has sqrt(sum + inner) + outer, where one of the two is epsilon and the other is 0, so that one loop serves
 * both places of epsilon: adding 0 changes no bit.
 */
#define ADAGRAD_COEFFICIENTS(X) X(scale) X(decay) X(lr) X(inner) X(outer)

#ifdef FASTOPT_COEFFICIENTS

struct adagrad_coefficients {
    ADAGRAD_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int adagrad_prepare(const struct adagrad_hypers *h, const struct adagrad_states *s, unsigned options,
                                  struct adagrad_coefficients *c)
{
    const int inside = (options & FASTOPT_EPS_INSIDE_SQRT) != 0;

    (void)s;
    c->scale = h->grad_scale;
    c->decay = h->weight_decay;
    c->lr = h->lr / (1.0 + (h->step - 1.0) * h->lr_decay);
    c->inner = inside ? h->eps : 0.0;
    c->outer = inside ? 0.0 : h->eps;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    ADAGRAD_COEFFICIENTS(FASTOPT_IN_REAL)
} T(adagrad_coefficients);

LOOP T(adagrad_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict sum, T(adagrad_coefficients) c)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        const real si = sum[i] + gi * gi;
        sum[i] = si;
        p[i] = p[i] - c.lr * gi / (real_sqrt(si + c.inner) + c.outer);
    }
}

ENTRY T(adagrad)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const struct adagrad_states *s = (const struct adagrad_states *)state;

    (void)options;
    T(adagrad_loop)(n, p, g, s->sum, *(const T(adagrad_coefficients) *)coefficients);
}

#endif
