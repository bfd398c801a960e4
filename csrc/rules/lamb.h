/*
 * LAMB,
 *     You et al. "Large batch optimization for deep learning: training BERT in 76 minutes." ICLR 2020,
 *     arXiv:1904.00962, algorithm 2, with bias correction, weight decay inside the update, and the identity for phi.
 * m = exp_avg, v = exp_avg_sq, g = s*g:
 *
 *     m = beta1*m + (1-beta1)*g
 *     v = beta2*v + (1-beta2)*g*g
 *     u = m/(1-beta1^t) / (sqrt(v) / sqrt(1-beta2^t) + eps) + weight_decay*p
 *     p = p - lr*r*u      with r = |p| / |u| over the whole tensor, 1 where either norm is 0
 *
 * The first pass updates m and v and stores u in the scratch buffer, where the squares of p and u are summed. The
 * second pass computes the same u again from p, m and v.
 */
#define LAMB_COEFFICIENTS(X) \
    X(scale) X(decay) X(beta1) X(rest1) X(beta2) X(rest2) X(correction) X(root) X(eps) X(step_size)

#ifdef FASTOPT_COEFFICIENTS

struct lamb_coefficients {
    LAMB_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int lamb_prepare(const struct lamb_hypers *h, const struct lamb_states *s, unsigned options,
                               struct lamb_coefficients *c)
{
    const fastopt_pair rest = fastopt_one_minus_powers(h->beta1, h->beta2, h->step);

    (void)s;
    (void)options;
    c->scale = h->grad_scale;
    c->decay = h->weight_decay;
    c->beta1 = h->beta1;
    c->rest1 = 1.0 - h->beta1;
    c->beta2 = h->beta2;
    c->rest2 = 1.0 - h->beta2;
    c->correction = 1.0 / rest[0];
    c->root = 1.0 / sqrt(rest[1]);
    c->eps = h->eps;
    c->step_size = h->lr;
    return FASTOPT_OK;
}

/* The sums are of the squares of p and of u. */
static inline void lamb_settle(const struct lamb_hypers *h, const double *sums, struct lamb_coefficients *c)
{
    if (sums[0] != 0.0 && sums[1] != 0.0)
        c->step_size = h->lr * (sqrt(sums[0]) / sqrt(sums[1]));
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    LAMB_COEFFICIENTS(FASTOPT_IN_REAL)
} T(lamb_coefficients);

CONVERSION real T(lamb_update)(real p, real m, real v, T(lamb_coefficients) c)
{
    return c.correction * m / (real_sqrt(v) * c.root + c.eps) + c.decay * p;
}

LOOP T(lamb_measure_loop)(size_t n, const real *restrict p, const real *restrict g, real *restrict m, real *restrict v,
                          real *restrict u, T(lamb_coefficients) c)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i];
        const real mi = c.beta1 * m[i] + c.rest1 * gi;
        const real vi = c.beta2 * v[i] + c.rest2 * gi * gi;
        m[i] = mi;
        v[i] = vi;
        u[i] = T(lamb_update)(p[i], mi, vi, c);
    }
}

LOOP T(lamb_loop)(size_t n, real *restrict p, const real *restrict m, const real *restrict v, T(lamb_coefficients) c)
{
    for (size_t i = 0; i < n; i++)
        p[i] = p[i] - c.step_size * T(lamb_update)(p[i], m[i], v[i], c);
}

ENTRY T(lamb_measure)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const struct lamb_states *s = (const struct lamb_states *)state;

    (void)options;
    T(lamb_measure_loop)(n, p, g, s->exp_avg, s->exp_avg_sq, state[FASTOPT_MAX_STATES],
                         *(const T(lamb_coefficients) *)coefficients);
}

ENTRY T(lamb)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const struct lamb_states *s = (const struct lamb_states *)state;

    (void)g;
    (void)options;
    T(lamb_loop)(n, p, s->exp_avg, s->exp_avg_sq, *(const T(lamb_coefficients) *)coefficients);
}

#endif
