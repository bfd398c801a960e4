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
typedef struct {
    real scale, decay, momentum, lr;
} T(momentum_coefficients);

static int T(momentum_prepare)(const void *hyper, unsigned options, void *const *state,
                               void *coefficients)
{
    const struct hyper_momentum *h = hyper;
    T(momentum_coefficients) *c = coefficients;

    (void)state;
    c->scale = (real)fastopt_signed_scale(h->grad_scale, options);
    c->decay = (real)h->weight_decay;
    c->momentum = (real)h->momentum;
    c->lr = (real)h->lr;
    return FASTOPT_OK;
}

LOOP T(momentum_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict v,
                      T(momentum_coefficients) c)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        const real vi = c.momentum * v[i] + c.lr * gi;
        v[i] = vi;
        p[i] = p[i] - vi;
    }
}

ENTRY T(momentum)(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
                  unsigned options)
{
    (void)options;
    T(momentum_loop)(n, p, g, state[0], *(const T(momentum_coefficients) *)coefficients);
}
