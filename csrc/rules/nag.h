/*
 * Nesterov's accelerated gradient,
 *     Nesterov. "A method for solving the convex programming problem with convergence rate O(1/k^2)."
 *     1983; as a momentum method: Sutskever et al., ICML 2013, eq. 3-4; Ruder, arXiv:1609.04747, eq. 5.
 *
 * The gradient is taken at the look-ahead point q = p - momentum*v, where weight decay acts too:
 *
 *     g = s*g + weight_decay*q
 *     v = momentum*v + lr*g
 *     p = p - v
 *
 * Under FASTOPT_AT_LOOKAHEAD the array holds the look-ahead point q instead of p. From q = p - momentum*v before and
 * after the step, with v' the new velocity:
 *
 *     q' = p' - momentum*v' = q + momentum*v - v' - momentum*v' = q - (momentum*v' + lr*g)
 */
#define NAG_COEFFICIENTS(X) X(scale) X(decay) X(momentum) X(lr)

#ifdef FASTOPT_COEFFICIENTS

struct nag_coefficients {
    NAG_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int nag_prepare(const struct nag_hypers *h, const struct nag_states *s, unsigned options,
                              struct nag_coefficients *c)
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
    NAG_COEFFICIENTS(FASTOPT_IN_REAL)
} T(nag_coefficients);

LOOP T(nag_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict v, T(nag_coefficients) c,
                 int at_lookahead)
{
    for (size_t i = 0; i < n; i++) {
        const real q = at_lookahead ? p[i] : p[i] - c.momentum * v[i];
        const real gi = c.scale * g[i] + c.decay * q;
        const real vi = c.momentum * v[i] + c.lr * gi;
        v[i] = vi;
        p[i] = p[i] - (at_lookahead ? c.momentum * vi + c.lr * gi : vi);
    }
}

ENTRY T(nag)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const T(nag_coefficients) c = *(const T(nag_coefficients) *)coefficients;
    const struct nag_states *s = (const struct nag_states *)state;

    if (options & FASTOPT_AT_LOOKAHEAD)
        T(nag_loop)(n, p, g, s->momentum_buffer, c, 1);
    else
        T(nag_loop)(n, p, g, s->momentum_buffer, c, 0);
}

#endif
