/*
 * Lion,
 *     Chen et al. "Symbolic discovery of optimization algorithms." arXiv:2302.06675, algorithm 2.
 * m = exp_avg; weight decay is decoupled, so g = s*g:
 *
 *     c = beta1*m + (1-beta1)*g
 *     p = (1 - lr*weight_decay)*p - lr*sign(c)
 *     m = beta2*m + (1-beta2)*g
 *
 * The sign of 0 is 0, and the sign of NaN is NaN, so that a model that has diverged shows it.
 */
#define LION_COEFFICIENTS(X) X(scale) X(keep) X(lr) X(beta1) X(rest1) X(beta2) X(rest2)

#ifdef FASTOPT_COEFFICIENTS

struct lion_coefficients {
    LION_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int lion_prepare(const struct lion_hypers *h, const struct lion_states *s, unsigned options,
                               struct lion_coefficients *c)
{
    (void)s;
    (void)options;
    c->scale = h->grad_scale;
    c->keep = 1.0 - h->lr * h->weight_decay;
    c->lr = h->lr;
    c->beta1 = h->beta1;
    c->rest1 = 1.0 - h->beta1;
    c->beta2 = h->beta2;
    c->rest2 = 1.0 - h->beta2;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    LION_COEFFICIENTS(FASTOPT_IN_REAL)
} T(lion_coefficients);

LOOP T(lion_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict m, T(lion_coefficients) c)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i];
        const real ci = c.beta1 * m[i] + c.rest1 * gi;
        real sign = ci; /* two choices in a row: nested ones would not vectorize */
        sign = ci > 0 ? (real)1.0 : sign;
        sign = ci < 0 ? (real)-1.0 : sign;
        p[i] = c.keep * p[i] - c.lr * sign;
        m[i] = c.beta2 * m[i] + c.rest2 * gi;
    }
}

ENTRY T(lion)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const struct lion_states *s = (const struct lion_states *)state;

    (void)options;
    T(lion_loop)(n, p, g, s->exp_avg, *(const T(lion_coefficients) *)coefficients);
}

#endif
